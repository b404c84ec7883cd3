/*
 * sock.h - a stream of bytes to a peer: non-blocking reads and gathered
 * writes. What carries them (a socket, a pair of memory queues in tests) is
 * behind a table of operations.
 */
#ifndef KARS_NET_SOCK_H
#define KARS_NET_SOCK_H

#include "base/buf.h"
#include "event/reactor.h"
#include "event/resolve.h"

typedef struct kars__sock_s kars__sock_t;

/* Like recv(2) and writev(2): -1 and errno, EAGAIN when it would block. */
typedef struct {
    ssize_t (*recv)(kars__sock_t *s, void *p, size_t n);
    ssize_t (*sendv)(kars__sock_t *s, const kars_buf_t *chain);
    void (*want)(kars__sock_t *s, uint32_t events);
    void (*close)(kars__sock_t *s);
    void (*shut)(kars__sock_t *s);             /* no more will be sent */
    int (*connected)(kars__sock_t *s);         /* see kars__sock_connected() */
    int (*idle_ok)(kars__sock_t *s);           /* see kars__sock_idle_ok() */
    kars_str_t (*alpn)(const kars__sock_t *s); /* this and below may be NULL */
    const char *(*why)(const kars__sock_t *s);
    void (*peer)(kars__sock_t *s, kars_peer_t *ret);
    uint32_t plain; /* the fd carries the bytes as they are: splice(2) may */
} kars__sock_ops_t;

struct kars__sock_s {
    kars__io_t io; /* first: io events find the sock */
    const kars__sock_ops_t *ops;
    void (*ready)(kars__sock_t *s, uint32_t events);
    void *mem; /* of the operations: a TLS state, an end of a memory queue */
    uint32_t wanted;
    int fd;      /* -1: closed, or memory */
    uint8_t cut; /* what was sent is not whole: no end in good order */
};

/* Takes over a connected, non-blocking fd. */
void kars__sock_open(kars__sock_t *s, kars__loop_t *loop, int fd,
                     void (*ready)(kars__sock_t *s, uint32_t events));

/* Starts a connection: the fd, or -1 and errno. */
int kars__sock_connect(const kars__addr_t *to);

/* Once it was ready: 0 when it stands, handshake included; EINPROGRESS: not
 * yet, it will be ready again; else the errno of why it never will. */
static inline int
kars__sock_connected(kars__sock_t *s)
{
    return s->ops->connected(s);
}

/* Is the peer of an idle connection still there, silent? */
static inline int
kars__sock_idle_ok(kars__sock_t *s)
{
    return s->ops->idle_ok(s);
}

/* The protocol that both sides agreed on (RFC 7301): empty without TLS, before
 * the handshake ended, or when the peer did not ask. Lives as the sock. */
static inline kars_str_t
kars__sock_alpn(const kars__sock_t *s)
{
    return s->ops->alpn != NULL ? s->ops->alpn(s) : (kars_str_t){ NULL, 0 };
}

/* What TLS found wrong, in a few words that outlive the sock; NULL: nothing. */
static inline const char *
kars__sock_why(const kars__sock_t *s)
{
    return s->ops->why != NULL ? s->ops->why(s) : NULL;
}

/* Fills the tls_* fields; borrowed, as long as the sock is open. */
static inline void
kars__sock_peer(kars__sock_t *s, kars_peer_t *ret)
{
    if (s->ops->peer != NULL) {
        s->ops->peer(s, ret);
    }
}

static inline ssize_t
kars__sock_recv(kars__sock_t *s, void *p, size_t n)
{
    return s->ops->recv(s, p, n);
}

static inline ssize_t
kars__sock_sendv(kars__sock_t *s, const kars_buf_t *chain)
{
    return s->ops->sendv(s, chain);
}

static inline void
kars__sock_want(kars__sock_t *s, uint32_t events)
{
    if (s->wanted != events) {
        s->wanted = events;
        s->ops->want(s, events);
    }
}

static inline void
kars__sock_close(kars__sock_t *s)
{
    s->ops->close(s);
}

#endif
