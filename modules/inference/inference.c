/*
 * inference.c - the OpenAI surface of a route: which model is asked for, may
 * it be, where does the request go, and what of the reply comes back.
 *
 * Owns: per request the model's name and the token counts of the reply (ctx);
 * per worker three metrics.
 */
#include "kars_module.h"
#include "text.h"

#include <errno.h>
#include <stdio.h>

enum { INFERENCE_CHAT = 0, INFERENCE_MODELS = 1 };

/* What the body said of a member. */
enum { MEMBER_ABSENT = 0, MEMBER_GIVEN, MEMBER_WRONG_TYPE };

enum { TOKENS_IN = 0, TOKENS_OUT, TOKENS_TOTAL, TOKENS_N };

typedef struct {
    int32_t kind; /* INFERENCE_* */
    int32_t provider;
    kars_str_t base;
    kars_list_t models;
    kars_str_t default_model;
    kars_str_t default_json; /* the same as a JSON text; made by check */
} inference_conf_t;

typedef struct {
    uint64_t started_ms; /* 0: never came as far as REWRITE */
    uint32_t model_state;
    uint32_t stream_state;
    uint32_t passed; /* the reply is an upstream's, not one of ours */
    uint32_t bad_tokens;
    size_t model_len;
    int64_t tokens[TOKENS_N];
    char model[INFERENCE_MAX_MODEL + 1]; /* one more: to see that it is long */
} inference_ctx_t;

/* Per worker; a worker has one configuration all its life. */
static struct {
    kars_metric_t *requests;
    kars_metric_t *latency;
    kars_metric_t *tokens;
} inference_metrics;

/* clang-format off */
static const kars_directive_t inference_directives[] = {
    { .name = "inference", .at = KARS_AT_ROUTE, .type = KARS_T_ENUM,
      .offset = offsetof(inference_conf_t, kind), .values = "chat models",
      .doc = "what this route serves: chat completions, or the list of models" },
    { .name = "provider",
      .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_ENUM, .flags = KARS_D_PASSIVE,
      .offset = offsetof(inference_conf_t, provider),
      .dflt = "openai", .values = "openai",
      .doc = "the dialect that the upstream speaks" },
    { .name = "provider", .key = "base",
      .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_STR, .flags = KARS_D_PASSIVE,
      .offset = offsetof(inference_conf_t, base), .dflt = "/v1",
      .doc = "the upstream's path in place of our /v1" },
    { .name = "models",
      .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_LIST, .flags = KARS_D_PASSIVE,
      .offset = offsetof(inference_conf_t, models),
      .doc = "models that may be asked for, by exact name; absent: all" },
    { .name = "default_model",
      .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_STR, .flags = KARS_D_PASSIVE,
      .offset = offsetof(inference_conf_t, default_model),
      .doc = "the model of a request that names none" },
    { 0 },
};
/* clang-format on */

static kars_str_t
inference_model(const inference_ctx_t *mx)
{
    return (kars_str_t){ mx->model, mx->model_len };
}

static void
inference_model_take(inference_ctx_t *mx, kars_str_t text)
{
    size_t room = sizeof(mx->model) - mx->model_len;
    size_t n = text.len < room ? text.len : room;

    if (n > 0) {
        memcpy(mx->model + mx->model_len, text.data, n);
        mx->model_len += n;
    }
}

/* What another type than string means is said in REWRITE, where a refusal can
 * carry a reason. */
static int
inference_see_model(kars_req_t *r, kars_str_t text, uint32_t index,
                    uint32_t flags, const void *conf, void *ctx)
{
    inference_ctx_t *mx = ctx;

    if ((flags & KARS_FIRST) != 0 || (flags & KARS_JSON_STRING) == 0) {
        mx->model_len = 0;
    }

    if ((flags & KARS_JSON_NULL) != 0) {
        mx->model_state = MEMBER_ABSENT;
    } else if ((flags & KARS_JSON_STRING) == 0) {
        mx->model_state = MEMBER_WRONG_TYPE;
    } else {
        mx->model_state = MEMBER_GIVEN;
        inference_model_take(mx, text);
    }
    return KARS_OK;
}

static int
inference_see_stream(kars_req_t *r, kars_str_t text, uint32_t index,
                     uint32_t flags, const void *conf, void *ctx)
{
    inference_ctx_t *mx = ctx;
    uint32_t known = KARS_JSON_TRUE | KARS_JSON_FALSE | KARS_JSON_NULL;

    mx->stream_state = (flags & known) != 0 ? MEMBER_GIVEN : MEMBER_WRONG_TYPE;
    return kars_number_set(r, KARS_STR("stream"),
                           (flags & KARS_JSON_TRUE) != 0);
}

