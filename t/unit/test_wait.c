/*
 * test_wait.c - suspension: kars_suspend(), kars_call() and kars_offload(),
 * each four ways: answer, failure, time-out, client gone.
 */
#include "loop.h"

#include <errno.h>
#include <pthread.h>

#define GET "GET / HTTP/1.1\r\nhost: x\r\n\r\n"

enum { HOW_SUSPEND = 1, HOW_CALL, HOW_OFFLOAD };

static struct {
    uint32_t phase; /* the hook that waits */
    int how;
    uint32_t timeout_ms;
    int inside; /* resume before the hook returns */
    int again;  /* the continuation waits once more */
    int passes; /* it ends with kars_pass() */
    kars_token_t token;
    kars_req_t *r;
    int woken; /* continuations that ran */
    int error; /* what the last one heard */
    int status;
    char body[64];
    int logged;
    int in_hook;
    int started;
    int go; /* lets the thread end */
    int worked;
    kars_upstream_t *up;
} wait_st;

static int
wait_over(kars_req_t *r, int error)
{
    CU_ASSERT_FALSE(wait_st.in_hook); /* never inside the call */
    wait_st.woken++;
    wait_st.error = error;
    if (error != 0) {
        kars_denial_t d = { .size = sizeof(d),
                            .status = 503,
                            .code = KARS_STR("overloaded") };

        return kars__api.deny(r, &d);
    }
    if (wait_st.passes) {
        kars_pass_t pass = { .size = sizeof(pass), .upstream = wait_st.up };

        return kars__api.pass(r, &pass);
    }
    return KARS_OK;
}

static int
wait_woken(kars_req_t *r, int error, const void *conf, void *ctx)
{
    if (wait_st.again && error == 0) {
        wait_st.again = 0;
        wait_st.woken++;
        wait_st.token = kars__api.suspend(r, wait_st.timeout_ms, wait_woken);
        return KARS_AGAIN;
    }
    return wait_over(r, error);
}

static int
wait_replied(kars_req_t *r, const kars_reply_t *reply, const void *conf,
             void *ctx)
{
    wait_st.status = reply->status;
    (void) snprintf(wait_st.body, sizeof(wait_st.body), "%.*s",
                    KARS_STR_ARG(reply->body));
    return wait_over(r, reply->error);
}

static void
wait_work(void *ctx)
{
    __atomic_store_n(&wait_st.started, 1, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&wait_st.go, __ATOMIC_ACQUIRE)) {
    }
    *(int *) ctx += 7; /* the request's memory must still be there */
    __atomic_store_n(&wait_st.worked, 1, __ATOMIC_RELEASE);
}

static int
wait_hook(kars_req_t *r, uint32_t phase)
{
    kars_call_t call = {
        .size = sizeof(call),
        .upstream = wait_st.up,
        .method = KARS_STR("POST"),
        .path = KARS_STR("/v1/verdict"),
        .bytes = KARS_STR("question"),
        .timeout_ms = wait_st.timeout_ms,
        .max_body = 16,
    };
    int rc = KARS_AGAIN;

    if (phase != wait_st.phase) {
        return KARS_OK;
    }
    wait_st.in_hook = 1;
    wait_st.r = r;
    switch (wait_st.how) {
    case HOW_SUSPEND:
        wait_st.token = kars__api.suspend(r, wait_st.timeout_ms, wait_woken);
        CU_ASSERT_NOT_EQUAL(wait_st.token, 0);
        CU_ASSERT_EQUAL(kars__api.suspend(r, 1, wait_woken), 0); /* one each */
        if (wait_st.inside) {
            CU_ASSERT_EQUAL(kars__api.resume(wait_st.token, 0), KARS_OK);
        }
        break;
    case HOW_CALL:
        rc = kars__api.call(r, &call, wait_replied);
        break;
    default:
        rc = kars__api.offload(r, wait_work, wait_woken);
        break;
    }
    wait_st.in_hook = 0;
    return rc;
}

#define HOOK(phase, PHASE)                                              \
    static int wait_##phase(kars_req_t *r, const void *conf, void *ctx) \
    {                                                                   \
        return wait_hook(r, PHASE);                                     \
    }

