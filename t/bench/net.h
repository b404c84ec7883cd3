/*
 * net.h - what the bench's two servers share: a listener on loopback, an epoll
 * loop that SIGTERM ends, limits. They run alone on a machine of ours, so a
 * failure ends them with a line.
 */
#ifndef KARS_BENCH_NET_H
#define KARS_BENCH_NET_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NET_MAX_FD = 16384, NET_EVENTS = 256 };

static volatile sig_atomic_t net_ended;

static void
net_on_term(int sig)
{
    (void) sig;
    net_ended = 1;
}

static inline void
net_die(const char *what)
{
    perror(what);
    exit(1);
}

/* Ends net_ended on SIGTERM and SIGINT; a lost peer is no signal. */
static inline void
net_init(void)
{
    struct sigaction sa = { .sa_handler = net_on_term };
    struct rlimit rl;

    (void) sigaction(SIGTERM, &sa, NULL);
    (void) sigaction(SIGINT, &sa, NULL);
    (void) signal(SIGPIPE, SIG_IGN);

    if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
        rl.rlim_cur = rl.rlim_max < NET_MAX_FD ? rl.rlim_max : NET_MAX_FD;
        (void) setrlimit(RLIMIT_NOFILE, &rl);
    }
}

static inline struct sockaddr_in
net_loopback(uint16_t port)
{
    struct sockaddr_in sin = { .sin_family = AF_INET, .sin_port = htons(port) };

    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return sin;
}

/* Listens on a free port of loopback and prints it on standard output. */
static inline int
net_listen(int *ret_epoll)
{
    struct sockaddr_in sin = net_loopback(0);
    socklen_t len = sizeof(sin);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = { .events = EPOLLIN, .data.fd = fd };

    if (fd == -1 || ep == -1 ||
        bind(fd, (struct sockaddr *) &sin, sizeof(sin)) == -1 ||
        listen(fd, 4096) == -1 ||
        getsockname(fd, (struct sockaddr *) &sin, &len) == -1 ||
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == -1) {
        net_die("listen");
    }

    printf("%u\n", (unsigned) ntohs(sin.sin_port));
    (void) fflush(stdout);
    *ret_epoll = ep;
    return fd;
}

static inline void
net_nodelay(int fd)
{
    int on = 1;

    (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* The next waiting connection, or -1. */
static inline int
net_accept(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd >= NET_MAX_FD) {
        (void) close(fd);
        return -1;
    }
    if (fd != -1) {
        net_nodelay(fd);
    }
    return fd;
}

#endif
