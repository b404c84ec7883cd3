/*
 * ws_frame.h - frames of the WebSocket protocol (RFC 6455 5), read piece by
 * piece and written. Knows no connection and holds no payload.
 */
#ifndef KARS_HTTP_WS_FRAME_H
#define KARS_HTTP_WS_FRAME_H

#include "base/err.h"

enum {
    KARS__WS_CONTINUATION = 0,
    KARS__WS_TEXT = 1,
    KARS__WS_BINARY = 2,
    KARS__WS_CLOSE = 8,
    KARS__WS_PING = 9,
    KARS__WS_PONG = 10
};

/* Status codes of a close (RFC 6455 7.4.1). */
enum {
    KARS__WS_NORMAL = 1000,
    KARS__WS_GOING_AWAY = 1001,
    KARS__WS_POLICY = 1008,
    KARS__WS_PROTOCOL = 1002,
    KARS__WS_NOT_TEXT = 1007,
    KARS__WS_TOO_BIG = 1009,
    KARS__WS_INTERNAL = 1011
};

#define KARS__WS_HEAD_MAX    14u  /* bytes of a frame's head */
#define KARS__WS_CONTROL_MAX 125u /* bytes of a control frame's payload */

/* How far into a UTF-8 character the text has come. Zeroed to begin. */
typedef struct {
    uint8_t need; /* bytes that must follow */
    uint8_t low;  /* bounds of the next one */
    uint8_t high;
} kars__utf8_t;

/* KARS_ERROR: these bytes do not go on a well-formed text (RFC 3629). */
int kars__utf8_feed(kars__utf8_t *u, const char *p, size_t n);

/* A reader. Zeroed to begin, but for the limits. */
typedef struct {
    uint64_t max_frame; /* bytes of a data frame's payload */
    uint64_t max_message;
    uint32_t masked; /* 1: frames must be (a client's); 0: must not */

    uint64_t left;    /* of the frame's payload */
    uint64_t message; /* bytes of the message so far */
    uint8_t head[KARS__WS_HEAD_MAX];
    uint8_t nhead;
    uint8_t in_frame; /* its head is read */
    uint8_t begins;   /* and none of its payload */
    uint8_t opcode;   /* of the frame */
    uint8_t fin;
    uint8_t kind; /* TEXT or BINARY of the open message; 0: none */
    uint8_t mask_at;
    uint8_t mask[4];
    kars__utf8_t utf8;
} kars__wsf_t;

/* A part of one frame. */
typedef struct {
    char *data;
    size_t len;
    uint32_t opcode; /* of the message, or of the control frame */
    uint8_t begins;  /* first part of its frame */
    uint8_t ends;    /* last part of its frame */
    uint8_t first;   /* the frame is the first of its message */
    uint8_t last;    /* the frame is the last of its message */
} kars__wsf_part_t;

/*
 * Takes bytes from [*p, end), which are unmasked where they stand, and moves
 * *p. OK: *ret is a part (maybe empty); AGAIN: more is needed; ERROR: *ret_code
 * is what the connection is to be closed with.
 */
int kars__wsf_next(kars__wsf_t *f, char **p, char *end, kars__wsf_part_t *ret,
                   uint32_t *ret_code);

/* The payload of a close frame: its code (1005: it had none), or ERROR and the
 * code to close with. */
int kars__wsf_close(const char *p, size_t n, uint32_t *ret_code);

/* The head of a whole message in one frame; mask NULL: a server's. Returns its
 * length. */
size_t kars__wsf_put(char ret[KARS__WS_HEAD_MAX], uint32_t opcode, uint64_t len,
                     const uint8_t *mask);

/* n bytes of payload masked, or unmasked, where they stand. at: of them, how
 * many came before. */
void kars__wsf_mask(char *p, size_t n, const uint8_t mask[4], size_t at);

#endif