HOOK(access, KARS_PHASE_ACCESS)
HOOK(rewrite, KARS_PHASE_REWRITE)
HOOK(admit, KARS_PHASE_ADMIT)
HOOK(content, KARS_PHASE_CONTENT)
HOOK(upstream, KARS_PHASE_UPSTREAM)

static int
wait_log(kars_req_t *r, const void *conf, void *ctx)
{
    wait_st.logged++;
    return KARS_OK;
}

static const kars_hook_t wait_hooks[] = {
    { .phase = KARS_PHASE_ACCESS, .run = wait_access },
    { .phase = KARS_PHASE_REWRITE, .run = wait_rewrite },
    { .phase = KARS_PHASE_ADMIT, .run = wait_admit },
    { .phase = KARS_PHASE_CONTENT, .run = wait_content },
    { .phase = KARS_PHASE_UPSTREAM, .run = wait_upstream },
    { .phase = KARS_PHASE_LOG, .run = wait_log },
    { 0 },
};

static const kars_module_t waiter = {
    T_MODULE_HEAD,           .name = "waiter",    .flags = KARS_ALWAYS,
    .ctx_size = sizeof(int), .hooks = wait_hooks,
};

static t_loop_t *
wait_loop(uint32_t phase, int how, uint32_t timeout_ms)
{
    t_loop_t *t = t_loop("upstream up { server 10.0.0.1:80; }"
                         "server { listen 127.0.0.1:1;"
                         "route GET / { pass up; } }",
                         &t_open, &waiter);

    memset(&wait_st, 0, sizeof(wait_st));
    wait_st.phase = phase;
    wait_st.how = how;
    wait_st.timeout_ms = timeout_ms;
    wait_st.up = t->cycle->upstreams;
    return t;
}

static void
wait_end(t_loop_t *t)
{
    int logged = wait_st.logged;

    CU_ASSERT_EQUAL(logged, 1);
    if (t->client->sock != NULL) {
        t_client_gone(t);
    }
    CU_ASSERT_EQUAL(wait_st.logged, 1); /* one request: LOG once */
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
}

#define OK_REPLY "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"

static const struct {
    const char *name;
    uint32_t phase;
} phases[] = {
    { "access", KARS_PHASE_ACCESS },     { "rewrite", KARS_PHASE_REWRITE },
    { "admit", KARS_PHASE_ADMIT },       { "content", KARS_PHASE_CONTENT },
    { "upstream", KARS_PHASE_UPSTREAM },
};

#define EACH_PHASE(i)                                                         \
    for (size_t i = 0; i < KARS_NELTS(phases) && (T_CASE(phases[i].name), 1); \
         i++)

static void
test_suspend_goes_on_when_resumed(void)
{
    EACH_PHASE(i)
    {
        t_loop_t *t = wait_loop(phases[i].phase, HOW_SUSPEND, 1000);

        t_request(t, GET);
        CU_ASSERT_EQUAL(t_status(t), 0);
        CU_ASSERT_EQUAL(t_upstreams(t), 0);
        CU_ASSERT_EQUAL(kars__api.resume(wait_st.token, 0), KARS_OK);
        CU_ASSERT_EQUAL(wait_st.woken, 0); /* from the loop, not from here */
        t_run(t);
        CU_ASSERT_EQUAL(wait_st.woken, 1);
        t_upstream_reply(t, OK_REPLY);
        CU_ASSERT_EQUAL(t_status(t), 200);
        wait_end(t);
    }
}

static void
test_suspend_hears_of_a_failure(void)
{
    EACH_PHASE(i)
    {
        t_loop_t *t = wait_loop(phases[i].phase, HOW_SUSPEND, 1000);

        t_request(t, GET);
        (void) kars__api.resume(wait_st.token, EIO);
        t_run(t);
        CU_ASSERT_EQUAL(wait_st.error, EIO);
        CU_ASSERT_EQUAL(t_status(t), 503);
        CU_ASSERT_EQUAL(t_upstreams(t), 0);
        wait_end(t);
    }
}

