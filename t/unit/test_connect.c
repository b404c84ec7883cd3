/*
 * test_connect.c - CONNECT hooks: before any byte, once a connection; what they
 * grant, what they refuse, what they wait for.
 */
#include "loop.h"

#include <errno.h>

#define GET "GET / HTTP/1.1\r\nhost: x\r\n\r\n"

static struct {
    char mode[16];
    int asked;     /* of the first module */
    int other;     /* of the second */
    int inherited; /* requests that saw the conn ctx and a grant */
    int logged;
    char denied[64]; /* "by code rule" as LOG saw it */
    kars_token_t token;
    int woken;
    int wake_rc;
} cn;

static int
cn_woken(kars_conn_t *c, int error, const void *conf, void *ctx)
{
    cn.woken++;
    CU_ASSERT_EQUAL(*(int *) ctx, 7);
    return error != 0 ? KARS_ERROR : cn.wake_rc;
}

static int
cn_connect(kars_conn_t *c, const void *conf, void *ctx)
{
    kars_peer_t peer = { .size = sizeof(peer) };

    cn.asked++;
    *(int *) ctx = 7;
    CU_ASSERT_EQUAL(kars__api.conn_peer(c, &peer), KARS_OK);
    CU_ASSERT_PTR_NOT_NULL(kars__api.conn_cycle(c));
    if (strcmp(cn.mode, "done") == 0) {
        return KARS_DONE;
    }
    if (strcmp(cn.mode, "error") == 0) {
        return KARS_ERROR;
    }
    if (strcmp(cn.mode, "again") == 0) {
        return KARS_AGAIN; /* and waits for nothing */
    }
    if (strcmp(cn.mode, "declined") == 0) {
        return KARS_DECLINED;
    }
    if (strcmp(cn.mode, "deny") == 0) {
        kars_denial_t d = { .size = sizeof(d),
                            .status = 403,
                            .code = KARS_STR("peer_unknown"),
                            .reason = KARS_STR("not from there"),
                            .rule = conf };

        return kars__api.conn_deny(c, &d);
    }
    if (strcmp(cn.mode, "wait") == 0) {
        cn.token = kars__api.conn_suspend(c, 3000, cn_woken);
        CU_ASSERT_EQUAL(kars__api.conn_suspend(c, 3000, cn_woken), 0);
        return KARS_AGAIN;
    }
    CU_ASSERT_EQUAL(kars__api.conn_grant(c, KARS_STR("peer"), KARS_STR("p9")),
                    KARS_OK);
    return KARS_OK;
}

static int cn_access(kars_req_t *r, const void *conf, void *ctx);

static int
cn_log(kars_req_t *r, const void *conf, void *ctx)
{
    kars_str_t by = kars__api.req_var(r, KARS_STR("deny_module"));
    kars_str_t code = kars__api.req_var(r, KARS_STR("deny_code"));
    kars_str_t rule = kars__api.req_var(r, KARS_STR("deny_rule"));

    cn.logged++;
    (void) snprintf(cn.denied, sizeof(cn.denied), "%.*s %.*s %.*s",
                    KARS_STR_ARG(by), KARS_STR_ARG(code), KARS_STR_ARG(rule));
    return KARS_OK;
}

static int
cn_other(kars_conn_t *c, const void *conf, void *ctx)
{
    cn.other++;
    return KARS_OK;
}

static const kars_hook_t cn_hooks[] = {
    { .phase = KARS_PHASE_CONNECT, .connect = cn_connect },
    { .phase = KARS_PHASE_ACCESS, .run = cn_access },
    { .phase = KARS_PHASE_LOG, .run = cn_log },
    { 0 },
};
static const kars_hook_t other_hooks[] = {
    { .phase = KARS_PHASE_CONNECT, .connect = cn_other },
    { 0 },
};
static const kars_directive_t cn_directives[] = {
    { .name = "gatekeeper",
      .at = KARS_AT_SERVER,
      .type = KARS_T_FLAG,
      .doc = "x" },
    { 0 },
};
static const kars_module_t mod_cn = {
    T_MODULE_HEAD,
    .name = "cn",
    .flags = KARS_ALWAYS,
    .conf_size = sizeof(int32_t),
    .conn_ctx_size = sizeof(int),
    .directives = cn_directives,
    .hooks = cn_hooks,
};
static const kars_directive_t other_directives[] = {
    { .name = "other", .at = KARS_AT_SERVER, .type = KARS_T_FLAG, .doc = "x" },
    { 0 },
};
static const kars_module_t mod_other = {
    T_MODULE_HEAD,
    .name = "other",
    .hooks = other_hooks,
    .conf_size = sizeof(int32_t),
    .directives = other_directives,
};

static int
cn_access(kars_req_t *r, const void *conf, void *ctx)
{
    const int *mine = kars__api.req_conn_ctx(r, &mod_cn);

    cn.inherited += mine != NULL && *mine == 7 &&
                    kars_str_eq(kars__api.req_class(r), KARS_STR("peer")) &&
                    kars_str_eq(kars__api.req_principal(r), KARS_STR("p9"));
    return KARS_OK;
}

static t_loop_t *
cn_loop(const char *mode)
{
    memset(&cn, 0, sizeof(cn));
    (void) snprintf(cn.mode, sizeof(cn.mode), "%s", mode);
    return t_loop("server { listen 127.0.0.1:1; gatekeeper on; other on;"
                  "route GET / { respond 200 hello; } }",
                  &mod_cn, &mod_other);
}

