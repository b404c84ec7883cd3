/*
 * worker.c - this worker's hand on the shared ledger.
 */
#include "worker.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "calendar.h"
#include "journal.h"
#include "store.h"

enum {
    WORKER_ORPHANS_MS = 5000,
    WORKER_RETRY_MS = 1000, /* between attempts to load or to rotate */
    WORKER_WAIT_MS = 10000  /* for a flush; then it is 503 */
};

typedef struct {
    kars_token_t tokens[LEDGER_SLOTS];
    size_t n;
} worker_waiters_t;

typedef struct {
    int active;
    worker_conf_t conf;
    kars_area_t *area;
    ledger_t *ledger; /* only between worker_lock() and worker_unlock() */
    store_t store;
    uint64_t me;
    uint64_t retry_at_ms;
    int failing; /* the last write failed: said once, and once when it ends */

    uint64_t pending[LEDGER_SLOTS]; /* settled, not yet journaled */
    size_t npending;
    int turn_end;

    kars_timer_t *orphans;
    kars_timer_t *flush;
    int dirty; /* written and not flushed */
    int syncing;
    uint64_t remove_before;
    store_sync_t job;
    worker_waiters_t waiting; /* for the next flush */
    worker_waiters_t inside;  /* for the one that runs */

    kars_series_t *series[2][3]; /* day, month; used, limit, remaining */
    uint64_t limits[2];
} worker_t;

static worker_t worker = { .store = { .dir = -1, .fd = -1 } };

static void worker_sync(kars_cycle_t *cycle);

int
worker_has_ledger(void)
{
    return worker.active;
}

int
worker_wants_sync(void)
{
    return worker.conf.sync == WORKER_SYNC_REQUEST;
}

void
worker_show(uint64_t day_limit, uint64_t month_limit)
{
    worker.limits[0] = day_limit;
    worker.limits[1] = month_limit;
}

static void
worker_gauge(size_t window, uint64_t used)
{
    uint64_t limit = worker.limits[window];

    kars_series_set(worker.series[window][0], (double) used);
    if (limit != 0) {
        kars_series_set(worker.series[window][1], (double) limit);
        kars_series_set(worker.series[window][2],
                        used < limit ? (double) (limit - used) : 0);
    }
}

/* Says once that writing fails, and once that it works again. */
static void
worker_note(kars_cycle_t *cycle, int error, const char *what)
{
    char text[128];

    if (error != 0 && !worker.failing) {
        kars_cycle_log(cycle, KARS_LOG_ERR,
                       "budget: cannot %s, refusing requests path=%s error=%s",
                       what, worker.store.path,
                       strerror_r(error, text, sizeof(text)));
    } else if (error == 0 && worker.failing) {
        kars_cycle_log(cycle, KARS_LOG_NOTICE,
                       "budget: the ledger can be written again path=%s",
                       worker.store.path);
    }

    worker.failing = error != 0;
}

/* Called with the lock: reads the journal into an area that is new. */
static int
worker_load(kars_cycle_t *cycle, ledger_t *l)
{
    uint64_t now = kars_now_ms(cycle);

    if (now < worker.retry_at_ms) {
        return KARS_ERROR;
    }

    int error = store_load(&worker.store, l);

    worker_note(cycle, error, "load the ledger");
    if (error != 0) {
        worker.retry_at_ms = now + WORKER_RETRY_MS;
        return KARS_ERROR;
    }

    l->version = LEDGER_VERSION;
    kars_cycle_log(cycle, KARS_LOG_NOTICE,
                   "budget: ledger loaded day=%llu month=%llu segment=%llu",
                   (unsigned long long) ledger_head(l)->used_day,
                   (unsigned long long) ledger_head(l)->used_month,
                   (unsigned long long) l->segment);
    return KARS_OK;
}

static void
worker_unlock(ledger_t *l)
{
    ledger_view_t view;

    ledger_view(l, &view);
    kars_area_unlock(worker.area);
    worker_gauge(0, ledger_add(view.used_day, view.open_day));
    worker_gauge(1, ledger_add(view.used_month, view.open_month));
}

/* The ledger, repaired, loaded and of today; NULL when it is not there. */
static ledger_t *
worker_lock(kars_cycle_t *cycle)
{
    int rc = kars_area_lock(worker.area);

    if (rc != KARS_OK && rc != KARS_DONE) {
        worker_note(cycle, EIO, "lock the ledger");
        return NULL;
    }

    ledger_t *l = kars_area_data(worker.area);

    if (rc == KARS_DONE && l->version != 0) {
        kars_cycle_log(cycle, KARS_LOG_WARN,
                       "budget: a worker died inside the ledger, repaired");
        store_repair(&worker.store, l);
        ledger_repair(l);
    }
    if (l->version == 0 && worker_load(cycle, l) != KARS_OK) {
        kars_area_unlock(worker.area);
        return NULL;
    }

    ledger_roll(l, calendar_day(kars_wall_ms(cycle)));
    return l;
}

