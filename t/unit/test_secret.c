/*
 * test_secret.c - guarded memory: exact copies, several owners.
 */
#include "t.h"
#include "base/secret.h"

static void
test_secret_has_exactly_its_bytes(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars_err_t err = { .size = sizeof(err) };
    char key[] = "k\n";
    kars_secret_t *s = kars__secret_copy(pool, t_str(key), &err);

    CU_ASSERT_PTR_NOT_NULL_FATAL(s);
    key[0] = 'x'; /* a copy */
    CU_ASSERT_TRUE(kars_str_eq(kars__secret_str(s), KARS_STR("k\n")));
    s = kars__secret_create(pool, "k\r\n", 3, &err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(s);
    CU_ASSERT_TRUE(kars_str_eq(kars__secret_str(s), KARS_STR("k")));
    CU_ASSERT_PTR_NULL(kars__secret_copy(pool, KARS_STR(""), &err));
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "empty"));
    kars__pool_destroy(pool);
}

static void
test_secret_lives_as_long_as_an_owner(void)
{
    kars_pool_t *one = kars__pool_create(0), *two = kars__pool_create(0);
    kars_secret_t *s = kars__secret_copy(one, KARS_STR("key"), NULL);

    CU_ASSERT_PTR_NOT_NULL_FATAL(s);
    CU_ASSERT_PTR_EQUAL(kars__secret_share(two, s), s);
    kars__pool_destroy(one);
    CU_ASSERT_TRUE(kars_str_eq(kars__secret_str(s), KARS_STR("key")));
    kars__pool_destroy(two);
}

static void
test_secret_without_memory(void)
{
    kars_pool_t *pool = kars__pool_create(0);

    kars__pool_fail_at(1);
    CU_ASSERT_PTR_NULL(kars__secret_copy(pool, KARS_STR("key"), NULL));
    kars__pool_fail_at(0);
    kars__pool_destroy(pool);
}

void
suite_secret(void)
{
    T_SUITE(secret);
    T_TEST(secret, test_secret_has_exactly_its_bytes);
    T_TEST(secret, test_secret_lives_as_long_as_an_owner);
    T_TEST(secret, test_secret_without_memory);
}
