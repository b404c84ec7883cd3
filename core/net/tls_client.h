/*
 * tls_client.h - TLS towards upstreams: always verified, against alternative
 * names only. One kars__tls_client_t an upstream; connections that stand keep
 * the context that they began with when it is loaded again.
 */
#ifndef KARS_NET_TLS_CLIENT_H
#define KARS_NET_TLS_CLIENT_H

#include "net/tls.h"

typedef struct kars__tls_client_s kars__tls_client_t;

#define KARS__TLS_KEY 32

typedef struct {
    X509_STORE *store;      /* of authorities; counted, not taken over */
    kars_str_t ca;          /* a digest of the text that it was made of */
    kars__tls_pair_t pair;  /* chain empty: no client certificate */
    kars_str_t server_name; /* for all servers; empty: each its own host */
    kars_str_t alpn;        /* to offer; ALPN's form */
} kars__tls_client_conf_t;

/* The last session of one server, to go on with. Zeroed: none. */
typedef struct {
    SSL_SESSION *session;
    uint8_t key[KARS__TLS_KEY]; /* kars__tls_client_key() when it began */
} kars__tls_slot_t;

/* Owned by the pool; unusable before it was loaded. NULL: no memory. */
kars__tls_client_t *kars__tls_client_create(kars_pool_t *pool);

/* Replaces everything, or on KARS_ERROR nothing. server_name must live as long
 * as the pool; the rest is copied. */
int kars__tls_client_load(kars__tls_client_t *c,
                          const kars__tls_client_conf_t *conf, kars_err_t *err);

/* Digest over all that makes connections unlike: authorities, client
 * certificate, name, protocols. Kept ones are reused only where it is equal. */
const uint8_t *kars__tls_client_key(const kars__tls_client_t *c);

/*
 * Puts TLS over a sock that is being connected. host: of the server, a name or
 * an address as text; it is what the certificate must be for, and sent as SNI
 * when it is a name, unless the configuration says another. The slot must
 * outlive the sock. KARS_ERROR: no memory.
 */
int kars__tls_connect(kars__tls_client_t *c, kars__sock_t *s, kars_str_t host,
                      kars__tls_slot_t *slot);

void kars__tls_slot_done(kars__tls_slot_t *slot);

#endif
