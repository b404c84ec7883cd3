/* cert.c - see cert.h. */
#include "cert.h"
#include "t.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>

static kars_str_t
cert_take(BIO *bio)
{
    char *p = NULL;
    long n = BIO_get_mem_data(bio, &p);
    char *copy = malloc((size_t) n);

    CU_ASSERT_FATAL(copy != NULL);
    memcpy(copy, p, (size_t) n);
    BIO_free(bio);
    return (kars_str_t){ copy, (size_t) n };
}

t_cert_t *
t_cert(const char *cn, const char *names, int days)
{
    t_cert_t *c = calloc(1, sizeof(*c));
    BIO *chain = BIO_new(BIO_s_mem()), *key = BIO_new(BIO_s_mem());

    CU_ASSERT_FATAL(c != NULL && chain != NULL && key != NULL);
    c->key = EVP_EC_gen("P-256");
    c->x509 = X509_new();
    CU_ASSERT_FATAL(c->key != NULL && c->x509 != NULL);
    (void) X509_set_version(c->x509, X509_VERSION_3);
    (void) ASN1_INTEGER_set(X509_get_serialNumber(c->x509), 1);
    (void) X509_gmtime_adj(X509_getm_notBefore(c->x509), -10L * 86400);
    (void) X509_gmtime_adj(X509_getm_notAfter(c->x509), days * 86400L);
    (void) X509_set_pubkey(c->x509, c->key);
    (void) X509_NAME_add_entry_by_txt(X509_get_subject_name(c->x509), "CN",
                                      MBSTRING_ASC, (const unsigned char *) cn,
                                      -1, -1, 0);
    (void) X509_set_issuer_name(c->x509, X509_get_subject_name(c->x509));
    if (names != NULL) {
        X509_EXTENSION *e =
            X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, names);

        CU_ASSERT_FATAL(e != NULL);
        (void) X509_add_ext(c->x509, e, -1);
        X509_EXTENSION_free(e);
    }
    CU_ASSERT_FATAL(X509_sign(c->x509, c->key, EVP_sha256()) > 0);
    (void) PEM_write_bio_X509(chain, c->x509);
    (void) PEM_write_bio_PrivateKey(key, c->key, NULL, NULL, 0, NULL, NULL);
    c->pem.chain = cert_take(chain);
    c->pem.key = cert_take(key);
    return c;
}

void
t_cert_free(t_cert_t *c)
{
    X509_free(c->x509);
    EVP_PKEY_free(c->key);
    free((void *) (uintptr_t) c->pem.chain.data);
    free((void *) (uintptr_t) c->pem.key.data);
    free(c);
}
