/* upconn.c - new connections to servers, and those that are kept. Of a server's
 * addresses several are tried at once, each a little after the one before, and
 * the first connection that stands is taken (RFC 8305). */
#include "http/upconn.h"

#include <errno.h>
#include <unistd.h>

#define DIAL_STAGGER_MS 250u /* between two attempts: RFC 8305, section 5 */

/* Outlives its cancelling while the name is being asked for. */
struct kars__updial_s {
    kars_cycle_t *cycle;
    kars_upstream_t *upstream;
    kars__upserver_t *server;
    kars__updial_t **at; /* where its owner knows it */
    kars__updial_pt fn;  /* NULL: cancelled */
    void *data;
    kars__timer_t deadline;
    kars__timer_t stagger;
    kars__upconn_t *conns; /* that are being made, newest first */
    kars__addr_t addrs[KARS__RESOLVE_MAX];
    size_t naddrs;
    size_t next; /* the address to try */
    int error;   /* of the last that failed */
    const char *why;
    uint8_t resolving;
    uint8_t key[KARS__TLS_KEY];
};

void
kars__upconn_close(kars__upconn_t *c)
{
    kars__timer_stop(c->cycle->loop, &c->timer);
    kars__sock_close(&c->sock);
    kars__block_unref(c->rd);
    kars__free(c);
}

/* Idle connections. */

static void
idle_remove(kars__upconn_t *c)
{
    if (c->prev != NULL) {
        c->prev->next = c->next;
    } else {
        c->server->idle = c->next;
    }
    if (c->next != NULL) {
        c->next->prev = c->prev;
    }
    c->server->nidle--;
}

static void
idle_drop(kars__upconn_t *c)
{
    idle_remove(c);
    kars__upconn_close(c);
}

static void
idle_over(kars__timer_t *t)
{
    idle_drop(
        (kars__upconn_t *) ((char *) t - offsetof(kars__upconn_t, timer)));
}

/* An end, or bytes that nobody asked for. */
static void
idle_ready(kars__sock_t *sock, uint32_t events)
{
    if (!kars__sock_idle_ok(sock)) {
        idle_drop((kars__upconn_t *) sock);
    }
}

void
kars__idle_put(kars__upconn_t *c)
{
    if (c->server->nidle >= c->upstream->keepalive || c->cycle->draining) {
        kars__upconn_close(c);
        return;
    }
    kars__block_unref(c->rd);
    c->rd = NULL;
    c->rd_at = c->rd_end = c->scanned = 0;
    c->prev = NULL;
    c->next = c->server->idle;
    if (c->next != NULL) {
        c->next->prev = c;
    }
    c->server->idle = c;
    c->server->nidle++;
    c->idle_at_ms = kars__loop_now(c->cycle->loop);
    c->timer.fn = idle_over;
    kars__timer_start(c->cycle->loop, &c->timer,
                      c->upstream->keepalive_idle_ms);
    c->sock.ready = idle_ready;
    kars__sock_want(&c->sock, KARS__READ);
}

kars__upconn_t *
kars__idle_take(kars__upserver_t *s, const uint8_t key[KARS__TLS_KEY])
{
    kars__upconn_t *next;

    for (kars__upconn_t *c = s->idle; c != NULL; c = next) {
        next = c->next;
        if (memcmp(c->key, key, KARS__TLS_KEY) != 0) {
            continue;
        }
        idle_remove(c);
        kars__timer_stop(c->cycle->loop, &c->timer);
        /* The loop watches it since an earlier turn and has seen no end. Only
         * one that came back in this turn can have closed unseen. */
        if (c->idle_at_ms != kars__loop_now(c->cycle->loop) ||
            kars__sock_idle_ok(&c->sock)) {
            return c;
        }
        kars__upconn_close(c);
    }
    return NULL;
}

void
kars__idle_trim(kars__upserver_t *s, uint64_t n)
{
    while (s->nidle > n) {
        kars__upconn_t *c = s->idle;

        while (c->next != NULL) {
            c = c->next;
        }
        idle_drop(c);
    }
}

void
kars__upstream_close(kars_upstream_t *u)
{
    for (size_t i = 0; i < u->nservers; i++) {
        while (u->servers[i].idle != NULL) {
            idle_drop(u->servers[i].idle);
        }
        kars__tls_slot_done(&u->servers[i].tls);
    }
}

/* Ends of a dial. */

static void
dial_free(kars__updial_t *d)
{
    kars__upstream_unref(d->upstream);
    kars__free(d);
}

static void
dial_remove(kars__upconn_t *c)
{
    kars__upconn_t **at = &c->dial->conns;

    while (*at != c) {
        at = &(*at)->next;
    }
    *at = c->next;
    c->next = NULL;
    c->dial = NULL;
}

void
kars__updial_cancel(kars__updial_t *d)
{
    if (d == NULL) {
        return;
    }
    *d->at = NULL;
    d->fn = NULL;
    kars__timer_stop(d->cycle->loop, &d->deadline);
    kars__timer_stop(d->cycle->loop, &d->stagger);
    while (d->conns != NULL) {
        kars__upconn_t *c = d->conns;

        dial_remove(c);
        kars__upconn_close(c);
    }
    if (!d->resolving) {
        dial_free(d);
    }
}

/* Its owner hears; d is gone. */
static void
dial_end(kars__updial_t *d, kars__upconn_t *c, int error)
{
    kars__updial_pt fn = d->fn;
    void *data = d->data;
    const char *why = d->why;

    if (c != NULL) {
        dial_remove(c);
    }
    kars__updial_cancel(d);
    fn(c, error, why, data);
}

