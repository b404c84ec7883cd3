/* resolve.c - c-ares on our loop. */
#include "event/resolve.h"
#include "base/pool.h"
#include "base/str.h"

#include <ares.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>

#define RESOLVE_FDS 32

typedef struct {
    kars__io_t io;
    kars__resolver_t *owner;
    int fd; /* -1: free */
} resolve_fd_t;

struct kars__resolver_s {
    kars__loop_t *loop;
    ares_channel channel;
    kars__timer_t timer;
    resolve_fd_t fds[RESOLVE_FDS];
};

typedef struct {
    kars__resolve_pt fn;
    void *data;
    uint32_t port;
} resolve_query_t;

int
kars__addr_literal(kars_str_t host, uint32_t port, kars__addr_t *ret)
{
    char text[INET6_ADDRSTRLEN + 1];
    kars__addr_t a;

    if (host.len == 0 || host.len > INET6_ADDRSTRLEN) {
        return KARS_ERROR;
    }
    memcpy(text, host.data, host.len);
    text[host.len] = '\0';
    memset(&a, 0, sizeof(a));

    if (inet_pton(AF_INET, text, &a.u.in.sin_addr) == 1) {
        a.u.in.sin_family = AF_INET;
        a.u.in.sin_port = htons((uint16_t) port);
        a.len = sizeof(a.u.in);
    } else if (inet_pton(AF_INET6, text, &a.u.in6.sin6_addr) == 1) {
        a.u.in6.sin6_family = AF_INET6;
        a.u.in6.sin6_port = htons((uint16_t) port);
        a.len = sizeof(a.u.in6);
    } else {
        return KARS_ERROR;
    }
    *ret = a;
    return KARS_OK;
}

int
kars__addr_unix(kars_str_t text, kars__addr_t *ret)
{
    kars_str_t prefix = KARS_STR("unix:");

    if (!kars_str_starts(text, prefix) || text.len == prefix.len ||
        text.len - prefix.len >= sizeof(ret->u.un.sun_path)) {
        return KARS_ERROR;
    }
    memset(ret, 0, sizeof(*ret));
    ret->u.un.sun_family = AF_UNIX;
    memcpy(ret->u.un.sun_path, text.data + prefix.len, text.len - prefix.len);
    ret->len = sizeof(ret->u.un);
    return KARS_OK;
}

size_t
kars__addr_text(const kars__addr_t *addr, char ret[KARS__ADDR_TEXT])
{
    char ip[INET6_ADDRSTRLEN] = "";
    int n = 0;

    switch (addr->u.sa.sa_family) {
    case AF_INET:
        (void) inet_ntop(AF_INET, &addr->u.in.sin_addr, ip, sizeof(ip));
        n = snprintf(ret, KARS__ADDR_TEXT, "%s:%u", ip,
                     ntohs(addr->u.in.sin_port));
        break;
    case AF_INET6:
        (void) inet_ntop(AF_INET6, &addr->u.in6.sin6_addr, ip, sizeof(ip));
        n = snprintf(ret, KARS__ADDR_TEXT, "[%s]:%u", ip,
                     ntohs(addr->u.in6.sin6_port));
        break;
    default:
        n = snprintf(ret, KARS__ADDR_TEXT, "unix:%s",
                     addr->u.sa.sa_family == AF_UNIX ? addr->u.un.sun_path
                                                     : "");
        break;
    }
    return n > 0 ? (size_t) n : 0;
}

/* The next time-out of c-ares as our timer. */
static void
resolve_arm(kars__resolver_t *r)
{
    struct timeval tv, *t = ares_timeout(r->channel, NULL, &tv);

    if (t == NULL) {
        kars__timer_stop(r->loop, &r->timer);
    } else {
        kars__timer_stop(r->loop, &r->timer);
        kars__timer_start(r->loop, &r->timer,
                          (uint64_t) t->tv_sec * 1000 +
                              (uint64_t) t->tv_usec / 1000 + 1);
    }
}