static void
test_suspend_times_out(void)
{
    EACH_PHASE(i)
    {
        t_loop_t *t = wait_loop(phases[i].phase, HOW_SUSPEND, 1000);

        t_request(t, GET);
        t_advance_ms(t, 999);
        CU_ASSERT_EQUAL(wait_st.woken, 0);
        t_advance_ms(t, 1);
        CU_ASSERT_EQUAL(wait_st.error, ETIMEDOUT);
        CU_ASSERT_EQUAL(t_status(t), 503);
        (void) kars__api.resume(wait_st.token, 0); /* too late */
        t_run(t);
        CU_ASSERT_EQUAL(wait_st.woken, 1);
        wait_end(t);
    }
}

static void
test_suspend_ends_with_its_client(void)
{
    EACH_PHASE(i)
    {
        t_loop_t *t = wait_loop(phases[i].phase, HOW_SUSPEND, 1000);

        t_request(t, GET);
        t_client_gone(t);
        CU_ASSERT_TRUE(t_is_empty(t));
        (void) kars__api.resume(wait_st.token, 0);
        t_advance_ms(t, 2000);
        CU_ASSERT_EQUAL(wait_st.woken, 0);
        wait_end(t);
    }
}

static void
test_suspend_may_be_resumed_before_the_hook_returned(void)
{
    t_loop_t *t = wait_loop(KARS_PHASE_ADMIT, HOW_SUSPEND, 1000);

    wait_st.inside = 1;
    t_request(t, GET);
    CU_ASSERT_EQUAL(wait_st.woken, 1);
    t_upstream_reply(t, OK_REPLY);
    CU_ASSERT_EQUAL(t_status(t), 200);
    wait_end(t);
}

static void
test_suspend_may_wait_again_in_its_continuation(void)
{
    EACH_PHASE(i)
    {
        t_loop_t *t = wait_loop(phases[i].phase, HOW_SUSPEND, 1000);

        wait_st.again = 1;
        t_request(t, GET);
        (void) kars__api.resume(wait_st.token, 0);
        t_run(t);
        CU_ASSERT_EQUAL(wait_st.woken, 1);
        CU_ASSERT_EQUAL(t_upstreams(t), 0);
        (void) kars__api.resume(wait_st.token, 0);
        t_run(t);
        CU_ASSERT_EQUAL(wait_st.woken, 2);
        t_upstream_reply(t, OK_REPLY);
        CU_ASSERT_EQUAL(t_status(t), 200);
        wait_end(t);
    }
}

/* The continuation of a hook may say where the request goes. */
static void
test_suspend_may_end_in_a_pass(void)
{
    for (size_t i = 1; i < 4; i++) {
        t_loop_t *t = wait_loop(phases[i].phase, HOW_SUSPEND, 1000);

        T_CASE(phases[i].name);
        wait_st.passes = 1;
        t_request(t, GET);
        (void) kars__api.resume(wait_st.token, 0);
        t_run(t);
        CU_ASSERT_EQUAL(t_upstreams(t), 1);
        if (t_upstreams(t) == 1) {
            t_upstream_reply(t, OK_REPLY);
        }
        CU_ASSERT_EQUAL(t_status(t), 200);
        wait_end(t);
    }
}

static void
test_stale_tokens_do_no_harm(void)
{
    t_loop_t *t = wait_loop(KARS_PHASE_ADMIT, HOW_SUSPEND, 1000);
    kars_token_t first;

    t_request(t, GET);
    first = wait_st.token;
    (void) kars__api.resume(first, 0);
    (void) kars__api.resume(first, EIO); /* twice in one turn */
    t_run(t);
    CU_ASSERT_EQUAL(wait_st.woken, 1);
    t_upstream_reply(t, OK_REPLY);
    CU_ASSERT_EQUAL(t_status(t), 200);

    /* the next request may well get the same slot */
    t_request(t, GET);
    CU_ASSERT_NOT_EQUAL(wait_st.token, first);
    (void) kars__api.resume(first, EIO);
    (void) kars__api.resume(0, EIO);
    (void) kars__api.resume(UINT64_MAX, EIO);
    (void) kars__api.resume(1, EIO);
    t_run(t);
    CU_ASSERT_EQUAL(wait_st.woken, 1);
    (void) kars__api.resume(wait_st.token, 0);
    t_run(t);
    CU_ASSERT_EQUAL(wait_st.woken, 2);
    wait_st.logged = 1;
    t_client_gone(t);
    t_loop_destroy(t);
}

