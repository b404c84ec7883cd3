/*
 * test_upstream.c - groups of servers: the order of addresses, whose turn it
 * is, who is passed over.
 */
#include "loop.h"

/* clang-format off */
static const struct { const char *in; const char *out; } orders[] = {
    { "4", "4" },           { "6", "6" },
    { "46", "46" },         { "64", "64" },
    { "4466", "4646" },     { "6644", "6464" },
    { "44446", "46444" },   { "466666", "466666" },
    { "444", "444" },       { "64646", "64646" },
    { "4444444466666666", "4646464646464646" },
    { "6666666666666664", "6466666666666666" },
};
/* clang-format on */

static void
test_upstream_lets_families_take_turns(void)
{
    for (size_t i = 0; i < KARS_NELTS(orders); i++) {
        size_t n = strlen(orders[i].in);
        kars__addr_t in[KARS__RESOLVE_MAX];
        kars__upserver_t s = { .naddrs = 3 };
        int last[2] = { -1, -1 };

        T_CASE(orders[i].in);
        for (size_t k = 0; k < n; k++) {
            kars_str_t host = orders[i].in[k] == '4' ? KARS_STR("10.0.0.1")
                                                     : KARS_STR("fd00::1");

            CU_ASSERT_EQUAL(kars__addr_literal(host, (uint32_t) k, &in[k]),
                            KARS_OK);
        }
        kars__upserver_addrs(&s, in, n, 7, 1000);
        CU_ASSERT_EQUAL(s.naddrs, n);
        CU_ASSERT_EQUAL(s.fresh_until_ms, 8000);
        for (size_t k = 0; k < n; k++) {
            int six = s.addrs[k].u.sa.sa_family == AF_INET6;
            int port = ntohs(s.addrs[k].u.in.sin_port);

            CU_ASSERT_EQUAL(six, orders[i].out[k] == '6');
            CU_ASSERT_TRUE(port > last[six]); /* the resolver's order */
            last[six] = port;
        }
    }
}

static void
test_upstream_bounds_a_ttl(void)
{
    static const struct {
        uint32_t ttl_s;
        uint64_t ms;
    } ttls[] = { { 0, 1000 },     { 1, 1000 },     { 2, 2000 },
                 { 300, 300000 }, { 301, 300000 }, { UINT32_MAX, 300000 } };
    kars__upserver_t s = { 0 };
    kars__addr_t a = { 0 };

    for (size_t i = 0; i < KARS_NELTS(ttls); i++) {
        kars__upserver_addrs(&s, &a, 1, ttls[i].ttl_s, 5);
        CU_ASSERT_EQUAL(s.fresh_until_ms, ttls[i].ms + 5);
    }
}

/* The servers that the next n requests would go to, as digits from 0. */
static const char *
upstream_picks(t_loop_t *t, int n)
{
    static char picks[32];
    kars_upstream_t *u = t->cycle->upstreams;

    for (int i = 0; i < n; i++) {
        picks[i] = (char) ('0' + (kars__upstream_pick(t->cycle, u, NULL) -
                                  u->servers));
    }
    picks[n] = '\0';
    return picks;
}

static void
upstream_results(t_loop_t *t, int server, int ok, int n)
{
    kars_upstream_t *u = t->cycle->upstreams;

    while (n-- > 0) {
        kars__upstream_result(t->cycle, u, &u->servers[server], ok);
    }
}

static t_loop_t *
upstream_loop(void)
{
    return t_loop("upstream up { server 10.0.0.1:80; server 10.0.0.2:80;"
                  " server 10.0.0.3:80; }"
                  "server { listen 127.0.0.1:1; route * / { pass up; } }",
                  &t_open);
}

static void
test_upstream_servers_take_turns(void)
{
    t_loop_t *t = upstream_loop();
    kars_upstream_t *u = t->cycle->upstreams;

    CU_ASSERT_STRING_EQUAL(upstream_picks(t, 7), "0120120");
    /* another attempt goes elsewhere */
    CU_ASSERT_PTR_EQUAL(kars__upstream_pick(t->cycle, u, &u->servers[1]),
                        &u->servers[2]);
    t_loop_destroy(t);
}

static void
test_upstream_passes_over_a_sick_server(void)
{
    t_loop_t *t = upstream_loop();

    upstream_results(t, 1, 0, 2);
    CU_ASSERT_STRING_EQUAL(upstream_picks(t, 3), "012");
    upstream_results(t, 1, 1, 1); /* in a row, or it is nothing */
    upstream_results(t, 1, 0, 2);
    CU_ASSERT_STRING_EQUAL(upstream_picks(t, 3), "012");
    upstream_results(t, 1, 0, 1);
    CU_ASSERT_STRING_EQUAL(upstream_picks(t, 4), "0202");
    t_advance_ms(t, 60000);
    CU_ASSERT_PTR_NULL(strchr(upstream_picks(t, 6), '1'));
    t_advance_ms(t, 1);
    CU_ASSERT_PTR_NOT_NULL(strchr(upstream_picks(t, 3), '1'));
    upstream_results(t, 1, 0, 1); /* still: no three this time */
    CU_ASSERT_PTR_NULL(strchr(upstream_picks(t, 6), '1'));
    upstream_results(t, 1, 1, 1);
    CU_ASSERT_PTR_NOT_NULL(strchr(upstream_picks(t, 3), '1'));
    t_loop_destroy(t);
}

static void
test_upstream_tries_the_sick_where_all_are(void)
{
    t_loop_t *t = upstream_loop();
    kars_upstream_t *u = t->cycle->upstreams;

    for (int i = 0; i < 3; i++) {
        CU_ASSERT_TRUE(kars__upstream_healthy(t->cycle, u));
        upstream_results(t, i, 0, 3);
    }
    CU_ASSERT_FALSE(kars__upstream_healthy(t->cycle, u));
    CU_ASSERT_EQUAL(u->health->failures, 9);
    CU_ASSERT_PTR_NOT_NULL(kars__upstream_pick(t->cycle, u, NULL));
    upstream_results(t, 2, 1, 1);
    CU_ASSERT_TRUE(kars__upstream_healthy(t->cycle, u));
    CU_ASSERT_EQUAL(u->health->failures, 0);
    CU_ASSERT_STRING_EQUAL(upstream_picks(t, 3), "222");
    t_loop_destroy(t);
}

void
suite_upstream(void)
{
    T_SUITE(upstream);
    T_TEST(upstream, test_upstream_lets_families_take_turns);
    T_TEST(upstream, test_upstream_bounds_a_ttl);
    T_TEST(upstream, test_upstream_servers_take_turns);
    T_TEST(upstream, test_upstream_passes_over_a_sick_server);
    T_TEST(upstream, test_upstream_tries_the_sick_where_all_are);
}
