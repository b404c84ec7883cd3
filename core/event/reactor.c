/* reactor.c - the event loop. */
#include "event/reactor.h"
#include "base/pool.h"

#include <errno.h>
#include <time.h>

typedef struct {
    kars__work_t *first;
    kars__work_t *last;
} loop_queue_t;

struct kars__loop_s {
    struct ev_loop *ev;
    ev_timer tick;        /* the earliest of our timers */
    kars__timer_t **heap; /* from 1 */
    size_t nheap;
    size_t cap;
    loop_queue_t queue[3];
    uint64_t now_ms;
    int64_t wall_offset_ms; /* wall = now + this; fake clocks only */
    uint32_t fake;
    uint32_t stop;
};

#define LOOP_TURN_MAX 10000 /* posted pieces of work in one turn */

static uint64_t
loop_clock(clockid_t id)
{
    struct timespec ts;

    (void) clock_gettime(id, &ts);
    return (uint64_t) ts.tv_sec * 1000 + (uint64_t) ts.tv_nsec / 1000000;
}

static void
loop_tick(struct ev_loop *ev, ev_timer *w, int events)
{
    /* Only wakes ev_run(): timers are run by the turn. */
}

kars__loop_t *
kars__loop_create(uint32_t flags, kars_err_t *err)
{
    kars__loop_t *loop = kars__alloc(sizeof(*loop));

    if (loop == NULL) {
        (void) kars__err(err, ENOMEM, "an event loop");
        return NULL;
    }
    loop->fake = (flags & KARS__LOOP_FAKE) != 0;
    loop->ev = ev_loop_new(EVFLAG_NOENV);
    if (loop->ev == NULL) {
        (void) kars__err(err, errno, "an event loop");
        kars__free(loop);
        return NULL;
    }
    ev_init(&loop->tick, loop_tick);
    if (loop->fake) {
        loop->now_ms = 1000;
        loop->wall_offset_ms = 1767225600000 - 1000; /* 2026-01-01 */
    } else {
        loop->now_ms = loop_clock(CLOCK_MONOTONIC);
    }
    return loop;
}

void
kars__loop_destroy(kars__loop_t *loop)
{
    if (loop != NULL) {
        ev_loop_destroy(loop->ev);
        kars__free(loop->heap);
        kars__free(loop);
    }
}

uint64_t
kars__loop_now(const kars__loop_t *loop)
{
    return loop->now_ms;
}

uint64_t
kars__loop_wall(const kars__loop_t *loop)
{
    return loop->fake
               ? (uint64_t) ((int64_t) loop->now_ms + loop->wall_offset_ms)
               : loop_clock(CLOCK_REALTIME);
}

/* The heap of timers: parents are never later than their children. */

static void
heap_put(kars__loop_t *loop, size_t i, kars__timer_t *t)
{
    loop->heap[i] = t;
    t->slot = i;
}

static void
heap_up(kars__loop_t *loop, size_t i)
{
    kars__timer_t *t = loop->heap[i];

    while (i > 1 && loop->heap[i / 2]->key_ms > t->key_ms) {
        heap_put(loop, i, loop->heap[i / 2]);
        i /= 2;
    }
    heap_put(loop, i, t);
}

static void
heap_down(kars__loop_t *loop, size_t i)
{
    kars__timer_t *t = loop->heap[i];

    for (size_t child; (child = 2 * i) <= loop->nheap; i = child) {
        if (child < loop->nheap &&
            loop->heap[child + 1]->key_ms < loop->heap[child]->key_ms) {
            child++;
        }
        if (loop->heap[child]->key_ms >= t->key_ms) {
            break;
        }
        heap_put(loop, i, loop->heap[child]);
    }
    heap_put(loop, i, t);
}

static void
heap_remove(kars__loop_t *loop, kars__timer_t *t)
{
    size_t i = t->slot;
    kars__timer_t *last = loop->heap[loop->nheap--];

    t->slot = 0;
    if (last != t) {
        heap_put(loop, i, last);
        heap_up(loop, i);
        heap_down(loop, last->slot);
    }
}

