/*
 * test_wait_token.c - waiting for what another module finds out: kars_await()
 * and filter_await(), and tokens that nobody waits for.
 */
#include "loop.h"

#include <errno.h>

#define GET "GET / HTTP/1.1\r\nhost: x\r\n\r\n"

static struct {
    uint32_t phase; /* the hook that waits; 0: the filter does */
    int leaves;     /* makes a token and does not wait for it */
    int at_once;    /* the provider resumes before the hook waits */
    uint32_t timeout_ms;
    kars_token_t token;
    kars_token_t more[3];
    int woken;
    int error;
    int again;
    int logged;
    kars_req_t *r;
} tok;

static int
tok_deny(kars_req_t *r)
{
    kars_denial_t d = { .size = sizeof(d),
                        .status = 503,
                        .code = KARS_STR("overloaded") };

    return kars__api.deny(r, &d);
}

static int tok_wait(kars_req_t *r);

static int
tok_woken(kars_req_t *r, int error, const void *conf, void *ctx)
{
    tok.woken++;
    tok.error = error;
    CU_ASSERT_EQUAL(kars__api.token_waits(tok.token), 0);
    if (error == 0 && tok.again) {
        tok.again = 0;
        return tok_wait(r);
    }
    return error != 0 ? tok_deny(r) : KARS_OK;
}

static int
tok_wait(kars_req_t *r)
{
    int rc;

    tok.r = r;
    tok.token = kars__api.token_make(r);
    if (tok.token == 0) {
        return KARS_ERROR;
    }
    for (size_t i = 0; i < KARS_NELTS(tok.more); i++) {
        tok.more[i] = kars__api.token_make(r);
    }
    CU_ASSERT_EQUAL(kars__api.token_waits(tok.token), 1);
    if (tok.leaves) {
        return KARS_OK;
    }
    if (tok.at_once) {
        (void) kars__api.resume(tok.token, 0);
    }
    rc = kars__api.await(r, tok.token, tok.timeout_ms, tok_woken);
    CU_ASSERT_EQUAL(rc, KARS_AGAIN);
    CU_ASSERT_EQUAL(kars__api.await(r, tok.token, 0, tok_woken), KARS_ERROR);
    CU_ASSERT_EQUAL(kars__api.suspend(r, 0, tok_woken), 0);
    return rc;
}

static int
tok_hook(kars_req_t *r, uint32_t phase)
{
    return phase == tok.phase ? tok_wait(r) : KARS_OK;
}

#define HOOK(phase, PHASE)                                             \
    static int tok_##phase(kars_req_t *r, const void *conf, void *ctx) \
    {                                                                  \
        return tok_hook(r, PHASE);                                     \
    }

HOOK(access, KARS_PHASE_ACCESS)
HOOK(rewrite, KARS_PHASE_REWRITE)
HOOK(admit, KARS_PHASE_ADMIT)
HOOK(content, KARS_PHASE_CONTENT)
HOOK(upstream, KARS_PHASE_UPSTREAM)

static int
tok_log(kars_req_t *r, const void *conf, void *ctx)
{
    tok.logged++;
    CU_ASSERT_EQUAL(kars__api.token_make(r), 0); /* it is over */
    return KARS_OK;
}

static int
tok_filter_woken(kars_filter_t *f, int error, const void *conf, void *ctx)
{
    tok.woken++;
    tok.error = error;
    return error != 0 ? KARS_ERROR : kars__api.filter_release(f, KARS_LAST);
}

static int
tok_body(kars_filter_t *f, kars_buf_t *in, uint32_t flags, const void *conf,
         void *ctx)
{
    kars_req_t *r = kars__api.filter_req(f);

    if (tok.phase != 0 || !(flags & KARS_LAST)) {
        return kars__api.filter_next(f, in, flags);
    }
    tok.token = kars__api.token_make(r);
    (void) kars__api.filter_hold(f, in);
    CU_ASSERT_EQUAL(
        kars__api.filter_await(f, tok.token + 1, 0, tok_filter_woken),
        KARS_ERROR);
    return kars__api.filter_await(f, tok.token, tok.timeout_ms,
                                  tok_filter_woken);
}

