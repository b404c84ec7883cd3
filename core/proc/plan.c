/* plan.c - asking the master; see plan.h. */
#include "proc/plan.h"
#include "base/parse.h"
#include "base/shm.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PLAN_BACKLOG 4096

int
kars__ask_send(int channel, const kars__ask_t *m, int fd)
{
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = { .iov_base = (void *) (uintptr_t) m,
                         .iov_len = sizeof(*m) };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (fd != -1) {
        memset(&control, 0, sizeof(control));
        msg.msg_control = control.space;
        msg.msg_controllen = sizeof(control.space);

        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }

    ssize_t n;

    do {
        /* Never waits: nobody is told more than he takes, but a worker that
         * is stopped, and the master must not stop with it. */
        n = sendmsg(channel, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n == -1 && errno == EINTR);
    return n == (ssize_t) sizeof(*m) ? KARS_OK : KARS_ERROR;
}

int
kars__ask_recv(int channel, kars__ask_t *ret, int *ret_fd)
{
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = { .iov_base = ret, .iov_len = sizeof(*ret) };
    struct msghdr msg = { .msg_iov = &iov,
                          .msg_iovlen = 1,
                          .msg_control = control.space,
                          .msg_controllen = sizeof(control.space) };
    ssize_t n;

    *ret_fd = -1;
    do {
        n = recvmsg(channel, &msg, MSG_CMSG_CLOEXEC);
    } while (n == -1 && errno == EINTR);
    if (n == -1) {
        return errno == EAGAIN || errno == EWOULDBLOCK ? KARS_AGAIN
                                                       : KARS_ERROR;
    }

    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    if (c != NULL && c->cmsg_level == SOL_SOCKET &&
        c->cmsg_type == SCM_RIGHTS) {
        memcpy(ret_fd, CMSG_DATA(c), sizeof(int));
    }
    if (n == 0) {
        return KARS_DONE;
    }
    ret->text[sizeof(ret->text) - 1] = '\0';
    return n == (ssize_t) sizeof(*ret) ? KARS_OK : KARS_ERROR;
}

int
kars__listen_addr(kars_str_t address, kars__addr_t *ret, kars_err_t *err)
{
    kars_hostport_t at;

    if (kars__addr_unix(address, ret) == KARS_OK) {
        return KARS_OK;
    }
    if (kars_str_starts(address, KARS_STR("fd:")) && address.len > 3) {
        memset(ret, 0, sizeof(*ret));
        return KARS_OK;
    }
    if (kars__parse_hostport(address, &at) != KARS_OK ||
        kars__addr_literal(
            kars_str_eq(at.host, KARS_STR("*")) ? KARS_STR("0.0.0.0") : at.host,
            at.port, ret) != KARS_OK) {
        return kars__err(err, 0,
                         "expected an address such as 127.0.0.1:8443, "
                         "*:8443, unix:/run/kars/admin.sock or fd:NAME, got "
                         "\"%.*s\"",
                         KARS_STR_ARG(address));
    }
    return KARS_OK;
}

/* A socket file that nobody listens on is left over: it goes. */
static void
plan_unlink_stale(const kars__addr_t *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd != -1) {
        if (connect(fd, &addr->u.sa, addr->len) == -1 &&
            errno == ECONNREFUSED) {
            (void) unlink(addr->u.un.sun_path);
        }
        (void) close(fd);
    }
}

