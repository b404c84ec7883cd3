/*
 * upstream_zone.h - how servers fare, as all workers together find out: rows in
 * the zone, kept over reloads. A row is read and written without a lock, number
 * by number; what two workers write at once is right for one of them.
 */
#ifndef KARS_HTTP_UPSTREAM_ZONE_H
#define KARS_HTTP_UPSTREAM_ZONE_H

#include "base/shm.h"

#define KARS__HEALTH_ID   16u
#define KARS__HEALTH_ROWS 256u

/* Of a server, or of an upstream as a whole. Times are of the machine's
 * monotonic clock, but for those that say wall: Unix time. */
typedef struct {
    uint64_t failures;     /* in a row */
    uint64_t failed_at_ms; /* the first of them within the window */
    uint64_t first_failure_wall_ms;
    uint64_t last_success_wall_ms;
} kars__health_t;

static inline uint64_t
kars__health_get(const uint64_t *at)
{
    return __atomic_load_n(at, __ATOMIC_RELAXED);
}

static inline void
kars__health_set(uint64_t *at, uint64_t n)
{
    if (kars__health_get(at) != n) { /* the line stays shared where it can */
        __atomic_store_n(at, n, __ATOMIC_RELAXED);
    }
}

/* NULL and *err: the zone has no room. */
kars_area_t *kars__health_area(kars_zone_t *zone, kars_err_t *err);

/*
 * The row of that id, zeroed when it is new; lives as long as the map. When all
 * are taken, the one that was asked for longest ago goes, unless that is less
 * than a minute: then NULL. now_ms: monotonic.
 */
kars__health_t *kars__health_row(kars_area_t *area,
                                 const unsigned char id[KARS__HEALTH_ID],
                                 uint64_t now_ms);

#endif
