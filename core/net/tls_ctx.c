/* tls_ctx.c - what TLS contexts of both sides are made of. */
#include "base/pool.h"
#include "base/str.h"
#include "net/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

/* Forward secrecy and authenticated encryption only (RFC 9325 4.2); TLS 1.3's
 * own are all of that kind. */
#define TLS_CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20"
#define TLS_NAMES   64 /* alternative names of one certificate; more is none */

int
kars__tls_err(kars_err_t *err, const char *what)
{
    unsigned long code = ERR_peek_error();
    const char *why = ERR_reason_error_string(code);

    ERR_clear_error();
    return kars__err(err, 0, "%s: %s", what,
                     why != NULL ? why : "OpenSSL does not say why");
}

SSL_CTX *
kars__tls_ctx(uint32_t role, int min, int max, kars_err_t *err)
{
    SSL_CTX *ctx = SSL_CTX_new(role == KARS__TLS_SERVER ? TLS_server_method()
                                                        : TLS_client_method());

    if (ctx == NULL || SSL_CTX_set_min_proto_version(ctx, min) != 1 ||
        SSL_CTX_set_max_proto_version(ctx, max) != 1 ||
        SSL_CTX_set_cipher_list(ctx, TLS_CIPHERS) != 1) {
        (void) kars__tls_err(err, "a TLS context");
        SSL_CTX_free(ctx);
        return NULL;
    }
    SSL_CTX_set_security_level(ctx, 2);
    (void) SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION |
                                        SSL_OP_NO_COMPRESSION |
                                        SSL_OP_CIPHER_SERVER_PREFERENCE);
    (void) SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS |
                                     SSL_MODE_ENABLE_PARTIAL_WRITE |
                                     SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(ctx, 1);
    return ctx;
}

static BIO *
tls_bio(kars_str_t pem)
{
    return pem.len < INT32_MAX ? BIO_new_mem_buf(pem.data, (int) pem.len)
                               : NULL;
}

/* A key file that is encrypted is refused: nobody is there to be asked. */
static int
tls_no_password(char *buf, int size, int rwflag, void *data)
{
    return 0;
}

/* The certificates after the first: what the peer may lack. */
static int
tls_use_rest(SSL_CTX *ctx, BIO *bio, kars_err_t *err)
{
    X509 *cert;

    (void) SSL_CTX_clear_chain_certs(ctx);
    while ((cert = PEM_read_bio_X509(bio, NULL, tls_no_password, NULL)) !=
           NULL) {
        if (SSL_CTX_add0_chain_cert(ctx, cert) != 1) {
            X509_free(cert);
            return kars__tls_err(err, "its chain");
        }
    }
    if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
        return kars__tls_err(err, "its chain");
    }
    ERR_clear_error();
    return KARS_OK;
}

static int
tls_use_chain(SSL_CTX *ctx, kars_str_t chain, kars_err_t *err)
{
    BIO *bio = tls_bio(chain);
    X509 *leaf = bio != NULL
                     ? PEM_read_bio_X509_AUX(bio, NULL, tls_no_password, NULL)
                     : NULL;
    int rc = KARS_ERROR;

    if (leaf == NULL || SSL_CTX_use_certificate(ctx, leaf) != 1) {
        (void) kars__tls_err(err, "the certificate");
    } else {
        rc = tls_use_rest(ctx, bio, err);
    }
    X509_free(leaf);
    BIO_free(bio);
    return rc;
}

int
kars__tls_use(SSL_CTX *ctx, const kars__tls_pair_t *pair, kars_err_t *err)
{
    BIO *bio;
    EVP_PKEY *key;
    int rc = KARS_OK;

    ERR_clear_error();
    if (tls_use_chain(ctx, pair->chain, err) != KARS_OK) {
        return KARS_ERROR;
    }
    bio = tls_bio(pair->key);
    key = bio != NULL
              ? PEM_read_bio_PrivateKey(bio, NULL, tls_no_password, NULL)
              : NULL;
    if (key == NULL) {
        rc = kars__tls_err(err, "the key");
    } else if (SSL_CTX_use_PrivateKey(ctx, key) != 1 ||
               SSL_CTX_check_private_key(ctx) != 1) {
        rc = kars__tls_err(err, "the key for this certificate");
    }
    EVP_PKEY_free(key);
    BIO_free(bio);
    return rc;
}

