/*
 * test_inference.c - modules/inference/inference.c, its hooks called as the
 * router would, over a request of a few arrays.
 */
#undef KARS_CORE /* a module, not the core */
#define KARS_BUILTIN
#include "inference/inference.c"

#include "t.h"

enum { FAKE_FIELDS = 24, FAKE_POOL = 8192 };

/* The request, what was decided about it, and its memory: one at a time. */
static struct {
    const char *path, *query;
    kars_header_t fields[3][FAKE_FIELDS]; /* by direction */
    kars_header_t vars[FAKE_FIELDS];
    struct {
        kars_str_t name;
        int64_t value;
    } numbers[FAKE_FIELDS];
    kars_str_t json_path, json, passed, labels[16];
    kars_denial_t denial;
    size_t nlabels, used, cap;
    uint64_t now;
    char pool[FAKE_POOL];
} fake;

static inference_conf_t conf;
static inference_ctx_t ctx;
static kars_req_t *const req = (kars_req_t *) &fake;

static void *
fake_palloc(kars_pool_t *pool, size_t size)
{
    if (size > fake.cap - fake.used) {
        return NULL;
    }
    fake.used += size;
    return fake.pool + fake.used - size;
}

static kars_str_t
fake_copy(kars_str_t s)
{
    char *p = fake_palloc(NULL, s.len + 1);

    CU_ASSERT_PTR_NOT_NULL_FATAL(p);
    memcpy(p, s.len == 0 ? "" : s.data, s.len);
    return (kars_str_t){ p, s.len };
}

static kars_pool_t *
fake_req_pool(kars_req_t *r)
{
    return NULL;
}

static kars_cycle_t *
fake_req_cycle(kars_req_t *r)
{
    return NULL;
}

static kars_str_t
fake_sandbox(kars_cycle_t *cycle)
{
    return KARS_STR("demo");
}

static uint64_t
fake_now(kars_cycle_t *cycle)
{
    return fake.now;
}

static kars_str_t
fake_path(kars_req_t *r)
{
    return t_str(fake.path);
}

static kars_str_t
fake_query(kars_req_t *r)
{
    return t_str(fake.query);
}

static kars_header_t *
fake_find(kars_header_t *v, kars_str_t name, int create)
{
    for (size_t i = 0; i < FAKE_FIELDS; i++) {
        if (v[i].name.data != NULL && inference_ieq(v[i].name, name)) {
            return &v[i];
        }
        if (v[i].name.data == NULL && create) {
            v[i].name = fake_copy(name);
            return &v[i];
        }
    }
    return NULL;
}

static kars_str_t
fake_header(kars_req_t *r, uint32_t dir, kars_str_t name)
{
    kars_header_t *h = fake_find(fake.fields[dir], name, 0);

    return h == NULL ? (kars_str_t){ NULL, 0 } : h->value;
}

static int
fake_header_set(kars_req_t *r, uint32_t dir, kars_str_t name, kars_str_t value)
{
    fake_find(fake.fields[dir], name, 1)->value = fake_copy(value);
    return KARS_OK;
}

static int
fake_header_each(kars_req_t *r, uint32_t dir,
                 int (*fn)(kars_str_t name, kars_str_t value, void *data),
                 void *data)
{
    for (size_t i = 0; i < FAKE_FIELDS; i++) {
        kars_header_t *h = &fake.fields[dir][i];

        if (h->name.len > 0 && fn(h->name, h->value, data) == KARS_DECLINED) {
            *h = (kars_header_t){ KARS_STR(""), KARS_STR("") };
        }
    }
    return KARS_OK;
}

static int
fake_var_set(kars_req_t *r, kars_str_t name, kars_str_t value)
{
    fake_find(fake.vars, name, 1)->value = fake_copy(value);
    return KARS_OK;
}

static kars_str_t
fake_var(const char *name)
{
    kars_header_t *h = fake_find(fake.vars, t_str(name), 0);

    return h == NULL ? KARS_STR("") : h->value;
}

static int
fake_number_set(kars_req_t *r, kars_str_t name, int64_t value)
{
    for (size_t i = 0; i < FAKE_FIELDS; i++) {
        if (fake.numbers[i].name.data == NULL ||
            kars_str_eq(fake.numbers[i].name, name)) {
            fake.numbers[i].name = name;
            fake.numbers[i].value = value;
            return KARS_OK;
        }
    }
    return KARS_ERROR;
}

static int64_t
fake_number(kars_req_t *r, kars_str_t name)
{
    for (size_t i = 0; i < FAKE_FIELDS; i++) {
        if (fake.numbers[i].name.data != NULL &&
            kars_str_eq(fake.numbers[i].name, name)) {
            return fake.numbers[i].value;
        }
    }
    return 0;
}

