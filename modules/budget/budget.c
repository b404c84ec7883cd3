/*
 * budget.c - token budgets: reserve before the call, settle after it.
 *
 * REWRITE sees to it that the backend is bounded and tells its usage, ADMIT
 * reserves the most that the request can cost, the response filter charges
 * what the reply says, and LOG what is left to charge: all of the reservation
 * when the client hung up or the reply did not say. The budget is that of the
 * configured sandbox; no header of the caller's chooses it.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "ask.h"
#include "calendar.h"
#include "journal.h"
#include "kars_module.h"
#include "worker.h"

#define BUDGET_CAP_DEFAULT 16384 /* where no request= bounds an answer */

typedef struct {
    kars_str_t ledger;
    int32_t sync;
    uint64_t interval_ms;
    uint64_t request;
    uint64_t day;
    uint64_t month;
    int32_t cap_as;
} budget_conf_t;

typedef struct {
    ask_t ask;
    used_t used;
    uint64_t id; /* of the open reservation; 0: none */
    uint64_t reserved;
    uint64_t extra; /* charged by other modules */
    int64_t status;
    uint8_t written; /* as safely as `budget_sync` wants it */
    uint8_t settled;
} budget_ctx_t;

/* clang-format off */
static const kars_directive_t budget_directives[] = {
    { .name = "budget_ledger", .at = KARS_AT_MAIN, .type = KARS_T_PATH,
      .offset = offsetof(budget_conf_t, ledger),
      .doc = "folder of the ledger; made if its parent is there" },
    { .name = "budget_sync", .at = KARS_AT_MAIN, .type = KARS_T_ENUM,
      .offset = offsetof(budget_conf_t, sync), .dflt = "interval",
      .values = "interval request",
      .doc = "when a reservation must be durable: within the interval, or "
             "before its request goes on" },
    { .name = "budget_sync", .at = KARS_AT_MAIN, .type = KARS_T_MSEC,
      .offset = offsetof(budget_conf_t, interval_ms), .dflt = "200ms",
      .doc = "the interval" },
    { .name = "budget_limit", .key = "request",
      .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_COUNT, .offset = offsetof(budget_conf_t, request),
      .dflt = "0",
      .doc = "most output tokens that one request may ask for; 0: no limit" },
    { .name = "budget_limit", .key = "day",
      .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_COUNT, .offset = offsetof(budget_conf_t, day),
      .dflt = "0",
      .doc = "tokens of the sandbox per UTC day; 0: no limit" },
    { .name = "budget_limit", .key = "month",
      .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_COUNT, .offset = offsetof(budget_conf_t, month),
      .dflt = "0",
      .doc = "tokens of the sandbox per UTC month; 0: no limit" },
    { .name = "budget_limit", .key = "cap_as",
      .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_ENUM, .offset = offsetof(budget_conf_t, cap_as),
      .dflt = "max_tokens",
      .values = "max_tokens max_completion_tokens max_output_tokens none",
      .doc = "the member that bounds an answer, written where the request "
             "names no cap; none: this API generates nothing" },
    { 0 },
};
/* clang-format on */

/* A text in the request's memory; the fallback when that is at its end. */
static kars_str_t __attribute__((format(printf, 3, 4)))
budget_text(kars_req_t *r, kars_str_t fallback, const char *fmt, ...)
{
    enum { CAP = 224 };
    char *p = kars_palloc(kars_req_pool(r), CAP);
    va_list ap;

    if (p == NULL) {
        return fallback;
    }

    va_start(ap, fmt);
    int n = vsnprintf(p, CAP, fmt, ap);
    va_end(ap);
    return (kars_str_t){ p, n < CAP ? (size_t) n : CAP - 1 };
}

