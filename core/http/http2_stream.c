/* http2_stream.c - streams: from a header block to a request, its body, its
 * end. */
#include "http/http2_session.h"

#define HTTP2_BOMB   16u   /* header_limit times: no client's mistake */
#define HTTP2_SMALL  2048u /* bytes that are copied where they are held */
#define HTTP2_GATHER 4096u /* where to */
#define HTTP2_FIELD  32u   /* what a field counts besides, RFC 9113 6.5.2 */

static void http2_timeout(kars__timer_t *t);

kars__http2_stream_t *
kars__http2_stream(kars__http2_t *h, int32_t id)
{
    kars__http2_stream_t *st = kars__alloc(sizeof(*st));

    if (st == NULL) {
        return NULL;
    }
    st->h = h;
    st->id = id;
    st->timer.fn = http2_timeout;
    st->next = h->streams;
    if (st->next != NULL) {
        st->next->prev = st;
    }
    h->streams = st;
    h->nstreams += id != 0;
    return st;
}

/* Leaves a list that it may stand in. */
static void
http2_unlist(kars__http2_stream_t **at, kars__http2_stream_t *st, size_t link)
{
    while (*at != NULL && *at != st) {
        at = (kars__http2_stream_t **) ((char *) *at + link);
    }
    if (*at != NULL) {
        *at = *(kars__http2_stream_t **) ((char *) st + link);
    }
}

static void
http2_forget_body(kars__http2_stream_t *st)
{
    size_t n = st->in_len;

    kars__chain_free(st->in);
    st->in = st->in_last = NULL;
    st->in_len = st->in_room = 0;
    if (n != 0) {
        kars__body_memory_give(st->h->c->cycle, n);
    }
}

void
kars__http2_stream_free(kars__http2_stream_t *st)
{
    kars__http2_t *h = st->h;

    kars__timer_stop(h->c->cycle->loop, &st->timer);
    http2_forget_body(st);
    if (st->todo) {
        http2_unlist(&h->todo, st, offsetof(kars__http2_stream_t, todo_next));
    }
    if (st->sent) {
        http2_unlist(&h->sent, st, offsetof(kars__http2_stream_t, sent_next));
    }
    *(st->prev != NULL ? &st->prev->next : &h->streams) = st->next;
    if (st->next != NULL) {
        st->next->prev = st->prev;
    }
    h->nstreams -= st->id != 0;
    kars__free(st);
}

/* Header blocks. */

static kars__http2_block_t *
http2_block(kars__http2_t *h)
{
    size_t limit = (size_t) h->c->listener->server->core->header_limit;

    if (h->block == NULL) {
        h->block = kars__realloc(NULL, sizeof(*h->block) + limit);
        if (h->block != NULL) {
            memset(h->block, 0, sizeof(*h->block));
            h->block->n = 1;
            h->block->limit = limit;
        }
    }
    return h->block;
}

static kars_str_t
http2_keep(kars__http2_block_t *b, kars_str_t s)
{
    kars_str_t kept = { b->text + b->len, s.len };

    if (s.len != 0) {
        memcpy(b->text + b->len, s.data, s.len);
    }
    b->len += s.len;
    return kept;
}

static kars_str_t *
http2_pseudo(kars__http2_block_t *b, kars_str_t name)
{
    if (kars_str_eq(name, KARS_STR(":method"))) {
        return &b->method;
    }
    if (kars_str_eq(name, KARS_STR(":path"))) {
        return &b->path;
    }
    if (kars_str_eq(name, KARS_STR(":authority"))) {
        return &b->authority;
    }
    return &b->scheme; /* nghttp2 lets no other pass */
}

int
kars__http2_field(kars__http2_stream_t *st, kars_str_t name, kars_str_t value)
{
    kars__http2_block_t *b = http2_block(st->h);

    if (b == NULL) {
        return KARS_ERROR;
    }
    b->list += name.len + value.len + HTTP2_FIELD;
    if (b->list > b->limit) { /* the rest is counted, and refused with 431 */
        return b->list / HTTP2_BOMB > b->limit ? KARS_ERROR : KARS_OK;
    }
    if (name.len != 0 && name.data[0] == ':') {
        *http2_pseudo(b, name) = http2_keep(b, value);
        return KARS_OK;
    }
    if (b->n == KARS__HEADERS_MAX + 1) {
        b->many = 1;
        return KARS_OK;
    }
    b->fields[b->n].name = http2_keep(b, name);
    b->fields[b->n].value = http2_keep(b, value);
    b->n++;
    return KARS_OK;
}

