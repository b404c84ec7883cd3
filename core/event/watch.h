/*
 * watch.h - paths that are read again when they change.
 *
 * inotify watches the folder of each path (a watch on a file dies when the file
 * is replaced), and every 10 seconds each path is looked at, because some
 * mounts give no events and a user has only so many inotify instances (128):
 * one for each worker. After an event 50 ms of silence are waited for, a second
 * at most, so that a writer can finish. What blocks runs on threads.
 */
#ifndef KARS_EVENT_WATCH_H
#define KARS_EVENT_WATCH_H

#include "event/offload.h"
#include "event/watch_read.h"

#define KARS__WATCH_QUIET_MS     50u
#define KARS__WATCH_QUIET_MAX_MS 1000u
#define KARS__WATCH_POLL_MS      10000u

typedef struct kars__watcher_s kars__watcher_t;

/* NULL: no memory. */
kars__watcher_t *kars__watcher_create(kars__loop_t *loop,
                                      kars__offload_t *offload);

/*
 * Another path (absolute; borrowed), last known by stamp. fn runs on the loop
 * when there is something new to say: error 0 and what was read, or an errno
 * and its words (the same ones every time it was looked at). KARS_ERROR: no
 * memory.
 */
int kars__watcher_add(kars__watcher_t *w, const char *path,
                      const unsigned char stamp[KARS__WATCH_DIGEST],
                      void (*fn)(void *data, int error,
                                 const kars__read_t *read,
                                 const kars_err_t *err),
                      void *data);

/* Begins to watch what was added. Without inotify it says so and polls. */
void kars__watcher_start(kars__watcher_t *w);
/* No fn runs any more. Then, when the threads have ended, its memory. */
void kars__watcher_stop(kars__watcher_t *w);
void kars__watcher_destroy(kars__watcher_t *w); /* NULL is harmless */

#endif