static int
inference_refuse(kars_req_t *r, int status, kars_str_t code, kars_str_t reason)
{
    kars_denial_t no = { .size = sizeof(no),
                         .status = status,
                         .code = code,
                         .type = KARS_STR("invalid_request_error"),
                         .reason = reason };

    return kars_deny(r, &no);
}

static int
inference_invalid(kars_req_t *r, const char *reason)
{
    return inference_refuse(r, 400, KARS_STR("invalid_request"),
                            (kars_str_t){ reason, strlen(reason) });
}

/* model and action, as policy, budget and audit read them. */
static int
inference_publish(kars_req_t *r, const inference_conf_t *ic,
                  const inference_ctx_t *mx)
{
    kars_str_t model = inference_model(mx);
    kars_str_t what = ic->kind == INFERENCE_CHAT
                          ? KARS_STR("inference:chat_completions:")
                          : KARS_STR("inference:models:");
    char *p = kars_palloc(kars_req_pool(r), what.len + model.len);

    if (p == NULL) {
        return KARS_ERROR;
    }

    memcpy(p, what.data, what.len);
    memcpy(p + what.len, model.data, model.len);
    kars_str_t action = { p, what.len + model.len };

    if (kars_var_set(r, KARS_STR("model"), model) != KARS_OK) {
        return KARS_ERROR;
    }
    return kars_var_set(r, KARS_STR("action"), action);
}

/* REWRITE, before the body: what the head alone can decide. */
static int
inference_head(kars_req_t *r, const void *conf, void *ctx)
{
    const inference_conf_t *ic = conf;
    inference_ctx_t *mx = ctx;
    kars_str_t type = kars_header(r, KARS_REQUEST, KARS_STR("content-type"));

    if (mx->started_ms == 0) {
        mx->started_ms = kars_now_ms(kars_req_cycle(r));
    }

    if (inference_publish(r, ic, mx) != KARS_OK) {
        return KARS_ERROR; /* known to audit even when the body is refused */
    }

    if (ic->kind == INFERENCE_CHAT &&
        type.len == 0) { /* none: what it must be */
        type = KARS_STR("application/json");
        if (kars_header_set(r, KARS_REQUEST, KARS_STR("content-type"), type) !=
            KARS_OK) {
            return KARS_ERROR;
        }
    }
    if (ic->kind == INFERENCE_CHAT &&
        !inference_is_type(type, KARS_STR("application/json"))) {
        return inference_refuse(r, 415, KARS_STR("unsupported_media_type"),
                                KARS_STR("content-type must be "
                                         "application/json"));
    }

    /* What is compressed cannot be looked into, so it is not asked for. */
    return kars_header_set(r, KARS_REQUEST, KARS_STR("accept-encoding"),
                           KARS_STR("identity"));
}

static int
inference_default(kars_req_t *r, const inference_conf_t *ic,
                  inference_ctx_t *mx)
{
    if (ic->default_model.len == 0) {
        return ic->models.n == 0
                   ? KARS_OK /* the backend has one of its own, or says no */
                   : inference_invalid(r, "model must be given: only the "
                                          "models of `models` may be used");
    }

    if (kars_json_set(r, KARS_STR("model"), ic->default_json) != KARS_OK) {
        return KARS_ERROR;
    }

    mx->model_len = 0;
    mx->model_state = MEMBER_GIVEN;
    inference_model_take(mx, ic->default_model);
    return KARS_OK;
}

/* REWRITE, with the body: the model's name, ours where the caller gave none. */
static int
inference_rewrite(kars_req_t *r, const void *conf, void *ctx)
{
    const inference_conf_t *ic = conf;
    inference_ctx_t *mx = ctx;

    if (ic->kind != INFERENCE_CHAT) {
        return KARS_OK;
    }

    if (mx->model_state == MEMBER_WRONG_TYPE) {
        return inference_invalid(r, "model must be a string");
    }

    if (mx->stream_state == MEMBER_WRONG_TYPE) {
        return inference_invalid(r, "stream must be true or false");
    }

    if (mx->model_state == MEMBER_ABSENT) {
        int rc = inference_default(r, ic, mx);

        return rc != KARS_OK ? rc : inference_publish(r, ic, mx);
    }

    const char *fault = inference_model_fault(inference_model(mx));

    return fault != NULL ? inference_invalid(r, fault)
                         : inference_publish(r, ic, mx);
}

