/* test_take.c - CONNECT: a request's connection becomes a tunnel. Sockets in
 * memory are not spliced, so these run through the relay's copies. */
#include "base/pool.h"
#include "loop.h"

#include <errno.h>

#define CONF                                           \
    "upstream up { server 10.0.0.1:443; "              \
    "timeout connect=2s idle=5s total=20s; retry 0; }" \
    "server { listen 127.0.0.1:1; "                    \
    "route CONNECT /{authority} { pass up; }"          \
    "route GET / { respond 200 hello; } }"
#define ASK "CONNECT x.example:443 HTTP/1.1\r\nhost: x.example:443\r\n\r\n"

static char *take_kept; /* what LOG saw */
static int take_logged;

static int
take_log(kars_req_t *r, const void *conf, void *ctx)
{
    static char text[200];
    kars_str_t code = kars__api.req_var(r, KARS_STR("deny_code"));

    (void) snprintf(text, sizeof(text), "%lld in=%lld out=%lld code=%.*s",
                    (long long) kars__api.req_number(r, KARS_STR("status")),
                    (long long) kars__api.req_number(r, KARS_STR("bytes_in")),
                    (long long) kars__api.req_number(r, KARS_STR("bytes_out")),
                    KARS_STR_ARG(code));
    take_kept = text;
    take_logged++;
    return KARS_OK;
}

static const kars_hook_t take_hooks[] = { { KARS_PHASE_LOG, take_log, 0, NULL },
                                          { 0 } };
static const kars_module_t watcher = { T_MODULE_HEAD, .name = "watcher",
                                       .flags = KARS_ALWAYS,
                                       .hooks = take_hooks };

static t_loop_t *
take_begin(void)
{
    t_loop_t *t = t_loop(CONF, &t_open, &watcher);

    take_logged = 0;
    t_request(t, ASK);
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1);
    CU_ASSERT_EQUAL(t_status(t), 200);
    return t;
}

/* What the client got behind the head. */
static const char *
take_got(t_loop_t *t)
{
    const char *end = strstr(t_raw(t), "\r\n\r\n");

    return end != NULL ? end + 4 : "";
}

static void
test_take_carries_bytes_both_ways(void)
{
    t_loop_t *t = take_begin();

    CU_ASSERT_PTR_NULL(t_header(t, "content-length"));
    CU_ASSERT_PTR_NULL(t_header(t, "transfer-encoding"));
    t_request(t, "up");
    t_upstream_reply(t, "down");
    t_request(t, " and up");
    CU_ASSERT_STRING_EQUAL(t_upstream_got(t, 0), "up and up");
    CU_ASSERT_STRING_EQUAL(take_got(t), "down");
    CU_ASSERT_EQUAL(take_logged, 0);

    /* each side says all, the other may still speak */
    t_client_half(t);
    CU_ASSERT_TRUE(t_upstream(t, 0)->shut);
    t_upstream_reply(t, " later");
    CU_ASSERT_STRING_EQUAL(take_got(t), "down later");
    t_upstream_gone(t, 0);
    CU_ASSERT_FALSE(t_is_open(t->client));
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
    CU_ASSERT_EQUAL(take_logged, 1);
    CU_ASSERT_STRING_EQUAL(take_kept, "200 in=9 out=10 code=");
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
}

static void
test_take_sends_what_came_with_the_head(void)
{
    t_loop_t *t = t_loop(CONF, &t_open);

    t_request(t, ASK "first");
    CU_ASSERT_STRING_EQUAL(t_upstream_got(t, 0), "first");
    t_loop_destroy(t);
}

static void
test_take_stops_reading_for_a_slow_side(void)
{
    t_loop_t *t = take_begin();
    t_end_t *up = t_upstream(t, 0);
    static char much[200000];

    memset(much, 'x', sizeof(much));
    up->room = 1000;
    t_send(t, t->client, much, sizeof(much));
    CU_ASSERT_EQUAL(up->out.len, 1000);
    CU_ASSERT_TRUE(t->client->in_at <= 40000); /* a block or two, no more */
    for (int i = 0; i < 300; i++) {
        up->room = 1000;
        t_run(t);
    }
    CU_ASSERT_EQUAL(up->out.len, sizeof(much));
    CU_ASSERT_EQUAL(memcmp(up->out.data, much, sizeof(much)), 0);
    t_loop_destroy(t);
}

/* clang-format off */
static const struct { const char *label; int end; int status; const char *kept; } dials[] = {
    { "refused",     ECONNREFUSED,                    502, "502 in=0 out=" },
    { "unreachable", T_CONNECT_FAILS(ENETUNREACH),    502, "502 in=0 out=" },
    { "hangs",       T_CONNECT_HANGS,                 504, "504 in=0 out=" },
};
/* clang-format on */

static void
test_take_says_when_there_is_no_server(void)
{
    for (size_t i = 0; i < KARS_NELTS(dials); i++) {
        t_loop_t *t = t_loop(CONF, &t_open, &watcher);

        T_CASE(dials[i].label);
        take_logged = 0;
        t_connects(t, &dials[i].end, 1);
        t_request(t, ASK);
        t_advance_ms(t, 2500);
        CU_ASSERT_EQUAL(t_status(t), dials[i].status);
        CU_ASSERT_STRING_EQUAL(t_header(t, "connection"), "close");
        t_advance_ms(t, 5000);
        CU_ASSERT_EQUAL(take_logged, 1);
        CU_ASSERT_NSTRING_EQUAL(take_kept, dials[i].kept,
                                strlen(dials[i].kept));
        CU_ASSERT_TRUE(t_is_empty(t));
        t_loop_destroy(t);
    }
}

