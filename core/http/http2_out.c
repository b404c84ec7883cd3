/* http2_out.c - answers out: heads, DATA as fast as the client takes it, and
 * the frames of a connection on their way to its socket. */
#include "http/answer.h"
#include "http/http2_session.h"

#include <errno.h>

/* The queue of frames. It is always cut between two of them, and its bytes are
 * its own: a request may end while some of it is still on its way. */

static int
http2_put(kars__http2_t *h, const char *p, size_t n)
{
    while (n > 0) {
        if (h->out_room == 0 || h->out == NULL) {
            kars__block_t *b = kars__block_get(0);
            kars_buf_t *view =
                b != NULL ? kars__buf_view(&h->bufs, b, b->data, 0) : NULL;

            kars__block_unref(b);
            if (view == NULL) {
                return KARS_ERROR;
            }
            *(h->out != NULL ? &h->out_last->next : &h->out) = view;
            h->out_last = view;
            h->out_room = b->size;
        }

        kars_buf_t *last = h->out_last;
        size_t some = n < h->out_room ? n : h->out_room;

        memcpy(last->block->data + last->block->size - h->out_room, p, some);
        last->len += some;
        h->out_room -= some;
        h->out_len += some;
        p += some;
        n -= some;
    }
    return KARS_OK;
}

/* RFC 9113 6.8, without nghttp2, which does not speak after an error. */
void
kars__http2_goaway(kars__http2_t *h, uint32_t code)
{
    uint32_t last =
        (uint32_t) nghttp2_session_get_last_proc_stream_id(h->session);
    char frame[17] = { 0, 0, 8, NGHTTP2_GOAWAY };

    for (int i = 0; i < 4; i++) {
        frame[9 + i] = (char) (last >> (24 - 8 * i));
        frame[13 + i] = (char) (code >> (24 - 8 * i));
    }
    (void) http2_put(h, frame, sizeof(frame));
}

static void
http2_to_send(kars__http2_stream_t *st)
{
    if (!st->sent) {
        st->sent = 1;
        st->sent_next = st->h->sent;
        st->h->sent = st;
    }
    kars__conn_flush(st->h->c);
}

/* DATA. */

static ssize_t
http2_read(nghttp2_session *session, int32_t id, uint8_t *buf, size_t n,
           uint32_t *flags, nghttp2_data_source *source, void *data)
{
    kars__http2_stream_t *st = source->ptr;

    if (st->out_len == 0 && !st->last) {
        st->deferred = 1;
        return NGHTTP2_ERR_DEFERRED;
    }
    n = n < st->out_len ? n : st->out_len;
    if (st->last && n == st->out_len) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    }
    if (n != 0) {
        *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    }
    return (ssize_t) n;
}

static int
http2_send_data(nghttp2_session *session, nghttp2_frame *frame,
                const uint8_t *head, size_t n, nghttp2_data_source *source,
                void *data)
{
    kars__http2_t *h = data;
    kars__http2_stream_t *st = source->ptr;

    if (h->out_len >= KARS__HTTP2_OUT) {
        return NGHTTP2_ERR_WOULDBLOCK;
    }
    if (http2_put(h, (const char *) head, 9) != KARS_OK) {
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    h->data_frames++;
    st->moved = 1;
    st->out_len -= n;
    if (st->r != NULL) {
        st->r->sent_bytes += 9 + n;
    }
    while (n > 0) {
        size_t some = n < st->out->len ? n : st->out->len;

        if (http2_put(h, st->out->data, some) != KARS_OK) {
            return NGHTTP2_ERR_CALLBACK_FAILURE;
        }
        st->out = kars__chain_consume(st->out, some);
        n -= some;
    }
    http2_to_send(st);
    return 0;
}

static int
http2_on_sent(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
    kars__http2_t *h = data;
    kars__http2_stream_t *st;

    if (frame->hd.type == NGHTTP2_GOAWAY &&
        frame->goaway.error_code != NGHTTP2_NO_ERROR && !h->refused) {
        h->refused = 1;
        (void) snprintf(h->why, sizeof(h->why), "%.*s",
                        (int) frame->goaway.opaque_data_len,
                        (const char *) frame->goaway.opaque_data);
        if (h->why[0] == '\0') {
            (void) snprintf(h->why, sizeof(h->why), "%s",
                            nghttp2_http2_strerror(frame->goaway.error_code));
        }
    }
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) {
        return 0;
    }
    st = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (st != NULL && st->r != NULL && frame->hd.type == NGHTTP2_HEADERS) {
        st->r->sent_bytes += 9 + frame->hd.length;
    }
    if (!(frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
        return 0;
    }
    if (st != NULL) {
        st->ended = 1;
        http2_to_send(st);
    }
    return 0;
}

/* An answer whose head nghttp2 cannot send. */
static int
http2_on_not_sent(nghttp2_session *session, const nghttp2_frame *frame,
                  int error, void *data)
{
    kars__http2_stream_t *st =
        frame->hd.type == NGHTTP2_HEADERS
            ? nghttp2_session_get_stream_user_data(session, frame->hd.stream_id)
            : NULL;

    if (st != NULL && !st->closed) {
        kars__log(KARS_LOG_WARN,
                  "router: HTTP/2: a head was not sent error=\"%s\"",
                  nghttp2_strerror(error));
        st->broken = 1;
        kars__http2_todo(st);
    }
    return 0;
}

void
kars__http2_callbacks_out(nghttp2_session_callbacks *cb)
{
    nghttp2_session_callbacks_set_send_data_callback(cb, http2_send_data);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, http2_on_sent);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(cb,
                                                             http2_on_not_sent);
}