X509_STORE *
kars__tls_store(kars_str_t pem, kars_err_t *err)
{
    BIO *bio = tls_bio(pem);
    X509_STORE *store = X509_STORE_new();
    X509 *cert;
    size_t n = 0;
    int ok = bio != NULL && store != NULL;

    ERR_clear_error();
    while (ok && (cert = PEM_read_bio_X509_AUX(bio, NULL, tls_no_password,
                                               NULL)) != NULL) {
        ok = X509_STORE_add_cert(store, cert) == 1;
        X509_free(cert);
        n++;
    }
    ok = ok && ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    if (!ok || n == 0) {
        (void) kars__tls_err(err, n == 0 ? "no certificate in it"
                                         : "its certificates");
        X509_STORE_free(store);
        store = NULL;
    }
    ERR_clear_error();
    BIO_free(bio);
    return store;
}

static kars_str_t
tls_subject(X509 *cert, kars_pool_t *pool)
{
    BIO *bio = BIO_new(BIO_s_mem());
    kars_str_t text = { NULL, 0 };
    char *p = NULL;
    long n = 0;

    if (bio != NULL &&
        X509_NAME_print_ex(bio, X509_get_subject_name(cert), 0,
                           XN_FLAG_RFC2253 &
                               ~(unsigned long) ASN1_STRFLGS_ESC_MSB) >= 0) {
        n = BIO_get_mem_data(bio, &p);
        text = kars__pdup(pool, (kars_str_t){ p, n > 0 ? (size_t) n : 0 });
    }
    BIO_free(bio);
    return text;
}

/* The names that say who somebody is. One with a NUL in it could read as
 * another: then none of them count. */
static int
tls_names(const GENERAL_NAMES *sans, kars_pool_t *pool, kars_list_t *ret)
{
    kars_str_t *v = kars__pnewn(pool, kars_str_t, TLS_NAMES);
    size_t n = 0;

    for (int i = 0; i < sk_GENERAL_NAME_num(sans); i++) {
        int type;
        const ASN1_STRING *s =
            GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(sans, i), &type);

        if (type != GEN_DNS && type != GEN_URI) {
            continue;
        }

        kars_str_t name = { (const char *) ASN1_STRING_get0_data(s),
                            (size_t) ASN1_STRING_length(s) };

        if (v == NULL || n == TLS_NAMES || name.len == 0 ||
            memchr(name.data, '\0', name.len) != NULL) {
            return KARS_ERROR;
        }
        v[n] = kars__pdup(pool, name);
        if (v[n++].data == NULL) {
            return KARS_ERROR;
        }
    }
    ret->v = v;
    ret->n = n;
    return KARS_OK;
}

int
kars__tls_facts(X509 *cert, kars_pool_t *pool, kars__tls_facts_t *ret)
{
    kars__tls_facts_t f = { 0 };
    unsigned char *digest = kars__palloc(pool, EVP_MAX_MD_SIZE);
    unsigned int n = 0;
    GENERAL_NAMES *sans;
    int rc = KARS_OK;

    f.subject = tls_subject(cert, pool);
    if (f.subject.data == NULL || digest == NULL ||
        X509_digest(cert, EVP_sha256(), digest, &n) != 1) {
        return KARS_ERROR;
    }
    f.sha256 = (kars_str_t){ (const char *) digest, n };
    sans = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    if (sans != NULL) {
        rc = tls_names(sans, pool, &f.names);
        GENERAL_NAMES_free(sans);
    }
    if (rc == KARS_OK) {
        *ret = f;
    }
    return rc;
}

int
kars__tls_is_for(X509 *cert, kars_str_t name)
{
    return name.len != 0 &&
           X509_check_host(cert, name.data, name.len,
                           X509_CHECK_FLAG_NEVER_CHECK_SUBJECT |
                               X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS,
                           NULL) == 1;
}

const char *
kars__tls_refusal(long code)
{
    switch (code) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        return "its certificate has expired";
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return "its certificate is not valid yet";
    case X509_V_ERR_HOSTNAME_MISMATCH:
        return "its certificate is for another name";
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        return "its certificate is for another address";
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
        return "its certificate is of an authority that we do not know";
    case X509_V_ERR_INVALID_PURPOSE:
        return "its certificate is for another purpose";
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        return "its certificate has a wrong signature";
    case X509_V_ERR_EE_KEY_TOO_SMALL:
    case X509_V_ERR_CA_KEY_TOO_SMALL:
    case X509_V_ERR_CA_MD_TOO_WEAK:
        return "its certificate is too weak";
    default:
        return "its certificate is not accepted";
    }
}
