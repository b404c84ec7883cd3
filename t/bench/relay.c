/*
 * relay.c PORT - the floor: each connection that it accepts gets one of its own
 * to 127.0.0.1:PORT, and bytes go both ways unread. No proxy that reads a
 * request can do with less. Prints its port; ends on SIGTERM.
 *
 * It owns pairs of descriptors. What a peer does not take at once waits in the
 * pair, and its sender with it.
 */
#include "net.h"

enum { RELAY_BUF = 65536 };

typedef struct {
    int peer;   /* -1: no such connection */
    size_t n;   /* bytes for this descriptor that it would not take */
    char *held; /* those bytes */
} relay_end_t;

static relay_end_t relay_ends[NET_MAX_FD];
static char relay_buf[RELAY_BUF];

static void
relay_close(int fd)
{
    int pair[2] = { fd, relay_ends[fd].peer };

    for (int i = 0; i < 2; i++) {
        relay_end_t *e = &relay_ends[pair[i]];

        free(e->held);
        *e = (relay_end_t){ .peer = -1 };
        (void) close(pair[i]);
    }
}

static int
relay_watch(int ep, int op, int fd, uint32_t events)
{
    struct epoll_event ev = { .events = events, .data.fd = fd };

    return epoll_ctl(ep, op, fd, &ev);
}

static void
relay_accept(int listener, int ep, uint16_t port)
{
    struct sockaddr_in sin = net_loopback(port);
    int fd;

    while ((fd = net_accept(listener)) != -1) {
        int up = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        /* Blocks, but loopback answers at once. */
        if (up == -1 || up >= NET_MAX_FD ||
            connect(up, (struct sockaddr *) &sin, sizeof(sin)) == -1) {
            net_die("connect");
        }
        net_nodelay(up);
        relay_ends[fd] = (relay_end_t){ .peer = up };
        relay_ends[up] = (relay_end_t){ .peer = fd };
        if (relay_watch(ep, EPOLL_CTL_ADD, fd, EPOLLIN) == -1 ||
            relay_watch(ep, EPOLL_CTL_ADD, up, EPOLLIN) == -1) {
            net_die("epoll_ctl");
        }
    }
}

/* fd has bytes; its peer gets them. */
static void
relay_read(int ep, int fd)
{
    int to = relay_ends[fd].peer;
    relay_end_t *e = &relay_ends[to];
    ssize_t n = recv(fd, relay_buf, sizeof(relay_buf), MSG_DONTWAIT);

    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            relay_close(fd);
        }
        return;
    }

    ssize_t sent = send(to, relay_buf, (size_t) n, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (sent == n) {
        return;
    }
    if (sent == -1 && errno != EAGAIN) {
        relay_close(fd);
        return;
    }

    sent = sent == -1 ? 0 : sent;
    e->n = (size_t) (n - sent);
    e->held = malloc(e->n);
    if (e->held == NULL) {
        net_die("malloc");
    }
    memcpy(e->held, relay_buf + sent, e->n);
    (void) relay_watch(ep, EPOLL_CTL_MOD, fd, 0);
    (void) relay_watch(ep, EPOLL_CTL_MOD, to, EPOLLIN | EPOLLOUT);
}

/* fd takes bytes again. */
static void
relay_write(int ep, int fd)
{
    relay_end_t *e = &relay_ends[fd];
    ssize_t sent = send(fd, e->held, e->n, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (sent == -1) {
        if (errno != EAGAIN) {
            relay_close(fd);
        }
        return;
    }

    e->n -= (size_t) sent;
    memmove(e->held, e->held + sent, e->n);
    if (e->n == 0) {
        free(e->held);
        e->held = NULL;
        (void) relay_watch(ep, EPOLL_CTL_MOD, fd, EPOLLIN);
        (void) relay_watch(ep, EPOLL_CTL_MOD, e->peer, EPOLLIN);
    }
}

int
main(int argc, char **argv)
{
    struct epoll_event evs[NET_EVENTS];
    int ep;

    if (argc != 2) {
        (void) fprintf(stderr, "usage: relay PORT\n");
        return 2;
    }

    net_init();
    for (int i = 0; i < NET_MAX_FD; i++) {
        relay_ends[i].peer = -1;
    }

    uint16_t port = (uint16_t) strtoul(argv[1], NULL, 10);
    int listener = net_listen(&ep);

    while (!net_ended) {
        int n = epoll_wait(ep, evs, NET_EVENTS, 1000);

        for (int i = 0; i < n; i++) {
            int fd = evs[i].data.fd;

            if (fd == listener) {
                relay_accept(listener, ep, port);
            } else if (relay_ends[fd].peer == -1) {
                continue; /* closed by its peer in this turn */
            } else if ((evs[i].events & EPOLLOUT) && relay_ends[fd].held) {
                relay_write(ep, fd);
            } else {
                relay_read(ep, fd);
            }
        }
    }

    return 0;
}