static void
resolve_timeout(kars__timer_t *t)
{
    kars__resolver_t *r =
        (kars__resolver_t *) ((char *) t - offsetof(kars__resolver_t, timer));

    ares_process_fd(r->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
    resolve_arm(r);
}

static void
resolve_ready(kars__io_t *io, uint32_t events)
{
    resolve_fd_t *f = (resolve_fd_t *) io;
    kars__resolver_t *r = f->owner;

    ares_process_fd(r->channel, events & KARS__READ ? f->fd : ARES_SOCKET_BAD,
                    events & KARS__WRITE ? f->fd : ARES_SOCKET_BAD);
    resolve_arm(r);
}

static void
resolve_socket(void *data, ares_socket_t fd, int readable, int writable)
{
    kars__resolver_t *r = data;
    resolve_fd_t *slot = NULL;

    for (size_t i = 0; i < RESOLVE_FDS; i++) {
        if (r->fds[i].fd == fd) {
            slot = &r->fds[i];
            break;
        }
        if (slot == NULL && r->fds[i].fd == -1) {
            slot = &r->fds[i];
        }
    }
    if (slot == NULL) {
        return; /* its query times out */
    }
    if (slot->fd != fd) {
        slot->fd = fd;
        kars__io_init(&slot->io, r->loop, fd, resolve_ready);
    }
    kars__io_want(&slot->io,
                  (readable ? KARS__READ : 0u) | (writable ? KARS__WRITE : 0u));
    if (!readable && !writable) {
        slot->fd = -1;
    }
}

/* Does /etc/resolv.conf name a resolver at all? */
static int
resolve_has_server(void)
{
    char line[512];
    int found = 0;
    FILE *f = fopen("/etc/resolv.conf", "re");

    while (f != NULL && !found && fgets(line, sizeof(line), f) != NULL) {
        found = strncmp(line + strspn(line, " \t"), "nameserver", 10) == 0;
    }
    if (f != NULL) {
        (void) fclose(f);
    }
    return found;
}

kars__resolver_t *
kars__resolver_create(kars__loop_t *loop, kars_err_t *err)
{
    static int library;
    kars__resolver_t *r = kars__alloc(sizeof(*r));
    struct ares_options opts;
    char hosts_only[] = "f";
    int mask = ARES_OPT_SOCK_STATE_CB | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES;

    if (r == NULL || (!library && ares_library_init(ARES_LIB_INIT_ALL) != 0)) {
        (void) kars__err(err, ENOMEM, "the resolver");
        kars__free(r);
        return NULL;
    }
    library = 1;
    r->loop = loop;
    r->timer.fn = resolve_timeout;
    for (size_t i = 0; i < RESOLVE_FDS; i++) {
        r->fds[i].fd = -1;
        r->fds[i].owner = r;
    }

    memset(&opts, 0, sizeof(opts));
    opts.sock_state_cb = resolve_socket;
    opts.sock_state_cb_data = r;
    opts.timeout = 2000;
    opts.tries = 3;
    if (!resolve_has_server()) {
        opts.lookups = hosts_only;
        mask |= ARES_OPT_LOOKUPS;
    }

    int rc = ares_init_options(&r->channel, &opts, mask);

    if (rc != ARES_SUCCESS) {
        (void) kars__err(err, 0, "the resolver: %s", ares_strerror(rc));
        kars__free(r);
        return NULL;
    }
    return r;
}

void
kars__resolver_destroy(kars__resolver_t *r)
{
    if (r == NULL) {
        return;
    }
    ares_destroy(r->channel); /* calls back with ARES_EDESTRUCTION */
    kars__timer_stop(r->loop, &r->timer);
    kars__free(r);
}

static int
resolve_error(int status)
{
    switch (status) {
    case ARES_SUCCESS:
        return 0;
    case ARES_ETIMEOUT:
    case ARES_ECONNREFUSED:
        return ETIMEDOUT;
    case ARES_EDESTRUCTION:
    case ARES_ECANCELLED:
        return ECANCELED;
    case ARES_ENOTFOUND:
    case ARES_ENODATA:
    case ARES_EBADNAME:
        return ENOENT;
    default:
        return EIO;
    }
}

static void
resolve_done(void *arg, int status, int timeouts, struct ares_addrinfo *info)
{
    resolve_query_t *q = arg;
    kars__addr_t addrs[KARS__RESOLVE_MAX] = { 0 };
    size_t n = 0;
    uint32_t ttl = 0;
    int error = resolve_error(status);
    struct ares_addrinfo_node *node = info != NULL ? info->nodes : NULL;

    for (; error == 0 && node != NULL && n < KARS__RESOLVE_MAX;
         node = node->ai_next) {
        kars__addr_t *a = &addrs[n];

        if (node->ai_addrlen > sizeof(a->u)) {
            continue;
        }
        memset(a, 0, sizeof(*a));
        memcpy(&a->u, node->ai_addr, node->ai_addrlen);
        a->len = node->ai_addrlen;
        if (n == 0 || (uint32_t) node->ai_ttl < ttl) {
            ttl = (uint32_t) node->ai_ttl;
        }
        n++;
    }
    q->fn(q->data, error != 0 ? error : n == 0 ? ENOENT : 0, addrs, n, ttl);
    if (info != NULL) {
        ares_freeaddrinfo(info);
    }
    kars__free(q);
}

void
kars__resolve(kars__resolver_t *r, kars_str_t host, uint32_t port,
              kars__resolve_pt fn, void *data)
{
    kars__addr_t literal;
    char name[256], service[8];

    if (kars__addr_literal(host, port, &literal) == KARS_OK) {
        fn(data, 0, &literal, 1, 0);
        return;
    }

    resolve_query_t *q = kars__alloc(sizeof(*q));

    if (q == NULL || host.len >= sizeof(name)) {
        kars__free(q);
        fn(data, q == NULL ? ENOMEM : ENOENT, NULL, 0, 0);
        return;
    }
    q->fn = fn;
    q->data = data;
    q->port = port;
    memcpy(name, host.data, host.len);
    name[host.len] = '\0';
    (void) snprintf(service, sizeof(service), "%u", port);

    struct ares_addrinfo_hints hints = {
        .ai_flags = ARES_AI_NUMERICSERV,
        .ai_family = AF_UNSPEC,
        .ai_socktype = SOCK_STREAM,
    };

    ares_getaddrinfo(r->channel, name, service, &hints, resolve_done, q);
    resolve_arm(r);
}
