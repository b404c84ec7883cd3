/* http1_io.c - HTTP/1.1: heads and bodies in, answers out. */
#include "http/answer.h"
#include "http/conn.h"

#include <errno.h>
#include <stdio.h>

#define HTTP1_LINGER_MS 2000 /* for what a refused client still sends */
#define HTTP1_ROOM      (64u * 1024u)

/* The connection ends at the next flush: not from here, where its callers
 * still hold it. */
static void
http1_break(kars_conn_t *c)
{
    c->h1.broken = 1;
    kars__conn_flush(c);
}

/* In. */

static void
http1_expect_body(kars_conn_t *c, const kars__head_t *head)
{
    memset(&c->h1.chunked, 0, sizeof(c->h1.chunked));
    c->h1.body_left =
        head->content_length > 0 ? (uint64_t) head->content_length : 0;
    c->h1.body_whole = !head->chunked && c->h1.body_left == 0;
    c->h1.want_body = 0;
}

/* A head that is refused still becomes a request, so that audit sees it: on
 * the pseudo-route, answered at once. */
static void
http1_bad_head(kars_conn_t *c, kars__head_t *head, const kars_err_t *err)
{
    uint32_t status = head->status;
    kars_req_t *r =
        kars__req_create_bad(c->cycle, c->listener->server, c->h1.rd);

    c->h1.body_whole = 1;
    c->h1.keep = 0;
    c->h1.state = KARS__HTTP1_BUSY;
    if (r == NULL) {
        http1_break(c);
        return;
    }
    r->conn = c;
    r->proto = &kars__http1_proto;
    c->h1.r = r;
    (void) kars__req_refuse(r, (int) status, "invalid_request_error",
                            status == 431 ? "headers_too_large" : "bad_request",
                            err->text);
    kars__req_send_answer(r);
}

/* Audit sees it as it sees a malformed head; the answer arrives where the
 * client took the port for one of plain HTTP. */
void
kars__http1_refuse_tls(kars_conn_t *c)
{
    kars__head_t head = { .status = 400 };
    kars_err_t err = KARS_ERR_INIT;

    (void) kars__err(&err, 0, "TLS: %s", kars__sock_why(&c->sock));
    http1_bad_head(c, &head, &err);
}

/* buf has a byte more than the target. CONNECT's "host:port" stands for the
 * path "/host:port", so that routes can match it. */
static int
http1_path(kars_req_t *r, char *buf, kars_err_t *err)
{
    kars_str_t target = r->head.target;

    if (!kars_str_eq(r->head.method, KARS_STR("CONNECT"))) {
        return kars__head_path(target, buf, &r->path, &r->query, err);
    }
    buf[0] = '/';
    memcpy(buf + 1, target.data, target.len);
    r->path = (kars_str_t){ buf, target.len + 1 };
    r->query = KARS_STR("");
    return KARS_OK;
}

static void
http1_request(kars_conn_t *c, const char *p, size_t n)
{
    kars_header_t headers[KARS__HEADERS_MAX];
    kars__head_t head;
    kars_err_t err = KARS_ERR_INIT;

    if (kars__head_request(p, n, headers, &head, &err) != KARS_OK) {
        http1_bad_head(c, &head, &err);
        return;
    }

    kars_req_t *r =
        kars__req_create(c->cycle, c->listener->server, &head, c->h1.rd);
    char *path = r != NULL ? kars__palloc(r->pool, head.target.len + 1) : NULL;

    if (path == NULL) { /* no memory to say so either */
        if (r != NULL) {
            kars__req_done(r);
        }
        http1_break(c);
        return;
    }
    c->h1.r = r;
    r->conn = c;
    r->proto = &kars__http1_proto;
    c->h1.state = KARS__HTTP1_BUSY;
    /* After a refused CONNECT bytes of the tunnel may follow. */
    c->h1.keep = head.keep_alive && !c->cycle->draining &&
                 !kars_str_eq(head.method, KARS_STR("CONNECT"));
    http1_expect_body(c, &head);
    kars__timer_stop(c->cycle->loop, &c->timer);

    if (http1_path(r, path, &err) != KARS_OK) {
        r->path = KARS_STR("-");
        (void) kars__req_refuse(r, 400, "invalid_request_error", "invalid_path",
                                err.text);
        kars__req_send_answer(r);
        return;
    }
    kars__req_start(r);
}

