/*
 * mesh.h - workers of one router talk to each other: messages over UNIX sockets
 * of the abstract namespace, which need no folder and end with their process.
 *
 * A worker's socket has a random name, which stands in the zone, where only
 * workers can read it. Whoever connects must run as the same user (SO_PEERCRED,
 * looked at on both sides) and show a secret of the zone first; anybody else is
 * hung up on.
 */
#ifndef KARS_NET_MESH_H
#define KARS_NET_MESH_H

#include "base/shm.h"
#include "event/reactor.h"

#define KARS__MESH_MESSAGE (128u * 1024u + 512u) /* bytes of one message */
#define KARS__MESH_QUEUE   (4u * 1024u * 1024u)  /* bytes that wait in a link */
#define KARS__MESH_LINKS   128u                  /* of others to us */

typedef struct kars__mesh_s kars__mesh_t;
typedef struct kars__link_s kars__link_t;

typedef struct {
    /* bytes are gone when it returns. */
    void (*message)(kars__link_t *l, kars_str_t bytes, void *data);
    /* The link ended and must not be used any more. */
    void (*gone)(kars__link_t *l, void *data);
} kars__mesh_handler_t;

/* Both run from the loop. NULL and *err: no memory, no room in the zone. */
kars__mesh_t *kars__mesh_create(kars__loop_t *loop, kars_zone_t *zone,
                                uint64_t worker,
                                const kars__mesh_handler_t *handler, void *data,
                                kars_err_t *err);
/* Ends all links, without a word to the handler. NULL is harmless. */
void kars__mesh_destroy(kars__mesh_t *m);

/* From now on other workers can reach this one; again is harmless. */
int kars__mesh_listen(kars__mesh_t *m, kars_err_t *err);

/* The link to that worker, made if there is none. NULL: it cannot be reached.
 */
kars__link_t *kars__mesh_link(kars__mesh_t *m, uint64_t worker);

/* Sends head and body as one message. OK: sent, or queued; ERROR: too large,
 * the queue is full, or the link is ending. */
int kars__link_send(kars__link_t *l, kars_str_t head, kars_str_t body);

#endif
