/*
 * test_pass_retry.c - another attempt that a module asks for: when it is
 * asked, what is sent again, and that it ends.
 */
#include "loop.h"

#include <errno.h>

#define GET "GET /p HTTP/1.1\r\nhost: x\r\n\r\n"
#define POST \
    "POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: 11\r\n\r\n{\"a\":\"b c\"}"

static struct {
    kars_upstream_t *a;
    kars_upstream_t *b;
    uint32_t flags;
    uint32_t timeout_ms;
    int again; /* attempts after which it still says DONE */
    int stays; /* at the same upstream */
    int asked;
    int error;
    int status;
    uint32_t attempt;
    int hooks; /* UPSTREAM: one an attempt */
    int admits;
    int logged;
    char upstream[16]; /* what LOG finds */
    int64_t attempts;
} retry_st;

static int
retry_asked(kars_req_t *r, const kars_reply_t *reply, uint32_t attempt,
            kars_upstream_t **next, void *data)
{
    CU_ASSERT_PTR_EQUAL(data, &retry_st);
    CU_ASSERT_EQUAL(attempt, retry_st.attempt + 1);
    retry_st.asked++;
    retry_st.attempt = attempt;
    retry_st.error = reply->error;
    retry_st.status = reply->status;
    if (reply->status == 503) {
        CU_ASSERT_TRUE(
            kars_str_eq(kars__api.reply_header(reply, KARS_STR("retry-after")),
                        KARS_STR("7")));
    }
    if ((int) attempt > retry_st.again) {
        return KARS_OK;
    }
    if (!retry_st.stays) {
        *next = *next == retry_st.a ? retry_st.b : retry_st.a;
    }
    return KARS_DONE;
}

static int
retry_content(kars_req_t *r, const void *conf, void *ctx)
{
    kars_pass_t pass = { .size = sizeof(pass),
                         .upstream = retry_st.a,
                         .timeout_ms = retry_st.timeout_ms,
                         .retry = retry_asked,
                         .data = &retry_st,
                         .flags = retry_st.flags };

    return kars__api.pass(r, &pass);
}

static int
retry_upstream(kars_req_t *r, const void *conf, void *ctx)
{
    retry_st.hooks++;
    return kars__api.header_set(r, KARS_REQUEST, KARS_STR("x-to"),
                                kars__api.req_var(r, KARS_STR("upstream")));
}

static int
retry_admit(kars_req_t *r, const void *conf, void *ctx)
{
    retry_st.admits++;
    return KARS_OK;
}

static int
retry_log(kars_req_t *r, const void *conf, void *ctx)
{
    retry_st.logged++;
    (void) snprintf(retry_st.upstream, sizeof(retry_st.upstream), "%.*s",
                    KARS_STR_ARG(kars__api.req_var(r, KARS_STR("upstream"))));
    retry_st.attempts = kars__api.req_number(r, KARS_STR("attempts"));
    return KARS_OK;
}

static const kars_hook_t retry_hooks[] = {
    { .phase = KARS_PHASE_ADMIT, .run = retry_admit, .flags = KARS_NEEDS_BODY },
    { .phase = KARS_PHASE_CONTENT, .run = retry_content },
    { .phase = KARS_PHASE_UPSTREAM, .run = retry_upstream },
    { .phase = KARS_PHASE_LOG, .run = retry_log },
    { 0 },
};

static const kars_hook_t stream_hooks[] = {
    { .phase = KARS_PHASE_CONTENT, .run = retry_content },
    { .phase = KARS_PHASE_LOG, .run = retry_log },
    { 0 },
};

static const kars_module_t retrier = { T_MODULE_HEAD, .name = "retrier",
                                       .flags = KARS_ALWAYS,
                                       .hooks = retry_hooks };
static const kars_module_t streamer = { T_MODULE_HEAD, .name = "streamer",
                                        .flags = KARS_ALWAYS,
                                        .hooks = stream_hooks };

static t_loop_t *
retry_loop(const kars_module_t *mod, int again)
{
    t_loop_t *t = t_loop("upstream a { server 10.0.0.1:80; retry 0; "
                         "timeout connect=1s first_byte=5s; }"
                         "upstream b { server 10.0.0.2:80; retry 0; "
                         "timeout connect=1s first_byte=5s; }"
                         "server { listen 127.0.0.1:1; route * /p { } }",
                         &t_open, mod);

    memset(&retry_st, 0, sizeof(retry_st));
    retry_st.a = t->cycle->upstreams;
    while (!kars_str_eq(retry_st.a->name, KARS_STR("a"))) {
        retry_st.a = retry_st.a->next;
    }
    retry_st.b = t->cycle->upstreams;
    while (!kars_str_eq(retry_st.b->name, KARS_STR("b"))) {
        retry_st.b = retry_st.b->next;
    }
    retry_st.again = again;
    return t;
}

