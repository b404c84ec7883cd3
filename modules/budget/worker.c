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
    WORKER_WAIT_MS = 10000, /* for its line or a flush; then it is 503 */
    WORKER_BATCH = 128 * JOURNAL_LINE
};

typedef struct {
    kars_token_t tokens[LEDGER_SLOTS];
    size_t n;
} worker_waiters_t;

/* A request that waits until its reservation is written. */
typedef struct {
    kars_token_t token;
    uint64_t id;
    int is_new; /* the journal has no line of it */
} worker_line_t;

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
    worker_line_t lines[LEDGER_SLOTS];
    size_t nlines;
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

/* Lines on their way to the journal. */
typedef struct {
    size_t len;
    int some; /* a part of them is there, or may be */
    int rc;
    char lines[WORKER_BATCH];
} worker_batch_t;

static void
worker_batch_out(kars_cycle_t *cycle, ledger_t *l, worker_batch_t *b)
{
    uint32_t torn = l->torn;

    if (b->len == 0 || b->rc != KARS_OK) {
        return;
    }

    b->rc = worker_append(cycle, l, b->lines, b->len);
    b->some |= b->rc == KARS_OK || (torn == 0 && l->torn != 0);
    b->len = 0;
}

/* Room for one more line. */
static char *
worker_batch_line(kars_cycle_t *cycle, ledger_t *l, worker_batch_t *b)
{
    if (b->len > sizeof(b->lines) - JOURNAL_LINE) {
        worker_batch_out(cycle, l, b);
        b->len = 0;
    }
    return b->lines + b->len;
}

/* Writes all that the journal lacks, at once unless it is a great deal: what
 * was reserved, then what was settled. ERROR: all of it waits for the next
 * time, and may be written again then, which the journal bears. *ret_some: did
 * the journal perhaps get a part of it? */
static int
worker_write(kars_cycle_t *cycle, ledger_t *l, int *ret_some)
{
    worker_batch_t b;

    b.len = 0;
    b.some = 0;
    b.rc = KARS_OK;
    for (uint32_t i = 0; i < l->nfresh; i++) {
        const ledger_slot_t *s = ledger_fresh_at(l, i);

        if (s != NULL) {
            b.len += journal_reserve(worker_batch_line(cycle, l, &b), s->id,
                                     s->day, s->tokens);
        }
    }
    for (size_t i = 0; i < worker.npending; i++) {
        uint64_t id = worker.pending[i];

        b.len += journal_settle(worker_batch_line(cycle, l, &b), id,
                                l->slots[id % LEDGER_SLOTS].tokens);
    }
    worker_batch_out(cycle, l, &b);
    *ret_some = b.some;
    if (b.rc != KARS_OK) {
        return KARS_ERROR;
    }

    ledger_fresh_written(l);
    for (size_t i = 0; i < worker.npending; i++) {
        ledger_written(l, worker.pending[i]);
    }
    worker.npending = 0;
    return KARS_OK;
}

/* Ends the waiting for the reservations' lines. One whose line is surely not
 * there is taken back; else its request settles it. */
static void
worker_lines_done(ledger_t *l, int error, int some)
{
    for (size_t i = 0; i < worker.nlines; i++) {
        const worker_line_t *line = &worker.lines[i];

        if (error != 0 && line->is_new && !some && l != NULL) {
            ledger_cancel(l, line->id);
        }
        (void) kars_resume(line->token, error);
    }
    worker.nlines = 0;
}

static void
worker_turn_end(kars_cycle_t *cycle, void *data)
{
    worker.turn_end = 0;
    if (worker.npending == 0 && worker.nlines == 0) {
        return;
    }

    ledger_t *l = worker_lock(cycle);
    int some = 0;

    if (l == NULL) {
        worker_lines_done(NULL, EIO, 0);
        return;
    }

    int rc = worker_write(cycle, l, &some);

    worker_lines_done(l, rc == KARS_OK ? 0 : EIO, some);
    worker_unlock(l);
}

static int
worker_at_turn_end(kars_cycle_t *cycle)
{
    if (!worker.turn_end &&
        kars_turn_end(cycle, worker_turn_end, NULL) == KARS_OK) {
        worker.turn_end = 1;
    }
    return worker.turn_end ? KARS_OK : KARS_ERROR;
}

static void
worker_settled(kars_cycle_t *cycle, uint64_t id)
{
    worker.pending[worker.npending++] = id; /* as many as there are slots */
    (void) worker_at_turn_end(cycle);       /* else the sweep writes it */
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

/* The line of a reservation: now, or when its request waits for it. */
static int
worker_journal(kars_cycle_t *cycle, ledger_t *l, const worker_ask_t *ask,
               uint64_t id, int is_new)
{
    int some;

    ledger_fresh(l, id, is_new);
    if (ask->waits && worker.conf.sync == WORKER_SYNC_INTERVAL) {
        return WORKER_OK;
    }
    return worker_write(cycle, l, &some) == KARS_OK ? WORKER_OK
                                                    : WORKER_UNAVAILABLE;
}

static int
worker_reserve_new(kars_cycle_t *cycle, ledger_t *l, const worker_ask_t *ask,
                   uint64_t *ret_id)
{
    uint64_t id;
    int some;

    if (ledger_reserve(l, worker.me, ask->tokens, &id) != KARS_OK) {
        (void) worker_write(cycle, l, &some); /* frees slots, if it settles */
        if (ledger_reserve(l, worker.me, ask->tokens, &id) != KARS_OK) {
            return WORKER_FULL;
        }
    }
    if (worker_journal(cycle, l, ask, id, 1) != WORKER_OK) {
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
    if (worker_journal(cycle, l, ask, id, 0) != WORKER_OK) {
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
    worker_ask_t ask = { .tokens = tokens, .waits = 0 };
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

/* Until the turn's lines are written: one write for all of them. */
static int
worker_wait_line(kars_req_t *r, uint64_t id, int is_new, kars_wake_pt fn)
{
    if (worker.nlines == LEDGER_SLOTS ||
        worker_at_turn_end(kars_req_cycle(r)) != KARS_OK) {
        return KARS_ERROR;
    }

    kars_token_t token = kars_suspend(r, WORKER_WAIT_MS, fn);

    if (token == 0) {
        return KARS_ERROR;
    }

    worker.lines[worker.nlines++] = (worker_line_t){ token, id, is_new };
    return KARS_AGAIN;
}

int
worker_wait(kars_req_t *r, uint64_t id, int is_new, kars_wake_pt fn)
{
    if (worker.conf.sync == WORKER_SYNC_INTERVAL) {
        return worker_wait_line(r, id, is_new, fn);
    }
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
    int some;

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
    (void) worker_write(cycle, l, &some);
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
