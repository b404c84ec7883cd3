/* tls_ticket.c - keys of session tickets, shared by all workers. */
#include "net/tls_ticket.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#define TICKET_KEYS    3
#define TICKET_VERSION 1

typedef struct {
    kars__ticket_key_t keys[TICKET_KEYS]; /* newest first */
} ticket_area_t;

struct kars__tickets_s {
    kars_area_t *area; /* NULL: own is all there is */
    ticket_area_t *keys;
    ticket_area_t own;
};

kars__tickets_t *
kars__tickets_create(kars_pool_t *pool, kars_zone_t *zone, kars_err_t *err)
{
    kars__tickets_t *t = kars__pnew(pool, kars__tickets_t);

    if (t == NULL) {
        (void) kars__err(err, 0, "no memory for ticket keys");
        return NULL;
    }
    t->keys = &t->own;
    if (zone != NULL) {
        t->area = kars__zone_area(zone, KARS_STR("tls.tickets"),
                                  sizeof(ticket_area_t), TICKET_VERSION, err);
        if (t->area == NULL) {
            return NULL;
        }
        t->keys = kars__area_data(t->area);
    }
    return t;
}

static void
ticket_lock(kars__tickets_t *t)
{
    if (t->area != NULL && kars__area_lock(t->area) == KARS_DONE) {
        memset(t->keys, 0, sizeof(*t->keys)); /* half written, maybe */
    }
}

static void
ticket_unlock(kars__tickets_t *t)
{
    if (t->area != NULL) {
        kars__area_unlock(t->area);
    }
}

static uint64_t
ticket_age(const kars__ticket_key_t *k, uint64_t now_ms)
{
    return k->made_ms < now_ms ? now_ms - k->made_ms : 0;
}

static int
ticket_rotate(ticket_area_t *a, uint64_t now_ms)
{
    kars__ticket_key_t fresh = { .made_ms = now_ms };

    if (RAND_bytes(fresh.name, sizeof(fresh.name)) != 1 ||
        RAND_bytes(fresh.aes, sizeof(fresh.aes)) != 1 ||
        RAND_bytes(fresh.hmac, sizeof(fresh.hmac)) != 1) {
        return KARS_ERROR;
    }
    memmove(&a->keys[1], &a->keys[0], (TICKET_KEYS - 1) * sizeof(fresh));
    a->keys[0] = fresh;
    OPENSSL_cleanse(&fresh, sizeof(fresh));
    return KARS_OK;
}

int
kars__tickets_newest(kars__tickets_t *t, uint64_t now_ms, uint64_t period_ms,
                     kars__ticket_key_t *ret)
{
    int rc = KARS_OK;

    ticket_lock(t);
    if (t->keys->keys[0].made_ms == 0 ||
        ticket_age(&t->keys->keys[0], now_ms) >= period_ms) {
        rc = ticket_rotate(t->keys, now_ms);
    }
    if (rc == KARS_OK) {
        *ret = t->keys->keys[0];
    }
    ticket_unlock(t);
    return rc;
}

int
kars__tickets_find(kars__tickets_t *t,
                   const unsigned char name[KARS__TICKET_NAME], uint64_t now_ms,
                   uint64_t period_ms, kars__ticket_key_t *ret)
{
    int rc = KARS_ERROR;

    ticket_lock(t);
    for (size_t i = 0; i < TICKET_KEYS && rc == KARS_ERROR; i++) {
        const kars__ticket_key_t *k = &t->keys->keys[i];
        uint64_t age = ticket_age(k, now_ms);

        /* What it closed last is as old as a session may be at twice that. */
        if (k->made_ms != 0 && age < 2 * period_ms &&
            CRYPTO_memcmp(k->name, name, KARS__TICKET_NAME) == 0) {
            *ret = *k;
            rc = i == 0 && age < period_ms ? KARS_OK : KARS_DONE;
        }
    }
    ticket_unlock(t);
    return rc;
}