static const kars_hook_t tok_hooks[] = {
    { .phase = KARS_PHASE_ACCESS, .run = tok_access },
    { .phase = KARS_PHASE_REWRITE, .run = tok_rewrite },
    { .phase = KARS_PHASE_ADMIT, .run = tok_admit },
    { .phase = KARS_PHASE_CONTENT, .run = tok_content },
    { .phase = KARS_PHASE_UPSTREAM, .run = tok_upstream },
    { .phase = KARS_PHASE_LOG, .run = tok_log },
    { 0 },
};

static const kars_filter_def_t tok_filters[] = {
    { .dir = KARS_RESPONSE, .body = tok_body },
    { 0 },
};

static const kars_module_t asker = {
    T_MODULE_HEAD,      .name = "asker",        .flags = KARS_ALWAYS,
    .hooks = tok_hooks, .filters = tok_filters,
};

static const uint32_t tok_phases[] = { KARS_PHASE_ACCESS,   KARS_PHASE_REWRITE,
                                       KARS_PHASE_ADMIT,    KARS_PHASE_CONTENT,
                                       KARS_PHASE_UPSTREAM, 0 };

static t_loop_t *
tok_loop(uint32_t phase, uint32_t timeout_ms)
{
    t_loop_t *t = t_loop("upstream up { server 10.0.0.1:80; }"
                         "server { listen 127.0.0.1:1; "
                         "route GET / { pass up; } }",
                         &t_open, &asker);

    memset(&tok, 0, sizeof(tok));
    tok.phase = phase;
    tok.timeout_ms = timeout_ms;
    return t;
}

