/* test_budget_calendar.c - modules/budget/calendar.c */
#include "t.h"

#include "budget/calendar.h"

#include <time.h>

/* clang-format off */
static const struct { const char *date; int y, m, d; uint32_t next; } days[] = {
    { "epoch", 1970, 1, 1, 31 },        { "its last day", 1970, 1, 31, 31 },
    { "leap 1972", 1972, 2, 29, 790 },  { "no leap 2023", 2023, 2, 28, 19417 },
    { "leap 2024", 2024, 2, 29, 19783 }, { "leap 2000", 2000, 2, 29, 11017 },
    { "no leap 2100", 2100, 2, 28, 47541 }, { "new year", 2026, 12, 31, 20819 },
    { "2026", 2026, 11, 23, 20788 },
};
/* clang-format on */

static uint64_t
ms(int y, int m, int d)
{
    struct tm tm = { .tm_year = y - 1900, .tm_mon = m - 1, .tm_mday = d };

    return (uint64_t) timegm(&tm) * 1000;
}

static void
test_budget_months_end_where_the_calendar_says(void)
{
    for (size_t i = 0; i < KARS_NELTS(days); i++) {
        uint32_t day = calendar_day(ms(days[i].y, days[i].m, days[i].d));

        T_CASE(days[i].date);
        CU_ASSERT_EQUAL(calendar_month(day),
                        (uint32_t) (days[i].y * 12 + days[i].m - 1));
        CU_ASSERT_EQUAL(calendar_next_month(day), days[i].next);
    }
}

/* Every day of 250 years, as the C library sees it. */
static void
test_budget_days_agree_with_the_c_library(void)
{
    int wrong = 0;

    for (uint32_t day = 0; day < 250 * 366; day++) {
        time_t t = (time_t) day * 86400;
        struct tm tm;

        (void) gmtime_r(&t, &tm);

        uint32_t month = (uint32_t) ((tm.tm_year + 1900) * 12 + tm.tm_mon);
        uint32_t next = calendar_next_month(day);

        wrong += calendar_month(day) != month || next <= day ||
                 calendar_month(next) != month + 1 ||
                 calendar_month(next - 1) != month;
    }

    CU_ASSERT_EQUAL(wrong, 0);
}

static void
test_budget_waits_until_the_period_ends(void)
{
    uint64_t now = ms(2026, 11, 23) + 1000;
    uint32_t day = calendar_day(now);

    CU_ASSERT_EQUAL(calendar_day(ms(2026, 11, 23) - 1), day - 1);
    CU_ASSERT_EQUAL(calendar_until(now, day + 1), 86399000);
    CU_ASSERT_EQUAL(calendar_until(ms(2026, 11, 24) - 1, day + 1), 1);
    CU_ASSERT_EQUAL(calendar_until(now, day), 1);
    CU_ASSERT_EQUAL(calendar_until(now, day + 400), 31u * 86400000u);
    CU_ASSERT_EQUAL(
        calendar_until(ms(2026, 12, 1),
                       calendar_next_month(calendar_day(ms(2026, 12, 1)))),
        31u * 86400000u);
}

void
suite_budget_calendar(void)
{
    T_SUITE(budget_calendar);
    T_TEST(budget_calendar, test_budget_months_end_where_the_calendar_says);
    T_TEST(budget_calendar, test_budget_days_agree_with_the_c_library);
    T_TEST(budget_calendar, test_budget_waits_until_the_period_ends);
}
