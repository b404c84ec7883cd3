/* test_budget_ask.c - modules/budget/ask.c: caps, reservations, usage */
#include "t.h"

#include "budget/ask.h"

/* clang-format off */
static const struct { const char *in; uint32_t type; int ok; uint64_t v; } nums[] = {
    { "0", KARS_JSON_NUMBER, 1, 0 },   { "8", KARS_JSON_NUMBER, 1, 8 },
    { "9223372036854775807", KARS_JSON_NUMBER, 1, INT64_MAX },
    { "9223372036854775808", KARS_JSON_NUMBER, 0, 0 },
    { "99999999999999999999999", KARS_JSON_NUMBER, 0, 0 },
    { "-1", KARS_JSON_NUMBER, 0, 0 },  { "-0", KARS_JSON_NUMBER, 0, 0 },
    { "1.5", KARS_JSON_NUMBER, 0, 0 }, { "1e3", KARS_JSON_NUMBER, 0, 0 },
    { "8", KARS_JSON_STRING, 0, 0 },   { "true", KARS_JSON_TRUE, 0, 0 },
    { "", KARS_JSON_OBJECT, 0, 0 },    { "", KARS_JSON_ARRAY, 0, 0 },
};
/* clang-format on */

static void
put(ask_t *a, unsigned which, const char *text)
{
    ask_number(a, which, t_str(text),
               KARS_FIRST | KARS_LAST | KARS_JSON_NUMBER);
}

static kars_str_t
bad(const ask_t *a)
{
    const char *want;

    return ask_bad_member(a, &want);
}

static void
test_budget_reads_only_plain_integers(void)
{
    for (size_t i = 0; i < KARS_NELTS(nums); i++) {
        ask_t a = { 0 };

        T_CASE(nums[i].in);
        ask_number(&a, ASK_MAX_TOKENS, t_str(nums[i].in),
                   KARS_FIRST | KARS_LAST | nums[i].type);
        CU_ASSERT_EQUAL(bad(&a).len == 0, nums[i].ok);
        if (nums[i].ok) {
            CU_ASSERT_EQUAL(a.numbers[ASK_MAX_TOKENS].value, nums[i].v);
        } else {
            CU_ASSERT_TRUE(kars_str_eq(bad(&a), t_str("max_tokens")));
        }
    }
}

static void
test_budget_reads_numbers_cut_anywhere(void)
{
    for (size_t cut = 0; cut <= 5; cut++) {
        ask_t a = { 0 };

        put(&a, ASK_MAX_TOKENS, "77"); /* an earlier value is forgotten */
        ask_number(&a, ASK_MAX_TOKENS, (kars_str_t){ "12345", cut },
                   KARS_FIRST | KARS_JSON_NUMBER);
        CU_ASSERT_NOT_EQUAL(bad(&a).len, 0); /* half a number is none */
        ask_number(&a, ASK_MAX_TOKENS, (kars_str_t){ "12345" + cut, 5 - cut },
                   KARS_LAST | KARS_JSON_NUMBER);
        CU_ASSERT_EQUAL(a.numbers[ASK_MAX_TOKENS].value, 12345);
        CU_ASSERT_EQUAL(bad(&a).len, 0);
    }
}

static void
test_budget_takes_null_as_absent(void)
{
    ask_t a = { 0 };

    put(&a, ASK_MAX_TOKENS, "-1");
    for (unsigned i = 0; i < ASK_NUMBERS; i++) {
        ask_number(&a, i, t_str("null"),
                   KARS_FIRST | KARS_LAST | KARS_JSON_NULL);
    }
    ask_bool(&a.stream, KARS_JSON_NULL);
    ask_options(&a, KARS_JSON_NULL);
    CU_ASSERT_EQUAL(bad(&a).len, 0);
    CU_ASSERT_EQUAL(ask_cap(&a), 0);
    CU_ASSERT_EQUAL(ask_answers(&a), 1);
}

static void
test_budget_refuses_no_answers_and_wrong_booleans(void)
{
    ask_t a = { 0 };

    put(&a, ASK_N, "0");
    CU_ASSERT_TRUE(kars_str_eq(bad(&a), t_str("n")));
    put(&a, ASK_N, "1");
    put(&a, ASK_BEST_OF, "0");
    CU_ASSERT_TRUE(kars_str_eq(bad(&a), t_str("best_of")));
    put(&a, ASK_BEST_OF, "2");
    ask_bool(&a.stream, KARS_JSON_STRING);
    CU_ASSERT_TRUE(kars_str_eq(bad(&a), t_str("stream")));
    ask_bool(&a.stream, KARS_JSON_TRUE);
    ask_options(&a, KARS_JSON_ARRAY);
    CU_ASSERT_TRUE(kars_str_eq(bad(&a), t_str("stream_options")));
    ask_options(&a, KARS_JSON_OBJECT);
    ask_bool(&a.include, KARS_JSON_NUMBER);
    CU_ASSERT_TRUE(kars_str_eq(bad(&a), t_str("stream_options.include_usage")));
    ask_bool(&a.include, KARS_JSON_FALSE);
    CU_ASSERT_EQUAL(bad(&a).len, 0);
    CU_ASSERT_NOT_EQUAL(a.include, ASK_GOOD);
}

