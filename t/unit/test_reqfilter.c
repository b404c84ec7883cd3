/*
 * test_reqfilter.c - filters of request bodies, held and streaming: what goes
 * upstream, in which framing, and who had to agree to it.
 */
#include "loop.h"

#include <errno.h>

#define OK_REPLY "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

static struct {
    char mode[16];   /* what the filter does */
    char model[32];  /* the watched member, as last told */
    char admits[64]; /* the model that each ADMIT saw, "|" behind it */
    int heads;
    int lasts;
    int logged;
    kars_token_t token;
    int woken;
    uint32_t flags;
} rf;

static int
rf_see(kars_req_t *r, kars_str_t text, uint32_t index, uint32_t flags,
       const void *conf, void *ctx)
{
    if (flags & KARS_FIRST) {
        rf.model[0] = '\0';
    }

    size_t o = strlen(rf.model);

    (void) snprintf(rf.model + o, sizeof(rf.model) - o, "%.*s",
                    KARS_STR_ARG(text));
    return KARS_OK;
}

static int
rf_admit(kars_req_t *r, const void *conf, void *ctx)
{
    size_t o = strlen(rf.admits);

    (void) snprintf(rf.admits + o, sizeof(rf.admits) - o, "%s|", rf.model);
    if (strcmp(rf.model, "evil") == 0) {
        kars_denial_t d = { .size = sizeof(d),
                            .status = 403,
                            .code = KARS_STR("policy_denied"),
                            .reason = KARS_STR("not that model") };

        return kars__api.deny(r, &d);
    }
    return KARS_OK;
}

static int
rf_log(kars_req_t *r, const void *conf, void *ctx)
{
    rf.logged++;
    return KARS_OK;
}

static int
rf_deny(kars_filter_t *f)
{
    kars_denial_t d = { .size = sizeof(d),
                        .status = 422,
                        .code = KARS_STR("body_refused"),
                        .reason = KARS_STR("not this body") };

    return kars__api.filter_deny(f, &d);
}

static int
rf_head(kars_filter_t *f, const void *conf, void *ctx)
{
    kars_req_t *r = kars__api.filter_req(f);

    rf.heads++;
    if (strcmp(rf.mode, "denyhead") == 0) {
        return rf_deny(f);
    }
    if (strcmp(rf.mode, "leave") == 0) {
        return KARS_DECLINED;
    }
    return kars__api.header_set(r, KARS_REQUEST, KARS_STR("x-filtered"),
                                KARS_STR("yes"));
}

static int
rf_woken(kars_filter_t *f, int error, const void *conf, void *ctx)
{
    rf.woken++;
    return error != 0 ? KARS_ERROR : kars__api.filter_release(f, rf.flags);
}

/* The chain with every `from` a `to`. */
static kars_buf_t *
rf_change(kars_req_t *r, const kars_buf_t *in, char from, char to)
{
    kars_buf_t *out = NULL;

    for (; in != NULL; in = kars__api.buf_next(in)) {
        char text[256];
        kars_str_t s = kars__api.buf_str(in);

        for (size_t i = 0; i < s.len && i < sizeof(text); i++) {
            text[i] = s.data[i] == from ? to : s.data[i];
        }
        *kars__chain_tail(&out) =
            kars__api.buf_copy(r, (kars_str_t){ text, s.len });
    }
    return out;
}

static int
rf_body(kars_filter_t *f, kars_buf_t *in, uint32_t flags, const void *conf,
        void *ctx)
{
    kars_req_t *r = kars__api.filter_req(f);

    rf.lasts += (flags & KARS_LAST) != 0;
    if (strcmp(rf.mode, "edit") == 0) {
        return kars__api.filter_next(f, rf_change(r, in, '1', '2'), flags);
    }
    if (strcmp(rf.mode, "evil") == 0) {
        return kars__api.filter_next(
            f,
            kars__api.buf_copy(r, flags & KARS_LAST
                                      ? KARS_STR("{\"model\":\"evil\"}")
                                      : KARS_STR("")),
            flags);
    }
    if (strcmp(rf.mode, "break") == 0) {
        return kars__api.filter_next(f, rf_change(r, in, '}', ' '), flags);
    }
    if (strcmp(rf.mode, "grow") == 0) {
        kars_buf_t *b = kars__api.buf_copy(r, KARS_STR("["));

        *kars__chain_tail(&b) = in;
        return kars__api.filter_next(f, b, flags);
    }
    if (strcmp(rf.mode, "hold") == 0) {
        (void) kars__api.filter_hold(f, in);
        return flags & KARS_LAST ? kars__api.filter_release(f, flags) : KARS_OK;
    }
    if (strcmp(rf.mode, "wait") == 0 && rf.token == 0) {
        (void) kars__api.filter_hold(f, in);
        rf.flags = flags;
        rf.token = kars__api.filter_suspend(f, 5000, rf_woken);
        return KARS_AGAIN;
    }
    if (strcmp(rf.mode, "deny") == 0) {
        return rf_deny(f);
    }
    if (strcmp(rf.mode, "fail") == 0) {
        return KARS_ERROR;
    }
    return kars__api.filter_next(f, in, flags);
}