static void
retry_end(t_loop_t *t, const char *upstream, int64_t attempts)
{
    if (t->client->sock != NULL) {
        t_client_gone(t);
    }
    CU_ASSERT_EQUAL(retry_st.logged, 1);
    CU_ASSERT_STRING_EQUAL(retry_st.upstream, upstream);
    CU_ASSERT_EQUAL(retry_st.attempts, attempts);
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
}

#define OK_REPLY "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
#define STATUS(n) \
    "HTTP/1.1 " n " X\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nbusy"

/* clang-format off */
static const struct {
    const char *what;
    const char *request;
    const char *reply; /* NULL: the upstream closes */
    uint32_t flags;
    int asked;
} cases[] = {
    { "POST 503",            POST, STATUS("503"), 0, 1 },
    { "POST 429",            POST, STATUS("429"), 0, 1 },
    { "POST 421",            POST, STATUS("421"), 0, 1 },
    { "POST 500",            POST, STATUS("500"), 0, 0 },
    { "POST 404",            POST, STATUS("404"), 0, 0 },
    { "POST 500 unsafe",     POST, STATUS("500"), KARS_RETRY_UNSAFE, 1 },
    { "POST 200 unsafe",     POST, OK_REPLY,      KARS_RETRY_UNSAFE, 1 },
    { "POST reset",          POST, NULL,          0, 0 },
    { "POST reset unsafe",   POST, NULL,          KARS_RETRY_UNSAFE, 1 },
    { "POST garbage",        POST, "SSH\r\n\r\n", 0, 0 },
    { "GET 500",             GET,  STATUS("500"), 0, 1 },
    { "GET reset",           GET,  NULL,          0, 1 },
    { "GET garbage",         GET,  "SSH\r\n\r\n", 0, 1 },
    { "GET 200",             GET,  OK_REPLY,      0, 1 },
};
/* clang-format on */

static void
test_pass_retry_is_asked_only_where_it_is_safe(void)
{
    for (size_t i = 0; i < KARS_NELTS(cases); i++) {
        t_loop_t *t = retry_loop(&retrier, 1);
        int post = cases[i].request[0] == 'P';

        T_CASE(cases[i].what);
        retry_st.flags = cases[i].flags;
        t_request(t, cases[i].request);
        if (cases[i].reply != NULL) {
            t_upstream_reply(t, cases[i].reply);
        } else {
            t_upstream_gone(t, 0);
        }
        CU_ASSERT_EQUAL(retry_st.asked, cases[i].asked);
        CU_ASSERT_EQUAL(t_upstreams(t), 1 + cases[i].asked);
        if (cases[i].asked) {
            CU_ASSERT_EQUAL(t_status(t), 0); /* nothing of the first */
            CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
            CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 1),
                                   post ? "{\"a\":\"b c\"}" : "");
            CU_ASSERT_PTR_NOT_NULL(
                strstr(t_upstream_got(t, 1), "host: 10.0.0.2:80\r\n"));
            CU_ASSERT_PTR_NOT_NULL(strstr(t_upstream_got(t, 1), "x-to: b\r\n"));
            t_upstream_reply(t, OK_REPLY);
            CU_ASSERT_EQUAL(t_status(t), 200);
            CU_ASSERT_STRING_EQUAL(t_body(t), "hi");
            CU_ASSERT_EQUAL(t_answers(t), 1);
        } else {
            CU_ASSERT_TRUE(t_status(t) >= 400);
        }
        CU_ASSERT_EQUAL(retry_st.hooks, 1 + cases[i].asked);
        CU_ASSERT_EQUAL(retry_st.admits, 1);
        retry_end(t, cases[i].asked ? "b" : "a", 1 + cases[i].asked);
    }
}

static void
test_pass_retry_is_asked_about_connections_and_times(void)
{
    static const int refused[] = { ECONNREFUSED };
    static const int hangs[] = { T_CONNECT_HANGS };
    t_loop_t *t = retry_loop(&retrier, 1);

    t_connects(t, refused, 1);
    t_request(t, POST);
    CU_ASSERT_EQUAL(retry_st.error, ECONNREFUSED);
    t_upstream_reply(t, OK_REPLY);
    CU_ASSERT_EQUAL(t_status(t), 200);
    retry_end(t, "b", 2);

    t = retry_loop(&retrier, 1); /* never sent: safe for POST too */
    t_connects(t, hangs, 1);
    t_request(t, POST);
    t_advance_ms(t, 1000);
    CU_ASSERT_EQUAL(retry_st.error, ETIMEDOUT);
    CU_ASSERT_EQUAL(t_upstreams(t), 2);
    t_upstream_reply(t, OK_REPLY);
    retry_end(t, "b", 2);

    t = retry_loop(&retrier, 1); /* sent, and no word: not for POST */
    retry_st.timeout_ms = 700;
    t_request(t, POST);
    t_advance_ms(t, 699);
    CU_ASSERT_EQUAL(t_status(t), 0);
    t_advance_ms(t, 1);
    CU_ASSERT_EQUAL(t_status(t), 504);
    CU_ASSERT_EQUAL(retry_st.asked, 0);
    retry_end(t, "a", 1);

    t = retry_loop(&retrier, 1); /* each attempt has its time */
    retry_st.timeout_ms = 700;
    t_request(t, GET);
    t_advance_ms(t, 700);
    CU_ASSERT_EQUAL(retry_st.asked, 1);
    t_advance_ms(t, 699);
    CU_ASSERT_EQUAL(t_status(t), 0);
    t_upstream_reply(t, OK_REPLY);
    CU_ASSERT_EQUAL(t_status(t), 200);
    retry_end(t, "b", 2);
}

