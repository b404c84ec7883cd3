/* client.c - the HTTP client: one exchange on a connection of upconn.c, which
 * goes back there when the reply is whole. */
#include "http/client.h"
#include "http/upconn.h"
#include "http/upqueue.h"

#include <errno.h>

#define CLIENT_HEAD_MAX 65536u /* bytes of a reply's head */
#define CLIENT_READS    8      /* recv calls for one readiness */

enum { FRAME_NONE = 0, FRAME_LENGTH, FRAME_CHUNKED, FRAME_CLOSE };

struct kars__xch_s {
    kars_cycle_t *cycle;
    kars__xch_conf_t conf;
    kars__upconn_t *conn;
    kars__updial_t *dial; /* NULL: none under way */
    kars__upturn_t turn;  /* at the server */
    kars__work_t later;   /* start, or free */
    kars__timer_t total;
    kars_buf_t *out_last;
    size_t out_len;
    kars__chunked_t chunked;
    uint64_t left;
    uint8_t frame;
    uint8_t head_done;
    uint8_t sent;   /* some bytes left */
    uint8_t reused; /* the connection was a kept one */
    uint8_t got;    /* some bytes came */
    uint8_t paused;
    uint8_t keep;
    uint8_t dead;
    int last_error;
    const char *why; /* of TLS; static */
};

static void client_ready(kars__sock_t *sock, uint32_t events);
static void client_flush(kars__xch_t *x);
static void client_read(kars__upconn_t *c);

/* Ends of an exchange. */

static void
xch_free(kars__work_t *work)
{
    kars__xch_t *x =
        (kars__xch_t *) ((char *) work - offsetof(kars__xch_t, later));

    kars__upstream_unref(x->conf.upstream);
    kars__free(x);
}

/* Takes the exchange apart; its memory goes at the end of the turn, because
 * its own functions may be on the stack. */
static void
xch_end(kars__xch_t *x)
{
    if (x->dead) {
        return;
    }
    x->dead = 1;
    kars__timer_stop(x->cycle->loop, &x->total);
    kars__updial_cancel(x->dial);
    kars__upturn_give(&x->turn);
    if (x->conn != NULL) {
        x->conn->user = NULL;
        kars__upconn_close(x->conn);
        x->conn = NULL;
    }
    kars__chain_free(x->conf.out);
    x->conf.out = NULL;
    kars__work_cancel(x->cycle->loop, &x->later);
    x->later.fn = xch_free;
    kars__work_queue(x->cycle->loop, &x->later, KARS__POST);
}

void
kars__xch_cancel(kars__xch_t *x)
{
    xch_end(x);
}

static void
xch_fail(kars__xch_t *x, int error)
{
    const kars__xch_handler_t *h = x->conf.handler;
    void *data = x->conf.data;
    int reached =
        !x->sent ? KARS__REACHED_NOT
        : x->reused && !x->got && (error == ECONNRESET || error == EPIPE)
            ? KARS__REACHED_STALE
            : KARS__REACHED;

    if (x->dead) {
        return;
    }
    if (x->conn != NULL) {
        x->why = kars__sock_why(&x->conn->sock);
    }
    if (reached != KARS__REACHED_STALE && kars__upturn_has(&x->turn)) {
        kars__upstream_result(x->cycle, x->conf.upstream, x->conf.server, 0);
    }
    xch_end(x);
    h->fail(x, error, reached, data);
}

const char *
kars__xch_why(const kars__xch_t *x)
{
    return x->why;
}

/* Beginning. */

static void
conn_timeout(kars__timer_t *t)
{
    kars__upconn_t *c =
        (kars__upconn_t *) ((char *) t - offsetof(kars__upconn_t, timer));

    xch_fail(c->user, ETIMEDOUT);
}

static void
conn_timer(kars__upconn_t *c, uint64_t ms)
{
    c->timer.fn = conn_timeout;
    kars__timer_start(c->cycle->loop, &c->timer, ms);
}

/* The connection stands: send. */
static void
client_go(kars__xch_t *x, kars__upconn_t *c)
{
    x->conn = c;
    c->user = x;
    c->sock.ready = client_ready;
    kars__sock_want(&c->sock, x->paused ? 0 : KARS__READ);
    client_flush(x);
}

static void
client_dialed(kars__upconn_t *c, int error, const char *why, void *data)
{
    kars__xch_t *x = data;

    if (c == NULL) {
        x->why = why;
        xch_fail(x, error);
    } else {
        client_go(x, c);
    }
}