static int
heap_room(kars__loop_t *loop)
{
    if (loop->nheap + 1 < loop->cap) {
        return KARS_OK;
    }

    size_t cap = loop->cap == 0 ? 64 : loop->cap * 2;
    kars__timer_t **heap =
        kars__realloc(loop->heap, cap * sizeof(kars__timer_t *));

    if (heap == NULL) {
        return KARS_ERROR;
    }
    loop->heap = heap;
    loop->cap = cap;
    return KARS_OK;
}

void
kars__timer_start(kars__loop_t *loop, kars__timer_t *t, uint64_t after_ms)
{
    uint64_t at = loop->now_ms + after_ms;

    t->at_ms = at;
    if (t->slot != 0) {
        if (at >= t->key_ms) {
            return; /* later: found out when its old time comes */
        }
        t->key_ms = at;
        heap_up(loop, t->slot);
        return;
    }

    /* A timer that cannot be kept would be a wait without an end. */
    if (heap_room(loop) != KARS_OK) {
        __builtin_trap();
    }
    t->key_ms = at;
    heap_put(loop, ++loop->nheap, t);
    heap_up(loop, loop->nheap);
}

void
kars__timer_stop(kars__loop_t *loop, kars__timer_t *t)
{
    if (t->slot != 0) {
        heap_remove(loop, t);
    }
}

static void
loop_run_timers(kars__loop_t *loop)
{
    while (loop->nheap > 0 && loop->heap[1]->key_ms <= loop->now_ms) {
        kars__timer_t *t = loop->heap[1];

        if (t->at_ms > loop->now_ms) {
            t->key_ms = t->at_ms;
            heap_down(loop, 1);
            continue;
        }
        heap_remove(loop, t);
        t->fn(t);
    }
}

/* Queues of work. */

void
kars__work_queue(kars__loop_t *loop, kars__work_t *work, uint32_t queue)
{
    loop_queue_t *q = &loop->queue[queue];

    if (work->queued) {
        return;
    }
    work->queued = queue + 1;
    work->next = NULL;
    work->prev = q->last;
    if (q->last != NULL) {
        q->last->next = work;
    } else {
        q->first = work;
    }
    q->last = work;
}

void
kars__work_cancel(kars__loop_t *loop, kars__work_t *work)
{
    if (!work->queued) {
        return;
    }

    loop_queue_t *q = &loop->queue[work->queued - 1];

    if (work->prev != NULL) {
        work->prev->next = work->next;
    } else {
        q->first = work->next;
    }
    if (work->next != NULL) {
        work->next->prev = work->prev;
    } else {
        q->last = work->prev;
    }
    work->queued = 0;
}

static unsigned
loop_drain(kars__loop_t *loop, uint32_t queue, unsigned budget)
{
    loop_queue_t *q = &loop->queue[queue];

    while (q->first != NULL && budget > 0) {
        kars__work_t *work = q->first;

        kars__work_cancel(loop, work);
        work->fn(work);
        budget--;
    }
    return budget;
}

static void
loop_run_work(kars__loop_t *loop)
{
    unsigned budget = LOOP_TURN_MAX;

    do {
        budget = loop_drain(loop, KARS__POST, budget);
        budget = loop_drain(loop, KARS__TURN_END, budget);
    } while (loop->queue[KARS__POST].first != NULL && budget > 0);

    (void) loop_drain(loop, KARS__FLUSH, LOOP_TURN_MAX);
}

static int
loop_has_work(const kars__loop_t *loop)
{
    return loop->queue[KARS__POST].first != NULL ||
           loop->queue[KARS__TURN_END].first != NULL ||
           loop->queue[KARS__FLUSH].first != NULL;
}

void
kars__loop_turn(kars__loop_t *loop, int wait)
{
    int flags = EVRUN_ONCE;

    if (!wait || loop->fake || loop_has_work(loop)) {
        flags = EVRUN_NOWAIT;
    } else if (loop->nheap > 0) {
        uint64_t now = loop_clock(CLOCK_MONOTONIC);
        uint64_t at = loop->heap[1]->key_ms;

        ev_now_update(loop->ev);
        ev_timer_stop(loop->ev, &loop->tick);
        ev_timer_set(&loop->tick,
                     at > now ? (double) (at - now) / 1000 + 0.0005 : 0., 0.);
        ev_timer_start(loop->ev, &loop->tick);
    }

    (void) ev_run(loop->ev, flags);
    if (!loop->fake) {
        loop->now_ms = loop_clock(CLOCK_MONOTONIC);
    }
    loop_run_timers(loop);
    loop_run_work(loop);
}

