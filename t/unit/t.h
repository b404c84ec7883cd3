/*
 * t.h - what every unit test includes: CUnit, and a little comfort.
 *
 * t/unit/test_pool.c defines `void suite_pool(void)`:
 *
 *     void
 *     suite_pool(void)
 *     {
 *         T_SUITE(pool);
 *         T_TEST(pool, test_pool_refuses_over_its_cap);
 *     }
 *
 * The build finds the suites by their file names; nothing else lists them.
 */
#ifndef KARS_T_H
#define KARS_T_H

#include "kars_module.h"

#ifdef T_KIT /* loop.c as a part of libkars-test */
#include "kit/check.h"
#else
#include <CUnit/CUnit.h>
#endif
#include <string.h>

typedef void (*t_fn_t)(void);

/* Inside suite_NAME(): open the suite, then add its tests in order. */
#define T_SUITE(name)     t_suite(#name)
#define T_TEST(suite, fn) t_test(#suite, #fn, fn)

/*
 * Names the table row at work: until the next T_CASE() of the same test, a
 * failure is printed with it. The label is copied.
 */
#define T_CASE(label) t_case(label)

void t_suite(const char *name);
void t_test(const char *suite, const char *name, t_fn_t fn);
void t_case(const char *label);

#ifndef T_KIT
/* CUnit's CU_ASSERT... macros end here, so that they know the row. */
CU_BOOL t_assert(CU_BOOL ok, unsigned int line, const char *condition,
                 const char *file, const char *function, CU_BOOL fatal);
#define CU_assertImplementation t_assert
#endif

/* Borrows s. */
static inline kars_str_t
t_str(const char *s)
{
    return (kars_str_t){ s, s == NULL ? 0 : strlen(s) };
}

#endif
