/* http1.c - HTTP/1.1 connections: read, time out, requests one after another.
 */
#include "http/http2.h"

#include <errno.h>

#define HTTP1_ROOM_MIN     512 /* less is not worth a read */
#define HTTP1_READS        8   /* recv calls for one readiness */
#define HTTP1_LINGER_BYTES (1024u * 1024u)

static void
http1_timeout(kars_conn_t *c)
{
    kars_req_t *r = c->h1.r;

    if (r != NULL && c->h1.out == NULL && !c->h1.body_whole &&
        c->h1.want_body) {
        /* the body does not come */
        if (r->answer == KARS__ANSWER_NONE && !r->suspended) {
            c->h1.keep = 0;
            c->h1.want_body = 0;
            (void) kars__req_refuse(r, 408, "invalid_request_error",
                                    "request_timeout",
                                    "the request's body did not come in time");
            kars__req_send_answer(r);
            return;
        }
    }
    kars__conn_close(c);
}

static void
http1_drain(kars_conn_t *c, int force)
{
    if (force > 1 || (force && c->h1.state == KARS__HTTP1_IDLE)) {
        kars__conn_close(c);
    }
}

static void
http1_close(kars_conn_t *c)
{
    kars_req_t *r = c->h1.r;

    c->h1.r = NULL;
    if (r != NULL) {
        kars__req_gone(r);
    }
    kars__block_unref(c->h1.rd);
    kars__bufs_done(&c->h1.bufs);
}

/* What the connection waits for. */
void
kars__http1_want(kars_conn_t *c)
{
    uint32_t events = c->h1.out != NULL ? KARS__WRITE : 0;

    switch (c->h1.state) {
    case KARS__HTTP1_BUSY:
        /* While a request is served reading goes on too, one block at most:
         * so a client that hangs up is seen. */
        if ((c->h1.want_body && !c->h1.body_whole && !c->h1.ended) ||
            c->h1.rd == NULL || c->h1.rd_end < c->h1.rd->size) {
            events |= KARS__READ;
        }
        break;
    default:
        events |= KARS__READ;
        break;
    }
    if (c->h1.eof || (c->h1.state == KARS__HTTP1_BUSY && !c->h1.body_whole &&
                      !c->h1.want_body)) {
        events &= ~(uint32_t) KARS__READ; /* a body that must wait */
    }
    kars__sock_want(&c->sock, events);
}

/* Room in the read block; a head must stay in one piece. What a client sends
 * ahead of its turn gets the rest of one block, no more. */
static int
http1_room(kars_conn_t *c)
{
    kars__block_t *rd = c->h1.rd;
    int ahead = c->h1.state == KARS__HTTP1_BUSY && c->h1.body_whole;

    if (rd != NULL && c->h1.rd_at == c->h1.rd_end && rd->refs == 1) {
        c->h1.rd_at = c->h1.rd_end = 0;
    }

    size_t room = rd != NULL ? rd->size - c->h1.rd_end : 0;

    if (room >= HTTP1_ROOM_MIN || (ahead && room > 0)) {
        return KARS_OK;
    }
    if (ahead && rd != NULL) {
        return KARS_ERROR;
    }

    size_t have = rd != NULL ? c->h1.rd_end - c->h1.rd_at : 0;
    kars__block_t *b = kars__block_get(
        have * 2 > KARS__BLOCK_SIZE ? have * 2 : KARS__BLOCK_SIZE);

    if (b == NULL) {
        return KARS_ERROR;
    }
    if (have != 0) {
        memcpy(b->data, rd->data + c->h1.rd_at, have);
    }
    kars__block_unref(rd);
    c->h1.rd = b;
    c->h1.rd_at = 0;
    c->h1.rd_end = (uint32_t) have;
    return KARS_OK;
}

