/*
 * test_var.c - core/http/var.c: a fact by its name, in its place or in the
 * list, and the facts that nobody can set.
 */
#include "http/request.h"
#include "t.h"

static const char *const known[] = {
    "path",           "class",           "model",
    "query",          "route",           "access",
    "action",         "method",          "status",
    "sandbox",        "attempts",        "bytes_in",
    "decision",       "trace_id",        "upstream",
    "bytes_out",      "deny_code",       "deny_rule",
    "principal",      "tokens_in",       "tokens_out",
    "deny_module",    "deny_reason",     "duration_ms",
    "tokens_total",   "upstream_host",   "upstream_port",
    "tokens_charged", "upstream_status", "tokens_estimated",
    "bytes_sent",     "upstream_ms",     "open_ended"
};

static const char *const others[] = {
    "",
    "a",
    "pat",
    "Path",
    "pathx",
    "mode",
    "modem",
    "xodel",
    "tokens_on",
    "attempta",
    "upstream_hose",
    "tokens_estimatee",
    "tokens_est",
    "sandbux",
    "a_name_that_is_longer_than_any_of_ours"
};

static void
test_var_finds_what_was_made_and_nothing_else(void)
{
    kars_req_t r = { .pool = kars__pool_create(0) };
    kars__var_t *made[KARS_NELTS(known) + KARS_NELTS(others)];
    size_t n = 0;

    CU_ASSERT_EQUAL(KARS_NELTS(known), KARS__VARS);
    for (size_t i = 0; i < KARS_NELTS(known); i++) {
        T_CASE(known[i]);
        CU_ASSERT_PTR_NULL(kars__var(&r, t_str(known[i]), 0));
        made[n++] = kars__var(&r, t_str(known[i]), 1);
        CU_ASSERT_PTR_NULL(r.vars); /* it has a place */
    }
    for (size_t i = 0; i < KARS_NELTS(others); i++) {
        T_CASE(others[i]);
        CU_ASSERT_PTR_NULL(kars__var(&r, t_str(others[i]), 0));
        made[n++] = kars__var(&r, t_str(others[i]), 1);
        CU_ASSERT_PTR_EQUAL(r.vars, made[n - 1]);
    }
    for (size_t i = 0; i < n; i++) {
        kars_str_t name = t_str(
            i < KARS_NELTS(known) ? known[i] : others[i - KARS_NELTS(known)]);

        CU_ASSERT_PTR_NOT_NULL_FATAL(made[i]);
        CU_ASSERT_EQUAL(made[i]->number, 0); /* not yet met: no two are one */
        made[i]->number = (int64_t) i + 1;
        CU_ASSERT_PTR_EQUAL(kars__var(&r, name, 0), made[i]);
        CU_ASSERT_PTR_EQUAL(kars__var(&r, name, 1), made[i]);
    }
    kars__pool_destroy(r.pool);
}

static void
test_var_what_the_core_knows_cannot_be_set(void)
{
    kars_req_t r = { .pool = kars__pool_create(0),
                     .path = KARS_STR("/a"),
                     .status = 201,
                     .body_size = 7 };

    kars__var(&r, KARS_STR("path"), 1)->text = KARS_STR("x");
    kars__var(&r, KARS_STR("decision"), 1)->text = KARS_STR("allow");
    kars__var(&r, KARS_STR("status"), 1)->number = 5;
    kars__var(&r, KARS_STR("bytes_in"), 1)->number = 5;
    kars__var(&r, KARS_STR("model"), 1)->text = KARS_STR("m");
    kars__var(&r, KARS_STR("mine"), 1)->text = KARS_STR("y");
    CU_ASSERT_TRUE(
        kars_str_eq(kars__req_var(&r, KARS_STR("path")), t_str("/a")));
    CU_ASSERT_TRUE(
        kars_str_eq(kars__req_var(&r, KARS_STR("decision")), t_str("deny")));
    CU_ASSERT_TRUE(
        kars_str_eq(kars__req_var(&r, KARS_STR("model")), t_str("m")));
    CU_ASSERT_TRUE(
        kars_str_eq(kars__req_var(&r, KARS_STR("mine")), t_str("y")));
    CU_ASSERT_EQUAL(kars__req_var(&r, KARS_STR("action")).len, 0);
    CU_ASSERT_EQUAL(kars__req_number(&r, KARS_STR("status")), 201);
    CU_ASSERT_EQUAL(kars__req_number(&r, KARS_STR("bytes_in")), 7);
    CU_ASSERT_EQUAL(kars__req_number(&r, KARS_STR("attempts")), 0);
    kars__pool_destroy(r.pool);
}

void
suite_var(void)
{
    T_SUITE(var);
    T_TEST(var, test_var_finds_what_was_made_and_nothing_else);
    T_TEST(var, test_var_what_the_core_knows_cannot_be_set);
}
