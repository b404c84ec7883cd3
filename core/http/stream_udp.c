/* stream_udp.c - datagrams: one stream for each socket of a module. */
#include "http/stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <unistd.h>

#define UDP_READS 64 /* datagrams in one turn */
#define UDP_MAX   65535u

typedef union {
    char space[CMSG_SPACE(sizeof(struct in6_pktinfo))];
    struct cmsghdr align;
} udp_control_t;

/* The address that the datagram was sent to, for the way back. */
static void
udp_local(struct msghdr *msg, kars_peer_t *peer)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL;
         c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;

            memcpy(&info, CMSG_DATA(c), sizeof(info));
            memcpy(peer->local_addr, &info.ipi_addr, 4);
        } else if (c->cmsg_level == IPPROTO_IPV6 &&
                   c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;

            memcpy(&info, CMSG_DATA(c), sizeof(info));
            memcpy(peer->local_addr, &info.ipi6_addr, 16);
        }
    }
}

static void
udp_peer(const kars_listener_t *l, const kars__addr_t *from, kars_peer_t *peer)
{
    peer->family = from->u.sa.sa_family;
    if (peer->family == AF_INET) {
        memcpy(peer->addr, &from->u.in.sin_addr, 4);
        peer->port = ntohs(from->u.in.sin_port);
        peer->local_port = ntohs(l->addr.u.in.sin_port);
    } else {
        memcpy(peer->addr, &from->u.in6.sin6_addr, 16);
        peer->port = ntohs(from->u.in6.sin6_port);
        peer->local_port = ntohs(l->addr.u.in6.sin6_port);
    }
}

static void
udp_ready(kars__io_t *io, uint32_t events)
{
    kars_listener_t *l =
        (kars_listener_t *) ((char *) io - offsetof(kars_listener_t, io));
    kars_stream_t *s = l->udp;
    static char bytes[UDP_MAX];

    for (int i = 0; i < UDP_READS; i++) {
        udp_control_t control;
        kars__addr_t from;
        struct iovec iov = { bytes, sizeof(bytes) };
        struct msghdr msg = { .msg_name = &from.u,
                              .msg_namelen = sizeof(from.u),
                              .msg_iov = &iov,
                              .msg_iovlen = 1,
                              .msg_control = control.space,
                              .msg_controllen = sizeof(control.space) };
        kars_peer_t peer = { .size = sizeof(peer),
                             .uid = UINT32_MAX,
                             .listener = l->address,
                             .listener_class = l->klass };
        ssize_t n = recvmsg(l->fd, &msg, MSG_DONTWAIT);

        if (n < 0) {
            return; /* EAGAIN, or an ICMP error of an earlier reply */
        }
        udp_peer(l, &from, &peer);
        udp_local(&msg, &peer);
        s->bytes_in += (uint64_t) n;
        if (s->handler.datagram != NULL) {
            KARS__STREAM_CALL(
                s, (void) s->handler.datagram(
                       s, &peer, (kars_str_t){ bytes, (size_t) n }, s->data));
        }
    }
}

int
kars__stream_reply(kars_stream_t *s, const kars_peer_t *to, kars_str_t bytes)
{
    static const uint8_t any[16];
    kars__addr_t addr = { 0 };
    udp_control_t control = { 0 };
    struct iovec iov = { (void *) (uintptr_t) bytes.data, bytes.len };
    struct msghdr msg = { .msg_name = &addr.u,
                          .msg_iov = &iov,
                          .msg_iovlen = 1 };
    struct cmsghdr *c;

    if (s->udp == NULL || s->udp->fd == -1) {
        return KARS_ERROR;
    }
    addr.u.sa.sa_family = (sa_family_t) to->family;
    c = &control.align;
    if (to->family == AF_INET) {
        struct in_pktinfo info = { 0 };

        addr.u.in.sin_port = htons(to->port);
        memcpy(&addr.u.in.sin_addr, to->addr, 4);
        msg.msg_namelen = sizeof(addr.u.in);
        c->cmsg_level = IPPROTO_IP;
        c->cmsg_type = IP_PKTINFO;
        c->cmsg_len = CMSG_LEN(sizeof(info));
        memcpy(&info.ipi_spec_dst, to->local_addr, 4);
        memcpy(CMSG_DATA(c), &info, sizeof(info));
        msg.msg_controllen = CMSG_SPACE(sizeof(info));
    } else if (to->family == AF_INET6) {
        struct in6_pktinfo info = { 0 };

        addr.u.in6.sin6_port = htons(to->port);
        memcpy(&addr.u.in6.sin6_addr, to->addr, 16);
        msg.msg_namelen = sizeof(addr.u.in6);
        c->cmsg_level = IPPROTO_IPV6;
        c->cmsg_type = IPV6_PKTINFO;
        c->cmsg_len = CMSG_LEN(sizeof(info));
        memcpy(&info.ipi6_addr, to->local_addr, 16);
        memcpy(CMSG_DATA(c), &info, sizeof(info));
        msg.msg_controllen = CMSG_SPACE(sizeof(info));
    } else {
        return KARS_ERROR;
    }
    if (memcmp(to->local_addr, any, sizeof(any)) != 0) {
        msg.msg_control = control.space;
    } else {
        msg.msg_controllen = 0;
    }

    ssize_t n = sendmsg(s->udp->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n < 0) {
        return errno == EAGAIN || errno == EWOULDBLOCK ? KARS_AGAIN
                                                       : KARS_ERROR;
    }
    s->bytes_out += (uint64_t) n;
    return KARS_OK;
}

/* closed() comes with the configuration's end, when nothing of it runs. */
static void
udp_release(void *data)
{
    kars_stream_t *s = data;

    kars__pool_destroy(s->pool);
}

void
kars__udp_listen(kars_listener_t *l)
{
    kars_stream_t *s = kars__pown(l->cycle->pool, sizeof(*s), udp_release);
    int on = 1;

    if (s == NULL) {
        return; /* the pool has no cap: there is no memory at all */
    }
    kars__stream_init(s, l->cycle, l->port->mod, &l->port->handler,
                      l->port->data);
    s->udp = l;
    l->udp = s;
    (void) setsockopt(l->fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
    if (l->addr.u.sa.sa_family == AF_INET6) {
        (void) setsockopt(l->fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on,
                          sizeof(on));
    }
    kars__io_init(&l->io, l->cycle->loop, l->fd, udp_ready);
    kars__io_want(&l->io, KARS__READ);
}