static int
http1_linger(kars_conn_t *c, ssize_t n)
{
    c->h1.rd_at = c->h1.rd_end = 0;
    c->h1.drained += n > 0 ? (uint64_t) n : 0;
    if (n <= 0 || c->h1.drained > HTTP1_LINGER_BYTES) {
        kars__conn_close(c);
        return KARS_ERROR;
    }
    return KARS_DONE;
}

int
kars__http1_may_be_http2(const kars_conn_t *c)
{
    const kars__http1_t *h = &c->h1;

    return !h->begun && c->listener->server->core->http2 &&
           h->rd_end != h->rd_at &&
           (!c->listener->tls ||
            kars_str_eq(kars__sock_alpn(&c->sock), KARS_STR("h2"))) &&
           kars__http2_is_preface(h->rd->data + h->rd_at, h->rd_end - h->rd_at);
}

/* OK: try to read more; DONE: enough; ERROR: the connection is gone. */
static int
http1_recv(kars_conn_t *c)
{
    if (http1_room(c) != KARS_OK) {
        if (c->h1.state == KARS__HTTP1_BUSY) {
            kars__http1_want(c);
            return KARS_DONE;
        }
        kars__conn_close(c);
        return KARS_ERROR;
    }

    size_t room = c->h1.rd->size - c->h1.rd_end;
    ssize_t n = kars__sock_recv(&c->sock, c->h1.rd->data + c->h1.rd_end, room);

    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return KARS_DONE;
    }
    if (c->h1.state == KARS__HTTP1_LINGER) {
        return http1_linger(c, n);
    }
    if (n < 0 && c->h1.state == KARS__HTTP1_IDLE &&
        (errno == EPROTO || errno == EKEYREJECTED)) {
        kars__http1_refuse_tls(c);
        return KARS_DONE;
    }
    if (n == 0 && c->h1.state == KARS__HTTP1_BUSY && c->h1.body_whole &&
        !(c->h1.r != NULL && c->h1.r->event_stream)) {
        /* Half-closed: it may still wait for its answer, so it gets some time.
         * Of a stream nobody does that, and one that hung up must not keep a
         * model at work. */
        c->h1.eof = 1;
        kars__conn_timer(c, c->listener->server->core->half_timeout_ms);
        c->h1.keep = 0;
        return KARS_DONE;
    }
    if (n <= 0) { /* the client left, maybe in the midst of its request */
        kars__conn_close(c);
        return KARS_ERROR;
    }
    c->h1.rd_end += (uint32_t) n;
    return (size_t) n == room ? KARS_OK : KARS_DONE;
}

static void
http1_ready(kars_conn_t *c, uint32_t events)
{
    if (events & KARS__WRITE) {
        kars__conn_flush(c);
    }
    if (!(events & KARS__READ)) {
        return;
    }
    for (int i = 0; i < HTTP1_READS; i++) {
        int rc = http1_recv(c);

        if (rc == KARS_ERROR) {
            return;
        }
        if (c->h1.rd_end - c->h1.rd_at >= KARS__HTTP2_PREFACE &&
            kars__http1_may_be_http2(c)) {
            kars__http2_begin(c);
            return;
        }
        if (c->h1.state != KARS__HTTP1_LINGER) {
            kars__http1_input(c);
        }
        kars__http1_want(c);
        if (rc == KARS_DONE || !(c->sock.wanted & KARS__READ)) {
            break; /* a body that must wait is not read ahead */
        }
    }
    if (c->h1.state == KARS__HTTP1_IDLE && c->h1.rd != NULL &&
        c->h1.rd_at == c->h1.rd_end) {
        kars__block_unref(c->h1.rd); /* an idle connection holds nothing */
        c->h1.rd = NULL;
        c->h1.rd_at = c->h1.rd_end = 0;
    }
    kars__http1_want(c);
}

const kars__conn_ops_t kars__http1_ops = {
    .ready = http1_ready,
    .timeout = http1_timeout,
    .flush = kars__http1_flushed,
    .drain = http1_drain,
    .close = http1_close,
};
