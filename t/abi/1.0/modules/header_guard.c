/* header_guard.c - words that may not leave in a header, either way. */
#include <kars_module.h>
#include <strings.h>

#define GUARD_USER_MAX 256

typedef struct {
    kars_list_t words;
} guard_conf_t;

typedef struct {
    size_t len;
    char user[GUARD_USER_MAX];
} guard_ctx_t;

/* clang-format off */
static const kars_directive_t guard_directives[] = {
    { .name = "guard_words", .at = KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_LIST, .offset = offsetof(guard_conf_t, words),
      .doc = "words that no header value and no `user` may contain" },
    { 0 },
};
/* clang-format on */

static kars_metric_t *guard_metric;

static void
guard_count(kars_str_t where)
{
    kars_series_add(kars_series(guard_metric, &where), 1);
}

static int
guard_has(const guard_conf_t *gc, kars_str_t text)
{
    for (size_t w = 0; w < gc->words.n; w++) {
        kars_str_t word = gc->words.v[w];

        for (size_t i = 0; word.len + i <= text.len; i++) {
            if (strncasecmp(text.data + i, word.data, word.len) == 0) {
                return 1;
            }
        }
    }
    return 0;
}

static int
guard_refuse(kars_req_t *r, const guard_conf_t *gc, kars_str_t where,
             kars_str_t code, kars_str_t reason)
{
    kars_denial_t no = { .size = sizeof(no),
                         .status = 403,
                         .code = code,
                         .reason = reason, /* the word is not told */
                         .rule = &gc->words };

    guard_count(where);
    return kars_deny(r, &no);
}

typedef struct {
    const guard_conf_t *gc;
    size_t found;
} guard_search_t;

/* DECLINED removes the header; of a request that is refused, no matter. */
static int
guard_header(kars_str_t name, kars_str_t value, void *data)
{
    guard_search_t *s = data;
    int bad = guard_has(s->gc, value);

    s->found += (size_t) bad;
    return bad ? KARS_DECLINED : KARS_OK;
}

static int
guard_rewrite(kars_req_t *r, const void *conf, void *ctx)
{
    guard_search_t s = { .gc = conf };

    if (kars_header_each(r, KARS_REQUEST, guard_header, &s) != KARS_OK) {
        return KARS_ERROR;
    }
    return s.found == 0
               ? KARS_OK
               : guard_refuse(r, conf, KARS_STR("request"),
                              KARS_STR("header_refused"),
                              KARS_STR("a header says what may not leave"));
}

/* The member `user`, in fragments; a longer one than we can read is refused. */
static int
guard_user(kars_req_t *r, kars_str_t text, uint32_t index, uint32_t flags,
           const void *conf, void *ctx)
{
    guard_ctx_t *gx = ctx;

    if ((flags & KARS_FIRST) != 0) {
        gx->len = 0;
    }
    if (text.len > sizeof(gx->user) - gx->len) {
        return KARS_ERROR;
    }
    if (text.len != 0) {
        memcpy(gx->user + gx->len, text.data, text.len);
        gx->len += text.len;
    }
    return KARS_OK;
}

static int
guard_admit(kars_req_t *r, const void *conf, void *ctx)
{
    const guard_ctx_t *gx = ctx;

    if (!guard_has(conf, (kars_str_t){ gx->user, gx->len })) {
        return KARS_OK;
    }
    return guard_refuse(r, conf, KARS_STR("member"), KARS_STR("member_refused"),
                        KARS_STR("`user` says what may not leave"));
}

static int
guard_reply(kars_filter_t *f, const void *conf, void *ctx)
{
    guard_search_t s = { .gc = conf };
    int rc =
        kars_header_each(kars_filter_req(f), KARS_RESPONSE, guard_header, &s);

    for (size_t i = 0; i < s.found; i++) {
        guard_count(KARS_STR("reply"));
    }
    return rc;
}

static int
guard_start(kars_cycle_t *cycle, kars_err_t *err)
{
    static const kars_metric_def_t def = {
        .size = sizeof(def),
        .name = "kars_header_guard_total",
        .help = "Headers and members that held a guarded word",
        .kind = KARS_COUNTER,
        .labels = "where",
    };

    guard_metric = kars_metric(cycle, &def);
    return guard_metric != NULL ? KARS_OK : kars_err(err, 0, "no metric");
}

static const kars_hook_t guard_hooks[] = {
    { .phase = KARS_PHASE_REWRITE, .run = guard_rewrite },
    { .phase = KARS_PHASE_ADMIT, .run = guard_admit, .flags = KARS_NEEDS_BODY },
    { 0 },
};

static const kars_filter_def_t guard_filters[] = {
    { .dir = KARS_RESPONSE, .head = guard_reply },
    { 0 },
};

static const kars_json_watch_t guard_json[] = {
    { KARS_REQUEST, "user", guard_user },
    { 0 },
};

KARS_MODULE(header_guard) = {
    KARS_MODULE_HEAD,
    .name = "header-guard",
    .version = "1.0.0",
    .conf_size = sizeof(guard_conf_t),
    .ctx_size = sizeof(guard_ctx_t),
    .directives = guard_directives,
    .hooks = guard_hooks,
    .filters = guard_filters,
    .json = guard_json,
    .worker_start = guard_start,
};
