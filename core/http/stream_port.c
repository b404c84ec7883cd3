/* stream_port.c - where streams come from and go to: the listeners of modules,
 * tunnels, and HTTP after all. */
#include "http/stream.h"

#include <errno.h>

int
kars__stream_listen(kars_cycle_t *cycle, kars_str_t address, uint32_t datagram,
                    const kars_stream_handler_t *handler, void *data,
                    kars_err_t *err)
{
    kars__mod_t *mod = kars__mod_now;
    const char *udp = datagram ? " udp" : "";
    kars__port_t *port = kars__pnew(cycle->pool, kars__port_t);
    size_t n = 0;

    if (mod == NULL || port == NULL) {
        return kars__err(err, ENOMEM, "a listener");
    }
    port->mod = mod;
    port->data = data;
    memcpy(&port->handler, handler,
           handler->size < sizeof(port->handler) ? handler->size
                                                 : sizeof(port->handler));
    for (kars_listener_t *l = cycle->listeners; l != NULL; l = l->next) {
        if (!kars_str_eq(l->module, kars__strz(mod->def.name)) ||
            l->datagram != (datagram != 0) ||
            (address.len != 0 && !kars_str_eq(l->address, address))) {
            continue;
        }
        n++;
        if (l->port == NULL) {
            l->port = port;
        } else if (address.len != 0) {
            return kars__err(err, 0, "%s listens twice on %.*s", mod->def.name,
                             KARS_STR_ARG(address));
        }
    }
    return n != 0
               ? KARS_OK
               : kars__err(err, 0, "no server has `listen %.*s%s module=%s;`",
                           address.len != 0 ? (int) address.len : 7,
                           address.len != 0 ? address.data : "ADDRESS", udp,
                           mod->def.name);
}

int
kars__stream_check_ports(const kars_cycle_t *cycle, kars_err_t *err)
{
    for (const kars_listener_t *l = cycle->listeners; l != NULL; l = l->next) {
        if (l->module.len != 0 && l->port == NULL) {
            return kars__err(err, 0,
                             "listen %.*s%s module=%.*s: no loaded module of "
                             "that name takes it",
                             KARS_STR_ARG(l->address),
                             l->datagram ? " udp" : "",
                             KARS_STR_ARG(l->module));
        }
    }
    return KARS_OK;
}

/* To HTTP. */

int
kars__stream_http(kars_stream_t *s, kars_str_t listener)
{
    kars_listener_t *l = s->cycle->listeners;

    while (l != NULL &&
           (l->module.len != 0 || !kars_str_eq(l->address, listener))) {
        l = l->next;
    }
    if (l == NULL || s->conn == NULL || s->closing || s->tunnel.to != NULL ||
        s->deciding || s->out != NULL) {
        return KARS_ERROR;
    }
    s->http = l;
    kars__stream_later(s);
    return KARS_OK;
}

void
kars__stream_handover(kars_stream_t *s)
{
    kars_conn_t *c = s->conn;

    c->listener = s->http;
    c->user = NULL;
    c->ops = &kars__http1_ops;
    c->h1.rd = s->rd;
    c->h1.rd_at = s->rd_at;
    c->h1.rd_end = s->rd_end;
    s->rd = NULL;
    kars__stream_forget(s);
    kars__conn_begin(c);
    kars__http1_input(c);
    kars__http1_want(c);
}

/* To an upstream. */

int
kars__stream_tunnel(kars_stream_t *s, kars_upstream_t *to)
{
    if (s->conn == NULL || !s->allowed || s->closing || s->failed ||
        s->tunnel.to != NULL || s->http != NULL || to == NULL) {
        return KARS_ERROR;
    }
    kars__tunnel_to(&s->tunnel, s->cycle, to);
    kars__stream_later(s);
    return KARS_OK;
}

static void
port_stands(kars__tunnel_t *t, int error)
{
    kars_stream_t *s =
        (kars_stream_t *) ((char *) t - offsetof(kars_stream_t, tunnel));
    kars_str_t first = { NULL, 0 };

    kars__req_tunnel_facts(s->r, t);
    if (s->rd != NULL) {
        first = (kars_str_t){ s->rd->data + s->rd_at, s->rd_end - s->rd_at };
    }
    if (error != 0 || kars__tunnel_join(t, s->sock, first,
                                        s->timed ? s->idle_ms : 0) != KARS_OK) {
        kars__stream_fail(s, error != 0 ? error : ENOMEM);
        return;
    }
    kars__timer_stop(s->cycle->loop, &s->idle); /* the relay has its own */
    s->bytes_in -= first.len;                   /* and counts these */
    kars__block_unref(s->rd);
    s->rd = NULL;
    s->rd_at = s->rd_end = 0;
}

static void
port_done(kars__tunnel_t *t, int error)
{
    kars_stream_t *s =
        (kars_stream_t *) ((char *) t - offsetof(kars_stream_t, tunnel));

    s->error = error;
    kars__conn_close(s->conn);
}

/* What the module wrote itself is out by now. */
void
kars__stream_tunnel_begin(kars_stream_t *s)
{
    if (s->out != NULL) {
        kars__sock_want(s->sock, KARS__WRITE);
        return;
    }
    kars__sock_want(s->sock, 0);
    if (s->tunnel.dial != NULL) {
        return; /* under way */
    }
    s->tunnel.stands = port_stands;
    s->tunnel.done = port_done;
    if (kars__tunnel_dial(&s->tunnel) != KARS_OK) {
        kars__stream_fail(s, ENOMEM);
    }
}
