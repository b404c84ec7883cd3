/*
 * limit.c - how often, and how many at once, for each caller.
 *
 * Counts are in an area of the zone, so that they hold for all workers together
 * and over reloads. Owns nothing else.
 */
#include "kars_module.h"
#include "table.h"

#include <errno.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>

#define LIMIT_RULES 8u /* of one level, and of one kind */
#define LIMIT_NS    1000000u
#define LIMIT_BURST 1000000u

enum { LIMIT_PRINCIPAL = 0, LIMIT_CLASS, LIMIT_ADDR, LIMIT_UID };

static const char *const limit_keys[] = { "principal", "class", "remote_addr",
                                          "remote_uid" };

typedef struct {
    uint32_t key;      /* LIMIT_* */
    uint64_t every_ns; /* between two requests; 0: the limit is on open ones */
    uint64_t n;        /* more than one at once, or open requests */
    uint64_t count;    /* of the rate */
    kars_str_t id;     /* which limit it is: kind, words and place */
    kars_str_t rule;   /* for the refusal: directive, file and line */
} limit_rule_t;

typedef struct {
    uint64_t slots;
    const void *owner; /* the level that made the rules: others copy them */
    limit_rule_t *rules;
    size_t nrules;
    const void *open_owner;
    limit_rule_t *opens;
    size_t nopens;
} limit_conf_t;

typedef struct {
    table_key_t open[LIMIT_RULES]; /* counted, for LOG to take back */
    size_t nopen;
    uint32_t passed;
} limit_ctx_t;

/* Of this process. */
static struct {
    kars_area_t *area;
    uint64_t nslots;
    kars_metric_t *refused;
} limit_worker;

/* Directives. */

static int
limit_set_key(kars_str_t word, uint32_t *ret, kars_err_t *err)
{
    for (uint32_t i = 0; i < KARS_NELTS(limit_keys); i++) {
        if (kars_str_eq(word,
                        (kars_str_t){ limit_keys[i], strlen(limit_keys[i]) })) {
            *ret = i;
            return KARS_OK;
        }
    }
    return kars_err(err, 0,
                    "expected principal, class, remote_addr or remote_uid, got "
                    "\"%.*s\"",
                    KARS_STR_ARG(word));
}

/* "limit_requests router.conf:41" and the same with its words. */
static int
limit_set_name(const kars_setting_t *s, limit_rule_t *r, kars_err_t *err)
{
    size_t n = s->argv[0].len + strlen(s->file) + 16;
    size_t room = n;

    for (size_t i = 1; i < s->argc; i++) {
        room += s->argv[i].len + 1;
    }

    char *rule = kars_palloc(s->pool, n);
    char *id = kars_palloc(s->pool, room);

    if (rule == NULL || id == NULL) {
        return kars_err(err, ENOMEM, "a limit");
    }
    r->rule.data = rule;
    r->rule.len = (size_t) snprintf(rule, n, "%.*s %s:%u",
                                    KARS_STR_ARG(s->argv[0]), s->file, s->line);
    memcpy(id, rule, r->rule.len);
    r->id = (kars_str_t){ id, r->rule.len };
    for (size_t i = 1; i < s->argc; i++) {
        id[r->id.len++] = ' ';
        memcpy(id + r->id.len, s->argv[i].data, s->argv[i].len);
        r->id.len += s->argv[i].len;
    }
    return KARS_OK;
}

/* One more in the list of this level. */
static int
limit_add(const kars_setting_t *s, const void *conf, const void **owner,
          limit_rule_t **list, size_t *n, const limit_rule_t *r,
          kars_err_t *err)
{
    if (*owner != conf) { /* what came from outside is replaced */
        *owner = conf;
        *n = 0;
        *list = kars_pnewn(s->pool, limit_rule_t, LIMIT_RULES);
    }
    if (*list == NULL || *n == LIMIT_RULES) {
        return kars_err(err, 0, "no more than %u %.*s", LIMIT_RULES,
                        KARS_STR_ARG(s->argv[0]));
    }
    (*list)[(*n)++] = *r;
    return KARS_OK;
}

