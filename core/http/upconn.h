/*
 * upconn.h - connections to the servers of an upstream: new ones are made,
 * name, connection and handshake, and idle ones are kept for the next exchange.
 */
#ifndef KARS_HTTP_UPCONN_H
#define KARS_HTTP_UPCONN_H

#include "http/upstream.h"
#include "net/sock.h"

typedef struct kars__updial_s kars__updial_t;

/* Owned by a dial while it is made, then by its user, then maybe by its
 * server's idle list. */
struct kars__upconn_s {
    kars__sock_t sock;   /* first */
    kars__timer_t timer; /* of the exchange, or of being idle */
    kars_cycle_t *cycle;
    kars_upstream_t *upstream;
    kars__upserver_t *server;
    kars__addr_t addr;    /* of the server, where it leads */
    kars__updial_t *dial; /* that makes it */
    void *user;           /* an exchange, or who dialed */
    kars__upconn_t *prev;
    kars__upconn_t *next; /* of the idle list, or of its dial's */
    kars__block_t *rd;    /* what was read */
    uint32_t rd_at;       /* first byte not yet used */
    uint32_t rd_end;      /* end of what was read */
    uint32_t scanned;
    uint64_t idle_at_ms;        /* when it went into the idle list */
    uint8_t key[KARS__TLS_KEY]; /* kars__upstream_key() when it began */
};

/* c stands, and is the callee's who sets sock.ready; or it is NULL and error
 * is ECONNREFUSED, EHOSTUNREACH, ENOENT (name), ETIMEDOUT, EKEYREJECTED, ...;
 * why: what TLS found wrong, static, or NULL. */
typedef void (*kars__updial_pt)(kars__upconn_t *c, int error, const char *why,
                                void *data);

/*
 * Makes a connection to s within the upstream's time-out, the name and the
 * handshake included. Its addresses are tried in their order, the next when the
 * last has failed or 250 ms have gone by; the first connection that stands is
 * taken (RFC 8305). fn runs exactly once unless it is cancelled before, maybe
 * before this returns; *at is the dial until then, NULL afterwards. It holds a
 * reference to the upstream.
 */
void kars__updial(kars__updial_t **at, kars_cycle_t *cycle, kars_upstream_t *u,
                  kars__upserver_t *s, const uint8_t key[KARS__TLS_KEY],
                  kars__updial_pt fn, void *data);
void kars__updial_cancel(kars__updial_t *d); /* NULL: nothing to do */

/* A kept connection of that key on which the server has not spoken; NULL. */
kars__upconn_t *kars__idle_take(kars__upserver_t *s,
                                const uint8_t key[KARS__TLS_KEY]);
/* Closes the oldest until no more than n are kept. */
void kars__idle_trim(kars__upserver_t *s, uint64_t n);
/* Keeps it, or closes it where there are enough. */
void kars__idle_put(kars__upconn_t *c);

void kars__upconn_close(kars__upconn_t *c); /* of no list; frees it */

/* Closes idle connections; for the end of a cycle. */
void kars__upstream_close(kars_upstream_t *u);

#endif
