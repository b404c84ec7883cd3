/* test_str.c - string helpers. */
#include "base/str.h"
#include "t.h"

/* clang-format off */
static const struct { const char *a; const char *b; int eq; int starts; } cases[] = {
    { "", "", 1, 1 },        { "Host", "hOST", 1, 1 }, { "a", "", 0, 1 },
    { "", "a", 0, 0 },       { "abc", "AB", 0, 1 },    { "ab", "ABC", 0, 0 },
    { "[", "{", 0, 0 },      { "@", "`", 0, 0 },       { "\xc3\x89", "\xc3\xa9", 0, 0 },
};

static const struct { const char *list; const char *token; int has; } tokens[] = {
    { "gzip, chunked", "chunked", 1 }, { "gzip,\tCHUNKED ", "chunked", 1 },
    { "gzip", "zip", 0 },              { "", "a", 0 },
    { "a b", "a", 0 },                 { ",,a", "a", 1 },
    { "a,", "a", 1 },                  { "chunkedx", "chunked", 0 },
};

static const struct { const char *word; const char *nearest; } nears[] = {
    { "wrokers", "workers" }, { "workers", "workers" }, { "worker", "workers" },
    { "lisen", "listen" },    { "zzzzzz", NULL },       { "", NULL },
};
/* clang-format on */

static void
test_str_compares_without_ascii_case(void)
{
    for (size_t i = 0; i < KARS_NELTS(cases); i++) {
        T_CASE(cases[i].a);
        CU_ASSERT_EQUAL(kars__str_ieq(t_str(cases[i].a), t_str(cases[i].b)),
                        cases[i].eq);
        CU_ASSERT_EQUAL(kars__str_istarts(t_str(cases[i].a), t_str(cases[i].b)),
                        cases[i].starts);
    }
}

static void
test_str_finds_tokens_of_a_list(void)
{
    for (size_t i = 0; i < KARS_NELTS(tokens); i++) {
        T_CASE(tokens[i].list);
        CU_ASSERT_EQUAL(
            kars__str_has_token(t_str(tokens[i].list), t_str(tokens[i].token)),
            tokens[i].has);
    }
}

static void
test_str_trims_blanks_only_at_the_ends(void)
{
    CU_ASSERT(kars_str_eq(kars__str_trim(t_str(" \t a b\t ")), t_str("a b")));
    CU_ASSERT_EQUAL(kars__str_trim(t_str(" \t ")).len, 0);
    CU_ASSERT_EQUAL(kars__str_trim(t_str("")).len, 0);
    CU_ASSERT_EQUAL(kars__str_trim(t_str("\n")).len, 1);
    CU_ASSERT_EQUAL(kars__strz(NULL).len, 0);
    CU_ASSERT_EQUAL(kars__strz("abc").len, 3);
}

static void
test_str_writes_decimal_and_hex(void)
{
    char text[33] = { 0 };

    CU_ASSERT_EQUAL(kars__u64_to_dec(0, text), 1);
    CU_ASSERT_EQUAL(text[0], '0');
    CU_ASSERT_EQUAL(kars__u64_to_dec(UINT64_MAX, text), 20);
    CU_ASSERT_EQUAL(memcmp(text, "18446744073709551615", 20), 0);
    kars__to_hex((const unsigned char *) "\x00\x9f\xff", 3, text);
    CU_ASSERT_EQUAL(memcmp(text, "009fff", 6), 0);
}

static void
test_str_knows_the_nearest_name(void)
{
    static const char *const names[] = { "listen", "workers", "log" };
    char big[100];

    for (size_t i = 0; i < KARS_NELTS(nears); i++) {
        const char *near = kars__nearest(t_str(nears[i].word), names, 3);

        T_CASE(nears[i].word);
        CU_ASSERT(near == NULL ? nears[i].nearest == NULL
                               : nears[i].nearest != NULL &&
                                     strcmp(near, nears[i].nearest) == 0);
    }

    memset(big, 'w', sizeof(big));
    (void) kars__nearest((kars_str_t){ big, sizeof(big) }, names, 3);
    CU_ASSERT_PTR_NULL(kars__nearest(t_str("log"), names, 0));
}

void
suite_str(void)
{
    T_SUITE(str);
    T_TEST(str, test_str_compares_without_ascii_case);
    T_TEST(str, test_str_finds_tokens_of_a_list);
    T_TEST(str, test_str_trims_blanks_only_at_the_ends);
    T_TEST(str, test_str_writes_decimal_and_hex);
    T_TEST(str, test_str_knows_the_nearest_name);
}