static int
limit_set_word(const kars_setting_t *s, kars_str_t w, limit_rule_t *r,
               kars_err_t *err)
{
    kars_str_t rate = KARS_STR("rate=");
    kars_str_t burst = KARS_STR("burst=");
    kars_rate_t per;

    if (kars_str_starts(w, rate)) {
        w = (kars_str_t){ w.data + rate.len, w.len - rate.len };
        if (kars_parse(s, KARS_T_RATE, w, &per, err) != KARS_OK) {
            return KARS_ERROR;
        }
        if (per.count == 0 || per.per_ms == 0 ||
            per.count > per.per_ms * LIMIT_NS ||
            per.per_ms > 86400000ull * 31) {
            return kars_err(err, 0, "rate= from one a month to 1000/1ms");
        }
        r->every_ns = per.per_ms * LIMIT_NS / per.count;
        r->count = per.count;
        return KARS_OK;
    }
    if (kars_str_starts(w, burst)) {
        w = (kars_str_t){ w.data + burst.len, w.len - burst.len };
        if (kars_parse(s, KARS_T_COUNT, w, &r->n, err) != KARS_OK) {
            return KARS_ERROR;
        }
        return r->n <= LIMIT_BURST ? KARS_OK
                                   : kars_err(err, 0, "burst= to 1m at most");
    }
    return kars_err(err, 0, "expected rate=COUNT/TIME or burst=COUNT");
}

