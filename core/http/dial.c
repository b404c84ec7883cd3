/* dial.c - a connection to an upstream. */
#include "http/dial.h"
#include "http/upconn.h"

#include <errno.h>

struct kars__dial_s {
    kars_cycle_t *cycle;
    kars_upstream_t *upstream; /* counted */
    kars__upserver_t *server;
    const kars__dial_handler_t *handler;
    void *data;
    kars__updial_t *dial; /* NULL: none under way */
    kars__upconn_t *conn; /* it stands */
    kars__work_t later;   /* begin, or free */
    uint32_t attempts;
    uint8_t closed;
};

static void dial_server(kars__dial_t *d);

static void
dial_free(kars__work_t *work)
{
    kars__dial_t *d =
        (kars__dial_t *) ((char *) work - offsetof(kars__dial_t, later));

    kars__free(d->conn);
    kars__free(d);
}

void
kars__dial_close(kars__dial_t *d)
{
    if (d->closed) {
        return;
    }
    d->closed = 1;
    kars__updial_cancel(d->dial);
    if (d->conn != NULL) { /* its functions may be on the stack */
        kars__sock_close(&d->conn->sock);
    }
    kars__upstream_unref(d->upstream);
    kars__work_cancel(d->cycle->loop, &d->later);
    d->later.fn = dial_free;
    kars__work_queue(d->cycle->loop, &d->later, KARS__POST);
}

static void
dial_ready(kars__sock_t *sock, uint32_t events)
{
    kars__dial_t *d = ((kars__upconn_t *) sock)->user;

    d->handler->ready(d, events, d->data);
}

/* It stands; or this server is not to be had: another, or the end. */
static void
dial_done(kars__upconn_t *c, int error, const char *why, void *data)
{
    kars__dial_t *d = data;
    const kars_upstream_t *u = d->upstream;

    kars__upstream_result(d->cycle, d->upstream, d->server, c != NULL);
    if (c != NULL) {
        d->conn = c;
        c->user = d;
        c->sock.ready = dial_ready;
        kars__sock_want(&c->sock, 0);
        d->handler->done(d, 0, d->data);
        return;
    }
    kars__log(KARS_LOG_WARN,
              "router: upstream failed upstream=%.*s server=%.*s attempt=%u "
              "error=\"%s\"",
              KARS_STR_ARG(u->name), KARS_STR_ARG(d->server->text), d->attempts,
              why != NULL ? why : strerror(error));
    if (u->retry_on == 0 && d->attempts <= u->retries) {
        dial_server(d);
        return;
    }
    d->handler->done(d, error, d->data);
}

/* The next server. */
static void
dial_server(kars__dial_t *d)
{
    uint8_t key[KARS__TLS_KEY] = { 0 }; /* it is never kept for another */

    d->server = kars__upstream_pick(d->cycle, d->upstream, d->server);
    d->attempts++;
    kars__updial(&d->dial, d->cycle, d->upstream, d->server, key, dial_done, d);
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
    d->cycle = cycle;
    d->upstream = upstream;
    kars__upstream_ref(upstream);
    d->handler = handler;
    d->data = data;
    d->later.fn = dial_begin;
    kars__work_queue(cycle->loop, &d->later, KARS__POST);
    return d;
}

kars__sock_t *
kars__dial_sock(kars__dial_t *d)
{
    return &d->conn->sock;
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
