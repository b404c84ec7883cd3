/*
 * resolve.h - names to addresses without blocking (c-ares).
 *
 * Resolvers are read from /etc/resolv.conf when the resolver is made. Where it
 * names none, only /etc/hosts is asked: c-ares would turn to 127.0.0.1, and in
 * a pod that could be the agent.
 */
#ifndef KARS_EVENT_RESOLVE_H
#define KARS_EVENT_RESOLVE_H

#include "event/reactor.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

typedef struct {
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    } u;
    socklen_t len;
} kars__addr_t;

#define KARS__ADDR_TEXT 128

/* An IP literal; KARS_ERROR for a name. */
int kars__addr_literal(kars_str_t host, uint32_t port, kars__addr_t *ret);

/* "unix:/path"; KARS_ERROR when it is no such thing or too long. */
int kars__addr_unix(kars_str_t text, kars__addr_t *ret);

/* "127.0.0.1:80", "[::1]:80", "unix:/path"; returns the length. */
size_t kars__addr_text(const kars__addr_t *addr, char ret[KARS__ADDR_TEXT]);

typedef struct kars__resolver_s kars__resolver_t;

kars__resolver_t *kars__resolver_create(kars__loop_t *loop, kars_err_t *err);
void kars__resolver_destroy(kars__resolver_t *r); /* ends what is under way */

#define KARS__RESOLVE_MAX 16

/* error: 0, or ENOENT (no such name), ETIMEDOUT, ECANCELED, EIO. addrs are
 * borrowed; ttl_s: the smallest of the answers, 0 for what has none. */
typedef void (*kars__resolve_pt)(void *data, int error,
                                 const kars__addr_t *addrs, size_t n,
                                 uint32_t ttl_s);

/* fn runs exactly once, maybe before this returns. */
void kars__resolve(kars__resolver_t *r, kars_str_t host, uint32_t port,
                   kars__resolve_pt fn, void *data);

#endif
