/*
 * ws.h - WebSockets of modules (RFC 6455), both sides. One that came in is a
 * request whose connection was taken over; one that goes out has a connection
 * of its own. No extension is ever agreed on.
 */
#ifndef KARS_HTTP_WS_H
#define KARS_HTTP_WS_H

#include "http/conn.h"
#include "http/dial.h"
#include "http/ws_frame.h"

#define KARS__WS_KEY 24u /* characters of Sec-WebSocket-Key */

struct kars_ws_s {
    kars_ws_t *prev;
    kars_ws_t *next; /* of the cycle: those that go out */
    kars_cycle_t *cycle;
    kars_req_t *r;      /* came in; NULL: goes out */
    kars__dial_t *dial; /* goes out */
    kars__sock_t *sock; /* NULL until it stands */
    kars__mod_t *mod;
    kars_ws_handler_t handler;
    void *data;

    kars__wsf_t in;
    kars__block_t *rd;
    uint32_t rd_at;
    uint32_t rd_end;
    char *frame; /* of several parts */
    size_t frame_len;
    size_t frame_cap;
    char control[KARS__WS_CONTROL_MAX];
    uint32_t control_len;

    kars_buf_t *out;
    kars_buf_t *out_last;
    size_t out_len;
    kars__bufs_t bufs;
    uint64_t bytes_in;
    uint64_t bytes_out;

    kars__timer_t timer; /* silence, a pong, the end of a close, a handshake */
    kars__work_t later;

    kars_pool_t *pool; /* of the handshake that goes out, with these */
    kars_str_t path;
    kars_str_t name;    /* of its upstream */
    kars_str_t fields;  /* of the request's head */
    kars_str_t offered; /* protocols */
    char key[KARS__WS_KEY];

    uint32_t dropped; /* bytes, since it failed */
    int error;
    uint8_t open;      /* frames may come */
    uint8_t owes_open; /* open() was not called yet */
    uint8_t pinged;    /* a pong is owed */
    uint8_t paused;
    uint8_t wants_room; /* room() is owed */
    uint8_t sent_close;
    uint8_t got_close;
    uint8_t failed; /* what still comes is dropped */
    uint8_t shut;   /* and the peer was told that nothing follows */
    uint8_t over;   /* closed() was called */
};

/* As kars_api_s says. */
kars_ws_t *kars__ws_accept(kars_req_t *r, const kars_ws_handler_t *handler,
                           void *data);
kars_ws_t *kars__ws_connect(kars_cycle_t *cycle, const kars_call_t *call,
                            const kars_ws_handler_t *handler, void *data);
int kars__ws_write(kars_ws_t *ws, uint32_t opcode, kars_str_t payload);
void kars__ws_close(kars_ws_t *ws, uint32_t code, kars_str_t reason);
void kars__ws_pause(kars_ws_t *ws, int on);

/* Closes those that go out; for the end of a cycle. */
void kars__ws_end_all(kars_cycle_t *cycle);

/* For the files that make up WebSockets. */
kars_ws_t *kars__ws_make(kars_cycle_t *cycle, const kars_ws_handler_t *handler,
                         void *data);
void kars__ws_free(kars_ws_t *ws);
void kars__ws_forget_handshake(kars_ws_t *ws);
void kars__ws_begin(kars_ws_t *ws, kars__sock_t *sock); /* frames from now on */
void kars__ws_ready(kars_ws_t *ws, uint32_t events);
void kars__ws_finish(kars_ws_t *ws, int error);      /* from the loop */
void kars__ws_tell_closed(kars_ws_t *ws, int error); /* once */
/* The connection goes now: a last word, if there is room for it. */
void kars__ws_leave(kars_ws_t *ws);
/* Sec-WebSocket-Accept for a key, 28 characters (RFC 6455 4.2.2). */
void kars__ws_answer(const char key[KARS__WS_KEY], char ret[28]);

#endif
