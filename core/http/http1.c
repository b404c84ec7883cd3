/* http1.c - HTTP/1.1 connections: accept, read, requests one after another. */
#include "http/http1_conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <unistd.h>

#define HTTP1_ACCEPTS         64   /* connections taken in one turn */
#define HTTP1_ROOM_MIN        512  /* less is not worth a read */
#define HTTP1_READS           8    /* recv calls for one readiness */
#define HTTP1_LINGER_MS       2000 /* for what a refused client still sends */
#define HTTP1_LINGER_BYTES    (1024u * 1024u)
#define HTTP1_ACCEPT_PAUSE_MS 100 /* out of descriptors: try again then */

static void http1_ready(kars__sock_t *sock, uint32_t events);
static void http1_timeout(kars__timer_t *t);

/* Connections come and go. */

kars_conn_t *
kars__http1_open(kars_listener_t *l, kars__loop_t *loop)
{
    kars_cycle_t *cycle = l->cycle;
    kars_conn_t *c = kars__alloc(sizeof(*c) + cycle->conn_ctx_size);

    if (c == NULL) {
        return NULL;
    }
    c->cycle = cycle;
    c->listener = l;
    c->sock.fd = -1;
    c->sock.ready = http1_ready;
    c->family = AF_UNIX;
    c->uid = UINT32_MAX;
    c->timer.fn = http1_timeout;
    c->flush.fn = kars__http1_flushed;
    c->next = cycle->conns;
    if (c->next != NULL) {
        c->next->prev = c;
    }
    cycle->conns = c;
    cycle->nconns++;
    return c;
}

kars__sock_t *
kars__http1_sock(kars_conn_t *c)
{
    return &c->sock;
}

void
kars__http1_begin(kars_conn_t *c)
{
    kars__http1_timer(c, c->listener->server->core->header_timeout_ms);
    kars__http1_want(c);
}

void
kars__http1_close(kars_conn_t *c)
{
    kars_cycle_t *cycle = c->cycle;
    kars_req_t *r = c->r;

    c->r = NULL;
    if (r != NULL) {
        kars__req_gone(r);
    }
    kars__timer_stop(cycle->loop, &c->timer);
    kars__work_cancel(cycle->loop, &c->flush);
    kars__sock_close(&c->sock);
    kars__block_unref(c->rd);
    kars__bufs_done(&c->bufs);
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
http1_addr(const kars__addr_t *a, uint8_t addr[16], uint16_t *port)
{
    if (a->u.sa.sa_family == AF_INET) {
        memcpy(addr, &a->u.in.sin_addr, 4);
        *port = ntohs(a->u.in.sin_port);
    } else if (a->u.sa.sa_family == AF_INET6) {
        memcpy(addr, &a->u.in6.sin6_addr, 16);
        *port = ntohs(a->u.in6.sin6_port);
    }
}

static void
http1_know_peer(kars_conn_t *c, int fd, const kars__addr_t *peer)
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
    http1_addr(peer, c->addr, &c->port);
    if (getsockname(fd, &local.u.sa, &local.len) == 0) {
        http1_addr(&local, c->local_addr, &c->local_port);
    }
}

static void
http1_accept(kars__io_t *io, uint32_t events)
{
    kars_listener_t *l =
        (kars_listener_t *) ((char *) io - offsetof(kars_listener_t, io));

    for (int i = 0; i < HTTP1_ACCEPTS; i++) {
        kars__addr_t peer = { .len = sizeof(peer.u) };
        int on = 1;
        int fd =
            accept4(l->fd, &peer.u.sa, &peer.len, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd == -1) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
                errno == ENOMEM) {
                kars__log(KARS_LOG_ERR, "router: accept: %s listener=%.*s",
                          strerror(errno), KARS_STR_ARG(l->address));
                kars__io_want(&l->io, 0); /* not in a circle */
                kars__timer_start(l->cycle->loop, &l->pause,
                                  HTTP1_ACCEPT_PAUSE_MS);
            }
            return;
        }

        kars_conn_t *c = kars__http1_open(l, l->cycle->loop);

        if (c == NULL) {
            (void) close(fd);
            return;
        }
        if (peer.u.sa.sa_family != AF_UNIX) {
            (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        }
        kars__sock_open(&c->sock, l->cycle->loop, fd, http1_ready);
        http1_know_peer(c, fd, &peer);
        kars__http1_begin(c);
    }
}