/* limit_requests KEY rate=COUNT/TIME [burst=COUNT] */
static int
limit_set_requests(const kars_setting_t *s, void *conf, kars_err_t *err)
{
    limit_conf_t *lc = conf;
    limit_rule_t r = { .n = UINT64_MAX };

    if (s->argc == 2 && kars_str_eq(s->argv[1], KARS_STR("off"))) {
        lc->owner = conf;
        lc->nrules = 0;
        lc->rules = kars_pnewn(s->pool, limit_rule_t, LIMIT_RULES);
        return KARS_OK;
    }
    if (s->argc < 3 || limit_set_key(s->argv[1], &r.key, err) != KARS_OK) {
        return s->argc < 3
                   ? kars_err(err, 0,
                              "expected `limit_requests KEY rate=COUNT/TIME "
                              "[burst=COUNT];`")
                   : KARS_ERROR;
    }
    for (size_t i = 2; i < s->argc; i++) {
        if (limit_set_word(s, s->argv[i], &r, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    if (r.every_ns == 0) {
        return kars_err(err, 0, "\"limit_requests\" needs rate=");
    }
    if (r.n == UINT64_MAX) { /* as many at once as the rate says */
        r.n = r.count - 1 < LIMIT_BURST ? r.count - 1 : LIMIT_BURST;
    }
    return limit_set_name(s, &r, err) == KARS_OK
               ? limit_add(s, conf, &lc->owner, &lc->rules, &lc->nrules, &r,
                           err)
               : KARS_ERROR;
}

/* limit_connections KEY COUNT */
static int
limit_set_connections(const kars_setting_t *s, void *conf, kars_err_t *err)
{
    limit_conf_t *lc = conf;
    limit_rule_t r = { 0 };

    if (s->argc == 2 && kars_str_eq(s->argv[1], KARS_STR("off"))) {
        lc->open_owner = conf;
        lc->nopens = 0;
        lc->opens = kars_pnewn(s->pool, limit_rule_t, LIMIT_RULES);
        return KARS_OK;
    }
    if (s->argc != 3) {
        return kars_err(err, 0, "expected `limit_connections KEY COUNT;`");
    }
    if (limit_set_key(s->argv[1], &r.key, err) != KARS_OK ||
        kars_parse(s, KARS_T_COUNT, s->argv[2], &r.n, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (r.n == 0) {
        return kars_err(err, 0, "at least one connection");
    }
    return limit_set_name(s, &r, err) == KARS_OK
               ? limit_add(s, conf, &lc->open_owner, &lc->opens, &lc->nopens,
                           &r, err)
               : KARS_ERROR;
}

/* clang-format off */
static const kars_directive_t limit_directives[] = {
    { .name = "limit_slots", .at = KARS_AT_MAIN, .type = KARS_T_COUNT,
      .offset = offsetof(limit_conf_t, slots), .dflt = "8k",
      .doc = "callers whose counts are kept, rounded up to a power of two; 64 "
             "bytes of the zone each" },
    { .name = "limit_requests", .type = KARS_T_CUSTOM,
      .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .flags = KARS_D_REPEAT, .set = limit_set_requests,
      .doc = "KEY rate=COUNT/TIME [burst=COUNT]: requests of each principal, "
             "class, remote_addr or remote_uid; more is 429; off: none" },
    { .name = "limit_connections", .type = KARS_T_CUSTOM,
      .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .flags = KARS_D_REPEAT, .set = limit_set_connections,
      .doc = "KEY COUNT: connections of each such key that have an open "
             "request; more is 429; off: none" },
    { 0 },
};
/* clang-format on */

/* Requests. */

/* IPv6 by its /64: one host has all of it. */
static kars_str_t
limit_value(kars_req_t *r, uint32_t key, kars_peer_t *peer)
{
    peer->size = sizeof(*peer);
    switch (key) {
    case LIMIT_PRINCIPAL:
        return kars_req_principal(r);
    case LIMIT_CLASS:
        return kars_req_class(r);
    case LIMIT_ADDR:
        if (kars_req_peer(r, peer) != KARS_OK || peer->family == AF_UNIX) {
            return KARS_STR("");
        }
        return (kars_str_t){ (const char *) peer->addr,
                             peer->family == AF_INET ? 4u : 8u };
    default:
        if (kars_req_peer(r, peer) != KARS_OK || peer->family != AF_UNIX) {
            return KARS_STR("");
        }
        return (kars_str_t){ (const char *) &peer->uid, sizeof(peer->uid) };
    }
}

static table_key_t
limit_key(kars_req_t *r, const limit_rule_t *rule, const void *table)
{
    kars_peer_t peer;
    kars_str_t pieces[2] = { rule->id, limit_value(r, rule->key, &peer) };

    return table_key(table, pieces, 2);
}

/* Locks; a table whose last holder died inside begins anew. */
static void *
limit_lock(void)
{
    table_head_t *h = kars_area_data(limit_worker.area);
    int rc = kars_area_lock(limit_worker.area);
    uint64_t seed[4];

    if (rc == KARS_DONE || h->nslots == 0) {
        (void) !getrandom(seed, sizeof(seed), 0);
        table_init(h, limit_worker.nslots, seed);
    }
    return h;
}

static int
limit_refuse(kars_req_t *r, const limit_rule_t *rule, uint64_t wait_ns,
             kars_str_t code, kars_str_t reason)
{
    uint64_t wait_ms = wait_ns / LIMIT_NS + 1;
    kars_denial_t no = {
        .size = sizeof(no),
        .status = 429,
        .retry_after_ms =
            wait_ms > UINT32_MAX ? UINT32_MAX : (uint32_t) wait_ms,
        .code = code,
        .type = KARS_STR("rate_limit_error"),
        .reason = reason,
        .rule_text = rule->rule,
    };

    kars_series_add(kars_series(limit_worker.refused, &code), 1);
    return kars_deny(r, &no);
}

static int
limit_alive(void *cycle, uint64_t worker)
{
    return kars_worker_alive(cycle, worker);
}

static int
limit_connections(kars_req_t *r, const limit_conf_t *lc, limit_ctx_t *lx)
{
    kars_cycle_t *c = kars_req_cycle(r);
    const limit_rule_t *rule = NULL;
    void *table = limit_lock();
    int rc = KARS_OK;

    for (size_t i = 0; i < lc->nopens && rc == KARS_OK; i++) {
        rule = &lc->opens[i];

        table_key_t key = limit_key(r, rule, table);

        rc = table_open(table, key, kars_worker_id(c), rule->n, limit_alive, c);
        if (rc == KARS_OK) {
            lx->open[lx->nopen++] = key;
        }
    }
    kars_area_unlock(limit_worker.area);
    if (rc == KARS_OK) {
        return KARS_OK;
    }
    return limit_refuse(
        r, rule, 0, KARS_STR("connections_limited"),
        rc == KARS_DECLINED
            ? KARS_STR("too many requests of this caller are open")
            : KARS_STR("too many callers have open requests (limit_slots)"));
}

/* All limits are asked before one is taken from: what is refused by one of
 * them costs nothing of the others' but for those before it. */
static int
limit_requests(kars_req_t *r, const limit_conf_t *lc)
{
    uint64_t now = kars_now_ms(kars_req_cycle(r)) * LIMIT_NS;
    const limit_rule_t *rule = NULL;
    void *table = limit_lock();
    uint64_t wait = 0;

    for (size_t i = 0; i < lc->nrules && wait == 0; i++) {
        rule = &lc->rules[i];
        wait = table_take(table, limit_key(r, rule, table), now, rule->every_ns,
                          rule->n);
    }
    kars_area_unlock(limit_worker.area);
    return wait == 0 ? KARS_OK
                     : limit_refuse(r, rule, wait, KARS_STR("rate_limited"),
                                    KARS_STR("too many requests of this "
                                             "caller; wait as Retry-After "
                                             "says"));
}

/* Once for a request: a rewrite may bring it here again. */
static int
limit_access(kars_req_t *r, const void *conf, void *ctx)
{
    const limit_conf_t *lc = conf;
    limit_ctx_t *lx = ctx;

    if (lx->passed || limit_worker.area == NULL) {
        return KARS_OK;
    }
    lx->passed = 1;
    if (lc->nrules != 0) {
        int rc = limit_requests(r, lc);

        if (rc != KARS_OK) {
            return rc;
        }
    }
    return lc->nopens != 0 ? limit_connections(r, lc, lx) : KARS_OK;
}

static int
limit_log(kars_req_t *r, const void *conf, void *ctx)
{
    limit_ctx_t *lx = ctx;

    if (lx->nopen == 0) {
        return KARS_OK;
    }

    void *table = limit_lock();

    while (lx->nopen > 0) {
        table_close(table, lx->open[--lx->nopen],
                    kars_worker_id(kars_req_cycle(r)));
    }
    kars_area_unlock(limit_worker.area);
    return KARS_OK;
}

static int
limit_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    const limit_conf_t *lc = conf;

    return place->at == KARS_AT_MAIN && lc->slots > 16u << 20
               ? kars_err(err, 0, "limit_slots: at most 16m")
               : KARS_OK;
}

static int
limit_start(kars_cycle_t *cycle, kars_err_t *err)
{
    const limit_conf_t *lc = kars_cycle_conf(cycle);
    static const kars_metric_def_t refused = {
        .size = sizeof(refused),
        .name = "kars_limit_refused_total",
        .help = "Requests refused by a limit, by code",
        .kind = KARS_COUNTER,
        .labels = "code",
    };
    size_t size = table_size(lc->slots, &limit_worker.nslots);

    limit_worker.refused = kars_metric(cycle, &refused);
    limit_worker.area = kars_area(cycle, KARS_STR("limit.table"), size, 1, err);
    return limit_worker.area != NULL ? KARS_OK : KARS_ERROR;
}

static const kars_hook_t limit_hooks[] = {
    { .phase = KARS_PHASE_ACCESS, .run = limit_access },
    { .phase = KARS_PHASE_LOG, .run = limit_log },
    { 0 },
};

KARS_MODULE(limit) = {
    KARS_MODULE_HEAD,
    .name = "limit",
    .version = "1.0.0",
    .conf_size = sizeof(limit_conf_t),
    .ctx_size = sizeof(limit_ctx_t),
    .directives = limit_directives,
    .hooks = limit_hooks,
    .after = "identity",
    .check = limit_check,
    .worker_start = limit_start,
};