static void
test_budget_takes_the_largest_cap_of_all_aliases(void)
{
    for (unsigned i = ASK_MAX_TOKENS; i < ASK_NUMBERS; i++) {
        ask_t a = { 0 };

        T_CASE(ask_name(i).data);
        put(&a, ASK_MAX_TOKENS, "3");
        put(&a, i, "5000");
        CU_ASSERT_EQUAL(ask_cap(&a), 5000);
    }

    ask_t zero = { 0 };

    put(&zero, ASK_MAX_TOKENS, "0"); /* some servers: no limit */
    CU_ASSERT_EQUAL(ask_cap(&zero), 1);
}

static void
test_budget_bounds_what_only_an_alias_caps(void)
{
    ask_t a = { 0 };

    put(&a, ASK_N_PREDICT, "1");
    CU_ASSERT_FALSE(ask_is_bounded(&a, ASK_AS_MAX_TOKENS));
    CU_ASSERT_TRUE(ask_is_bounded(&a, ASK_AS_NONE));
    put(&a, ASK_MAX_COMPLETION, "1");
    CU_ASSERT_TRUE(ask_is_bounded(&a, ASK_AS_MAX_TOKENS));
    CU_ASSERT_TRUE(ask_is_bounded(&a, ASK_AS_MAX_COMPLETION));
    CU_ASSERT_FALSE(ask_is_bounded(&a, ASK_AS_MAX_OUTPUT));
}

static void
test_budget_reserves_for_every_answer(void)
{
    ask_t a = { 0 };

    CU_ASSERT_EQUAL(ask_prompt_estimate(0), 8);
    CU_ASSERT_EQUAL(ask_prompt_estimate(1), 9);
    CU_ASSERT_EQUAL(ask_prompt_estimate(4), 9);
    CU_ASSERT_EQUAL(ask_prompt_estimate(5), 10);
    CU_ASSERT_EQUAL(ask_reserve(&a, 100, 50), 33 + 50);
    put(&a, ASK_N, "8");
    CU_ASSERT_EQUAL(ask_reserve(&a, 100, 50), 33 + 400);
    put(&a, ASK_BEST_OF, "10");
    CU_ASSERT_EQUAL(ask_reserve(&a, 100, 50), 33 + 500);
    ask_prompt(&a, 0, KARS_FIRST | KARS_JSON_STRING);
    ask_prompt(&a, 1, KARS_FIRST | KARS_JSON_STRING);
    ask_prompt(&a, 2, KARS_FIRST | KARS_JSON_NUMBER); /* a token, not a text */
    CU_ASSERT_EQUAL(ask_reserve(&a, 100, 50), 33 + 1000);
    put(&a, ASK_N, "9223372036854775807");
    CU_ASSERT_EQUAL(ask_reserve(&a, 100, INT64_MAX), UINT64_MAX);
}

static void
used(used_t *u, unsigned which, const char *text, uint32_t type)
{
    ask_used(u, which, t_str(text), KARS_FIRST | KARS_LAST | type);
}

static void
test_budget_charges_the_last_and_larger_usage(void)
{
    used_t u = { 0 };
    int exact;

    CU_ASSERT_EQUAL(ask_used_total(&u, &exact), 0);
    CU_ASSERT_FALSE(exact);
    used(&u, USED_IN, "10", KARS_JSON_NUMBER);
    (void) ask_used_total(&u, &exact);
    CU_ASSERT_FALSE(exact); /* half of it */
    used(&u, USED_OUT, "5", KARS_JSON_NUMBER);
    CU_ASSERT_EQUAL(ask_used_total(&u, &exact), 15);
    CU_ASSERT_TRUE(exact);
    used(&u, USED_TOTAL, "12", KARS_JSON_NUMBER); /* cannot be less */
    CU_ASSERT_EQUAL(ask_used_total(&u, &exact), 15);
    used(&u, USED_TOTAL, "40", KARS_JSON_NUMBER); /* reasoning, say */
    CU_ASSERT_EQUAL(ask_used_total(&u, &exact), 40);
    used(&u, USED_TOTAL, "null", KARS_JSON_NULL);
    used(&u, USED_TOTAL, "-5", KARS_JSON_NUMBER);
    CU_ASSERT_EQUAL(ask_used_total(&u, &exact), 40);
}

void
suite_budget_ask(void)
{
    T_SUITE(budget_ask);
    T_TEST(budget_ask, test_budget_reads_only_plain_integers);
    T_TEST(budget_ask, test_budget_reads_numbers_cut_anywhere);
    T_TEST(budget_ask, test_budget_takes_null_as_absent);
    T_TEST(budget_ask, test_budget_refuses_no_answers_and_wrong_booleans);
    T_TEST(budget_ask, test_budget_takes_the_largest_cap_of_all_aliases);
    T_TEST(budget_ask, test_budget_bounds_what_only_an_alias_caps);
    T_TEST(budget_ask, test_budget_reserves_for_every_answer);
    T_TEST(budget_ask, test_budget_charges_the_last_and_larger_usage);
}
