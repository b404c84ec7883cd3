/*
 * check.h - the assertions of t/unit/loop.c where there is no CUnit: what does
 * not hold ends the program, with a line that says what and where.
 */
#ifndef KARS_T_CHECK_H
#define KARS_T_CHECK_H

void kit_must(int ok, const char *what, const char *file, int line);

#define CU_ASSERT_FATAL(x)        kit_must((x) ? 1 : 0, #x, __FILE__, __LINE__)
#define CU_ASSERT_FALSE(x)        CU_ASSERT_FATAL(!(x))
#define CU_ASSERT_PTR_NULL(x)     CU_ASSERT_FATAL((x) == NULL)
#define CU_ASSERT_PTR_EQUAL(a, b) CU_ASSERT_FATAL((a) == (b))
#define CU_FAIL_FATAL(text)       kit_must(0, text, __FILE__, __LINE__)

#endif
