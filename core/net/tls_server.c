/* tls_server.c - contexts and connections of servers. */
#include "net/tls_server.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/str.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/x509.h>

struct kars__tls_server_s {
    SSL_CTX *ctx[KARS__TLS_CERTS]; /* one a certificate */
    size_t n;                      /* 0: not loaded */
    kars__tickets_t *tickets;
    uint64_t session_ms;
};

static void
server_free(SSL_CTX **ctx, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        SSL_CTX_free(ctx[i]);
    }
}

static void
server_release(void *data)
{
    kars__tls_server_t *v = data;

    server_free(v->ctx, v->n);
}

kars__tls_server_t *
kars__tls_server_create(kars_pool_t *pool, kars_zone_t *zone, kars_err_t *err)
{
    kars__tls_server_t *v = kars__pown(pool, sizeof(*v), server_release);

    if (v == NULL) {
        (void) kars__err(err, ENOMEM, "TLS of a server");
        return NULL;
    }
    v->tickets = kars__tickets_create(pool, zone, err);
    return v->tickets != NULL ? v : NULL;
}

static kars__tls_server_t *
server_of(const SSL *ssl)
{
    return SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
}

/* What OpenSSL asks while a handshake runs. */

/* The certificate for the name that is asked for; the first for any other. */
static int
server_name(SSL *ssl, int *alert, void *data)
{
    kars__tls_server_t *v = server_of(ssl);
    kars_str_t name =
        kars__strz(SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name));

    if (name.len == 0) {
        return SSL_TLSEXT_ERR_NOACK;
    }
    for (size_t i = 0; i < v->n; i++) {
        if (kars__tls_is_for(SSL_CTX_get0_certificate(v->ctx[i]), name)) {
            return SSL_set_SSL_CTX(ssl, v->ctx[i]) != NULL
                       ? SSL_TLSEXT_ERR_OK
                       : SSL_TLSEXT_ERR_ALERT_FATAL;
        }
    }
    return SSL_TLSEXT_ERR_OK;
}

/* RFC 7301 3.2: who asks for protocols, none of which we speak, is refused. */
static int
server_alpn(SSL *ssl, const unsigned char **out, unsigned char *n,
            const unsigned char *in, unsigned int in_n, void *data)
{
    kars_str_t ours = kars__tls_offer(ssl);
    unsigned char *chosen = NULL;

    if (SSL_select_next_proto(&chosen, n, (const unsigned char *) ours.data,
                              (unsigned int) ours.len, in,
                              in_n) != OPENSSL_NPN_NEGOTIATED) {
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static int
server_cipher(kars__ticket_key_t *key, const unsigned char *iv,
              EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int enc)
{
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key->hmac,
                                          sizeof(key->hmac)),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, "SHA256", 0),
        OSSL_PARAM_construct_end(),
    };

    return EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, key->aes, iv,
                             enc) == 1 &&
           EVP_MAC_CTX_set_params(mac, params) == 1;
}

/* RFC 5077 4: how tickets are closed and opened. 1: done; 2: done, and a new
 * one is due; 0: none, the handshake is a full one; -1: an error. */
static int
server_ticket(SSL *ssl, unsigned char name[KARS__TICKET_NAME],
              unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
              int enc)
{
    kars__tls_server_t *v = server_of(ssl);
    uint64_t now = kars__tls_wall(ssl);
    kars__ticket_key_t key;
    int rc;

    if (enc) {
        rc = kars__tickets_newest(v->tickets, now, v->session_ms, &key);
        if (rc != KARS_OK || RAND_bytes(iv, 16) != 1) {
            return -1;
        }
        memcpy(name, key.name, sizeof(key.name));
    } else {
        rc = kars__tickets_find(v->tickets, name, now, v->session_ms, &key);
        if (rc == KARS_ERROR) {
            return 0;
        }
    }

    int ok = server_cipher(&key, iv, cipher, mac, enc);

    OPENSSL_cleanse(&key, sizeof(key));
    return !ok ? -1 : rc == KARS_DONE ? 2 : 1;
}

/* Contexts. */

/* The names of the authorities that clients may show certificates of. */
static int
server_ca_names(SSL_CTX *ctx, X509_STORE *store)
{
    STACK_OF(X509_OBJECT) *all = X509_STORE_get0_objects(store);

    for (int i = 0; i < sk_X509_OBJECT_num(all); i++) {
        X509 *cert = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(all, i));

        if (cert != NULL && SSL_CTX_add_client_CA(ctx, cert) != 1) {
            return KARS_ERROR;
        }
    }
    return KARS_OK;
}

