/* test_parse.c - words to values: all of the word, or nothing. */
#include "base/parse.h"
#include "t.h"

#include <stdio.h>

#define KEPT 7 /* what an output has before, and after a failure */

typedef int (*parse_fn_t)(kars_str_t s, uint64_t *ret);

static int
parse_byte(kars_str_t s, uint64_t *ret)
{
    return kars__parse_uint(s, 255, ret);
}

static int
parse_big(kars_str_t s, uint64_t *ret)
{
    return kars__parse_uint(s, UINT64_MAX, ret);
}

static int
parse_digit(kars_str_t s, uint64_t *ret)
{
    return kars__parse_uint(s, 5, ret);
}

static int
parse_hex_byte(kars_str_t s, uint64_t *ret)
{
    return kars__parse_hex(s, 255, ret);
}

static int
parse_hex_big(kars_str_t s, uint64_t *ret)
{
    return kars__parse_hex(s, UINT64_MAX, ret);
}

/* clang-format off */
#define GOOD(fn, in, n) { fn, in, KARS_OK, n }
#define BAD(fn, in)     { fn, in, KARS_ERROR, KEPT }
static const struct { parse_fn_t fn; const char *in; int rc; uint64_t n; } numbers[] = {
    GOOD(parse_byte, "0", 0),      GOOD(parse_byte, "255", 255),
    GOOD(parse_byte, "000255", 255), BAD(parse_byte, ""),
    BAD(parse_byte, "256"),        BAD(parse_byte, "1x"),
    BAD(parse_byte, "-1"),         BAD(parse_byte, "+1"),
    BAD(parse_byte, " 1"),         BAD(parse_byte, "1 "),
    BAD(parse_byte, "\xff"),       BAD(parse_digit, "6"),
    GOOD(parse_digit, "5", 5),     BAD(parse_digit, "10"),
    GOOD(parse_big, "18446744073709551615", UINT64_MAX),
    BAD(parse_big, "18446744073709551616"),
    BAD(parse_big, "99999999999999999999999"),
    GOOD(parse_hex_byte, "fF", 255), BAD(parse_hex_byte, "100"),
    BAD(parse_hex_byte, ""),       BAD(parse_hex_byte, "0x1"),
    BAD(parse_hex_byte, "g"),      BAD(parse_hex_byte, "\x11"),
    GOOD(parse_hex_big, "ffffffffffffffff", UINT64_MAX),
    BAD(parse_hex_big, "10000000000000000"),
    GOOD(kars__parse_size, "0", 0), GOOD(kars__parse_size, "64k", 65536),
    GOOD(kars__parse_size, "8M", 8 << 20), GOOD(kars__parse_size, "1g", 1 << 30),
    GOOD(kars__parse_size, "9223372036854775807", INT64_MAX),
    BAD(kars__parse_size, "9223372036854775808"),
    GOOD(kars__parse_size, "8589934591g", 8589934591ull << 30),
    BAD(kars__parse_size, "8589934592g"), BAD(kars__parse_size, "64q"),
    BAD(kars__parse_size, "k"),    BAD(kars__parse_size, ""),
    BAD(kars__parse_size, "1kk"),  BAD(kars__parse_size, "1.5k"),
    GOOD(kars__parse_count, "200k", 200000), GOOD(kars__parse_count, "4m", 4000000),
    GOOD(kars__parse_count, "1G", 1000000000), BAD(kars__parse_count, "1t"),
    GOOD(kars__parse_msec, "0s", 0), GOOD(kars__parse_msec, "250ms", 250),
    GOOD(kars__parse_msec, "30s", 30000), GOOD(kars__parse_msec, "5m", 300000),
    GOOD(kars__parse_msec, "2h", 7200000), GOOD(kars__parse_msec, "7d", 604800000),
    GOOD(kars__parse_msec, "4294967295ms", UINT32_MAX),
    BAD(kars__parse_msec, "4294967296ms"), BAD(kars__parse_msec, "50d"),
    BAD(kars__parse_msec, "30"),   BAD(kars__parse_msec, "s"),
    BAD(kars__parse_msec, ""),     BAD(kars__parse_msec, "1 s"),
    BAD(kars__parse_msec, "1S"),
};

