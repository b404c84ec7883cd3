/*
 * test_limit_table.c - modules/limit/table.c: exact rates on a clock of the
 * test's own, open requests of workers that live and die, and memory that does
 * not grow with the number of callers.
 */
#include "../../modules/limit/table.h"
#include "t.h"

#include <stdio.h>
#include <stdlib.h>

#define MS 1000000ull

static void *
limit_table_make(uint64_t n, size_t *ret_size)
{
    static const uint64_t seed[4] = { 1, 2, 3, 4 };
    uint64_t slots;
    size_t size = table_size(n, &slots);
    void *t = calloc(1, size + 16);

    CU_ASSERT_PTR_NOT_NULL_FATAL(t);
    memset((char *) t + size, 0x5a, 16); /* nothing is written behind it */
    table_init(t, slots, seed);
    *ret_size = size;
    return t;
}

static void
limit_table_drop(void *t, size_t size)
{
    for (size_t i = 0; i < 16; i++) {
        CU_ASSERT_EQUAL(((unsigned char *) t)[size + i], 0x5a);
    }
    free(t);
}

static table_key_t
limit_table_key(void *t, const char *id, const char *value)
{
    kars_str_t pieces[2] = { t_str(id), t_str(value) };

    return table_key(t, pieces, 2);
}

static int
limit_table_same(table_key_t a, table_key_t b)
{
    return a.v[0] == b.v[0] && a.v[1] == b.v[1];
}

static void
test_limit_table_rates_are_exact(void)
{
    /* rate, burst, the step of the clock; how many pass at each step */
    static const struct {
        const char *label;
        uint64_t every_ms, burst, step_ms;
        int asks, pass[6];
    } rows[] = {
        { "10/s, one at once", 100, 0, 100, 3, { 1, 1, 1, 1, 1, 1 } },
        { "10/s, clock too slow", 100, 0, 50, 1, { 1, 0, 1, 0, 1, 0 } },
        { "10/s, a burst of 4 more", 100, 4, 100, 9, { 5, 1, 1, 1, 1, 1 } },
        { "a burst fills again", 100, 2, 1000, 9, { 3, 3, 3, 3, 3, 3 } },
        { "one a minute", 60000, 0, 20000, 2, { 1, 0, 0, 1, 0, 0 } },
    };

    for (size_t i = 0; i < KARS_NELTS(rows); i++) {
        size_t size;
        void *t = limit_table_make(16, &size);
        table_key_t k = limit_table_key(t, "x", "me");

        T_CASE(rows[i].label);
        for (size_t s = 0; s < 6; s++) {
            uint64_t now = (1000000 + s * rows[i].step_ms) * MS;
            int passed = 0;

            for (int a = 0; a < rows[i].asks; a++) {
                passed += table_take(t, k, now, rows[i].every_ms * MS,
                                     rows[i].burst) == 0;
            }
            CU_ASSERT_EQUAL(passed, rows[i].pass[s]);
        }
        limit_table_drop(t, size);
    }
}

static void
test_limit_table_says_how_long_to_wait(void)
{
    size_t size;
    void *t = limit_table_make(16, &size);
    table_key_t k = limit_table_key(t, "x", "me");
    uint64_t now = 5000 * MS;

    CU_ASSERT_EQUAL(table_take(t, k, now, 100 * MS, 1), 0);
    CU_ASSERT_EQUAL(table_take(t, k, now, 100 * MS, 1), 0);
    CU_ASSERT_EQUAL(table_take(t, k, now, 100 * MS, 1), 100 * MS);
    CU_ASSERT_EQUAL(table_take(t, k, now + 99 * MS, 100 * MS, 1), 1 * MS);
    CU_ASSERT_EQUAL(table_take(t, k, now + 100 * MS, 100 * MS, 1), 0);
    limit_table_drop(t, size);
}

static void
test_limit_table_keys_are_their_own(void)
{
    size_t size;
    void *t = limit_table_make(16, &size);

    CU_ASSERT_TRUE(limit_table_same(limit_table_key(t, "a", "b"),
                                    limit_table_key(t, "a", "b")));
    CU_ASSERT_FALSE(limit_table_same(limit_table_key(t, "a", "bc"),
                                     limit_table_key(t, "ab", "c")));
    CU_ASSERT_FALSE(limit_table_same(limit_table_key(t, "a", ""),
                                     limit_table_key(t, "", "a")));
    CU_ASSERT_FALSE(limit_table_same(limit_table_key(t, "a", "12345678"),
                                     limit_table_key(t, "a", "123456789")));
    limit_table_drop(t, size);
}