/* Sessions are gone on with only where clients are judged alike. */
static int
server_session_id(SSL_CTX *ctx, const kars__tls_server_conf_t *conf)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int n = 0;
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    int ok = md != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
             EVP_DigestUpdate(md, &conf->verify, sizeof(conf->verify)) == 1 &&
             EVP_DigestUpdate(md, conf->ca.data, conf->ca.len) == 1 &&
             EVP_DigestFinal_ex(md, digest, &n) == 1 &&
             SSL_CTX_set_session_id_context(ctx, digest, n) == 1;

    EVP_MD_CTX_free(md);
    return ok ? KARS_OK : KARS_ERROR;
}

static int
server_verify(SSL_CTX *ctx, const kars__tls_server_conf_t *conf)
{
    int how = SSL_VERIFY_PEER;

    if (conf->verify == KARS__TLS_VERIFY_OFF) {
        return KARS_OK;
    }
    if (conf->verify == KARS__TLS_VERIFY_REQUIRE) {
        how |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    }
    SSL_CTX_set_verify(ctx, how, NULL);
    SSL_CTX_set1_cert_store(ctx, conf->store);
    return server_ca_names(ctx, conf->store);
}

static SSL_CTX *
server_ctx(kars__tls_server_t *v, const kars__tls_server_conf_t *conf,
           const kars__tls_pair_t *pair, kars_err_t *err)
{
    SSL_CTX *ctx = kars__tls_ctx(KARS__TLS_SERVER, conf->min, conf->max, err);

    if (ctx == NULL) {
        return NULL;
    }
    if (kars__tls_use(ctx, pair, err) != KARS_OK) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    if (server_session_id(ctx, conf) != KARS_OK ||
        server_verify(ctx, conf) != KARS_OK) {
        (void) kars__tls_err(err, "a TLS context");
        SSL_CTX_free(ctx);
        return NULL;
    }
    SSL_CTX_set_app_data(ctx, v);
    (void) SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    (void) SSL_CTX_set_timeout(ctx, (long) (conf->session_ms / 1000));
    SSL_CTX_set_tlsext_servername_callback(ctx, server_name);
    SSL_CTX_set_alpn_select_cb(ctx, server_alpn, NULL);
    SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, server_ticket);
    return ctx;
}

/* One that is over serves nobody: it does not take the place of another. */
static int
server_check_dates(const kars__tls_server_t *v, SSL_CTX *ctx, kars_err_t *err)
{
    const X509 *cert = SSL_CTX_get0_certificate(ctx);

    if (X509_cmp_current_time(X509_get0_notAfter(cert)) > 0) {
        return KARS_OK;
    }
    if (v->n != 0) {
        return kars__err(err, 0, "the certificate has expired");
    }
    kars__log(KARS_LOG_WARN, "tls: a certificate of ours has expired");
    return KARS_OK;
}

int
kars__tls_server_load(kars__tls_server_t *v,
                      const kars__tls_server_conf_t *conf, kars_err_t *err)
{
    SSL_CTX *ctx[KARS__TLS_CERTS];
    size_t n = 0;

    if (conf->npairs == 0 || conf->npairs > KARS__TLS_CERTS) {
        return kars__err(err, 0, "1 to %u certificates are needed",
                         KARS__TLS_CERTS);
    }
    for (; n < conf->npairs; n++) {
        ctx[n] = server_ctx(v, conf, &conf->pairs[n], err);
        if (ctx[n] == NULL || server_check_dates(v, ctx[n], err) != KARS_OK) {
            server_free(ctx, ctx[n] == NULL ? n : n + 1);
            return KARS_ERROR;
        }
    }
    server_free(v->ctx, v->n);
    memcpy(v->ctx, ctx, n * sizeof(ctx[0]));
    v->n = n;
    v->session_ms = conf->session_ms;
    return KARS_OK;
}

int
kars__tls_accept(kars__tls_server_t *v, kars__sock_t *s, kars_str_t name,
                 kars_str_t alpn)
{
    SSL *ssl;

    ERR_clear_error();
    ssl = SSL_new(v->ctx[0]);
    return ssl != NULL ? kars__tls_over(s, ssl, KARS__TLS_SERVER, name, alpn)
                       : KARS_ERROR;
}