static int
fake_json_set(kars_req_t *r, kars_str_t path, kars_str_t json)
{
    fake.json_path = path;
    fake.json = json;
    return KARS_OK;
}

static int
fake_deny(kars_req_t *r, const kars_denial_t *denial)
{
    fake.denial = *denial;
    return KARS_DONE;
}

static int
fake_filter_deny(kars_filter_t *f, const kars_denial_t *denial)
{
    return fake_deny(NULL, denial);
}

static kars_req_t *
fake_filter_req(kars_filter_t *f)
{
    return req;
}

static int
fake_pass(kars_req_t *r, const kars_pass_t *pass)
{
    fake.passed = pass->path;
    return KARS_DONE;
}

/* Of each series used: its second and third label. */
static kars_series_t *
fake_series(kars_metric_t *metric, const kars_str_t *labels)
{
    if (fake.nlabels + 2 <= KARS_NELTS(fake.labels)) {
        fake.labels[fake.nlabels++] = labels[1];
        fake.labels[fake.nlabels++] = labels[2];
    }
    return NULL;
}

static void
fake_series_add(kars_series_t *series, double value)
{
}

static int
fake_err(kars_err_t *err, int errnum, const char *fmt, ...)
{
    return KARS_ERROR;
}

static const kars_api_t fake_api = {
    .size = sizeof(fake_api),
    .palloc = fake_palloc,
    .err = fake_err,
    .cycle_sandbox = fake_sandbox,
    .req_pool = fake_req_pool,
    .req_cycle = fake_req_cycle,
    .req_path = fake_path,
    .req_query = fake_query,
    .header = fake_header,
    .header_set = fake_header_set,
    .header_each = fake_header_each,
    .var_set = fake_var_set,
    .req_number = fake_number,
    .number_set = fake_number_set,
    .json_set = fake_json_set,
    .deny = fake_deny,
    .filter_deny = fake_filter_deny,
    .filter_req = fake_filter_req,
    .pass = fake_pass,
    .now_ms = fake_now,
    .series = fake_series,
    .series_add = fake_series_add,
};

static kars_str_t listed[] = { { "small", 5 }, { "large", 5 } };

static void
fake_begin(uint32_t nmodels, const char *dflt)
{
    kars_place_t place = { .size = sizeof(place),
                           .at = KARS_AT_ROUTE,
                           .active = 1,
                           .route_upstream = (kars_upstream_t *) &fake };

    memset(&fake, 0, sizeof(fake));
    memset(&ctx, 0, sizeof(ctx));
    fake.cap = FAKE_POOL;
    fake.now = 1000;
    fake.path = "/v1/chat/completions";
    fake.query = "";
    kars_api = &fake_api;
    conf = (inference_conf_t){ .base = KARS_STR("/v1"),
                               .models = { listed, nmodels },
                               .default_model = t_str(dflt) };
    CU_ASSERT_EQUAL(inference_check(&place, &conf, NULL), KARS_OK);
    (void) fake_header_set(req, KARS_REQUEST, KARS_STR("Content-Type"),
                           KARS_STR("application/json"));
}

/* A member as the scanner reports it: one byte at a time. */
static void
fake_string(const char *s)
{
    size_t n = strlen(s);

    for (size_t i = 0; i < n || i == 0; i++) {
        uint32_t flags = KARS_JSON_STRING | (i == 0 ? KARS_FIRST : 0) |
                         (i + 1 >= n ? KARS_LAST : 0);

        CU_ASSERT_EQUAL(inference_see_model(req, (kars_str_t){ s + i, n > 0 },
                                            0, flags, &conf, &ctx),
                        KARS_OK);
    }
}

static void
fake_type(uint32_t type)
{
    CU_ASSERT_EQUAL(inference_see_model(req, KARS_STR(""), 0,
                                        type | KARS_FIRST | KARS_LAST, &conf,
                                        &ctx),
                    KARS_OK);
}

static int
fake_rewrite(void)
{
    int rc = inference_head(req, &conf, &ctx);

    return rc != KARS_OK ? rc : inference_rewrite(req, &conf, &ctx);
}

static void
fake_wants(int status, const char *type, const char *code)
{
    CU_ASSERT_EQUAL(fake.denial.status, status);
    CU_ASSERT_TRUE(kars_str_eq(fake.denial.type, t_str(type)));
    CU_ASSERT_TRUE(kars_str_eq(fake.denial.code, t_str(code)));
    CU_ASSERT_TRUE(fake.denial.reason.len > 0);
}

