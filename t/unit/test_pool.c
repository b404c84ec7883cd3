/* test_pool.c - caps, alignment, the order of the end, failing on purpose. */
#include "base/pool.h"
#include "t.h"

static void
test_pool_aligns_and_keeps_what_it_gave(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    unsigned char *at[300];

    for (size_t i = 0; i < KARS_NELTS(at); i++) {
        at[i] = kars__palloc(pool, i * 7);
        CU_ASSERT_PTR_NOT_NULL_FATAL(at[i]);
        CU_ASSERT_EQUAL((uintptr_t) at[i] % 16, 0);
        memset(at[i], (int) (i & 255), i * 7);
    }
    for (size_t i = 0; i < KARS_NELTS(at); i++) {
        for (size_t j = 0; j < i * 7; j++) {
            CU_ASSERT_FATAL(at[i][j] == (i & 255));
        }
    }
    kars__pool_destroy(pool);
}

static void
test_pool_refuses_over_its_cap(void)
{
    kars_pool_t *pool = kars__pool_create(64);

    CU_ASSERT_PTR_NULL(kars__palloc(pool, 65));
    CU_ASSERT_PTR_NOT_NULL(kars__palloc(pool, 48));
    CU_ASSERT_PTR_NULL(kars__palloc(pool, 17));
    CU_ASSERT_PTR_NOT_NULL(kars__palloc(pool, 1));
    CU_ASSERT_EQUAL(kars__pool_used(pool), 64);
    CU_ASSERT_PTR_NULL(kars__palloc(pool, 0));
    CU_ASSERT_PTR_NULL(kars__pdup(pool, KARS_STR("x")).data);
    kars__pool_destroy(pool);
}

static void
test_pool_refuses_sizes_that_overflow(void)
{
    kars_pool_t *pool = kars__pool_create(0);

    CU_ASSERT_PTR_NULL(kars__palloc(pool, SIZE_MAX));
    CU_ASSERT_PTR_NULL(kars__palloc(pool, SIZE_MAX / 2 + 1));
    CU_ASSERT_PTR_NULL(kars__pcalloc(pool, SIZE_MAX / 2, 3));
    CU_ASSERT_PTR_NULL(kars__pcalloc(pool, 2, SIZE_MAX));
    CU_ASSERT_PTR_NULL(kars__pown(pool, SIZE_MAX - 8, NULL));
    CU_ASSERT_EQUAL(kars__pool_used(pool), 0);
    kars__pool_destroy(pool);
}

static void
test_pool_zeroes_even_recycled_blocks(void)
{
    for (int round = 0; round < 3; round++) {
        kars_pool_t *pool = kars__pool_create(0);
        unsigned char *p = kars__pcalloc(pool, 3, 1000);

        CU_ASSERT_PTR_NOT_NULL_FATAL(p);
        for (size_t i = 0; i < 3000; i++) {
            CU_ASSERT_FATAL(p[i] == 0);
        }
        memset(p, 0xff, 3000);
        kars__pool_destroy(pool);
    }
}

static char pool_order[8];

static void
pool_release(void *data)
{
    size_t n = strlen(pool_order);

    pool_order[n] = *(char *) data;
}

static void
test_pool_releases_the_last_owned_first(void)
{
    kars_pool_t *pool = kars__pool_create(0);

    memset(pool_order, 0, sizeof(pool_order));
    for (char c = 'a'; c < 'e'; c++) {
        char *p = kars__pown(pool, 1, pool_release);

        CU_ASSERT_PTR_NOT_NULL_FATAL(p);
        CU_ASSERT_EQUAL(*p, 0);
        *p = c;
        CU_ASSERT_PTR_NOT_NULL(kars__palloc(pool, 5000));
    }
    kars__pool_destroy(pool);
    CU_ASSERT_STRING_EQUAL(pool_order, "dcba");
    kars__pool_destroy(NULL);
}

static void
test_pool_copies_end_with_a_nul(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars_str_t s = kars__pdup(pool, (kars_str_t){ "abcdef", 3 });
    char big[2000];

    CU_ASSERT_STRING_EQUAL(s.data, "abc");
    CU_ASSERT_EQUAL(s.len, 3);
    s = kars__pdup(pool, (kars_str_t){ NULL, 0 });
    CU_ASSERT_STRING_EQUAL(s.data, "");
    s = kars__pprintf(pool, "%d-%s", 5, "x");
    CU_ASSERT_STRING_EQUAL(s.data, "5-x");
    CU_ASSERT_EQUAL(s.len, 3);

    memset(big, 'y', sizeof(big));
    for (int n = 510; n < 515; n++) {
        s = kars__pprintf(pool, "%.*s", n, big);
        CU_ASSERT_EQUAL(s.len, (size_t) n);
        CU_ASSERT_EQUAL(s.data[n], '\0');
        CU_ASSERT_EQUAL(s.data[n - 1], 'y');
    }
    kars__pool_destroy(pool);
}

static void
test_pool_fails_when_a_test_says_so(void)
{
    kars_pool_t *pool = kars__pool_create(0);

    kars__pool_fail_at(2);
    CU_ASSERT_PTR_NOT_NULL(kars__palloc(pool, 1));
    CU_ASSERT_PTR_NULL(kars__palloc(pool, 1));
    CU_ASSERT_PTR_NOT_NULL(kars__palloc(pool, 1));
    kars__pool_fail_at(1);
    kars__pool_fail_at(0);
    CU_ASSERT_PTR_NOT_NULL(kars__palloc(pool, 1));
    kars__pool_destroy(pool);
}

void
suite_pool(void)
{
    T_SUITE(pool);
    T_TEST(pool, test_pool_aligns_and_keeps_what_it_gave);
    T_TEST(pool, test_pool_refuses_over_its_cap);
    T_TEST(pool, test_pool_refuses_sizes_that_overflow);
    T_TEST(pool, test_pool_zeroes_even_recycled_blocks);
    T_TEST(pool, test_pool_releases_the_last_owned_first);
    T_TEST(pool, test_pool_copies_end_with_a_nul);
    T_TEST(pool, test_pool_fails_when_a_test_says_so);
}