/* Answers. */

/* Fields that HTTP/2 has no use for; the framing is its own. */
static int
http2_leaves_out(kars_str_t name)
{
    static const kars_str_t out[] = {
        KARS_STR("content-length"),    KARS_STR("connection"),
        KARS_STR("keep-alive"),        KARS_STR("proxy-connection"),
        KARS_STR("transfer-encoding"), KARS_STR("upgrade"),
    };

    for (size_t i = 0; i < KARS_NELTS(out); i++) {
        if (kars__str_ieq(name, out[i])) {
            return 1;
        }
    }
    return 0;
}

static void
http2_nv(nghttp2_nv *nv, kars_str_t name, kars_str_t value)
{
    nv->name = (uint8_t *) (uintptr_t) name.data;
    nv->namelen = name.len;
    nv->value = (uint8_t *) (uintptr_t) value.data;
    nv->valuelen = value.len;
    nv->flags = NGHTTP2_NV_FLAG_NONE; /* copied, the name in small letters */
}

static int
http2_is_bodiless(const kars_req_t *r)
{
    return kars_str_eq(r->head.method, KARS_STR("HEAD")) || r->status == 204 ||
           r->status == 304;
}

/* length: of the body, -1: not known. */
static kars_str_t
http2_length(const kars_req_t *r, int64_t length, char *text)
{
    kars_str_t said = kars__headers_get(&r->out, KARS_STR("content-length"));

    if (length < 0 || r->status == 204 || r->status == 304) {
        return (kars_str_t){ NULL, 0 };
    }
    if (said.len != 0 && kars_str_eq(r->head.method, KARS_STR("HEAD"))) {
        return said;
    }
    return (kars_str_t){ text, kars__u64_to_dec((uint64_t) length, text) };
}

static int
http2_send_head(kars__http2_stream_t *st, kars_req_t *r, int64_t length,
                int whole)
{
    nghttp2_data_provider body = { .source.ptr = st,
                                   .read_callback = http2_read };
    char status[24], text[24];
    size_t n = 0;
    int dated = 0;

    kars__pool_cap(r->pool, 0); /* nothing is decided any more: finish */
    nghttp2_nv *nv = kars__pnewn(r->pool, nghttp2_nv, r->out.n + 4);

    if (nv == NULL) {
        return KARS_ERROR;
    }
    http2_nv(&nv[n++], KARS_STR(":status"),
             (kars_str_t){ status, kars__u64_to_dec(r->status, status) });
    for (size_t i = 0; i < r->out.n; i++) {
        const kars_header_t *f = &r->out.v[i];

        if (!http2_leaves_out(f->name)) {
            dated |= kars__str_ieq(f->name, KARS_STR("date"));
            http2_nv(&nv[n++], f->name, f->value);
        }
    }
    if (!dated) {
        http2_nv(&nv[n++], KARS_STR("date"), kars__answer_date(r->cycle));
    }
    http2_nv(&nv[n++], KARS_STR("x-kars-trace-id"), r->trace);

    kars_str_t size = http2_length(r, length, text);

    if (size.data != NULL) {
        http2_nv(&nv[n++], KARS_STR("content-length"), size);
    }
    return nghttp2_submit_response(st->h->session, st->id, nv, n,
                                   whole ? NULL : &body) == 0
               ? KARS_OK
               : KARS_ERROR;
}

