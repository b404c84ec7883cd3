/* http2.c - HTTP/2 connections: read, write, time out, drain, close. */
#include "http/http2_session.h"

#include <errno.h>

#define HTTP2_READS        8 /* recv calls for one readiness */
#define HTTP2_LINGER_BYTES (1024u * 1024u)

static const char http2_preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
static const uint8_t http2_mark[8] = "drained?"; /* in a PING of ours */

int
kars__http2_is_preface(const char *p, size_t n)
{
    return memcmp(p, http2_preface,
                  n < KARS__HTTP2_PREFACE ? n : KARS__HTTP2_PREFACE) == 0;
}

/* No byte follows any more; what the client still sends is dropped for a while,
 * since closing a socket with unread bytes would lose what it was told. */
static void
http2_linger(kars__http2_t *h)
{
    h->lingers = 1;
    h->c->sock.ops->shut(&h->c->sock);
    kars__conn_timer(h->c, KARS__HTTP2_LINGER_MS);
}

static int
http2_is_over(const kars__http2_t *h)
{
    if (h->out != NULL) {
        return 0;
    }
    return h->failed || (h->last_call && h->nstreams == 0) ||
           (!nghttp2_session_want_read(h->session) &&
            !nghttp2_session_want_write(h->session));
}

/* What the connection waits for: its timer, its readiness. */
static void
http2_settle(kars__http2_t *h)
{
    const kars__core_conf_t *core = h->c->listener->server->core;
    uint8_t wait = h->out != NULL     ? KARS__HTTP2_WAIT_SEND
                   : h->nstreams == 0 ? KARS__HTTP2_WAIT_IDLE
                                      : KARS__HTTP2_WAIT_NONE;

    if (h->lingers) {
        kars__sock_want(&h->c->sock, KARS__READ);
        return;
    }
    if (wait == KARS__HTTP2_WAIT_NONE && h->wait != wait) {
        kars__timer_stop(h->c->cycle->loop, &h->c->timer);
    } else if (wait == KARS__HTTP2_WAIT_SEND && (h->wait != wait || h->moved)) {
        kars__conn_timer(h->c, core->send_timeout_ms);
    } else if (wait == KARS__HTTP2_WAIT_IDLE && h->wait != wait) {
        kars__conn_timer(h->c, core->idle_timeout_ms);
    }
    h->wait = wait;
    h->moved = 0;
    /* Of a client that takes nothing, nothing is taken. */
    kars__sock_want(&h->c->sock,
                    (h->out != NULL ? KARS__WRITE : 0) |
                        (h->out_len < KARS__HTTP2_OUT ? KARS__READ : 0));
}

static void
http2_fail(kars__http2_t *h)
{
    char why[160];

    if (h->failed) {
        return;
    }
    h->failed = 1;
    if (h->limit != NULL) {
        (void) snprintf(why, sizeof(why), "HTTP/2: too many of these: %s",
                        h->limit);
    } else {
        (void) snprintf(why, sizeof(why), "HTTP/2: %s", h->why);
    }
    kars__http2_record(h, why);
    for (kars__http2_stream_t *st = h->streams; st != NULL; st = st->next) {
        if (st->id != 0) {
            st->broken = 1;
            kars__http2_todo(st);
        }
    }
    kars__http2_goaway(h, NGHTTP2_ENHANCE_YOUR_CALM);
    kars__conn_flush(h->c);
}

static void
http2_flush(kars_conn_t *c)
{
    kars__http2_t *h = c->h2;

    kars__http2_work(h);
    if (!h->lingers && kars__http2_send(h) != KARS_OK) {
        if (h->limit == NULL || h->failed) {
            kars__conn_close(c);
            return;
        }
        http2_fail(h);
    }
    kars__http2_sent(h);
    if (h->refused == 1) { /* nghttp2 told the client; we tell audit */
        char why[160];

        h->refused = 2;
        (void) snprintf(why, sizeof(why), "HTTP/2: %s", h->why);
        kars__http2_record(h, why);
    }
    if (!h->lingers && http2_is_over(h)) {
        http2_linger(h);
    }
    http2_settle(h);
}

