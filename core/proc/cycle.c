/* cycle.c - what a worker makes and unmakes around its configuration. */
#include "proc/cycle.h"
#include "http/exchange.h"
#include "http/owner.h"
#include "http/snapshot.h"
#include "http/stream.h"
#include "http/upconn.h"
#include "http/ws.h"
#include "kars_config.h"
#include "proc/logs.h"
#include "proc/module.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

uint32_t kars__cycle_loop_flags;

const char *
kars__module_dir(void)
{
    static const char *const places[] = { "/modules", "/../lib/kars/modules" };
    static char beside[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", beside, sizeof(beside) - 32);
    char *slash = NULL;

    if (n > 0) {
        beside[n] = '\0';
        slash = strrchr(beside, '/');
    }
    for (size_t i = 0; slash != NULL && i < KARS_NELTS(places); i++) {
        memcpy(slash, places[i], strlen(places[i]) + 1);
        if (access(beside, X_OK) == 0) {
            return beside;
        }
    }
    return KARS_MODULE_DIR;
}

kars_cycle_t *
kars__cycle_bare(kars_err_t *err)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars_cycle_t *c = pool != NULL ? kars__pnew(pool, kars_cycle_t) : NULL;

    if (c == NULL) {
        (void) kars__err(err, ENOMEM, "a cycle");
        return NULL;
    }
    c->pool = pool;
    c->sandbox = KARS_STR("");
    c->spare_fd = -1;
    c->loop = kars__loop_create(kars__cycle_loop_flags, err);
    if (c->loop == NULL ||
        (c->offload = kars__offload_create(c->loop, err)) == NULL ||
        (c->waits = kars__waits_create(c, err)) == NULL ||
        (c->metrics = kars__metrics_create(pool, NULL, err)) == NULL) {
        return NULL;
    }
    return c;
}

int
kars__cycle_add_module(kars_cycle_t *c, const char *dir, kars_str_t name,
                       kars_err_t *err)
{
    kars__mod_t **mods = kars__pnewn(c->pool, kars__mod_t *, c->nmods + 1);

    if (mods == NULL) {
        return kars__err(err, ENOMEM, "a module");
    }
    if (c->nmods != 0) {
        memcpy(mods, c->mods, c->nmods * sizeof(*mods));
    }
    if (kars__module_open(c->pool, dir, name, &mods[c->nmods], err) !=
        KARS_OK) {
        return KARS_ERROR;
    }
    mods[c->nmods]->index = (uint32_t) c->nmods;
    mods[c->nmods]->conn_ctx_offset = c->conn_ctx_size;
    c->conn_ctx_size += (mods[c->nmods]->def.conn_ctx_size + 15) & ~(size_t) 15;
    c->mods = mods;
    c->nmods++;
    return KARS_OK;
}

/* A module's pool knows that it is one: this lives in the pool itself. */
struct kars__own_pool_s {
    struct kars__own_pool_s *prev;
    struct kars__own_pool_s *next;
    kars_cycle_t *cycle;
    kars_pool_t *pool;
};

static void
cycle_pool_gone(void *data)
{
    struct kars__own_pool_s *o = data;

    *(o->prev != NULL ? &o->prev->next : &o->cycle->pools) = o->next;
    if (o->next != NULL) {
        o->next->prev = o->prev;
    }
}

kars_pool_t *
kars__cycle_pool_create(kars_cycle_t *c, size_t cap)
{
    kars_pool_t *pool = kars__pool_create(0);
    struct kars__own_pool_s *o =
        pool != NULL ? kars__pown(pool, sizeof(*o), cycle_pool_gone) : NULL;

    if (o == NULL) {
        kars__pool_destroy(pool);
        return NULL;
    }
    o->cycle = c;
    o->pool = pool;
    o->next = c->pools;
    if (o->next != NULL) {
        o->next->prev = o;
    }
    c->pools = o;
    if (cap != 0) {
        size_t used = kars__pool_used(pool);

        kars__pool_cap(pool, cap > SIZE_MAX - used ? 0 : used + cap);
    }
    return pool;
}

static int
cycle_metrics(kars_cycle_t *c, kars_err_t *err)
{
    static const kars_metric_def_t requests = {
        .size = sizeof(requests),
        .name = "kars_http_requests_total",
        .help = "Requests answered, by class of status",
        .kind = KARS_COUNTER,
        .labels = "status",
    };

    c->metrics = kars__metrics_create(c->pool, c->zone, err);
    if (c->metrics == NULL) {
        return KARS_ERROR;
    }
    c->m_requests = kars__metric(c->metrics, &requests);
    return KARS_OK;
}