static const kars_filter_def_t rf_filters[] = {
    { .dir = KARS_REQUEST, .head = rf_head, .body = rf_body },
    { 0 },
};
static const kars_hook_t rf_hooks[] = {
    { .phase = KARS_PHASE_LOG, .run = rf_log },
    { 0 },
};
static const kars_hook_t gate_hooks[] = {
    { .phase = KARS_PHASE_ADMIT, .run = rf_admit, .flags = KARS_NEEDS_BODY },
    { 0 },
};
static const kars_json_watch_t gate_json[] = {
    { KARS_REQUEST, "model", rf_see },
    { 0 },
};
static const kars_directive_t gate_directives[] = {
    { .name = "gate", .at = KARS_AT_ROUTE, .type = KARS_T_FLAG, .doc = "x" },
    { 0 },
};

static const kars_module_t mod_rf = {
    T_MODULE_HEAD,     .name = "rf",          .flags = KARS_ALWAYS,
    .hooks = rf_hooks, .filters = rf_filters,
};
static const kars_module_t mod_gate = {
    T_MODULE_HEAD,       .name = "gate",    .conf_size = sizeof(int32_t),
    .hooks = gate_hooks, .json = gate_json, .directives = gate_directives,
};

static t_loop_t *
rf_loop(const char *mode)
{
    memset(&rf, 0, sizeof(rf));
    (void) snprintf(rf.mode, sizeof(rf.mode), "%s", mode);
    return t_loop("upstream up { server 10.0.0.1:80; retry 1; }"
                  "server { listen 127.0.0.1:1;"
                  "route * /gated { gate on; pass up; }"
                  "route * /free { pass up; } }",
                  &t_open, &mod_rf, &mod_gate);
}

static void
rf_end(t_loop_t *t)
{
    if (t_is_open(t->client)) {
        t_client_gone(t);
    }
    CU_ASSERT_TRUE(t_is_empty(t));
    CU_ASSERT_EQUAL(rf.logged, strcmp(rf.mode, "leave") != 0);
    t_loop_destroy(t);
}

#define BODY "{\"model\":\"m1\"}"
#define POST(path) \
    "POST " path " HTTP/1.1\r\nhost: x\r\ncontent-length: 14\r\n\r\n" BODY

/* clang-format off */
static const struct {
    const char *mode;
    const char *path;
    int status;         /* what the client gets */
    const char *body;   /* what the upstream gets; NULL: nothing */
    const char *length; /* of it, in its head; NULL: chunked */
    const char *admits; /* what ADMIT saw */
} modes[] = {
    { "pass",     "/gated", 200, BODY,                 "14", "m1|" },
    { "edit",     "/gated", 200, "{\"model\":\"m2\"}", "14", "m1|m2|" },
    { "evil",     "/gated", 403, NULL,                 NULL, "m1|evil|" },
    { "grow",     "/gated", 400, NULL,                 NULL, "m1|" },
    { "break",    "/gated", 400, NULL,                 NULL, "m1|" },
    { "hold",     "/gated", 200, BODY,                 "14", "m1|" },
    { "leave",    "/gated", 200, BODY,                 "14", "m1|" },
    { "deny",     "/gated", 422, NULL,                 NULL, "m1|" },
    { "denyhead", "/gated", 422, NULL,                 NULL, "m1|" },
    { "fail",     "/gated", 500, NULL,                 NULL, "m1|" },
    { "pass",     "/free",  200, BODY,                 NULL, "" },
    { "edit",     "/free",  200, "{\"model\":\"m2\"}", NULL, "" },
    { "hold",     "/free",  200, BODY,                 NULL, "" },
    { "leave",    "/free",  200, BODY,                 "14", "" },
    { "deny",     "/free",  422, "",                   NULL, "" },
    { "denyhead", "/free",  422, NULL,                 NULL, "" },
    { "fail",     "/free",  500, "",                   NULL, "" },
};
/* clang-format on */

