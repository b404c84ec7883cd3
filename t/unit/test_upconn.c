/*
 * test_upconn.c - several addresses of a server: tried one after the other, the
 * next before the last has failed.
 */
#include "loop.h"

#include <arpa/inet.h>
#include <errno.h>

static const char upconn_conf[] =
    "upstream up { server 10.0.0.1:80; retry 0; keepalive 0;"
    "  timeout connect=2s; }"
    "server { listen 127.0.0.1:1; route * / { pass up; } }";

#define GET "GET / HTTP/1.1\r\nhost: x\r\n\r\n"
#define OK  "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"

/* A loop whose upstream has n addresses, of the ports 80 and on. */
static t_loop_t *
upconn_loop(size_t n, const int *ends, size_t nends)
{
    t_loop_t *t = t_loop(upconn_conf, &t_open);
    kars__upserver_t *s = &t->cycle->upstreams->servers[0];

    for (size_t i = 1; i < n; i++) {
        s->addrs[i] = s->addrs[0];
        s->addrs[i].u.in.sin_port = htons((uint16_t) (80 + i));
    }
    s->naddrs = n;
    t_connects(t, ends, nends);
    return t;
}

static int
upconn_port(t_loop_t *t, int i)
{
    return ntohs(t_upstream(t, i)->addr.u.in.sin_port);
}

static const int hangs[] = { T_CONNECT_HANGS, T_CONNECT_HANGS, T_CONNECT_HANGS,
                             T_CONNECT_HANGS };

static void
test_upconn_begins_the_next_a_little_later(void)
{
    t_loop_t *t = upconn_loop(3, hangs, 2);

    t_request(t, GET);
    CU_ASSERT_EQUAL(t_upstreams(t), 1);
    t_advance_ms(t, 249);
    CU_ASSERT_EQUAL(t_upstreams(t), 1);
    t_advance_ms(t, 1);
    CU_ASSERT_EQUAL(t_upstreams(t), 2);
    CU_ASSERT_TRUE(t_is_open(t_upstream(t, 0)));
    t_advance_ms(t, 250); /* the third stands at once */
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 3);
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 1)));
    CU_ASSERT_EQUAL(upconn_port(t, 2), 82);
    CU_ASSERT_STRING_EQUAL(t_upstream_got(t, 0), "");
    CU_ASSERT_STRING_EQUAL(t_upstream_got(t, 1), "");
    t_upstream_reply(t, OK);
    CU_ASSERT_EQUAL(t_status(t), 200);
    t_loop_destroy(t);
}

static void
test_upconn_takes_the_first_that_stands(void)
{
    t_loop_t *t = upconn_loop(3, hangs, 3);

    t_request(t, GET);
    t_advance_ms(t, 300);
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 2);
    t_upstream(t, 0)->hangs = 0; /* slow, but there */
    t_run(t);
    CU_ASSERT_TRUE(t_is_open(t_upstream(t, 0)));
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 1)));
    t_append(&t_upstream(t, 0)->in, OK, sizeof(OK) - 1);
    t_advance_ms(t, 1000);
    CU_ASSERT_EQUAL(t_status(t), 200);
    CU_ASSERT_EQUAL(t_upstreams(t), 2); /* no third attempt */
    t_loop_destroy(t);
}

static void
test_upconn_does_not_wait_after_a_failure(void)
{
    static const int ends[] = { ECONNREFUSED, T_CONNECT_FAILS(ENETUNREACH),
                                T_CONNECT_HANGS, 0 };
    t_loop_t *t = upconn_loop(4, ends, 4);

    t_request(t, GET);
    CU_ASSERT_EQUAL(t_upstreams(t), 2);
    CU_ASSERT_EQUAL(upconn_port(t, 1), 82);
    t_upstream(t, 1)->hangs = 0; /* refused, after a while */
    t_upstream(t, 1)->connect_error = ECONNREFUSED;
    t_run(t);
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 3);
    t_upstream_reply(t, OK);
    CU_ASSERT_EQUAL(t_status(t), 200);
    t_loop_destroy(t);
}