static void
client_turn(kars__upturn_t *turn, int error, const char *why)
{
    kars__xch_t *x =
        (kars__xch_t *) ((char *) turn - offsetof(kars__xch_t, turn));
    const kars_upstream_t *u = x->conf.upstream;
    kars__upserver_t *s = x->conf.server;
    uint8_t key[KARS__TLS_KEY];

    if (error != 0) {
        x->why = why;
        xch_fail(x, error);
        return;
    }
    if (kars__upstream_key(x->conf.upstream, x->conf.scope, key) != KARS_OK) {
        xch_fail(x, ENOMEM);
        return;
    }

    kars__upconn_t *kept = x->conf.fresh ? NULL : kars__idle_take(s, key);

    if (kept != NULL) {
        x->reused = 1;
        client_go(x, kept);
        return;
    }
    if (u->max_connections != 0) {
        kars__idle_trim(s, u->max_connections - s->busy);
    }
    kars__updial(&x->dial, x->cycle, x->conf.upstream, s, key, client_dialed,
                 x);
}

static void
client_begin(kars__work_t *work)
{
    kars__xch_t *x =
        (kars__xch_t *) ((char *) work - offsetof(kars__xch_t, later));

    kars__upturn_take(&x->turn, x->cycle, x->conf.upstream, x->conf.server,
                      client_turn);
}

static void
client_total_over(kars__timer_t *t)
{
    xch_fail((kars__xch_t *) ((char *) t - offsetof(kars__xch_t, total)),
             ETIMEDOUT);
}

kars__xch_t *
kars__xch_start(kars_cycle_t *cycle, const kars__xch_conf_t *conf)
{
    kars__xch_t *x = kars__alloc(sizeof(*x));

    if (x == NULL) {
        kars__chain_free(conf->out);
        return NULL;
    }
    x->cycle = cycle;
    x->conf = *conf;
    if (conf->total_ms == 0) {
        x->conf.total_ms = conf->upstream->total_ms;
    }
    kars__upstream_ref(conf->upstream);
    x->out_len = kars__chain_len(conf->out);
    x->total.fn = client_total_over;
    kars__timer_start(cycle->loop, &x->total, x->conf.total_ms);
    x->later.fn = client_begin;
    kars__work_queue(cycle->loop, &x->later, KARS__POST);
    return x;
}

/* Sending. */

static uint64_t
client_idle_ms(const kars__xch_t *x)
{
    return x->conf.idle_ms != 0 ? x->conf.idle_ms : x->conf.upstream->idle_ms;
}

static uint64_t
client_first_ms(const kars__xch_t *x)
{
    return x->conf.idle_ms != 0 ? x->conf.idle_ms
                                : x->conf.upstream->first_byte_ms;
}

static void
client_want(kars__xch_t *x)
{
    kars__sock_want(&x->conn->sock,
                    (x->paused ? 0 : KARS__READ) |
                        (x->conf.out != NULL ? KARS__WRITE : 0));
}

static void
client_flush(kars__xch_t *x)
{
    kars__upconn_t *c = x->conn;
    int had = x->conf.out != NULL;

    while (x->conf.out != NULL) {
        ssize_t n = kars__sock_sendv(&c->sock, x->conf.out);

        if (n < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK) {
                break;
            }
            /* The reply may have come before the reset: read it first. */
            x->last_error = errno;
            client_read(c);
            if (!x->dead && !x->head_done) {
                xch_fail(x, x->last_error);
            }
            if (!x->dead) { /* answered early: the rest is not wanted */
                kars__chain_free(x->conf.out);
                x->conf.out = NULL;
                x->out_len = 0;
                x->keep = 0;
                client_want(x);
            }
            return;
        }
        x->sent |= n > 0;
        x->out_len -= (size_t) n;
        x->conf.out = kars__chain_consume(x->conf.out, (size_t) n);
    }
    if (!x->paused || x->conf.out != NULL) {
        conn_timer(c, x->conf.out == NULL && x->conf.last && !x->head_done
                          ? client_first_ms(x)
                          : client_idle_ms(x));
    }
    client_want(x);
    if (had && x->conf.out == NULL && x->conf.handler->room != NULL &&
        !x->conf.last) {
        x->conf.handler->room(x, x->conf.data);
    }
}