/* RFC 9113 8.2.3: a cookie may come in crumbs; nobody else knows that. at:
 * room for all of it; returns the bytes used. */
static size_t
http2_cookie(kars__http2_block_t *b, char *at)
{
    kars_header_t *first = NULL;
    size_t o = 1, n = 0;

    for (size_t i = 1; i < b->n; i++) {
        kars_header_t f = b->fields[i];

        if (!kars_str_eq(f.name, KARS_STR("cookie"))) {
            b->fields[o++] = f;
            continue;
        }
        if (first == NULL) {
            first = &b->fields[o];
            b->fields[o++] = f;
        } else {
            memcpy(at + n, "; ", 2);
            n += 2;
        }
        if (f.value.len != 0) {
            memcpy(at + n, f.value.data, f.value.len);
        }
        n += f.value.len;
    }
    b->n = o;
    if (first != NULL) {
        first->value = (kars_str_t){ at, n };
    }
    return n;
}

/* :authority stands in the place of Host, which may repeat it and no more. */
static int
http2_host(kars__http2_block_t *b, kars__head_t *head, kars_err_t *err)
{
    size_t o = 1, hosts = 0;
    int differs = 0;

    head->headers = b->fields + 1;
    head->nheaders = b->n - 1;
    if (b->authority.data == NULL) {
        return KARS_OK;
    }
    for (size_t i = 1; i < b->n; i++) {
        if (!kars_str_eq(b->fields[i].name, KARS_STR("host"))) {
            b->fields[o++] = b->fields[i];
            continue;
        }
        hosts++;
        differs |= !kars__str_ieq(b->fields[i].value, b->authority);
    }
    b->n = o;
    b->fields[0].name = KARS_STR("host");
    b->fields[0].value = b->authority;
    head->headers = b->fields;
    head->nheaders = o;
    if (hosts > 1 || differs) {
        head->status = 400;
        return kars__err(err, 0, "a Host that is not :authority");
    }
    return KARS_OK;
}

static void
http2_move(kars_str_t *s, const char *from, size_t n, char *to)
{
    if (s->data >= from && s->data <= from + n) {
        s->data = to + (s->data - from);
    }
}

/* The header block as a head, with its text in a block of its own. */
static int
http2_head(kars__http2_block_t *b, kars__block_t **ret_text, kars__head_t *head,
           kars_err_t *err)
{
    kars__block_t *text;

    memset(head, 0, sizeof(*head));
    head->content_length = -1;
    if (b == NULL) {
        head->status = 503;
        return kars__err(err, 0, "no memory for the head");
    }
    if (b->list > b->limit || b->many) {
        head->status = 431;
        return kars__err(err, 0, "%s",
                         b->many ? "more than 100 headers"
                                 : "the head is larger than header_limit");
    }
    /* cookies once more: "; " is less than what a crumb's name takes */
    text = kars__block_get(2 * b->len + 1);
    if (text == NULL) {
        head->status = 503;
        return kars__err(err, 0, "no memory for the head");
    }
    *ret_text = text;
    memcpy(text->data, b->text, b->len);
    for (size_t i = 1; i < b->n; i++) {
        http2_move(&b->fields[i].name, b->text, b->len, text->data);
        http2_move(&b->fields[i].value, b->text, b->len, text->data);
    }
    http2_move(&b->method, b->text, b->len, text->data);
    http2_move(&b->path, b->text, b->len, text->data);
    http2_move(&b->scheme, b->text, b->len, text->data);
    if (b->authority.data != NULL) {
        http2_move(&b->authority, b->text, b->len, text->data);
    }
    (void) http2_cookie(b, text->data + b->len);
    head->method = b->method;
    head->target = b->path;
    if (!kars__str_ieq(b->scheme, KARS_STR("http")) &&
        !kars__str_ieq(b->scheme, KARS_STR("https")) &&
        !kars_str_eq(b->method, KARS_STR("CONNECT"))) {
        head->status = 400;
        return kars__err(err, 0, "a :scheme other than http and https");
    }
    return http2_host(b, head, err) == KARS_OK ? kars__head_fields(head, err)
                                               : KARS_ERROR;
}

