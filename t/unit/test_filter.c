/*
 * test_filter.c - response filters: order, holding, waiting, refusing.
 */
#include "loop.h"

#include <errno.h>

#define GET           "GET / HTTP/1.1\r\nhost: x\r\n\r\n"
#define HEAD_OK(more) "HTTP/1.1 200 OK\r\n" more "\r\n"

static struct {
    char mode_a[16]; /* what the filter of that module does */
    char mode_b[16];
    char seen_a[512]; /* bytes, and "!" for LAST */
    char seen_b[512];
    int lasts; /* that filter a saw */
    kars_token_t token;
    int woken;
    int error;
    int logged;
} filter_st;

static int
filter_deny_now(kars_filter_t *f)
{
    kars_denial_t d = { .size = sizeof(d),
                        .status = 403,
                        .code = KARS_STR("content_filter"),
                        .reason = KARS_STR("not this") };

    return kars__api.filter_deny(f, &d);
}

static int
filter_woken(kars_filter_t *f, int error, const void *conf, void *ctx)
{
    filter_st.woken++;
    filter_st.error = error;
    if (error != 0) {
        return KARS_ERROR;
    }
    return kars__api.filter_release(f, *(uint32_t *) ctx);
}

static int
filter_do(kars_filter_t *f, kars_buf_t *in, uint32_t flags, void *ctx,
          const char *mode)
{
    kars_buf_t *b;

    if (strcmp(mode, "hold") == 0) { /* until the end */
        (void) kars__api.filter_hold(f, in);
        return flags & KARS_LAST ? kars__api.filter_release(f, flags) : KARS_OK;
    }
    if (strcmp(mode, "wait") == 0 && filter_st.woken == 0) {
        (void) kars__api.filter_hold(f, in);
        *(uint32_t *) ctx = flags;
        filter_st.token = kars__api.filter_suspend(f, 5000, filter_woken);
        CU_ASSERT_NOT_EQUAL(filter_st.token, 0);
        CU_ASSERT_EQUAL(kars__api.filter_suspend(f, 5000, filter_woken), 0);
        return KARS_AGAIN;
    }
    if (strcmp(mode, "bracket") == 0) { /* [bytes] */
        b = kars__api.buf_copy(kars__api.filter_req(f), KARS_STR("["));
        *kars__chain_tail(&b) = in;
        *kars__chain_tail(&b) =
            kars__api.buf_copy(kars__api.filter_req(f), KARS_STR("]"));
        return kars__api.filter_next(f, b, flags);
    }
    if (strcmp(mode, "deny") == 0) {
        return filter_deny_now(f);
    }
    if (strcmp(mode, "denylate") == 0 && (flags & KARS_LAST)) {
        (void) kars__api.filter_hold(f, in);
        return filter_deny_now(f);
    }
    if (strcmp(mode, "fail") == 0) {
        return KARS_ERROR;
    }
    if (strcmp(mode, "leave") == 0) {
        (void) kars__api.filter_next(f, in, flags);
        return KARS_DECLINED;
    }
    return kars__api.filter_next(f, in, flags);
}

static void
filter_see(char *seen, size_t size, const kars_buf_t *in, uint32_t flags)
{
    size_t o = strlen(seen);

    for (; in != NULL; in = kars__api.buf_next(in)) {
        kars_str_t s = kars__api.buf_str(in);

        o += (size_t) snprintf(seen + o, size - o, "%.*s", KARS_STR_ARG(s));
    }
    if (flags & KARS_LAST) {
        (void) snprintf(seen + o, size - o, "!");
    }
}

static int
a_body(kars_filter_t *f, kars_buf_t *in, uint32_t flags, const void *conf,
       void *ctx)
{
    filter_see(filter_st.seen_a, sizeof(filter_st.seen_a), in, flags);
    filter_st.lasts += (flags & KARS_LAST) != 0;
    return filter_do(f, in, flags, ctx, filter_st.mode_a);
}

static int
b_body(kars_filter_t *f, kars_buf_t *in, uint32_t flags, const void *conf,
       void *ctx)
{
    filter_see(filter_st.seen_b, sizeof(filter_st.seen_b), in, flags);
    return filter_do(f, in, flags, ctx, filter_st.mode_b);
}

static int
b_head(kars_filter_t *f, const void *conf, void *ctx)
{
    kars_req_t *r = kars__api.filter_req(f);

    if (strcmp(filter_st.mode_b, "denyhead") == 0) {
        return filter_deny_now(f);
    }
    return kars__api.header_set(r, KARS_RESPONSE, KARS_STR("x-b"),
                                KARS_STR("was here"));
}

static int
a_log(kars_req_t *r, const void *conf, void *ctx)
{
    filter_st.logged++;
    return KARS_OK;
}

static const kars_filter_def_t a_filters[] = {
    { .dir = KARS_RESPONSE, .body = a_body },
    { 0 },
};
static const kars_filter_def_t b_filters[] = {
    { .dir = KARS_RESPONSE, .head = b_head, .body = b_body },
    { 0 },
};
static const kars_hook_t a_hooks[] = {
    { .phase = KARS_PHASE_LOG, .run = a_log },
    { 0 },
};

