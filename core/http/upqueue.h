/*
 * upqueue.h - how many exchanges a server is given at once by one worker, and
 * who waits for a turn: first come, first served, no more than `queue` says and
 * no longer. Whoever has a turn gives it back.
 */
#ifndef KARS_HTTP_UPQUEUE_H
#define KARS_HTTP_UPQUEUE_H

#include "http/upstream.h"

/* Embedded in its owner; zeroed: it has none and waits for none. */
struct kars__upturn_s {
    kars__upturn_t *prev; /* of its server's queue */
    kars__upturn_t *next;
    kars_cycle_t *cycle;
    kars_upstream_t *upstream;
    kars__upserver_t *server;
    kars__timer_t timer;
    kars__work_t work;
    /* error 0: it has its turn; EBUSY: it gets none, and why says it. */
    void (*fn)(kars__upturn_t *t, int error, const char *why);
    uint32_t state;
};

/* fn runs once, maybe before this returns, unless it is given back before. The
 * owner keeps the upstream. */
void kars__upturn_take(kars__upturn_t *t, kars_cycle_t *cycle,
                       kars_upstream_t *u, kars__upserver_t *s,
                       void (*fn)(kars__upturn_t *t, int error,
                                  const char *why));

/* Ends the turn or the wait for it; twice is once. */
void kars__upturn_give(kars__upturn_t *t);

int kars__upturn_has(const kars__upturn_t *t);

#endif
