/*
 * conn.h - a client's connection: accepted, known by its peer, closed. What is
 * said on it is the business of a protocol, behind a table of operations.
 *
 * It holds no pool and no block while it is idle. All that happens to its
 * requests happens from the loop: functions that a request calls only queue
 * bytes and work, so that nothing is freed under its own feet.
 */
#ifndef KARS_HTTP_CONN_H
#define KARS_HTTP_CONN_H

#include "http/http1.h"
#include "net/sock.h"

/* What a protocol does with its connection. All are called from the loop; any
 * of them but close may end in kars__conn_close(). */
struct kars__conn_ops_s {
    void (*ready)(kars_conn_t *c, uint32_t events); /* KARS__READ | _WRITE */
    void (*timeout)(kars_conn_t *c);                /* its timer */
    void (*flush)(kars_conn_t *c); /* at the turn's end, see kars__conn_flush */
    /* No new request after those that are open. force: 1: nobody else will
     * serve it, close if it is idle; 2: close. */
    void (*drain)(kars_conn_t *c, int force);
    /* Its requests are gone and its memory is free: the connection closes. */
    void (*close)(kars_conn_t *c);
};

struct kars_conn_s {
    kars__sock_t sock; /* first */
    kars_conn_t *prev;
    kars_conn_t *next; /* of the cycle */
    kars_cycle_t *cycle;
    kars_listener_t *listener;
    const kars__conn_ops_t *ops;
    kars__timer_t timer; /* one; what it means follows from the state */
    kars__work_t flush;  /* output, or what to do after it */

    kars__connect_t *connect; /* NULL: nobody asks about it */
    void *user;               /* of operations that took the connection over */
    union {
        kars__http1_t h1;         /* every connection begins so */
        struct kars__http2_s *h2; /* and some go on so */
    };

    uint32_t family;
    uint32_t uid;
    uint32_t pid;
    uint16_t port;
    uint16_t local_port;
    uint16_t orig_port; /* where a redirected one was bound for */
    uint16_t orig_family;
    uint8_t addr[16];
    uint8_t local_addr[16];
    uint8_t orig_addr[16];
    _Alignas(16) char ctx[]; /* of modules */
};

/* Starts accepting on a listener whose fd listens. */
void kars__conn_listen(kars_listener_t *l);
void kars__conn_unlisten(kars_listener_t *l);

/* A connection over any transport: its sock is the caller's to set. NULL: no
 * memory. */
kars_conn_t *kars__conn_open(kars_listener_t *l, kars__loop_t *loop);
kars__sock_t *kars__conn_sock(kars_conn_t *c);
/* After its sock was set: CONNECT, then bytes. It may be closed by then. */
void kars__conn_begin(kars_conn_t *c);
/* CONNECT has ended: OK, or it is closed. AGAIN: not yet. */
void kars__conn_connected(kars_conn_t *c, int rc);
void kars__conn_close(kars_conn_t *c);

/* Connections finish the requests that they have, and one more if they are
 * idle; cycle->drained runs when the last one is gone. force as in the
 * operation. */
void kars__conn_drain(kars_cycle_t *cycle, int force);

void kars__conn_timer(kars_conn_t *c, uint64_t ms);
void kars__conn_flush(kars_conn_t *c); /* ops->flush at the turn's end */

int kars__conn_peer(kars_conn_t *c, kars_peer_t *ret);
void *kars__conn_ctx(kars_conn_t *c, const kars__mod_t *mod);
kars_cycle_t *kars__conn_cycle(kars_conn_t *c);

#endif