static void
tok_reply(t_loop_t *t)
{
    if (t_upstreams(t) == 1) {
        t_upstream_reply(t, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
    }
}

static void
tok_end(t_loop_t *t)
{
    if (t->client->sock != NULL) {
        t_client_gone(t);
    }
    CU_ASSERT_EQUAL(tok.logged, 1);
    CU_ASSERT_TRUE(t_is_empty(t));
    CU_ASSERT_EQUAL(kars__api.token_waits(tok.token), 0);
    t_loop_destroy(t);
}

static void
test_token_ends_four_ways(void)
{
    for (size_t i = 0; i < KARS_NELTS(tok_phases); i++) {
        uint32_t phase = tok_phases[i];
        t_loop_t *t = tok_loop(phase, 0);

        t_request(t, GET);
        if (phase == 0) {
            tok_reply(t);
        }
        CU_ASSERT_EQUAL(t_status(t), 0);
        t_advance_ms(t, 10000);
        CU_ASSERT_EQUAL(kars__api.token_waits(tok.token), 1);
        for (size_t k = 0; k < KARS_NELTS(tok.more); k++) {
            CU_ASSERT_EQUAL(kars__api.token_waits(tok.more[k]), 0);
        }
        CU_ASSERT_EQUAL(kars__api.resume(tok.token, 0), KARS_OK);
        CU_ASSERT_EQUAL(tok.woken, 0); /* from the loop */
        t_run(t);
        CU_ASSERT_EQUAL(tok.woken, 1);
        (void) kars__api.resume(tok.token, EIO);
        if (phase != 0) {
            tok_reply(t);
        }
        CU_ASSERT_EQUAL(t_status(t), 200);
        CU_ASSERT_EQUAL(tok.woken, 1);
        tok_end(t);

        for (int how = 0; how < 3; how++) {
            t = tok_loop(phase, 1000);
            t_request(t, GET);
            if (phase == 0) {
                tok_reply(t);
            }
            if (how == 0) {
                (void) kars__api.resume(tok.token, EIO);
                t_run(t);
                CU_ASSERT_EQUAL(tok.error, EIO);
            } else if (how == 1) {
                t_advance_ms(t, 999);
                CU_ASSERT_EQUAL(tok.woken, 0);
                t_advance_ms(t, 1);
                CU_ASSERT_EQUAL(tok.error, ETIMEDOUT);
            } else {
                t_client_gone(t);
                CU_ASSERT_EQUAL(kars__api.token_waits(tok.token), 0);
                (void) kars__api.resume(tok.token, 0);
                t_run(t);
            }
            CU_ASSERT_EQUAL(tok.woken, how < 2);
            CU_ASSERT_EQUAL(t_status(t), phase != 0 && how < 2 ? 503 : 0);
            tok_end(t);
        }
    }
}

static void
test_token_that_nobody_waits_for_dies_with_its_hook(void)
{
    t_loop_t *t = tok_loop(KARS_PHASE_ADMIT, 0);

    tok.leaves = 1;
    t_request(t, GET);
    CU_ASSERT_EQUAL(kars__api.token_waits(tok.token), 0);
    (void) kars__api.resume(tok.token, 0);
    tok_reply(t);
    CU_ASSERT_EQUAL(t_status(t), 200);
    CU_ASSERT_EQUAL(tok.woken, 0);

    /* a stale one is nobody's, and its place is used again */
    tok.leaves = 0;
    kars_token_t old = tok.token;

    t_request(t, GET);
    CU_ASSERT_NOT_EQUAL(tok.token, old);
    (void) kars__api.resume(old, EIO);
    t_run(t);
    CU_ASSERT_EQUAL(tok.woken, 0);
    (void) kars__api.resume(tok.token, 0);
    t_run(t);
    CU_ASSERT_EQUAL(tok.woken, 1);
    tok.logged = 1;
    t_client_gone(t);
    t_loop_destroy(t);
}

static void
test_token_may_be_resumed_before_it_is_waited_for(void)
{
    t_loop_t *t = tok_loop(KARS_PHASE_ADMIT, 1000);

    tok.at_once = 1;
    tok.again = 1; /* and the continuation waits once more */
    t_request(t, GET);
    CU_ASSERT_EQUAL(tok.woken, 2);
    CU_ASSERT_EQUAL(tok.error, 0);
    tok_reply(t);
    CU_ASSERT_EQUAL(t_status(t), 200);
    tok_end(t);
}

static void
test_token_is_of_one_request(void)
{
    t_loop_t *t = tok_loop(KARS_PHASE_ADMIT, 0);
    kars_token_t first;

    t_request(t, GET);
    first = tok.token;
    (void) t_client(t);
    t_request(t, GET);
    CU_ASSERT_NOT_EQUAL(first, tok.token);
    (void) kars__api.resume(tok.token, EIO);
    t_run(t);
    CU_ASSERT_EQUAL(t_status(t), 503);
    CU_ASSERT_EQUAL(kars__api.token_waits(first), 1);
    CU_ASSERT_EQUAL(kars__api.token_waits(0), 0);
    CU_ASSERT_EQUAL(kars__api.token_waits(UINT64_MAX), 0);
    t_loop_destroy(t);
    CU_ASSERT_EQUAL(tok.woken, 1);
    CU_ASSERT_EQUAL(tok.logged, 2);
}

static void
test_token_loop_is_for_commands(void)
{
    t_loop_t *t = tok_loop(KARS_PHASE_ADMIT, 0);

    CU_ASSERT_EQUAL(kars__api.loop_run(t->cycle, 10), KARS_ERROR);
    t->cycle->command = 1;
    kars__api.loop_stop(t->cycle); /* before it turns */
    CU_ASSERT_EQUAL(kars__api.loop_run(t->cycle, 0), KARS_OK);
    t_loop_destroy(t);
}

void
suite_wait_token(void)
{
    T_SUITE(wait_token);
    T_TEST(wait_token, test_token_ends_four_ways);
    T_TEST(wait_token, test_token_that_nobody_waits_for_dies_with_its_hook);
    T_TEST(wait_token, test_token_may_be_resumed_before_it_is_waited_for);
    T_TEST(wait_token, test_token_is_of_one_request);
    T_TEST(wait_token, test_token_loop_is_for_commands);
}
