/*
 * http1_conn.h - a client's connection, for the files that make up http1.
 *
 * It holds no pool and no block while it is idle. All that happens to its
 * request happens from the loop: functions that the request calls only queue
 * bytes and work, so that it is never freed under its own feet.
 */
#ifndef KARS_HTTP_HTTP1_CONN_H
#define KARS_HTTP_HTTP1_CONN_H

#include "http/http1.h"

enum {
    KARS__CONN_IDLE = 0, /* between requests: no byte of the next one yet */
    KARS__CONN_HEAD,     /* some of a head has come */
    KARS__CONN_BUSY,     /* a request is being served */
    KARS__CONN_LINGER    /* answered for good: what still comes is dropped */
};

struct kars_conn_s {
    kars__sock_t sock; /* first */
    kars_conn_t *prev;
    kars_conn_t *next; /* of the cycle */
    kars_cycle_t *cycle;
    kars_listener_t *listener;
    kars__timer_t timer;
    kars__work_t flush; /* output, or what to do after it */
    kars_req_t *r;

    kars__block_t *rd;
    uint32_t rd_at;
    uint32_t rd_end;
    uint32_t scanned; /* bytes of an incomplete head already looked at */

    kars_buf_t *out;
    kars_buf_t *out_last;
    size_t out_len;
    kars__bufs_t bufs; /* of bytes that belong to no request */

    kars__chunked_t chunked; /* the request's body */
    uint64_t body_left;
    uint64_t drained;

    uint8_t state;
    uint8_t body_whole;
    uint8_t want_body;
    uint8_t chunk_out;
    uint8_t keep;   /* after this answer */
    uint8_t ended;  /* the answer's last byte is queued */
    uint8_t broken; /* close at the next flush */
    uint8_t in_input;
    uint8_t eof; /* the client sends no more, but may still read */

    uint32_t family;
    uint32_t uid;
    uint32_t pid;
    uint16_t port;
    uint16_t local_port;
    uint8_t addr[16];
    uint8_t local_addr[16];
    _Alignas(16) char ctx[]; /* of modules */
};

extern const kars__proto_t kars__http1_proto;

void kars__http1_input(kars_conn_t *c); /* what was read: heads and bodies */
void kars__http1_queue_flush(kars_conn_t *c);
void kars__http1_flushed(kars__work_t *work);
void kars__http1_close(kars_conn_t *c);
void kars__http1_want(kars_conn_t *c);
void kars__http1_timer(kars_conn_t *c, uint64_t ms);

#endif
