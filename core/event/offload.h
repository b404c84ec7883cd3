/*
 * offload.h - work that would block, on a thread; its end, on the loop.
 */
#ifndef KARS_EVENT_OFFLOAD_H
#define KARS_EVENT_OFFLOAD_H

#include "event/reactor.h"

typedef struct kars__offload_s kars__offload_t;

/* Threads start with the first job, so that making one before fork is safe. */
kars__offload_t *kars__offload_create(kars__loop_t *loop, kars_err_t *err);

/* Takes no more jobs, waits for all that there are, and runs their done. */
void kars__offload_drain(kars__offload_t *o);
void kars__offload_destroy(kars__offload_t *o); /* drains first */

/*
 * Between the two jobs are taken, but no thread is started: a filter of system
 * calls and a Landlock domain hold for the thread that asked for them and those
 * that it starts later. KARS_ERROR: jobs wait and no thread can be made.
 */
void kars__offload_hold(kars__offload_t *o);
int kars__offload_release(kars__offload_t *o);

/* work(data) on a thread, then done(error, data) on the loop, where error is
 * what work returned. KARS_ERROR: not taken, done will not run. */
int kars__offload(kars__offload_t *o, int (*work)(void *data),
                  void (*done)(int error, void *data), void *data);

#endif
