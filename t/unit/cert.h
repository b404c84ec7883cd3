/*
 * cert.h - certificates for tests, made when they are wanted.
 */
#ifndef T_CERT_H
#define T_CERT_H

#include "net/tls.h"

typedef struct {
    X509 *x509;
    EVP_PKEY *key;
    kars__tls_pair_t pem; /* its own issuer */
} t_cert_t;

/* names: as openssl.cnf writes subjectAltName, or NULL; days: from now on that
 * it is good for. */
t_cert_t *t_cert(const char *cn, const char *names, int days);
void t_cert_free(t_cert_t *c);

#endif
