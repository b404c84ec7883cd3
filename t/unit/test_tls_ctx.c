/* test_tls_ctx.c - core/net/tls_ctx.c */
#include "base/pool.h"
#include "cert.h"
#include "t.h"

#include <openssl/x509v3.h>

/* clang-format off */
static const struct { const char *names, *name; int is_for; } fors[] = {
    { "DNS:a.example", "a.example", 1 },
    { "DNS:a.example", "A.Example", 1 },
    { "DNS:a.example", "b.example", 0 },
    { "DNS:a.example", "a.example.", 0 },
    { "DNS:a.example", "", 0 },
    { "DNS:*.example.org", "a.example.org", 1 },
    { "DNS:*.example.org", "a.b.example.org", 0 },
    { "DNS:*.example.org", "example.org", 0 },
    { "DNS:a*.example.org", "ab.example.org", 0 }, /* not a whole label */
    { "DNS:x.example,DNS:a.example", "a.example", 1 },
    { "IP:127.0.0.1", "127.0.0.1", 0 },            /* an address is no name */
    { "URI:https://cn.example/", "cn.example", 0 },
    { NULL, "cn.example", 0 },                     /* the common name */
    { "DNS:a.example", "cn.example", 0 },
};
/* clang-format on */

static void
test_tls_names_are_alternative_names(void)
{
    for (size_t i = 0; i < KARS_NELTS(fors); i++) {
        t_cert_t *c = t_cert("cn.example", fors[i].names, 1);

        T_CASE(fors[i].name);
        CU_ASSERT_EQUAL(kars__tls_is_for(c->x509, t_str(fors[i].name)),
                        fors[i].is_for);
        t_cert_free(c);
    }
}

static void
test_tls_facts_of_a_certificate(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    t_cert_t *c = t_cert("a, b",
                         "DNS:a.example,URI:spiffe://x/gw,IP:127.0.0.1,"
                         "email:me@x.example",
                         1);
    kars__tls_facts_t f = { 0 };

    CU_ASSERT_EQUAL_FATAL(kars__tls_facts(c->x509, pool, &f), KARS_OK);
    CU_ASSERT_TRUE(kars_str_eq(f.subject, KARS_STR("CN=a\\, b")));
    CU_ASSERT_EQUAL(f.sha256.len, 32);
    CU_ASSERT_EQUAL_FATAL(f.names.n, 2);
    CU_ASSERT_TRUE(kars_str_eq(f.names.v[0], KARS_STR("a.example")));
    CU_ASSERT_TRUE(kars_str_eq(f.names.v[1], KARS_STR("spiffe://x/gw")));
    kars__pool_destroy(pool);
    t_cert_free(c);
}

/* Names of a certificate that could read as others are not told at all. */
static void
test_tls_facts_refuse_a_nul(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    t_cert_t *c = t_cert("cn", "DNS:a.example", 1);
    kars__tls_facts_t f = { 0 };
    GENERAL_NAMES *sans =
        X509_get_ext_d2i(c->x509, NID_subject_alt_name, NULL, NULL);
    GENERAL_NAME *name = sk_GENERAL_NAME_value(sans, 0);
    int at = X509_get_ext_by_NID(c->x509, NID_subject_alt_name, -1);

    (void) ASN1_STRING_set(name->d.dNSName, "a.example\0.evil", 15);
    X509_EXTENSION_free(X509_delete_ext(c->x509, at));
    CU_ASSERT_EQUAL(
        X509_add1_ext_i2d(c->x509, NID_subject_alt_name, sans, 0, 0), 1);
    CU_ASSERT_EQUAL(kars__tls_facts(c->x509, pool, &f), KARS_ERROR);
    CU_ASSERT_EQUAL(f.names.n, 0);
    GENERAL_NAMES_free(sans);
    kars__pool_destroy(pool);
    t_cert_free(c);
}

static void
test_tls_facts_without_memory(void)
{
    t_cert_t *c = t_cert("cn", "DNS:a.example,DNS:b.example", 1);

    for (size_t cap = 0; cap < 4096; cap += 16) {
        kars_pool_t *pool = kars__pool_create(cap + 1);
        kars__tls_facts_t f = { 0 };
        int rc = kars__tls_facts(c->x509, pool, &f);

        CU_ASSERT_EQUAL(f.names.n, rc == KARS_OK ? 2 : 0);
        CU_ASSERT_TRUE(cap < 4080 || rc == KARS_OK);
        kars__pool_destroy(pool);
    }
    t_cert_free(c);
}

static void
test_tls_certificate_wants_its_key(void)
{
    t_cert_t *a = t_cert("a", NULL, 1), *b = t_cert("b", NULL, 1);
    kars__tls_pair_t mixed = { a->pem.chain, b->pem.key };
    kars__tls_pair_t half = { a->pem.chain, { a->pem.key.data, 40 } };
    kars__tls_pair_t none = { KARS_STR(""), a->pem.key };
    SSL_CTX *ctx =
        kars__tls_ctx(KARS__TLS_SERVER, TLS1_2_VERSION, TLS1_3_VERSION, NULL);
    kars_err_t err = KARS_ERR_INIT;

    CU_ASSERT_FATAL(ctx != NULL);
    CU_ASSERT_EQUAL(kars__tls_use(ctx, &a->pem, &err), KARS_OK);
    CU_ASSERT_EQUAL(kars__tls_use(ctx, &mixed, &err), KARS_ERROR);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "the key for this certificate"));
    CU_ASSERT_EQUAL(kars__tls_use(ctx, &half, &err), KARS_ERROR);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "the key: "));
    CU_ASSERT_EQUAL(kars__tls_use(ctx, &none, &err), KARS_ERROR);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "the certificate: "));
    SSL_CTX_free(ctx);
    t_cert_free(a);
    t_cert_free(b);
}

static void
test_tls_store_takes_all_or_nothing(void)
{
    t_cert_t *a = t_cert("a", NULL, 1), *b = t_cert("b", NULL, 1);
    size_t n = a->pem.chain.len + b->pem.chain.len;
    char *both = malloc(n);
    kars_err_t err = KARS_ERR_INIT;

    CU_ASSERT_FATAL(both != NULL);
    memcpy(both, a->pem.chain.data, a->pem.chain.len);
    memcpy(both + a->pem.chain.len, b->pem.chain.data, b->pem.chain.len);

    X509_STORE *store = kars__tls_store((kars_str_t){ both, n }, &err);

    CU_ASSERT_FATAL(store != NULL);
    CU_ASSERT_EQUAL(sk_X509_OBJECT_num(X509_STORE_get0_objects(store)), 2);
    X509_STORE_free(store);
    CU_ASSERT_PTR_NULL(kars__tls_store((kars_str_t){ both, n - 40 }, &err));
    CU_ASSERT_PTR_NULL(kars__tls_store(KARS_STR(""), &err));
    CU_ASSERT_PTR_NULL(kars__tls_store(a->pem.key, &err));
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "no certificate in it"));
    free(both);
    t_cert_free(a);
    t_cert_free(b);
}

void
suite_tls_ctx(void)
{
    T_SUITE(tls_ctx);
    T_TEST(tls_ctx, test_tls_names_are_alternative_names);
    T_TEST(tls_ctx, test_tls_facts_of_a_certificate);
    T_TEST(tls_ctx, test_tls_facts_refuse_a_nul);
    T_TEST(tls_ctx, test_tls_facts_without_memory);
    T_TEST(tls_ctx, test_tls_certificate_wants_its_key);
    T_TEST(tls_ctx, test_tls_store_takes_all_or_nothing);
}
