/* upqueue.c - turns at a server. */
#include "http/upqueue.h"

#include <errno.h>

enum { TURN_NONE = 0, TURN_WAITS, TURN_HAS };

static void
turn_unlink(kars__upturn_t *t)
{
    kars__upserver_t *s = t->server;

    kars__timer_stop(t->cycle->loop, &t->timer);
    if (t->prev != NULL) {
        t->prev->next = t->next;
    } else {
        s->first = t->next;
    }
    if (t->next != NULL) {
        t->next->prev = t->prev;
    } else {
        s->last = t->prev;
    }
    t->prev = t->next = NULL;
    s->nwaiting--;
}

static void
turn_late(kars__timer_t *timer)
{
    kars__upturn_t *t =
        (kars__upturn_t *) ((char *) timer - offsetof(kars__upturn_t, timer));

    turn_unlink(t);
    t->state = TURN_NONE;
    t->fn(t, EBUSY, "no turn within queue timeout=");
}

static void
turn_come(kars__work_t *work)
{
    kars__upturn_t *t =
        (kars__upturn_t *) ((char *) work - offsetof(kars__upturn_t, work));

    t->fn(t, 0, NULL);
}

static void
turn_wait(kars__upturn_t *t)
{
    kars__upserver_t *s = t->server;

    t->state = TURN_WAITS;
    t->prev = s->last;
    if (s->last != NULL) {
        s->last->next = t;
    } else {
        s->first = t;
    }
    s->last = t;
    s->nwaiting++;
    t->timer.fn = turn_late;
    kars__timer_start(t->cycle->loop, &t->timer, t->upstream->queue_ms);
}

void
kars__upturn_take(kars__upturn_t *t, kars_cycle_t *cycle, kars_upstream_t *u,
                  kars__upserver_t *s,
                  void (*fn)(kars__upturn_t *t, int error, const char *why))
{
    t->cycle = cycle;
    t->upstream = u;
    t->server = s;
    t->fn = fn;
    if (!kars__upserver_full(u, s)) {
        t->state = TURN_HAS;
        s->busy++;
        fn(t, 0, NULL);
    } else if (s->nwaiting < u->queue) {
        turn_wait(t);
    } else {
        fn(t, EBUSY, "its queue is full");
    }
}

void
kars__upturn_give(kars__upturn_t *t)
{
    uint32_t state = t->state;

    t->state = TURN_NONE;
    if (state == TURN_WAITS) {
        turn_unlink(t);
        return;
    }
    if (state != TURN_HAS) {
        return;
    }
    kars__work_cancel(t->cycle->loop, &t->work); /* it has not come to it */

    kars__upserver_t *s = t->server;
    kars__upturn_t *next = s->first;

    s->busy--;
    if (next != NULL) {
        turn_unlink(next);
        next->state = TURN_HAS;
        s->busy++;
        next->work.fn = turn_come;
        kars__work_queue(next->cycle->loop, &next->work, KARS__POST);
    }
}

int
kars__upturn_has(const kars__upturn_t *t)
{
    return t->state == TURN_HAS;
}
