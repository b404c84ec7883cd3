/*
 * stream.h - bytes of a module's own protocol: on a connection that came in at
 * a listener of the module, on one that it opened, or as datagrams.
 *
 * An accepted stream is a kars_conn_t whose operations are the stream's, so
 * that modules' contexts, peers and draining are the same for all. What the
 * module's functions ask for happens from the loop: a stream is never freed
 * under the feet of one of its handlers.
 */
#ifndef KARS_HTTP_STREAM_H
#define KARS_HTTP_STREAM_H

#include "http/conn.h"
#include "http/tunnel.h"

/* A module's answer to `listen … module=NAME`. */
struct kars__port_s {
    kars__mod_t *mod;
    kars_stream_handler_t handler;
    void *data;
};

struct kars_stream_s {
    kars_stream_t *prev;
    kars_stream_t *next; /* of the cycle: those that were opened */
    kars_cycle_t *cycle;
    kars_conn_t *conn;    /* accepted; NULL: opened, or datagrams */
    kars__dial_t *dial;   /* opened */
    kars_listener_t *udp; /* datagrams */
    kars__sock_t *sock;   /* of conn or dial; NULL until it stands */
    kars__mod_t *mod;
    kars_stream_handler_t handler;
    void *data;
    kars_pool_t *pool;

    kars__block_t *rd; /* what the module has not taken */
    uint32_t rd_at;
    uint32_t rd_end;
    kars_buf_t *out; /* what the peer has not taken */
    kars_buf_t *out_last;
    size_t out_len;
    kars__bufs_t bufs;
    uint64_t bytes_in;
    uint64_t bytes_out;

    uint64_t idle_ms;
    kars__timer_t idle;
    kars__work_t later;  /* what the module asked for */
    kars__work_t decide; /* stream_decide() */

    kars_req_t *r; /* of stream_decide() */
    int (*decided)(kars_stream_t *s, const kars_verdict_t *verdict, void *data);
    kars__tunnel_t tunnel; /* stream_tunnel() */
    kars_listener_t *http; /* stream_http() */

    int error; /* what closed() will say */
    uint8_t failed;
    uint8_t closing;    /* when what was written is out */
    uint8_t refused;    /* by accept(): closed() is not owed */
    uint8_t delivering; /* readable() is on the stack */
    uint8_t fresh;      /* there is what readable() has not seen */
    uint8_t wants_room; /* room() is owed */
    uint8_t eof;        /* the peer says no more */
    uint8_t told_eof;
    uint8_t timed;    /* by stream_timeout() */
    uint8_t deciding; /* fn of stream_decide() is owed */
    uint8_t verdict;  /* and this is what it will hear */
    uint8_t allowed;  /* it was ALLOW */
};

/* listen(): gives the module that runs now the listeners that the
 * configuration names it for. */
int kars__stream_listen(kars_cycle_t *cycle, kars_str_t address,
                        uint32_t datagram, const kars_stream_handler_t *handler,
                        void *data, kars_err_t *err);
/* Every such listener must have been taken. Text for the one that was not. */
int kars__stream_check_ports(const kars_cycle_t *cycle, kars_err_t *err);

/* A connection that came in at a module's listener; it may be gone after. */
void kars__stream_accepted(kars_conn_t *c);

int kars__stream_take(kars_stream_t *s, size_t n);
int kars__stream_write(kars_stream_t *s, kars_str_t bytes);
int kars__stream_reply(kars_stream_t *s, const kars_peer_t *to,
                       kars_str_t bytes);
int kars__stream_tunnel(kars_stream_t *s, kars_upstream_t *to);
kars_req_t *kars__stream_req(kars_stream_t *s);
void kars__stream_close(kars_stream_t *s, int error);
void kars__stream_data_set(kars_stream_t *s, void *data);
kars_pool_t *kars__stream_pool(kars_stream_t *s);
void kars__stream_timeout(kars_stream_t *s, uint32_t idle_ms);
int kars__stream_decide(kars_stream_t *s, kars_str_t method, kars_str_t path,
                        int (*fn)(kars_stream_t *s,
                                  const kars_verdict_t *verdict, void *data));
int kars__stream_http(kars_stream_t *s, kars_str_t listener);
kars_stream_t *kars__stream_open(kars_cycle_t *cycle, kars_upstream_t *to,
                                 const kars_stream_handler_t *handler,
                                 void *data);

/* Datagrams: stream_udp.c. */
void kars__udp_listen(kars_listener_t *l);

/* For the files that make up streams. From the loop: */
void kars__stream_init(kars_stream_t *s, kars_cycle_t *cycle, kars__mod_t *mod,
                       const kars_stream_handler_t *handler, void *data);
void kars__stream_ready(kars_stream_t *s, uint32_t events);
void kars__stream_decide_run(kars__work_t *work);
void kars__stream_tell_verdict(kars_stream_t *s);
void kars__stream_req_end(kars_stream_t *s); /* LOG; harmless without one */
void kars__stream_tunnel_begin(kars_stream_t *s);
void kars__stream_handover(kars_stream_t *s); /* to HTTP; s is gone */
void kars__stream_forget(kars_stream_t *s);   /* its memory, without closed() */
/* From anywhere: what is due happens soon; the stream ends then. */
void kars__stream_later(kars_stream_t *s);
void kars__stream_fail(kars_stream_t *s, int error);

/* Calls into the module. Whatever they ask for happens later, so that the
 * stream is still there when they return. */
#define KARS__STREAM_CALL(s, stmt)         \
    do {                                   \
        kars__mod_t *was_ = kars__mod_now; \
        kars__mod_now = (s)->mod;          \
        stmt;                              \
        kars__mod_now = was_;              \
    } while (0)

/* Closes those that were opened; for the end of a cycle. */
void kars__streams_end(kars_cycle_t *cycle);

#endif
