/* abi_later.c - what modules ask for that runs later, in their name: work on
 * threads, timers, work for the end of the turn. */
#include "proc/abi_later.h"
#include "http/request.h"

typedef struct {
    kars_req_t *r;
    void (*work)(void *ctx);
    void *ctx;
    kars_wake_pt fn;
    uint32_t mod;
} abi_offload_t;

static int
abi_offload_work(void *data)
{
    abi_offload_t *o = data;

    o->work(o->ctx);
    return 0;
}

static void
abi_offload_done(int error, void *data)
{
    abi_offload_t o = *(abi_offload_t *) data;
    kars_req_t *r = o.r;

    if (!r->finished && r->suspended) {
        r->suspended = 0;
        kars__mod_now = r->cycle->mods[o.mod];
        int rc =
            o.fn(r, error, kars__req_conf(r, o.mod), kars__req_ctx(r, o.mod));
        kars__mod_now = NULL;
        kars__req_continue(r, rc);
    }
    kars__req_unhold(r);
}

int
kars__abi_offload(kars_req_t *r, void (*work)(void *ctx), kars_wake_pt fn)
{
    abi_offload_t *o = kars__pnew(r->pool, abi_offload_t);

    if (o == NULL || r->suspended || r->rechecking || kars__mod_now == NULL) {
        return KARS_ERROR;
    }
    *o = (abi_offload_t){ r, work, kars__req_ctx(r, kars__mod_now->index), fn,
                          kars__mod_now->index };
    if (o->ctx == NULL || kars__offload(r->cycle->offload, abi_offload_work,
                                        abi_offload_done, o) != KARS_OK) {
        return KARS_ERROR;
    }
    r->holds++;
    r->suspended = 1;
    r->token = 0;
    r->wait_mod = o->mod;
    return KARS_AGAIN;
}

struct kars_timer_s {
    kars__timer_t timer; /* first */
    kars_cycle_t *cycle;
    void (*fn)(kars_cycle_t *cycle, void *data);
    void *data;
    kars__mod_t *mod;
};

static void
abi_timer_fire(kars__timer_t *timer)
{
    kars_timer_t t = *(kars_timer_t *) timer;

    kars__free(timer);
    kars__mod_now = t.mod;
    t.fn(t.cycle, t.data);
    kars__mod_now = NULL;
}

kars_timer_t *
kars__abi_timer(kars_cycle_t *c, uint32_t after_ms,
                void (*fn)(kars_cycle_t *cycle, void *data), void *data)
{
    kars_timer_t *t = kars__alloc(sizeof(*t));

    if (t != NULL) {
        t->cycle = c;
        t->fn = fn;
        t->data = data;
        t->mod = kars__mod_now;
        t->timer.fn = abi_timer_fire;
        kars__timer_start(c->loop, &t->timer, after_ms);
    }
    return t;
}

void
kars__abi_timer_cancel(kars_timer_t *t)
{
    if (t != NULL) {
        kars__timer_stop(t->cycle->loop, &t->timer);
        kars__free(t);
    }
}

typedef struct {
    kars_cycle_t *cycle;
    int (*work)(void *data);
    void (*done)(kars_cycle_t *cycle, int error, void *data);
    void *data;
    kars__mod_t *mod;
} abi_task_t;

static int
abi_task_work(void *data)
{
    abi_task_t *t = data;

    return t->work(t->data);
}

static void
abi_task_done(int error, void *data)
{
    abi_task_t t = *(abi_task_t *) data;

    kars__free(data);
    kars__mod_now = t.mod;
    t.done(t.cycle, error, t.data);
    kars__mod_now = NULL;
}

int
kars__abi_task(kars_cycle_t *c, int (*work)(void *data),
               void (*done)(kars_cycle_t *cycle, int error, void *data),
               void *data)
{
    abi_task_t *t = kars__alloc(sizeof(*t));

    if (t == NULL) {
        return KARS_ERROR;
    }
    *t = (abi_task_t){ c, work, done, data, kars__mod_now };
    if (kars__offload(c->offload, abi_task_work, abi_task_done, t) != KARS_OK) {
        kars__free(t);
        return KARS_ERROR;
    }
    return KARS_OK;
}

typedef struct {
    kars__work_t work; /* first */
    kars_cycle_t *cycle;
    void (*fn)(kars_cycle_t *cycle, void *data);
    void *data;
    kars__mod_t *mod;
} abi_turn_t;

static void
abi_turn_run(kars__work_t *work)
{
    abi_turn_t t = *(abi_turn_t *) work;

    kars__free(work);
    kars__mod_now = t.mod;
    t.fn(t.cycle, t.data);
    kars__mod_now = NULL;
}

int
kars__abi_turn_end(kars_cycle_t *c, void (*fn)(kars_cycle_t *cycle, void *data),
                   void *data)
{
    abi_turn_t *t = kars__alloc(sizeof(*t));

    if (t == NULL) {
        return KARS_ERROR;
    }
    t->cycle = c;
    t->fn = fn;
    t->data = data;
    t->mod = kars__mod_now;
    t->work.fn = abi_turn_run;
    kars__work_queue(c->loop, &t->work, KARS__TURN_END);
    return KARS_OK;
}