static int
budget_unavailable(kars_req_t *r, const budget_conf_t *bc)
{
    kars_denial_t d = {
        .size = sizeof(d),
        .status = 503,
        .retry_after_ms = 1000,
        .code = KARS_STR("budget_unavailable"),
        .type = KARS_STR("server_error"),
        .rule = &bc->ledger,
        .reason = KARS_STR("the budget ledger cannot be written"),
    };

    return kars_deny(r, &d);
}

static int
budget_overloaded(kars_req_t *r)
{
    kars_denial_t d = {
        .size = sizeof(d),
        .status = 503,
        .retry_after_ms = 1000,
        .code = KARS_STR("overloaded"),
        .type = KARS_STR("server_error"),
        .reason = KARS_STR("too many requests hold a budget reservation"),
    };

    return kars_deny(r, &d);
}

static int
budget_invalid(kars_req_t *r, kars_str_t reason)
{
    kars_denial_t d = {
        .size = sizeof(d),
        .status = 400,
        .code = KARS_STR("invalid_request"),
        .type = KARS_STR("invalid_request_error"),
        .reason = reason,
    };

    return kars_deny(r, &d);
}

static int
budget_over_request(kars_req_t *r, const budget_conf_t *bc, uint64_t asked)
{
    kars_denial_t d = {
        .size = sizeof(d),
        .status = 429,
        .code = KARS_STR("per_request_tokens_exceeded"),
        .type = KARS_STR("token_budget_exceeded"),
        .rule = &bc->request,
        .reason = budget_text(
            r, KARS_STR("Per-request token cap exceeded"),
            "Per-request token cap exceeded (asked for %llu, cap is %llu).",
            (unsigned long long) asked, (unsigned long long) bc->request),
    };

    return kars_deny(r, &d);
}

/* The daily or the monthly limit is reached; says by what and until when. */
static int
budget_over(kars_req_t *r, const budget_conf_t *bc, int monthly,
            uint64_t reserve, const ledger_view_t *v)
{
    uint64_t used = monthly ? ledger_add(v->used_month, v->open_month)
                            : ledger_add(v->used_day, v->open_day);
    uint32_t next = monthly ? calendar_next_month(v->day) : v->day + 1;
    uint32_t wait = calendar_until(kars_wall_ms(kars_req_cycle(r)), next);
    kars_denial_t d = {
        .size = sizeof(d),
        .status = 429,
        .retry_after_ms = wait,
        .code = KARS_STR("budget_exceeded"),
        .type = KARS_STR("token_budget_exceeded"),
        .rule = monthly ? &bc->month : &bc->day,
        .reason = budget_text(
            r, KARS_STR("Token budget exceeded"),
            "%s token budget exceeded (%llu/%llu tokens). Resets in %uh. "
            "This request may need %llu.",
            monthly ? "Monthly" : "Daily", (unsigned long long) used,
            (unsigned long long) (monthly ? bc->month : bc->day),
            (wait + 3599999) / 3600000, (unsigned long long) reserve),
    };

    return kars_deny(r, &d);
}

static uint64_t
budget_left(uint64_t limit, uint64_t used, uint64_t open)
{
    uint64_t taken = ledger_add(used, open);

    return limit == 0 ? UINT64_MAX : limit > taken ? limit - taken : 0;
}

/* What an answer may cost that names no cap: the route's, or what is left. */
static uint64_t
budget_cap(kars_req_t *r, const budget_conf_t *bc, const ask_t *ask)
{
    ledger_view_t v;

    if (bc->request != 0) {
        return bc->request;
    }
    if (worker_view(kars_req_cycle(r), &v) != KARS_OK) {
        return BUDGET_CAP_DEFAULT; /* ADMIT will say what is wrong */
    }

    uint64_t day = budget_left(bc->day, v.used_day, v.open_day);
    uint64_t month = budget_left(bc->month, v.used_month, v.open_month);
    uint64_t left = day < month ? day : month;
    uint64_t prompt = ask_prompt_estimate(kars_req_body_size(r));

    left = left > prompt ? (left - prompt) / ask_answers(ask) : 0;
    return left == 0                   ? 1
           : left > BUDGET_CAP_DEFAULT ? BUDGET_CAP_DEFAULT
                                       : left;
}