static void
test_inference_names_model_and_action(void)
{
    fake_begin(0, "");
    fake_string("gpt-4.1");
    CU_ASSERT_EQUAL(fake_rewrite(), KARS_OK);
    CU_ASSERT_EQUAL(inference_admit(req, &conf, &ctx), KARS_OK);
    CU_ASSERT_TRUE(kars_str_eq(fake_var("model"), t_str("gpt-4.1")));
    CU_ASSERT_TRUE(kars_str_eq(fake_var("action"),
                               t_str("inference:chat_completions:gpt-4.1")));
    CU_ASSERT_TRUE(
        kars_str_eq(fake_header(req, KARS_REQUEST, KARS_STR("accept-encoding")),
                    t_str("identity")));
    CU_ASSERT_PTR_NULL(fake.json.data);
}

static void
test_inference_refuses_a_model_outside_the_list(void)
{
    fake_begin(2, "");
    fake_string("small");
    CU_ASSERT_EQUAL(fake_rewrite(), KARS_OK);
    CU_ASSERT_EQUAL(inference_admit(req, &conf, &ctx), KARS_OK);

    /* A later hook changes it: ADMIT runs again and sees the new one. */
    fake_string("huge");
    CU_ASSERT_EQUAL(inference_admit(req, &conf, &ctx), KARS_DONE);
    fake_wants(403, "policy_violation", "policy_denied");
    CU_ASSERT_TRUE(kars_str_eq(fake.denial.reason,
                               t_str("Blocked by governance policy: model "
                                     "huge is not in `models`")));
    CU_ASSERT_PTR_EQUAL(fake.denial.rule, &conf.models);
    CU_ASSERT_TRUE(kars_str_eq(fake_var("model"), t_str("huge")));
}

static void
test_inference_gives_the_default_to_who_names_none(void)
{
    for (int null = 0; null < 2; null++) {
        fake_begin(2, "small");
        if (null) {
            fake_type(KARS_JSON_NULL);
        }
        CU_ASSERT_EQUAL(fake_rewrite(), KARS_OK);
        CU_ASSERT_TRUE(kars_str_eq(fake.json_path, t_str("model")));
        CU_ASSERT_TRUE(kars_str_eq(fake.json, t_str("\"small\"")));
        CU_ASSERT_TRUE(kars_str_eq(fake_var("model"), t_str("small")));
        CU_ASSERT_EQUAL(inference_admit(req, &conf, &ctx), KARS_OK);
    }
}

static void
test_inference_refuses_no_model_where_a_list_is(void)
{
    fake_begin(2, "");
    CU_ASSERT_EQUAL(fake_rewrite(), KARS_DONE);
    fake_wants(400, "invalid_request_error", "invalid_request");

    fake_begin(0, "");
    CU_ASSERT_EQUAL(fake_rewrite(), KARS_OK);
    CU_ASSERT_EQUAL(inference_admit(req, &conf, &ctx), KARS_OK);
    CU_ASSERT_PTR_NULL(fake.json.data);
}

static void
test_inference_model_must_be_a_string(void)
{
    static const uint32_t types[] = { KARS_JSON_NUMBER, KARS_JSON_TRUE,
                                      KARS_JSON_FALSE, KARS_JSON_OBJECT,
                                      KARS_JSON_ARRAY };

    for (size_t i = 0; i < KARS_NELTS(types); i++) {
        fake_begin(0, "small");
        fake_type(types[i]);
        CU_ASSERT_EQUAL(fake_rewrite(), KARS_DONE);
        fake_wants(400, "invalid_request_error", "invalid_request");
        CU_ASSERT_TRUE(
            kars_str_eq(fake.denial.reason, t_str("model must be a string")));
    }
}

static void
test_inference_refuses_a_model_that_is_too_long(void)
{
    char name[2 * INFERENCE_MAX_MODEL];

    memset(name, 'm', sizeof(name));
    for (size_t n = 255; n <= 258; n++) {
        fake_begin(0, "");
        name[n] = '\0';
        fake_string(name);
        name[n] = 'm';
        CU_ASSERT_EQUAL(fake_rewrite(), n <= 256 ? KARS_OK : KARS_DONE);
    }
    fake_wants(400, "invalid_request_error", "invalid_request");
}

static void
test_inference_stream_must_be_a_boolean(void)
{
    fake_begin(0, "");
    (void) inference_see_stream(req, KARS_STR("1"), 0, KARS_JSON_NUMBER, &conf,
                                &ctx);
    CU_ASSERT_EQUAL(fake_rewrite(), KARS_DONE);
    fake_wants(400, "invalid_request_error", "invalid_request");

    fake_begin(0, "");
    (void) inference_see_stream(req, KARS_STR("true"), 0, KARS_JSON_TRUE, &conf,
                                &ctx);
    CU_ASSERT_EQUAL(fake_rewrite(), KARS_OK);
    CU_ASSERT_EQUAL(fake_number(req, KARS_STR("stream")), 1);
}

