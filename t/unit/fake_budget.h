/*
 * fake_budget.h - the budget module, its source included, over a function
 * table of the test: one request, one clock, one area, one thread.
 */
#ifndef T_FAKE_BUDGET_H
#define T_FAKE_BUDGET_H

#undef KARS_CORE /* a module, not the core */
#define KARS_BUILTIN budget
#include "kars_module.h"

extern const kars_module_t kars_module_budget;

#include "budget/budget.c"
#include "budget/worker.c"

#include "t.h"

#include <stdlib.h>
#include <sys/stat.h>

enum { FAKE_POOL = 65536, FAKE_NUMBERS = 16, FAKE_HEADERS = 8 };

/* Monday, 2026-11-23, 20:30 UTC. */
#define FAKE_WALL 1795465800000ull

static struct {
    char pool[FAKE_POOL];
    size_t used;
    ledger_t *area;
    int area_rc; /* of the next lock */
    uint64_t wall, now, dead;
    uint64_t body_size;
    const char *path;
    struct {
        kars_str_t name;
        int64_t value;
    } numbers[FAKE_NUMBERS];
    kars_str_t estimated;
    char edits[256]; /* "member=json;" each */
    kars_denial_t denial;
    void (*turn_end)(kars_cycle_t *cycle, void *data);
    int (*task)(void *data);
    void (*task_done)(kars_cycle_t *cycle, int error, void *data);
    void *task_data;
    int task_busy; /* no thread can be had */
    kars_token_t token;
    kars_wake_pt wake;
    int woken; /* -1: nobody was resumed, else the error */
    int many;  /* other requests may be resumed than the last */
    int nwoken;
    int logged;
    char day_used[24];
} fake;

static budget_conf_t conf;
static budget_ctx_t ctx;
static char folder[64];
static kars_req_t *const req = (kars_req_t *) &fake;
static kars_cycle_t *const cyc = (kars_cycle_t *) &fake;

static void *
fake_palloc(kars_pool_t *pool, size_t size)
{
    size_t at = fake.used;

    if (size > FAKE_POOL - at) {
        return NULL;
    }
    fake.used += (size + 15) & ~(size_t) 15;
    return fake.pool + at;
}

static kars_pool_t *
fake_pool(kars_req_t *r)
{
    return NULL;
}

static kars_cycle_t *
fake_cycle(kars_req_t *r)
{
    return cyc;
}

static kars_str_t
fake_sandbox(kars_cycle_t *cycle)
{
    return KARS_STR("demo");
}

static const void *
fake_conf(kars_cycle_t *cycle, const kars_module_t *self)
{
    CU_ASSERT_PTR_EQUAL(self, &kars_module_budget);
    return &conf;
}

static void *
fake_ctx(kars_req_t *r, const kars_module_t *self)
{
    CU_ASSERT_PTR_EQUAL(self, &kars_module_budget);
    return &ctx;
}

static void
fake_log(kars_cycle_t *cycle, uint32_t level, const char *fmt, ...)
{
    fake.logged += level == KARS_LOG_ERR;
}

static int
fake_err(kars_err_t *err, int errnum, const char *fmt, ...)
{
    return KARS_ERROR;
}

static uint64_t
fake_size(kars_req_t *r)
{
    return fake.body_size;
}

static kars_str_t
fake_path(kars_req_t *r)
{
    return t_str(fake.path);
}

static int64_t
fake_number(kars_req_t *r, kars_str_t name)
{
    for (size_t i = 0; i < FAKE_NUMBERS; i++) {
        if (kars_str_eq(fake.numbers[i].name, name)) {
            return fake.numbers[i].value;
        }
    }

    return 0;
}

static int
fake_number_set(kars_req_t *r, kars_str_t name, int64_t value)
{
    for (size_t i = 0; i < FAKE_NUMBERS; i++) {
        if (fake.numbers[i].name.len == 0 ||
            kars_str_eq(fake.numbers[i].name, name)) {
            fake.numbers[i].name = name;
            fake.numbers[i].value = value;
            return KARS_OK;
        }
    }

    return KARS_ERROR;
}

static int
fake_var_set(kars_req_t *r, kars_str_t name, kars_str_t value)
{
    fake.estimated = value;
    return KARS_OK;
}

static int
fake_json_set(kars_req_t *r, kars_str_t path, kars_str_t json)
{
    size_t n = strlen(fake.edits);

    (void) snprintf(fake.edits + n, sizeof(fake.edits) - n, "%.*s=%.*s;",
                    KARS_STR_ARG(path), KARS_STR_ARG(json));
    return fake.body_size == 1 ? KARS_ERROR : KARS_OK; /* 1: not an object */
}