static int
budget_write(kars_req_t *r, kars_str_t member, uint64_t value)
{
    char text[24];
    int n = snprintf(text, sizeof(text), "%llu", (unsigned long long) value);

    return kars_json_set(r, member, (kars_str_t){ text, (size_t) n });
}

/* Some servers read 0 as "no limit": it becomes 1, and is reserved so. */
static int
budget_write_zeros(kars_req_t *r, budget_ctx_t *ax)
{
    for (unsigned i = ASK_MAX_TOKENS; i < ASK_NUMBERS; i++) {
        ask_number_t *n = &ax->ask.numbers[i];

        if (n->state != ASK_GOOD || n->value != 0) {
            continue;
        }
        if (budget_write(r, ask_name(i), 1) != KARS_OK) {
            return KARS_ERROR;
        }
        n->value = 1;
    }

    return KARS_OK;
}

/* Writes the cap into a body that names none which every server reads. */
static int
budget_write_cap(kars_req_t *r, const budget_conf_t *bc, budget_ctx_t *ax)
{
    static const unsigned members[] = {
        [ASK_AS_MAX_TOKENS] = ASK_MAX_TOKENS,
        [ASK_AS_MAX_COMPLETION] = ASK_MAX_COMPLETION,
        [ASK_AS_MAX_OUTPUT] = ASK_MAX_OUTPUT,
    };

    if (ask_is_bounded(&ax->ask, (unsigned) bc->cap_as)) {
        return KARS_OK;
    }

    unsigned member = members[bc->cap_as];
    uint64_t cap = ask_cap(&ax->ask);

    if (cap == 0) {
        cap = budget_cap(r, bc, &ax->ask);
    }
    if (budget_write(r, ask_name(member), cap) != KARS_OK) {
        return KARS_ERROR;
    }

    /* The watch has told us, unless the router reports edits later. */
    ax->ask.numbers[member].state = ASK_GOOD;
    ax->ask.numbers[member].value = cap;
    return KARS_OK;
}

static int
budget_contains(kars_str_t s, kars_str_t what)
{
    return s.len > 0 && memmem(s.data, s.len, what.data, what.len) != NULL;
}

/* A stream tells its usage only when it is asked to; the Messages and the
 * Responses API do so anyway, and refuse the member. */
static int
budget_write_include(kars_req_t *r, const budget_conf_t *bc, budget_ctx_t *ax)
{
    kars_str_t path = kars_req_path(r);
    int rc;

    if (ax->ask.stream != ASK_GOOD || ax->ask.include == ASK_GOOD ||
        bc->cap_as == ASK_AS_MAX_OUTPUT ||
        budget_contains(path, KARS_STR("/messages")) ||
        budget_contains(path, KARS_STR("/responses"))) {
        return KARS_OK;
    }

    if (ax->ask.options == ASK_GOOD) {
        rc = kars_json_set(r, KARS_STR("stream_options.include_usage"),
                           KARS_STR("true"));
    } else {
        rc = kars_json_set(r, KARS_STR("stream_options"),
                           KARS_STR("{\"include_usage\":true}"));
    }
    if (rc == KARS_OK) {
        ax->ask.include = ASK_GOOD;
    }
    return rc;
}

static int
budget_rewrite(kars_req_t *r, const void *conf, void *ctx)
{
    const budget_conf_t *bc = conf;
    budget_ctx_t *ax = ctx;
    const char *want;
    kars_str_t bad = ask_bad_member(&ax->ask, &want);

    if (bad.len > 0) {
        return budget_invalid(
            r, budget_text(r, KARS_STR("a member of the body is not valid"),
                           "\"%.*s\" must be %s", KARS_STR_ARG(bad), want));
    }
    if (kars_req_body_size(r) == 0) {
        return KARS_OK;
    }

    if (budget_write_zeros(r, ax) != KARS_OK ||
        budget_write_cap(r, bc, ax) != KARS_OK ||
        budget_write_include(r, bc, ax) != KARS_OK) {
        return budget_invalid(
            r, KARS_STR("the body must be a JSON object that takes an output "
                        "cap and stream_options"));
    }

    return KARS_OK;
}

