/* take.c - requests whose connection becomes somebody else's: the opening of
 * an answer without an end of its own, and tunnels (CONNECT, RFC 9110 9.3.6).
 */
#include "http/conn.h"
#include "http/recheck.h"
#include "http/tunnel.h"

#include <errno.h>

void
kars__req_open(kars_req_t *r, uint32_t status)
{
    r->status = status;
    r->open_ended = 1;

    int rc = kars__filters_head(r);

    if (rc == KARS_DONE) {
        kars__req_send_answer(r);
    } else if (rc != KARS_OK) {
        r->proto->abort(r);
    } else {
        kars__lasting_add(r, r->taker->end);
        /* Empty, so that a filter can hold the opening back. */
        (void) kars__filters_body(r, NULL, KARS_FLUSH);
    }
}

static void
take_fact(kars_req_t *r, const char *name, kars_str_t text, int64_t number)
{
    kars__var_t *v = kars__var(r, kars__strz(name), 1);

    if (v != NULL) {
        v->text = text;
        v->number = number;
    }
}

void
kars__req_over(kars_req_t *r, int error, uint64_t bytes_in, uint64_t bytes_out)
{
    r->body_size = bytes_in;
    r->answer_bytes = bytes_out;
    if (error == 0) {
        (void) kars__filters_body(r, NULL, KARS_LAST);
        return;
    }
    take_fact(r, "deny_code",
              error == ETIMEDOUT ? KARS_STR("timeout") : KARS_STR("cut"), 0);
    take_fact(r, "deny_reason", kars__strz(strerror(error)), 0);
}

/* A tunnel for a request. */

typedef struct {
    kars__tunnel_t tunnel; /* first */
    kars_req_t *r;
} take_t;

void
kars__req_tunnel_facts(kars_req_t *r, const kars__tunnel_t *t)
{
    const kars__upserver_t *s = kars__dial_server(t->dial);

    take_fact(r, "upstream", t->to->name, 0);
    take_fact(r, "attempts", (kars_str_t){ NULL, 0 },
              kars__dial_attempts(t->dial));
    take_fact(r, "upstream_host", s->at.host, 0);
    take_fact(r, "upstream_port", (kars_str_t){ NULL, 0 }, s->at.port);
}

static void
take_stands(kars__tunnel_t *t, int error)
{
    kars_req_t *r = ((take_t *) t)->r;

    kars__req_tunnel_facts(r, t);
    if (error == 0) {
        kars__req_open(r, 200);
        return;
    }
    kars__tunnel_stop(t);
    r->answer = KARS__ANSWER_NONE;
    (void) kars__req_refuse(
        r, error == ETIMEDOUT ? 504 : 502, "proxy_error",
        error == ETIMEDOUT ? "upstream_timeout" : "bad_gateway",
        error == ETIMEDOUT ? "the server did not take the connection in time"
                           : "the server takes no connection");
    kars__req_send_answer(r);
}

static void
take_begin(kars_req_t *r, void *data)
{
    take_t *k = data;

    if (kars__tunnel_dial(&k->tunnel) != KARS_OK) {
        r->answer = KARS__ANSWER_NONE;
        (void) kars__req_refuse(r, 503, "server_error", "overloaded",
                                "no memory for a tunnel");
        kars__req_send_answer(r);
    }
}

/* The connection while it is a tunnel. */

static void
take_ready(kars_conn_t *c, uint32_t events)
{
    kars__tunnel_run(&((take_t *) c->user)->tunnel);
}

static void
take_timeout(kars_conn_t *c)
{
    /* The relay has timers of its own. */
}

/* The last byte is recorded, or the record failed. */
static void
take_flush(kars_conn_t *c)
{
    if (c->h1.ended || c->h1.broken) {
        kars__conn_close(c);
    }
}

static void
take_drain(kars_conn_t *c, int force)
{
    if (force > 1) {
        kars__tunnel_t *t = &((take_t *) c->user)->tunnel;

        kars__req_over(c->h1.r, ECANCELED, t->relay.flow[0].bytes,
                       t->relay.flow[1].bytes);
        kars__conn_close(c);
    }
}

/* The request ends with its connection. */
static void
take_close(kars_conn_t *c)
{
    kars__http1_ops.close(c);
}

static const kars__conn_ops_t take_ops = {
    .ready = take_ready,
    .timeout = take_timeout,
    .flush = take_flush,
    .drain = take_drain,
    .close = take_close,
};

static void
take_done(kars__tunnel_t *t, int error)
{
    kars_req_t *r = ((take_t *) t)->r;

    kars__req_over(r, error, t->relay.flow[0].bytes, t->relay.flow[1].bytes);
    if (error != 0) {
        kars__conn_close(r->conn);
    }
}

static void
take_taken(kars_req_t *r, void *data)
{
    take_t *k = data;
    kars_conn_t *c = r->conn;
    kars__http1_t *h = &c->h1;
    kars_str_t first = { h->rd != NULL ? h->rd->data + h->rd_at : NULL,
                         h->rd_end - h->rd_at };

    c->user = k;
    c->ops = &take_ops;
    kars__timer_stop(r->cycle->loop, &c->timer);
    if (kars__tunnel_join(&k->tunnel, &c->sock, first, 0) != KARS_OK) {
        kars__conn_close(c);
        return;
    }
    kars__block_unref(h->rd);
    h->rd = NULL;
    h->rd_at = h->rd_end = 0;
}

static void
take_gone(kars_req_t *r, void *data)
{
    take_t *k = data;

    if (k->tunnel.joined) {
        r->body_size = k->tunnel.relay.flow[0].bytes;
        r->answer_bytes = k->tunnel.relay.flow[1].bytes;
    }
    kars__tunnel_stop(&k->tunnel);
}

static void
take_end(kars_req_t *r, const kars_denial_t *denial)
{
    kars__conn_close(r->conn); /* bytes have no place for a word about it */
}

static const kars__taker_t take_taker = {
    .begin = take_begin,
    .taken = take_taken,
    .gone = take_gone,
    .end = take_end,
};

int
kars__req_tunnel(kars_req_t *r, kars_upstream_t *to)
{
    take_t *k = kars__pnew(r->pool, take_t);

    if (r->answer != KARS__ANSWER_NONE || k == NULL ||
        r->proto != &kars__http1_proto) {
        return KARS_ERROR;
    }
    k->r = r;
    kars__tunnel_to(&k->tunnel, r->cycle, to);
    k->tunnel.stands = take_stands;
    k->tunnel.done = take_done;
    r->taker = &take_taker;
    r->taker_data = k;
    r->answer = KARS__ANSWER_TAKEN;
    return KARS_DONE;
}
