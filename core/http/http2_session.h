/*
 * http2_session.h - the state of an HTTP/2 connection, for the files that make
 * up http2.
 *
 * Requests call us while nghttp2 runs and while it does not, so what they ask
 * for is noted at their stream and done in the connection's flush: a stream
 * ends there and nowhere else, and so does its request.
 */
#ifndef KARS_HTTP_HTTP2_SESSION_H
#define KARS_HTTP_HTTP2_SESSION_H

#include "http/http2.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>

#define KARS__HTTP2_OUT       (64u * 1024u) /* bytes of frames made ahead */
#define KARS__HTTP2_LINGER_MS 2000u         /* for what nobody wants any more */

typedef struct kars__http2_stream_s kars__http2_stream_t;
typedef struct kars__http2_s kars__http2_t;

/* What a stream's timer, or the connection's, waits for. */
enum {
    KARS__HTTP2_WAIT_NONE = 0,
    KARS__HTTP2_WAIT_HEAD, /* the rest of a header block */
    KARS__HTTP2_WAIT_BODY,
    KARS__HTTP2_WAIT_SEND, /* the client, to take what there is */
    KARS__HTTP2_WAIT_REST, /* of a body, though its answer is out */
    KARS__HTTP2_WAIT_IDLE
};

/* What is counted in a span of time, and bounded: core->http2_limit[]. */
enum {
    KARS__HTTP2_RESETS = 0, /* streams reset before they were answered */
    KARS__HTTP2_PINGS,
    KARS__HTTP2_SETTINGS,
    KARS__HTTP2_EMPTY, /* DATA without a byte that end nothing */
    KARS__HTTP2_UPDATES,
    KARS__HTTP2_OTHER, /* PRIORITY and frames that mean nothing here */
    KARS__HTTP2_COUNTS
};

/* A header block as it comes in; exists between its first and last frame. */
typedef struct {
    size_t n;    /* fields, from 1: the first place is for Host */
    size_t len;  /* bytes of text */
    size_t list; /* the size of the list by RFC 9113 6.5.2 */
    size_t limit;
    int many; /* more fields than there is room for */
    kars_str_t method;
    kars_str_t scheme;
    kars_str_t authority;
    kars_str_t path;
    kars_header_t fields[KARS__HEADERS_MAX + 1];
    char text[]; /* limit bytes */
} kars__http2_block_t;

/* One stream, or (id 0) a record of what was wrong with the connection. */
struct kars__http2_stream_s {
    kars__http2_stream_t *prev;
    kars__http2_stream_t *next; /* of the connection */
    kars__http2_stream_t *todo_next;
    kars__http2_stream_t *sent_next;
    kars__http2_t *h;
    kars_req_t *r; /* NULL before its head is complete, and after its end */
    int32_t id;
    uint32_t error; /* with which it was closed */

    /* to do at the next flush */
    uint8_t todo;   /* stands in the list */
    uint8_t broken; /* reset it */
    uint8_t closed; /* nghttp2 knows it no more */
    uint8_t sent;   /* stands in the list of those that want to send */

    uint8_t begun; /* its head was complete */
    uint8_t reset; /* by the client */

    /* the request's body */
    uint8_t want;
    uint8_t whole;      /* all of it has come */
    uint8_t remote_end; /* the client said that it sends no more */
    uint8_t told;       /* the request knows that it is whole */
    uint8_t drop;       /* nobody wants the rest */

    /* the answer */
    uint8_t last;     /* its last byte is in out */
    uint8_t deferred; /* nghttp2 waits for more of it */
    uint8_t ended;    /* its last frame was made */
    uint8_t moved;    /* some of it went since the timer was set */

    uint8_t wait; /* what the timer is for */
    kars__timer_t timer;

    kars__bufs_t bufs;
    kars_buf_t *in; /* body bytes that came before they were wanted */
    kars_buf_t *in_last;
    size_t in_room; /* bytes left in the block of in_last */
    size_t in_len;  /* these count against body_memory */
    kars_buf_t *out;
    kars_buf_t *out_last;
    size_t out_len;
};

