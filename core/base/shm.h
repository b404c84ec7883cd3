/*
 * shm.h - a zone: memory that all workers of a router share and that survives
 * reloads. It is divided into named areas, each with its own robust lock, so
 * that a worker that dies inside blocks nobody.
 *
 * The master makes the zone (a memfd) and keeps it; each worker maps it. The
 * zone also knows which workers are alive: the master writes that.
 */
#ifndef KARS_BASE_SHM_H
#define KARS_BASE_SHM_H

#include "base/err.h"

#define KARS__ZONE_MIN     (256u * 1024u)
#define KARS__ZONE_WORKERS 64u

/* A memfd of that size, formatted; -1 and *err on failure. */
int kars__zone_make(size_t size, kars_err_t *err);

/* Maps it; NULL and *err when it is not a zone of this version. */
kars_zone_t *kars__zone_map(int fd, kars_err_t *err);
void kars__zone_unmap(kars_zone_t *zone);

/* The area of that name, size and version, made (zeroed) when it is not there
 * yet. NULL and *err when it does not fit. The handle lives with the map. */
kars_area_t *kars__zone_area(kars_zone_t *zone, kars_str_t name, size_t size,
                             uint32_t version, kars_err_t *err);
void *kars__area_data(kars_area_t *area);
int kars__area_lock(kars_area_t *area); /* OK; DONE: its last holder died */
void kars__area_unlock(kars_area_t *area);

/* For the master: a number for a new worker, and that it ended. */
uint64_t kars__zone_worker_new(kars_zone_t *zone);
void kars__zone_worker_gone(kars_zone_t *zone, uint64_t id);
int kars__zone_worker_alive(const kars_zone_t *zone, uint64_t id);

#endif
