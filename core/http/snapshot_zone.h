/*
 * snapshot_zone.h - which worker has published what: rows in the zone, so that
 * each worker can tell what the slowest of them still decides by.
 */
#ifndef KARS_HTTP_SNAPSHOT_ZONE_H
#define KARS_HTTP_SNAPSHOT_ZONE_H

#include "base/shm.h"

#define KARS__SNAP_ID     16u
#define KARS__SNAP_DIGEST 32u

typedef struct {
    unsigned char digest[KARS__SNAP_DIGEST];
    uint64_t loaded_at_ms; /* Unix time; 0: there was no good one yet */
    uint32_t failed;       /* the newest was refused */
} kars__snap_row_t;

/* NULL and *err: the zone has no room. */
kars_area_t *kars__snap_rows(kars_zone_t *zone, kars_err_t *err);

/* This worker's row of the path with that id. KARS_ERROR: no row is free. */
int kars__snap_row_set(kars_area_t *rows, kars_zone_t *zone, uint64_t worker,
                       const unsigned char id[KARS__SNAP_ID],
                       const kars__snap_row_t *row);

/*
 * Of the live workers that watch it, the row of the one that is behind: with
 * none, or with the one that was loaded first. failed: any of them refused the
 * newest. KARS_DECLINED: nobody has one.
 */
int kars__snap_row_oldest(kars_area_t *rows, kars_zone_t *zone,
                          const unsigned char id[KARS__SNAP_ID],
                          kars__snap_row_t *ret);

#endif
