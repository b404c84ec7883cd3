/*
 * client.h - one HTTP/1.1 request to a server and its reply, on a pooled
 * connection. It knows nothing of the requests that the router serves: the
 * pass to an upstream, modules' calls, and later the controller and the CLI
 * all use it.
 */
#ifndef KARS_HTTP_CLIENT_H
#define KARS_HTTP_CLIENT_H

#include "http/head.h"
#include "http/upstream.h"

typedef struct kars__xch_s kars__xch_t;

/* How far a request came that failed. STALE: a kept connection that the server
 * had closed; it answers what arrives then with a reset, unread. */
enum { KARS__REACHED_NOT = 0, KARS__REACHED_STALE, KARS__REACHED };

/*
 * What becomes of it. head once, then body pieces, the last with KARS_LAST
 * (maybe empty); or fail once, at any point before that. After LAST or fail
 * the exchange is gone; kars__xch_cancel() may be called from inside any of
 * them. The buffers are the owner's from then on.
 */
typedef struct {
    void (*head)(kars__xch_t *x, const kars__head_t *head, void *data);
    void (*body)(kars__xch_t *x, kars_buf_t *in, uint32_t flags, void *data);
    /* ECONNREFUSED, EHOSTUNREACH, ENOENT (name), ETIMEDOUT, ECONNRESET,
     * EPROTO, EKEYREJECTED (TLS: not who it should be), EBUSY (no turn at the
     * server: `queue`); reached: KARS__REACHED_* */
    void (*fail)(kars__xch_t *x, int error, int reached, void *data);
    void (*room)(kars__xch_t *x, void *data); /* more may be written */
} kars__xch_handler_t;

typedef struct {
    kars_upstream_t *upstream;
    kars__upserver_t *server;
    kars__bufs_t *bufs; /* owner of the reply's buffers, and of out */
    kars_pool_t *pool;  /* the reply's head is kept here */
    const kars__xch_handler_t *handler;
    void *data;
    kars_buf_t *out; /* head, and the body as far as it is known */
    uint8_t last;    /* that is all of it */
    uint8_t is_head; /* the method is HEAD: no body comes */
    uint8_t fresh;   /* on a new connection, not on a kept one */
    /* Milliseconds, in place of the upstream's own; 0: those. */
    uint64_t total_ms;
    uint64_t idle_ms; /* between two bytes, the first of the reply too */
    kars_str_t scope; /* kept connections are reused within it only */
} kars__xch_conf_t;

/* NULL: no memory, and conf->out is freed. Everything else is told through the
 * handler, later. The exchange holds a reference to the upstream. */
kars__xch_t *kars__xch_start(kars_cycle_t *cycle, const kars__xch_conf_t *conf);

/* More of the request's body. */
void kars__xch_write(kars__xch_t *x, kars_buf_t *out, int last);
size_t kars__xch_unsent(const kars__xch_t *x);

/* Stops and starts reading the reply. */
void kars__xch_pause(kars__xch_t *x, int on);

/* For fail(): what TLS found wrong, or why there was no turn, in a few words;
 * NULL: it is neither. */
const char *kars__xch_why(const kars__xch_t *x);

/* Ends it without a word; its connection is closed. */
void kars__xch_cancel(kars__xch_t *x);

#endif
