/*
 * test_upstream_url.c - upstreams made from URLs: what a URL may be, who
 * decides, and when they go.
 */
#include "loop.h"

#include <errno.h>

static struct {
    uint32_t decision;
    int rc;
    int asked;
    char host[80];
    uint32_t port;
    kars_upstream_t *up; /* that the hook passes to */
    int done;
    int error;
} url_st;

static int
url_decide(kars_cycle_t *cycle, kars_req_t *r, kars_hostport_t to,
           kars_verdict_t *ret)
{
    CU_ASSERT_PTR_NULL(r);
    url_st.asked++;
    (void) snprintf(url_st.host, sizeof(url_st.host), "%.*s",
                    KARS_STR_ARG(to.host));
    url_st.port = to.port;
    ret->decision = url_st.decision;
    ret->reason = KARS_STR("not on the list");
    return url_st.rc;
}

static const kars_egress_t url_egress = { sizeof(url_egress), url_decide };
static const kars_service_t url_provides[] = {
    { "egress.decision/1", &url_egress },
    { 0 },
};
static const kars_module_t decider = { T_MODULE_HEAD, .name = "decider",
                                       .provides = url_provides };

static int
url_content(kars_req_t *r, const void *conf, void *ctx)
{
    kars_pass_t pass = { .size = sizeof(pass), .upstream = url_st.up };
    int rc = kars__api.pass(r, &pass);

    kars__api.upstream_unref(url_st.up); /* the pass holds its own */
    return rc;
}

static const kars_hook_t url_hooks[] = {
    { .phase = KARS_PHASE_CONTENT, .run = url_content },
    { 0 },
};
static const kars_module_t passer = { T_MODULE_HEAD, .name = "passer",
                                      .flags = KARS_ALWAYS,
                                      .hooks = url_hooks };

static t_loop_t *
url_loop(void)
{
    memset(&url_st, 0, sizeof(url_st));
    url_st.decision = KARS_ALLOW;
    return t_loop("route * / { }", &t_open, &decider, &passer);
}

static kars_upstream_t *
url_up(t_loop_t *t, const char *url, kars_err_t *err)
{
    *err = (kars_err_t) KARS_ERR_INIT;
    return kars__api.upstream_from_url(t->cycle, t_str(url), err);
}

/* clang-format off */
static const struct { const char *url; const char *host; uint32_t port; const char *error; } urls[] = {
    { "http://example.org:8080", "example.org", 8080, "" },
    { "http://example.org", "example.org", 80, "" },
    { "HTTP://Example.org/a/b?c#d", "Example.org", 80, "" },
    { "http://10.0.0.9:81/x", "10.0.0.9", 81, "" },
    { "http://[::1]:82", "::1", 82, "" },
    { "http://[::1]", "::1", 80, "" },
    { "tcp://example.org:443", "example.org", 443, "" },
    { "TCP://[::1]:22/x", "::1", 22, "" },
    { "tcp://example.org", NULL, 0, "no host and port" },
    { "tcp://", NULL, 0, "no host and port" },
    { "https://example.org", NULL, 0, "https is not spoken" },
    { "ftp://example.org", NULL, 0, "expected http://" },
    { "example.org", NULL, 0, "expected http://" },
    { "", NULL, 0, "expected http://" },
    { "http://", NULL, 0, "no host and port" },
    { "http://:80", NULL, 0, "no host and port" },
    { "http:///x", NULL, 0, "no host and port" },
    { "http://user@example.org", NULL, 0, "no host and port" },
    { "http://a b", NULL, 0, "no host and port" },
    { "http://a\r\nb", NULL, 0, "no host and port" },
    { "http://a:0", NULL, 0, "no host and port" },
    { "http://a:65536", NULL, 0, "no host and port" },
    { "http://a:", NULL, 0, "no host and port" },
    { "http://a:b", NULL, 0, "no host and port" },
    { "http://[::1", NULL, 0, "no host and port" },
    { "http://::1", NULL, 0, "no host and port" },
    { "http://a%2fb", NULL, 0, "no host and port" },
};
/* clang-format on */