static int
budget_written(kars_req_t *r, int error, const void *conf, void *ctx)
{
    budget_ctx_t *ax = ctx;

    if (error != 0) {
        worker_settle(kars_req_cycle(r), ax->id, 0);
        ax->id = 0;
        return budget_unavailable(r, conf);
    }

    ax->written = 1;
    return KARS_OK;
}

static int
budget_reserve(kars_req_t *r, const budget_conf_t *bc, budget_ctx_t *ax,
               uint64_t tokens)
{
    worker_ask_t ask = {
        .tokens = tokens,
        .day_limit = bc->day,
        .month_limit = bc->month,
        .waits = 1,
    };
    uint64_t before = ax->id;
    ledger_view_t v;

    worker_show(bc->day, bc->month);
    switch (worker_reserve(kars_req_cycle(r), &ask, &ax->id, &v)) {
    case WORKER_OK:
        break;
    case WORKER_OVER_DAY:
        return budget_over(r, bc, 0, tokens, &v);
    case WORKER_OVER_MONTH:
        return budget_over(r, bc, 1, tokens, &v);
    case WORKER_FULL:
        return budget_overloaded(r);
    default:
        return budget_unavailable(r, bc);
    }

    if (before != ax->id || ax->reserved != tokens) {
        ax->written = 0;
    }
    ax->reserved = tokens;
    if (!ax->written) {
        int rc = worker_wait(r, ax->id, before != ax->id, budget_written);

        return rc == KARS_AGAIN ? rc : budget_written(r, EIO, bc, ax);
    }
    return KARS_OK;
}

/* Runs again when the body changed: then the reservation follows it. */
static int
budget_admit(kars_req_t *r, const void *conf, void *ctx)
{
    const budget_conf_t *bc = conf;
    budget_ctx_t *ax = ctx;
    uint64_t size = kars_req_body_size(r);
    const char *want;

    if (size == 0) { /* nothing to generate from; usage is charged if told */
        return KARS_OK;
    }
    if (ask_bad_member(&ax->ask, &want).len > 0) {
        return budget_invalid(r, KARS_STR("a member of the body became "
                                          "invalid"));
    }

    uint64_t cap = ask_cap(&ax->ask);

    if (bc->request != 0 && cap > bc->request) {
        return budget_over_request(r, bc, cap);
    }
    if (!worker_has_ledger()) {
        return KARS_OK;
    }

    return budget_reserve(r, bc, ax, ask_reserve(&ax->ask, size, cap));
}

static void
budget_header(kars_req_t *r, kars_str_t name, uint64_t value)
{
    char digits[JOURNAL_DIGITS]; /* the router copies what it is given */
    size_t n = journal_digits(digits, value);

    (void) kars_header_set(r, KARS_RESPONSE, name, (kars_str_t){ digits, n });
}

/* What counts when the head leaves, this reservation included. */
static int
budget_head(kars_filter_t *f, const void *conf, void *ctx)
{
    const budget_conf_t *bc = conf;
    budget_ctx_t *ax = ctx;
    kars_req_t *r = kars_filter_req(f);
    ledger_view_t v;

    ax->status = kars_req_number(r, KARS_STR("status"));
    if ((bc->day == 0 && bc->month == 0) ||
        worker_view(kars_req_cycle(r), &v) != KARS_OK) {
        return KARS_OK;
    }

    if (bc->day != 0) {
        budget_header(r, KARS_STR("x-kars-budget-day-limit"), bc->day);
        budget_header(r, KARS_STR("x-kars-budget-day-used"),
                      ledger_add(v.used_day, v.open_day));
        budget_header(r, KARS_STR("x-kars-budget-day-remaining"),
                      budget_left(bc->day, v.used_day, v.open_day));
    }
    if (bc->month != 0) {
        budget_header(r, KARS_STR("x-kars-budget-month-limit"), bc->month);
        budget_header(r, KARS_STR("x-kars-budget-month-used"),
                      ledger_add(v.used_month, v.open_month));
        budget_header(r, KARS_STR("x-kars-budget-month-remaining"),
                      budget_left(bc->month, v.used_month, v.open_month));
    }
    return KARS_OK;
}

