/* dial.c - a connection to an upstream. */
#include "http/dial.h"

#include "net/tls_client.h"

#include <errno.h>

#define DIAL_TTL_MAX_S 300u

/* A name being resolved; outlives a connection that was given up. */
typedef struct {
    kars__dial_t *d;
    kars_cycle_t *cycle;
    kars_upstream_t *upstream; /* counted */
    kars__upserver_t *server;
} dial_lookup_t;

struct kars__dial_s {
    kars__sock_t sock; /* first */
    kars_cycle_t *cycle;
    kars_upstream_t *upstream;
    kars__upserver_t *server;
    const kars__dial_handler_t *handler;
    void *data;
    dial_lookup_t *lookup;
    kars__timer_t timer;
    kars__work_t later; /* begin, or free */
    size_t addr;        /* the next to try */
    uint32_t attempts;
    int last_error;
    const char *why; /* what TLS found wrong; NULL: nothing */
    uint8_t stands;
    uint8_t closed;
};

static void dial_connect(kars__dial_t *d);
static void dial_server(kars__dial_t *d);

static void
dial_free(kars__work_t *work)
{
    kars__free((char *) work - offsetof(kars__dial_t, later));
}

void
kars__dial_close(kars__dial_t *d)
{
    if (d->closed) {
        return;
    }
    d->closed = 1;
    if (d->lookup != NULL) {
        d->lookup->d = NULL;
    }
    kars__timer_stop(d->cycle->loop, &d->timer);
    if (d->sock.fd != -1) {
        kars__sock_close(&d->sock);
    }
    kars__upstream_unref(d->upstream);
    kars__work_cancel(d->cycle->loop, &d->later);
    d->later.fn = dial_free;
    kars__work_queue(d->cycle->loop, &d->later, KARS__POST);
}

/* This server is not to be had: another, or the end. */
static void
dial_failed(kars__dial_t *d, int error)
{
    const kars_upstream_t *u = d->upstream;

    kars__timer_stop(d->cycle->loop, &d->timer);
    kars__upstream_result(d->cycle, d->upstream, d->server, 0);
    kars__log(KARS_LOG_WARN,
              "router: upstream failed upstream=%.*s server=%.*s attempt=%u "
              "error=\"%s\"",
              KARS_STR_ARG(u->name), KARS_STR_ARG(d->server->text), d->attempts,
              d->why != NULL ? d->why : strerror(error));
    if (u->retry_on == 0 && d->attempts <= u->retries) {
        dial_server(d);
        return;
    }
    d->handler->done(d, error, d->data);
}

static void
dial_timeout(kars__timer_t *t)
{
    kars__dial_t *d =
        (kars__dial_t *) ((char *) t - offsetof(kars__dial_t, timer));

    if (d->lookup != NULL) {
        d->lookup->d = NULL;
        d->lookup = NULL;
    }
    if (d->sock.fd != -1) {
        kars__sock_close(&d->sock);
    }
    dial_failed(d, ETIMEDOUT);
}

static void
dial_ready(kars__sock_t *sock, uint32_t events)
{
    kars__dial_t *d = (kars__dial_t *) sock;

    if (d->stands) {
        d->handler->ready(d, events, d->data);
        return;
    }

    int e = kars__sock_connected(sock);

    if (e == EINPROGRESS) {
        return; /* the handshake of TLS goes on */
    }
    if (e != 0) {
        d->last_error = e;
        d->why = kars__sock_why(sock);
        kars__sock_close(sock);
        dial_connect(d);
        return;
    }
    d->stands = 1;
    kars__timer_stop(d->cycle->loop, &d->timer);
    kars__sock_want(sock, 0);
    kars__upstream_result(d->cycle, d->upstream, d->server, 1);
    d->handler->done(d, 0, d->data);
}

/* The next address of the server. */
static void
dial_connect(kars__dial_t *d)
{
    kars__upserver_t *s = d->server;

    while (d->addr < s->naddrs) {
        int fd = kars__sock_connect(&s->addrs[d->addr++]);

        if (fd == -1) {
            d->last_error = errno;
            continue;
        }
        kars__sock_open(&d->sock, d->cycle->loop, fd, dial_ready);
        if (d->upstream->tls_client != NULL &&
            kars__tls_connect(d->upstream->tls_client, &d->sock, s->at.host,
                              &s->tls) != KARS_OK) {
            d->last_error = ENOMEM;
            kars__sock_close(&d->sock);
            continue;
        }
        kars__sock_want(&d->sock, KARS__WRITE);
        return;
    }
    dial_failed(d, d->last_error != 0 ? d->last_error : ECONNREFUSED);
}

static void
dial_resolved(void *data, int error, const kars__addr_t *addrs, size_t n,
              uint32_t ttl_s)
{
    dial_lookup_t *l = data;
    kars__dial_t *d = l->d;

    if (error == 0) {
        uint64_t ttl = ttl_s < 1 ? 1 : ttl_s;

        memcpy(l->server->addrs, addrs, n * sizeof(*addrs));
        l->server->naddrs = n;
        l->server->fresh_until_ms =
            kars__loop_now(l->cycle->loop) +
            (ttl > DIAL_TTL_MAX_S ? DIAL_TTL_MAX_S : ttl) * 1000;
    }
    kars__upstream_unref(l->upstream);
    kars__free(l);
    if (d == NULL) {
        return;
    }
    d->lookup = NULL;
    if (error != 0) {
        dial_failed(d, error);
        return;
    }
    dial_connect(d);
}

/* The next server, from the first of its addresses on. */
static void
dial_server(kars__dial_t *d)
{
    kars_cycle_t *c = d->cycle;

    d->server = kars__upstream_pick(c, d->upstream, d->server);
    d->attempts++;
    d->addr = 0;
    d->last_error = 0;
    d->why = NULL;
    kars__timer_start(c->loop, &d->timer, d->upstream->connect_ms);
    if (d->server->fresh_until_ms > kars__loop_now(c->loop)) {
        dial_connect(d);
        return;
    }

    dial_lookup_t *l = kars__alloc(sizeof(*l));

    if (l == NULL) {
        kars__timer_stop(c->loop, &d->timer);
        d->handler->done(d, ENOMEM, d->data);
        return;
    }
    *l = (dial_lookup_t){ d, c, d->upstream, d->server };
    kars__upstream_ref(d->upstream);
    d->lookup = l;
    kars__resolve(c->resolver, d->server->at.host, d->server->at.port,
                  dial_resolved, l);
}

static void
dial_begin(kars__work_t *work)
{
    dial_server(
        (kars__dial_t *) ((char *) work - offsetof(kars__dial_t, later)));
}

kars__dial_t *
kars__dial(kars_cycle_t *cycle, kars_upstream_t *upstream,
           const kars__dial_handler_t *handler, void *data)
{
    kars__dial_t *d = kars__alloc(sizeof(*d));

    if (d == NULL) {
        return NULL;
    }
    d->sock.fd = -1;
    d->cycle = cycle;
    d->upstream = upstream;
    kars__upstream_ref(upstream);
    d->handler = handler;
    d->data = data;
    d->timer.fn = dial_timeout;
    d->later.fn = dial_begin;
    kars__work_queue(cycle->loop, &d->later, KARS__POST);
    return d;
}

kars__sock_t *
kars__dial_sock(kars__dial_t *d)
{
    return &d->sock;
}

const kars__upserver_t *
kars__dial_server(const kars__dial_t *d)
{
    return d->server;
}

uint32_t
kars__dial_attempts(const kars__dial_t *d)
{
    return d->attempts;
}