static void
test_upstream_url_is_read_strictly(void)
{
    t_loop_t *t = url_loop();
    kars_err_t err;

    for (size_t i = 0; i < KARS_NELTS(urls); i++) {
        kars_upstream_t *u;

        T_CASE(urls[i].url);
        url_st.asked = 0;
        u = url_up(t, urls[i].url, &err);
        CU_ASSERT_EQUAL(u != NULL, urls[i].host != NULL);
        CU_ASSERT_EQUAL(url_st.asked, urls[i].host != NULL);
        if (u != NULL) {
            CU_ASSERT_STRING_EQUAL(url_st.host, urls[i].host);
            CU_ASSERT_EQUAL(url_st.port, urls[i].port);
            CU_ASSERT_TRUE(
                kars_str_eq(u->servers[0].at.host, t_str(urls[i].host)));
            CU_ASSERT_EQUAL(u->servers[0].at.port, urls[i].port);
            CU_ASSERT_EQUAL(u->first_byte_ms, 600000); /* as a block has it */
            CU_ASSERT_EQUAL(u->keepalive, 128);
            kars__api.upstream_unref(u);
        } else {
            CU_ASSERT_PTR_NOT_NULL(strstr(err.text, urls[i].error));
        }
        CU_ASSERT_PTR_NULL(t->cycle->url_upstreams);
    }

    static char longer[4000] = "http://";

    memset(longer + 7, 'a', sizeof(longer) - 8);
    CU_ASSERT_PTR_NULL(url_up(t, longer, &err));
    t_loop_destroy(t);
}

static void
test_upstream_url_needs_a_decision(void)
{
    t_loop_t *t = t_loop("route * / { }", &t_open);
    kars_err_t err;

    CU_ASSERT_PTR_NULL(url_up(t, "http://example.org", &err));
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "egress.decision/1"));
    t_loop_destroy(t);

    static const struct {
        int rc;
        uint32_t decision;
    } no[] = { { KARS_OK, KARS_DENY },
               { KARS_OK, 0 },
               { KARS_ERROR, KARS_ALLOW },
               { KARS_AGAIN, KARS_ALLOW },
               { KARS_OK, KARS_NEEDS_APPROVAL } };

    t = url_loop();
    for (size_t i = 0; i < KARS_NELTS(no); i++) {
        url_st.rc = no[i].rc;
        url_st.decision = no[i].decision;
        CU_ASSERT_PTR_NULL(url_up(t, "http://example.org", &err));
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "not on the list"));
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "decider"));
    }

    /* one that is there already is asked about again */
    url_st.rc = KARS_OK;
    url_st.decision = KARS_ALLOW;
    kars_upstream_t *u = url_up(t, "http://example.org", &err);

    url_st.decision = KARS_DENY;
    CU_ASSERT_PTR_NULL(url_up(t, "http://example.org", &err));
    kars__api.upstream_unref(u);
    CU_ASSERT_PTR_NULL(t->cycle->url_upstreams);
    t_loop_destroy(t);
}

static void
url_done(kars_exchange_t *x, int error, void *data)
{
    url_st.done++;
    url_st.error = error;
}

static const kars_exchange_handler_t url_handler = { .size =
                                                         sizeof(url_handler),
                                                     .done = url_done };

static void
url_ask(t_loop_t *t, kars_upstream_t *u)
{
    kars_call_t call = { .size = sizeof(call),
                         .upstream = u,
                         .method = KARS_STR("GET"),
                         .path = KARS_STR("/") };

    CU_ASSERT_PTR_NOT_NULL(
        kars__api.exchange(t->cycle, &call, &url_handler, NULL));
}

