/* test_identity_caller.c - modules/identity/caller.c */
#include "t.h"

#include "identity/access.h"
#include "identity/caller.h"

/* clang-format off */
static const struct { const char *in; int rc; uint32_t uid; } uids[] = {
    { "0", KARS_OK, 0 },            { "1000", KARS_OK, 1000 },
    { "4294967294", KARS_OK, 4294967294u },
    { "4294967295", KARS_ERROR, 7 }, { "4294967296", KARS_ERROR, 7 },
    { "99999999999", KARS_ERROR, 7 }, { "", KARS_ERROR, 7 },
    { "-1", KARS_ERROR, 7 },        { "+1", KARS_ERROR, 7 },
    { "1x", KARS_ERROR, 7 },        { " 1", KARS_ERROR, 7 },
    { "root", KARS_ERROR, 7 },
};

static const struct { const char *in, *want; } bearers[] = {
    { "Bearer abc", "abc" },   { "bearer abc", "abc" },
    { "BEARER  abc ", "abc" }, { "Bearer", "" }, { "Bearer ", "" },
    { "Bearerabc", "" },       { "Basic abc", "" }, { "", "" },
    { "Bearer a b", "a b" },   { "Bearer   ", "" },
};

static const struct { const char *token, *secret; int same; } pairs[] = {
    { "s3cret", "s3cret", 1 }, { "s3cret", "s3creT", 0 },
    { "s3cre", "s3cret", 0 },  { "s3cret", "s3cre", 0 },
    { "", "s3cret", 0 },       { "", "", 0 }, { "x", "", 0 },
};
/* clang-format on */

static void
test_identity_reads_user_ids(void)
{
    for (size_t i = 0; i < KARS_NELTS(uids); i++) {
        uint32_t uid = 7;

        T_CASE(uids[i].in);
        CU_ASSERT_EQUAL(caller_parse_uid(t_str(uids[i].in), &uid), uids[i].rc);
        CU_ASSERT_EQUAL(uid, uids[i].uid);
    }
}

static void
test_identity_finds_the_class_of_a_user(void)
{
    caller_uid_t op = { NULL, 0, ACCESS_OPERATOR };
    caller_uid_t agent = { &op, 1000, ACCESS_AGENT };

    CU_ASSERT_EQUAL(caller_class_of_uid(&agent, 1000), ACCESS_AGENT);
    CU_ASSERT_EQUAL(caller_class_of_uid(&agent, 0), ACCESS_OPERATOR);
    CU_ASSERT_EQUAL(caller_class_of_uid(&agent, 1001), 0);
    CU_ASSERT_EQUAL(caller_class_of_uid(NULL, 0), 0);
}

static void
test_identity_finds_the_class_of_a_certificate(void)
{
    caller_name_t last = { NULL, KARS_STR("gw.example"), ACCESS_PEER };
    caller_name_t uri = { &last, KARS_STR("spiffe://x/Gw"), ACCESS_PEER };
    caller_name_t list = { &uri, KARS_STR("GW.example"), ACCESS_OPERATOR };
    kars_str_t names[] = { KARS_STR("other.example"), KARS_STR("Gw.Example") };
    kars_str_t low[] = { KARS_STR("spiffe://x/gw") };
    kars_str_t same[] = { KARS_STR("spiffe://x/Gw") };

#define CLASS(v, n) caller_class_of_names(&list, (kars_list_t){ v, n })
    CU_ASSERT_EQUAL(CLASS(names, 2), ACCESS_PEER); /* the line written first */
    CU_ASSERT_EQUAL(CLASS(names, 1), 0);
    CU_ASSERT_EQUAL(CLASS(same, 1), ACCESS_PEER);
    CU_ASSERT_EQUAL(CLASS(low, 1), 0); /* paths of URIs have case */
    CU_ASSERT_EQUAL(CLASS(NULL, 0), 0);
#undef CLASS
    CU_ASSERT_EQUAL(caller_class_of_names(NULL, (kars_list_t){ names, 2 }), 0);
}

static void
test_identity_takes_the_token_from_the_header(void)
{
    for (size_t i = 0; i < KARS_NELTS(bearers); i++) {
        T_CASE(bearers[i].in);
        CU_ASSERT_TRUE(kars_str_eq(caller_bearer(t_str(bearers[i].in)),
                                   t_str(bearers[i].want)));
    }
}

static void
test_identity_accepts_only_the_same_token(void)
{
    for (size_t i = 0; i < KARS_NELTS(pairs); i++) {
        T_CASE(pairs[i].token);
        CU_ASSERT_EQUAL(
            caller_same_token(t_str(pairs[i].token), t_str(pairs[i].secret)),
            pairs[i].same);
    }
}

void
suite_identity_caller(void)
{
    T_SUITE(identity_caller);
    T_TEST(identity_caller, test_identity_reads_user_ids);
    T_TEST(identity_caller, test_identity_finds_the_class_of_a_user);
    T_TEST(identity_caller, test_identity_finds_the_class_of_a_certificate);
    T_TEST(identity_caller, test_identity_takes_the_token_from_the_header);
    T_TEST(identity_caller, test_identity_accepts_only_the_same_token);
}