/* OK: try to read more; DONE: enough; ERROR: the connection is gone. */
static int
http2_recv(kars_conn_t *c, kars__block_t *b)
{
    kars__http2_t *h = c->h2;
    ssize_t n = kars__sock_recv(&c->sock, b->data, b->size);

    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return KARS_DONE;
    }
    if (n > 0 && h->lingers) {
        h->drained += (uint64_t) n;
        n = h->drained > HTTP2_LINGER_BYTES ? 0 : n;
    }
    if (n <= 0) {
        kars__conn_close(c);
        return KARS_ERROR;
    }
    if (!h->lingers && !h->failed &&
        kars__http2_feed(h, b, b->data, (size_t) n) != KARS_OK) {
        http2_fail(h);
    }
    return (size_t) n == b->size ? KARS_OK : KARS_DONE;
}

static void
http2_ready(kars_conn_t *c, uint32_t events)
{
    kars__block_t *b = NULL;
    int rc = KARS_OK;

    for (int i = 0; i < HTTP2_READS && rc == KARS_OK; i++) {
        if (!(events & KARS__READ)) {
            break;
        }
        if (b == NULL || b->refs > 1) { /* bodies hold what they are made of */
            kars__block_unref(b);
            b = kars__block_get(0);
        }
        if (b == NULL) {
            kars__conn_close(c);
            return;
        }
        rc = http2_recv(c, b);
    }
    kars__block_unref(b);
    if (rc != KARS_ERROR) {
        kars__conn_flush(c);
    }
}

static void
http2_last_call(kars__http2_t *h)
{
    if (h->last_call || h->failed || h->lingers) {
        return;
    }
    h->last_call = 1;
    (void) nghttp2_submit_goaway(
        h->session, NGHTTP2_FLAG_NONE,
        nghttp2_session_get_last_proc_stream_id(h->session), NGHTTP2_NO_ERROR,
        NULL, 0);
    kars__conn_flush(h->c);
}

static void
http2_timeout(kars_conn_t *c)
{
    if (!c->h2->lingers && c->h2->wait == KARS__HTTP2_WAIT_IDLE &&
        !c->h2->last_call) {
        http2_last_call(c->h2);
        return;
    }
    kars__conn_close(c);
}

/* RFC 9113 6.8: first a GOAWAY that refuses nothing yet; when a PING after it
 * has come back, all that the client sent before it knew is here, and the
 * GOAWAY that counts goes out. So no request is lost. */
static void
http2_drain(kars_conn_t *c, int force)
{
    kars__http2_t *h = c->h2;

    if (force > 1) {
        kars__conn_close(c);
        return;
    }
    if (force && h->nstreams == 0) {
        http2_last_call(h);
    }
    if (h->draining || h->failed || h->lingers) {
        return;
    }
    h->draining = 1;
    (void) nghttp2_submit_shutdown_notice(h->session);
    (void) nghttp2_submit_ping(h->session, NGHTTP2_FLAG_NONE, http2_mark);
    kars__conn_flush(c);
}

void
kars__http2_pong(kars__http2_t *h, const uint8_t *data)
{
    if (h->draining && memcmp(data, http2_mark, sizeof(http2_mark)) == 0) {
        http2_last_call(h);
    }
}

static void
http2_close(kars_conn_t *c)
{
    kars__http2_t *h = c->h2;

    while (h->streams != NULL) {
        kars__http2_end(h->streams);
        kars__http2_stream_free(h->streams);
    }
    nghttp2_session_del(h->session);
    kars__free(h->block);
    kars__bufs_done(&h->bufs);
    kars__free(h);
}

const kars__conn_ops_t kars__http2_ops = {
    .ready = http2_ready,
    .timeout = http2_timeout,
    .flush = http2_flush,
    .drain = http2_drain,
    .close = http2_close,
};

void
kars__http2_begin(kars_conn_t *c)
{
    kars__http1_t was = c->h1;
    kars__http2_t *h = kars__alloc(sizeof(*h));

    if (h == NULL) {
        kars__conn_close(c);
        return;
    }
    h->c = c;
    if (kars__http2_session(h) != KARS_OK) {
        kars__free(h);
        kars__conn_close(c);
        return;
    }
    c->h2 = h;
    c->ops = &kars__http2_ops;
    if (kars__http2_feed(h, was.rd, was.rd->data + was.rd_at,
                         was.rd_end - was.rd_at) != KARS_OK) {
        http2_fail(h);
    }
    kars__block_unref(was.rd);
    if (c->cycle->draining) {
        http2_drain(c, 0);
    }
    http2_settle(h);
    kars__conn_flush(c);
}