static void
test_upstream_url_goes_with_its_last_reference(void)
{
    t_loop_t *t = url_loop();
    kars_err_t err;
    kars_upstream_t *u = url_up(t, "http://10.0.0.9:81/x", &err);
    kars_upstream_t *same = url_up(t, "http://10.0.0.9:81/y", &err);
    kars_upstream_t *other = url_up(t, "http://10.0.0.9:82", &err);

    CU_ASSERT_PTR_EQUAL(u, same);
    CU_ASSERT_PTR_NOT_EQUAL(u, other);
    kars__api.upstream_unref(other);
    url_ask(t, u);
    t_run(t);
    t_upstream_reply(t, "HTTP/1.1 204 OK\r\n\r\n");
    CU_ASSERT_EQUAL(url_st.done, 1);
    kars__api.upstream_unref(same);
    CU_ASSERT_TRUE(t_is_open(t_upstream(t, 0))); /* kept for the next */
    url_ask(t, u);
    kars__api.upstream_unref(u); /* the exchange holds its own */
    t_run(t);
    CU_ASSERT_EQUAL(t_upstreams(t), 1);
    CU_ASSERT_PTR_NOT_NULL(t->cycle->url_upstreams);
    t_upstream_reply(t, "HTTP/1.1 204 OK\r\n\r\n");
    CU_ASSERT_EQUAL(url_st.done, 2);
    CU_ASSERT_EQUAL(url_st.error, 0);
    CU_ASSERT_PTR_NULL(t->cycle->url_upstreams);
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
    kars__api.upstream_unref(NULL);
    t_loop_destroy(t);
}

static void
test_upstream_url_stays_while_it_is_passed_to(void)
{
    t_loop_t *t = url_loop();
    kars_err_t err;

    for (int gone = 0; gone < 2; gone++) {
        url_st.up = url_up(t, "http://10.0.0.9:81", &err);
        t_request(t, "GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        CU_ASSERT_PTR_NOT_NULL(t->cycle->url_upstreams);
        if (gone) {
            t_client_gone(t);
        } else {
            t_upstream_reply(t,
                             "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
            CU_ASSERT_STRING_EQUAL(t_body(t), "hi");
        }
        CU_ASSERT_PTR_NULL(t->cycle->url_upstreams);
        CU_ASSERT_FALSE(t_is_open(t_upstream(t, gone)));
    }
    t_loop_destroy(t);
}

static void
test_upstream_url_that_is_forgotten_ends_with_the_cycle(void)
{
    t_loop_t *t = url_loop();
    kars_err_t err;

    url_ask(t, url_up(t, "http://10.0.0.9:81", &err));
    t_run(t);
    t_loop_destroy(t); /* LeakSanitizer sees the rest */
    CU_ASSERT_EQUAL(url_st.done, 1);
    CU_ASSERT_EQUAL(url_st.error, ECANCELED);
}

static void
test_upstream_url_survives_each_failing_allocation(void)
{
    t_loop_t *t = url_loop();
    kars_upstream_t *u = NULL;

    for (uint64_t n = 1; n < 100 && u == NULL; n++) {
        kars_err_t err = KARS_ERR_INIT;

        kars__pool_fail_at(n);
        u = kars__api.upstream_from_url(t->cycle, KARS_STR("http://a:1"), &err);
        kars__pool_fail_at(0);
        CU_ASSERT_TRUE(u != NULL || err.text[0] != '\0');
    }
    CU_ASSERT_PTR_NOT_NULL(u);
    kars__api.upstream_unref(u);
    t_loop_destroy(t);
}

void
suite_upstream_url(void)
{
    T_SUITE(upstream_url);
    T_TEST(upstream_url, test_upstream_url_is_read_strictly);
    T_TEST(upstream_url, test_upstream_url_needs_a_decision);
    T_TEST(upstream_url, test_upstream_url_goes_with_its_last_reference);
    T_TEST(upstream_url, test_upstream_url_stays_while_it_is_passed_to);
    T_TEST(upstream_url,
           test_upstream_url_that_is_forgotten_ends_with_the_cycle);
    T_TEST(upstream_url, test_upstream_url_survives_each_failing_allocation);
}