/* The line that the caller reads; the request's pool owns it. */
static kars_str_t
inference_reason(kars_req_t *r, kars_str_t model)
{
    static const char fmt[] = "Blocked by governance policy: model %.*s is "
                              "not in `models`";
    size_t cap = sizeof(fmt) + model.len;
    char *p = kars_palloc(kars_req_pool(r), cap);

    if (p == NULL) {
        return KARS_STR("Blocked by governance policy: this model is not in "
                        "`models`");
    }

    int n = snprintf(p, cap, fmt, KARS_STR_ARG(model));
    return (kars_str_t){ p, (size_t) n };
}

/* ADMIT: may this model be asked? Runs again when a later hook changes it. */
static int
inference_admit(kars_req_t *r, const void *conf, void *ctx)
{
    const inference_conf_t *ic = conf;
    const inference_ctx_t *mx = ctx;
    kars_str_t model = inference_model(mx);

    if (ic->kind != INFERENCE_CHAT) {
        return KARS_OK;
    }

    /* A hook after us may have put something else there since REWRITE. */
    if (inference_publish(r, ic, mx) != KARS_OK) {
        return KARS_ERROR;
    }

    if (ic->models.n == 0 || (mx->model_state == MEMBER_GIVEN &&
                              inference_listed(&ic->models, model))) {
        return KARS_OK;
    }

    kars_denial_t no = { .size = sizeof(no),
                         .status = 403,
                         .code = KARS_STR("policy_denied"),
                         .type = KARS_STR("policy_violation"),
                         .reason = inference_reason(r, model),
                         .rule = &ic->models };
    return kars_deny(r, &no);
}

/* CONTENT: to the route's upstream, under the provider's path. */
static int
inference_content(kars_req_t *r, const void *conf, void *ctx)
{
    const inference_conf_t *ic = conf;
    inference_ctx_t *mx = ctx;
    kars_str_t path = kars_req_path(r);
    kars_str_t query = kars_req_query(r);
    kars_str_t own = ic->kind == INFERENCE_CHAT ? KARS_STR("/chat/completions")
                                                : KARS_STR("/models");
    size_t cap = ic->base.len + 3 * (path.len + own.len) + query.len + 1;
    char *p = kars_palloc(kars_req_pool(r), cap);

    if (p == NULL) {
        return KARS_ERROR;
    }

    kars_pass_t pass = {
        .size = sizeof(pass),
        .path = { p, inference_path(ic->base, path, own, query, p, cap) },
    };

    if (pass.path.len == 0) {
        return inference_refuse(r, 400, KARS_STR("invalid_path"),
                                KARS_STR("the path has a dot segment"));
    }

    mx->passed = 1;
    return kars_pass(r, &pass);
}

static int
inference_keep_header(kars_str_t name, kars_str_t value, void *data)
{
    return inference_header_passes(name, *(const int *) data) ? KARS_OK
                                                              : KARS_DECLINED;
}

/* One value that is not identity is enough: there may be several fields. */
static int
inference_see_encoding(kars_str_t name, kars_str_t value, void *data)
{
    if (inference_ieq(name, KARS_STR("content-encoding")) &&
        !inference_is_identity(value)) {
        *(int *) data = 1;
    }
    return KARS_OK;
}

/* The head of an upstream's reply: refused if it cannot be read, and only what
 * is ours to pass goes on. */
static int
inference_filter_head(kars_filter_t *f, const void *conf, void *ctx)
{
    inference_ctx_t *mx = ctx;
    kars_req_t *r = kars_filter_req(f);
    int encoded = 0;

    if (!mx->passed) {
        return KARS_OK; /* a denial, or an answer of another module */
    }

    if (kars_header_each(r, KARS_RESPONSE, inference_see_encoding, &encoded) !=
        KARS_OK) {
        return KARS_ERROR;
    }

    if (encoded) {
        kars_denial_t no = { .size = sizeof(no),
                             .status = 502,
                             .code = KARS_STR("unsupported_encoding"),
                             .type = KARS_STR("proxy_error"),
                             .reason = KARS_STR("the backend compressed its "
                                                "answer, unasked") };

        mx->passed = 0; /* what follows is our own denial */
        return kars_filter_deny(f, &no);
    }

    int events = inference_is_type(
        kars_header(r, KARS_RESPONSE, KARS_STR("content-type")),
        KARS_STR("text/event-stream"));

    return kars_header_each(r, KARS_RESPONSE, inference_keep_header, &events);
}