/* OK: a request began; AGAIN: its head is not complete. */
static int
http1_head(kars_conn_t *c)
{
    const kars__core_conf_t *core = c->listener->server->core;

    /* RFC 9112 2.2: an empty line before a request is skipped */
    while (c->h1.rd_end - c->h1.rd_at >= 2 &&
           memcmp(c->h1.rd->data + c->h1.rd_at, "\r\n", 2) == 0) {
        c->h1.rd_at += 2;
        c->h1.scanned = 0;
        c->h1.begun = 1;
    }

    const char *p = c->h1.rd->data + c->h1.rd_at;
    size_t have = c->h1.rd_end - c->h1.rd_at;

    if (have == 0) {
        return KARS_AGAIN;
    }

    if (kars__http1_may_be_http2(c)) {
        return KARS_AGAIN; /* its preface comes piecemeal */
    }
    if (!c->h1.begun &&
        kars_str_eq(kars__sock_alpn(&c->sock), KARS_STR("h2"))) {
        kars__head_t head = { .status = 400 };
        kars_err_t err = KARS_ERR_INIT;

        (void) kars__err(&err, 0, "h2 was agreed on, and not spoken");
        http1_bad_head(c, &head, &err);
        return KARS_OK;
    }
    c->h1.begun = 1;

    size_t n = kars__head_end(p, have, c->h1.scanned);

    if (c->h1.state == KARS__HTTP1_IDLE) {
        c->h1.state = KARS__HTTP1_HEAD;
        kars__conn_timer(c, core->header_timeout_ms);
    }
    if (n > core->header_limit || (n == 0 && have > core->header_limit)) {
        kars__head_t head = { .status = 431 };
        kars_err_t err = KARS_ERR_INIT;

        (void) kars__err(&err, 0, "the head is larger than header_limit");
        http1_bad_head(c, &head, &err);
        return KARS_OK;
    }
    if (n == 0) {
        c->h1.scanned = (uint32_t) have;
        /* A bare LF ends no line here: do not wait for what cannot come. */
        if (memmem(p, have, "\n\n", 2) != NULL) {
            kars__head_t head = { .status = 400 };
            kars_err_t err = KARS_ERR_INIT;

            (void) kars__err(&err, 0, "a line that does not end in CRLF");
            http1_bad_head(c, &head, &err);
            return KARS_OK;
        }
        return KARS_AGAIN;
    }
    c->h1.scanned = 0;
    c->h1.rd_at += (uint32_t) n;
    http1_request(c, p, n);
    return KARS_OK;
}

static void
http1_bad_body(kars_conn_t *c, const kars_err_t *err)
{
    kars_req_t *r = c->h1.r;

    c->h1.keep = 0;
    c->h1.want_body = 0;
    if (r->answer != KARS__ANSWER_NONE || r->suspended) {
        r->proto->abort(r);
        return;
    }
    (void) kars__req_refuse(r, 400, "invalid_request_error", "bad_request",
                            err->text);
    if (!r->running) {
        kars__req_send_answer(r);
    }
}

/* Body bytes that were read. OK: more may be taken. */
static int
http1_body(kars_conn_t *c)
{
    const char *p = c->h1.rd->data + c->h1.rd_at;
    const char *end = c->h1.rd->data + c->h1.rd_end;
    kars_str_t piece = { p, (size_t) (end - p) };
    kars_err_t err = KARS_ERR_INIT;
    int rc = KARS_OK;

    if (c->h1.r->head.chunked) {
        rc = kars__chunked_next(&c->h1.chunked, &p, end, &piece, &err);
        c->h1.rd_at = (uint32_t) (p - c->h1.rd->data);
        if (rc == KARS_ERROR) {
            http1_bad_body(c, &err);
            return KARS_ERROR;
        }
    } else {
        if (piece.len > c->h1.body_left) {
            piece.len = (size_t) c->h1.body_left;
        }
        c->h1.body_left -= piece.len;
        c->h1.rd_at += (uint32_t) piece.len;
    }
    if (rc == KARS_OK && kars__req_body_in(c->h1.r, c->h1.rd, piece.data,
                                           piece.len) != KARS_OK) {
        return KARS_ERROR;
    }
    if (rc == KARS_DONE || (!c->h1.r->head.chunked && c->h1.body_left == 0)) {
        c->h1.body_whole = 1;
        kars__timer_stop(c->cycle->loop, &c->timer);
        kars__req_body_end(c->h1.r);
        return KARS_DONE;
    }
    return rc;
}