static void
test_inference_refuses_what_is_not_json(void)
{
    fake_begin(0, "");
    (void) fake_header_set(req, KARS_REQUEST, KARS_STR("content-type"),
                           KARS_STR("text/plain"));
    CU_ASSERT_EQUAL(fake_rewrite(), KARS_DONE);
    fake_wants(415, "invalid_request_error", "unsupported_media_type");

    fake_begin(0, "");
    conf.kind = INFERENCE_MODELS;
    (void) fake_header_set(req, KARS_REQUEST, KARS_STR("content-type"),
                           KARS_STR("text/plain"));
    CU_ASSERT_EQUAL(fake_rewrite(), KARS_OK);
    CU_ASSERT_TRUE(kars_str_eq(fake_var("action"), t_str("inference:models:")));
}

static void
test_inference_passes_under_the_providers_path(void)
{
    fake_begin(0, "");
    conf.base = KARS_STR("/openai/v1");
    fake.query = "api-version=1";
    CU_ASSERT_EQUAL(inference_content(req, &conf, &ctx), KARS_DONE);
    CU_ASSERT_TRUE(kars_str_eq(
        fake.passed, t_str("/openai/v1/chat/completions?api-version=1")));

    fake_begin(0, "");
    fake.path = "/v1/models/../admin";
    CU_ASSERT_EQUAL(inference_content(req, &conf, &ctx), KARS_DONE);
    CU_ASSERT_PTR_NULL(fake.passed.data);
    fake_wants(400, "invalid_request_error", "invalid_path");
}

static void
test_inference_lets_only_known_headers_back(void)
{
    static const char *const sent[] = {
        "Content-Type",           "Set-Cookie",   "Server", "x-request-id",
        "x-kars-budget-day-used", "Cache-Control"
    };

    fake_begin(0, "");
    (void) inference_content(req, &conf, &ctx);
    for (size_t i = 0; i < KARS_NELTS(sent); i++) {
        (void) fake_header_set(req, KARS_RESPONSE, t_str(sent[i]),
                               KARS_STR("application/json"));
    }
    CU_ASSERT_EQUAL(inference_filter_head(NULL, &conf, &ctx), KARS_OK);
    for (size_t i = 0; i < KARS_NELTS(sent); i++) {
        kars_str_t v = fake_header(req, KARS_RESPONSE, t_str(sent[i]));

        T_CASE(sent[i]);
        CU_ASSERT_EQUAL(v.data != NULL, i == 0 || i == 3 || i == 4);
    }
}

static void
test_inference_refuses_a_compressed_reply(void)
{
    fake_begin(0, "");
    (void) inference_content(req, &conf, &ctx);
    (void) fake_header_set(req, KARS_RESPONSE, KARS_STR("Content-Encoding"),
                           KARS_STR("gzip"));
    CU_ASSERT_EQUAL(inference_filter_head(NULL, &conf, &ctx), KARS_DONE);
    fake_wants(502, "proxy_error", "unsupported_encoding");
}

static void
test_inference_leaves_answers_of_others_alone(void)
{
    fake_begin(0, "");
    (void) fake_header_set(req, KARS_RESPONSE, KARS_STR("allow"),
                           KARS_STR("POST"));
    CU_ASSERT_EQUAL(inference_filter_head(NULL, &conf, &ctx), KARS_OK);
    CU_ASSERT_PTR_NOT_NULL(
        fake_header(req, KARS_RESPONSE, KARS_STR("allow")).data);
}

static void
test_inference_takes_the_last_usage_that_is_said(void)
{
    uint32_t whole = KARS_JSON_NUMBER | KARS_FIRST | KARS_LAST;
    kars_str_t in = KARS_STR("tokens_in");

    fake_begin(0, "");
    (void) inference_see_in(req, KARS_STR("7"), 0, whole, &conf, &ctx);
    CU_ASSERT_EQUAL(fake_number(req, in), 7);
    (void) inference_see_in(req, KARS_STR("1"), 0,
                            KARS_JSON_NUMBER | KARS_FIRST, &conf, &ctx);
    (void) inference_see_in(req, KARS_STR("23"), 0,
                            KARS_JSON_NUMBER | KARS_LAST, &conf, &ctx);
    CU_ASSERT_EQUAL(fake_number(req, in), 123);
    (void) inference_see_in(req, KARS_STR("-5"), 0, whole, &conf, &ctx);
    (void) inference_see_in(req, KARS_STR("1.5"), 0, whole, &conf, &ctx);
    (void) inference_see_in(req, KARS_STR(""), 0, KARS_JSON_NULL, &conf, &ctx);
    CU_ASSERT_EQUAL(fake_number(req, in), 123);
}

