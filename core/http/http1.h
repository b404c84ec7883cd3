/*
 * http1.h - HTTP/1.1 towards clients: connections, keep-alive, framing.
 */
#ifndef KARS_HTTP_HTTP1_H
#define KARS_HTTP_HTTP1_H

#include "http/request.h"
#include "net/sock.h"

/* Starts accepting on a listener whose fd listens. */
void kars__http1_listen(kars_listener_t *l);
void kars__http1_unlisten(kars_listener_t *l);

/* A connection over any transport (tests). The peer may be NULL. */
kars_conn_t *kars__http1_open(kars_listener_t *l, kars__loop_t *loop);
kars__sock_t *kars__http1_sock(kars_conn_t *c);
void kars__http1_begin(kars_conn_t *c); /* after its sock was set */

/* Idle connections answer their next request with `Connection: close`; drained
 * runs when the last one is gone. Those that wait for nothing are closed when
 * force is not 0. */
void kars__http1_drain(kars_cycle_t *cycle, int force);

int kars__conn_peer(kars_conn_t *c, kars_peer_t *ret);
void *kars__conn_ctx(kars_conn_t *c, const kars__mod_t *mod);
kars_cycle_t *kars__conn_cycle(kars_conn_t *c);

#endif
