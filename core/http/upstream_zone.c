/* upstream_zone.c - rows of servers' health in the zone. */
#include "http/upstream_zone.h"

#define HEALTH_VERSION 1u
#define HEALTH_KEEP_MS 60000u

typedef struct {
    unsigned char id[KARS__HEALTH_ID];
    uint64_t asked_ms; /* 0: free */
    kars__health_t row;
} health_row_t;

kars_area_t *
kars__health_area(kars_zone_t *zone, kars_err_t *err)
{
    return kars__zone_area(zone, KARS_STR("kars.health"),
                           KARS__HEALTH_ROWS * sizeof(health_row_t),
                           HEALTH_VERSION, err);
}

/* A holder that died in here left at most a row without its numbers: these
 * are what a new one has. */
kars__health_t *
kars__health_row(kars_area_t *area, const unsigned char id[KARS__HEALTH_ID],
                 uint64_t now_ms)
{
    health_row_t *v = kars__area_data(area), *to = NULL;

    (void) kars__area_lock(area);
    for (size_t i = 0; i < KARS__HEALTH_ROWS; i++) {
        if (v[i].asked_ms != 0 && memcmp(v[i].id, id, sizeof(v[i].id)) == 0) {
            v[i].asked_ms = now_ms;
            kars__area_unlock(area);
            return &v[i].row;
        }
        if (to == NULL || v[i].asked_ms < to->asked_ms) {
            to = &v[i];
        }
    }
    if (to->asked_ms != 0 && now_ms - to->asked_ms < HEALTH_KEEP_MS) {
        to = NULL;
    } else {
        to->asked_ms = 0;
        memset(&to->row, 0, sizeof(to->row));
        memcpy(to->id, id, sizeof(to->id));
        to->asked_ms = now_ms != 0 ? now_ms : 1;
    }
    kars__area_unlock(area);
    return to != NULL ? &to->row : NULL;
}