/* The last address failed, an earlier one is still being tried. */
static void
test_upconn_waits_for_what_is_under_way(void)
{
    static const int ends[] = { T_CONNECT_HANGS, ECONNREFUSED };
    t_loop_t *t = upconn_loop(2, ends, 2);

    t_request(t, GET);
    t_advance_ms(t, 300);
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 2);
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 1)));
    CU_ASSERT_EQUAL(t_status(t), 0);
    t_upstream(t, 0)->hangs = 0;
    t_append(&t_upstream(t, 0)->in, OK, sizeof(OK) - 1);
    t_run(t);
    CU_ASSERT_EQUAL(t_status(t), 200);
    t_loop_destroy(t);
}

static void
test_upconn_ends_in_time(void)
{
    t_loop_t *t = upconn_loop(4, hangs, 4);

    t_request(t, GET);
    t_advance_ms(t, 1990);
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 4);
    CU_ASSERT_EQUAL(t_status(t), 0);
    t_advance_ms(t, 20);
    CU_ASSERT_EQUAL(t_status(t), 504);
    for (int i = 0; i < 4; i++) {
        CU_ASSERT_FALSE(t_is_open(t_upstream(t, i)));
    }
    t_loop_destroy(t);
}

static void
test_upconn_ends_with_its_client(void)
{
    t_loop_t *t = upconn_loop(3, hangs, 3);

    t_request(t, GET);
    t_advance_ms(t, 300);
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 2);
    t_client_gone(t);
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 1)));
    t_advance_ms(t, 1000);
    CU_ASSERT_EQUAL(t_upstreams(t), 2);
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
}

/* What led nowhere costs its delay once, not each time. */
static void
test_upconn_remembers_what_stood(void)
{
    t_loop_t *t = upconn_loop(3, hangs, 2);

    t_request(t, GET);
    t_advance_ms(t, 600);
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 3);
    t_upstream_reply(t, OK);
    t_request(t, GET);
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 4);
    CU_ASSERT_EQUAL(upconn_port(t, 3), 82);
    t_upstream_reply(t, OK);
    CU_ASSERT_EQUAL(t_answers(t), 2);

    const kars__upserver_t *s = &t->cycle->upstreams->servers[0];

    CU_ASSERT_EQUAL(s->naddrs, 3); /* and none is lost */
    CU_ASSERT_EQUAL(ntohs(s->addrs[1].u.in.sin_port), 80);
    CU_ASSERT_EQUAL(ntohs(s->addrs[2].u.in.sin_port), 81);
    t_loop_destroy(t);
}

static void
test_upconn_survives_each_failing_allocation(void)
{
    int status = 0;

    for (uint64_t n = 1; n < 200 && status != 200; n++) {
        t_loop_t *t = upconn_loop(3, hangs, 1);

        (void) t_client(t);
        kars__pool_fail_at(n);
        t_request(t, GET);
        t_advance_ms(t, 300);
        kars__pool_fail_at(0);
        if (t_upstreams(t) > 1 && t_is_open(t_upstream(t, 1))) {
            t_upstream_reply(t, OK);
        }
        status = t_status(t);
        t_loop_destroy(t); /* nothing is left open, nothing leaks */
    }
    CU_ASSERT_EQUAL(status, 200);
}

void
suite_upconn(void)
{
    T_SUITE(upconn);
    T_TEST(upconn, test_upconn_begins_the_next_a_little_later);
    T_TEST(upconn, test_upconn_takes_the_first_that_stands);
    T_TEST(upconn, test_upconn_does_not_wait_after_a_failure);
    T_TEST(upconn, test_upconn_waits_for_what_is_under_way);
    T_TEST(upconn, test_upconn_ends_in_time);
    T_TEST(upconn, test_upconn_ends_with_its_client);
    T_TEST(upconn, test_upconn_remembers_what_stood);
    T_TEST(upconn, test_upconn_survives_each_failing_allocation);
}
