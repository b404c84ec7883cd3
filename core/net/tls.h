/*
 * tls.h - TLS as a second set of operations over the same kars__sock_t.
 *
 * Whoever reads and writes does not know: the handshake runs inside recv and
 * sendv, which say EAGAIN until it is done; what TLS itself waits for becomes
 * the events of the descriptor. Renegotiation is off, key updates are
 * answered. An end without close_notify is ECONNRESET, not an end of file
 * (RFC 8446 6.1).
 */
#ifndef KARS_NET_TLS_H
#define KARS_NET_TLS_H

#include "net/sock.h"

#include <openssl/ssl.h>

enum { KARS__TLS_CLIENT = 0, KARS__TLS_SERVER = 1 };

/* Names in the form of ALPN: each after its length (RFC 7301 3.1). */
#define KARS__TLS_ALPN_HTTP1 KARS_STR("\x08http/1.1")
#define KARS__TLS_ALPN_HTTP2 KARS_STR("\x02h2\x08http/1.1")

/* A certificate and its key, as PEM. */
typedef struct {
    kars_str_t chain; /* the leaf first */
    kars_str_t key;
} kars__tls_pair_t;

/* What of a certificate is told: in pool, or empty. */
typedef struct {
    kars_str_t subject; /* RFC 2253 */
    kars_str_t sha256;  /* 32 bytes */
    kars_list_t names;  /* DNS and URI alternative names; others are left out */
} kars__tls_facts_t;

/*
 * Puts TLS over an open sock. The sock owns ssl from here on, also when this
 * fails (KARS_ERROR: no memory, the sock stays plain). For servers: `name` is
 * that of the listener, for log lines, and `alpn` what may be chosen from; both
 * are borrowed as long as the sock.
 */
int kars__tls_over(kars__sock_t *s, SSL *ssl, uint32_t role, kars_str_t name,
                   kars_str_t alpn);

/* What servers may choose from, of a connection's SSL. */
kars_str_t kars__tls_offer(const SSL *ssl);

/* Unix time in ms by the loop of this SSL's sock; 0 before it has one. */
uint64_t kars__tls_wall(const SSL *ssl);

/* Contexts. */

/* What both sides have in common; versions are TLS1_2_VERSION and
 * TLS1_3_VERSION. NULL and *err on failure. */
SSL_CTX *kars__tls_ctx(uint32_t role, int min, int max, kars_err_t *err);

/* The certificate, its chain and the key that belongs to it. */
int kars__tls_use(SSL_CTX *ctx, const kars__tls_pair_t *pair, kars_err_t *err);

/* A store of every certificate of a PEM text, at least one. The caller's. */
X509_STORE *kars__tls_store(kars_str_t pem, kars_err_t *err);

/* KARS_ERROR: no memory, or a name with a NUL in it. */
int kars__tls_facts(X509 *cert, kars_pool_t *pool, kars__tls_facts_t *ret);

/* Is this certificate for this name? Alternative names only, the common name
 * never; a `*` stands for one whole label. */
int kars__tls_is_for(X509 *cert, kars_str_t name);

/* Why a certificate was refused, in words for an operator. code: X509_V_ERR_*.
 * Static. */
const char *kars__tls_refusal(long code);

/* kars__err() with the reason that OpenSSL gave; empties its queue. */
int kars__tls_err(kars_err_t *err, const char *what);

#endif