static void
http1_accept_again(kars__timer_t *t)
{
    kars_listener_t *l =
        (kars_listener_t *) ((char *) t - offsetof(kars_listener_t, pause));

    kars__io_want(&l->io, KARS__READ);
}

void
kars__http1_listen(kars_listener_t *l)
{
    l->pause.fn = http1_accept_again;
    kars__io_init(&l->io, l->cycle->loop, l->fd, http1_accept);
    kars__io_want(&l->io, KARS__READ);
}

void
kars__http1_unlisten(kars_listener_t *l)
{
    kars__timer_stop(l->cycle->loop, &l->pause);
    kars__io_want(&l->io, 0);
}

void
kars__http1_drain(kars_cycle_t *cycle, int force)
{
    kars_conn_t *next;

    cycle->draining = 1;
    for (kars_conn_t *c = cycle->conns; c != NULL && force; c = next) {
        next = c->next;
        if (force > 1 || c->state == KARS__CONN_IDLE) {
            kars__http1_close(c);
        }
    }
    if (cycle->nconns == 0 && cycle->drained != NULL) {
        cycle->drained(cycle);
    }
}

/* Timers: one a connection; what it means follows from the state. */

void
kars__http1_timer(kars_conn_t *c, uint64_t ms)
{
    kars__timer_start(c->cycle->loop, &c->timer, ms);
}

static void
http1_timeout(kars__timer_t *t)
{
    kars_conn_t *c =
        (kars_conn_t *) ((char *) t - offsetof(kars_conn_t, timer));
    kars_req_t *r = c->r;

    if (r != NULL && c->out == NULL && !c->body_whole && c->want_body) {
        /* the body does not come */
        if (r->answer == KARS__ANSWER_NONE && !r->suspended) {
            c->keep = 0;
            c->want_body = 0;
            (void) kars__req_refuse(r, 408, "invalid_request_error",
                                    "request_timeout",
                                    "the request's body did not come in time");
            kars__req_send_answer(r);
            return;
        }
    }
    kars__http1_close(c);
}

/* What the connection waits for. */
void
kars__http1_want(kars_conn_t *c)
{
    uint32_t events = c->out != NULL ? KARS__WRITE : 0;

    switch (c->state) {
    case KARS__CONN_BUSY:
        /* While a request is served reading goes on too, one block at most:
         * so a client that hangs up is seen. */
        if ((c->want_body && !c->body_whole && !c->ended) || c->rd == NULL ||
            c->rd_end < c->rd->size) {
            events |= KARS__READ;
        }
        break;
    default:
        events |= KARS__READ;
        break;
    }
    if (c->eof ||
        (c->state == KARS__CONN_BUSY && !c->body_whole && !c->want_body)) {
        events &= ~(uint32_t) KARS__READ; /* a body that must wait */
    }
    kars__sock_want(&c->sock, events);
}

/* Room in the read block; a head must stay in one piece. What a client sends
 * ahead of its turn gets the rest of one block, no more. */
