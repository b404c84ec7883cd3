/* test_status_text.c - modules/status/text.c */
#include "t.h"
#include "status/text.h"

static const char fine[] =
    "{\"deployment\":\"foundry\",\"healthy\":true,\"failure_streak\":0,"
    "\"first_failure_at_ms\":null,\"last_success_at_ms\":1760000000000}";

static void
test_status_health_is_the_controllers_shape(void)
{
    kars_upstream_state_t s = { .size = sizeof(s),
                                .name = KARS_STR("foundry"),
                                .healthy = 1,
                                .last_success_at_ms = 1760000000000 };
    char buf[512];
    size_t n = status_health(&s, buf, sizeof(buf));

    CU_ASSERT_TRUE(kars_str_eq((kars_str_t){ buf, n }, t_str(fine)));
}

static void
test_status_health_needs_room_to_the_byte(void)
{
    kars_upstream_state_t s = { .size = sizeof(s),
                                .name = KARS_STR("foundry"),
                                .healthy = 1,
                                .last_success_at_ms = 1760000000000 };
    char buf[512];

    for (size_t cap = 0; cap < sizeof(fine); cap++) {
        memset(buf, '!', sizeof(buf));
        CU_ASSERT_EQUAL(status_health(&s, buf, cap),
                        cap == sizeof(fine) - 1 ? cap : 0);
        CU_ASSERT_EQUAL(buf[cap], '!');
    }
}

static void
test_status_health_never_exceeds_its_bound(void)
{
    kars_upstream_state_t s = { .size = sizeof(s),
                                .name = KARS_STR("\x01\x02\"\\\n"),
                                .failure_streak = UINT32_MAX,
                                .first_failure_at_ms = UINT64_MAX,
                                .last_success_at_ms = UINT64_MAX };
    static const char head[] =
        "{\"deployment\":\"\\u0001\\u0002\\\"\\\\\\u000a\",\"healthy\":false,";
    char buf[STATUS_HEALTH_MAX(5)];
    size_t n = status_health(&s, buf, sizeof(buf));

    CU_ASSERT_NOT_EQUAL(n, 0);
    CU_ASSERT_TRUE(kars_str_starts((kars_str_t){ buf, n }, t_str(head)));
}

static void
test_status_watched_is_the_controllers_shape(void)
{
    static const char want[] =
        "{\"kind\":\"EgressAllowlist\",\"digest\":\"sha256:"
        "000102030405060708090a0b0c0d0e0f"
        "101112131415161718191a1b1c1d1eff\","
        "\"source_path\":\"/etc/kars/egress\","
        "\"loaded_at\":\"2025-10-09T08:53:20.007Z\","
        "\"last_error\":\"line 1: \\\"x\\\"\"}";
    unsigned char digest[32];
    kars_watch_state_t s = { .size = sizeof(s),
                             .kind = KARS_STR("EgressAllowlist"),
                             .path = KARS_STR("/etc/kars/egress"),
                             .digest = { (char *) digest, sizeof(digest) },
                             .error = KARS_STR("line 1: \"x\""),
                             .loaded_at_ms = 1760000000007 };
    char buf[1000];

    for (size_t i = 0; i < sizeof(digest); i++) {
        digest[i] = i == 31 ? 0xff : (unsigned char) i;
    }

    size_t n = status_watched(&s, buf, sizeof(buf));

    CU_ASSERT_TRUE(kars_str_eq((kars_str_t){ buf, n }, t_str(want)));
    CU_ASSERT_EQUAL(status_watched(&s, buf, n), n);
    CU_ASSERT_EQUAL(status_watched(&s, buf, n - 1), 0);
}

static void
test_status_watched_never_exceeds_its_bound(void)
{
    static char error[1000], path[100], buf[STATUS_WATCHED_MAX(101)];
    unsigned char digest[32] = { 0 };
    kars_watch_state_t s = { .size = sizeof(s),
                             .kind = KARS_STR("\x01"),
                             .path = { path, sizeof(path) },
                             .digest = { (char *) digest, sizeof(digest) },
                             .error = { error, sizeof(error) },
                             .loaded_at_ms = 253402300799999 }; /* of 9999 */

    size_t n = status_watched(&s, buf, sizeof(buf));

    CU_ASSERT_NOT_EQUAL(n, 0);
    s.error.len = 512; /* what is behind is cut */
    CU_ASSERT_EQUAL(status_watched(&s, buf, sizeof(buf)), n);
    s.loaded_at_ms = UINT64_MAX;
    CU_ASSERT_NOT_EQUAL(status_watched(&s, buf, sizeof(buf)), 0);
}

void
suite_status_text(void)
{
    T_SUITE(status_text);
    T_TEST(status_text, test_status_health_is_the_controllers_shape);
    T_TEST(status_text, test_status_health_needs_room_to_the_byte);
    T_TEST(status_text, test_status_health_never_exceeds_its_bound);
    T_TEST(status_text, test_status_watched_is_the_controllers_shape);
    T_TEST(status_text, test_status_watched_never_exceeds_its_bound);
}