/* The body that the upstream got, out of its chunks. */
static const char *
rf_dechunk(const char *p)
{
    static char out[512];
    size_t o = 0;
    char *data;

    for (size_t n = strtoul(p, &data, 16); n != 0; n = strtoul(p, &data, 16)) {
        CU_ASSERT_FATAL(o + n < sizeof(out));
        memcpy(out + o, data + 2, n);
        o += n;
        p = data + 2 + n + 2;
    }
    out[o] = '\0';
    return out;
}

static void
rf_check(t_loop_t *t, size_t i)
{
    char text[64];

    if (modes[i].body == NULL) {
        CU_ASSERT_EQUAL(t_upstreams(t), 0);
    } else {
        CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1);
        const char *got = t_upstream_got(t, 0);

        if (modes[i].length != NULL) {
            (void) snprintf(text, sizeof(text), "content-length: %s\r\n",
                            modes[i].length);
            CU_ASSERT_PTR_NOT_NULL(strstr(got, text));
            CU_ASSERT_PTR_NULL(strstr(got, "chunked"));
            CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 0), modes[i].body);
        } else if (modes[i].status == 200) {
            const char *body = strstr(got, "\r\n\r\n");

            CU_ASSERT_PTR_NOT_NULL(strstr(got, "transfer-encoding: chunked"));
            CU_ASSERT_PTR_NULL(strstr(got, "content-length"));
            CU_ASSERT_STRING_EQUAL(rf_dechunk(body + 4), modes[i].body);
        }
        CU_ASSERT_EQUAL(strstr(got, "x-filtered: yes") != NULL,
                        strcmp(modes[i].mode, "leave") != 0);
    }
    if (modes[i].status == 200) {
        t_upstream_reply(t, OK_REPLY);
    }
    CU_ASSERT_EQUAL(t_answers(t), 1);
    CU_ASSERT_EQUAL(t_status(t), modes[i].status);
    CU_ASSERT_STRING_EQUAL(rf.admits, modes[i].admits);
    CU_ASSERT_EQUAL(rf.heads, 1);
    CU_ASSERT_TRUE(rf.lasts <= 1);
}

static void
test_reqfilter_does_what_it_says_at_every_cut(void)
{
    for (size_t i = 0; i < KARS_NELTS(modes); i++) {
        char raw[200], label[64];
        int n = snprintf(raw, sizeof(raw),
                         "POST %s HTTP/1.1\r\nhost: x\r\n"
                         "content-length: 14\r\n\r\n" BODY,
                         modes[i].path);

        for (int cut = n - 14; cut <= n; cut++) {
            t_loop_t *t = rf_loop(modes[i].mode);

            (void) snprintf(label, sizeof(label), "%zu %s, cut %d", i,
                            modes[i].mode, cut - n + 14);
            T_CASE(label);
            (void) t_client(t);
            t_send(t, t->client, raw, (size_t) cut);
            t_send(t, t->client, raw + cut, (size_t) (n - cut));
            rf_check(t, i);
            rf_end(t);
        }
    }
}

static void
test_reqfilter_sees_no_body_where_there_is_none(void)
{
    t_loop_t *t = rf_loop("evil");

    t_request(t, "GET /free HTTP/1.1\r\nhost: x\r\n\r\n");
    t_upstream_reply(t, OK_REPLY);
    CU_ASSERT_EQUAL(t_status(t), 200);
    CU_ASSERT_EQUAL(rf.heads, 1);
    CU_ASSERT_EQUAL(rf.lasts, 0);
    CU_ASSERT_PTR_NULL(strstr(t_upstream_got(t, 0), "chunked"));
    rf_end(t);
}

