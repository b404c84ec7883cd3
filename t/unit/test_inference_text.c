/* test_inference_text.c - modules/inference/text.c */
#include "t.h"
#include "inference/text.h"

/* clang-format off */
static const struct { const char *in; int json; } types[] = {
    { "application/json", 1 },   { "Application/JSON", 1 },
    { "application/json; charset=utf-8", 1 }, { " application/json ;x", 1 },
    { "", 0 },                   { "text/plain", 0 },
    { "application/jsonp", 0 },  { "application/json, text/plain", 0 },
    { "text/plain; application/json", 0 },
};

static const struct { const char *name; int plain; int events; } headers[] = {
    { "content-type", 1, 1 },       { "Content-Type", 1, 1 },
    { "retry-after", 1, 1 },        { "X-RateLimit-Remaining-Tokens", 1, 1 },
    { "x-ratelimit", 0, 0 },        { "x-kars-decision", 1, 1 },
    { "cache-control", 0, 1 },      { "set-cookie", 0, 0 },
    { "server", 0, 0 },             { "location", 0, 0 },
    { "www-authenticate", 0, 0 },   { "x-request-id", 1, 1 },
    { "content-typex", 0, 0 },      { "", 0, 0 },
};

static const struct { const char *in; int identity; } encodings[] = {
    { "", 1 }, { "identity", 1 }, { " Identity ", 1 }, { "gzip", 0 },
    { "identity, gzip", 0 }, { "x", 0 },
};

static const struct {
    const char *base, *path, *own, *query, *want; /* "": refused */
} paths[] = {
    { "/v1", "/v1/chat/completions", "/c", "", "/v1/chat/completions" },
    { "/openai/v1/", "/v1/models", "/models", "a=b", "/openai/v1/models?a=b" },
    { "/", "/v1/models", "/models", "", "/models" },
    { "", "/v1/models", "/models", "", "/models" },
    { "/v1", "/other/chat", "/chat/completions", "",
      "/v1/chat/completions" },
    { "/v1", "/v1", "/models", "", "/v1/models" },
    { "/v1", "/v1/models/a b?c#%", "/models", "",
      "/v1/models/a%20b%3Fc%23%25" },
    { "/v1", "/v1/models/org/x:8b@1", "/models", "",
      "/v1/models/org/x:8b@1" },
    { "/v1", "/v1/models/\r\nx", "/models", "", "/v1/models/%0D%0Ax" },
    { "/v1", "/v1/models/../admin", "/models", "", "" },
    { "/v1", "/v1/./models", "/models", "", "" },
    { "/v1", "/v1/models/..", "/models", "", "" },
    { "/v1", "/v1/models/...", "/models", "", "/v1/models/..." },
};

static const struct { const char *in; int ok; } bases[] = {
    { "", 1 }, { "/", 1 }, { "/v1", 1 }, { "/openai/deployments/x-1/", 1 },
    { "v1", 0 }, { "/v1?x", 0 }, { "/v1#", 0 }, { "/a b", 0 },
    { "/../v1", 0 }, { "/v1%2e", 0 }, { "http://x/v1", 0 },
};

static const struct { const char *in; const char *want; } quotes[] = {
    { "gpt-4.1", "\"gpt-4.1\"" }, { "", "\"\"" }, { "a\"b\\c", "\"a\\\"b\\\\c\"" },
    { "\n\x1f", "\"\\u000a\\u001f\"" }, { "\xc3\xa9", "\"\xc3\xa9\"" },
};

static const struct { const char *a, *b; int rc; int64_t n; } digits[] = {
    { "12", "34", KARS_OK, 1234 }, { "0", "", KARS_OK, 0 },
    { "9223372036854775807", "", KARS_OK, INT64_MAX },
    { "9223372036854775807", "0", KARS_ERROR, INT64_MAX },
    { "-1", "", KARS_ERROR, 0 }, { "1", ".5", KARS_ERROR, 1 },
    { "1", "e9", KARS_ERROR, 1 },
};
/* clang-format on */

static void
test_inference_takes_only_json(void)
{
    for (size_t i = 0; i < KARS_NELTS(types); i++) {
        T_CASE(types[i].in);
        CU_ASSERT_EQUAL(
            inference_is_type(t_str(types[i].in), KARS_STR("application/json")),
            types[i].json);
    }
}

static void
test_inference_passes_only_known_headers(void)
{
    for (size_t i = 0; i < KARS_NELTS(headers); i++) {
        kars_str_t name = t_str(headers[i].name);

        T_CASE(headers[i].name);
        CU_ASSERT_EQUAL(inference_header_passes(name, 0), headers[i].plain);
        CU_ASSERT_EQUAL(inference_header_passes(name, 1), headers[i].events);
    }
}

static void
test_inference_knows_a_compressed_reply(void)
{
    for (size_t i = 0; i < KARS_NELTS(encodings); i++) {
        T_CASE(encodings[i].in);
        CU_ASSERT_EQUAL(inference_is_identity(t_str(encodings[i].in)),
                        encodings[i].identity);
    }
}