void
kars__loop_run(kars__loop_t *loop)
{
    loop->stop = 0;
    while (!loop->stop) {
        kars__loop_turn(loop, 1);
    }
}

void
kars__loop_stop(kars__loop_t *loop)
{
    loop->stop = 1;
    ev_break(loop->ev, EVBREAK_ALL);
}

void
kars__loop_advance(kars__loop_t *loop, uint64_t ms)
{
    uint64_t end = loop->now_ms + ms;

    kars__loop_turn(loop, 0);
    while (loop->nheap > 0 && loop->heap[1]->key_ms <= end) {
        if (loop->heap[1]->key_ms > loop->now_ms) {
            loop->now_ms = loop->heap[1]->key_ms;
        }
        kars__loop_turn(loop, 0);
    }
    loop->now_ms = end;
    kars__loop_turn(loop, 0);
}

/* Readiness. */

static void
io_event(struct ev_loop *ev, ev_io *w, int events)
{
    kars__io_t *io = (kars__io_t *) w;
    uint32_t mask = 0;

    if (events & EV_READ) {
        mask |= KARS__READ;
    }
    if (events & EV_WRITE) {
        mask |= KARS__WRITE;
    }
    io->fn(io, mask);
}

void
kars__io_init(kars__io_t *io, kars__loop_t *loop, int fd,
              void (*fn)(kars__io_t *io, uint32_t events))
{
    ev_io_init(&io->ev, io_event, fd, 0);
    io->loop = loop;
    io->fn = fn;
}

uint32_t
kars__io_wanted(const kars__io_t *io)
{
    if (!ev_is_active(&io->ev)) {
        return 0;
    }
    return ((io->ev.events & EV_READ) ? KARS__READ : 0u) |
           ((io->ev.events & EV_WRITE) ? KARS__WRITE : 0u);
}

void
kars__io_want(kars__io_t *io, uint32_t events)
{
    if (kars__io_wanted(io) == events) {
        return;
    }
    if (ev_is_active(&io->ev)) {
        ev_io_stop(io->loop->ev, &io->ev);
    }
    if (events != 0) {
        ev_io_set(&io->ev, io->ev.fd,
                  ((events & KARS__READ) ? EV_READ : 0) |
                      ((events & KARS__WRITE) ? EV_WRITE : 0));
        ev_io_start(io->loop->ev, &io->ev);
    }
}

static void
signal_event(struct ev_loop *ev, ev_signal *w, int events)
{
    kars__signal_t *sig = (kars__signal_t *) w;

    sig->fn(sig);
}

void
kars__signal_start(kars__loop_t *loop, kars__signal_t *sig, int signum,
                   void (*fn)(kars__signal_t *sig))
{
    ev_signal_init(&sig->ev, signal_event, signum);
    sig->fn = fn;
    ev_signal_start(loop->ev, &sig->ev);
}

void
kars__signal_stop(kars__loop_t *loop, kars__signal_t *sig)
{
    ev_signal_stop(loop->ev, &sig->ev);
}

static void
wake_event(struct ev_loop *ev, ev_async *w, int events)
{
    kars__wake_t *wake = (kars__wake_t *) w;

    wake->fn(wake);
}

void
kars__wake_start(kars__loop_t *loop, kars__wake_t *wake,
                 void (*fn)(kars__wake_t *wake))
{
    ev_async_init(&wake->ev, wake_event);
    wake->loop = loop;
    wake->fn = fn;
    ev_async_start(loop->ev, &wake->ev);
}

void
kars__wake_stop(kars__wake_t *wake)
{
    ev_async_stop(wake->loop->ev, &wake->ev);
}

void
kars__wake(kars__wake_t *wake)
{
    ev_async_send(wake->loop->ev, &wake->ev);
}