static void
test_reqfilter_that_waits(void)
{
    static const char *const paths[] = { "/gated", "/free" };

    for (int i = 0; i < 6; i++) {
        t_loop_t *t = rf_loop("wait");
        int free = i % 2, how = i / 2; /* resumed, timed out, client gone */

        T_CASE(paths[free]);
        t_request(t, free ? POST("/free") : POST("/gated"));
        CU_ASSERT_NOT_EQUAL(rf.token, 0);
        CU_ASSERT_EQUAL(t_upstreams(t), free);
        CU_ASSERT_EQUAL(t_answers(t), 0);
        if (how == 0) {
            (void) kars__api.resume(rf.token, 0);
            t_run(t);
            CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1);
            CU_ASSERT_PTR_NOT_NULL(strstr(t_upstream_got(t, 0), BODY));
            t_upstream_reply(t, OK_REPLY);
            CU_ASSERT_EQUAL(t_status(t), 200);
        } else if (how == 1) {
            t_advance_ms(t, 5100);
            CU_ASSERT_EQUAL(t_status(t), 500);
        } else {
            t_client_gone(t);
            (void) kars__api.resume(rf.token, 0);
            t_advance_ms(t, 5100);
        }
        CU_ASSERT_EQUAL(rf.woken, how < 2);
        rf_end(t);
    }
}

/* While a filter waits, and while the upstream takes nothing, no more of a
 * streaming body is read. */
static void
test_reqfilter_stops_the_client(void)
{
    for (int slow = 0; slow < 2; slow++) {
        t_loop_t *t = rf_loop(slow ? "pass" : "wait");
        static char piece[600000];

        memset(piece, 'x', sizeof(piece) - 1);
        t_request(t, "POST /free HTTP/1.1\r\nhost: x\r\n"
                     "content-length: 1199998\r\n\r\n");
        CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1);
        t_upstream(t, 0)->room = 0;
        t_send(t, t->client, piece, sizeof(piece) - 1);
        CU_ASSERT_TRUE(t->client->in_at < 500000);
        if (!slow) {
            CU_ASSERT_TRUE(t->client->in_at < 200000);
            (void) kars__api.resume(rf.token, 0);
        }
        t_upstream(t, 0)->room = SIZE_MAX;
        t_run(t);
        t_send(t, t->client, piece, sizeof(piece) - 1);
        CU_ASSERT_EQUAL(t->client->in_at, t->client->in.len);
        t_upstream_reply(t, OK_REPLY);
        CU_ASSERT_EQUAL(t_status(t), 200);
        CU_ASSERT_EQUAL(rf.lasts, 1);
        rf_end(t);
    }
}

/* What filters made of a held body can be sent once more. */
static void
test_reqfilter_runs_once_for_all_attempts(void)
{
    static const int ends[] = { ECONNREFUSED, 0 };
    t_loop_t *t = rf_loop("edit");

    t_connects(t, ends, 2);
    t_request(t, POST("/gated"));
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 2);
    CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 1), "{\"model\":\"m2\"}");
    CU_ASSERT_EQUAL(rf.lasts, 1);
    t_upstream_reply(t, OK_REPLY);
    CU_ASSERT_EQUAL(t_status(t), 200);
    rf_end(t);
}

/* Whichever allocation fails: no body goes upstream that was not filtered. */
static void
test_reqfilter_without_memory(void)
{
    for (uint64_t nth = 1; nth < 80; nth++) {
        t_loop_t *t = rf_loop("edit");
        char label[32];

        (void) snprintf(label, sizeof(label), "allocation %d", (int) nth);
        T_CASE(label);
        (void) t_client(t);
        kars__pool_fail_at(nth);
        t_request(t, nth % 2 ? POST("/gated") : POST("/free"));
        kars__pool_fail_at(0);
        for (int i = 0; i < t_upstreams(t); i++) {
            CU_ASSERT_PTR_NULL(strstr(t_upstream_got(t, i), "m1"));
        }
        if (t_is_open(t->client)) {
            t_client_gone(t);
        }
        CU_ASSERT_TRUE(t_is_empty(t));
        t_loop_destroy(t);
    }
}

void
suite_reqfilter(void)
{
    T_SUITE(reqfilter);
    T_TEST(reqfilter, test_reqfilter_does_what_it_says_at_every_cut);
    T_TEST(reqfilter, test_reqfilter_sees_no_body_where_there_is_none);
    T_TEST(reqfilter, test_reqfilter_that_waits);
    T_TEST(reqfilter, test_reqfilter_stops_the_client);
    T_TEST(reqfilter, test_reqfilter_runs_once_for_all_attempts);
    T_TEST(reqfilter, test_reqfilter_without_memory);
}