void
kars__xch_write(kars__xch_t *x, kars_buf_t *out, int last)
{
    if (x->dead) {
        kars__chain_free(out);
        return;
    }
    x->out_len += kars__chain_len(out);
    *kars__chain_tail(&x->conf.out) = out;
    x->conf.last |= last != 0;
    if (x->conn != NULL) {
        client_flush(x);
    }
}

size_t
kars__xch_unsent(const kars__xch_t *x)
{
    return x->out_len;
}

void
kars__xch_pause(kars__xch_t *x, int on)
{
    if (x->dead || x->paused == (on != 0)) {
        return;
    }
    x->paused = on != 0;
    if (x->conn != NULL) {
        client_want(x);
        if (x->paused) {
            kars__timer_stop(x->cycle->loop, &x->conn->timer);
        } else {
            conn_timer(x->conn, client_idle_ms(x));
        }
    }
}

/* Reading. */

static int
client_head(kars__xch_t *x, const char *p, size_t n)
{
    kars_header_t headers[KARS__HEADERS_MAX];
    kars__head_t head;
    kars_err_t err = KARS_ERR_INIT;
    char *copy = kars__palloc(x->conf.pool, n);

    if (copy == NULL) {
        xch_fail(x, ENOMEM);
        return KARS_ERROR;
    }
    memcpy(copy, p, n);
    if (kars__head_response(copy, n, headers, &head, &err) != KARS_OK) {
        kars__log(KARS_LOG_WARN, "client: bad reply upstream=%.*s error=\"%s\"",
                  KARS_STR_ARG(x->conf.upstream->name), err.text);
        xch_fail(x, EPROTO);
        return KARS_ERROR;
    }
    if (head.status < 200) {
        if (head.status == 101) {
            xch_fail(x, EPROTO); /* nobody asked to upgrade */
            return KARS_ERROR;
        }
        return KARS_AGAIN;
    }

    x->head_done = 1;
    x->keep = head.keep_alive;
    if (x->conf.is_head || head.status == 204 || head.status == 304) {
        x->frame = FRAME_NONE;
    } else if (head.chunked) {
        x->frame = FRAME_CHUNKED;
    } else if (head.content_length >= 0) {
        x->frame = FRAME_LENGTH;
        x->left = (uint64_t) head.content_length;
    } else {
        x->frame = FRAME_CLOSE;
        x->keep = 0;
    }
    kars__upstream_result(x->cycle, x->conf.upstream, x->conf.server,
                          head.status < 500);
    x->conf.handler->head(x, &head, x->conf.data);
    return x->dead ? KARS_ERROR : KARS_OK;
}

/* The reply is whole: the connection goes back, then the owner hears. */
static void
client_whole(kars__xch_t *x, kars_buf_t *in)
{
    kars__upconn_t *c = x->conn;
    const kars__xch_handler_t *h = x->conf.handler;
    void *data = x->conf.data;
    int keep =
        x->keep && x->conf.out == NULL && x->conf.last && c->rd_at == c->rd_end;

    c->user = NULL;
    x->conn = NULL;
    if (keep) {
        kars__timer_stop(c->cycle->loop, &c->timer);
        kars__idle_put(c);
    } else {
        kars__upconn_close(c);
    }
    xch_end(x);
    h->body(x, in, KARS_LAST, data);
}

/* One piece of the body out of what was read; OK: there may be more. */
static int
client_piece(kars__xch_t *x, kars_buf_t ***tail)
{
    kars__upconn_t *c = x->conn;
    const char *p = c->rd->data + c->rd_at;
    const char *end = c->rd->data + c->rd_end;
    kars_str_t piece = { p, (size_t) (end - p) };
    int rc = KARS_OK;

    switch (x->frame) {
    case FRAME_CHUNKED:
        rc = kars__chunked_next(&x->chunked, &p, end, &piece, NULL);
        c->rd_at = (uint32_t) (p - c->rd->data);
        break;
    case FRAME_LENGTH:
        if (piece.len > x->left) {
            piece.len = (size_t) x->left;
        }
        x->left -= piece.len;
        c->rd_at += (uint32_t) piece.len;
        break;
    default:
        c->rd_at = c->rd_end;
        break;
    }
    if (rc == KARS_OK && piece.len != 0) {
        kars_buf_t *b =
            kars__buf_view(x->conf.bufs, c->rd, piece.data, piece.len);

        if (b == NULL) {
            return KARS_ERROR;
        }
        **tail = b;
        *tail = &b->next;
    }
    if (x->frame == FRAME_LENGTH && x->left == 0) {
        return KARS_DONE;
    }
    if (rc == KARS_OK && c->rd_at == c->rd_end) {
        return KARS_AGAIN;
    }
    return rc;
}

