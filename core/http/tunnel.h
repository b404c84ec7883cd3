/*
 * tunnel.h - a socket joined to an upstream: the connection to it, then the
 * relay. Its owner is a request (CONNECT) or a stream.
 */
#ifndef KARS_HTTP_TUNNEL_H
#define KARS_HTTP_TUNNEL_H

#include "http/dial.h"
#include "net/relay.h"

typedef struct kars__tunnel_s kars__tunnel_t;
struct kars__tunnel_s {
    kars_cycle_t *cycle;
    kars_upstream_t *to; /* counted */
    kars__dial_t *dial;
    kars__relay_t relay;
    uint8_t joined;
    void (*stands)(kars__tunnel_t *t, int error); /* once; 0 or the errno */
    void (*done)(kars__tunnel_t *t, int error);   /* once, after join() */
};

/* Where it shall go, from zeroed memory; kars__tunnel_stop() is owed now. */
void kars__tunnel_to(kars__tunnel_t *t, kars_cycle_t *cycle,
                     kars_upstream_t *to);
/* Connects; stands and done are set already. KARS_ERROR: no memory. */
int kars__tunnel_dial(kars__tunnel_t *t);
/* Joins; first: what sock said already. idle_ms 0: the upstream's own times. */
int kars__tunnel_join(kars__tunnel_t *t, kars__sock_t *sock, kars_str_t first,
                      uint64_t idle_ms);
void kars__tunnel_run(kars__tunnel_t *t); /* sock is ready */
/* Ends it without a word; sock stays the owner's. Harmless if it never was. */
void kars__tunnel_stop(kars__tunnel_t *t);

#endif
