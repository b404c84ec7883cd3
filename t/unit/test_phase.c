/*
 * test_phase.c - the phases: order, what hooks return, who is left out.
 */
#include "loop.h"

/* What ran, in its order: "a.access b.access ...". */
static t_bytes_t phase_ran;

/* What the hook of that name does instead of saying OK. */
static const char *phase_odd;
static int (*phase_does)(kars_req_t *r);

static int
phase_hook(kars_req_t *r, const char *name)
{
    t_append(&phase_ran, name, strlen(name));
    t_append(&phase_ran, " ", 1);
    if (phase_odd != NULL && strcmp(phase_odd, name) == 0) {
        return phase_does(r);
    }
    return KARS_OK;
}

#define HOOK(mod, phase)                                                 \
    static int mod##_##phase(kars_req_t *r, const void *conf, void *ctx) \
    {                                                                    \
        return phase_hook(r, #mod "." #phase);                           \
    }
#define FILTER(mod)                                                      \
    static int mod##_head(kars_filter_t *f, const void *conf, void *ctx) \
    {                                                                    \
        return phase_hook(kars__api.filter_req(f), #mod ".head");        \
    }
#define MODULE(mod)                                              \
    HOOK(mod, access)                                            \
    HOOK(mod, rewrite)                                           \
    HOOK(mod, admit)                                             \
    HOOK(mod, content)                                           \
    HOOK(mod, upstream)                                          \
    HOOK(mod, log)                                               \
    FILTER(mod)                                                  \
    static const kars_hook_t mod##_hooks[] = {                   \
        { .phase = KARS_PHASE_LOG, .run = mod##_log },           \
        { .phase = KARS_PHASE_UPSTREAM, .run = mod##_upstream }, \
        { .phase = KARS_PHASE_CONTENT, .run = mod##_content },   \
        { .phase = KARS_PHASE_ADMIT, .run = mod##_admit },       \
        { .phase = KARS_PHASE_REWRITE, .run = mod##_rewrite },   \
        { .phase = KARS_PHASE_ACCESS, .run = mod##_access },     \
        { 0 },                                                   \
    };                                                           \
    static const kars_filter_def_t mod##_filters[] = {           \
        { .dir = KARS_RESPONSE, .head = mod##_head },            \
        { 0 },                                                   \
    };                                                           \
    static const kars_module_t mod = {                           \
        T_MODULE_HEAD,                                           \
        .name = #mod,                                            \
        .flags = KARS_ALWAYS,                                    \
        .hooks = mod##_hooks,                                    \
        .filters = mod##_filters,                                \
    };

MODULE(a)
MODULE(b)

static const char phase_conf[] = "upstream up { server 10.0.0.1:80; }"
                                 "server { listen 127.0.0.1:8080;"
                                 "route GET / { respond 200 hello; }"
                                 "route GET /none { }"
                                 "route * /up { pass up; } }";

static t_loop_t *
phase_loop(const char *odd, int (*does)(kars_req_t *r))
{
    free(phase_ran.data);
    memset(&phase_ran, 0, sizeof(phase_ran));
    t_append(&phase_ran, "", 0);
    phase_odd = odd;
    phase_does = does;
    return t_loop(phase_conf, &t_open, &a, &b);
}

static void
phase_end(t_loop_t *t)
{
    t_loop_destroy(t);
    free(phase_ran.data);
    memset(&phase_ran, 0, sizeof(phase_ran));
}

#define GET(path) "GET " path " HTTP/1.1\r\nhost: x\r\n\r\n"

static void
test_phases_run_in_order_filters_and_log_in_reverse(void)
{
    t_loop_t *t = phase_loop(NULL, NULL);

    t_request(t, GET("/"));
    CU_ASSERT_EQUAL(t_status(t), 200);
    CU_ASSERT_STRING_EQUAL(t_body(t), "hello");
    CU_ASSERT_STRING_EQUAL(phase_ran.data,
                           "a.access b.access a.rewrite b.rewrite a.admit "
                           "b.admit a.content b.content b.head a.head b.log "
                           "a.log ");
    phase_end(t);
}

static void
test_phases_run_upstream_hooks_for_a_pass(void)
{
    t_loop_t *t = phase_loop(NULL, NULL);

    t_request(t, GET("/up"));
    CU_ASSERT_PTR_NOT_NULL(
        strstr(phase_ran.data, "b.content a.upstream b.upstream "));
    t_upstream_reply(t, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
    CU_ASSERT_EQUAL(t_status(t), 200);
    CU_ASSERT_STRING_EQUAL(t_body(t), "hi");
    phase_end(t);
}

static int
does_decline(kars_req_t *r)
{
    return KARS_DECLINED;
}

static int
does_done(kars_req_t *r)
{
    return KARS_DONE;
}

static int
does_again(kars_req_t *r)
{
    return KARS_AGAIN;
}

static int
does_fail(kars_req_t *r)
{
    return KARS_ERROR;
}

static int
does_nonsense(kars_req_t *r)
{
    return 42;
}

static int
does_deny(kars_req_t *r)
{
    kars_denial_t d = {
        .size = sizeof(d),
        .status = 429,
        .code = KARS_STR("budget_exceeded"),
        .reason = KARS_STR("enough is enough"),
        .retry_after_ms = 1001,
    };

    return kars__api.deny(r, &d);
}

static int
does_respond(kars_req_t *r)
{
    return kars__api.respond(r, 201, KARS_STR("text/plain"), KARS_STR("made"));
}

/* clang-format off */
static const struct {
    const char *hook;
    int (*does)(kars_req_t *r);
    int status;
    const char *then; /* what runs next */
} odds[] = {
    { "a.access",   does_decline,  200, "a.access b.access b.rewrite b.admit b.content b.head b.log " },
    { "a.rewrite",  does_decline,  200, "a.rewrite b.rewrite b.admit b.content b.head b.log " },
    { "a.admit",    does_decline,  200, "a.admit b.admit b.content b.head b.log " },
    { "a.content",  does_decline,  200, "a.content b.content b.head b.log " },
    { "b.head",     does_decline,  200, "b.head a.head a.log " },
    { "a.log",      does_fail,     200, "a.log " },
    { "a.access",   does_done,     500, "a.access b.head a.head b.log a.log " },
    { "a.rewrite",  does_done,     500, "a.rewrite b.head a.head b.log a.log " },
    { "a.admit",    does_done,     500, "a.admit b.head a.head b.log a.log " },
    { "a.content",  does_done,     500, "a.content b.head a.head b.log a.log " },
    { "a.access",   does_again,    500, "a.access b.head a.head b.log a.log " },
    { "a.admit",    does_again,    500, "a.admit b.head a.head b.log a.log " },
    { "a.access",   does_fail,     500, "a.access b.head a.head b.log a.log " },
    { "b.rewrite",  does_fail,     500, "b.rewrite b.head a.head b.log a.log " },
    { "b.admit",    does_fail,     500, "b.admit b.head a.head b.log a.log " },
    { "b.content",  does_fail,     500, "b.content b.head a.head b.log a.log " },
    { "a.admit",    does_nonsense, 500, "a.admit b.head a.head b.log a.log " },
    { "b.head",     does_fail,     500, "b.head a.head b.log a.log " },
    { "a.access",   does_deny,     429, "a.access b.head a.head b.log a.log " },
    { "a.rewrite",  does_deny,     429, "a.rewrite b.head a.head b.log a.log " },
    { "b.admit",    does_deny,     429, "b.admit b.head a.head b.log a.log " },
    { "b.content",  does_deny,     429, "b.content b.head a.head b.log a.log " },
    { "a.content",  does_respond,  201, "a.content b.head a.head b.log a.log " },
    { "a.access",   does_respond,  201, "a.access b.head a.head b.log a.log " },
};
/* clang-format on */

static void
test_phases_take_what_a_hook_returns(void)
{
    for (size_t i = 0; i < KARS_NELTS(odds); i++) {
        t_loop_t *t = phase_loop(odds[i].hook, odds[i].does);
        char label[80];

        (void) snprintf(label, sizeof(label), "%zu: %s gives %d", i,
                        odds[i].hook, odds[i].status);
        T_CASE(label);
        t_request(t, GET("/"));
        CU_ASSERT_EQUAL(t_status(t), odds[i].status);

        const char *from = strstr(phase_ran.data, odds[i].hook);

        CU_ASSERT_PTR_NOT_NULL_FATAL(from);
        CU_ASSERT_STRING_EQUAL(from, odds[i].then);
        phase_end(t);
    }
}

/* clang-format off */
static const struct {
    const char *hook;
    int (*does)(kars_req_t *r);
    int status;
} ups[] = {
    { "a.upstream", does_decline,  200 },
    { "b.upstream", does_fail,     502 },
    { "a.upstream", does_done,     502 },
    { "a.upstream", does_again,    502 },
    { "a.upstream", does_deny,     429 },
};
/* clang-format on */

static void
test_phases_take_what_an_upstream_hook_returns(void)
{
    for (size_t i = 0; i < KARS_NELTS(ups); i++) {
        t_loop_t *t = phase_loop(ups[i].hook, ups[i].does);
        char label[80];

        (void) snprintf(label, sizeof(label), "%zu: %d", i, ups[i].status);
        T_CASE(label);
        t_request(t, GET("/up"));
        if (ups[i].status == 200) {
            t_upstream_reply(t,
                             "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
        } else {
            CU_ASSERT_EQUAL(t_upstreams(t), 0); /* not one byte left */
        }
        CU_ASSERT_EQUAL(t_status(t), ups[i].status);
        phase_end(t);
    }
}

static void
test_phases_leave_a_declined_upstream_hook_out_of_log(void)
{
    t_loop_t *t = phase_loop("a.upstream", does_decline);

    t_request(t, GET("/up"));
    t_upstream_reply(t, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
    CU_ASSERT_PTR_NULL(strstr(phase_ran.data, "a.head"));
    CU_ASSERT_PTR_NULL(strstr(phase_ran.data, "a.log"));
    phase_end(t);
}

static void
test_phases_refuse_without_a_grant(void)
{
    t_loop_t *t;

    (void) phase_loop; /* its modules, without t_open */
    t_append(&phase_ran, "", 0);
    phase_odd = NULL;
    t = t_loop(phase_conf, &a, &b);
    t_request(t, GET("/"));
    CU_ASSERT_EQUAL(t_status(t), 403);
    CU_ASSERT_STRING_EQUAL(phase_ran.data,
                           "a.access b.access b.head a.head b.log a.log ");
    CU_ASSERT_STRING_EQUAL(t_header(t, "x-kars-decision"), "blocked");
    phase_end(t);
}

static void
test_phases_log_what_no_route_took(void)
{
    static const char *const bad[] = { GET("/other"), GET("/none"),
                                       "BAD\r\n\r\n", GET("/%zz") };
    static const int status[] = { 404, 404, 400, 400 };

    for (size_t i = 0; i < KARS_NELTS(bad); i++) {
        t_loop_t *t = phase_loop(NULL, NULL);

        T_CASE(bad[i]);
        t_request(t, bad[i]);
        CU_ASSERT_EQUAL(t_status(t), status[i]);
        CU_ASSERT_PTR_NOT_NULL(strstr(phase_ran.data, "b.log a.log "));
        phase_end(t);
    }
}

static void
test_phases_refusal_says_who_and_when(void)
{
    t_loop_t *t = phase_loop("b.admit", does_deny);

    t_request(t, GET("/"));
    CU_ASSERT_STRING_EQUAL(t_header(t, "x-kars-decision-by"), "b");
    CU_ASSERT_STRING_EQUAL(t_header(t, "x-kars-decision-reason"),
                           "enough is enough");
    CU_ASSERT_STRING_EQUAL(t_header(t, "retry-after"), "2");
    CU_ASSERT_STRING_EQUAL(t_body(t), "{\"error\":\"enough is enough\"}");
    CU_ASSERT_PTR_NOT_NULL(strstr(t_log(t), "code=budget_exceeded by=b"));
    phase_end(t);
}

/* A grant is of ACCESS only. */
static int
does_grant(kars_req_t *r)
{
    return kars__api.grant(r, KARS_STR("operator"), KARS_STR("me"));
}

static void
test_phases_grant_only_in_access(void)
{
    static const char *const hooks[] = { "a.rewrite", "a.admit", "a.content" };

    for (size_t i = 0; i < KARS_NELTS(hooks); i++) {
        t_loop_t *t = phase_loop(hooks[i], does_grant);

        T_CASE(hooks[i]);
        t_request(t, GET("/"));
        CU_ASSERT_EQUAL(t_status(t), 500);
        phase_end(t);
    }
}

void
suite_phase(void)
{
    T_SUITE(phase);
    T_TEST(phase, test_phases_run_in_order_filters_and_log_in_reverse);
    T_TEST(phase, test_phases_run_upstream_hooks_for_a_pass);
    T_TEST(phase, test_phases_take_what_a_hook_returns);
    T_TEST(phase, test_phases_take_what_an_upstream_hook_returns);
    T_TEST(phase, test_phases_leave_a_declined_upstream_hook_out_of_log);
    T_TEST(phase, test_phases_refuse_without_a_grant);
    T_TEST(phase, test_phases_log_what_no_route_took);
    T_TEST(phase, test_phases_refusal_says_who_and_when);
    T_TEST(phase, test_phases_grant_only_in_access);
}