static const kars_module_t mod_a = {
    T_MODULE_HEAD,        .name = "a",
    .flags = KARS_ALWAYS, .ctx_size = sizeof(uint32_t),
    .hooks = a_hooks,     .filters = a_filters,
};
static const kars_module_t mod_b = {
    T_MODULE_HEAD,        .name = "b",
    .flags = KARS_ALWAYS, .ctx_size = sizeof(uint32_t),
    .filters = b_filters,
};

static t_loop_t *
filter_loop(const char *a, const char *b)
{
    memset(&filter_st, 0, sizeof(filter_st));
    (void) snprintf(filter_st.mode_a, sizeof(filter_st.mode_a), "%s", a);
    (void) snprintf(filter_st.mode_b, sizeof(filter_st.mode_b), "%s", b);
    return t_loop("upstream up { server 10.0.0.1:80; retry 0; }"
                  "server { listen 127.0.0.1:1;"
                  "route GET / { pass up; }"
                  "route GET /own { respond 200 own; } }",
                  &t_open, &mod_a, &mod_b);
}

/* The reply "abcdef" in two pieces. */
static void
filter_reply(t_loop_t *t)
{
    t_upstream_reply(t, HEAD_OK("content-length: 6\r\n") "abc");
    t_upstream_reply(t, "def");
}

static void
filter_end(t_loop_t *t)
{
    if (t_is_open(t->client)) {
        t_client_gone(t);
    }
    CU_ASSERT_TRUE(t_is_empty(t));
    CU_ASSERT_EQUAL(filter_st.logged, strcmp(filter_st.mode_a, "leave") != 0);
    CU_ASSERT_TRUE(filter_st.lasts <= 1);
    t_loop_destroy(t);
}

/* clang-format off */
static const struct {
    const char *a;
    const char *b;
    int status;       /* 0: the answer is cut */
    const char *body; /* what the client gets */
    const char *seen_a;
} modes[] = {
    { "pass",    "pass",     200, "abcdef",       "abcdef!" },
    { "pass",    "bracket",  200, "[abc][def]",   "[abc][def]!" },
    { "bracket", "pass",     200, "[abc][def]",   "abcdef!" },
    { "bracket", "bracket",  200, "[[abc]][[def]]", "[abc][def]!" },
    { "pass",    "hold",     200, "abcdef",       "abcdef!" },
    { "hold",    "hold",     200, "abcdef",       "abcdef!" },
    { "hold",    "bracket",  200, "[abc][def]",   "[abc][def]!" },
    { "bracket", "hold",     200, "[abcdef]",     "abcdef!" },
    { "pass",    "leave",    200, "abcdef",       "abcdef!" },
    { "leave",   "pass",     200, "abcdef",       "abc" },
    { "pass",    "deny",     403, NULL,           "{\"error\":\"not this\"}!" },
    { "bracket", "denyhead", 403, NULL,           "{\"error\":\"not this\"}!" },
    { "deny",    "pass",     403, NULL,           "abc" },
    { "hold",    "denylate", 403, NULL,           NULL },
    { "denylate", "hold",    403, NULL,           "abcdef!" },
    { "pass",    "denylate", 0,   NULL,           "abc" }, /* the head is out */
    { "pass",    "fail",     0,   NULL,           "" },
    { "fail",    "pass",     0,   NULL,           "abc" },
};
/* clang-format on */

static void
test_filters_do_what_they_say(void)
{
    for (size_t i = 0; i < KARS_NELTS(modes); i++) {
        t_loop_t *t = filter_loop(modes[i].a, modes[i].b);
        char label[48];

        (void) snprintf(label, sizeof(label), "%zu: %s, %s", i, modes[i].a,
                        modes[i].b);
        T_CASE(label);
        t_request(t, GET);
        filter_reply(t);
        if (modes[i].status == 0) {
            CU_ASSERT_EQUAL(t_answers(t), 0);
            CU_ASSERT_FALSE(t_is_open(t->client));
        } else {
            CU_ASSERT_EQUAL(t_answers(t), 1);
            CU_ASSERT_EQUAL(t_status(t), modes[i].status);
        }
        if (modes[i].body != NULL) {
            CU_ASSERT_STRING_EQUAL(t_body(t), modes[i].body);
            CU_ASSERT_STRING_EQUAL(t_header(t, "x-b"), "was here");
        }
        if (modes[i].status == 403) {
            CU_ASSERT_PTR_NULL(strstr(t_raw(t), "abc")); /* not one byte */
        }
        if (modes[i].seen_a != NULL) {
            CU_ASSERT_STRING_EQUAL(filter_st.seen_a, modes[i].seen_a);
        }
        filter_end(t);
    }
}

static void
test_filters_see_the_routers_own_answers(void)
{
    t_loop_t *t = filter_loop("pass", "bracket");

    t_request(t, "GET /own HTTP/1.1\r\nhost: x\r\n\r\n");
    CU_ASSERT_STRING_EQUAL(t_body(t), "[own]");
    CU_ASSERT_STRING_EQUAL(filter_st.seen_a, "[own]!");
    filter_end(t);
}