/* Did an upstream refuse before it generated anything? A timeout is not that:
 * it may have worked all the while. */
static int
budget_refused(kars_req_t *r, const budget_ctx_t *ax)
{
    int64_t status = kars_req_number(r, KARS_STR("upstream_status"));

    if (status == 0) {
        status = ax->status;
    }
    return status >= 400 && status != 504;
}

/* What to charge; `whole`: the reply was seen to its end. */
static uint64_t
budget_charge_of(kars_req_t *r, const budget_ctx_t *ax, int whole,
                 int *ret_exact)
{
    int told;
    uint64_t total = ask_used_total(&ax->used, &told);

    *ret_exact = 1;
    if (told && whole) {
        return total;
    }
    if (!told && (kars_req_number(r, KARS_STR("attempts")) == 0 ||
                  budget_refused(r, ax))) {
        return 0;
    }

    *ret_exact = 0;
    return total > ax->reserved ? total : ax->reserved;
}

static void
budget_settle(kars_req_t *r, budget_ctx_t *ax, int whole)
{
    int exact;

    if (ax->settled) {
        return;
    }
    ax->settled = 1;

    uint64_t charge = budget_charge_of(r, ax, whole, &exact);
    uint64_t out = ax->used.seen[USED_OUT];
    int told;

    charge = ledger_add(charge, ax->extra);
    if (ax->id != 0) {
        worker_settle(kars_req_cycle(r), ax->id, charge);
    } else if (charge > 0 && worker_has_ledger()) {
        (void) worker_charge(kars_req_cycle(r), charge);
    }

    kars_number_set(r, KARS_STR("tokens_in"), (int64_t) ax->used.seen[USED_IN]);
    kars_number_set(r, KARS_STR("tokens_out"), (int64_t) out);
    kars_number_set(r, KARS_STR("tokens_total"),
                    (int64_t) ask_used_total(&ax->used, &told));
    kars_number_set(r, KARS_STR("tokens_charged"),
                    (int64_t) (charge < INT64_MAX ? charge : INT64_MAX));
    if (!exact && charge > 0) {
        kars_var_set(r, KARS_STR("tokens_estimated"), KARS_STR("1"));
    }
}

/* Before the last byte goes on: audit reads the numbers after us. */
static int
budget_body(kars_filter_t *f, kars_buf_t *in, uint32_t flags, const void *conf,
            void *ctx)
{
    if (flags & KARS_LAST) {
        budget_settle(kars_filter_req(f), ctx, 1);
    }

    return kars_filter_next(f, in, flags);
}

/* The client left, or nothing was sent: whatever is open is closed here. */
static int
budget_log(kars_req_t *r, const void *conf, void *ctx)
{
    budget_settle(r, ctx, 0);
    return KARS_OK;
}

