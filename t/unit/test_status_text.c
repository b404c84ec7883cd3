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

void
suite_status_text(void)
{
    T_SUITE(status_text);
    T_TEST(status_text, test_status_health_is_the_controllers_shape);
    T_TEST(status_text, test_status_health_needs_room_to_the_byte);
    T_TEST(status_text, test_status_health_never_exceeds_its_bound);
}