/* A million callers: one table, no byte more; the busy one keeps its count. */
static void
test_limit_table_memory_is_flat_over_a_million_keys(void)
{
    size_t size;
    void *t = limit_table_make(1024, &size);
    table_key_t busy = limit_table_key(t, "x", "busy");
    uint64_t now = 1000 * MS;
    int passed = 0;

    CU_ASSERT_EQUAL(size, sizeof(table_head_t) + 1024 * 64);
    CU_ASSERT_EQUAL(table_take(t, busy, now, 3600000 * MS, 0), 0);
    for (uint32_t i = 0; i < 1000000; i++) {
        char name[24];

        (void) snprintf(name, sizeof(name), "caller-%u", i);
        passed += table_take(t, limit_table_key(t, "x", name), now + i,
                             1000 * MS, 0) == 0;
    }
    CU_ASSERT_EQUAL(passed, 1000000); /* each is new */
    CU_ASSERT_TRUE(table_take(t, busy, now + 2000 * MS, 3600000 * MS, 0) > 0);
    limit_table_drop(t, size);
}

static int
limit_table_alive(void *data, uint64_t worker)
{
    return worker != *(uint64_t *) data; /* the one that died */
}

static void
test_limit_table_counts_open_requests(void)
{
    size_t size;
    void *t = limit_table_make(16, &size);
    table_key_t k = limit_table_key(t, "x", "me");
    uint64_t dead = 0;

    CU_ASSERT_EQUAL(table_open(t, k, 1, 3, limit_table_alive, &dead), KARS_OK);
    CU_ASSERT_EQUAL(table_open(t, k, 2, 3, limit_table_alive, &dead), KARS_OK);
    CU_ASSERT_EQUAL(table_open(t, k, 2, 3, limit_table_alive, &dead), KARS_OK);
    CU_ASSERT_EQUAL(table_open(t, k, 1, 3, limit_table_alive, &dead),
                    KARS_DECLINED);
    table_close(t, k, 2);
    CU_ASSERT_EQUAL(table_open(t, k, 1, 3, limit_table_alive, &dead), KARS_OK);
    CU_ASSERT_EQUAL(table_open(t, k, 2, 3, limit_table_alive, &dead),
                    KARS_DECLINED);

    dead = 1; /* what it had open is over */
    CU_ASSERT_EQUAL(table_open(t, k, 2, 3, limit_table_alive, &dead), KARS_OK);
    CU_ASSERT_EQUAL(table_open(t, k, 2, 3, limit_table_alive, &dead), KARS_OK);
    CU_ASSERT_EQUAL(table_open(t, k, 2, 3, limit_table_alive, &dead),
                    KARS_DECLINED);
    for (int i = 0; i < 9; i++) {
        table_close(t, k, 2); /* more often than opened */
    }
    CU_ASSERT_EQUAL(table_open(t, k, 2, 1, limit_table_alive, &dead), KARS_OK);
    limit_table_drop(t, size);
}

static void
test_limit_table_refuses_when_no_slot_is_free(void)
{
    size_t size;
    void *t = limit_table_make(16, &size);
    uint64_t dead = 0;
    char name[16];

    for (int i = 0; i < 17; i++) {
        (void) snprintf(name, sizeof(name), "k%d", i);

        int rc = table_open(t, limit_table_key(t, "x", name), 1, 9,
                            limit_table_alive, &dead);

        CU_ASSERT_EQUAL(rc, i < 16 ? KARS_OK : KARS_ERROR);
    }
    table_close(t, limit_table_key(t, "x", "k3"), 1);
    CU_ASSERT_EQUAL(table_open(t, limit_table_key(t, "x", "k16"), 1, 9,
                               limit_table_alive, &dead),
                    KARS_OK);
    limit_table_drop(t, size);
}

void
suite_limit_table(void)
{
    T_SUITE(limit_table);
    T_TEST(limit_table, test_limit_table_rates_are_exact);
    T_TEST(limit_table, test_limit_table_says_how_long_to_wait);
    T_TEST(limit_table, test_limit_table_keys_are_their_own);
    T_TEST(limit_table, test_limit_table_memory_is_flat_over_a_million_keys);
    T_TEST(limit_table, test_limit_table_counts_open_requests);
    T_TEST(limit_table, test_limit_table_refuses_when_no_slot_is_free);
}
