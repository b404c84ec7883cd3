/* test_abi.c - the function table that modules get. */
#include "proc/module.h"
#include "t.h"

#include <stdio.h>

static void
test_abi_has_every_function_that_the_header_declares(void)
{
    const char *table = (const char *) &kars__api;
    size_t n = 0;

    CU_ASSERT_EQUAL(kars__api.size, sizeof(kars_api_t));
    for (size_t at = offsetof(kars_api_t, palloc); at < sizeof(kars_api_t);
         at += sizeof(void (*)(void))) {
        void (*fn)(void);

        memcpy(&fn, table + at, sizeof(fn));
        if (fn == NULL) {
            fprintf(stderr, "function %zu of the table is missing\n", n);
        }
        CU_ASSERT_PTR_NOT_NULL(fn);
        n++;
    }
    CU_ASSERT(n > 100);
}

void
suite_abi(void)
{
    T_SUITE(abi);
    T_TEST(abi, test_abi_has_every_function_that_the_header_declares);
}
