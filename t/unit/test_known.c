/* test_known.c - core/proc/known.c */
#include "proc/known.h"
#include "t.h"

static void
test_known_tells_loads_apart(void)
{
    kars__known_t *list = NULL;

    CU_ASSERT_FALSE(kars__known_has(list, 1, "/a"));
    CU_ASSERT_EQUAL(kars__known_add(&list, 1, "/a"), KARS_OK);
    CU_ASSERT_EQUAL(kars__known_add(&list, 1, "/a"), KARS_OK);
    CU_ASSERT_EQUAL(kars__known_add(&list, 2, "/b"), KARS_OK);
    CU_ASSERT_TRUE(kars__known_has(list, 1, "/a"));
    CU_ASSERT_FALSE(kars__known_has(list, 2, "/a"));
    CU_ASSERT_FALSE(kars__known_has(list, 1, "/b"));
    CU_ASSERT_FALSE(kars__known_has(list, 1, "/"));

    kars__known_drop(&list, 2);
    CU_ASSERT_FALSE(kars__known_has(list, 2, "/b"));
    CU_ASSERT_TRUE(kars__known_has(list, 1, "/a"));
    CU_ASSERT_EQUAL(kars__known_add(&list, 3, "/c"), KARS_OK);
    kars__known_keep(&list, 3);
    CU_ASSERT_FALSE(kars__known_has(list, 1, "/a"));
    CU_ASSERT_TRUE(kars__known_has(list, 3, "/c"));
    kars__known_keep(&list, 0);
    CU_ASSERT_PTR_NULL(list);
}

static void
test_known_has_a_bound(void)
{
    kars__known_t *list = NULL;
    char path[600];
    int n = 0;

    memset(path, 'x', sizeof(path));
    path[sizeof(path) - 1] = '\0';
    CU_ASSERT_EQUAL(kars__known_add(&list, 1, path), KARS_ERROR);
    do {
        (void) snprintf(path, sizeof(path), "/%d", n);
    } while (kars__known_add(&list, 1, path) == KARS_OK && ++n < 100000);
    CU_ASSERT_EQUAL(n, 4096);
    kars__known_keep(&list, 0);
}

void
suite_known(void)
{
    T_SUITE(known);
    T_TEST(known, test_known_tells_loads_apart);
    T_TEST(known, test_known_has_a_bound);
}
