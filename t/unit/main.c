/*
 * main.c - runs the unit tests: all suites, or those named.
 *
 *     unit [-v] [suite ...]
 *
 * Exits with 0 only if at least one test ran and none failed.
 */
#include "t.h"

#undef CU_assertImplementation

#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* unit_suites.h is a line SUITE(name) for each t/unit/test_name.c. */
#define SUITE(name) void suite_##name(void);
#include "unit_suites.h"
#undef SUITE

/* clang-format off */
static const struct { const char *name; t_fn_t add; } suites[] = {
#define SUITE(name) { #name, suite_##name },
#include "unit_suites.h"
#undef SUITE
    { NULL, NULL },
};
/* clang-format on */

static CU_pSuite main_suite;
static char main_label[96];
static CU_pTest main_labelled; /* the test that main_label was set in */

/* A runner that cannot list its tests must not look like one that passed. */
static void
main_fail(const char *what, const char *name)
{
    fprintf(stderr, "unit: %s \"%s\": %s\n", what, name, CU_get_error_msg());
    exit(1);
}

void
t_suite(const char *name)
{
    main_suite = CU_add_suite(name, NULL, NULL);
    if (main_suite == NULL) {
        main_fail("cannot add suite", name);
    }
}

void
t_test(const char *suite, const char *name, t_fn_t fn)
{
    if (main_suite == NULL || strcmp(main_suite->pName, suite) != 0) {
        t_suite(suite);
    }

    if (CU_add_test(main_suite, name, fn) == NULL) {
        main_fail("cannot add test", name);
    }
}

void
t_case(const char *label)
{
    main_labelled = CU_get_current_test();
    snprintf(main_label, sizeof(main_label), "%s",
             label == NULL ? "(null)" : label);

    for (char *p = main_label; *p != '\0'; p++) {
        if (*p < ' ' || *p > '~') {
            *p = '.'; /* rows of parser tests hold any byte */
        }
    }
}

CU_BOOL
t_assert(CU_BOOL ok, unsigned int line, const char *condition, const char *file,
         const char *function, CU_BOOL fatal)
{
    char text[512];

    if (!ok && main_labelled != NULL &&
        main_labelled == CU_get_current_test()) {
        snprintf(text, sizeof(text), "[%s] %s", main_label, condition);
        condition = text; /* CUnit copies it */
    }

    return CU_assertImplementation(ok, line, condition, file, function, fatal);
}

static int
main_wanted(const char *name, char *const *names, int n)
{
    for (int i = 0; i < n; i++) {
        if (strcmp(names[i], name) == 0) {
            return 1;
        }
    }

    return n == 0;
}

static void
main_check_names(char *const *names, int n)
{
    for (int i = 0; i < n; i++) {
        int known = 0;

        for (size_t s = 0; suites[s].name != NULL; s++) {
            known |= strcmp(suites[s].name, names[i]) == 0;
        }
        if (!known) {
            fprintf(stderr, "unit: no suite \"%s\"\n", names[i]);
            exit(1);
        }
    }
}

static double
main_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double) ts.tv_sec + (double) ts.tv_nsec / 1e9;
}

int
main(int argc, char **argv)
{
    double start = main_now();
    int verbose = argc > 1 && strcmp(argv[1], "-v") == 0;
    char **names = argv + 1 + verbose;
    int n_names = argc - 1 - verbose;

    setvbuf(stdout, NULL, _IOLBF, 0); /* in order with what ASan says */
    main_check_names(names, n_names);

    if (CU_initialize_registry() != CUE_SUCCESS) {
        main_fail("cannot begin", "CUnit");
    }

    for (size_t s = 0; suites[s].name != NULL; s++) {
        if (main_wanted(suites[s].name, names, n_names)) {
            main_suite = NULL;
            suites[s].add();
        }
    }

    CU_basic_set_mode(verbose ? CU_BRM_VERBOSE : CU_BRM_NORMAL);
    CU_basic_run_tests();

    unsigned int n_suites = CU_get_number_of_suites_run();
    unsigned int n_run = CU_get_number_of_tests_run();
    unsigned int n_failed = CU_get_number_of_failures();

    CU_cleanup_registry();
    printf("unit: %u suites, %u tests, %u failures, %.2f s\n", n_suites, n_run,
           n_failed, main_now() - start);
    return n_run > 0 && n_failed == 0 ? 0 : 1;
}
