/*
 * tls_server.h - TLS towards clients: one or more certificates, chosen by the
 * name that a client asks for, tickets that every worker knows, and client
 * certificates where they are wanted. Connections that stand keep the context
 * that they began with when it is loaded again.
 */
#ifndef KARS_NET_TLS_SERVER_H
#define KARS_NET_TLS_SERVER_H

#include "net/tls.h"
#include "net/tls_ticket.h"

typedef struct kars__tls_server_s kars__tls_server_t;

#define KARS__TLS_CERTS 16 /* of one server */

/* Whether clients show a certificate. One that is shown must always be good. */
enum {
    KARS__TLS_VERIFY_OFF = 0,
    KARS__TLS_VERIFY_OPTIONAL,
    KARS__TLS_VERIFY_REQUIRE
};

typedef struct {
    const kars__tls_pair_t *pairs; /* the first is for unknown names */
    size_t npairs;
    X509_STORE *store; /* of clients' authorities; counted; NULL: none */
    kars_str_t ca;     /* a digest of the text that it was made of */
    uint32_t verify;   /* KARS__TLS_VERIFY_* */
    int min;           /* TLS1_2_VERSION, TLS1_3_VERSION */
    int max;
    uint64_t session_ms; /* how long a session may be gone on with */
} kars__tls_server_conf_t;

/* Owned by the pool; unusable before it was loaded. NULL and *err on failure.
 */
kars__tls_server_t *kars__tls_server_create(kars_pool_t *pool,
                                            kars_zone_t *zone, kars_err_t *err);

/* Replaces everything, or on KARS_ERROR nothing. */
int kars__tls_server_load(kars__tls_server_t *v,
                          const kars__tls_server_conf_t *conf, kars_err_t *err);

/* Puts TLS over an accepted sock. name: of the listener, for log lines; alpn:
 * what may be chosen from, best first. Both live as long as the sock.
 * KARS_ERROR: no memory, the sock is still open. */
int kars__tls_accept(kars__tls_server_t *v, kars__sock_t *s, kars_str_t name,
                     kars_str_t alpn);

#endif