static int
http1_room(kars_conn_t *c)
{
    kars__block_t *rd = c->rd;
    int ahead = c->state == KARS__CONN_BUSY && c->body_whole;

    if (rd != NULL && c->rd_at == c->rd_end && rd->refs == 1) {
        c->rd_at = c->rd_end = 0;
    }

    size_t room = rd != NULL ? rd->size - c->rd_end : 0;

    if (room >= HTTP1_ROOM_MIN || (ahead && room > 0)) {
        return KARS_OK;
    }
    if (ahead && rd != NULL) {
        return KARS_ERROR;
    }

    size_t have = rd != NULL ? c->rd_end - c->rd_at : 0;
    kars__block_t *b = kars__block_get(
        have * 2 > KARS__BLOCK_SIZE ? have * 2 : KARS__BLOCK_SIZE);

    if (b == NULL) {
        return KARS_ERROR;
    }
    if (have != 0) {
        memcpy(b->data, rd->data + c->rd_at, have);
    }
    kars__block_unref(rd);
    c->rd = b;
    c->rd_at = 0;
    c->rd_end = (uint32_t) have;
    return KARS_OK;
}

static int
http1_linger(kars_conn_t *c, ssize_t n)
{
    c->rd_at = c->rd_end = 0;
    c->drained += n > 0 ? (uint64_t) n : 0;
    if (n <= 0 || c->drained > HTTP1_LINGER_BYTES) {
        kars__http1_close(c);
        return KARS_ERROR;
    }
    return KARS_DONE;
}

/* OK: try to read more; DONE: enough; ERROR: the connection is gone. */
static int
http1_recv(kars_conn_t *c)
{
    if (http1_room(c) != KARS_OK) {
        if (c->state == KARS__CONN_BUSY) {
            kars__http1_want(c);
            return KARS_DONE;
        }
        kars__http1_close(c);
        return KARS_ERROR;
    }

    size_t room = c->rd->size - c->rd_end;
    ssize_t n = kars__sock_recv(&c->sock, c->rd->data + c->rd_end, room);

    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return KARS_DONE;
    }
    if (c->state == KARS__CONN_LINGER) {
        return http1_linger(c, n);
    }
    if (n == 0 && c->state == KARS__CONN_BUSY && c->body_whole &&
        !(c->r != NULL && c->r->event_stream)) {
        /* Half-closed: it may still wait for its answer, so it gets some time.
         * Of a stream nobody does that, and one that hung up must not keep a
         * model at work. */
        c->eof = 1;
        kars__http1_timer(c, c->listener->server->core->half_timeout_ms);
        c->keep = 0;
        return KARS_DONE;
    }
    if (n <= 0) { /* the client left, maybe in the midst of its request */
        kars__http1_close(c);
        return KARS_ERROR;
    }
    c->rd_end += (uint32_t) n;
    return (size_t) n == room ? KARS_OK : KARS_DONE;
}

static void
http1_ready(kars__sock_t *sock, uint32_t events)
{
    kars_conn_t *c = (kars_conn_t *) sock;

    if (events & KARS__WRITE) {
        kars__http1_queue_flush(c);
    }
    if (!(events & KARS__READ)) {
        return;
    }
    for (int i = 0; i < HTTP1_READS; i++) {
        int rc = http1_recv(c);

        if (rc == KARS_ERROR) {
            return;
        }
        if (c->state != KARS__CONN_LINGER) {
            kars__http1_input(c);
        }
        kars__http1_want(c);
        if (rc == KARS_DONE || !(c->sock.wanted & KARS__READ)) {
            break; /* a body that must wait is not read ahead */
        }
    }
    if (c->state == KARS__CONN_IDLE && c->rd != NULL && c->rd_at == c->rd_end) {
        kars__block_unref(c->rd); /* an idle connection holds nothing */
        c->rd = NULL;
        c->rd_at = c->rd_end = 0;
    }
    kars__http1_want(c);
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
        .listener = c->listener->address,
        .listener_class = c->listener->klass,
    };
    size_t size = ret->size < sizeof(p) ? ret->size : sizeof(p);

    memcpy(p.addr, c->addr, sizeof(p.addr));
    memcpy(p.local_addr, c->local_addr, sizeof(p.local_addr));
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
