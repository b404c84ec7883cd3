/*
 * tls_ticket.h - the keys of session tickets (RFC 5077, RFC 8446 4.6.1): in the
 * zone, so that any worker goes on with a session of any other, also of the
 * configuration before. A new key is made when the newest is as old as a
 * session may be; two older ones still open what they closed.
 */
#ifndef KARS_NET_TLS_TICKET_H
#define KARS_NET_TLS_TICKET_H

#include "base/pool.h"
#include "base/shm.h"

#define KARS__TICKET_NAME 16

typedef struct {
    uint64_t made_ms; /* Unix time; 0: no key */
    unsigned char name[KARS__TICKET_NAME];
    unsigned char aes[32];
    unsigned char hmac[32];
} kars__ticket_key_t;

typedef struct kars__tickets_s kars__tickets_t;

/* zone NULL: keys of this process alone (tests, -t). NULL and *err on failure.
 */
kars__tickets_t *kars__tickets_create(kars_pool_t *pool, kars_zone_t *zone,
                                      kars_err_t *err);

/* The key to close a ticket with; another from period_ms on. A copy, which the
 * caller wipes. KARS_ERROR: no random bytes. */
int kars__tickets_newest(kars__tickets_t *t, uint64_t now_ms,
                         uint64_t period_ms, kars__ticket_key_t *ret);

/* The key of that name. OK; DONE: it is good, but give a new ticket; ERROR:
 * nobody's, or too old. */
int kars__tickets_find(kars__tickets_t *t,
                       const unsigned char name[KARS__TICKET_NAME],
                       uint64_t now_ms, uint64_t period_ms,
                       kars__ticket_key_t *ret);

#endif
