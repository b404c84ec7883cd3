/*
 * connect.h - the CONNECT hooks of a connection, in load order: those of
 * modules that are always active, or have a directive in or outside the
 * `server` block. Their conf is the server's. Without such hooks nothing is
 * allocated and nothing is asked.
 */
#ifndef KARS_HTTP_CONNECT_H
#define KARS_HTTP_CONNECT_H

#include "http/conn.h"

/* OK: go on; AGAIN: kars__conn_connected() will say; ERROR: close it, it is
 * recorded. */
int kars__connect(kars_conn_t *c);
void kars__connect_done(kars_conn_t *c); /* the connection closes */

/* As kars_api_s says of conn_suspend, conn_deny and conn_grant. */
kars_token_t kars__connect_suspend(kars_conn_t *c, uint32_t timeout_ms,
                                   kars_conn_wake_pt fn);
int kars__connect_deny(kars_conn_t *c, const kars_denial_t *denial);
int kars__connect_grant(kars_conn_t *c, kars_str_t klass, kars_str_t principal);

/* The request begins with what its connection, which was asked about, was
 * granted. */
void kars__connect_inherit(kars_req_t *r);

#endif
