/* stream.c - streams: accepted and opened, read, written, closed. */
#include "http/stream.h"

#include <errno.h>

#define STREAM_READS    8u            /* recv calls for one readiness */
#define STREAM_READ_MAX (64u * 1024u) /* bytes that a module may leave */
#define STREAM_WRITE_MAX                                 \
    (256u * 1024u) /* more is AGAIN, four times it ERROR \
                    */
#define STREAM_POOL (256u * 1024u)

static void stream_work(kars__work_t *work);

/* Ends. */

void
kars__stream_forget(kars_stream_t *s)
{
    kars__timer_stop(s->cycle->loop, &s->idle);
    kars__stream_req_end(s);
    kars__tunnel_stop(&s->tunnel);
    if (s->dial != NULL) {
        kars__dial_close(s->dial);
    }
    kars__bufs_done(&s->bufs);
    kars__block_unref(s->rd);
    kars__pool_destroy(s->pool);
    kars__work_cancel(s->cycle->loop, &s->later);
    if (s->conn == NULL) {
        if (s->prev != NULL) {
            s->prev->next = s->next;
        } else {
            s->cycle->streams = s->next;
        }
        if (s->next != NULL) {
            s->next->prev = s->prev;
        }
    }
    kars__free(s);
}

static void
stream_free(kars_stream_t *s)
{
    s->closing = 1; /* nothing can be asked of it any more */
    if (!s->refused && s->handler.closed != NULL) {
        KARS__STREAM_CALL(s, s->handler.closed(s, s->error, s->data));
    }
    kars__stream_forget(s);
}

/* From the loop only. */
static void
stream_end(kars_stream_t *s, int error)
{
    if (s->error == 0) {
        s->error = error;
    }
    if (s->conn != NULL) {
        kars__conn_close(s->conn);
    } else {
        stream_free(s);
    }
}

void
kars__stream_fail(kars_stream_t *s, int error)
{
    s->error = s->error != 0 ? s->error : error;
    s->failed = 1;
    kars__stream_later(s);
}

void
kars__stream_later(kars_stream_t *s)
{
    kars__work_queue(s->cycle->loop, &s->later, KARS__POST);
}

void
kars__stream_close(kars_stream_t *s, int error)
{
    if (s->udp != NULL || s->closing) {
        return; /* a listener's datagrams end with it */
    }
    s->closing = 1;
    if (error != 0) {
        kars__stream_fail(s, error);
    } else {
        kars__stream_later(s);
    }
}

void
kars__streams_end(kars_cycle_t *cycle)
{
    while (cycle->streams != NULL) {
        stream_end(cycle->streams, ECANCELED);
    }
}

/* Times. */

static void
stream_idle_over(kars__timer_t *t)
{
    stream_end((kars_stream_t *) ((char *) t - offsetof(kars_stream_t, idle)),
               ETIMEDOUT);
}

static void
stream_moved(kars_stream_t *s)
{
    if (s->idle_ms != 0) {
        kars__timer_start(s->cycle->loop, &s->idle, s->idle_ms);
    } else {
        kars__timer_stop(s->cycle->loop, &s->idle);
    }
}

void
kars__stream_timeout(kars_stream_t *s, uint32_t idle_ms)
{
    s->idle_ms = idle_ms;
    s->timed = 1;
    if (s->udp != NULL) {
        return;
    }
    if (s->tunnel.joined) {
        kars__relay_idle(&s->tunnel.relay, idle_ms);
    } else {
        stream_moved(s);
    }
}

/* What the connection waits for. */
static void
stream_want(kars_stream_t *s)
{
    int full = s->rd != NULL && s->rd_at == 0 && s->rd_end == s->rd->size &&
               s->rd->size >= STREAM_READ_MAX;
    uint32_t events = s->out != NULL ? KARS__WRITE : 0;

    if (!s->eof && !s->deciding && !s->closing && !full &&
        s->out_len <= STREAM_WRITE_MAX) {
        events |= KARS__READ;
    }
    kars__sock_want(s->sock, events);
}

/* In. */

/* Room for more in the block; what is there stays in one piece. */
static int
stream_room(kars_stream_t *s)
{
    kars__block_t *rd = s->rd;
    size_t have = rd != NULL ? s->rd_end - s->rd_at : 0;

    if (rd != NULL && s->rd_end < rd->size) {
        return KARS_OK;
    }
    if (rd == NULL || (s->rd_at == 0 && rd->size < STREAM_READ_MAX)) {
        kars__block_t *b = kars__block_get(rd != NULL ? rd->size * 2 : 0);

        if (b == NULL) {
            return KARS_ERROR;
        }
        if (have != 0) {
            memcpy(b->data, rd->data + s->rd_at, have);
        }
        kars__block_unref(rd);
        s->rd = b;
    } else if (s->rd_at == 0) {
        return KARS_AGAIN;
    } else {
        memmove(rd->data, rd->data + s->rd_at, have);
    }
    s->rd_at = 0;
    s->rd_end = (uint32_t) have;
    return KARS_OK;
}