static int
fake_header_set(kars_req_t *r, uint32_t dir, kars_str_t name, kars_str_t value)
{
    if (kars_str_eq(name, KARS_STR("x-kars-budget-day-used"))) {
        (void) snprintf(fake.day_used, sizeof(fake.day_used), "%.*s",
                        KARS_STR_ARG(value));
    }
    return KARS_OK;
}

static int
fake_deny(kars_req_t *r, const kars_denial_t *d)
{
    fake.denial = *d;
    return KARS_DONE;
}

static kars_token_t
fake_suspend(kars_req_t *r, uint32_t timeout_ms, kars_wake_pt fn)
{
    fake.wake = fn;
    return ++fake.token;
}

static int
fake_resume(kars_token_t token, int error)
{
    CU_ASSERT_TRUE(token == fake.token ||
                   (fake.many && token > 0 && token < fake.token));
    fake.woken = error;
    fake.nwoken++;
    return KARS_OK;
}

static kars_timer_t *
fake_timer(kars_cycle_t *cycle, uint32_t after_ms,
           void (*fn)(kars_cycle_t *cycle, void *data), void *data)
{
    return (kars_timer_t *) &fake;
}

static void
fake_timer_cancel(kars_timer_t *timer)
{
}

static int
fake_task(kars_cycle_t *cycle, int (*work)(void *data),
          void (*done)(kars_cycle_t *cycle, int error, void *data), void *data)
{
    if (fake.task_busy) {
        return KARS_ERROR;
    }
    CU_ASSERT_PTR_NULL(fake.task);
    fake.task = work;
    fake.task_done = done;
    fake.task_data = data;
    return KARS_OK;
}

static int
fake_turn_end(kars_cycle_t *cycle, void (*fn)(kars_cycle_t *cycle, void *data),
              void *data)
{
    CU_ASSERT_PTR_NULL(fake.turn_end);
    fake.turn_end = fn;
    return KARS_OK;
}

static uint64_t
fake_now(kars_cycle_t *cycle)
{
    return fake.now;
}

static uint64_t
fake_wall(kars_cycle_t *cycle)
{
    return fake.wall;
}

static kars_req_t *
fake_filter_req(kars_filter_t *f)
{
    return req;
}

static int
fake_filter_next(kars_filter_t *f, kars_buf_t *in, uint32_t flags)
{
    return KARS_OK;
}

static kars_area_t *
fake_area(kars_cycle_t *cycle, kars_str_t name, size_t size, uint32_t version,
          kars_err_t *err)
{
    CU_ASSERT_EQUAL(size, sizeof(ledger_t));
    return (kars_area_t *) fake.area;
}

static void *
fake_area_data(kars_area_t *area)
{
    return area;
}

static int
fake_lock(kars_area_t *area)
{
    int rc = fake.area_rc;

    fake.area_rc = KARS_OK;
    return rc;
}

static void
fake_unlock(kars_area_t *area)
{
}

static uint64_t
fake_worker_id(kars_cycle_t *cycle)
{
    return 5;
}

static int
fake_alive(kars_cycle_t *cycle, uint64_t id)
{
    return id != fake.dead;
}

static kars_metric_t *
fake_metric(kars_cycle_t *cycle, const kars_metric_def_t *def)
{
    return NULL;
}

static void
fake_series_set(kars_series_t *series, double value)
{
}

static const kars_api_t fake_api = {
    .size = sizeof(kars_api_t),
    .palloc = fake_palloc,
    .cycle_log = fake_log,
    .err = fake_err,
    .cycle_conf = fake_conf,
    .cycle_sandbox = fake_sandbox,
    .req_ctx = fake_ctx,
    .req_pool = fake_pool,
    .req_cycle = fake_cycle,
    .req_path = fake_path,
    .header_set = fake_header_set,
    .var_set = fake_var_set,
    .req_number = fake_number,
    .number_set = fake_number_set,
    .req_body_size = fake_size,
    .json_set = fake_json_set,
    .deny = fake_deny,
    .suspend = fake_suspend,
    .resume = fake_resume,
    .timer = fake_timer,
    .timer_cancel = fake_timer_cancel,
    .task = fake_task,
    .turn_end = fake_turn_end,
    .now_ms = fake_now,
    .wall_ms = fake_wall,
    .filter_req = fake_filter_req,
    .filter_next = fake_filter_next,
    .area = fake_area,
    .area_data = fake_area_data,
    .area_lock = fake_lock,
    .area_unlock = fake_unlock,
    .worker_id = fake_worker_id,
    .worker_alive = fake_alive,
    .metric = fake_metric,
    .series_set = fake_series_set,
};