static void
test_inference_agents_cannot_make_series(void)
{
    /* clang-format off */
    static const struct { uint32_t n; const char *model; int64_t status;
                          const char *label; } rows[] = {
        { 2, "small", 200, "small" }, { 2, "small", 502, "small" },
        { 2, "huge", 403, "other" },  { 0, "huge", 200, "huge" },
        { 0, "huge", 404, "other" },  { 0, "", 200, "other" },
    };
    /* clang-format on */

    for (size_t i = 0; i < KARS_NELTS(rows); i++) {
        fake_begin(rows[i].n, "");
        if (rows[i].model[0] != '\0') {
            fake_string(rows[i].model);
        }
        (void) inference_head(req, &conf, &ctx);
        (void) fake_number_set(req, KARS_STR("status"), rows[i].status);
        (void) fake_number_set(req, KARS_STR("tokens_in"), 3);
        (void) fake_number_set(req, KARS_STR("tokens_out"), 4);
        CU_ASSERT_EQUAL(inference_log(req, &conf, &ctx), KARS_OK);

        T_CASE(rows[i].model);
        CU_ASSERT_EQUAL(fake.nlabels, 8);
        for (size_t k = 0; k < fake.nlabels; k += 2) {
            CU_ASSERT_TRUE(kars_str_eq(fake.labels[k], t_str(rows[i].label)));
        }
        CU_ASSERT_TRUE(kars_str_eq(fake.labels[1], rows[i].status == 200
                                                       ? t_str("ok")
                                                       : t_str("error")));
    }
}

static void
test_inference_check_refuses_what_cannot_work(void)
{
    kars_place_t place = { .size = sizeof(place),
                           .at = KARS_AT_ROUTE,
                           .active = 1,
                           .route_upstream = (kars_upstream_t *) &fake };

    fake_begin(2, "");
    conf.default_model = KARS_STR("huge");
    CU_ASSERT_EQUAL(inference_check(&place, &conf, NULL), KARS_ERROR);
    fake_begin(0, "");
    conf.base = KARS_STR("v1");
    CU_ASSERT_EQUAL(inference_check(&place, &conf, NULL), KARS_ERROR);
    fake_begin(0, "");
    place.route_upstream = NULL;
    CU_ASSERT_EQUAL(inference_check(&place, &conf, NULL), KARS_ERROR);
    place.active = 0;
    CU_ASSERT_EQUAL(inference_check(&place, &conf, NULL), KARS_OK);
}

static void
test_inference_without_memory_fails_and_says_so(void)
{
    fake_begin(2, "");
    fake_string("huge");
    CU_ASSERT_EQUAL(fake_rewrite(), KARS_OK);
    fake.cap = fake.used;
    CU_ASSERT_EQUAL(inference_admit(req, &conf, &ctx), KARS_ERROR);
    CU_ASSERT_EQUAL(inference_content(req, &conf, &ctx), KARS_ERROR);
    CU_ASSERT_TRUE(inference_reason(req, KARS_STR("huge")).len > 0);
}

void
suite_inference(void)
{
    T_SUITE(inference);
    T_TEST(inference, test_inference_names_model_and_action);
    T_TEST(inference, test_inference_refuses_a_model_outside_the_list);
    T_TEST(inference, test_inference_gives_the_default_to_who_names_none);
    T_TEST(inference, test_inference_refuses_no_model_where_a_list_is);
    T_TEST(inference, test_inference_model_must_be_a_string);
    T_TEST(inference, test_inference_refuses_a_model_that_is_too_long);
    T_TEST(inference, test_inference_stream_must_be_a_boolean);
    T_TEST(inference, test_inference_refuses_what_is_not_json);
    T_TEST(inference, test_inference_passes_under_the_providers_path);
    T_TEST(inference, test_inference_lets_only_known_headers_back);
    T_TEST(inference, test_inference_refuses_a_compressed_reply);
    T_TEST(inference, test_inference_leaves_answers_of_others_alone);
    T_TEST(inference, test_inference_takes_the_last_usage_that_is_said);
    T_TEST(inference, test_inference_agents_cannot_make_series);
    T_TEST(inference, test_inference_check_refuses_what_cannot_work);
    T_TEST(inference, test_inference_without_memory_fails_and_says_so);
}