static void *
wait_thread(void *token)
{
    (void) kars__api.resume(*(kars_token_t *) token, 0);
    return NULL;
}

static void
test_suspend_may_be_resumed_by_another_thread(void)
{
    t_loop_t *t = wait_loop(KARS_PHASE_ADMIT, HOW_SUSPEND, 100000);
    pthread_t thread;

    t_request(t, GET);
    CU_ASSERT_EQUAL_FATAL(
        pthread_create(&thread, NULL, wait_thread, &wait_st.token), 0);
    t_run_until(t, &wait_st.woken);
    (void) pthread_join(thread, NULL);
    t_upstream_reply(t, OK_REPLY);
    CU_ASSERT_EQUAL(t_status(t), 200);
    wait_end(t);
}

/* kars_call(). */

static void
test_call_brings_the_answer(void)
{
    EACH_PHASE(i)
    {
        t_loop_t *t = wait_loop(phases[i].phase, HOW_CALL, 1000);

        t_request(t, GET);
        CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1);
        CU_ASSERT_PTR_NOT_NULL(strstr(t_upstream_got(t, 0), "POST /v1/verdict "
                                                            "HTTP/1.1\r\n"));
        CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 0), "question");
        t_upstream_reply(t,
                         "HTTP/1.1 206 OK\r\ncontent-length: 5\r\n\r\nallow");
        CU_ASSERT_EQUAL(wait_st.status, 206);
        CU_ASSERT_STRING_EQUAL(wait_st.body, "allow");
        CU_ASSERT_EQUAL(t_upstreams(t), 1); /* the pass uses it again */
        t_upstream_reply(t, OK_REPLY);
        CU_ASSERT_EQUAL(t_status(t), 200);
        wait_end(t);
    }
}

static void
test_call_hears_of_a_failure(void)
{
    static const int ends[] = { ECONNREFUSED, ECONNREFUSED };

    EACH_PHASE(i)
    {
        t_loop_t *t = wait_loop(phases[i].phase, HOW_CALL, 1000);

        t_connects(t, ends, 2);
        t_request(t, GET);
        CU_ASSERT_EQUAL(wait_st.error, ECONNREFUSED);
        CU_ASSERT_EQUAL(t_status(t), 503);
        wait_end(t);
    }
}

static void
test_call_times_out(void)
{
    EACH_PHASE(i)
    {
        t_loop_t *t = wait_loop(phases[i].phase, HOW_CALL, 1000);

        t_request(t, GET);
        t_advance_ms(t, 1000);
        CU_ASSERT_EQUAL(wait_st.error, ETIMEDOUT);
        CU_ASSERT_EQUAL(t_status(t), 503);
        CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
        wait_end(t);
    }
}

static void
test_call_ends_with_its_client(void)
{
    EACH_PHASE(i)
    {
        t_loop_t *t = wait_loop(phases[i].phase, HOW_CALL, 1000);

        t_request(t, GET);
        t_client_gone(t);
        CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
        t_advance_ms(t, 2000);
        CU_ASSERT_EQUAL(wait_st.woken, 0);
        wait_end(t);
    }
}

static void
test_call_refuses_more_than_max_body(void)
{
    /* clang-format off */
    static const struct { const char *reply; int error; } replies[] = {
        { "HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n0123456789abcdef", 0 },
        { "HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n0123456789abcdefg", EMSGSIZE },
        { "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n0123456789abcdefg", EMSGSIZE },
        { "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n01234567\r\n9\r\n012345678\r\n", EMSGSIZE },
        { "HTTP/1.1 204 OK\r\n\r\n", 0 },
        { "HTTP/1.1 2 OK\r\n\r\n", EPROTO },
    };
    /* clang-format on */

    for (size_t i = 0; i < KARS_NELTS(replies); i++) {
        t_loop_t *t = wait_loop(KARS_PHASE_ADMIT, HOW_CALL, 1000);

        T_CASE(replies[i].reply);
        t_request(t, GET);
        t_upstream_reply(t, replies[i].reply);
        CU_ASSERT_EQUAL(wait_st.woken, 1);
        CU_ASSERT_EQUAL(wait_st.error, replies[i].error);
        if (replies[i].error == 0) {
            t_upstream_reply(t, OK_REPLY);
        }
        CU_ASSERT_EQUAL(t_status(t), replies[i].error == 0 ? 200 : 503);
        wait_end(t);
    }
}