struct kars__http2_s {
    kars_conn_t *c;
    nghttp2_session *session;
    kars__http2_stream_t *streams;
    size_t nstreams; /* of the client's */
    kars__http2_stream_t *todo;
    kars__http2_stream_t *sent;
    kars__http2_stream_t *opening; /* its header block is not complete */
    kars__http2_block_t *block;
    kars__block_t *rd; /* whose bytes nghttp2 reads now */

    kars_buf_t *out; /* whole frames */
    kars_buf_t *out_last;
    size_t out_room; /* bytes left in the block of out_last */
    size_t out_len;
    kars__bufs_t bufs;

    uint64_t since_ms; /* of the counts */
    uint32_t counts[KARS__HTTP2_COUNTS];
    uint32_t data_frames;   /* sent in that time */
    uint32_t continuations; /* of the present header block */
    int32_t last_id;        /* of the client's streams */
    int32_t ignored;        /* frames that nghttp2 does not tell of */
    uint32_t walk_left;     /* bytes to the next frame */
    uint8_t walk_head[9];
    uint8_t walk_nhead;
    const char *limit; /* which one was passed: the connection must end */
    char why[120];     /* what nghttp2 last found wrong */

    uint64_t drained; /* bytes that came after its end */
    uint8_t wait;     /* what the connection's timer is for */
    uint8_t moved;
    uint8_t failed;  /* by our judgement: nghttp2 is not asked any more */
    uint8_t refused; /* by nghttp2's, which says so itself */
    uint8_t draining;
    uint8_t last_call; /* the final GOAWAY is on its way */
    uint8_t lingers;
};

extern const kars__conn_ops_t kars__http2_ops;
extern const kars__proto_t kars__http2_proto;

/* http2.c: a PING of ours came back. */
void kars__http2_pong(kars__http2_t *h, const uint8_t *data);

/* http2_session.c */
int kars__http2_session(kars__http2_t *h);
/* One more of what is counted. ERROR: that was one too many. */
int kars__http2_count(kars__http2_t *h, uint32_t what);
/* Bytes that came: OK, or ERROR, and h->limit or h->why says why. */
int kars__http2_feed(kars__http2_t *h, kars__block_t *b, const char *p,
                     size_t n);

/* http2_stream.c: in */
kars__http2_stream_t *kars__http2_stream(kars__http2_t *h, int32_t id);
void kars__http2_stream_free(kars__http2_stream_t *st);
/* A field of its header block. ERROR: that is an attack. */
int kars__http2_field(kars__http2_stream_t *st, kars_str_t name,
                      kars_str_t value);
/* The header block is complete: the request begins, or is refused. */
void kars__http2_request(kars__http2_stream_t *st);
int kars__http2_data(kars__http2_stream_t *st, const char *p, size_t n);
void kars__http2_data_end(kars__http2_stream_t *st);
/* The one record of what was wrong with a connection or a head. */
void kars__http2_record(kars__http2_t *h, const char *why);
/* What is noted in the list of things to do. */
void kars__http2_todo(kars__http2_stream_t *st);
void kars__http2_work(kars__http2_t *h);
void kars__http2_wait(kars__http2_stream_t *st, uint8_t what);
void kars__http2_read_body(kars_req_t *r, int on);
void kars__http2_abort(kars_req_t *r);
/* Its request is over: answered, or its client is gone. */
void kars__http2_end(kars__http2_stream_t *st);

/* http2_out.c: out */
void kars__http2_callbacks_out(nghttp2_session_callbacks *cb);
void kars__http2_goaway(kars__http2_t *h, uint32_t code); /* by hand */
/* Makes frames and writes them. ERROR: the connection is broken. */
int kars__http2_send(kars__http2_t *h);
void kars__http2_sent(kars__http2_t *h); /* what follows from that */

#endif
