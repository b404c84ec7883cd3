/*
 * sockdiag.c - whose socket is at the other end of a TCP connection?
 */
#include "sockdiag.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#define SOCKDIAG_STALE_MAX 8 /* late answers to drop before the right one */

static const uint8_t sockdiag_mapped[12] = { 0, 0, 0, 0, 0,    0,
                                             0, 0, 0, 0, 0xff, 0xff };

static size_t
sockdiag_addr_len(uint32_t family)
{
    return family == AF_INET ? 4 : 16;
}

int
sockdiag_pair(const kars_peer_t *peer, sockdiag_pair_t *ret)
{
    const size_t skip = sizeof(sockdiag_mapped);

    if (peer->family != AF_INET && peer->family != AF_INET6) {
        return KARS_ERROR;
    }

    memset(ret, 0, sizeof(*ret));
    ret->sport = peer->port;
    ret->dport = peer->local_port;
    ret->family = peer->family;
    if (peer->family == AF_INET6 &&
        memcmp(peer->addr, sockdiag_mapped, skip) == 0 &&
        memcmp(peer->local_addr, sockdiag_mapped, skip) == 0) {
        ret->family = AF_INET;
        memcpy(ret->src, peer->addr + skip, 4);
        memcpy(ret->dst, peer->local_addr + skip, 4);
        return KARS_OK;
    }

    memcpy(ret->src, peer->addr, sockdiag_addr_len(peer->family));
    memcpy(ret->dst, peer->local_addr, sockdiag_addr_len(peer->family));
    return KARS_OK;
}

size_t
sockdiag_encode(void *buf, uint32_t seq, const sockdiag_pair_t *pair)
{
    struct {
        struct nlmsghdr head;
        struct inet_diag_req_v2 req;
    } msg;
    size_t len = sockdiag_addr_len(pair->family);

    memset(&msg, 0, sizeof(msg));
    msg.head.nlmsg_len = sizeof(msg);
    msg.head.nlmsg_type = SOCK_DIAG_BY_FAMILY;
    msg.head.nlmsg_flags = NLM_F_REQUEST;
    msg.head.nlmsg_seq = seq;
    msg.req.sdiag_family = (uint8_t) pair->family;
    msg.req.sdiag_protocol = IPPROTO_TCP;
    msg.req.idiag_states = ~0u;
    msg.req.id.idiag_sport = htons(pair->sport);
    msg.req.id.idiag_dport = htons(pair->dport);
    memcpy(msg.req.id.idiag_src, pair->src, len);
    memcpy(msg.req.id.idiag_dst, pair->dst, len);
    msg.req.id.idiag_cookie[0] = INET_DIAG_NOCOOKIE;
    msg.req.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    memcpy(buf, &msg, sizeof(msg));
    return sizeof(msg);
}

/* An address of the answer, which may be IPv4 in the dress of IPv6. */
static int
sockdiag_same_addr(uint32_t family, const void *have, const uint8_t *want,
                   uint32_t want_family)
{
    const uint8_t *p = have;

    if (family == want_family) {
        return memcmp(p, want, sockdiag_addr_len(family)) == 0;
    }

    return family == AF_INET6 && want_family == AF_INET &&
           memcmp(p, sockdiag_mapped, sizeof(sockdiag_mapped)) == 0 &&
           memcmp(p + sizeof(sockdiag_mapped), want, 4) == 0;
}

static int
sockdiag_same_pair(const struct inet_diag_msg *m, const sockdiag_pair_t *pair)
{
    return ntohs(m->id.idiag_sport) == pair->sport &&
           ntohs(m->id.idiag_dport) == pair->dport &&
           sockdiag_same_addr(m->idiag_family, m->id.idiag_src, pair->src,
                              pair->family) &&
           sockdiag_same_addr(m->idiag_family, m->id.idiag_dst, pair->dst,
                              pair->family);
}

/* A connection that a process holds; a half-closed one is still its own. */
static int
sockdiag_is_held(const struct inet_diag_msg *m)
{
    switch (m->idiag_state) {
    case TCP_ESTABLISHED:
    case TCP_FIN_WAIT1:
    case TCP_FIN_WAIT2:
    case TCP_CLOSE_WAIT:
        return m->idiag_inode != 0;
    default:
        return 0;
    }
}

int
sockdiag_decode(const void *bytes, size_t len, uint32_t seq,
                const sockdiag_pair_t *pair, int *ret, uint32_t *ret_uid)
{
    struct nlmsghdr head;
    struct inet_diag_msg m;
    struct nlmsgerr e;

    if (len < sizeof(head)) {
        return KARS_DECLINED;
    }

    memcpy(&head, bytes, sizeof(head));
    if (head.nlmsg_seq != seq || head.nlmsg_len > len) {
        return KARS_DECLINED;
    }

    const char *body = (const char *) bytes + NLMSG_HDRLEN;
    size_t size = head.nlmsg_len < NLMSG_HDRLEN
                      ? 0
                      : head.nlmsg_len - (size_t) NLMSG_HDRLEN;

    *ret = SOCKDIAG_UNKNOWN;
    if (head.nlmsg_type == NLMSG_ERROR && size >= sizeof(e)) {
        memcpy(&e, body, sizeof(e));
        if (e.error == -ENOENT) {
            *ret = SOCKDIAG_ABSENT;
        }
        return KARS_OK;
    }
    if (head.nlmsg_type != SOCK_DIAG_BY_FAMILY || size < sizeof(m)) {
        return KARS_OK;
    }

    memcpy(&m, body, sizeof(m));
    if (!sockdiag_same_pair(&m, pair)) {
        *ret = SOCKDIAG_ABSENT; /* a listener on the port: not this one */
    } else if (sockdiag_is_held(&m)) {
        *ret = SOCKDIAG_FOUND;
        *ret_uid = m.idiag_uid;
    }
    return KARS_OK;
}

int
sockdiag_open(void)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK,
                  NETLINK_SOCK_DIAG);
}

/* The kernel answers while it takes the question: what is not there after it
 * will not come, so that nothing here waits. */
int
sockdiag_ask(int fd, uint32_t *seq, const sockdiag_pair_t *pair,
             uint32_t *ret_uid)
{
    char buf[4096];
    size_t len = sockdiag_encode(buf, ++*seq, pair);
    ssize_t n;

    if (fd == -1 ||
        send(fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t) len) {
        return SOCKDIAG_UNKNOWN;
    }

    for (int i = 0; i < SOCKDIAG_STALE_MAX; i++) {
        int result;

        n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
        if (n <= 0) {
            return SOCKDIAG_UNKNOWN;
        }
        if (sockdiag_decode(buf, (size_t) n, *seq, pair, &result, ret_uid) ==
            KARS_OK) {
            return result;
        }
    }

    return SOCKDIAG_UNKNOWN;
}

/* Only an own address can be bound; that answer is never out of date. */
int
sockdiag_is_local(const sockdiag_pair_t *pair)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } sa;
    socklen_t len = pair->family == AF_INET ? sizeof(sa.v4) : sizeof(sa.v6);

    memset(&sa, 0, sizeof(sa));
    if (pair->family == AF_INET) {
        sa.v4.sin_family = AF_INET;
        memcpy(&sa.v4.sin_addr, pair->src, 4);
    } else {
        sa.v6.sin6_family = AF_INET6;
        memcpy(&sa.v6.sin6_addr, pair->src, 16);
    }

    int fd = socket((int) pair->family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd == -1) {
        return 1;
    }

    int local = bind(fd, &sa.any, len) == 0 || errno != EADDRNOTAVAIL;

    (void) close(fd);
    return local;
}