static int
budget_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    const budget_conf_t *bc = conf;
    kars_str_t sandbox = kars_cycle_sandbox(place->cycle);

    if (place->active && (bc->day != 0 || bc->month != 0) &&
        bc->ledger.len == 0) {
        return kars_err(err, 0,
                        "budget_limit day= and month= need a ledger: add "
                        "`budget_ledger PATH;`");
    }
    if (bc->ledger.len != 0 &&
        (sandbox.len == 0 || sandbox.len > 63 || sandbox.data[0] == '.' ||
         memchr(sandbox.data, '/', sandbox.len) != NULL)) {
        return kars_err(err, 0,
                        "budget_ledger is kept by sandbox: add `sandbox "
                        "NAME;`");
    }
    if (bc->sync == WORKER_SYNC_INTERVAL &&
        (bc->interval_ms == 0 || bc->interval_ms > 60000)) {
        return kars_err(err, 0, "budget_sync: the interval is 1ms to 60s");
    }

    return KARS_OK;
}

static int
budget_worker_start(kars_cycle_t *cycle, kars_err_t *err)
{
    const budget_conf_t *bc = kars_cycle_conf(cycle);
    worker_conf_t conf = {
        .ledger = bc->ledger,
        .sync = bc->sync,
        .interval_ms = bc->interval_ms,
    };

    worker_show(bc->day, bc->month);
    return worker_start(cycle, &conf, err);
}

static int
budget_usage(kars_cycle_t *cycle, kars_str_t sandbox, uint64_t *ret_day,
             uint64_t *ret_month)
{
    ledger_view_t v;

    if (!kars_str_eq(sandbox, kars_cycle_sandbox(cycle)) ||
        worker_view(cycle, &v) != KARS_OK) {
        return KARS_ERROR;
    }

    *ret_day = ledger_add(v.used_day, v.open_day);
    *ret_month = ledger_add(v.used_month, v.open_month);
    return KARS_OK;
}

/* Joins what the request is charged at its end, or is charged at once when
 * that has passed or the request is none of ours. */
static int
budget_charge(kars_req_t *r, uint64_t tokens)
{
    budget_ctx_t *ax = kars_req_ctx(r);

    if (ax == NULL || ax->settled) {
        return worker_charge(kars_req_cycle(r), tokens);
    }

    ax->extra = ledger_add(ax->extra, tokens);
    return KARS_OK;
}