/* Does another process have the address? Bound once without sharing it. */
static int
plan_is_free(const kars__addr_t *addr, int type)
{
    int on = 1, fd = socket(addr->u.sa.sa_family, type | SOCK_CLOEXEC, 0);
    int rc = -1;

    if (fd != -1) {
        if (type == SOCK_STREAM) { /* datagrams would share it */
            (void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        }
        if (addr->u.sa.sa_family == AF_INET6) {
            (void) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
        }
        rc = bind(fd, &addr->u.sa, addr->len);
        if (rc == 0 && type == SOCK_STREAM) {
            rc = listen(fd, 1); /* SO_REUSEADDR lets bind pass beside one */
        }
    }

    int e = errno;

    if (fd != -1) {
        (void) close(fd);
    }
    errno = e;
    return rc;
}

static void
plan_options(int fd, const kars__addr_t *addr, uint32_t mode, int type)
{
    int on = 1;

    if (addr->u.sa.sa_family == AF_UNIX) {
        plan_unlink_stale(addr);
        (void) fchmod(fd, mode); /* of the file that bind makes */
        return;
    }
    if (type == SOCK_STREAM) {
        (void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    }
    (void) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
    if (addr->u.sa.sa_family == AF_INET6) {
        (void) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    }
}

int
kars__open_listener(kars_str_t address, uint32_t mode, int is_first,
                    kars_err_t *err)
{
    kars__addr_t addr;
    kars_str_t udp = KARS_STR("udp:"), at = address;
    int type = SOCK_STREAM;

    if (kars_str_starts(address, udp)) {
        at = (kars_str_t){ address.data + udp.len, address.len - udp.len };
        type = SOCK_DGRAM;
    }
    if (kars__listen_addr(at, &addr, err) != KARS_OK) {
        return -1;
    }
    if (type == SOCK_DGRAM && addr.u.sa.sa_family == AF_UNIX) {
        (void) kars__err(err, 0, "\"%.*s\" is no IP address",
                         KARS_STR_ARG(address));
        return -1;
    }
    if (is_first && addr.u.sa.sa_family != AF_UNIX &&
        plan_is_free(&addr, type) != 0) {
        (void) kars__err(err, errno, "listen on %.*s", KARS_STR_ARG(address));
        return -1;
    }

    int fd =
        socket(addr.u.sa.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd == -1) {
        (void) kars__err(err, errno, "socket for %.*s", KARS_STR_ARG(address));
        return -1;
    }
    plan_options(fd, &addr, mode, type);

    mode_t mask = umask(0); /* the mode above is the one that is meant */
    int rc = bind(fd, &addr.u.sa, addr.len);

    (void) umask(mask);
    if (rc == -1) {
        (void) kars__err(err, errno, "listen on %.*s", KARS_STR_ARG(address));
        (void) close(fd);
        return -1;
    }
    return fd;
}

int
kars__listen_on(int fd)
{
    int rc = listen(fd, PLAN_BACKLOG);

    return rc == -1 && errno == EOPNOTSUPP ? 0 : rc; /* datagrams just come */
}

int
kars__open_log(const char *path)
{
    return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
}

/* Without a master. */
static int
plan_here(uint32_t kind, kars_str_t text, uint64_t number, int *ret_fd,
          kars_err_t *err)
{
    char path[512];

    if (text.len >= sizeof(path)) {
        return kars__err(err, ENAMETOOLONG, "\"%.*s\"", KARS_STR_ARG(text));
    }
    memcpy(path, text.data, text.len);
    path[text.len] = '\0';
    switch (kind) {
    case KARS__ASK_ZONE:
        *ret_fd = kars__zone_make((size_t) number, err);
        return *ret_fd == -1 ? KARS_ERROR : KARS_OK;
    case KARS__ASK_SECRET:
        *ret_fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        return *ret_fd == -1 ? kars__err(err, errno, "open \"%s\"", path)
                             : KARS_OK;
    default:
        return KARS_OK;
    }
}

int
kars__ask(int channel, uint32_t kind, kars_str_t text, uint64_t number,
          int *ret_fd, uint64_t *ret_number, kars_err_t *err)
{
    kars__ask_t m = { .kind = kind, .number = number };

    *ret_fd = -1;
    if (channel == -1) {
        return plan_here(kind, text, number, ret_fd, err);
    }
    if (text.len >= sizeof(m.text)) {
        return kars__err(err, ENAMETOOLONG, "\"%.*s\"", KARS_STR_ARG(text));
    }
    if (text.len != 0) {
        memcpy(m.text, text.data, text.len);
    }
    if (kars__ask_send(channel, &m, -1) != KARS_OK ||
        kars__ask_recv(channel, &m, ret_fd) != KARS_OK) {
        return kars__err(err, 0, "the master does not answer");
    }
    if (m.error != 0) {
        return kars__err(err, 0, "%s", m.text);
    }
    if (ret_number != NULL) {
        *ret_number = m.number;
    }
    return KARS_OK;
}

int
kars__give(int channel, uint32_t kind, int fd, kars_err_t *err)
{
    kars__ask_t m = { .kind = kind };
    int reply_fd;

    if (kars__ask_send(channel, &m, fd) != KARS_OK ||
        kars__ask_recv(channel, &m, &reply_fd) != KARS_OK || m.error != 0) {
        return kars__err(err, 0, "the master does not take what it is given");
    }
    return KARS_OK;
}
