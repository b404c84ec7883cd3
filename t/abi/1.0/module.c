/*
 * module.c - a module of ABI 1.0, built with the header that stands beside it:
 * tables of each kind, and an answer that only comes out right when the members
 * and functions are where that header says. WRONG is what a refused one says of
 * itself; see verdicts.txt.
 */
#include "kars_module.h"

#include <fcntl.h>
#include <stdio.h>

#ifndef WRONG
#define WRONG
#endif

typedef struct {
    kars_str_t word;
    kars_list_t list;
    kars_rate_t rate;
    uint64_t wait_ms;
    int32_t kind;
} old_conf_t;

typedef struct {
    size_t len;
    char model[32];
    uint64_t waited_from;
} old_ctx_t;

static kars_metric_t *old_metric;
static const void *old_signing; /* optional */

/* Runs inside dlopen(): the file tells that code of ours has run. */
__attribute__((constructor)) static void
old_intrude(void)
{
#ifdef TRACE
    int fd = open(TRACE, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

    (void) fd;
#endif
}

static int
old_model(kars_req_t *r, kars_str_t text, uint32_t index, uint32_t flags,
          const void *conf, void *ctx)
{
    old_ctx_t *oc = ctx;

    if ((flags & KARS_FIRST) != 0) {
        oc->len = 0;
    }
    if (text.len > sizeof(oc->model) - oc->len) {
        return KARS_ERROR;
    }
    if (text.len != 0) {
        memcpy(oc->model + oc->len, text.data, text.len);
    }
    oc->len += text.len;
    return KARS_OK;
}

static int
old_admit(kars_req_t *r, const void *conf, void *ctx)
{
    const old_conf_t *c = conf;
    const old_ctx_t *oc = ctx;
    kars_denial_t no = { .size = sizeof(no),
                         .status = 403,
                         .code = KARS_STR("old_no"),
                         .reason = KARS_STR("the word is not the model"),
                         .rule = &c->word };

    kars_series_add(kars_series(old_metric, &c->word), 1);
    return kars_str_eq(c->word, (kars_str_t){ oc->model, oc->len })
               ? KARS_OK
               : kars_deny(r, &no);
}

/* word, list, rate, enum, time waited, body size, header, peer's port. */
static int
old_woken(kars_req_t *r, int error, const void *conf, void *ctx)
{
    const old_conf_t *c = conf;
    const old_ctx_t *oc = ctx;
    kars_peer_t peer = { .size = sizeof(peer) };
    char text[400];

    if (kars_req_peer(r, &peer) != KARS_OK) {
        return KARS_ERROR;
    }

    int n =
        snprintf(text, sizeof(text),
                 "%.*s %zu %.*s %llu/%llu %d %s %llu %.*s %.*s:%u %d",
                 KARS_STR_ARG(c->word), c->list.n, KARS_STR_ARG(c->list.v[1]),
                 (unsigned long long) c->rate.count,
                 (unsigned long long) c->rate.per_ms, (int) c->kind,
                 kars_now_ms(kars_req_cycle(r)) - oc->waited_from >= c->wait_ms
                     ? "waited"
                     : "early",
                 (unsigned long long) kars_req_body_size(r),
                 KARS_STR_ARG(kars_header(r, KARS_REQUEST, KARS_STR("x-old"))),
                 KARS_STR_ARG(peer.listener_class), (unsigned) (peer.port != 0),
                 old_signing != NULL);

    return kars_respond(r, 201, KARS_STR("text/plain"),
                        (kars_str_t){ text, (size_t) n });
}

static int
old_content(kars_req_t *r, const void *conf, void *ctx)
{
    const old_conf_t *c = conf;
    old_ctx_t *oc = ctx;

    oc->waited_from = kars_now_ms(kars_req_cycle(r));
    return kars_suspend(r, (uint32_t) c->wait_ms, old_woken) != 0 ? KARS_AGAIN
                                                                  : KARS_ERROR;
}

static int
old_head(kars_filter_t *f, const void *conf, void *ctx)
{
    return kars_header_set(kars_filter_req(f), KARS_RESPONSE,
                           KARS_STR("x-old-made"), KARS_STR("yes"));
}

static int
old_body(kars_filter_t *f, kars_buf_t *in, uint32_t flags, const void *conf,
         void *ctx)
{
    return kars_filter_next(f, in, flags);
}

static int
old_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    const old_conf_t *c = conf;

    return place->active && c->list.n != 2
               ? kars_err(err, 0, "old_list wants two words")
               : KARS_OK;
}

static int
old_start(kars_cycle_t *cycle, kars_err_t *err)
{
    static const kars_metric_def_t def = { .size = sizeof(def),
                                           .name = "kars_old_total",
                                           .help = "requests, by word",
                                           .kind = KARS_COUNTER,
                                           .labels = "word" };

    old_metric = kars_metric(cycle, &def);
    return old_metric != NULL ? KARS_OK : kars_err(err, 0, "no metric");
}

static int
old_command(kars_cycle_t *cycle, int argc, char **argv)
{
    return puts("of ABI 1.0") < 0;
}

/* clang-format off */
#define OLD_ROW(field, word, kind) \
    .name = word, .at = KARS_AT_ROUTE, .type = kind, \
    .offset = offsetof(old_conf_t, field), .doc = "of a module of ABI 1.0"
static const kars_directive_t old_directives[] = {
    { OLD_ROW(word,    "old_word", KARS_T_STR) },
    { OLD_ROW(list,    "old_list", KARS_T_LIST) },
    { OLD_ROW(rate,    "old_rate", KARS_T_RATE) },
    { OLD_ROW(wait_ms, "old_wait", KARS_T_MSEC), .dflt = "20ms" },
    { OLD_ROW(kind,    "old_kind", KARS_T_ENUM), .values = "a b c",
      .dflt = "b" },
    { 0 },
};
static const kars_hook_t old_hooks[] = {
    { .phase = KARS_PHASE_ADMIT,   .run = old_admit,
      .flags = KARS_NEEDS_BODY },
    { .phase = KARS_PHASE_CONTENT, .run = old_content },
    { 0 },
};
static const kars_filter_def_t old_filters[] = {
    { .dir = KARS_RESPONSE, .head = old_head, .body = old_body },
    { 0 },
};
static const kars_json_watch_t old_watches[] = {
    { KARS_REQUEST, "model", old_model },
    { 0 },
};
static const struct { size_t size; } old_vtable = { sizeof(old_vtable) };
static const kars_service_t old_services[] = {
    { "old.nothing/1", &old_vtable },
    { 0 },
};
static const kars_need_t old_needs[] = {
    { "signing/1", &old_signing, sizeof(kars_signing_t), 1 },
    { 0 },
};
static const kars_os_need_t old_os[] = {
    { KARS_OS_READ, "/etc", "so that there is a row" },
    { 0 },
};
static const kars_command_t old_commands[] = {
    { .name = "old-command", .run = old_command, .doc = "says its ABI" },
    { 0 },
};

KARS_MODULE(old) = {
    KARS_MODULE_HEAD,
    .name = "old",
    .version = "1.0.0",
    .conf_size = sizeof(old_conf_t),
    .ctx_size = sizeof(old_ctx_t),
    .directives = old_directives,
    .hooks = old_hooks,
    .filters = old_filters,
    .json = old_watches,
    .provides = old_services,
    .needs = old_needs,
    .os_needs = old_os,
    .commands = old_commands,
    .check = old_check,
    .worker_start = old_start,
    WRONG
};
/* clang-format on */