static void
test_pass_retry_comes_to_an_end(void)
{
    t_loop_t *t = retry_loop(&retrier, 1000);

    retry_st.stays = 1;
    t_request(t, POST);
    for (int i = 0; i < 20 && t_status(t) == 0; i++) {
        t_upstream_reply(t, STATUS("503"));
    }
    CU_ASSERT_EQUAL(retry_st.asked, 7);
    CU_ASSERT_EQUAL(t_status(t), 503);
    CU_ASSERT_STRING_EQUAL(t_body(t), "busy");
    CU_ASSERT_EQUAL(retry_st.admits, 1);
    retry_end(t, "a", 8);
}

static void
test_pass_retry_is_not_asked_once_the_reply_began(void)
{
    t_loop_t *t = retry_loop(&retrier, 0); /* says no to the 200 */

    retry_st.flags = KARS_RETRY_UNSAFE;
    t_request(t, GET);
    t_upstream_reply(t, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
    CU_ASSERT_EQUAL(retry_st.asked, 1);
    t_upstream_gone(t, 0);
    CU_ASSERT_EQUAL(retry_st.asked, 1);
    CU_ASSERT_EQUAL(t_answers(t), 0);
    CU_ASSERT_EQUAL(t_upstreams(t), 1);
    retry_end(t, "a", 1);
}

static void
test_pass_retry_is_not_asked_when_a_body_streamed(void)
{
    static const int refused[] = { ECONNREFUSED };
    t_loop_t *t = retry_loop(&streamer, 1);

    retry_st.flags = KARS_RETRY_UNSAFE;
    t_request(t, POST);
    t_upstream_reply(t, STATUS("503"));
    CU_ASSERT_EQUAL(retry_st.asked, 0);
    CU_ASSERT_EQUAL(t_status(t), 503);
    retry_end(t, "a", 1);

    t = retry_loop(&streamer, 1); /* of which nothing was taken yet */
    t_connects(t, refused, 1);
    t_request(t, POST);
    CU_ASSERT_EQUAL(retry_st.asked, 1);
    CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 1), "{\"a\":\"b c\"}");
    t_upstream_reply(t, OK_REPLY);
    CU_ASSERT_EQUAL(t_status(t), 200);
    retry_end(t, "b", 2);
}

static void
test_pass_retry_ends_with_its_client(void)
{
    t_loop_t *t = retry_loop(&retrier, 1);

    t_request(t, POST);
    t_upstream_reply(t, STATUS("503"));
    CU_ASSERT_EQUAL(t_upstreams(t), 2);
    t_client_gone(t);
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 1)));
    retry_end(t, "b", 2);
}

static void
test_pass_retry_survives_each_failing_allocation(void)
{
    int whole = 0;

    for (uint64_t n = 1; n < 300 && !whole; n++) {
        t_loop_t *t = retry_loop(&retrier, 1);

        (void) t_client(t);
        kars__pool_fail_at(n);
        t_request(t, POST);
        if (t_upstreams(t) == 1 && t_is_open(t_upstream(t, 0))) {
            t_upstream_reply(t, STATUS("503"));
        }
        if (t_upstreams(t) == 2 && t_is_open(t_upstream(t, 1))) {
            t_upstream_reply(t, OK_REPLY);
        }
        kars__pool_fail_at(0);
        whole = t_status(t) == 200 && retry_st.attempts == 2;
        CU_ASSERT_TRUE(t_status(t) == 200 || t_status(t) >= 500 ||
                       !t_is_open(t->client));
        CU_ASSERT_TRUE(retry_st.logged <= 1);
        if (t->client->sock != NULL) {
            t_client_gone(t);
        }
        CU_ASSERT_TRUE(t_is_empty(t));
        t_loop_destroy(t);
    }
    CU_ASSERT_TRUE(whole);
}

void
suite_pass_retry(void)
{
    T_SUITE(pass_retry);
    T_TEST(pass_retry, test_pass_retry_is_asked_only_where_it_is_safe);
    T_TEST(pass_retry, test_pass_retry_is_asked_about_connections_and_times);
    T_TEST(pass_retry, test_pass_retry_comes_to_an_end);
    T_TEST(pass_retry, test_pass_retry_is_not_asked_once_the_reply_began);
    T_TEST(pass_retry, test_pass_retry_is_not_asked_when_a_body_streamed);
    T_TEST(pass_retry, test_pass_retry_ends_with_its_client);
    T_TEST(pass_retry, test_pass_retry_survives_each_failing_allocation);
}