void
kars__http1_input(kars_conn_t *c)
{
    if (c->h1.in_input) {
        return; /* the loop below goes on itself */
    }
    c->h1.in_input = 1;
    while (c->h1.rd != NULL && c->h1.rd_at < c->h1.rd_end && !c->h1.broken) {
        int rc = KARS_AGAIN;

        if (c->h1.state == KARS__HTTP1_BUSY) {
            if (c->h1.r == NULL || !c->h1.want_body || c->h1.body_whole ||
                c->h1.ended) {
                break;
            }
            rc = http1_body(c);
        } else if (c->h1.state != KARS__HTTP1_LINGER) {
            rc = http1_head(c);
        }
        if (rc == KARS_AGAIN || rc == KARS_ERROR) {
            break;
        }
    }
    c->h1.in_input = 0;
    if (c->h1.state == KARS__HTTP1_BUSY && c->h1.want_body &&
        !c->h1.body_whole && !c->h1.ended) {
        kars__conn_timer(c, c->h1.r->route->core->body_timeout_ms);
    }
}

/* Out. */

static void
http1_append(kars_conn_t *c, kars_buf_t *chain)
{
    while (chain != NULL) {
        kars_buf_t *next = chain->next;

        chain->next = NULL;
        if (chain->len == 0) {
            kars__buf_free(chain);
        } else {
            if (c->h1.out_last != NULL && c->h1.out != NULL) {
                c->h1.out_last->next = chain;
            } else {
                c->h1.out = chain;
            }
            c->h1.out_last = chain;
            c->h1.out_len += chain->len;
            if (c->h1.r != NULL) {
                c->h1.r->sent_bytes += chain->len;
            }
        }
        chain = next;
    }
}

static int
http1_text(kars_conn_t *c, kars_str_t text)
{
    kars_buf_t *b =
        kars__buf_view(c->h1.r != NULL ? &c->h1.r->bufs : &c->h1.bufs, NULL,
                       text.data, text.len);

    if (b == NULL) {
        c->h1.broken = 1;
        return KARS_ERROR;
    }
    http1_append(c, b);
    return KARS_OK;
}

static const char *
http1_reason(uint32_t status)
{
    static const struct {
        uint32_t status;
        const char *text;
    } reasons[] = {
        { 101, "Switching Protocols" },
        { 200, "OK" },
        { 201, "Created" },
        { 202, "Accepted" },
        { 204, "No Content" },
        { 301, "Moved Permanently" },
        { 302, "Found" },
        { 304, "Not Modified" },
        { 400, "Bad Request" },
        { 401, "Unauthorized" },
        { 403, "Forbidden" },
        { 404, "Not Found" },
        { 405, "Method Not Allowed" },
        { 408, "Request Timeout" },
        { 413, "Content Too Large" },
        { 415, "Unsupported Media Type" },
        { 417, "Expectation Failed" },
        { 422, "Unprocessable Content" },
        { 429, "Too Many Requests" },
        { 431, "Request Header Fields Too Large" },
        { 500, "Internal Server Error" },
        { 501, "Not Implemented" },
        { 502, "Bad Gateway" },
        { 503, "Service Unavailable" },
        { 504, "Gateway Timeout" },
        { 505, "HTTP Version Not Supported" },
    };

    for (size_t i = 0; i < KARS_NELTS(reasons); i++) {
        if (reasons[i].status == status) {
            return reasons[i].text;
        }
    }
    return "Status";
}

static size_t
http1_put(char *p, size_t o, kars_str_t s)
{
    if (s.len != 0) {
        memcpy(p + o, s.data, s.len);
    }
    return o + s.len;
}

