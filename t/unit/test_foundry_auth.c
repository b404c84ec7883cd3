/*
 * test_foundry_auth.c - modules/foundry-auth/foundry_auth.c, its hooks called
 * as the router would, over a request of a few arrays.
 */
#undef KARS_CORE /* a module, not the core */
#define KARS_BUILTIN
#include "foundry-auth/foundry_auth.c"

#include "t.h"

#include <stdio.h>
#include <strings.h>

static struct {
    kars_header_t fields[16];
    kars_str_t secret;
    kars_hostport_t serves;
    const char *host;
    int64_t port;
    kars_denial_t denial;
    uint32_t ndenials;
    size_t used, cap;
    char pool[1024];
} fake;

static fauth_conf_t conf;

static void *
fake_palloc(kars_pool_t *pool, size_t size)
{
    if (size > fake.cap - fake.used) {
        return NULL;
    }
    fake.used += size;
    return fake.pool + fake.used - size;
}

static kars_pool_t *
fake_req_pool(kars_req_t *r)
{
    return NULL;
}

static kars_str_t
fake_secret(const kars_secret_t *secret)
{
    return fake.secret;
}

static kars_str_t
fake_var(kars_req_t *r, kars_str_t name)
{
    return t_str(fake.host);
}

static int64_t
fake_number(kars_req_t *r, kars_str_t name)
{
    return fake.port;
}

static int
fake_header_set(kars_req_t *r, uint32_t dir, kars_str_t name, kars_str_t value)
{
    for (size_t i = 0; i < KARS_NELTS(fake.fields); i++) {
        if (fake.fields[i].name.len == 0) {
            fake.fields[i] = (kars_header_t){ name, value };
            return KARS_OK;
        }
    }
    return KARS_ERROR;
}

static int
fake_header_each(kars_req_t *r, uint32_t dir,
                 int (*fn)(kars_str_t name, kars_str_t value, void *data),
                 void *data)
{
    for (size_t i = 0; i < KARS_NELTS(fake.fields); i++) {
        kars_header_t *h = &fake.fields[i];

        if (h->name.len > 0 && fn(h->name, h->value, data) == KARS_DECLINED) {
            *h = (kars_header_t){ KARS_STR(""), KARS_STR("") };
        }
    }
    return KARS_OK;
}

/* The value of the only field of that name; NULL without one. */
static const char *
fake_sent(const char *name)
{
    static char text[256];
    const char *found = NULL;

    for (size_t i = 0; i < KARS_NELTS(fake.fields); i++) {
        kars_header_t *h = &fake.fields[i];

        if (h->name.len == strlen(name) &&
            strncasecmp(h->name.data, name, h->name.len) == 0) {
            CU_ASSERT_PTR_NULL(found);
            snprintf(text, sizeof(text), "%.*s", KARS_STR_ARG(h->value));
            found = text;
        }
    }
    return found;
}

static int
fake_deny(kars_req_t *r, const kars_denial_t *denial)
{
    fake.denial = *denial;
    fake.ndenials++;
    return KARS_DONE;
}

static void
fake_log(kars_req_t *r, uint32_t level, const char *fmt, ...)
{
}

static int
fake_err(kars_err_t *err, int errnum, const char *fmt, ...)
{
    return KARS_ERROR;
}

static int
fake_serves(const kars_upstream_t *upstream, kars_hostport_t at)
{
    return at.port == fake.serves.port &&
           kars_str_eq(at.host, fake.serves.host);
}

static kars_str_t
fake_upstream_name(const kars_upstream_t *upstream)
{
    return KARS_STR("foundry");
}

static const kars_api_t fake_api = {
    .size = sizeof(fake_api),
    .palloc = fake_palloc,
    .log = fake_log,
    .err = fake_err,
    .secret = fake_secret,
    .upstream_name = fake_upstream_name,
    .upstream_serves = fake_serves,
    .req_pool = fake_req_pool,
    .header_set = fake_header_set,
    .header_each = fake_header_each,
    .req_var = fake_var,
    .req_number = fake_number,
    .deny = fake_deny,
};

static void
fake_begin(const char *hosts, const char *host, int64_t port)
{
    memset(&fake, 0, sizeof(fake));
    fake.cap = sizeof(fake.pool);
    fake.secret = KARS_STR("sk-ours\n");
    fake.host = host;
    fake.port = port;
    kars_api = &fake_api;
    conf = (fauth_conf_t){ .secret = (const kars_secret_t *) &fake,
                           .hosts = t_str(hosts) };
    (void) fake_header_set(NULL, KARS_REQUEST, KARS_STR("Authorization"),
                           KARS_STR("Bearer agent"));
    (void) fake_header_set(NULL, KARS_REQUEST, KARS_STR("X-Api-Key"),
                           KARS_STR("agent"));
    (void) fake_header_set(NULL, KARS_REQUEST, KARS_STR("Accept"),
                           KARS_STR("*/*"));
}

static void
test_foundry_auth_strips_where_no_credential_stands(void)
{
    fake_begin("", "a.example", 443);
    conf.secret = NULL;
    CU_ASSERT_EQUAL(fauth_strip(NULL, &conf, NULL), KARS_OK);
    CU_ASSERT_EQUAL(fauth_upstream(NULL, &conf, NULL), KARS_OK);
    CU_ASSERT_PTR_NULL(fake_sent("authorization"));
    CU_ASSERT_PTR_NULL(fake_sent("x-api-key"));
    CU_ASSERT_PTR_NOT_NULL(fake_sent("accept"));
    CU_ASSERT_NOT_EQUAL(kars_module_foundry_auth.flags & KARS_ALWAYS, 0);
}

