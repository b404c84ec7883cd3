/*
 * test_upstream.c - groups of servers: the order of addresses.
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

void
suite_upstream(void)
{
    T_SUITE(upstream);
    T_TEST(upstream, test_upstream_lets_families_take_turns);
    T_TEST(upstream, test_upstream_bounds_a_ttl);
}
