/*
 * status.c - how the router fares, for probes, scrapers and the controller.
 * Owns nothing; every answer is made from what the core and the audit sink say
 * at that moment.
 */
#include "kars_module.h"
#include "text.h"

#include <stdio.h>

enum {
    STATUS_HEALTHZ = 0,
    STATUS_READYZ,
    STATUS_METRICS,
    STATUS_POLICY_STATUS
};

typedef struct {
    int32_t what; /* STATUS_* */
} status_conf_t;

/* NULL where no audit module is loaded. */
static const kars_audit_sink_t *status_audit;

/* clang-format off */
static const kars_directive_t status_directives[] = {
    { .name = "status", .at = KARS_AT_ROUTE, .type = KARS_T_ENUM,
      .offset = offsetof(status_conf_t, what),
      .values = "healthz readyz metrics policy_status",
      .doc = "answers with the router's own state" },
    { 0 },
};
/* clang-format on */

static int
status_text(kars_req_t *r, int status, kars_str_t text)
{
    return kars_respond(r, status, KARS_STR("text/plain; charset=utf-8"), text);
}

/* Ready is: a request that is let in now would not be turned away for our own
 * sake. */
static int
status_readyz(kars_req_t *r)
{
    if (kars_cycle_ending(kars_req_cycle(r))) {
        return status_text(r, 503, KARS_STR("not ready — stopping"));
    }
    if (status_audit != NULL && !status_audit->healthy(kars_req_cycle(r))) {
        return status_text(r, 503, KARS_STR("not ready — audit cannot write"));
    }
    return status_text(r, 200, KARS_STR("ok"));
}

static int
status_metrics(kars_req_t *r)
{
    kars_str_t text = kars_metrics_text(r);

    if (text.data == NULL) {
        return KARS_ERROR;
    }
    return kars_respond(
        r, 200, KARS_STR("text/plain; version=0.0.4; charset=utf-8"), text);
}

/* Watched files and upstreams are walked twice: for the room that they need at
 * most (their state may change meanwhile, their names cannot), and to write. */
typedef struct {
    char *p;
    size_t cap;
    size_t n;
    size_t nentries; /* of the list at work */
} status_list_t;

static void
status_room(const kars_upstream_state_t *s, void *data)
{
    ((status_list_t *) data)->cap += STATUS_HEALTH_MAX(s->name.len) + 1;
}

static void
status_room_watched(const kars_watch_state_t *s, void *data)
{
    status_list_t *l = data;

    l->cap += STATUS_WATCHED_MAX(s->kind.len + s->path.len) + 1;
    l->nentries++;
}

static void
status_puts(status_list_t *l, const char *text)
{
    size_t n = strlen(text);

    if (n <= l->cap - l->n) {
        memcpy(l->p + l->n, text, n);
        l->n += n;
    }
}

/* Where the next entry goes: behind a comma, if it is not the first. */
static char *
status_next(status_list_t *l, size_t *ret_cap)
{
    if (l->nentries > 0) {
        status_puts(l, ",");
    }
    *ret_cap = l->cap - l->n;
    return l->p + l->n;
}

static void
status_entry(const kars_upstream_state_t *s, void *data)
{
    status_list_t *l = data;
    size_t cap;
    char *at = status_next(l, &cap);

    l->n += status_health(s, at, cap);
    l->nentries++;
}

static void
status_entry_watched(const kars_watch_state_t *s, void *data)
{
    status_list_t *l = data;
    size_t cap;
    char *at = status_next(l, &cap);

    l->n += status_watched(s, at, cap);
    l->nentries++;
}

static int
status_policy(kars_req_t *r)
{
    static const char head[] = "{\"schema_version\":1,\"count\":%zu,"
                               "\"entries\":[";
    kars_cycle_t *cycle = kars_req_cycle(r);
    status_list_t l = { .cap = sizeof(head) + 64 };

    kars_upstream_each(cycle, status_room, &l);
    kars_watch_each(cycle, status_room_watched, &l);
    l.p = kars_palloc(kars_req_pool(r), l.cap);
    if (l.p == NULL) {
        return KARS_ERROR;
    }

    l.n = (size_t) snprintf(l.p, l.cap, head, l.nentries);
    l.nentries = 0;
    kars_watch_each(cycle, status_entry_watched, &l);
    status_puts(&l, "],\"deployment_health\":[");
    l.nentries = 0;
    kars_upstream_each(cycle, status_entry, &l);
    status_puts(&l, "]}");
    return kars_respond(r, 200, KARS_STR("application/json"),
                        (kars_str_t){ l.p, l.n });
}

static int
status_content(kars_req_t *r, const void *conf, void *ctx)
{
    const status_conf_t *sc = conf;

    switch (sc->what) {
    case STATUS_HEALTHZ:
        return status_text(r, 200, KARS_STR("ok"));
    case STATUS_READYZ:
        return status_readyz(r);
    case STATUS_METRICS:
        return status_metrics(r);
    default:
        return status_policy(r);
    }
}

static const kars_hook_t status_hooks[] = {
    { .phase = KARS_PHASE_CONTENT, .run = status_content },
    { 0 },
};

static const kars_need_t status_needs[] = {
    { "audit.sink/1", (const void **) &status_audit, sizeof(kars_audit_sink_t),
      1 },
    { 0 },
};

KARS_MODULE(status) = {
    KARS_MODULE_HEAD,
    .name = "status",
    .version = "1.0.0",
    .conf_size = sizeof(status_conf_t),
    .directives = status_directives,
    .hooks = status_hooks,
    .needs = status_needs,
};