/* The head. length: of the body, -1: chunked (or until close, in 1.0). */
static int
http1_send_head(kars_req_t *r, int64_t length)
{
    kars_conn_t *c = r->conn;
    size_t size = 320 + r->trace.len;
    int dated = 0;

    for (size_t i = 0; i < r->out.n; i++) {
        size += r->out.v[i].name.len + r->out.v[i].value.len + 4;
    }

    kars__pool_cap(r->pool, 0); /* nothing is decided any more: finish */
    char *h = kars__palloc(r->pool, size);

    if (h == NULL) {
        c->h1.broken = 1;
        return KARS_ERROR;
    }

    size_t o = http1_put(h, 0, KARS_STR("HTTP/1.1 "));

    o += kars__u64_to_dec(r->status, h + o);
    o = http1_put(h, o, KARS_STR(" "));
    o = http1_put(h, o, kars__strz(http1_reason(r->status)));
    o = http1_put(h, o, KARS_STR("\r\n"));

    for (size_t i = 0; i < r->out.n; i++) {
        const kars_header_t *f = &r->out.v[i];

        if (kars__str_ieq(f->name, KARS_STR("content-length"))) {
            continue; /* the framing is ours */
        }
        dated |= kars__str_ieq(f->name, KARS_STR("date"));
        o = http1_put(h, o, f->name);
        o = http1_put(h, o, KARS_STR(": "));
        o = http1_put(h, o, f->value);
        o = http1_put(h, o, KARS_STR("\r\n"));
    }
    if (!dated) {
        o = http1_put(h, o, KARS_STR("date: "));
        o = http1_put(h, o, kars__answer_date(c->cycle));
        o = http1_put(h, o, KARS_STR("\r\n"));
    }
    o = http1_put(h, o, KARS_STR("x-kars-trace-id: "));
    o = http1_put(h, o, r->trace);
    o = http1_put(h, o, KARS_STR("\r\n"));
    if (r->answer == KARS__ANSWER_TAKEN) {
        return http1_text(c,
                          (kars_str_t){ h, http1_put(h, o, KARS_STR("\r\n")) });
    }
    if (r->status == 204 || r->status == 304) {
        c->h1.chunk_out = 0;
    } else if (length >= 0) {
        o = http1_put(h, o, KARS_STR("content-length: "));
        o += kars__u64_to_dec((uint64_t) length, h + o);
        o = http1_put(h, o, KARS_STR("\r\n"));
    } else if (r->head.minor >= 1) {
        o = http1_put(h, o, KARS_STR("transfer-encoding: chunked\r\n"));
        c->h1.chunk_out = 1;
    } else {
        c->h1.keep = 0;
    }
    if (!c->h1.body_whole) {
        c->h1.keep = 0; /* what is still to come was not asked for */
    }
    if (!c->h1.keep) {
        o = http1_put(h, o, KARS_STR("connection: close\r\n"));
    } else if (r->head.minor == 0) {
        o = http1_put(h, o, KARS_STR("connection: keep-alive\r\n"));
    }
    o = http1_put(h, o, KARS_STR("\r\n"));
    return http1_text(c, (kars_str_t){ h, o });
}

static int64_t
http1_length(kars_req_t *r, const kars_buf_t *chain, uint32_t flags)
{
    kars_str_t said = kars__headers_get(&r->out, KARS_STR("content-length"));
    int64_t n = 0;

    if (!(flags & KARS_LAST)) {
        return -1;
    }
    if (!kars_str_eq(r->head.method, KARS_STR("HEAD")) || said.len == 0) {
        return (int64_t) kars__chain_len(chain);
    }
    for (size_t i = 0; i < said.len && i < 18; i++) {
        n = n * 10 + (said.data[i] - '0');
    }
    return n;
}

static void
http1_send_body(kars_conn_t *c, kars_req_t *r, kars_buf_t *chain,
                uint32_t flags)
{
    size_t n = kars__chain_len(chain);

    if (kars_str_eq(r->head.method, KARS_STR("HEAD")) || r->status == 204 ||
        r->status == 304) {
        kars__chain_free(chain);
        return;
    }
    if (!c->h1.chunk_out) {
        http1_append(c, chain);
        return;
    }
    if (n != 0) {
        char size[24];
        int len = snprintf(size, sizeof(size), "%zx\r\n", n);
        kars_buf_t *b =
            kars__buf_copy(&r->bufs, (kars_str_t){ size, (size_t) len });

        if (b == NULL) {
            c->h1.broken = 1;
            return;
        }
        http1_append(c, b);
        http1_append(c, chain);
        (void) http1_text(c, flags & KARS_LAST ? KARS_STR("\r\n0\r\n\r\n")
                                               : KARS_STR("\r\n"));
    } else if (flags & KARS_LAST) {
        (void) http1_text(c, KARS_STR("0\r\n\r\n"));
    }
}

