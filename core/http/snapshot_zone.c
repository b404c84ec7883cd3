/* snapshot_zone.c - rows of workers' snapshots in the zone. */
#include "http/snapshot_zone.h"

#define SNAP_ROWS    1024u
#define SNAP_VERSION 1u

typedef struct {
    uint64_t worker; /* 0: free */
    unsigned char id[KARS__SNAP_ID];
    kars__snap_row_t row;
} snap_row_t;

kars_area_t *
kars__snap_rows(kars_zone_t *zone, kars_err_t *err)
{
    return kars__zone_area(zone, KARS_STR("kars.snapshots"),
                           SNAP_ROWS * sizeof(snap_row_t), SNAP_VERSION, err);
}

/* A holder that died in here left one row half written: its own, and it is
 * dead. So there is nothing to repair. */
static snap_row_t *
snap_lock(kars_area_t *rows)
{
    (void) kars__area_lock(rows);
    return kars__area_data(rows);
}

int
kars__snap_row_set(kars_area_t *rows, kars_zone_t *zone, uint64_t worker,
                   const unsigned char id[KARS__SNAP_ID],
                   const kars__snap_row_t *row)
{
    snap_row_t *v = snap_lock(rows), *to = NULL;

    for (size_t i = 0; i < SNAP_ROWS; i++) {
        if (v[i].worker == worker &&
            memcmp(v[i].id, id, sizeof(v[i].id)) == 0) {
            to = &v[i];
            break;
        }
        if (to == NULL && !kars__zone_worker_alive(zone, v[i].worker)) {
            to = &v[i];
        }
    }
    if (to != NULL) {
        to->row = *row;
        memcpy(to->id, id, sizeof(to->id));
        to->worker = worker;
    }
    kars__area_unlock(rows);
    return to != NULL ? KARS_OK : KARS_ERROR;
}

int
kars__snap_row_oldest(kars_area_t *rows, kars_zone_t *zone,
                      const unsigned char id[KARS__SNAP_ID],
                      kars__snap_row_t *ret)
{
    const snap_row_t *v = snap_lock(rows);
    uint32_t failed = 0;
    int rc = KARS_DECLINED;

    for (size_t i = 0; i < SNAP_ROWS; i++) {
        if (v[i].worker == 0 || memcmp(v[i].id, id, sizeof(v[i].id)) != 0 ||
            !kars__zone_worker_alive(zone, v[i].worker)) {
            continue;
        }
        failed |= v[i].row.failed;
        if (rc != KARS_OK || v[i].row.loaded_at_ms < ret->loaded_at_ms) {
            *ret = v[i].row;
            rc = KARS_OK;
        }
    }
    kars__area_unlock(rows);
    if (rc == KARS_OK) {
        ret->failed = failed;
    }
    return rc;
}
