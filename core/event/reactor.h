/*
 * reactor.h - the event loop: libev under our names.
 *
 * One loop, one thread. A turn: I/O callbacks, timers, posted work until there
 * is none, work for the turn's end (a group write of records, say) and what
 * that posts, then flushes: so what happened in one turn is written at once.
 *
 * Timers are ours (a heap over milliseconds), so that tests can run on a clock
 * of their own: a loop made with KARS__LOOP_FAKE never waits and its time moves
 * only by kars__loop_advance().
 */
#ifndef KARS_EVENT_REACTOR_H
#define KARS_EVENT_REACTOR_H

#include "base/err.h"

#define EV_COMPAT3      0
#define EV_MULTIPLICITY 1
#include <ev.h>

enum { KARS__LOOP_FAKE = 1 << 0 };
enum { KARS__READ = 1, KARS__WRITE = 2 };

typedef struct kars__loop_s kars__loop_t;

/* An fd's readiness. Embedded in its owner; fn may free the owner. */
typedef struct kars__io_s kars__io_t;
struct kars__io_s {
    ev_io ev;
    kars__loop_t *loop;
    void (*fn)(kars__io_t *io, uint32_t events);
};

/* Once, at a time. Embedded; moving it later costs nothing. */
typedef struct kars__timer_s kars__timer_t;
struct kars__timer_s {
    uint64_t at_ms;  /* when it is due */
    uint64_t key_ms; /* where it stands in the heap; never after at_ms */
    size_t slot;     /* in the heap, from 1; 0: not running */
    void (*fn)(kars__timer_t *timer);
};

/* Work for later in this turn. Embedded; queued at most once. */
typedef struct kars__work_s kars__work_t;
struct kars__work_s {
    kars__work_t *next;
    kars__work_t *prev;
    void (*fn)(kars__work_t *work);
    uint32_t queued;
};
enum { KARS__POST = 0, KARS__TURN_END = 1, KARS__FLUSH = 2 };

kars__loop_t *kars__loop_create(uint32_t flags, kars_err_t *err);
void kars__loop_destroy(kars__loop_t *loop);

/* Runs until kars__loop_stop(). */
void kars__loop_run(kars__loop_t *loop);
void kars__loop_stop(kars__loop_t *loop);

/* One turn; wait 0: does not wait for events. */
void kars__loop_turn(kars__loop_t *loop, int wait);

/* Fake clocks only: moves time by ms, firing timers in their order. */
void kars__loop_advance(kars__loop_t *loop, uint64_t ms);

uint64_t kars__loop_now(const kars__loop_t *loop);  /* monotonic, ms */
uint64_t kars__loop_wall(const kars__loop_t *loop); /* Unix time, ms */

void kars__io_init(kars__io_t *io, kars__loop_t *loop, int fd,
                   void (*fn)(kars__io_t *io, uint32_t events));
void kars__io_want(kars__io_t *io, uint32_t events); /* 0: none */
uint32_t kars__io_wanted(const kars__io_t *io);

void kars__timer_start(kars__loop_t *loop, kars__timer_t *timer,
                       uint64_t after_ms);
void kars__timer_stop(kars__loop_t *loop, kars__timer_t *timer);

void kars__work_queue(kars__loop_t *loop, kars__work_t *work, uint32_t queue);
void kars__work_cancel(kars__loop_t *loop, kars__work_t *work);

/* A signal as an event. fn runs on the loop. */
typedef struct kars__signal_s kars__signal_t;
struct kars__signal_s {
    ev_signal ev;
    void (*fn)(kars__signal_t *sig);
};
void kars__signal_start(kars__loop_t *loop, kars__signal_t *sig, int signum,
                        void (*fn)(kars__signal_t *sig));
void kars__signal_stop(kars__loop_t *loop, kars__signal_t *sig);

/* fn runs on the loop, soon, after any thread called kars__wake(). */
typedef struct kars__wake_s kars__wake_t;
struct kars__wake_s {
    ev_async ev;
    kars__loop_t *loop;
    void (*fn)(kars__wake_t *wake);
};
void kars__wake_start(kars__loop_t *loop, kars__wake_t *wake,
                      void (*fn)(kars__wake_t *wake));
void kars__wake_stop(kars__wake_t *wake);
void kars__wake(kars__wake_t *wake);

#endif
