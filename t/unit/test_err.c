/* test_err.c - error texts. */
#include "base/err.h"
#include "t.h"

#include <errno.h>

static void
test_err_says_what_and_why(void)
{
    kars_err_t err = KARS_ERR_INIT;

    CU_ASSERT_EQUAL(err.size, sizeof(err));
    CU_ASSERT_EQUAL(kars__err(&err, 0, "open \"%s\"", "x"), KARS_ERROR);
    CU_ASSERT_STRING_EQUAL(err.text, "open \"x\"");
    CU_ASSERT_EQUAL(kars__err(&err, ENOENT, "open \"%s\"", "x"), KARS_ERROR);
    CU_ASSERT_STRING_EQUAL(err.text, "open \"x\": No such file or directory");
}

static void
test_err_takes_a_prefix(void)
{
    kars_err_t err = KARS_ERR_INIT;

    (void) kars__err(&err, 0, "b");
    CU_ASSERT_EQUAL(kars__err_prefix(&err, "a%d", 1), KARS_ERROR);
    CU_ASSERT_STRING_EQUAL(err.text, "a1: b");
}

static void
test_err_stays_within_its_text(void)
{
    kars_err_t err = KARS_ERR_INIT;
    char big[600];

    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    for (size_t n = sizeof(err.text) - 8; n < sizeof(big); n++) {
        (void) kars__err(&err, ENOENT, "%.*s", (int) n, big);
        CU_ASSERT(strlen(err.text) < sizeof(err.text));
        (void) kars__err_prefix(&err, "%.*s", (int) n, big);
        CU_ASSERT(strlen(err.text) < sizeof(err.text));
        (void) kars__err_prefix(&err, "short");
        CU_ASSERT_EQUAL(strncmp(err.text, "short: x", 8), 0);
    }
}

static void
test_err_may_be_unwanted(void)
{
    CU_ASSERT_EQUAL(kars__err(NULL, ENOENT, "x"), KARS_ERROR);
    CU_ASSERT_EQUAL(kars__err_prefix(NULL, "x"), KARS_ERROR);
}

void
suite_err(void)
{
    T_SUITE(err);
    T_TEST(err, test_err_says_what_and_why);
    T_TEST(err, test_err_takes_a_prefix);
    T_TEST(err, test_err_stays_within_its_text);
    T_TEST(err, test_err_may_be_unwanted);
}