static void
test_filter_that_waits_goes_on_where_it_was(void)
{
    static const char *const others[] = { "pass", "bracket", "hold" };

    for (size_t i = 0; i < KARS_NELTS(others) * 2; i++) {
        int first = i % 2 == 0; /* which of the two waits */
        const char *other = others[i / 2];
        t_loop_t *t =
            first ? filter_loop("wait", other) : filter_loop(other, "wait");

        T_CASE(other);
        t_request(t, GET);
        filter_reply(t); /* the rest comes while it waits */
        CU_ASSERT_EQUAL(t_answers(t), 0);
        (void) kars__api.resume(filter_st.token, 0);
        t_run(t);
        CU_ASSERT_EQUAL(filter_st.woken, 1);
        CU_ASSERT_EQUAL(t_answers(t), 1);
        CU_ASSERT_STRING_EQUAL(
            t_body(t), strcmp(other, "bracket") == 0 ? "[abc][def]" : "abcdef");
        filter_end(t);
    }
}

static void
test_filter_that_waits_stops_the_upstream(void)
{
    t_loop_t *t = filter_loop("pass", "wait");
    static char big[1024 * 1024];

    memset(big, 'x', sizeof(big) - 1);
    filter_st.mode_a[0] = '\0';
    t_request(t, GET);
    t_upstream_reply(t, HEAD_OK("content-length: 1048575\r\n"));
    filter_st.seen_a[0] = filter_st.seen_b[0] = '\0';
    t_upstream_reply(t, "xxxxx");
    CU_ASSERT_EQUAL(filter_st.woken, 0);

    size_t before = t_upstream(t, 0)->in_at;

    t_upstream_reply(t, "yyyyy");
    CU_ASSERT_EQUAL(t_upstream(t, 0)->in_at, before);
    t_client_gone(t);
    filter_end(t);
}

static void
test_filter_that_waits_too_long_cuts_the_answer(void)
{
    for (int how = 0; how < 2; how++) {
        t_loop_t *t = filter_loop("pass", "wait");

        t_request(t, GET);
        filter_reply(t);
        if (how == 0) {
            t_advance_ms(t, 5000);
        } else {
            (void) kars__api.resume(filter_st.token, EIO);
            t_run(t);
        }
        CU_ASSERT_EQUAL(filter_st.error, how == 0 ? ETIMEDOUT : EIO);
        CU_ASSERT_EQUAL(t_answers(t), 0);
        CU_ASSERT_FALSE(t_is_open(t->client));
        filter_end(t);
    }
}

static void
test_filter_that_waits_ends_with_its_client(void)
{
    t_loop_t *t = filter_loop("pass", "wait");

    t_request(t, GET);
    filter_reply(t);
    t_client_gone(t);
    (void) kars__api.resume(filter_st.token, 0);
    t_advance_ms(t, 6000);
    CU_ASSERT_EQUAL(filter_st.woken, 0);
    filter_end(t);
}

/* clang-format off */
static const struct { const char *type; int status; const char *last; } lates[] = {
    { "content-type: text/event-stream\r\n", 200, "data: [DONE]\n\n" },
    { "content-type: application/json\r\n", 0, NULL },
};
/* clang-format on */

/* An upstream that breaks off: a stream says so, anything else is cut. */
static void
test_filter_answer_that_fails_late(void)
{
    for (size_t i = 0; i < KARS_NELTS(lates); i++) {
        t_loop_t *t = filter_loop("pass", "pass");
        char reply[200];

        T_CASE(lates[i].type);
        (void) snprintf(reply, sizeof(reply),
                        "HTTP/1.1 200 OK\r\n%scontent-length: 99\r\n\r\n"
                        "data: 1\n\n",
                        lates[i].type);
        t_request(t, GET);
        t_upstream_reply(t, reply);
        CU_ASSERT_EQUAL(t_answers(t), 0);
        t_upstream_gone(t, 0);
        CU_ASSERT_EQUAL(t_answers(t), lates[i].status != 0);
        if (lates[i].last != NULL) {
            const char *body = t_body(t);

            CU_ASSERT_PTR_NOT_NULL(strstr(body, "data: 1\n\ndata: {\"error\""));
            CU_ASSERT_STRING_EQUAL(body + strlen(body) - strlen(lates[i].last),
                                   lates[i].last);
        }
        filter_end(t);
    }
}

void
suite_filter(void)
{
    T_SUITE(filter);
    T_TEST(filter, test_filters_do_what_they_say);
    T_TEST(filter, test_filters_see_the_routers_own_answers);
    T_TEST(filter, test_filter_that_waits_goes_on_where_it_was);
    T_TEST(filter, test_filter_that_waits_stops_the_upstream);
    T_TEST(filter, test_filter_that_waits_too_long_cuts_the_answer);
    T_TEST(filter, test_filter_that_waits_ends_with_its_client);
    T_TEST(filter, test_filter_answer_that_fails_late);
}