static void
test_take_tries_another_server(void)
{
    static const int ends[] = { ECONNREFUSED, 0 };
    t_loop_t *t = t_loop("upstream up { server 10.0.0.1:1 10.0.0.2:2; }"
                         "server { listen 127.0.0.1:1; "
                         "route CONNECT /{to} { pass up; } }",
                         &t_open);

    t_connects(t, ends, 2);
    t_request(t, ASK);
    CU_ASSERT_EQUAL(t_upstreams(t), 2);
    CU_ASSERT_EQUAL(t_status(t), 200);
    t_loop_destroy(t);
}

static void
test_take_gives_up_when_the_client_leaves(void)
{
    static const int hangs[] = { T_CONNECT_HANGS };
    t_loop_t *t = t_loop(CONF, &t_open, &watcher);

    take_logged = 0;
    t_connects(t, hangs, 1);
    t_request(t, ASK);
    t_client_gone(t);
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
    CU_ASSERT_EQUAL(take_logged, 1);
    CU_ASSERT_STRING_EQUAL(take_kept, "499 in=0 out=0 code=client_gone");
    t_loop_destroy(t);
}

static void
test_take_ends_with_either_side(void)
{
    for (int side = 0; side < 2; side++) {
        t_loop_t *t = take_begin();

        t_request(t, "abc");
        (side == 0 ? t->client : t_upstream(t, 0))->error = ECONNRESET;
        t_run(t);
        CU_ASSERT_FALSE(t_is_open(t->client));
        CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
        CU_ASSERT_EQUAL(take_logged, 1);
        CU_ASSERT_STRING_EQUAL(take_kept, "200 in=3 out=0 code=cut");
        t_loop_destroy(t);
    }
}

static void
test_take_ends_when_its_time_is_over(void)
{
    t_loop_t *t = take_begin();

    t_advance_ms(t, 4000);
    t_request(t, "x"); /* a byte: another five seconds */
    t_advance_ms(t, 4000);
    CU_ASSERT_TRUE(t_is_open(t->client));
    t_advance_ms(t, 1500);
    CU_ASSERT_FALSE(t_is_open(t->client));
    CU_ASSERT_STRING_EQUAL(take_kept, "200 in=1 out=0 code=timeout");
    t_loop_destroy(t);

    t = take_begin();
    for (int i = 0; i < 30 && t_is_open(t->client); i++) {
        t_send(t, t->client, "x", 1);
        t_advance_ms(t, 1000);
    }
    CU_ASSERT_TRUE(t_upstream(t, 0)->out.len >= 19 &&
                   t_upstream(t, 0)->out.len <= 21);
    CU_ASSERT_FALSE(t_is_open(t->client));
    t_loop_destroy(t);
}

static void
test_take_needs_a_route_that_names_it(void)
{
    t_loop_t *t = t_loop("route * /{rest...} { respond 200 all; }", &t_open);

    t_request(t, ASK);
    CU_ASSERT_EQUAL(t_status(t), 404);
    t_loop_destroy(t);
}

/* Whichever allocation fails, it is refused or carries bytes, and nothing is
 * left of it. */
static void
test_take_survives_each_allocation_failing(void)
{
    for (uint64_t n = 1; n < 120; n++) {
        t_loop_t *t = t_loop(CONF, &t_open, &watcher);

        take_logged = 0;
        (void) t_client(t);
        kars__pool_fail_at(n);
        t_send(t, t->client, ASK, strlen(ASK));
        if (t_is_open(t->client)) {
            t_send(t, t->client, "some bytes", 10);
        }
        kars__pool_fail_at(0);
        CU_ASSERT_TRUE(t_status(t) == 200 || t_status(t) >= 500 ||
                       !t_is_open(t->client));
        if (t_is_open(t->client)) {
            t_client_gone(t);
        }
        t_advance_ms(t, 30000);
        CU_ASSERT_TRUE(take_logged <= 1);
        CU_ASSERT_TRUE(t_is_empty(t));
        t_loop_destroy(t);
    }
}

static void
test_take_is_cut_at_the_end_of_a_drain(void)
{
    t_loop_t *t = take_begin();

    kars__conn_drain(t->cycle, 0);
    t_request(t, "still");
    CU_ASSERT_STRING_EQUAL(t_upstream_got(t, 0), "still");
    kars__conn_drain(t->cycle, 1); /* it is not idle */
    CU_ASSERT_TRUE(t_is_open(t->client));
    kars__conn_drain(t->cycle, 2);
    CU_ASSERT_FALSE(t_is_open(t->client));
    CU_ASSERT_STRING_EQUAL(take_kept, "200 in=5 out=0 code=cut");
    t_loop_destroy(t);
}

void
suite_take(void)
{
    T_SUITE(take);
    T_TEST(take, test_take_carries_bytes_both_ways);
    T_TEST(take, test_take_sends_what_came_with_the_head);
    T_TEST(take, test_take_stops_reading_for_a_slow_side);
    T_TEST(take, test_take_says_when_there_is_no_server);
    T_TEST(take, test_take_tries_another_server);
    T_TEST(take, test_take_gives_up_when_the_client_leaves);
    T_TEST(take, test_take_ends_with_either_side);
    T_TEST(take, test_take_ends_when_its_time_is_over);
    T_TEST(take, test_take_needs_a_route_that_names_it);
    T_TEST(take, test_take_survives_each_allocation_failing);
    T_TEST(take, test_take_is_cut_at_the_end_of_a_drain);
}
