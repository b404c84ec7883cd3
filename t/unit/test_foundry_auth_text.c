/* test_foundry_auth_text.c - modules/foundry-auth/text.c */
#include "t.h"
#include "foundry-auth/text.h"

/* clang-format off */
static const struct { const char *name; int credential; } names[] = {
    { "authorization", 1 },            { "Authorization", 1 },
    { "proxy-authorization", 1 },      { "x-forwarded-authorization", 1 },
    { "api-key", 1 },                  { "x-api-key", 1 },
    { "X_API_KEY", 1 },                { "x-goog-api-key", 1 },
    { "openai-api-key-id", 1 },        { "apikey", 1 },
    { "cookie", 1 },                   { "Cookie2", 1 },
    { "x-kars-admin", 1 },             { "x-functions-key", 1 },
    { "ocp-apim-subscription-key", 1 }, { "x-auth-token", 1 },
    { "x-amz-security-token", 1 },     { "X-Client-Secret", 1 },
    { "editor-version", 1 },           { "copilot-integration-id", 1 },
    { "editor-plugin-version", 1 },    { "token", 1 },
    { "content-type", 0 },             { "accept", 0 },
    { "user-agent", 0 },               { "x-kars-trace-id", 0 },
    { "openai-organization", 0 },      { "x-stainless-retry-count", 0 },
    { "anthropic-version", 0 },        { "cookies", 0 },
    { "x-kars-admins", 0 },            { "host", 0 },
    { "key", 0 },                      { "", 0 },
};

static const struct { const char *list, *host; int64_t port; int yes; } bound[] = {
    { "a.example:443", "a.example", 443, 1 },
    { "a.example:443", "A.Example", 443, 1 },
    { "a.example:443", "a.example", 444, 0 },
    { "a.example:443", "b.example", 443, 0 },
    { "a.example:443", "a.example.evil", 443, 0 },
    { "a.example:443", "xa.example", 443, 0 },
    { "a.example:443", "", 443, 0 },
    { "a:1,b:2", "b", 2, 1 },
    { "a:1,b:2", "a", 2, 0 },
    { "[::1]:80", "::1", 80, 1 },
    { "127.0.0.1:80", "127.0.0.1", 80, 1 },
    { "", "a", 1, 0 },
    { "a:1", "a", 1 + (INT64_C(1) << 32), 0 },
};

static const struct { const char *list; int rc; size_t n; } lists[] = {
    { "", KARS_DECLINED, 0 },        { "a:1", KARS_DECLINED, 1 },
    { "a:1,b:65535", KARS_DECLINED, 2 }, { "a:1,", KARS_ERROR, 0 },
    { ",a:1", KARS_ERROR, 0 },       { "a:1,,b:2", KARS_ERROR, 1 },
    { "a", KARS_ERROR, 0 },          { "a:", KARS_ERROR, 0 },
    { ":1", KARS_ERROR, 0 },         { "a:0", KARS_ERROR, 0 },
    { "a:65536", KARS_ERROR, 0 },    { "a:1x", KARS_ERROR, 0 },
    { "a:-1", KARS_ERROR, 0 },       { "a:100000", KARS_ERROR, 0 },
    { "::1:80", KARS_ERROR, 0 },     { "[::1]:80", KARS_DECLINED, 1 },
    { "[]:80", KARS_ERROR, 0 },      { "a b:80", KARS_ERROR, 0 },
    { "http://a:80", KARS_ERROR, 0 }, { "*:80", KARS_ERROR, 0 },
};

static const struct { kars_str_t in; const char *key; int ok; } keys[] = {
    { KARS_STR("sk-1"), "sk-1", 1 },       { KARS_STR("sk-1\n"), "sk-1", 1 },
    { KARS_STR("sk-1\r\n"), "sk-1", 1 },   { KARS_STR("sk 1"), "sk 1", 1 },
    { KARS_STR(""), "", 0 },               { KARS_STR("\n"), "", 0 },
    { KARS_STR("\r\n"), "", 0 },           { KARS_STR("a\n\n"), "a\n", 0 },
    { KARS_STR("a\nb"), "a\nb", 0 },       { KARS_STR("a\rb\n"), "a\rb", 0 },
    { KARS_STR("a\tb"), "a\tb", 0 },
};
/* clang-format on */

static void
test_foundry_auth_knows_credentials_by_name(void)
{
    char longer[300];

    for (size_t i = 0; i < KARS_NELTS(names); i++) {
        T_CASE(names[i].name);
        CU_ASSERT_EQUAL(fauth_is_credential(t_str(names[i].name)),
                        names[i].credential);
    }

    memset(longer, 'a', sizeof(longer));
    CU_ASSERT_TRUE(fauth_is_credential((kars_str_t){ longer, 257 }));
    CU_ASSERT_FALSE(fauth_is_credential((kars_str_t){ longer, 256 }));
}

static void
test_foundry_auth_binds_a_key_to_its_hosts(void)
{
    for (size_t i = 0; i < KARS_NELTS(bound); i++) {
        T_CASE(bound[i].host);
        CU_ASSERT_EQUAL(fauth_bound(t_str(bound[i].list), t_str(bound[i].host),
                                    bound[i].port),
                        bound[i].yes);
    }
}

static void
test_foundry_auth_host_lists_are_whole_or_refused(void)
{
    for (size_t i = 0; i < KARS_NELTS(lists); i++) {
        kars_str_t rest = t_str(lists[i].list);
        kars_hostport_t at;
        size_t n = 0;
        int rc = fauth_next_host(&rest, &at);

        T_CASE(lists[i].list);
        for (; rc == KARS_OK; rc = fauth_next_host(&rest, &at)) {
            n++;
        }
        CU_ASSERT_EQUAL(rc, lists[i].rc);
        CU_ASSERT_EQUAL(n, lists[i].n);
    }
}

static void
test_foundry_auth_cuts_one_line_end_and_refuses_others(void)
{
    for (size_t i = 0; i < KARS_NELTS(keys); i++) {
        kars_str_t key = fauth_key(keys[i].in);

        T_CASE(keys[i].key);
        CU_ASSERT_TRUE(kars_str_eq(key, t_str(keys[i].key)));
        CU_ASSERT_EQUAL(fauth_key_fault(key) == NULL, keys[i].ok);
    }
    CU_ASSERT_PTR_NOT_NULL(fauth_key_fault(KARS_STR("a\0b")));
}

void
suite_foundry_auth_text(void)
{
    T_SUITE(foundry_auth_text);
    T_TEST(foundry_auth_text, test_foundry_auth_knows_credentials_by_name);
    T_TEST(foundry_auth_text, test_foundry_auth_binds_a_key_to_its_hosts);
    T_TEST(foundry_auth_text,
           test_foundry_auth_host_lists_are_whole_or_refused);
    T_TEST(foundry_auth_text,
           test_foundry_auth_cuts_one_line_end_and_refuses_others);
}
