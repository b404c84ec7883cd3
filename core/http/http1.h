/*
 * http1.h - HTTP/1.1 towards clients: one request after the other on a
 * connection, keep-alive, framing (RFC 9112).
 */
#ifndef KARS_HTTP_HTTP1_H
#define KARS_HTTP_HTTP1_H

#include "http/request.h"

typedef struct kars__conn_ops_s kars__conn_ops_t; /* conn.h */

enum {
    KARS__HTTP1_IDLE = 0, /* between requests: no byte of the next one yet */
    KARS__HTTP1_HEAD,     /* some of a head has come */
    KARS__HTTP1_BUSY,     /* a request is being served */
    KARS__HTTP1_LINGER    /* answered for good: what still comes is dropped */
};

/* The state of the protocol, a part of its connection. Zeroed to begin. */
typedef struct {
    kars_req_t *r;

    kars__block_t *rd;
    uint32_t rd_at;
    uint32_t rd_end;
    uint32_t scanned; /* bytes of an incomplete head already looked at */

    uint8_t state;
    uint8_t body_whole;
    uint8_t want_body;
    uint8_t chunk_out;
    uint8_t keep;   /* after this answer */
    uint8_t ended;  /* the answer's last byte is queued */
    uint8_t broken; /* close at the next flush */
    uint8_t in_input;
    uint8_t begun; /* a request has begun: it stays HTTP/1 */
    uint8_t eof;   /* the client sends no more, but may still read */

    kars_buf_t *out;
    kars_buf_t *out_last;
    size_t out_len;
    kars__bufs_t bufs; /* of bytes that belong to no request */

    kars__chunked_t chunked; /* the request's body */
    uint64_t body_left;
    uint64_t drained;
} kars__http1_t;

extern const kars__conn_ops_t kars__http1_ops;

/* For the files that make up http1. */
extern const kars__proto_t kars__http1_proto;
void kars__http1_input(kars_conn_t *c); /* what was read: heads and bodies */
void kars__http1_refuse_tls(kars_conn_t *c); /* its handshake failed */
void kars__http1_flushed(kars_conn_t *c);
/* Nothing but the beginning of HTTP/2's preface was read yet. */
int kars__http1_may_be_http2(const kars_conn_t *c);
void kars__http1_want(kars_conn_t *c);

#endif
