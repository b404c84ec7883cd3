/*
 * test_upstream_zone.c - rows of health that workers share.
 */
#include "http/upstream_zone.h"
#include "t.h"

#include <unistd.h>

static kars_zone_t *zones[2];
static kars_area_t *areas[2];

static void
zone_open(void)
{
    kars_err_t err = KARS_ERR_INIT;
    int fd = kars__zone_make(KARS__ZONE_MIN, &err);

    for (int i = 0; i < 2; i++) {
        zones[i] = kars__zone_map(fd, &err);
        CU_ASSERT_PTR_NOT_NULL_FATAL(zones[i]);
        areas[i] = kars__health_area(zones[i], &err);
        CU_ASSERT_PTR_NOT_NULL_FATAL(areas[i]);
    }
    (void) close(fd);
}

static void
zone_close(void)
{
    kars__zone_unmap(zones[0]);
    kars__zone_unmap(zones[1]);
}

static kars__health_t *
zone_row(int worker, uint64_t id, uint64_t now_ms)
{
    unsigned char raw[KARS__HEALTH_ID] = { 1 };

    memcpy(raw + 8, &id, sizeof(id));
    return kars__health_row(areas[worker], raw, now_ms);
}

static void
test_upstream_zone_rows_are_shared(void)
{
    zone_open();
    kars__health_t *mine = zone_row(0, 7, 100);
    kars__health_t *theirs = zone_row(1, 7, 200);
    kars__health_t *other = zone_row(1, 8, 200);

    CU_ASSERT_PTR_NOT_EQUAL(mine, theirs); /* two maps of one */
    kars__health_set(&mine->failures, 3);
    CU_ASSERT_EQUAL(kars__health_get(&theirs->failures), 3);
    CU_ASSERT_EQUAL(kars__health_get(&other->failures), 0);
    CU_ASSERT_PTR_EQUAL(zone_row(0, 7, 999999), mine); /* a reload */
    CU_ASSERT_EQUAL(mine->failures, 3);
    zone_close();
}

static void
test_upstream_zone_gives_up_what_nobody_asks_for(void)
{
    zone_open();
    kars__health_t *first = zone_row(0, 0, 1000);

    first->failures = 9;
    for (uint64_t i = 1; i < KARS__HEALTH_ROWS; i++) {
        CU_ASSERT_PTR_NOT_NULL(zone_row(0, i, 1000 + i));
    }
    CU_ASSERT_PTR_NULL(zone_row(0, 1000, 60999)); /* all are young */
    CU_ASSERT_PTR_NOT_NULL(zone_row(1, 1, 60999));
    CU_ASSERT_PTR_EQUAL(zone_row(0, 1000, 61000), first); /* the oldest goes */
    CU_ASSERT_EQUAL(first->failures, 0);
    CU_ASSERT_PTR_NULL(zone_row(0, 1001, 61000)); /* the next are younger */
    zone_close();
}

void
suite_upstream_zone(void)
{
    T_SUITE(upstream_zone);
    T_TEST(upstream_zone, test_upstream_zone_rows_are_shared);
    T_TEST(upstream_zone, test_upstream_zone_gives_up_what_nobody_asks_for);
}
