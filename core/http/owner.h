/*
 * owner.h - keys that one worker owns, and how the others reach it.
 *
 * Leases stand in a shared map (base/map.h): key, worker, end. A worker that
 * died owns nothing any more, whatever its leases say; one that drains keeps
 * its own. Each module has names of its own.
 */
#ifndef KARS_HTTP_OWNER_H
#define KARS_HTTP_OWNER_H

#include "http/runtime.h"

#define KARS__OWNER_KEY     128u           /* bytes of a key */
#define KARS__OWNER_MESSAGE (128u * 1024u) /* of a message or a reply */

/* As in kars_module.h. */
int kars__owner_claim(kars_cycle_t *c, kars_str_t key, uint32_t lease_ms);
void kars__owner_release(kars_cycle_t *c, kars_str_t key);
int kars__owner_send(kars_cycle_t *c, kars_str_t key, kars_str_t message);
int kars__owner_receive(kars_cycle_t *c,
                        int (*fn)(kars_cycle_t *cycle, kars_str_t key,
                                  kars_str_t message, void *data),
                        void *data);
int kars__owner_call(kars_cycle_t *c, kars_str_t key, kars_str_t message,
                     uint32_t timeout_ms,
                     void (*fn)(kars_cycle_t *cycle, int error,
                                kars_str_t reply, void *data),
                     void *data);
int kars__owner_serve(kars_cycle_t *c,
                      int (*fn)(kars_cycle_t *cycle, kars_str_t key,
                                kars_str_t message, kars_token_t call,
                                void *data),
                      void *data);
int kars__owner_reply(kars_cycle_t *c, kars_token_t call, kars_str_t reply);

/* The worker ends: what is still asked ends with ECONNRESET, while modules are
 * there to hear it; then the memory. */
void kars__owners_stop(kars_cycle_t *c);
void kars__owners_destroy(kars_cycle_t *c);

#endif
