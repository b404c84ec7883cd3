/*
 * map.h - a keyed store in a zone: bounded, shared by all workers, kept over
 * reloads.
 *
 * Every change makes a whole new entry before the old one goes, under one
 * robust lock: after a worker was killed inside, the next one to come finds
 * each key with its old or its new value, never with half of one, and links
 * the entries again.
 */
#ifndef KARS_BASE_MAP_H
#define KARS_BASE_MAP_H

#include "base/shm.h"

/* What tells the time, in milliseconds that all workers share (monotonic). */
typedef struct {
    uint64_t (*now_ms)(const void *of);
    const void *of;
} kars__map_clock_t;

/*
 * The map of that name and version, made empty when it is not there yet. The
 * handle lives in pool and must not outlive the zone's map. NULL and *err:
 * limits that cannot be, or no room in the zone.
 */
kars_map_t *kars__map_open(kars_pool_t *pool, kars_zone_t *zone,
                           const kars_map_def_t *def, kars__map_clock_t clock,
                           kars_err_t *err);

/* As in kars_module.h: map_get, map_put, map_delete, map_each. */
int kars__map_get(kars_map_t *map, kars_str_t key, kars_pool_t *pool,
                  kars_str_t *ret);
int kars__map_put(kars_map_t *map, kars_str_t key, kars_str_t value,
                  uint64_t ttl_ms, uint32_t flags);
int kars__map_delete(kars_map_t *map, kars_str_t key);
void kars__map_each(kars_map_t *map,
                    int (*fn)(kars_str_t key, kars_str_t value, void *data),
                    void *data);

/* A new value that kars__map_update()'s fn wants stored. */
typedef struct {
    char *value; /* room for max_value bytes */
    size_t len;
    uint64_t ttl_ms; /* 0: for good */
} kars__map_new_t;

/*
 * Looks and changes in one step: fn gets the value (data NULL: there is none)
 * and returns OK: *ret is stored; DECLINED: it stays as it is; DONE: it is
 * deleted. fn runs under the lock and calls no function of the map. Returns
 * what fn returned, or ERROR: full, or the key is too long.
 */
int kars__map_update(kars_map_t *map, kars_str_t key,
                     int (*fn)(kars_str_t old, kars__map_new_t *ret,
                               void *data),
                     void *data);

/* How many entries it has, those that are over but not yet gone included; how
 * often the entries were linked again after a death. */
uint32_t kars__map_used(kars_map_t *map);
uint32_t kars__map_repairs(kars_map_t *map);

#endif