/* A count of the reply's usage. A stream may say it more than once: the last
 * one holds. Where budget is loaded it sees and sets the same. */
static int
inference_see_tokens(kars_req_t *r, inference_ctx_t *mx, uint32_t which,
                     kars_str_t text, uint32_t flags)
{
    static const char *const names[TOKENS_N] = { "tokens_in", "tokens_out",
                                                 "tokens_total" };
    uint32_t bit = 1u << which;

    if ((flags & KARS_JSON_NUMBER) == 0) {
        return KARS_OK; /* `"usage": null` of the chunks before the last */
    }

    if ((flags & KARS_FIRST) != 0) {
        mx->tokens[which] = 0;
        mx->bad_tokens &= ~bit;
    }

    if (inference_digits(text, &mx->tokens[which]) != KARS_OK) {
        mx->bad_tokens |= bit; /* a fraction, or a negative number */
    }

    if ((flags & KARS_LAST) == 0 || (mx->bad_tokens & bit) != 0) {
        return KARS_OK;
    }

    return kars_number_set(r,
                           (kars_str_t){ names[which], strlen(names[which]) },
                           mx->tokens[which]);
}

static int
inference_see_in(kars_req_t *r, kars_str_t text, uint32_t index, uint32_t flags,
                 const void *conf, void *ctx)
{
    return inference_see_tokens(r, ctx, TOKENS_IN, text, flags);
}

static int
inference_see_out(kars_req_t *r, kars_str_t text, uint32_t index,
                  uint32_t flags, const void *conf, void *ctx)
{
    return inference_see_tokens(r, ctx, TOKENS_OUT, text, flags);
}

static int
inference_see_total(kars_req_t *r, kars_str_t text, uint32_t index,
                    uint32_t flags, const void *conf, void *ctx)
{
    return inference_see_tokens(r, ctx, TOKENS_TOTAL, text, flags);
}

/* A label of the operator's making, or of a backend's that took the name:
 * what an agent merely asks for creates no series. */
static kars_str_t
inference_label(const inference_conf_t *ic, const inference_ctx_t *mx, int ok)
{
    kars_str_t model = inference_model(mx);
    int known = ic->models.n > 0 ? inference_listed(&ic->models, model)
                                 : ok || kars_str_eq(model, ic->default_model);

    return known && model.len > 0 ? model : KARS_STR("other");
}

/* LOG: the counters of docs/compat.md 6. */
static int
inference_log(kars_req_t *r, const void *conf, void *ctx)
{
    const inference_conf_t *ic = conf;
    const inference_ctx_t *mx = ctx;
    kars_cycle_t *cycle = kars_req_cycle(r);
    int64_t status = kars_req_number(r, KARS_STR("status"));
    int ok = status >= 200 && status < 400;

    if (ic->kind != INFERENCE_CHAT || mx->started_ms == 0) {
        return KARS_OK;
    }

    kars_str_t labels[3] = { kars_cycle_sandbox(cycle),
                             inference_label(ic, mx, ok),
                             ok ? KARS_STR("ok") : KARS_STR("error") };
    uint64_t ms = kars_now_ms(cycle) - mx->started_ms;

    kars_series_add(kars_series(inference_metrics.requests, labels), 1);
    kars_series_add(kars_series(inference_metrics.latency, labels),
                    (double) ms / 1000);

    int64_t in = kars_req_number(r, KARS_STR("tokens_in"));
    int64_t out = kars_req_number(r, KARS_STR("tokens_out"));

    if (in > 0) {
        labels[2] = KARS_STR("input");
        kars_series_add(kars_series(inference_metrics.tokens, labels),
                        (double) in);
    }

    if (out > 0) {
        labels[2] = KARS_STR("output");
        kars_series_add(kars_series(inference_metrics.tokens, labels),
                        (double) out);
    }
    return KARS_OK;
}

