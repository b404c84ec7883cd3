/*
 * exchange.h - modules' calls: a request to an upstream whose reply is taken
 * as it comes. It needs a cycle and no request; kars_call() and filter_call()
 * gather the same thing (call.c).
 */
#ifndef KARS_HTTP_EXCHANGE_H
#define KARS_HTTP_EXCHANGE_H

#include "http/client.h"
#include "http/sse.h"

/* As kars_api_s says: copies *call and *handler. NULL: what is asked cannot be
 * written as a request, or no memory. */
kars_exchange_t *kars__exchange(kars_cycle_t *cycle, const kars_call_t *call,
                                const kars_exchange_handler_t *handler,
                                void *data);
void kars__exchange_pause(kars_exchange_t *x, int on);
/* Its done() runs before this returns, with ECANCELED. */
void kars__exchange_cancel(kars_exchange_t *x);
/* The reply's head, as far as it came; lives until done() returns. */
const kars__head_t *kars__exchange_head(const kars_exchange_t *x);
/* Cancels all of the cycle; meanwhile no other can begin. */
void kars__exchange_cancel_all(kars_cycle_t *cycle);

/* call_out.c: copies *call, its strings into pool; ERROR: a method, a path or
 * a header that must not be sent, or no memory. */
int kars__call_copy(kars_pool_t *pool, kars_call_t *ret,
                    const kars_call_t *call);
/* The bytes of a copied call for a server, body included: views of `body`
 * (then counted: it may be sent again) or of call->bytes, and of the secret
 * itself, of which no copy is made. NULL: no memory. */
kars_buf_t *kars__call_out(kars_pool_t *pool, kars__bufs_t *bufs,
                           const kars_call_t *call, const kars_buf_t *body,
                           const kars__upserver_t *server);

#endif