/* A watch's row does not reach its callback: one function for each member. */
#define BUDGET_NUMBER(which)                                                \
    static int budget_see_##which(kars_req_t *r, kars_str_t text,           \
                                  uint32_t index, uint32_t flags,           \
                                  const void *conf, void *ctx)              \
    {                                                                       \
        ask_number(&((budget_ctx_t *) ctx)->ask, ASK_##which, text, flags); \
        return KARS_OK;                                                     \
    }

#define BUDGET_USED(which)                                                  \
    static int budget_see_used_##which(kars_req_t *r, kars_str_t text,      \
                                       uint32_t index, uint32_t flags,      \
                                       const void *conf, void *ctx)         \
    {                                                                       \
        ask_used(&((budget_ctx_t *) ctx)->used, USED_##which, text, flags); \
        return KARS_OK;                                                     \
    }

BUDGET_NUMBER(N)
BUDGET_NUMBER(BEST_OF)
BUDGET_NUMBER(MAX_TOKENS)
BUDGET_NUMBER(MAX_COMPLETION)
BUDGET_NUMBER(MAX_OUTPUT)
BUDGET_NUMBER(N_PREDICT)
BUDGET_NUMBER(MAX_NEW)
BUDGET_NUMBER(NUM_PREDICT)
BUDGET_USED(TOTAL)
BUDGET_USED(IN)
BUDGET_USED(OUT)

static int
budget_see_stream(kars_req_t *r, kars_str_t text, uint32_t index,
                  uint32_t flags, const void *conf, void *ctx)
{
    ask_bool(&((budget_ctx_t *) ctx)->ask.stream, flags);
    return KARS_OK;
}

static int
budget_see_include(kars_req_t *r, kars_str_t text, uint32_t index,
                   uint32_t flags, const void *conf, void *ctx)
{
    ask_bool(&((budget_ctx_t *) ctx)->ask.include, flags);
    return KARS_OK;
}

static int
budget_see_options(kars_req_t *r, kars_str_t text, uint32_t index,
                   uint32_t flags, const void *conf, void *ctx)
{
    ask_options(&((budget_ctx_t *) ctx)->ask, flags);
    return KARS_OK;
}

static int
budget_see_prompt(kars_req_t *r, kars_str_t text, uint32_t index,
                  uint32_t flags, const void *conf, void *ctx)
{
    ask_prompt(&((budget_ctx_t *) ctx)->ask, index, flags);
    return KARS_OK;
}

/* clang-format off */
static const kars_json_watch_t budget_json[] = {
    { KARS_REQUEST, "n", budget_see_N },
    { KARS_REQUEST, "best_of", budget_see_BEST_OF },
    { KARS_REQUEST, "prompt[*]", budget_see_prompt },
    { KARS_REQUEST, "max_tokens", budget_see_MAX_TOKENS },
    { KARS_REQUEST, "max_completion_tokens", budget_see_MAX_COMPLETION },
    { KARS_REQUEST, "max_output_tokens", budget_see_MAX_OUTPUT },
    { KARS_REQUEST, "n_predict", budget_see_N_PREDICT },
    { KARS_REQUEST, "max_new_tokens", budget_see_MAX_NEW },
    { KARS_REQUEST, "num_predict", budget_see_NUM_PREDICT },
    { KARS_REQUEST, "stream", budget_see_stream },
    { KARS_REQUEST, "stream_options", budget_see_options },
    { KARS_REQUEST, "stream_options.include_usage", budget_see_include },
    { KARS_RESPONSE, "usage.total_tokens", budget_see_used_TOTAL },
    { KARS_RESPONSE, "usage.prompt_tokens", budget_see_used_IN },
    { KARS_RESPONSE, "usage.completion_tokens", budget_see_used_OUT },
    { KARS_RESPONSE, "usage.input_tokens", budget_see_used_IN },
    { KARS_RESPONSE, "usage.output_tokens", budget_see_used_OUT },
    { KARS_RESPONSE, "response.usage.total_tokens", budget_see_used_TOTAL },
    { KARS_RESPONSE, "response.usage.input_tokens", budget_see_used_IN },
    { KARS_RESPONSE, "response.usage.output_tokens", budget_see_used_OUT },
    { 0 },
};
/* clang-format on */

/* clang-format off */
static const kars_hook_t budget_hooks[] = {
    { .phase = KARS_PHASE_REWRITE, .run = budget_rewrite,
      .flags = KARS_NEEDS_BODY },
    { .phase = KARS_PHASE_ADMIT, .run = budget_admit,
      .flags = KARS_NEEDS_BODY },
    { .phase = KARS_PHASE_LOG, .run = budget_log },
    { 0 },
};
/* clang-format on */

static const kars_filter_def_t budget_filters[] = {
    { .dir = KARS_RESPONSE, .head = budget_head, .body = budget_body },
    { 0 },
};

static const kars_budget_ledger_t budget_ledger = {
    .size = sizeof(budget_ledger),
    .usage = budget_usage,
    .charge = budget_charge,
};

static const kars_service_t budget_provides[] = {
    { "budget.ledger/1", &budget_ledger },
    { 0 },
};

static const kars_os_need_t budget_os_needs[] = {
    { KARS_OS_WRITE, "budget_ledger", "the journal of what was used" },
    { 0 },
};

KARS_MODULE(budget) = {
    KARS_MODULE_HEAD,
    .name = "budget",
    .version = "1.0.0",
    .after = "identity inference governance", /* reserve what was allowed */
    .conf_size = sizeof(budget_conf_t),
    .ctx_size = sizeof(budget_ctx_t),
    .directives = budget_directives,
    .hooks = budget_hooks,
    .filters = budget_filters,
    .json = budget_json,
    .provides = budget_provides,
    .os_needs = budget_os_needs,
    .check = budget_check,
    .worker_start = budget_worker_start,
    .worker_stop = worker_stop,
};