/* kars_offload(). */

static void
test_offload_goes_on_when_its_work_is_done(void)
{
    EACH_PHASE(i)
    {
        t_loop_t *t = wait_loop(phases[i].phase, HOW_OFFLOAD, 0);

        t_request(t, GET);
        CU_ASSERT_EQUAL(wait_st.woken, 0);
        __atomic_store_n(&wait_st.go, 1, __ATOMIC_RELEASE);
        t_run_until(t, &wait_st.woken);
        t_upstream_reply(t, OK_REPLY);
        CU_ASSERT_EQUAL(t_status(t), 200);
        wait_end(t);
    }
}

static void
test_offload_keeps_the_memory_of_a_client_that_left(void)
{
    EACH_PHASE(i)
    {
        t_loop_t *t = wait_loop(phases[i].phase, HOW_OFFLOAD, 0);

        t_request(t, GET);
        t_client_gone(t);
        CU_ASSERT_TRUE(t_is_empty(t));
        __atomic_store_n(&wait_st.go, 1, __ATOMIC_RELEASE);
        t_run_until(t, &wait_st.worked);
        CU_ASSERT_EQUAL(wait_st.woken, 0);
        wait_end(t); /* LeakSanitizer sees whether it went afterwards */
        CU_ASSERT_EQUAL(wait_st.woken, 0);
    }
}

static void
test_offload_is_waited_for_at_the_end(void)
{
    t_loop_t *t = wait_loop(KARS_PHASE_ADMIT, HOW_OFFLOAD, 0);

    t_request(t, GET);
    t_run_until(t, &wait_st.started);
    __atomic_store_n(&wait_st.go, 1, __ATOMIC_RELEASE);
    t_loop_destroy(t); /* with the request under way */
    CU_ASSERT_EQUAL(wait_st.woken, 0);
    CU_ASSERT_EQUAL(wait_st.logged, 1);
}

static void
test_waits_end_with_the_cycle(void)
{
    for (int how = HOW_SUSPEND; how <= HOW_CALL; how++) {
        t_loop_t *t = wait_loop(KARS_PHASE_ADMIT, how, 1000);

        t_request(t, GET);
        t_loop_destroy(t);
        CU_ASSERT_EQUAL(wait_st.woken, 0);
        CU_ASSERT_EQUAL(wait_st.logged, 1);
    }
}

void
suite_wait(void)
{
    T_SUITE(wait);
    T_TEST(wait, test_suspend_goes_on_when_resumed);
    T_TEST(wait, test_suspend_hears_of_a_failure);
    T_TEST(wait, test_suspend_times_out);
    T_TEST(wait, test_suspend_ends_with_its_client);
    T_TEST(wait, test_suspend_may_be_resumed_before_the_hook_returned);
    T_TEST(wait, test_suspend_may_wait_again_in_its_continuation);
    T_TEST(wait, test_suspend_may_end_in_a_pass);
    T_TEST(wait, test_stale_tokens_do_no_harm);
    T_TEST(wait, test_suspend_may_be_resumed_by_another_thread);
    T_TEST(wait, test_call_brings_the_answer);
    T_TEST(wait, test_call_hears_of_a_failure);
    T_TEST(wait, test_call_times_out);
    T_TEST(wait, test_call_ends_with_its_client);
    T_TEST(wait, test_call_refuses_more_than_max_body);
    T_TEST(wait, test_offload_goes_on_when_its_work_is_done);
    T_TEST(wait, test_offload_keeps_the_memory_of_a_client_that_left);
    T_TEST(wait, test_offload_is_waited_for_at_the_end);
    T_TEST(wait, test_waits_end_with_the_cycle);
}