static void
http1_output(kars_req_t *r, kars_buf_t *chain, uint32_t flags)
{
    kars_conn_t *c = r->conn;

    if (c == NULL || c->h1.ended) {
        kars__chain_free(chain);
        return;
    }
    if (!r->head_sent) {
        r->head_sent = 1;
        c->h1.chunk_out = 0;
        if (http1_send_head(r, http1_length(r, chain, flags)) != KARS_OK) {
            kars__chain_free(chain);
            kars__conn_flush(c);
            return;
        }
    }
    http1_send_body(c, r, chain, flags);
    if (flags & KARS_LAST) {
        c->h1.ended = 1;
    }
    kars__conn_flush(c);
}

static void
http1_read_body(kars_req_t *r, int on)
{
    kars_conn_t *c = r->conn;

    if (c == NULL || c->h1.ended) {
        return;
    }
    if (c->h1.body_whole) { /* there is none */
        if (on) {
            kars__req_body_end(r);
        }
        return;
    }
    c->h1.want_body = on != 0;
    if (!on) {
        kars__timer_stop(c->cycle->loop, &c->timer);
        return;
    }
    if (r->head.expect_continue && r->body_size == 0 &&
        c->h1.rd_at == c->h1.rd_end) {
        r->head.expect_continue = 0;
        (void) http1_text(c, KARS_STR("HTTP/1.1 100 Continue\r\n\r\n"));
    }
    if (c->h1.in_input) {
        return; /* its loop takes the bytes that are there */
    }
    kars__conn_flush(c); /* not from here: the caller may not expect it */
}

static void
http1_abort(kars_req_t *r)
{
    kars_conn_t *c = r->conn;

    if (c != NULL) {
        c->sock.cut = 1;
        http1_break(c);
    }
}

static size_t
http1_unsent(const kars_req_t *r)
{
    return r->conn != NULL ? r->conn->h1.out_len : 0;
}

const kars__proto_t kars__http1_proto = {
    .output = http1_output,
    .read_body = http1_read_body,
    .abort = http1_abort,
    .unsent = http1_unsent,
};

/* The answer is out: the next request, or the end. */
static void
http1_answered(kars_conn_t *c)
{
    kars_req_t *r = c->h1.r;
    int whole = c->h1.body_whole;

    c->h1.r = NULL;
    c->h1.ended = 0;
    c->h1.chunk_out = 0;
    kars__req_done(r);

    if (c->h1.keep && whole) {
        c->h1.state = KARS__HTTP1_IDLE;
        kars__conn_timer(c, c->listener->server->core->idle_timeout_ms);
        kars__http1_input(c); /* pipelined */
        if (c->h1.state == KARS__HTTP1_IDLE && c->h1.rd != NULL &&
            c->h1.rd_at == c->h1.rd_end) {
            kars__block_unref(c->h1.rd);
            c->h1.rd = NULL;
            c->h1.rd_at = c->h1.rd_end = 0;
        }
        return;
    }
    if (c->h1.eof) {
        http1_break(c); /* nothing is left to linger for */
        return;
    }
    c->h1.state = KARS__HTTP1_LINGER;
    c->sock.ops->shut(&c->sock);
    kars__conn_timer(c, HTTP1_LINGER_MS);
}

void
kars__http1_flushed(kars_conn_t *c)
{
    if (c->h1.broken) {
        kars__conn_close(c);
        return;
    }
    while (c->h1.out != NULL) {
        ssize_t n = kars__sock_sendv(&c->sock, c->h1.out);

        if (n < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK) {
                kars__conn_close(c);
                return;
            }
            kars__conn_timer(c, c->listener->server->core->send_timeout_ms);
            break;
        }
        c->h1.out_len -= (size_t) n;
        c->h1.out = kars__chain_consume(c->h1.out, (size_t) n);
    }
    if (c->h1.out == NULL) {
        c->h1.out_last = NULL;
        if (c->h1.r != NULL && c->h1.body_whole && !c->h1.eof) {
            kars__timer_stop(c->cycle->loop, &c->timer);
        }
        if (c->h1.ended) {
            http1_answered(c);
        } else if (c->h1.r != NULL && c->h1.r->head_sent &&
                   c->h1.r->answer == KARS__ANSWER_TAKEN) {
            c->h1.r->taker->taken(c->h1.r, c->h1.r->taker_data);
            return; /* it is not ours any more */
        }
    }
    if (c->h1.r != NULL && c->h1.out_len < HTTP1_ROOM) {
        kars__pass_room(c->h1.r);
    }
    if (c->h1.r != NULL && c->h1.want_body && !c->h1.body_whole) {
        kars__http1_input(c);
    }
    kars__http1_want(c);
}