static void
test_connect_grants_what_requests_inherit(void)
{
    t_loop_t *t = cn_loop("grant");

    t_request(t, GET);
    t_request(t, GET GET);
    CU_ASSERT_EQUAL(t_answers(t), 3);
    CU_ASSERT_EQUAL(t_status_at(t, 2), 200);
    CU_ASSERT_EQUAL(cn.asked, 1); /* of the connection, not of a request */
    CU_ASSERT_EQUAL(cn.other, 1);
    CU_ASSERT_EQUAL(cn.inherited, 3);
    t_loop_destroy(t);
}

static void
test_connect_that_grants_nothing_lets_nobody_in(void)
{
    t_loop_t *t = cn_loop("declined");

    t_request(t, GET);
    CU_ASSERT_EQUAL(t_status(t), 403);
    CU_ASSERT_EQUAL(cn.other, 1);
    t_loop_destroy(t);
}

/* clang-format off */
static const struct { const char *mode; const char *denied; } refusals[] = {
    { "done", "cn connection_refused " },
    { "deny", "cn peer_unknown gatekeeper " },
    { "error", "cn internal_error " },
    { "again", "cn internal_error " },
};
/* clang-format on */

static void
test_connect_that_refuses_closes_and_records(void)
{
    for (size_t i = 0; i < KARS_NELTS(refusals); i++) {
        t_loop_t *t = cn_loop(refusals[i].mode);
        t_end_t *e;

        T_CASE(refusals[i].mode);
        e = t_client(t);
        t_append(&e->in, GET, strlen(GET));
        t_run(t);
        CU_ASSERT_FALSE(t_is_open(e));
        CU_ASSERT_EQUAL(e->in_at, 0); /* not a byte was read */
        CU_ASSERT_EQUAL(e->out.len, 0);
        CU_ASSERT_EQUAL(cn.other, 0);
        CU_ASSERT_EQUAL(cn.logged, 1); /* exactly one record */
        CU_ASSERT_EQUAL(
            strncmp(cn.denied, refusals[i].denied, strlen(refusals[i].denied)),
            0);
        CU_ASSERT_PTR_NOT_NULL(strstr(t_log(t), "by=cn"));
        CU_ASSERT_TRUE(t_is_empty(t));
        t_loop_destroy(t);
    }
}

static void
test_connect_that_waits(void)
{
    for (int how = 0; how < 5; how++) {
        t_loop_t *t = cn_loop("wait");
        t_end_t *e = t_client(t);

        cn.wake_rc = how == 1 ? KARS_DONE : KARS_OK;
        t_send(t, e, GET, strlen(GET));
        CU_ASSERT_EQUAL(e->in_at, 0);
        CU_ASSERT_EQUAL(cn.other, 0);
        if (how < 2) {
            (void) kars__api.resume(cn.token, 0);
            t_run(t);
        } else if (how == 2) {
            t_advance_ms(t, 3100);
        } else if (how == 3) { /* the worker ends */
            kars__conn_drain(t->cycle, 1);
        }
        CU_ASSERT_EQUAL(cn.woken, how < 3);
        CU_ASSERT_EQUAL(t_is_open(e), how == 0 || how == 4);
        CU_ASSERT_EQUAL(t_answers(t), how == 0);
        CU_ASSERT_EQUAL(cn.other, how == 0);
        CU_ASSERT_EQUAL(cn.logged, how < 3);
        t_loop_destroy(t); /* how 4: while it waits */
    }
}

/* The connection's own time bounds what a hook may take. */
static void
test_connect_that_waits_for_ever(void)
{
    t_loop_t *t;
    t_end_t *e;

    memset(&cn, 0, sizeof(cn));
    (void) snprintf(cn.mode, sizeof(cn.mode), "wait");
    t = t_loop("server { listen 127.0.0.1:1; gatekeeper on; timeout header=1s;"
               "route GET / { respond 200 hello; } }",
               &mod_cn);
    e = t_client(t);
    t_advance_ms(t, 1100);
    CU_ASSERT_FALSE(t_is_open(e));
    (void) kars__api.resume(cn.token, 0);
    t_run(t);
    CU_ASSERT_EQUAL(cn.woken, 0);
    t_loop_destroy(t);
}

static void
test_connect_without_memory(void)
{
    for (uint64_t nth = 1; nth < 40; nth++) {
        static const char *const ways[] = { "grant", "deny", "wait" };
        t_loop_t *t = cn_loop(ways[nth % 3]);
        t_end_t *e;

        kars__pool_fail_at(nth / 3 + 1);
        e = t_client(t);
        t_send(t, e, GET, strlen(GET));
        kars__pool_fail_at(0);
        if (nth % 3 == 1) {
            CU_ASSERT_FALSE(t_is_open(e));
        }
        if (t_answers(t) == 1 && t_status(t) == 200) {
            CU_ASSERT_EQUAL(cn.inherited, 1);
        }
        t_loop_destroy(t);
    }
}

/* A module with no directive near the server is not asked. */
static void
test_connect_is_asked_where_it_applies(void)
{
    t_loop_t *t;

    memset(&cn, 0, sizeof(cn));
    t = t_loop("server { listen 127.0.0.1:1; route GET / "
               "{ respond 200 hello; } }",
               &mod_cn, &mod_other);
    t_request(t, GET);
    CU_ASSERT_EQUAL(cn.asked, 1); /* KARS_ALWAYS */
    CU_ASSERT_EQUAL(cn.other, 0);
    t_loop_destroy(t);
}

void
suite_connect(void)
{
    T_SUITE(connect);
    T_TEST(connect, test_connect_grants_what_requests_inherit);
    T_TEST(connect, test_connect_that_grants_nothing_lets_nobody_in);
    T_TEST(connect, test_connect_that_refuses_closes_and_records);
    T_TEST(connect, test_connect_that_waits);
    T_TEST(connect, test_connect_that_waits_for_ever);
    T_TEST(connect, test_connect_without_memory);
    T_TEST(connect, test_connect_is_asked_where_it_applies);
}