int
worker_view(kars_cycle_t *cycle, ledger_view_t *ret)
{
    ledger_t *l = worker.active ? worker_lock(cycle) : NULL;

    if (l == NULL) {
        return KARS_ERROR;
    }

    ledger_view(l, ret);
    worker_unlock(l);
    return KARS_OK;
}

static void
worker_flush(kars_cycle_t *cycle, void *data)
{
    worker.flush = NULL;
    worker_sync(cycle);
}

/* What was appended waits for its flush: by timer, or asked for by request. */
static void
worker_dirty(kars_cycle_t *cycle)
{
    worker.dirty = 1;
    if (worker.conf.sync == WORKER_SYNC_INTERVAL && worker.flush == NULL) {
        worker.flush = kars_timer(cycle, (uint32_t) worker.conf.interval_ms,
                                  worker_flush, NULL);
    }
}

static void
worker_rotate(kars_cycle_t *cycle, ledger_t *l)
{
    uint64_t now = kars_now_ms(cycle);

    if (now < worker.retry_at_ms) {
        return;
    }

    int error = store_rotate(&worker.store, l);

    if (error != 0) { /* the old segment goes on; it only grows */
        worker.retry_at_ms = now + WORKER_RETRY_MS;
        return;
    }

    worker.remove_before = l->segment;
    worker_sync(cycle);
}

static int
worker_append(kars_cycle_t *cycle, ledger_t *l, const char *bytes, size_t len)
{
    int error = store_append(&worker.store, l, bytes, len);

    worker_note(cycle, error, "write the ledger");
    if (error != 0) {
        return KARS_ERROR;
    }

    worker_dirty(cycle);
    if (l->segment_size > STORE_SEGMENT_MAX) {
        worker_rotate(cycle, l);
    }
    return KARS_OK;
}

/* Writes what was settled; what cannot be written stays for the next time. */
static void
worker_write_settled(kars_cycle_t *cycle, ledger_t *l)
{
    char buf[64 * JOURNAL_LINE];

    while (worker.npending > 0) {
        size_t first = worker.npending > 64 ? worker.npending - 64 : 0;
        size_t len = 0;

        for (size_t i = first; i < worker.npending; i++) {
            uint64_t id = worker.pending[i];

            len += journal_settle(buf + len, id,
                                  l->slots[id % LEDGER_SLOTS].tokens);
        }
        if (worker_append(cycle, l, buf, len) != KARS_OK) {
            return;
        }
        while (worker.npending > first) {
            ledger_written(l, worker.pending[--worker.npending]);
        }
    }
}

static void
worker_turn_end(kars_cycle_t *cycle, void *data)
{
    worker.turn_end = 0;

    ledger_t *l = worker.npending > 0 ? worker_lock(cycle) : NULL;

    if (l != NULL) {
        worker_write_settled(cycle, l);
        worker_unlock(l);
    }
}

static void
worker_settled(kars_cycle_t *cycle, uint64_t id)
{
    worker.pending[worker.npending++] = id; /* as many as there are slots */
    if (!worker.turn_end &&
        kars_turn_end(cycle, worker_turn_end, NULL) == KARS_OK) {
        worker.turn_end = 1;
    }
}

/* Is there room for the tokens beside what counts already? */
static int
worker_judge(const worker_ask_t *ask, const ledger_view_t *v)
{
    uint64_t day =
        ledger_add(ledger_add(v->used_day, v->open_day), ask->tokens);
    uint64_t month =
        ledger_add(ledger_add(v->used_month, v->open_month), ask->tokens);

    if (ask->month_limit != 0 && month > ask->month_limit) {
        return WORKER_OVER_MONTH;
    }
    if (ask->day_limit != 0 && day > ask->day_limit) {
        return WORKER_OVER_DAY;
    }
    return WORKER_OK;
}

static int
worker_journal(kars_cycle_t *cycle, ledger_t *l, uint64_t id)
{
    char line[JOURNAL_LINE];
    const ledger_slot_t *s = ledger_open(l, id);
    size_t len = journal_reserve(line, id, s->day, s->tokens);

    return worker_append(cycle, l, line, len) == KARS_OK ? WORKER_OK
                                                         : WORKER_UNAVAILABLE;
}