static const struct { const char *in; int rc; uint64_t count; uint64_t per; } rates[] = {
    { "100/60s", KARS_OK, 100, 60000 },   { "5/m", KARS_OK, 5, 60000 },
    { "1k/s", KARS_OK, 1000, 1000 },      { "0/s", KARS_OK, 0, 1000 },
    { "5", KARS_ERROR, KEPT, KEPT },      { "5/", KARS_ERROR, KEPT, KEPT },
    { "/s", KARS_ERROR, KEPT, KEPT },     { "5/0s", KARS_ERROR, KEPT, KEPT },
    { "5/60", KARS_ERROR, KEPT, KEPT },   { "5/s/s", KARS_ERROR, KEPT, KEPT },
    { "", KARS_ERROR, KEPT, KEPT },
};

static const struct { const char *in; const char *host; uint32_t port; } hosts[] = {
    { "h:1", "h", 1 },             { "example.com:65535", "example.com", 65535 },
    { "[::1]:80", "::1", 80 },     { "127.0.0.1:8443", "127.0.0.1", 8443 },
    { "h", NULL, KEPT },           { "h:", NULL, KEPT },
    { ":80", NULL, KEPT },         { "h:0", NULL, KEPT },
    { "h:65536", NULL, KEPT },     { "::1:80", NULL, KEPT },
    { "[]:80", NULL, KEPT },       { "[::1]", NULL, KEPT },
    { "", NULL, KEPT },            { "h:8 0", NULL, KEPT },
};
/* clang-format on */

static void
test_parse_takes_a_whole_number_or_nothing(void)
{
    for (size_t i = 0; i < KARS_NELTS(numbers); i++) {
        uint64_t n = KEPT;

        T_CASE(numbers[i].in);
        CU_ASSERT_EQUAL(numbers[i].fn(t_str(numbers[i].in), &n), numbers[i].rc);
        CU_ASSERT_EQUAL(n, numbers[i].n);
    }
}

static void
test_parse_reads_rates(void)
{
    for (size_t i = 0; i < KARS_NELTS(rates); i++) {
        kars_rate_t rate = { KEPT, KEPT };

        T_CASE(rates[i].in);
        CU_ASSERT_EQUAL(kars__parse_rate(t_str(rates[i].in), &rate),
                        rates[i].rc);
        CU_ASSERT_EQUAL(rate.count, rates[i].count);
        CU_ASSERT_EQUAL(rate.per_ms, rates[i].per);
    }
}

static void
test_parse_reads_hosts_with_ports(void)
{
    for (size_t i = 0; i < KARS_NELTS(hosts); i++) {
        kars_hostport_t at = { { "kept", 4 }, KEPT };
        int good = hosts[i].host != NULL;

        T_CASE(hosts[i].in);
        CU_ASSERT_EQUAL(kars__parse_hostport(t_str(hosts[i].in), &at),
                        good ? KARS_OK : KARS_ERROR);
        CU_ASSERT_EQUAL(at.port, hosts[i].port);
        CU_ASSERT(kars_str_eq(at.host, t_str(good ? hosts[i].host : "kept")));
    }

    char big[300];
    kars_hostport_t at;

    memset(big, 'a', sizeof(big));
    for (size_t n = 253; n <= 254; n++) {
        snprintf(big + n, 4, ":80");
        CU_ASSERT_EQUAL(kars__parse_hostport(t_str(big), &at),
                        n == 253 ? KARS_OK : KARS_ERROR);
        big[253] = 'a';
    }
}

static void
test_parse_reads_on_and_off_only(void)
{
    int32_t flag = KEPT;

    CU_ASSERT_EQUAL(kars__parse_flag(t_str("yes"), &flag), KARS_ERROR);
    CU_ASSERT_EQUAL(kars__parse_flag(t_str("ON"), &flag), KARS_ERROR);
    CU_ASSERT_EQUAL(kars__parse_flag(t_str(""), &flag), KARS_ERROR);
    CU_ASSERT_EQUAL(flag, KEPT);
    CU_ASSERT_EQUAL(kars__parse_flag(t_str("on"), &flag), KARS_OK);
    CU_ASSERT_EQUAL(flag, 1);
    CU_ASSERT_EQUAL(kars__parse_flag(t_str("off"), &flag), KARS_OK);
    CU_ASSERT_EQUAL(flag, 0);
}

void
suite_parse(void)
{
    T_SUITE(parse);
    T_TEST(parse, test_parse_takes_a_whole_number_or_nothing);
    T_TEST(parse, test_parse_reads_rates);
    T_TEST(parse, test_parse_reads_hosts_with_ports);
    T_TEST(parse, test_parse_reads_on_and_off_only);
}
