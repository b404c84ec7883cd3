/* conn.c - connections of clients: accept, peers, close, drain. */
#include "http/connect.h"
#include "http/stream.h"
#include "net/tls_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CONN_ACCEPTS         64  /* connections taken in one turn */
#define CONN_ACCEPT_PAUSE_MS 100 /* out of descriptors: try again then */

/* linux/netfilter_ipv4.h, netfilter_ipv6/ip6_tables.h: the same number, which
 * their headers give only together with things that clash with libc's. */
#define CONN_ORIGINAL_DST 80

static void
conn_ready(kars__sock_t *sock, uint32_t events)
{
    kars_conn_t *c = (kars_conn_t *) sock;

    c->ops->ready(c, events);
}

static void
conn_timeout(kars__timer_t *t)
{
    kars_conn_t *c =
        (kars_conn_t *) ((char *) t - offsetof(kars_conn_t, timer));

    c->ops->timeout(c);
}

static void
conn_flushed(kars__work_t *work)
{
    kars_conn_t *c =
        (kars_conn_t *) ((char *) work - offsetof(kars_conn_t, flush));

    c->ops->flush(c);
}

void
kars__conn_timer(kars_conn_t *c, uint64_t ms)
{
    kars__timer_start(c->cycle->loop, &c->timer, ms);
}

void
kars__conn_flush(kars_conn_t *c)
{
    kars__work_queue(c->cycle->loop, &c->flush, KARS__FLUSH);
}

/* Connections come and go. */

kars_conn_t *
kars__conn_open(kars_listener_t *l, kars__loop_t *loop)
{
    kars_cycle_t *cycle = l->cycle;
    kars_conn_t *c = kars__alloc(sizeof(*c) + cycle->conn_ctx_size);

    if (c == NULL) {
        return NULL;
    }
    c->cycle = cycle;
    c->listener = l;
    c->sock.fd = -1;
    c->sock.ready = conn_ready;
    c->family = AF_UNIX;
    c->uid = UINT32_MAX;
    c->timer.fn = conn_timeout;
    c->flush.fn = conn_flushed;
    c->ops = &kars__http1_ops;
    c->next = cycle->conns;
    if (c->next != NULL) {
        c->next->prev = c;
    }
    cycle->conns = c;
    cycle->nconns++;
    return c;
}

kars__sock_t *
kars__conn_sock(kars_conn_t *c)
{
    return &c->sock;
}

void
kars__conn_begin(kars_conn_t *c)
{
    if (c->listener->port != NULL) {
        kars__stream_accepted(c);
        return;
    }
    kars__conn_timer(c, c->listener->server->core->header_timeout_ms);
    kars__conn_connected(c, kars__connect(c));
}

void
kars__conn_connected(kars_conn_t *c, int rc)
{
    if (rc == KARS_OK) {
        kars__sock_want(&c->sock, KARS__READ);
    } else if (rc != KARS_AGAIN) {
        kars__conn_close(c);
    }
}

void
kars__conn_close(kars_conn_t *c)
{
    kars_cycle_t *cycle = c->cycle;

    c->ops->close(c);
    kars__connect_done(c);
    kars__timer_stop(cycle->loop, &c->timer);
    kars__work_cancel(cycle->loop, &c->flush);
    kars__sock_close(&c->sock);
    if (c->prev != NULL) {
        c->prev->next = c->next;
    } else {
        cycle->conns = c->next;
    }
    if (c->next != NULL) {
        c->next->prev = c->prev;
    }
    cycle->nconns--;
    kars__free(c);
    if (cycle->draining && cycle->nconns == 0 && cycle->drained != NULL) {
        cycle->drained(cycle);
    }
}

static void
conn_addr(const kars__addr_t *a, uint8_t addr[16], uint16_t *port)
{
    if (a->u.sa.sa_family == AF_INET) {
        memcpy(addr, &a->u.in.sin_addr, 4);
        *port = ntohs(a->u.in.sin_port);
    } else if (a->u.sa.sa_family == AF_INET6) {
        memcpy(addr, &a->u.in6.sin6_addr, 16);
        *port = ntohs(a->u.in6.sin6_port);
    }
}

/* Where it was bound for before netfilter sent it here. */
static void
conn_know_original(kars_conn_t *c, int fd)
{
    kars__addr_t to = { .len = sizeof(to.u) };
    int level = c->family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;

    if (getsockopt(fd, level, CONN_ORIGINAL_DST, &to.u, &to.len) == -1) {
        return; /* not redirected: nothing is tracked, or no such address */
    }
    conn_addr(&to, c->orig_addr, &c->orig_port);
    if (c->orig_port != c->local_port ||
        memcmp(c->orig_addr, c->local_addr, sizeof(c->orig_addr)) != 0) {
        c->orig_family = to.u.sa.sa_family;
    }
}

static void
conn_know_peer(kars_conn_t *c, int fd, const kars__addr_t *peer)
{
    kars__addr_t local = { .len = sizeof(local.u) };
    struct ucred cred;
    socklen_t len = sizeof(cred);

    c->family = c->listener->addr.u.sa.sa_family;
    if (c->family == AF_UNIX) {
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0) {
            c->uid = cred.uid;
            c->pid = (uint32_t) cred.pid;
        }
        return;
    }
    conn_addr(peer, c->addr, &c->port);
    if (getsockname(fd, &local.u.sa, &local.len) == 0) {
        conn_addr(&local, c->local_addr, &c->local_port);
    }
    if (c->listener->port != NULL) {
        conn_know_original(c, fd);
    }
}

