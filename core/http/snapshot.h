/*
 * snapshot.h - what modules made of watched files, published whole.
 *
 * All values of a worker stand together in a counted set. Publishing makes a
 * new set; a request holds the one that was there when it began, until it
 * ends, and with it every value in it.
 */
#ifndef KARS_HTTP_SNAPSHOT_H
#define KARS_HTTP_SNAPSHOT_H

#include "http/runtime.h"

typedef struct kars__snapset_s kars__snapset_t;
typedef struct kars__snapshots_s kars__snapshots_t;

/* As in kars_module.h: watch, snapshot, snapshot_now, watch_each. */
int kars__snapshot_watch(kars_cycle_t *c, const kars_watch_t *watch,
                         kars_snapshot_t **ret, kars_err_t *err);
const void *kars__snapshot_of(kars_req_t *r, const kars_snapshot_t *s);
const void *kars__snapshot_now(const kars_snapshot_t *s);
void kars__snapshot_each(kars_cycle_t *c,
                         void (*fn)(const kars_watch_state_t *s, void *data),
                         void *data);

/* In a worker: begins to watch. At its end: stops, then frees, with every
 * request gone and every thread ended. */
int kars__snapshots_start(kars_cycle_t *c, kars_err_t *err);
void kars__snapshots_stop(kars_cycle_t *c);
void kars__snapshots_destroy(kars_cycle_t *c);

/* The set for a request that begins; NULL: nothing is watched. */
kars__snapset_t *kars__snapset_ref(kars_cycle_t *c);
void kars__snapset_unref(kars__snapset_t *set); /* NULL is harmless */

/* The folders that must stay readable for what is watched: that of each path,
 * the path itself where it is a folder, and that of what a symbolic link leads
 * to; of what is not there, the nearest one that is. dir is terminated and
 * borrowed; the same one may come again. */
void kars__snapshot_folders(const kars_cycle_t *c,
                            void (*fn)(const char *dir, void *data),
                            void *data);

#endif