static int
worker_reserve_new(kars_cycle_t *cycle, ledger_t *l, const worker_ask_t *ask,
                   uint64_t *ret_id)
{
    uint64_t id;

    if (ledger_reserve(l, worker.me, ask->tokens, &id) != KARS_OK) {
        worker_write_settled(cycle, l); /* frees slots, if there are any */
        if (ledger_reserve(l, worker.me, ask->tokens, &id) != KARS_OK) {
            return WORKER_FULL;
        }
    }
    if (worker_journal(cycle, l, id) != WORKER_OK) {
        ledger_cancel(l, id);
        return WORKER_UNAVAILABLE;
    }

    *ret_id = id;
    return WORKER_OK;
}

static int
worker_reserve_again(kars_cycle_t *cycle, ledger_t *l, const worker_ask_t *ask,
                     uint64_t id, uint64_t before)
{
    if (before == ask->tokens) {
        return WORKER_OK;
    }

    (void) ledger_adjust(l, id, ask->tokens);
    if (worker_journal(cycle, l, id) != WORKER_OK) {
        (void) ledger_adjust(l, id, before);
        return WORKER_UNAVAILABLE;
    }
    return WORKER_OK;
}

/* What counts besides this reservation. */
static void
worker_view_without(ledger_t *l, uint64_t id, uint64_t tokens,
                    ledger_view_t *ret)
{
    if (id == 0) {
        ledger_view(l, ret);
        return;
    }

    (void) ledger_adjust(l, id, 0);
    ledger_view(l, ret);
    (void) ledger_adjust(l, id, tokens);
}

int
worker_reserve(kars_cycle_t *cycle, const worker_ask_t *ask, uint64_t *id,
               ledger_view_t *ret_view)
{
    ledger_t *l = worker_lock(cycle);

    if (l == NULL) {
        return WORKER_UNAVAILABLE;
    }

    const ledger_slot_t *s = *id != 0 ? ledger_open(l, *id) : NULL;
    uint64_t before = s != NULL ? s->tokens : 0;

    if (s == NULL) { /* none yet, or its owner was taken for dead */
        *id = 0;
    }
    worker_view_without(l, *id, before, ret_view);

    int rc = worker_judge(ask, ret_view);

    if (rc == WORKER_OK) {
        rc = *id == 0 ? worker_reserve_new(cycle, l, ask, id)
                      : worker_reserve_again(cycle, l, ask, *id, before);
    }
    worker_unlock(l);
    return rc;
}

void
worker_settle(kars_cycle_t *cycle, uint64_t id, uint64_t charge)
{
    ledger_t *l = worker_lock(cycle);

    if (l == NULL) { /* stays open, and is charged in full by whoever loads */
        return;
    }
    if (ledger_settle(l, id, charge) == KARS_OK) {
        worker_settled(cycle, id);
    }
    worker_unlock(l);
}

int
worker_charge(kars_cycle_t *cycle, uint64_t tokens)
{
    worker_ask_t ask = { .tokens = tokens };
    ledger_view_t view;
    uint64_t id = 0;

    if (!worker.active ||
        worker_reserve(cycle, &ask, &id, &view) != WORKER_OK) {
        return KARS_ERROR;
    }

    worker_settle(cycle, id, tokens);
    return KARS_OK;
}

static void
worker_wake(worker_waiters_t *w, int error)
{
    for (size_t i = 0; i < w->n; i++) {
        (void) kars_resume(w->tokens[i], error);
    }
    w->n = 0;
}

static int
worker_sync_work(void *data)
{
    return store_sync(data);
}

static void
worker_sync_done(kars_cycle_t *cycle, int error, void *data)
{
    worker.syncing = 0;
    worker_note(cycle, error, "flush the ledger");
    worker_wake(&worker.inside, error);
    if (error == 0 && worker.remove_before == worker.job.remove_before) {
        worker.remove_before = 0;
    }
    if (error != 0 || worker.dirty) {
        worker_dirty(cycle);
    }

    if (worker.waiting.n > 0) {
        worker_sync(cycle);
    }
}

/* Flushes on a thread; one flush at a time serves all who wait for it. */
static void
worker_sync(kars_cycle_t *cycle)
{
    if (worker.syncing || (!worker.dirty && worker.remove_before == 0)) {
        return;
    }

    int error =
        store_sync_begin(&worker.store, worker.remove_before, &worker.job);

    if (error == 0 && kars_task(cycle, worker_sync_work, worker_sync_done,
                                &worker.job) != KARS_OK) {
        error = EAGAIN;
        store_sync_cancel(&worker.job);
    }
    if (error != 0) {
        worker_note(cycle, error, "flush the ledger");
        worker_wake(&worker.waiting, error);
        worker_dirty(cycle); /* tried again by the timer */
        return;
    }

    worker.syncing = 1;
    worker.dirty = 0;
    worker.inside = worker.waiting;
    worker.waiting.n = 0;
}