static int
inference_check_default(const kars_place_t *place, inference_conf_t *ic,
                        kars_err_t *err)
{
    const char *fault = inference_model_fault(ic->default_model);
    size_t cap = 6 * ic->default_model.len + 2;

    if (fault != NULL) {
        return kars_err(err, EINVAL, "default_model: %s", fault);
    }

    if (ic->models.n > 0 && !inference_listed(&ic->models, ic->default_model)) {
        return kars_err(err, EINVAL,
                        "default_model \"%.*s\" is not in `models`",
                        KARS_STR_ARG(ic->default_model));
    }

    char *p = kars_palloc(place->pool, cap);

    if (p == NULL) {
        return kars_err(err, ENOMEM, "default_model");
    }
    ic->default_json =
        (kars_str_t){ p, inference_quote(ic->default_model, p, cap) };
    return KARS_OK;
}

static int
inference_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    inference_conf_t *ic = conf;

    if (place->at != KARS_AT_ROUTE || !place->active) {
        return KARS_OK; /* main's values count where a route inherits them */
    }

    if (place->route_upstream == NULL) {
        return kars_err(err, EINVAL,
                        "route %.*s: `inference` needs a `pass` to the "
                        "upstream that answers",
                        KARS_STR_ARG(place->route_path));
    }

    if (!inference_base_ok(ic->base)) {
        return kars_err(err, EINVAL,
                        "provider base \"%.*s\" is not a plain path",
                        KARS_STR_ARG(ic->base));
    }

    return ic->default_model.len == 0 ? KARS_OK
                                      : inference_check_default(place, ic, err);
}

static int
inference_worker_start(kars_cycle_t *cycle, kars_err_t *err)
{
    static const double seconds[] = { .1, .25, .5, 1, 2.5, 5, 10, 30 };
    static const kars_metric_def_t requests = {
        .size = sizeof(requests),
        .name = "kars_inference_requests_total",
        .help = "Chat requests, by what became of them.",
        .kind = KARS_COUNTER,
        .max_series = 256,
        .labels = "sandbox model status",
    };
    static const kars_metric_def_t latency = {
        .size = sizeof(latency),
        .name = "kars_inference_latency_seconds",
        .help = "Time from the request's head to the answer's last byte.",
        .kind = KARS_HISTOGRAM,
        .max_series = 128,
        .labels = "sandbox model",
        .buckets = seconds,
        .nbuckets = KARS_NELTS(seconds),
    };
    static const kars_metric_def_t tokens = {
        .size = sizeof(tokens),
        .name = "kars_tokens_total",
        .help = "Tokens that answers used.",
        .kind = KARS_COUNTER,
        .max_series = 256,
        .labels = "sandbox model direction",
    };

    inference_metrics.requests = kars_metric(cycle, &requests);
    inference_metrics.latency = kars_metric(cycle, &latency);
    inference_metrics.tokens = kars_metric(cycle, &tokens);

    if (inference_metrics.requests == NULL ||
        inference_metrics.latency == NULL || inference_metrics.tokens == NULL) {
        return kars_err(err, ENOMEM, "no room for the inference metrics");
    }
    return KARS_OK;
}

/* clang-format off */
static const kars_hook_t inference_hooks[] = {
    { .phase = KARS_PHASE_REWRITE, .run = inference_head },
    { .phase = KARS_PHASE_REWRITE, .run = inference_rewrite,
      .flags = KARS_NEEDS_BODY },
    { .phase = KARS_PHASE_ADMIT,   .run = inference_admit,
      .flags = KARS_NEEDS_BODY },
    { .phase = KARS_PHASE_CONTENT, .run = inference_content },
    { .phase = KARS_PHASE_LOG,     .run = inference_log },
    { 0 },
};

static const kars_filter_def_t inference_filters[] = {
    { .dir = KARS_RESPONSE, .head = inference_filter_head },
    { 0 },
};

static const kars_json_watch_t inference_json[] = {
    { KARS_REQUEST,  "model",                   inference_see_model },
    { KARS_REQUEST,  "stream",                  inference_see_stream },
    { KARS_RESPONSE, "usage.prompt_tokens",     inference_see_in },
    { KARS_RESPONSE, "usage.completion_tokens", inference_see_out },
    { KARS_RESPONSE, "usage.total_tokens",      inference_see_total },
    { 0 },
};
/* clang-format on */

KARS_MODULE(inference) = {
    KARS_MODULE_HEAD,
    .name = "inference",
    .version = "1.0.0",
    .conf_size = sizeof(inference_conf_t),
    .ctx_size = sizeof(inference_ctx_t),
    .directives = inference_directives,
    .hooks = inference_hooks,
    .filters = inference_filters,
    .json = inference_json,
    .check = inference_check,
    .worker_start = inference_worker_start,
};
