/*
 * sink.h - the log as one worker has it: the queue, when it is written, who
 * waits for it, and whether it can be written at all.
 *
 * What is here belongs to one worker and runs on its thread; the threads that
 * sync get descriptors of their own. The files are store.h's.
 */
#ifndef AUDIT_SINK_H
#define AUDIT_SINK_H

#include "audit/store.h"

#define AUDIT_UNPROMISED ((size_t) 1 << 20) /* of it, for refusals */
#define AUDIT_RESERVE    65536 /* bytes of disk that a request wants to see */

enum { AUDIT_REQUEST, AUDIT_INTERVAL };

typedef struct {
    kars_str_t dir;
    int32_t sync;
    uint64_t interval_ms;
    uint64_t checkpoint_records;
    uint64_t checkpoint_every_ms;
} audit_conf_t;

typedef struct {
    kars_token_t *v;
    size_t n;
} audit_waiters_t;

/* What a thread does: syncs fd; if `head` is set, writes head.json after it. */
typedef struct {
    int busy;
    int fd;
    int dirfd;
    int with_head;
    audit_head_t head;
} audit_job_t;

typedef struct {
    int started;
    kars_cycle_t *cycle;
    const audit_conf_t *conf;
    kars_area_t *area;
    audit_store_t store;
    audit_queue_t queue;
    int turn;         /* audit_turn() will run */
    int failed;       /* errno of what makes the log unwritable; 0: healthy */
    uint64_t refused; /* since it failed, without a record of their own */
    int dirty;        /* written, not synced: `interval` */
    int sync_failed;  /* until a sync succeeds, the log is not healthy */
    int head_warned;  /* once is enough */
    int key_looked;   /* for a signing key, the first time that it is used */
    audit_waiters_t written; /* wait for the next sync */
    audit_waiters_t syncing; /* wait for the one that runs */
    audit_job_t sync;
    audit_job_t head;
    kars_timer_t *tick;
    kars_timer_t *retry;
    kars_timer_t *interval;
    kars_series_t *records;
    kars_series_t *healthy;
    kars_series_t *kept;
} audit_worker_t;

/* There is one. `started` is 0 in a process that only checks or commands. */
extern audit_worker_t audit_w;
extern const kars_signing_t *audit_signing; /* signing/1, or NULL */

/* The log cannot be written: refuse, and try again by a timer. */
void audit_sink_fail(audit_worker_t *w, int errnum);

/* What was queued is written at the end of this loop turn. */
void audit_sink_schedule(audit_worker_t *w);

/* Writes what is queued now, checkpoints that are due, and keeps `reserve`
 * bytes of disk. 0 or an errno, which audit_sink_fail() has seen. */
int audit_sink_flush(audit_worker_t *w, uint64_t reserve);

int audit_sink_start(kars_cycle_t *cycle, kars_err_t *err);
/* Writes and syncs what is left, here and now. */
void audit_sink_stop(kars_cycle_t *cycle);

#endif