/* All that was read. OK: go on reading. */
static int
client_take(kars__xch_t *x)
{
    kars__upconn_t *c = x->conn;

    while (!x->head_done) {
        const char *p = c->rd->data + c->rd_at;
        size_t have = c->rd_end - c->rd_at;
        size_t n = kars__head_end(p, have, c->scanned);

        c->scanned = (uint32_t) have;
        if (n == 0) {
            return KARS_OK;
        }
        c->rd_at += (uint32_t) n;
        c->scanned = 0;
        if (client_head(x, p, n) == KARS_ERROR) {
            return KARS_ERROR;
        }
    }

    kars_buf_t *in = NULL;
    kars_buf_t **tail = &in;
    int rc = x->frame == FRAME_NONE ? KARS_DONE : KARS_AGAIN;

    if (x->frame == FRAME_LENGTH && x->left == 0) {
        rc = KARS_DONE;
    }
    while (rc == KARS_AGAIN || rc == KARS_OK) {
        if (c->rd_at == c->rd_end) {
            break;
        }
        rc = client_piece(x, &tail);
    }
    if (rc == KARS_ERROR) {
        kars__chain_free(in);
        xch_fail(x, EPROTO);
        return KARS_ERROR;
    }
    if (rc == KARS_DONE) {
        client_whole(x, in);
        return KARS_DONE;
    }
    if (in != NULL) {
        x->conf.handler->body(x, in, 0, x->conf.data);
    }
    return x->dead ? KARS_ERROR : KARS_OK;
}

/* Room to read into: the same block while it has some, else another; a head
 * must stay in one piece. */
static int
client_room(kars__upconn_t *c)
{
    if (c->rd != NULL && c->rd_at == c->rd_end && c->rd->refs == 1) {
        c->rd_at = c->rd_end = 0;
    }
    if (c->rd != NULL && c->rd->size - c->rd_end >= 512) {
        return KARS_OK;
    }

    size_t have = c->rd != NULL ? c->rd_end - c->rd_at : 0;
    size_t size = have == 0 ? 0 : have * 2;

    if (have >= CLIENT_HEAD_MAX) {
        return KARS_ERROR;
    }

    kars__block_t *b =
        kars__block_get(size > KARS__BLOCK_SIZE ? size : KARS__BLOCK_SIZE);

    if (b == NULL) {
        return KARS_ERROR;
    }
    if (have != 0) {
        memcpy(b->data, c->rd->data + c->rd_at, have);
    }
    kars__block_unref(c->rd);
    c->rd = b;
    c->rd_at = 0;
    c->rd_end = (uint32_t) have;
    return KARS_OK;
}

static void
client_eof(kars__xch_t *x)
{
    x->got = 1; /* an end in good order: the request may have been read */
    if (x->head_done && x->frame == FRAME_CLOSE) {
        client_whole(x, NULL);
    } else {
        xch_fail(x, ECONNRESET);
    }
}

static void
client_read(kars__upconn_t *c)
{
    kars__xch_t *x = c->user;

    for (int i = 0; i < CLIENT_READS && !x->paused; i++) {
        if (client_room(c) != KARS_OK) {
            xch_fail(x, EMSGSIZE);
            return;
        }

        size_t room = c->rd->size - c->rd_end;
        ssize_t n = kars__sock_recv(&c->sock, c->rd->data + c->rd_end, room);

        if (n == 0) {
            client_eof(x);
            return;
        }
        if (n < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK) {
                xch_fail(x, errno);
            }
            return;
        }
        c->rd_end += (uint32_t) n;
        x->got = 1;
        if (client_take(x) != KARS_OK) {
            return;
        }
        if (!x->paused) { /* else it is us who take our time */
            conn_timer(c, client_idle_ms(x));
        }
        if ((size_t) n < room) {
            return; /* all there was */
        }
    }
}

static void
client_ready(kars__sock_t *sock, uint32_t events)
{
    kars__upconn_t *c = (kars__upconn_t *) sock;
    kars__xch_t *x = c->user;

    if (events & KARS__WRITE) {
        client_flush(x);
    }
    if (!x->dead && (events & KARS__READ)) {
        client_read(x->conn);
    }
}