static void
stream_ended(kars_stream_t *s)
{
    s->told_eof = 1;
    if (s->handler.ended != NULL) {
        KARS__STREAM_CALL(s, s->handler.ended(s, s->data));
    } else {
        kars__stream_close(s, 0);
    }
}

/* May the module be told of what came? */
static int
stream_is_open(const kars_stream_t *s)
{
    return !s->deciding && !s->closing && !s->failed && s->tunnel.to == NULL &&
           s->http == NULL && s->out_len <= STREAM_WRITE_MAX;
}

/* Bytes to the module, as long as it takes some. */
static void
stream_deliver(kars_stream_t *s)
{
    while (s->fresh && s->rd != NULL && s->rd_at < s->rd_end &&
           stream_is_open(s)) {
        kars_str_t bytes = { s->rd->data + s->rd_at, s->rd_end - s->rd_at };
        uint32_t at = s->rd_at;
        int rc = KARS_OK;

        s->delivering = 1;
        if (s->handler.readable != NULL) {
            KARS__STREAM_CALL(s, rc = s->handler.readable(s, bytes, s->data));
        } else {
            (void) kars__stream_take(s, bytes.len);
        }
        s->delivering = 0;
        if (rc == KARS_ERROR) {
            kars__stream_close(s, ECONNABORTED);
        }
        s->fresh = s->rd_at != at;
    }
    if (s->rd != NULL && s->rd_at == s->rd_end) {
        kars__block_unref(s->rd); /* an idle stream holds nothing */
        s->rd = NULL;
        s->rd_at = s->rd_end = 0;
    }
    if (s->eof && !s->told_eof && stream_is_open(s)) {
        stream_ended(s);
    }
}

static void
stream_read(kars_stream_t *s)
{
    for (unsigned i = 0; i < STREAM_READS; i++) {
        int rc = stream_room(s);

        if (rc == KARS_AGAIN) {
            break;
        }

        size_t room = rc == KARS_OK ? s->rd->size - s->rd_end : 0;
        ssize_t n =
            room == 0 ? -1
                      : kars__sock_recv(s->sock, s->rd->data + s->rd_end, room);

        if (n < 0) {
            if (rc != KARS_OK || (errno != EAGAIN && errno != EWOULDBLOCK)) {
                kars__stream_fail(s, rc != KARS_OK ? ENOMEM : errno);
            }
            break;
        }
        stream_moved(s);
        if (n == 0) {
            s->eof = 1;
            break;
        }
        s->fresh = 1;
        s->rd_end += (uint32_t) n;
        s->bytes_in += (uint64_t) n;
        if ((size_t) n < room) {
            break;
        }
    }
}

int
kars__stream_take(kars_stream_t *s, size_t n)
{
    if (s->udp != NULL || n > s->rd_end - s->rd_at || s->tunnel.to != NULL ||
        s->http != NULL) {
        return KARS_ERROR;
    }
    s->rd_at += (uint32_t) n;
    if (!s->delivering) {
        s->fresh = 1;
        kars__stream_later(s); /* what is left is shown again */
    }
    return KARS_OK;
}

/* Out. */

int
kars__stream_write(kars_stream_t *s, kars_str_t bytes)
{
    if (s->udp != NULL || s->closing || s->failed || s->tunnel.to != NULL ||
        s->http != NULL || s->out_len > 4 * STREAM_WRITE_MAX) {
        return KARS_ERROR;
    }
    if (bytes.len != 0) {
        kars_buf_t *b = kars__buf_copy(&s->bufs, bytes);

        if (b == NULL) {
            return KARS_ERROR;
        }
        if (s->out == NULL) {
            s->out = b;
        } else {
            s->out_last->next = b;
        }
        s->out_last = b;
        s->out_len += bytes.len;
        kars__stream_later(s);
    }
    if (s->out_len <= STREAM_WRITE_MAX) {
        return KARS_OK;
    }
    s->wants_room = 1;
    return KARS_AGAIN;
}

static void
stream_flush(kars_stream_t *s)
{
    while (s->out != NULL && s->sock != NULL) {
        ssize_t n = kars__sock_sendv(s->sock, s->out);

        if (n < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK) {
                s->error = s->error != 0 ? s->error : errno;
                s->failed = 1;
            }
            return;
        }
        stream_moved(s);
        s->bytes_out += (uint64_t) n;
        s->out_len -= (size_t) n;
        s->out = kars__chain_consume(s->out, (size_t) n);
    }
}

static void
stream_tell_room(kars_stream_t *s)
{
    if (s->wants_room && s->out_len <= STREAM_WRITE_MAX / 2 && !s->closing) {
        s->wants_room = 0;
        if (s->handler.room != NULL) {
            KARS__STREAM_CALL(s, s->handler.room(s, s->data));
        }
    }
}

