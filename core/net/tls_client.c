/* tls_client.c - contexts and connections of clients. */
#include "net/tls_client.h"
#include "base/pool.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

#define TLS_NAME 254 /* of a server, with its end */

struct kars__tls_client_s {
    SSL_CTX *ctx; /* NULL: not loaded */
    kars_str_t server_name;
    uint8_t key[KARS__TLS_KEY];
};

/* Where an SSL keeps its server's slot. */
static int client_index = -1;

static void
client_release(void *data)
{
    SSL_CTX_free(((kars__tls_client_t *) data)->ctx);
}

kars__tls_client_t *
kars__tls_client_create(kars_pool_t *pool)
{
    if (client_index == -1) {
        client_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    }
    return client_index != -1
               ? kars__pown(pool, sizeof(kars__tls_client_t), client_release)
               : NULL;
}

/* A session to go on with: the newest, since tickets are for one use. */
static int
client_new_session(SSL *ssl, SSL_SESSION *session)
{
    kars__tls_slot_t *slot = SSL_get_ex_data(ssl, client_index);
    const SSL_CTX *ctx = SSL_get_SSL_CTX(ssl);
    const kars__tls_client_t *c = SSL_CTX_get_app_data(ctx);

    if (slot == NULL || c->ctx != ctx || !SSL_SESSION_is_resumable(session)) {
        return 0; /* of authorities or a key that count no more */
    }
    SSL_SESSION_free(slot->session);
    slot->session = session;
    memcpy(slot->key, c->key, KARS__TLS_KEY);
    return 1; /* ours now */
}

static int
client_key(const kars__tls_client_conf_t *conf, uint8_t ret[KARS__TLS_KEY])
{
    const kars_str_t parts[] = { conf->ca, conf->pair.chain, conf->server_name,
                                 conf->alpn };
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    int ok = md != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1;

    for (size_t i = 0; ok && i < KARS_NELTS(parts); i++) {
        uint64_t n = parts[i].len;

        ok = EVP_DigestUpdate(md, &n, sizeof(n)) == 1 &&
             EVP_DigestUpdate(md, parts[i].data, parts[i].len) == 1;
    }
    ok = ok && EVP_DigestFinal_ex(md, ret, NULL) == 1;
    EVP_MD_CTX_free(md);
    return ok ? KARS_OK : KARS_ERROR;
}

static SSL_CTX *
client_ctx(kars__tls_client_t *c, const kars__tls_client_conf_t *conf,
           kars_err_t *err)
{
    SSL_CTX *ctx =
        kars__tls_ctx(KARS__TLS_CLIENT, TLS1_2_VERSION, TLS1_3_VERSION, err);

    if (ctx == NULL) {
        return NULL;
    }
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set1_cert_store(ctx, conf->store);
    SSL_CTX_set_app_data(ctx, c);
    (void) SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT |
                                                   SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(ctx, client_new_session);
    if (SSL_CTX_set_alpn_protos(ctx, (const unsigned char *) conf->alpn.data,
                                (unsigned int) conf->alpn.len) != 0) {
        (void) kars__err(err, ENOMEM, "a TLS context");
        SSL_CTX_free(ctx);
        return NULL;
    }
    if (conf->pair.chain.len != 0 &&
        kars__tls_use(ctx, &conf->pair, err) != KARS_OK) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    return ctx;
}

int
kars__tls_client_load(kars__tls_client_t *c,
                      const kars__tls_client_conf_t *conf, kars_err_t *err)
{
    uint8_t key[KARS__TLS_KEY];
    SSL_CTX *ctx = client_ctx(c, conf, err);

    if (ctx == NULL) {
        return KARS_ERROR;
    }
    if (client_key(conf, key) != KARS_OK) {
        SSL_CTX_free(ctx);
        return kars__err(err, ENOMEM, "a TLS context");
    }
    SSL_CTX_free(c->ctx);
    c->ctx = ctx;
    c->server_name = conf->server_name; /* of the configuration: it stays */
    memcpy(c->key, key, sizeof(key));
    return KARS_OK;
}

const uint8_t *
kars__tls_client_key(const kars__tls_client_t *c)
{
    return c->key;
}

/* What the other side must prove to be. */
static int
client_expect(SSL *ssl, kars_str_t host)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    kars__addr_t addr;
    char name[TLS_NAME];

    if (host.len == 0 || host.len >= sizeof(name)) {
        return KARS_ERROR;
    }
    memcpy(name, host.data, host.len);
    name[host.len] = '\0';
    if (kars__addr_literal(host, 1, &addr) == KARS_OK) {
        return X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1 ? KARS_OK
                                                               : KARS_ERROR;
    }
    X509_VERIFY_PARAM_set_hostflags(param,
                                    X509_CHECK_FLAG_NEVER_CHECK_SUBJECT |
                                        X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return X509_VERIFY_PARAM_set1_host(param, name, host.len) == 1 &&
                   SSL_set_tlsext_host_name(ssl, name) == 1
               ? KARS_OK
               : KARS_ERROR;
}

/* A session whose certificate is over is not gone on with. */
static void
client_resume(const kars__tls_client_t *c, SSL *ssl, kars__tls_slot_t *slot)
{
    const X509 *cert;

    if (slot->session == NULL) {
        return;
    }
    cert = SSL_SESSION_get0_peer(slot->session);
    if (memcmp(slot->key, c->key, KARS__TLS_KEY) != 0 || cert == NULL ||
        X509_cmp_current_time(X509_get0_notAfter(cert)) <= 0 ||
        SSL_set_session(ssl, slot->session) != 1) {
        kars__tls_slot_done(slot);
    }
}

int
kars__tls_connect(kars__tls_client_t *c, kars__sock_t *s, kars_str_t host,
                  kars__tls_slot_t *slot)
{
    SSL *ssl = SSL_new(c->ctx);

    ERR_clear_error();
    if (ssl == NULL || SSL_set_ex_data(ssl, client_index, slot) != 1 ||
        client_expect(ssl, c->server_name.len != 0 ? c->server_name : host) !=
            KARS_OK) {
        SSL_free(ssl);
        return KARS_ERROR;
    }
    client_resume(c, ssl, slot);
    return kars__tls_over(s, ssl, KARS__TLS_CLIENT, (kars_str_t){ NULL, 0 },
                          (kars_str_t){ NULL, 0 });
}

void
kars__tls_slot_done(kars__tls_slot_t *slot)
{
    SSL_SESSION_free(slot->session);
    memset(slot, 0, sizeof(*slot));
}