int
kars__cycle_start(kars_cycle_t *c, kars_err_t *err)
{
    if (cycle_metrics(c, err) != KARS_OK ||
        kars__upstreams_share(c, err) != KARS_OK) {
        return KARS_ERROR;
    }
    c->resolver = kars__resolver_create(c->loop, err);
    if (c->resolver == NULL) {
        return KARS_ERROR;
    }
    c->started = kars__pnewn(c->pool, kars__mod_t *, c->nmods + 1);
    if (c->started == NULL) {
        return kars__err(err, ENOMEM, "a worker");
    }
    kars__modules_start_order(c->mods, c->nmods, c->started);
    for (size_t i = 0; i < c->nmods; i++) {
        kars__mod_t *m = c->started[i];
        int rc = KARS_OK;

        if (m->def.worker_start != NULL) {
            kars__mod_now = m;
            rc = m->def.worker_start(c, err);
            kars__mod_now = NULL;
        }
        if (rc != KARS_OK) {
            return kars__err_prefix(err, "module %s does not start",
                                    m->def.name);
        }
        c->nstarted = i + 1;
    }
    if (kars__snapshots_start(c, err) != KARS_OK) {
        return KARS_ERROR;
    }
    return KARS_OK;
}

void
kars__cycle_serve(kars_cycle_t *c)
{
    c->spare_fd = eventfd(0, EFD_CLOEXEC);
    for (kars_listener_t *l = c->listeners; l != NULL; l = l->next) {
        kars__conn_listen(l);
    }
}

enum { RUN_NOT = 0, RUN_TURNS = 1, RUN_STOP = 2, RUN_OVER = 4 };

typedef struct {
    kars__timer_t timer; /* first */
    kars_cycle_t *cycle;
} cycle_limit_t;

static void
cycle_run_over(kars__timer_t *timer)
{
    ((cycle_limit_t *) timer)->cycle->run_state |= RUN_OVER;
}

int
kars__cycle_run(kars_cycle_t *c, uint32_t timeout_ms)
{
    cycle_limit_t limit = { .timer.fn = cycle_run_over, .cycle = c };
    kars_err_t err = KARS_ERR_INIT;

    if (!c->command || (c->run_state & RUN_TURNS)) {
        return KARS_ERROR;
    }
    if (c->resolver == NULL) {
        c->resolver = kars__resolver_create(c->loop, &err);
    }
    if (c->resolver == NULL) {
        kars__log(KARS_LOG_ERR, "router: %s", err.text);
        return KARS_ERROR;
    }
    c->run_state |= RUN_TURNS;
    if (timeout_ms != 0) {
        kars__timer_start(c->loop, &limit.timer, timeout_ms);
    }
    while (!(c->run_state & (RUN_STOP | RUN_OVER))) {
        kars__loop_turn(c->loop, 1);
    }
    kars__timer_stop(c->loop, &limit.timer);

    int rc = c->run_state & RUN_STOP ? KARS_OK : KARS_ERROR;

    if (rc != KARS_OK) { /* their data may be the command's own stack */
        kars__exchange_cancel_all(c);
    }
    c->run_state = RUN_NOT;
    return rc;
}

void
kars__cycle_run_stop(kars_cycle_t *c)
{
    c->run_state |= RUN_STOP;
}

static void
cycle_stop_modules(kars_cycle_t *c)
{
    while (c->nstarted > 0) {
        kars__mod_t *m = c->started[--c->nstarted];

        if (m->def.worker_stop != NULL) {
            kars__mod_now = m;
            m->def.worker_stop(c);
            kars__mod_now = NULL;
        }
    }
}

void
kars__cycle_destroy(kars_cycle_t *c)
{
    for (kars_listener_t *l = c->listeners; l != NULL; l = l->next) {
        kars__conn_unlisten(l);
        if (l->fd != -1) {
            (void) close(l->fd);
        }
    }
    c->drained = NULL;
    kars__snapshots_stop(c);
    kars__conn_drain(c, 2);
    kars__exchange_cancel_all(c);
    kars__streams_end(c);
    kars__ws_end_all(c);
    kars__loop_turn(c->loop, 0); /* what the ends of requests queued */
    kars__offload_drain(c->offload);
    kars__owners_stop(c);
    cycle_stop_modules(c);
    while (c->pools != NULL) { /* whose owner forgot it */
        kars__pool_destroy(c->pools->pool);
    }
    for (kars_upstream_t *u = c->upstreams; u != NULL; u = u->next) {
        kars__upstream_close(u);
    }
    for (kars_upstream_t *u = c->url_upstreams; u != NULL; u = u->next) {
        kars__upstream_close(u);
    }
    kars__exchange_cancel_all(c); /* that modules began as they stopped */
    kars__resolver_destroy(c->resolver);
    kars__offload_destroy(c->offload);
    kars__loop_turn(c->loop, 0);
    kars__snapshots_destroy(c);
    kars__owners_destroy(c);
    kars__logs_close(c);
    while (c->url_upstreams != NULL) { /* whose owner forgot it */
        c->url_upstreams->refs = 1;
        kars__upstream_unref(c->url_upstreams);
    }
    kars__waits_destroy(c->waits);
    kars__pipes_done(&c->pipes);
    kars__loop_destroy(c->loop);
    kars__zone_unmap(c->zone);
    if (c->spare_fd != -1) {
        (void) close(c->spare_fd);
    }
    kars__pool_destroy(c->pool);
}