static void
conn_taken(kars_listener_t *l, int fd, const kars__addr_t *peer)
{
    kars_conn_t *c = kars__conn_open(l, l->cycle->loop);
    int on = 1;

    if (c == NULL) {
        (void) close(fd);
        return;
    }
    if (peer->u.sa.sa_family != AF_UNIX) {
        (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    kars__sock_open(&c->sock, l->cycle->loop, fd, conn_ready);
    if (l->tls && kars__tls_accept(l->server->tls, &c->sock, l->address,
                                   l->server->core->http2
                                       ? KARS__TLS_ALPN_HTTP2
                                       : KARS__TLS_ALPN_HTTP1) != KARS_OK) {
        kars__conn_close(c);
        return;
    }
    conn_know_peer(c, fd, peer);
    kars__conn_begin(c);
}

/* Out of descriptors: who waits is told so at once, by the end of his
 * connection, with a descriptor that was kept for that. Then a pause, not a
 * circle. */
static void
conn_refuse(kars_listener_t *l, int error)
{
    kars_cycle_t *cycle = l->cycle;
    int refused = 0, fd = 0;

    while (cycle->spare_fd != -1 && refused < CONN_ACCEPTS && fd != -1) {
        (void) close(cycle->spare_fd);
        fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd != -1) {
            (void) close(fd);
            refused++;
        }
        cycle->spare_fd = eventfd(0, EFD_CLOEXEC);
    }
    kars__log(KARS_LOG_ERR, "router: accept: %s listener=%.*s refused=%d",
              strerror(error), KARS_STR_ARG(l->address), refused);
    kars__io_want(&l->io, 0);
    kars__timer_start(cycle->loop, &l->pause, CONN_ACCEPT_PAUSE_MS);
}

static void
conn_accept(kars__io_t *io, uint32_t events)
{
    kars_listener_t *l =
        (kars_listener_t *) ((char *) io - offsetof(kars_listener_t, io));

    for (int i = 0; i < CONN_ACCEPTS; i++) {
        kars__addr_t peer = { .len = sizeof(peer.u) };
        int fd =
            accept4(l->fd, &peer.u.sa, &peer.len, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd == -1) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
                errno == ENOMEM) {
                conn_refuse(l, errno);
            }
            return;
        }
        conn_taken(l, fd, &peer);
    }
}

static void
conn_accept_again(kars__timer_t *t)
{
    kars_listener_t *l =
        (kars_listener_t *) ((char *) t - offsetof(kars_listener_t, pause));

    if (l->cycle->spare_fd == -1) {
        l->cycle->spare_fd = eventfd(0, EFD_CLOEXEC);
    }
    kars__io_want(&l->io, KARS__READ);
}

void
kars__conn_listen(kars_listener_t *l)
{
    if (l->datagram) {
        kars__udp_listen(l);
        return;
    }
    l->pause.fn = conn_accept_again;
    kars__io_init(&l->io, l->cycle->loop, l->fd, conn_accept);
    kars__io_want(&l->io, KARS__READ);
}

void
kars__conn_unlisten(kars_listener_t *l)
{
    kars__timer_stop(l->cycle->loop, &l->pause);
    kars__io_want(&l->io, 0);
}

void
kars__conn_drain(kars_cycle_t *cycle, int force)
{
    kars_conn_t *next;

    cycle->draining = 1;
    for (kars_conn_t *c = cycle->conns; c != NULL; c = next) {
        next = c->next;
        c->ops->drain(c, force);
    }
    if (cycle->nconns == 0 && cycle->drained != NULL) {
        cycle->drained(cycle);
    }
}

/* Who is it. */

int
kars__conn_peer(kars_conn_t *c, kars_peer_t *ret)
{
    kars_peer_t p = {
        .size = sizeof(p),
        .family = c->family,
        .uid = c->uid,
        .pid = c->pid,
        .port = c->port,
        .local_port = c->local_port,
        .orig_port = c->orig_family != 0 ? c->orig_port : 0,
        .orig_family = c->orig_family,
        .listener = c->listener->address,
        .listener_class = c->listener->klass,
    };
    size_t size = ret->size < sizeof(p) ? ret->size : sizeof(p);

    memcpy(p.addr, c->addr, sizeof(p.addr));
    memcpy(p.local_addr, c->local_addr, sizeof(p.local_addr));
    if (c->orig_family != 0) {
        memcpy(p.orig_addr, c->orig_addr, sizeof(p.orig_addr));
    }
    kars__sock_peer(&c->sock, &p);
    p.size = size;
    memcpy(ret, &p, size);
    return KARS_OK;
}

void *
kars__conn_ctx(kars_conn_t *c, const kars__mod_t *mod)
{
    return c->ctx + mod->conn_ctx_offset;
}

kars_cycle_t *
kars__conn_cycle(kars_conn_t *c)
{
    return c->cycle;
}