/* What the owner hears when none stands: of several errors the one that says
 * that a server is there and is not who it should be. */
static void
dial_failed(kars__updial_t *d, int error, const char *why)
{
    if (d->why == NULL) {
        d->error = error;
        d->why = why;
    }
}

static void
dial_timeout(kars__timer_t *t)
{
    kars__updial_t *d =
        (kars__updial_t *) ((char *) t - offsetof(kars__updial_t, deadline));

    dial_failed(d, ETIMEDOUT,
                d->conns != NULL ? kars__sock_why(&d->conns->sock) : NULL);
    dial_end(d, NULL, d->error);
}

/* Connecting. */

static void dial_next(kars__updial_t *d);

/* An address that proved better than those before it is the first to try for
 * as long as the name says the same. */
static void
dial_prefer(kars__upserver_t *s, const kars__addr_t *addr)
{
    for (size_t i = 1; i < s->naddrs; i++) {
        if (s->addrs[i].len == addr->len &&
            memcmp(&s->addrs[i].u, &addr->u, addr->len) == 0) {
            memmove(&s->addrs[1], &s->addrs[0], i * sizeof(s->addrs[0]));
            s->addrs[0] = *addr;
            return;
        }
    }
}

static void
dial_ready(kars__sock_t *sock, uint32_t events)
{
    kars__upconn_t *c = (kars__upconn_t *) sock;
    kars__updial_t *d = c->dial;
    int error = kars__sock_connected(sock);

    if (error == EINPROGRESS) {
        return;
    }
    if (error == 0) {
        dial_prefer(d->server, &c->addr);
        dial_end(d, c, 0);
        return;
    }
    dial_failed(d, error, kars__sock_why(sock));
    dial_remove(c);
    kars__upconn_close(c);
    dial_next(d);
}

static int
dial_conn(kars__updial_t *d, int fd, const kars__addr_t *addr)
{
    kars__upconn_t *c = kars__alloc(sizeof(*c));

    if (c == NULL) {
        (void) close(fd);
        return KARS_ERROR;
    }
    c->cycle = d->cycle;
    c->upstream = d->upstream;
    c->server = d->server;
    c->addr = *addr;
    memcpy(c->key, d->key, sizeof(c->key));
    kars__sock_open(&c->sock, d->cycle->loop, fd, dial_ready);
    if (c->upstream->tls_client != NULL &&
        kars__tls_connect(c->upstream->tls_client, &c->sock, c->server->at.host,
                          &c->server->tls) != KARS_OK) {
        kars__upconn_close(c);
        return KARS_ERROR;
    }
    c->dial = d;
    c->next = d->conns;
    d->conns = c;
    kars__sock_want(&c->sock, KARS__WRITE);
    return KARS_OK;
}

static void
dial_late(kars__timer_t *t)
{
    dial_next(
        (kars__updial_t *) ((char *) t - offsetof(kars__updial_t, stagger)));
}

/* One more attempt, at the next address. Without one: the end, unless others
 * are still under way. */
static void
dial_next(kars__updial_t *d)
{
    kars__timer_stop(d->cycle->loop, &d->stagger);
    while (d->next < d->naddrs) {
        const kars__addr_t *addr = &d->addrs[d->next++];
        int fd = kars__sock_connect(addr);

        if (fd == -1) {
            dial_failed(d, errno, NULL);
            continue;
        }
        if (dial_conn(d, fd, addr) != KARS_OK) {
            dial_end(d, NULL, ENOMEM);
            return;
        }
        if (d->next < d->naddrs) {
            d->stagger.fn = dial_late;
            kars__timer_start(d->cycle->loop, &d->stagger, DIAL_STAGGER_MS);
        }
        return;
    }
    if (d->conns == NULL) {
        dial_end(d, NULL, d->error != 0 ? d->error : ECONNREFUSED);
    }
}

static void
dial_begin(kars__updial_t *d)
{
    d->naddrs = d->server->naddrs;
    memcpy(d->addrs, d->server->addrs, d->naddrs * sizeof(d->addrs[0]));
    dial_next(d);
}

static void
dial_resolved(void *data, int error, const kars__addr_t *addrs, size_t n,
              uint32_t ttl_s)
{
    kars__updial_t *d = data;

    d->resolving = 0;
    if (error == 0) {
        kars__upserver_addrs(d->server, addrs, n, ttl_s,
                             kars__loop_now(d->cycle->loop));
    }
    if (d->fn == NULL) {
        dial_free(d);
    } else if (error != 0) {
        dial_end(d, NULL, error);
    } else {
        dial_begin(d);
    }
}

void
kars__updial(kars__updial_t **at, kars_cycle_t *cycle, kars_upstream_t *u,
             kars__upserver_t *s, const uint8_t key[KARS__TLS_KEY],
             kars__updial_pt fn, void *data)
{
    kars__updial_t *d = kars__alloc(sizeof(*d));

    if (d == NULL) {
        fn(NULL, ENOMEM, NULL, data);
        return;
    }
    *at = d;
    d->at = at;
    d->cycle = cycle;
    d->upstream = u;
    d->server = s;
    d->fn = fn;
    d->data = data;
    memcpy(d->key, key, sizeof(d->key));
    kars__upstream_ref(u);
    d->deadline.fn = dial_timeout;
    kars__timer_start(cycle->loop, &d->deadline, u->connect_ms);
    if (s->fresh_until_ms > kars__loop_now(cycle->loop)) {
        dial_begin(d);
        return;
    }
    d->resolving = 1;
    kars__resolve(cycle->resolver, s->at.host, s->at.port, dial_resolved, d);
}
