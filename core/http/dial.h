/*
 * dial.h - a connection of one's own to an upstream, for bytes that are no
 * requests of the HTTP client: tunnels, streams, WebSockets. A server is
 * picked and connected to as upconn.h says, other servers
 * after it where `retry` allows; all within `timeout connect=` for each server,
 * the handshake of TLS included where the upstream has it.
 */
#ifndef KARS_HTTP_DIAL_H
#define KARS_HTTP_DIAL_H

#include "http/upstream.h"
#include "net/sock.h"

typedef struct kars__dial_s kars__dial_t;

typedef struct {
    /* Once, from the loop: 0 when it stands, else ECONNREFUSED, ENOENT (name),
     * ETIMEDOUT, ENOMEM, ... kars__dial_close() is still the owner's to call.
     */
    void (*done)(kars__dial_t *d, int error, void *data);
    void (*ready)(kars__dial_t *d, uint32_t events, void *data); /* after it */
} kars__dial_handler_t;

/* NULL: no memory. */
kars__dial_t *kars__dial(kars_cycle_t *cycle, kars_upstream_t *upstream,
                         const kars__dial_handler_t *handler, void *data);
kars__sock_t *kars__dial_sock(kars__dial_t *d); /* when it stands */
const kars__upserver_t *kars__dial_server(const kars__dial_t *d);
uint32_t kars__dial_attempts(const kars__dial_t *d);

/* From anywhere, also from its own functions; none of them runs after it. */
void kars__dial_close(kars__dial_t *d);

#endif