/* All that is due, in its order. */
static void
stream_run(kars_stream_t *s)
{
    if (s->tunnel.joined && !s->closing) {
        kars__tunnel_run(&s->tunnel);
        return;
    }
    if (!s->failed) {
        stream_flush(s);
    }
    if (s->failed || (s->closing && s->out == NULL)) {
        stream_end(s, s->error);
        return;
    }
    if (s->sock == NULL) {
        return; /* it does not stand yet */
    }
    if (s->verdict != 0) {
        kars__stream_tell_verdict(s);
    }
    stream_tell_room(s);
    stream_deliver(s);
    if (s->later.queued) {
        return; /* it goes on there */
    }
    if (s->http != NULL) {
        kars__stream_handover(s);
        return;
    }
    if (s->tunnel.to != NULL) {
        kars__stream_tunnel_begin(s);
        return;
    }
    stream_want(s);
}

static void
stream_work(kars__work_t *work)
{
    stream_run(
        (kars_stream_t *) ((char *) work - offsetof(kars_stream_t, later)));
}

void
kars__stream_ready(kars_stream_t *s, uint32_t events)
{
    if ((events & KARS__READ) && !s->tunnel.joined && !s->eof &&
        s->tunnel.to == NULL) {
        stream_read(s);
    }
    stream_run(s);
}

/* Making. */

void
kars__stream_init(kars_stream_t *s, kars_cycle_t *cycle, kars__mod_t *mod,
                  const kars_stream_handler_t *handler, void *data)
{
    s->cycle = cycle;
    s->mod = mod;
    memcpy(&s->handler, handler,
           handler->size < sizeof(s->handler) ? handler->size
                                              : sizeof(s->handler));
    s->data = data;
    s->idle.fn = stream_idle_over;
    s->later.fn = stream_work;
    s->decide.fn = kars__stream_decide_run;
}

/* Accepted. */

static void
stream_conn_ready(kars_conn_t *c, uint32_t events)
{
    kars__stream_ready(c->user, events);
}

static void
stream_conn_nothing(kars_conn_t *c)
{
    /* A stream has its own timer and its own work. */
}

static void
stream_conn_drain(kars_conn_t *c, int force)
{
    if (force > 1) {
        stream_end(c->user, ECANCELED);
    }
}

static void
stream_conn_close(kars_conn_t *c)
{
    stream_free(c->user);
}

static const kars__conn_ops_t stream_conn_ops = {
    .ready = stream_conn_ready,
    .timeout = stream_conn_nothing,
    .flush = stream_conn_nothing,
    .drain = stream_conn_drain,
    .close = stream_conn_close,
};

void
kars__stream_accepted(kars_conn_t *c)
{
    const kars__port_t *port = c->listener->port;
    kars_stream_t *s = kars__alloc(sizeof(*s));
    kars_peer_t peer = { .size = sizeof(peer) };
    int rc = KARS_OK;

    if (s == NULL) {
        kars__conn_close(c);
        return;
    }
    kars__stream_init(s, c->cycle, port->mod, &port->handler, port->data);
    s->conn = c;
    s->sock = &c->sock;
    c->user = s;
    c->ops = &stream_conn_ops;
    s->idle_ms = c->listener->server->core->idle_timeout_ms;
    stream_moved(s);
    (void) kars__conn_peer(c, &peer);
    if (s->handler.accept != NULL) {
        KARS__STREAM_CALL(s, rc = s->handler.accept(s, &peer, s->data));
    }
    if (rc != KARS_OK) {
        s->refused = 1;
        kars__stream_fail(s, ECONNABORTED);
        return;
    }
    stream_want(s);
}

/* Opened. */

static void
stream_dialed(kars__dial_t *d, int error, void *data)
{
    kars_stream_t *s = data;

    if (error != 0) {
        stream_end(s, error);
        return;
    }
    s->sock = kars__dial_sock(d);
    stream_moved(s);
    if (s->handler.connected != NULL) {
        KARS__STREAM_CALL(s, s->handler.connected(s, s->data));
    }
    kars__stream_later(s);
}

static void
stream_dial_ready(kars__dial_t *d, uint32_t events, void *data)
{
    kars__stream_ready(data, events);
}

static const kars__dial_handler_t stream_dial_handler = {
    .done = stream_dialed,
    .ready = stream_dial_ready,
};

kars_stream_t *
kars__stream_open(kars_cycle_t *cycle, kars_upstream_t *to,
                  const kars_stream_handler_t *handler, void *data)
{
    kars_stream_t *s = kars__mod_now != NULL ? kars__alloc(sizeof(*s)) : NULL;

    if (s == NULL) {
        return NULL;
    }
    kars__stream_init(s, cycle, kars__mod_now, handler, data);
    s->idle_ms = to->idle_ms;
    s->dial = kars__dial(cycle, to, &stream_dial_handler, s);
    if (s->dial == NULL) {
        kars__free(s);
        return NULL;
    }
    s->next = cycle->streams;
    if (s->next != NULL) {
        s->next->prev = s;
    }
    cycle->streams = s;
    return s;
}

/* Small ones. */

void
kars__stream_data_set(kars_stream_t *s, void *data)
{
    s->data = data;
}

kars_pool_t *
kars__stream_pool(kars_stream_t *s)
{
    if (s->pool == NULL) {
        s->pool = kars__pool_create(STREAM_POOL);
    }
    return s->pool;
}

kars_req_t *
kars__stream_req(kars_stream_t *s)
{
    return s->r;
}
