/* tunnel.c - a socket joined to an upstream. */
#include "http/tunnel.h"

#include <errno.h>

static void
tunnel_dialed(kars__dial_t *d, int error, void *data)
{
    kars__tunnel_t *t = data;

    t->stands(t, error);
}

static void
tunnel_ready(kars__dial_t *d, uint32_t events, void *data)
{
    kars__tunnel_run(data);
}

static const kars__dial_handler_t tunnel_handler = {
    .done = tunnel_dialed,
    .ready = tunnel_ready,
};

static void
tunnel_done(kars__relay_t *relay, int error)
{
    kars__tunnel_t *t =
        (kars__tunnel_t *) ((char *) relay - offsetof(kars__tunnel_t, relay));

    t->done(t, error);
}

void
kars__tunnel_to(kars__tunnel_t *t, kars_cycle_t *cycle, kars_upstream_t *to)
{
    t->cycle = cycle;
    t->to = to;
    kars__upstream_ref(to);
}

int
kars__tunnel_dial(kars__tunnel_t *t)
{
    t->dial = kars__dial(t->cycle, t->to, &tunnel_handler, t);
    return t->dial != NULL ? KARS_OK : KARS_ERROR;
}

int
kars__tunnel_join(kars__tunnel_t *t, kars__sock_t *sock, kars_str_t first,
                  uint64_t idle_ms)
{
    if (kars__relay_start(&t->relay, t->cycle->loop, &t->cycle->pipes, sock,
                          kars__dial_sock(t->dial), first,
                          idle_ms != 0 ? idle_ms : t->to->idle_ms,
                          t->to->total_ms, tunnel_done) != KARS_OK) {
        return KARS_ERROR;
    }
    t->joined = 1;
    return KARS_OK;
}

void
kars__tunnel_run(kars__tunnel_t *t)
{
    if (t->joined) {
        kars__relay_run(&t->relay);
    }
}

void
kars__tunnel_stop(kars__tunnel_t *t)
{
    if (t->joined) {
        kars__relay_stop(&t->relay);
    }
    if (t->dial != NULL) {
        kars__dial_close(t->dial);
        t->dial = NULL;
    }
    if (t->to != NULL) {
        kars__upstream_unref(t->to);
        t->to = NULL;
    }
}
