/*
 * h2client.h - a client of HTTP/2 for the loop in memory: nghttp2's other side,
 * on a connection of the loop.
 *
 *     h2_t *h = h2_open(t);
 *     int32_t id = h2_get(h, "/");
 *
 *     CU_ASSERT_EQUAL(h2_stream(h, id)->status, 200);
 *     h2_close(h);
 *
 * Whatever is asked for is sent and answered when the call returns, as far as
 * the loop gets at this instant.
 */
#ifndef KARS_T_H2CLIENT_H
#define KARS_T_H2CLIENT_H

#include "loop.h"

#include <nghttp2/nghttp2.h>

#define H2_STREAMS 256

typedef struct {
    int32_t id;
    int status; /* of the last head */
    int heads;
    int ended; /* well */
    int closed;
    uint32_t error;
    t_bytes_t body;
} h2_stream_t;

typedef struct {
    t_loop_t *t;
    t_end_t *end;
    nghttp2_session *session;
    size_t taken; /* of what the router sent */
    int goaways;
    int32_t last_id; /* of the last GOAWAY */
    uint32_t error;  /* likewise */
    int broken;      /* the router sent what is no HTTP/2 */
    h2_stream_t streams[H2_STREAMS];
    size_t nstreams;
} h2_t;

/* With the preface, and settings that the router answered. window: what each
 * stream takes before h2_take(); 0: any. */
h2_t *h2_open_window(t_loop_t *t, uint32_t window);
h2_t *h2_open(t_loop_t *t);
void h2_close(h2_t *h); /* the client leaves, and all is freed */

/* Moves what there is both ways. */
void h2_run(h2_t *h);
/* The same, without an answer from the client: it takes nothing in. */
void h2_push(h2_t *h);

/* Streams. more: fields "name: value", NULL at the end. body NULL: none, and
 * the request ends with its head; else h2_data() brings the body. */
int32_t h2_begin(h2_t *h, const char *method, const char *path,
                 const char *const *more, int end);
int32_t h2_get(h2_t *h, const char *path);
void h2_data(h2_t *h, int32_t id, const char *p, size_t n, int end);
int32_t h2_post(h2_t *h, const char *path, const char *body);
void h2_cancel(h2_t *h, int32_t id);
void h2_take(h2_t *h, int32_t id, int32_t n); /* opens its window */
h2_stream_t *h2_stream(h2_t *h, int32_t id);

/* A frame by hand. */
void h2_raw(h2_t *h, uint8_t type, uint8_t flags, int32_t id, const char *p,
            size_t n);

#endif
