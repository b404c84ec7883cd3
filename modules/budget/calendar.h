/*
 * calendar.h - days and months of the UTC calendar as numbers.
 *
 * A day is the count of days since 1970-01-01, a month is year * 12 + month
 * (January 0). Budgets reset when these numbers grow, so nothing here knows
 * about time zones. No state, no failure.
 */
#ifndef BUDGET_CALENDAR_H
#define BUDGET_CALENDAR_H

#include <stdint.h>

#define CALENDAR_DAY_MS 86400000u

/* The day that holds this Unix time in milliseconds. */
uint32_t calendar_day(uint64_t wall_ms);

/* The month that holds this day. */
uint32_t calendar_month(uint32_t day);

/* The first day of the month after the one that holds `day`. */
uint32_t calendar_next_month(uint32_t day);

/* Milliseconds from now until `day` begins; at least 1. A clock behind the
 * ledger gives more than one would expect: it is cut to 31 days. */
uint32_t calendar_until(uint64_t wall_ms, uint32_t day);

#endif
