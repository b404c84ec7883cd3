/*
 * calendar.c - days and months of the UTC calendar as numbers.
 *
 * The arithmetic counts years from March, so that the leap day is the last of
 * its year, in eras of 400 years, after which the calendar repeats.
 */
#include "calendar.h"

enum { CALENDAR_ERA = 146097, CALENDAR_EPOCH = 719468 };

static void
calendar_split(uint32_t day, uint32_t *ret_year, uint32_t *ret_month)
{
    uint32_t z = day + CALENDAR_EPOCH;
    uint32_t era = z / CALENDAR_ERA;
    uint32_t doe = z % CALENDAR_ERA;
    uint32_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    uint32_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    uint32_t march = (5 * doy + 2) / 153; /* 0 is March */

    *ret_month = march < 10 ? march + 2 : march - 10; /* 0 is January */
    *ret_year = yoe + era * 400 + (march >= 10);
}

static uint32_t
calendar_first_of(uint32_t year, uint32_t month)
{
    uint32_t y = month < 2 ? year - 1 : year;
    uint32_t march = month < 2 ? month + 10 : month - 2;
    uint32_t yoe = y % 400;
    uint32_t doe = yoe * 365 + yoe / 4 - yoe / 100 + (153 * march + 2) / 5;

    return y / 400 * CALENDAR_ERA + doe - CALENDAR_EPOCH;
}

uint32_t
calendar_day(uint64_t wall_ms)
{
    return (uint32_t) (wall_ms / CALENDAR_DAY_MS);
}

uint32_t
calendar_month(uint32_t day)
{
    uint32_t year;
    uint32_t month;

    calendar_split(day, &year, &month);
    return year * 12 + month;
}

uint32_t
calendar_next_month(uint32_t day)
{
    uint32_t next = calendar_month(day) + 1;

    return calendar_first_of(next / 12, next % 12);
}

uint32_t
calendar_until(uint64_t wall_ms, uint32_t day)
{
    const uint64_t most = 31ull * CALENDAR_DAY_MS;
    uint64_t begins = (uint64_t) day * CALENDAR_DAY_MS;
    uint64_t left = begins > wall_ms ? begins - wall_ms : 1;

    return (uint32_t) (left < most ? left : most);
}