static void
test_foundry_auth_sends_the_key_to_its_host(void)
{
    static const char *const names[] = { "authorization", "api-key",
                                         "x-api-key" };

    for (int32_t i = 0; i < 3; i++) {
        fake_begin("a.example:443", "a.example", 443);
        conf.header = i;
        CU_ASSERT_EQUAL(fauth_upstream(NULL, &conf, NULL), KARS_OK);

        for (int32_t k = 0; k < 3; k++) {
            const char *want = i == 0 ? "Bearer sk-ours" : "sk-ours";
            const char *sent = fake_sent(names[k]);

            T_CASE(names[k]);
            CU_ASSERT_EQUAL(sent != NULL, k == i);
            CU_ASSERT_TRUE(sent == NULL || strcmp(sent, want) == 0);
        }
    }
}

static void
test_foundry_auth_keeps_the_key_from_other_hosts(void)
{
    /* clang-format off */
    static const struct { const char *host; int64_t port; } rows[] = {
        { "evil.example", 443 }, { "a.example", 80 }, { "", 443 }, { "", 0 },
    };
    /* clang-format on */

    for (size_t i = 0; i < KARS_NELTS(rows); i++) {
        fake_begin("a.example:443", rows[i].host, rows[i].port);
        CU_ASSERT_EQUAL(fauth_upstream(NULL, &conf, NULL), KARS_DONE);
        CU_ASSERT_EQUAL(fake.denial.status, 502);
        CU_ASSERT_TRUE(kars_str_eq(fake.denial.type, t_str("auth_error")));
        CU_ASSERT_TRUE(
            kars_str_eq(fake.denial.code, t_str("credential_host_mismatch")));
        CU_ASSERT_PTR_NULL(fake_sent("authorization"));
    }
}

static void
test_foundry_auth_takes_the_key_back_on_the_next_attempt(void)
{
    fake_begin("a.example:443", "a.example", 443);
    CU_ASSERT_EQUAL(fauth_upstream(NULL, &conf, NULL), KARS_OK);
    CU_ASSERT_PTR_NOT_NULL(fake_sent("authorization"));
    CU_ASSERT_EQUAL(fauth_upstream(NULL, &conf, NULL), KARS_OK);
    CU_ASSERT_PTR_NOT_NULL(fake_sent("authorization")); /* once, not twice */
    fake.host = "b.example";
    CU_ASSERT_EQUAL(fauth_upstream(NULL, &conf, NULL), KARS_DONE);
    CU_ASSERT_PTR_NULL(fake_sent("authorization"));
}

static void
test_foundry_auth_refuses_a_key_that_went_bad(void)
{
    fake_begin("a.example:443", "a.example", 443);
    fake.secret = KARS_STR("sk\r\nx-injected: 1");
    CU_ASSERT_EQUAL(fauth_upstream(NULL, &conf, NULL), KARS_DONE);
    CU_ASSERT_EQUAL(fake.denial.status, 502);
    CU_ASSERT_PTR_NULL(fake_sent("authorization"));

    fake_begin("a.example:443", "a.example", 443);
    fake.cap = 0;
    CU_ASSERT_EQUAL(fauth_upstream(NULL, &conf, NULL), KARS_ERROR);
    CU_ASSERT_PTR_NULL(fake_sent("authorization"));
}

static void
test_foundry_auth_check_wants_a_key_and_a_served_host(void)
{
    /* clang-format off */
    static const struct { kars_str_t key; const char *hosts; int pass, rc; }
    rows[] = {
        { KARS_STR("k"), "a.example:443", 1, KARS_OK },
        { KARS_STR("k\n"), "b.example:1,a.example:443", 1, KARS_OK },
        { KARS_STR("k"), "b.example:1", 0, KARS_OK },
        { KARS_STR("k"), "b.example:1", 1, KARS_ERROR },
        { KARS_STR("k"), "a.example:444", 1, KARS_ERROR },
        { KARS_STR("k"), "", 1, KARS_ERROR },
        { KARS_STR("k"), "a.example", 1, KARS_ERROR },
        { KARS_STR("k"), "a.example:443,", 1, KARS_ERROR },
        { KARS_STR(""), "a.example:443", 1, KARS_ERROR },
        { KARS_STR("\n"), "a.example:443", 1, KARS_ERROR },
        { KARS_STR("a\nb"), "a.example:443", 1, KARS_ERROR },
        { KARS_STR("a\0b"), "a.example:443", 1, KARS_ERROR },
    };
    /* clang-format on */

    for (size_t i = 0; i < KARS_NELTS(rows); i++) {
        kars_place_t place = { .size = sizeof(place), .at = KARS_AT_ROUTE };

        fake_begin(rows[i].hosts, "", 0);
        fake.secret = rows[i].key;
        fake.serves = (kars_hostport_t){ KARS_STR("a.example"), 443 };
        place.route_upstream = rows[i].pass ? (kars_upstream_t *) &fake : NULL;
        T_CASE(rows[i].hosts);
        CU_ASSERT_EQUAL(fauth_check(&place, &conf, NULL), rows[i].rc);
    }
}

void
suite_foundry_auth(void)
{
    T_SUITE(foundry_auth);
    T_TEST(foundry_auth, test_foundry_auth_strips_where_no_credential_stands);
    T_TEST(foundry_auth, test_foundry_auth_sends_the_key_to_its_host);
    T_TEST(foundry_auth, test_foundry_auth_keeps_the_key_from_other_hosts);
    T_TEST(foundry_auth,
           test_foundry_auth_takes_the_key_back_on_the_next_attempt);
    T_TEST(foundry_auth, test_foundry_auth_refuses_a_key_that_went_bad);
    T_TEST(foundry_auth, test_foundry_auth_check_wants_a_key_and_a_served_host);
}