/* Requests. */

static void
http2_carry(kars__http2_stream_t *st, kars_req_t *r)
{
    r->conn = st->h->c;
    r->proto = &kars__http2_proto;
    r->stream = st;
    st->r = r;
}

/* As for HTTP/1: what cannot be read is answered and recorded. */
static void
http2_bad_head(kars__http2_stream_t *st, uint32_t status, const char *why)
{
    kars_conn_t *c = st->h->c;
    kars_req_t *r = kars__req_create_bad(c->cycle, c->listener->server, NULL);

    st->drop = 1;
    if (r == NULL) {
        st->broken = 1;
        kars__http2_todo(st);
        return;
    }
    http2_carry(st, r);
    (void) kars__req_refuse(r, (int) status, "invalid_request_error",
                            status == 431   ? "headers_too_large"
                            : status == 503 ? "overloaded"
                                            : "bad_request",
                            why);
    kars__req_send_answer(r);
}

void
kars__http2_record(kars__http2_t *h, const char *why)
{
    kars__http2_stream_t *st = kars__http2_stream(h, 0);

    if (st != NULL) {
        st->begun = 1;
        http2_bad_head(st, 400, why);
    }
    h->why[0] = '\0';
}

static void
http2_start(kars__http2_stream_t *st, const kars__head_t *head,
            kars__block_t *text)
{
    kars_conn_t *c = st->h->c;
    kars_req_t *r = kars__req_create(c->cycle, c->listener->server, head, text);
    char *path = r != NULL ? kars__palloc(r->pool, head->target.len) : NULL;
    kars_err_t err = KARS_ERR_INIT;

    if (path == NULL) { /* no memory to say so either */
        if (r != NULL) {
            kars__req_done(r);
        }
        st->broken = 1;
        kars__http2_todo(st);
        return;
    }
    http2_carry(st, r);
    /* nghttp2 holds the client to the length that it said */
    st->whole |= head->content_length == 0;
    r->head.chunked = !st->whole && head->content_length < 0;
    if (kars__head_path(head->target, path, &r->path, &r->query, &err) !=
        KARS_OK) {
        r->path = KARS_STR("-");
        (void) kars__req_refuse(r, 400, "invalid_request_error", "invalid_path",
                                err.text);
        kars__req_send_answer(r);
        return;
    }
    kars__req_start(r);
}

void
kars__http2_request(kars__http2_stream_t *st)
{
    kars__http2_t *h = st->h;
    kars__block_t *text = NULL;
    kars__head_t head;
    kars_err_t err = KARS_ERR_INIT;

    st->begun = 1;
    h->opening = NULL;
    kars__http2_wait(st, KARS__HTTP2_WAIT_NONE);
    if (http2_head(h->block, &text, &head, &err) == KARS_OK) {
        http2_start(st, &head, text);
    } else {
        http2_bad_head(st, head.status, err.text);
    }
    kars__block_unref(text);
    kars__free(h->block);
    h->block = NULL;
}

void
kars__http2_end(kars__http2_stream_t *st)
{
    kars_req_t *r = st->r;

    st->r = NULL;
    st->drop = 1;
    http2_forget_body(st);
    kars__chain_free(st->out);
    st->out = st->out_last = NULL;
    st->out_len = 0;
    if (r == NULL) {
        return;
    }
    r->stream = NULL;
    if (st->ended) {
        kars__req_done(r);
        return;
    }
    if (st->error == NGHTTP2_PROTOCOL_ERROR && !st->reset && !st->broken &&
        r->answer == KARS__ANSWER_NONE) {
        (void) kars__req_refuse(r, 400, "invalid_request_error", "bad_request",
                                "the body is not what its head says");
    }
    kars__req_gone(r);
}

