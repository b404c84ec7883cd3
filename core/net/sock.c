/* sock.c - sockets as streams. */
#include "net/sock.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/uio.h>
#include <unistd.h>

#define SOCK_IOV 64

static ssize_t
sock_recv(kars__sock_t *s, void *p, size_t n)
{
    ssize_t got;

    do {
        got = recv(s->fd, p, n, 0);
    } while (got == -1 && errno == EINTR);
    return got;
}

static ssize_t
sock_sendv(kars__sock_t *s, const kars_buf_t *chain)
{
    struct iovec iov[SOCK_IOV];
    struct msghdr msg = { .msg_iov = iov };
    ssize_t sent;

    for (; chain != NULL && msg.msg_iovlen < SOCK_IOV; chain = chain->next) {
        if (chain->len != 0) {
            iov[msg.msg_iovlen].iov_base = (void *) (uintptr_t) chain->data;
            iov[msg.msg_iovlen].iov_len = chain->len;
            msg.msg_iovlen++;
        }
    }
    if (msg.msg_iovlen == 0) {
        return 0;
    }
    do {
        sent = sendmsg(s->fd, &msg, MSG_NOSIGNAL);
    } while (sent == -1 && errno == EINTR);
    return sent;
}

static void
sock_want(kars__sock_t *s, uint32_t events)
{
    kars__io_want(&s->io, events);
}

static void
sock_close(kars__sock_t *s)
{
    if (s->fd != -1) {
        s->wanted = 0;
        kars__io_want(&s->io, 0);
        (void) close(s->fd);
        s->fd = -1;
    }
}

static void
sock_shut(kars__sock_t *s)
{
    (void) shutdown(s->fd, SHUT_WR);
}

static int
sock_connected(kars__sock_t *s)
{
    int e = 0;
    socklen_t len = sizeof(e);

    return getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &e, &len) == -1 ? errno : e;
}

static int
sock_idle_ok(kars__sock_t *s)
{
    char c;

    return recv(s->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == -1 &&
           (errno == EAGAIN || errno == EWOULDBLOCK);
}

static const kars__sock_ops_t sock_ops = {
    .recv = sock_recv,
    .sendv = sock_sendv,
    .want = sock_want,
    .close = sock_close,
    .shut = sock_shut,
    .connected = sock_connected,
    .idle_ok = sock_idle_ok,
    .plain = 1,
};

static void
sock_event(kars__io_t *io, uint32_t events)
{
    kars__sock_t *s = (kars__sock_t *) io;

    s->ready(s, events);
}

void
kars__sock_open(kars__sock_t *s, kars__loop_t *loop, int fd,
                void (*ready)(kars__sock_t *s, uint32_t events))
{
    kars__io_init(&s->io, loop, fd, sock_event);
    s->ops = &sock_ops;
    s->ready = ready;
    s->mem = NULL;
    s->wanted = 0;
    s->fd = fd;
    s->cut = 0;
}

int
kars__sock_connect(const kars__addr_t *to)
{
    int on = 1;
    int fd = socket(to->u.sa.sa_family,
                    SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd == -1) {
        return -1;
    }
    if (to->u.sa.sa_family != AF_UNIX) {
        (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    if (connect(fd, &to->u.sa, to->len) == -1 && errno != EINPROGRESS) {
        int e = errno;

        (void) close(fd);
        errno = e;
        return -1;
    }
    return fd;
}