static void
http2_append(kars__http2_stream_t *st, kars_buf_t *chain)
{
    while (chain != NULL) {
        kars_buf_t *next = chain->next;

        chain->next = NULL;
        if (chain->len == 0) {
            kars__buf_free(chain);
        } else {
            *(st->out != NULL ? &st->out_last->next : &st->out) = chain;
            st->out_last = chain;
            st->out_len += chain->len;
        }
        chain = next;
    }
}

/* A record's answer goes to nobody. */
static void
http2_output_none(kars__http2_stream_t *st, kars_buf_t *chain, uint32_t flags)
{
    kars__chain_free(chain);
    if (flags & KARS_LAST) {
        st->ended = 1;
        http2_to_send(st);
    }
}

static void
http2_output(kars_req_t *r, kars_buf_t *chain, uint32_t flags)
{
    kars__http2_stream_t *st = r->stream;
    size_t n = kars__chain_len(chain);

    if (st == NULL || st->closed || st->broken || st->last) {
        kars__chain_free(chain);
        return;
    }
    if (st->id == 0) {
        http2_output_none(st, chain, flags);
        return;
    }
    if (http2_is_bodiless(r)) {
        kars__chain_free(chain);
        chain = NULL;
    }
    st->last = (flags & KARS_LAST) != 0;
    http2_append(st, chain);
    if (!r->head_sent) {
        r->head_sent = 1;
        if (http2_send_head(st, r, st->last ? (int64_t) n : -1,
                            st->last && st->out_len == 0) != KARS_OK) {
            kars__http2_abort(r);
            return;
        }
    } else if (st->deferred) {
        st->deferred = 0;
        (void) nghttp2_session_resume_data(st->h->session, st->id);
    }
    http2_to_send(st);
}

static size_t
http2_unsent(const kars_req_t *r)
{
    return r->stream != NULL ? r->stream->out_len : 0;
}

const kars__proto_t kars__http2_proto = {
    .output = http2_output,
    .read_body = kars__http2_read_body,
    .abort = kars__http2_abort,
    .unsent = http2_unsent,
};

/* To the socket. */

static int
http2_make(kars__http2_t *h)
{
    while (!h->failed && h->out_len < KARS__HTTP2_OUT) {
        const uint8_t *p;
        ssize_t n = nghttp2_session_mem_send(h->session, &p);

        if (n < 0 || h->limit != NULL) {
            return KARS_ERROR;
        }
        if (n == 0) {
            return KARS_OK; /* no more, or no more now */
        }
        if (http2_put(h, (const char *) p, (size_t) n) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    return KARS_OK;
}

int
kars__http2_send(kars__http2_t *h)
{
    for (;;) {
        if (http2_make(h) != KARS_OK) {
            return KARS_ERROR;
        }
        if (h->out == NULL) {
            return KARS_OK;
        }

        ssize_t n = kars__sock_sendv(&h->c->sock, h->out);

        if (n < 0) {
            return errno == EAGAIN || errno == EWOULDBLOCK ? KARS_OK
                                                           : KARS_ERROR;
        }
        h->moved = 1;
        h->out_len -= (size_t) n;
        h->out = kars__chain_consume(h->out, (size_t) n);
    }
}

/* An answer is out: its request is done. A client that still sends is told
 * after a while that nobody reads it (RFC 9113 8.1); at once some would take
 * for a failure. */
static void
http2_answered(kars__http2_stream_t *st)
{
    kars__http2_wait(st, KARS__HTTP2_WAIT_NONE);
    kars__http2_end(st);
    if (st->id == 0) {
        kars__http2_stream_free(st);
    } else if (!st->remote_end && !st->closed) {
        kars__http2_wait(st, KARS__HTTP2_WAIT_REST);
    }
}

void
kars__http2_sent(kars__http2_t *h)
{
    kars__http2_stream_t *st;

    while ((st = h->sent) != NULL) {
        h->sent = st->sent_next;
        st->sent = 0;
        if (st->ended) {
            http2_answered(st);
            continue;
        }
        if (st->out_len > 0) {
            if (st->wait != KARS__HTTP2_WAIT_SEND || st->moved) {
                kars__http2_wait(st, KARS__HTTP2_WAIT_SEND);
            }
        } else if (st->wait == KARS__HTTP2_WAIT_SEND) {
            kars__http2_wait(st, KARS__HTTP2_WAIT_NONE);
        }
        st->moved = 0;
        if (st->r != NULL) {
            kars__pass_room(st->r);
        }
    }
}