/* Bodies. */

static int
http2_is_wanted(const kars__http2_stream_t *st)
{
    return st->want && !st->drop && st->r != NULL;
}

static void
http2_take(kars__http2_stream_t *st, kars__block_t *block, const char *p,
           size_t n)
{
    (void) nghttp2_session_consume_stream(st->h->session, st->id, n);
    if (kars__req_body_in(st->r, block, p, n) != KARS_OK) {
        st->drop = 1;
    }
}

static int
http2_hold(kars__http2_stream_t *st, const char *p, size_t n)
{
    kars__block_t *b = NULL;
    kars_buf_t *view;

    kars__body_memory_take(st->h->c->cycle, n);
    st->in_len += n;
    if (n <= st->in_room) {
        memcpy(st->in_last->block->data + st->in_last->block->size -
                   st->in_room,
               p, n);
        st->in_last->len += n;
        st->in_room -= n;
        return KARS_OK;
    }
    if (n > HTTP2_SMALL) {
        view = kars__buf_view(&st->bufs, st->h->rd, p, n);
        st->in_room = 0;
    } else {
        b = kars__block_get(HTTP2_GATHER);
        view = b != NULL ? kars__buf_view(&st->bufs, b, b->data, n) : NULL;
        kars__block_unref(b);
        if (view != NULL) {
            memcpy(b->data, p, n);
            st->in_room = b->size - n;
        }
    }
    if (view == NULL) {
        return KARS_ERROR;
    }
    *(st->in != NULL ? &st->in_last->next : &st->in) = view;
    st->in_last = view;
    return KARS_OK;
}

int
kars__http2_data(kars__http2_stream_t *st, const char *p, size_t n)
{
    if (st->r == NULL || st->drop) {
        return KARS_OK; /* its window stays shut */
    }
    if (!http2_is_wanted(st) || st->in != NULL) {
        return http2_hold(st, p, n);
    }
    http2_take(st, st->h->rd, p, n);
    if (http2_is_wanted(st)) {
        kars__http2_wait(st, KARS__HTTP2_WAIT_BODY);
    }
    return KARS_OK;
}

/* Tells the request that its body is whole, when it is. */
static void
http2_tell(kars__http2_stream_t *st)
{
    if (st->whole && st->in == NULL && http2_is_wanted(st) && !st->told) {
        st->told = 1;
        if (st->wait == KARS__HTTP2_WAIT_BODY) {
            kars__http2_wait(st, KARS__HTTP2_WAIT_NONE);
        }
        kars__req_body_end(st->r);
    }
}

void
kars__http2_data_end(kars__http2_stream_t *st)
{
    st->whole = 1;
    http2_tell(st);
}

static void
http2_read_on(kars__http2_stream_t *st)
{
    while (st->in != NULL && http2_is_wanted(st)) {
        kars_buf_t *b = st->in;

        st->in = b->next;
        st->in_room = st->in != NULL ? st->in_room : 0;
        st->in_len -= b->len;
        http2_take(st, b->block, b->data, b->len);
        kars__body_memory_give(st->h->c->cycle, b->len);
        kars__buf_free(b);
    }
    http2_tell(st);
}

void
kars__http2_read_body(kars_req_t *r, int on)
{
    kars__http2_stream_t *st = r->stream;

    if (st == NULL || st->closed || st->last || st->drop) {
        return;
    }
    st->want = on != 0;
    if (!on) {
        if (st->wait == KARS__HTTP2_WAIT_BODY) {
            kars__http2_wait(st, KARS__HTTP2_WAIT_NONE);
        }
        return;
    }
    if (st->whole && st->in == NULL) {
        http2_tell(st);
        return;
    }
    if (r->head.expect_continue && r->body_size == 0 && st->in == NULL) {
        nghttp2_nv go_on = { (uint8_t *) ":status", (uint8_t *) "100", 7, 3,
                             NGHTTP2_NV_FLAG_NONE };

        r->head.expect_continue = 0;
        (void) nghttp2_submit_headers(st->h->session, NGHTTP2_FLAG_NONE, st->id,
                                      NULL, &go_on, 1, NULL);
    }
    if (!st->whole) {
        kars__http2_wait(st, KARS__HTTP2_WAIT_BODY);
    }
    kars__http2_todo(st); /* not from here: the caller may not expect it */
}