int
worker_wait(kars_req_t *r, kars_wake_pt fn)
{
    if (worker.waiting.n == LEDGER_SLOTS) {
        return KARS_ERROR;
    }

    kars_token_t token = kars_suspend(r, WORKER_WAIT_MS, fn);

    if (token == 0) {
        return KARS_ERROR;
    }

    worker.waiting.tokens[worker.waiting.n++] = token;
    worker.dirty = 1;
    worker_sync(kars_req_cycle(r));
    return KARS_AGAIN;
}

static int
worker_is_alive(void *data, uint64_t id)
{
    return kars_worker_alive(data, id);
}

/* Charges what dead workers left open, and tries again what failed. */
static void
worker_sweep(kars_cycle_t *cycle)
{
    ledger_t *l = worker_lock(cycle);

    if (l == NULL) {
        return;
    }

    size_t room = LEDGER_SLOTS - worker.npending;
    size_t n = ledger_orphans(l, worker.me, worker_is_alive, cycle,
                              worker.pending + worker.npending, room);

    worker.npending += n;
    if (n > 0) {
        kars_cycle_log(cycle, KARS_LOG_WARN,
                       "budget: charged what a dead worker left open n=%zu", n);
    }
    if (!store_linked(&worker.store, l) && store_reopen(&worker.store) == 0) {
        worker_rotate(cycle, l); /* someone removed the files */
    }
    worker_write_settled(cycle, l);
    worker_unlock(l);
}

static void
worker_tick(kars_cycle_t *cycle, void *data)
{
    worker_sweep(cycle);
    worker.orphans = kars_timer(cycle, WORKER_ORPHANS_MS, worker_tick, NULL);
}

static void
worker_metrics(kars_cycle_t *cycle)
{
    static const char *const windows[] = { "day", "month" };
    static const char *const whats[] = { "used", "limit", "remaining" };
    static const kars_metric_def_t def = {
        .size = sizeof(def),
        .name = "kars_budget_tokens",
        .help = "Tokens of the sandbox's budget; used counts open reservations",
        .kind = KARS_GAUGE,
        .max_series = 16,
        .labels = "sandbox window what",
    };
    kars_metric_t *metric = kars_metric(cycle, &def);

    for (size_t w = 0; w < KARS_NELTS(windows) && metric != NULL; w++) {
        for (size_t i = 0; i < KARS_NELTS(whats); i++) {
            kars_str_t labels[] = {
                kars_cycle_sandbox(cycle),
                { windows[w], strlen(windows[w]) },
                { whats[i], strlen(whats[i]) },
            };

            worker.series[w][i] = kars_series(metric, labels);
        }
    }
}

int
worker_start(kars_cycle_t *cycle, const worker_conf_t *conf, kars_err_t *err)
{
    kars_str_t sandbox = kars_cycle_sandbox(cycle);
    char name[80];

    if (conf->ledger.len == 0) {
        return KARS_OK;
    }
    if (store_init(&worker.store, conf->ledger.data, conf->ledger.len,
                   sandbox.data, sandbox.len) != 0) {
        return kars_err(err, EINVAL,
                        "budget_ledger \"%.*s\" of sandbox \"%.*s\"",
                        KARS_STR_ARG(conf->ledger), KARS_STR_ARG(sandbox));
    }

    int n = snprintf(name, sizeof(name), "budget.%.*s", KARS_STR_ARG(sandbox));

    worker.area = kars_area(cycle, (kars_str_t){ name, (size_t) n },
                            sizeof(ledger_t), LEDGER_VERSION, err);
    if (worker.area == NULL) {
        return KARS_ERROR;
    }

    worker.conf = *conf;
    worker.me = kars_worker_id(cycle);
    worker.active = 1;
    worker_metrics(cycle);
    worker_tick(cycle, NULL); /* what cannot be loaded now is tried again */
    return KARS_OK;
}

void
worker_stop(kars_cycle_t *cycle)
{
    if (!worker.active) {
        return;
    }

    if (worker.orphans != NULL) {
        kars_timer_cancel(worker.orphans);
        worker.orphans = NULL;
    }
    if (worker.flush != NULL) {
        kars_timer_cancel(worker.flush);
        worker.flush = NULL;
    }
    worker_turn_end(cycle, NULL);
    if (worker.store.fd != -1) {
        (void) fdatasync(worker.store.fd); /* the loop is over: may block */
    }
    store_close(&worker.store);
    worker.active = 0;
}