static void
test_inference_model_names_have_limits(void)
{
    char name[INFERENCE_MAX_MODEL + 1];

    memset(name, 'm', sizeof(name));
    CU_ASSERT_PTR_NULL(
        inference_model_fault((kars_str_t){ name, INFERENCE_MAX_MODEL }));
    CU_ASSERT_PTR_NOT_NULL(
        inference_model_fault((kars_str_t){ name, sizeof(name) }));
    CU_ASSERT_PTR_NOT_NULL(inference_model_fault(t_str("")));
    CU_ASSERT_PTR_NOT_NULL(inference_model_fault(t_str("a\nb")));
    CU_ASSERT_PTR_NOT_NULL(inference_model_fault(KARS_STR("a\0b")));
    CU_ASSERT_PTR_NOT_NULL(inference_model_fault(t_str("\x7f")));
    CU_ASSERT_PTR_NULL(inference_model_fault(t_str("org/mod\xc3\xa8le:8b")));
}

static void
test_inference_lists_match_exactly(void)
{
    kars_str_t v[2] = { KARS_STR("gpt-4.1"), KARS_STR("phi") };
    kars_list_t list = { v, 2 };
    kars_list_t none = { NULL, 0 };

    CU_ASSERT_TRUE(inference_listed(&list, KARS_STR("phi")));
    CU_ASSERT_FALSE(inference_listed(&list, KARS_STR("gpt-4")));
    CU_ASSERT_FALSE(inference_listed(&list, KARS_STR("gpt-4.1-mini")));
    CU_ASSERT_FALSE(inference_listed(&list, KARS_STR("PHI")));
    CU_ASSERT_FALSE(inference_listed(&list, KARS_STR("*")));
    CU_ASSERT_FALSE(inference_listed(&list, KARS_STR("")));
    CU_ASSERT_FALSE(inference_listed(&none, KARS_STR("phi")));
}

static void
test_inference_builds_the_upstream_path(void)
{
    char buf[256];

    for (size_t i = 0; i < KARS_NELTS(paths); i++) {
        size_t n = inference_path(t_str(paths[i].base), t_str(paths[i].path),
                                  t_str(paths[i].own), t_str(paths[i].query),
                                  buf, sizeof(buf));

        T_CASE(paths[i].path);
        CU_ASSERT_TRUE(
            kars_str_eq((kars_str_t){ buf, n }, t_str(paths[i].want)));
    }
}

static void
test_inference_path_needs_room_to_the_byte(void)
{
    kars_str_t want = KARS_STR("/v1/models/a%20b?q=1");
    char buf[64];

    for (size_t cap = 0; cap <= want.len; cap++) {
        memset(buf, '!', sizeof(buf));
        size_t n = inference_path(KARS_STR("/v1"), KARS_STR("/v1/models/a b"),
                                  KARS_STR(""), KARS_STR("q=1"), buf, cap);

        CU_ASSERT_EQUAL(n, cap == want.len ? want.len : 0);
        CU_ASSERT_EQUAL(buf[cap], '!');
    }
}

static void
test_inference_base_is_a_plain_path(void)
{
    for (size_t i = 0; i < KARS_NELTS(bases); i++) {
        T_CASE(bases[i].in);
        CU_ASSERT_EQUAL(inference_base_ok(t_str(bases[i].in)), bases[i].ok);
    }
}

static void
test_inference_quotes_what_json_asks_for(void)
{
    char buf[64];

    for (size_t i = 0; i < KARS_NELTS(quotes); i++) {
        kars_str_t in = t_str(quotes[i].in);
        size_t n = inference_quote(in, buf, 6 * in.len + 2);

        T_CASE(quotes[i].want);
        CU_ASSERT_TRUE(
            kars_str_eq((kars_str_t){ buf, n }, t_str(quotes[i].want)));
    }
    CU_ASSERT_EQUAL(inference_quote(KARS_STR("abc"), buf, 4), 0);
}

static void
test_inference_counts_tokens_in_fragments(void)
{
    for (size_t i = 0; i < KARS_NELTS(digits); i++) {
        int64_t n = 0;
        int rc = inference_digits(t_str(digits[i].a), &n);

        T_CASE(digits[i].a);
        if (rc == KARS_OK) {
            rc = inference_digits(t_str(digits[i].b), &n);
        }
        CU_ASSERT_EQUAL(rc, digits[i].rc);
        CU_ASSERT_EQUAL(n, digits[i].n);
    }
}

void
suite_inference_text(void)
{
    T_SUITE(inference_text);
    T_TEST(inference_text, test_inference_takes_only_json);
    T_TEST(inference_text, test_inference_passes_only_known_headers);
    T_TEST(inference_text, test_inference_knows_a_compressed_reply);
    T_TEST(inference_text, test_inference_model_names_have_limits);
    T_TEST(inference_text, test_inference_lists_match_exactly);
    T_TEST(inference_text, test_inference_builds_the_upstream_path);
    T_TEST(inference_text, test_inference_path_needs_room_to_the_byte);
    T_TEST(inference_text, test_inference_base_is_a_plain_path);
    T_TEST(inference_text, test_inference_quotes_what_json_asks_for);
    T_TEST(inference_text, test_inference_counts_tokens_in_fragments);
}