/* Time. */

void
kars__http2_wait(kars__http2_stream_t *st, uint8_t what)
{
    const kars__core_conf_t *core =
        st->r != NULL ? st->r->route->core : st->h->c->listener->server->core;
    kars__loop_t *loop = st->h->c->cycle->loop;

    st->wait = what;
    switch (what) {
    case KARS__HTTP2_WAIT_HEAD:
        kars__timer_start(loop, &st->timer, core->header_timeout_ms);
        break;
    case KARS__HTTP2_WAIT_BODY:
        kars__timer_start(loop, &st->timer, core->body_timeout_ms);
        break;
    case KARS__HTTP2_WAIT_REST:
        kars__timer_start(loop, &st->timer, KARS__HTTP2_LINGER_MS);
        break;
    case KARS__HTTP2_WAIT_SEND:
        kars__timer_start(loop, &st->timer, core->send_timeout_ms);
        break;
    default:
        kars__timer_stop(loop, &st->timer);
        break;
    }
}

static void
http2_timeout(kars__timer_t *t)
{
    kars__http2_stream_t *st =
        (kars__http2_stream_t *) ((char *) t -
                                  offsetof(kars__http2_stream_t, timer));
    kars_req_t *r = st->r;
    uint8_t wait = st->wait;

    st->wait = KARS__HTTP2_WAIT_NONE;
    if (wait == KARS__HTTP2_WAIT_HEAD) { /* no other frame can follow */
        kars__conn_close(st->h->c);
        return;
    }
    if (wait == KARS__HTTP2_WAIT_REST) {
        (void) nghttp2_submit_rst_stream(st->h->session, NGHTTP2_FLAG_NONE,
                                         st->id, NGHTTP2_NO_ERROR);
        kars__conn_flush(st->h->c);
        return;
    }
    if (wait == KARS__HTTP2_WAIT_BODY && r != NULL &&
        r->answer == KARS__ANSWER_NONE && !r->suspended) {
        st->drop = 1;
        (void) kars__req_refuse(r, 408, "invalid_request_error",
                                "request_timeout",
                                "the request's body did not come in time");
        kars__req_send_answer(r);
        return;
    }
    st->broken = 1;
    kars__http2_todo(st);
}

/* Later, in the connection's flush. */

void
kars__http2_todo(kars__http2_stream_t *st)
{
    if (!st->todo) {
        st->todo = 1;
        st->todo_next = st->h->todo;
        st->h->todo = st;
    }
    kars__conn_flush(st->h->c);
}

void
kars__http2_abort(kars_req_t *r)
{
    if (r->stream != NULL) {
        r->stream->broken = 1;
        kars__http2_todo(r->stream);
    }
}

static void
http2_closed(kars__http2_stream_t *st)
{
    kars__http2_t *h = st->h;
    char why[sizeof(h->why) + 16];

    if (!st->begun && !st->broken && !h->failed) { /* never a request */
        (void) snprintf(why, sizeof(why), "HTTP/2: %s", h->why);
        kars__http2_record(h, why);
    }
    kars__http2_end(st);
    kars__http2_stream_free(st);
}

void
kars__http2_work(kars__http2_t *h)
{
    kars__http2_stream_t *st;

    while ((st = h->todo) != NULL) {
        h->todo = st->todo_next;
        st->todo = 0;
        if (st->closed || (st->broken && (st->id == 0 || h->failed))) {
            http2_closed(st);
        } else if (st->broken) {
            if (st->r != NULL || !st->begun) {
                (void) nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE,
                                                 st->id,
                                                 NGHTTP2_INTERNAL_ERROR);
            }
            kars__http2_wait(st, KARS__HTTP2_WAIT_NONE);
            kars__http2_end(st);
        } else {
            http2_read_on(st);
        }
    }
}