/* A request of 400 bytes: its prompt is taken for 108 tokens. */
static void
next_request(void)
{
    memset(&ctx, 0, sizeof(ctx));
    memset(fake.numbers, 0, sizeof(fake.numbers));
    memset(&fake.denial, 0, sizeof(fake.denial));
    fake.estimated = KARS_STR("");
    fake.edits[0] = '\0';
    fake.used = 0;
    fake.body_size = 400;
    fake.path = "/v1/chat/completions";
    fake.woken = -1;
}

static void
turn(void)
{
    void (*fn)(kars_cycle_t * cycle, void *data) = fake.turn_end;

    fake.turn_end = NULL;
    if (fn != NULL) {
        fn(cyc, NULL);
    }
}

static void
flush(void)
{
    int (*work)(void *data) = fake.task;

    CU_ASSERT_PTR_NOT_NULL_FATAL(work);
    fake.task = NULL;
    fake.task_done(cyc, work(fake.task_data), fake.task_data);
}

static void
begin(int sync, uint64_t request, uint64_t day, uint64_t month)
{
    static ledger_t area;

    (void) snprintf(folder, sizeof(folder), "/tmp/kars-budget-XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
    memset(&fake, 0, sizeof(fake));
    memset(&worker, 0, sizeof(worker));
    fake.area = &area;
    ledger_init(fake.area);
    fake.wall = FAKE_WALL;
    fake.now = 10000;
    conf = (budget_conf_t){
        .ledger = t_str(folder),
        .sync = sync,
        .interval_ms = 200,
        .request = request,
        .day = day,
        .month = month,
    };
    kars_api = &fake_api;
    next_request();
    CU_ASSERT_EQUAL(budget_worker_start(cyc, NULL), KARS_OK);
}

static void
end(void)
{
    char file[128];

    worker_stop(cyc);
    for (int i = 0; i < 8; i++) {
        (void) snprintf(file, sizeof(file), "%s/demo.%d.journal", folder, i);
        (void) unlink(file);
    }
    CU_ASSERT_EQUAL(rmdir(folder), 0);
    kars_api = NULL;
}

static void
ask(const char *member, const char *value)
{
    for (const kars_json_watch_t *w = budget_json; w->path != NULL; w++) {
        if (strcmp(w->path, member) == 0) {
            uint32_t type = strcmp(value, "true") == 0 ? KARS_JSON_TRUE
                            : *value == '{'            ? KARS_JSON_OBJECT
                                                       : KARS_JSON_NUMBER;

            (void) w->value(req, t_str(value), 0, KARS_FIRST | KARS_LAST | type,
                            &conf, &ctx);
        }
    }
}

/* REWRITE and ADMIT; an edit that core reports is left to the module. */
static int
start(void)
{
    int rc = budget_rewrite(req, &conf, &ctx);

    return rc == KARS_OK ? budget_admit(req, &conf, &ctx) : rc;
}

/* A request that waits for its line goes on at the end of the turn. */
static int
resumed(int rc)
{
    if (rc != KARS_AGAIN || conf.sync == WORKER_SYNC_REQUEST) {
        return rc;
    }

    CU_ASSERT_EQUAL(fake.woken, -1);
    turn();
    CU_ASSERT_NOT_EQUAL_FATAL(fake.woken, -1);
    rc = fake.wake(req, fake.woken, &conf, &ctx);
    fake.woken = -1;
    return rc;
}

static int
admit(void)
{
    return resumed(budget_admit(req, &conf, &ctx));
}

static int
go(void)
{
    return resumed(start());
}

/* The lines of the journal's segment after its base, of that kind. */
static int
lines(char kind)
{
    char buf[8192];
    char file[128];
    int n = 0;

    (void) snprintf(file, sizeof(file), "%s/demo.%d.journal", folder,
                    (int) fake.area->segment);

    FILE *f = fopen(file, "r");

    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    while (fgets(buf, sizeof(buf), f) != NULL) {
        n += buf[0] == kind;
    }
    (void) fclose(f);
    return n;
}

/* The reply's end, with what it says was used. */
static void
reply(int status, const char *total)
{
    (void) fake_number_set(req, KARS_STR("attempts"), 1);
    (void) fake_number_set(req, KARS_STR("status"), status);
    CU_ASSERT_EQUAL(budget_head(NULL, &conf, &ctx), KARS_OK);
    if (total != NULL) {
        ask("usage.total_tokens", total);
    }
    CU_ASSERT_EQUAL(budget_body(NULL, NULL, KARS_LAST, &conf, &ctx), KARS_OK);
    CU_ASSERT_EQUAL(budget_log(req, &conf, &ctx), KARS_OK);
    turn();
}

static uint64_t
used(void)
{
    return ledger_head(fake.area)->used_day;
}

static uint64_t
open_tokens(void)
{
    return fake.area->open_day;
}

static int
denied(int status, const char *code)
{
    return fake.denial.status == status &&
           kars_str_eq(fake.denial.code, t_str(code));
}

#endif
