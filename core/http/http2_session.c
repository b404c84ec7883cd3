/* http2_session.c - nghttp2 under our rules: its settings, what it tells us of
 * frames that come, and how many of each kind may. */
#include "http/http2_session.h"

#define HTTP2_FRAME_HEAD    9u
#define HTTP2_SPAN_MS       10000u
#define HTTP2_CONTINUATIONS 8u              /* of one header block */
#define HTTP2_WINDOW        (1024u * 1024u) /* of the connection */
#define HTTP2_ACKS          200u            /* that wait to be sent */
#define HTTP2_SETTINGS      32u             /* in one frame */
#define HTTP2_HEAD_OUT      (256u * 1024u)

/* Memory. */

static void *
http2_malloc(size_t size, void *data)
{
    return kars__realloc(NULL, size);
}

static void *
http2_calloc(size_t n, size_t size, void *data)
{
    size_t all;

    return __builtin_mul_overflow(n, size, &all) ? NULL : kars__alloc(all);
}

static void *
http2_realloc(void *p, size_t size, void *data)
{
    return kars__realloc(p, size);
}

static void
http2_free(void *p, void *data)
{
    kars__free(p);
}

/* Counting. */

static int
http2_over(kars__http2_t *h, const char *limit)
{
    h->limit = limit;
    return NGHTTP2_ERR_CALLBACK_FAILURE;
}

int
kars__http2_count(kars__http2_t *h, uint32_t what)
{
    static const char *const names[] = { "resets", "pings",   "settings",
                                         "empty",  "updates", "other" };
    uint64_t now = kars__loop_now(h->c->cycle->loop);
    uint64_t may = h->c->listener->server->core->http2_limit[what];

    if (now - h->since_ms >= HTTP2_SPAN_MS) {
        h->since_ms = now;
        h->data_frames = 0;
        memset(h->counts, 0, sizeof(h->counts));
    }
    if (what == KARS__HTTP2_UPDATES) {
        may += 4ull * h->data_frames;
    }
    if (++h->counts[what] <= may) {
        return KARS_OK;
    }
    h->limit = names[what];
    return KARS_ERROR;
}

/* Finds the frames of what comes: of those that it ignores (unknown ones, DATA
 * of streams that are over) nghttp2 tells nothing. */
static void
http2_walk(kars__http2_t *h, const char *p, size_t n)
{
    while (n > 0) {
        size_t some = n < h->walk_left ? n : h->walk_left;

        h->walk_left -= (uint32_t) some;
        p += some;
        n -= some;
        if (h->walk_left != 0 || n == 0) {
            return;
        }
        h->walk_head[h->walk_nhead++] = (uint8_t) *p;
        p++;
        n--;
        if (h->walk_nhead == HTTP2_FRAME_HEAD) {
            const uint8_t *b = h->walk_head;

            h->walk_nhead = 0;
            h->walk_left = (uint32_t) b[0] << 16 | (uint32_t) b[1] << 8 | b[2];
            h->ignored += b[3] != NGHTTP2_CONTINUATION;
        }
    }
}

/* HEADERS of a stream that is over cost the reading of them. */
static int
http2_is_open(const kars__http2_t *h, int32_t id)
{
    return nghttp2_session_get_stream_user_data(h->session, id) != NULL;
}

static int
http2_on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *hd,
                     void *data)
{
    kars__http2_t *h = data;
    int rc = KARS_OK;

    h->ignored -= hd->type != NGHTTP2_CONTINUATION;
    switch (hd->type) {
    case NGHTTP2_DATA: /* empty ones when their padding is known */
        break;
    case NGHTTP2_HEADERS:
        h->continuations = 0;
        if (hd->stream_id > h->last_id) {
            h->last_id = hd->stream_id;
        } else if (!http2_is_open(h, hd->stream_id)) {
            rc = kars__http2_count(h, KARS__HTTP2_OTHER);
        }
        break;
    case NGHTTP2_CONTINUATION:
        if (++h->continuations > HTTP2_CONTINUATIONS) {
            return http2_over(h, "CONTINUATION frames of a header block");
        }
        break;
    case NGHTTP2_RST_STREAM: /* when its stream closes */
        break;
    case NGHTTP2_PING:
        rc = kars__http2_count(h, KARS__HTTP2_PINGS);
        break;
    case NGHTTP2_SETTINGS:
        rc = kars__http2_count(h, KARS__HTTP2_SETTINGS);
        break;
    case NGHTTP2_WINDOW_UPDATE:
        rc = kars__http2_count(h, KARS__HTTP2_UPDATES);
        break;
    default:
        rc = kars__http2_count(h, KARS__HTTP2_OTHER);
        break;
    }
    return rc == KARS_OK ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

/* What nghttp2 tells. */

static int
http2_on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame,
                       void *data)
{
    kars__http2_t *h = data;
    const nghttp2_extpri equal = { .urgency = NGHTTP2_EXTPRI_DEFAULT_URGENCY,
                                   .inc = 1 };

    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
        return 0; /* trailers */
    }
    kars__free(h->block); /* of one that came to nothing */
    h->block = NULL;
    h->opening = kars__http2_stream(h, frame->hd.stream_id);
    if (h->opening == NULL) {
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    (void) nghttp2_session_set_stream_user_data(session, frame->hd.stream_id,
                                                h->opening);
    /* In turn, whatever the client says of priorities. */
    (void) nghttp2_session_change_extpri_stream_priority(
        session, frame->hd.stream_id, &equal, 1);
    return 0;
}

static kars_str_t
http2_text(nghttp2_rcbuf *b)
{
    nghttp2_vec v = nghttp2_rcbuf_get_buf(b);

    return (kars_str_t){ (const char *) v.base, v.len };
}

static int
http2_on_header(nghttp2_session *session, const nghttp2_frame *frame,
                nghttp2_rcbuf *name, nghttp2_rcbuf *value, uint8_t flags,
                void *data)
{
    kars__http2_t *h = data;

    if (h->opening == NULL || frame->hd.stream_id != h->opening->id) {
        return 0; /* trailers say nothing here */
    }
    if (kars__http2_field(h->opening, http2_text(name), http2_text(value)) !=
        KARS_OK) {
        return http2_over(h, "bytes of a header list (header_limit)");
    }
    return 0;
}

/* nghttp2 would leave such a field out; a request with one is none. */
static int
http2_on_bad_header(nghttp2_session *session, const nghttp2_frame *frame,
                    nghttp2_rcbuf *name, nghttp2_rcbuf *value, uint8_t flags,
                    void *data)
{
    kars__http2_t *h = data;

    (void) snprintf(h->why, sizeof(h->why),
                    "a header whose name or value is not allowed");
    (void) nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE,
                                     frame->hd.stream_id,
                                     NGHTTP2_PROTOCOL_ERROR);
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static int
http2_on_data(nghttp2_session *session, uint8_t flags, int32_t id,
              const uint8_t *p, size_t n, void *data)
{
    kars__http2_stream_t *st =
        nghttp2_session_get_stream_user_data(session, id);

    /* One stream that nobody reads takes nothing from the others. */
    if (nghttp2_session_consume_connection(session, n) != 0 ||
        (st != NULL && kars__http2_data(st, (const char *) p, n) != KARS_OK)) {
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

static int
http2_on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
    kars__http2_t *h = data;
    kars__http2_stream_t *st =
        frame->hd.stream_id != 0
            ? nghttp2_session_get_stream_user_data(session, frame->hd.stream_id)
            : NULL;
    int ends = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;

    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        if (st != NULL) {
            st->remote_end |= ends;
            if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
                st->whole = ends;
                kars__http2_request(st);
            } else if (ends) {
                kars__http2_data_end(st);
            }
        }
        break;
    case NGHTTP2_DATA:
        if (!ends && frame->hd.length == frame->data.padlen &&
            kars__http2_count(h, KARS__HTTP2_EMPTY) != KARS_OK) {
            return NGHTTP2_ERR_CALLBACK_FAILURE;
        }
        if (st != NULL && ends) {
            st->remote_end = 1;
            kars__http2_data_end(st);
        }
        break;
    case NGHTTP2_RST_STREAM:
        if (st != NULL) {
            st->reset = 1;
        }
        break;
    case NGHTTP2_PING:
        if (frame->hd.flags & NGHTTP2_FLAG_ACK) {
            kars__http2_pong(h, frame->ping.opaque_data);
        }
        break;
    default:
        break;
    }
    return 0;
}

/* The stream itself goes at the next flush. */
static int
http2_on_close(nghttp2_session *session, int32_t id, uint32_t error, void *data)
{
    kars__http2_t *h = data;
    kars__http2_stream_t *st =
        nghttp2_session_get_stream_user_data(session, id);

    if (st == NULL) {
        return 0;
    }
    if (h->opening == st) {
        h->opening = NULL;
    }
    st->closed = 1;
    st->error = error;
    kars__http2_todo(st);
    if (!st->ended && !st->broken) {
        (void) kars__http2_count(h, KARS__HTTP2_RESETS);
    }
    return 0;
}

static int
http2_on_invalid(nghttp2_session *session, const nghttp2_frame *frame, int code,
                 void *data)
{
    kars__http2_t *h = data;

    (void) snprintf(h->why, sizeof(h->why), "%s", nghttp2_strerror(code));
    return 0;
}

static int
http2_on_error(nghttp2_session *session, int code, const char *text, size_t n,
               void *data)
{
    kars__http2_t *h = data;

    (void) snprintf(h->why, sizeof(h->why), "%.*s", (int) n, text);
    return 0;
}

static void
http2_callbacks(nghttp2_session_callbacks *cb)
{
    nghttp2_session_callbacks_set_on_begin_frame_callback(cb,
                                                          http2_on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(
        cb, http2_on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback2(cb, http2_on_header);
    nghttp2_session_callbacks_set_on_invalid_header_callback2(
        cb, http2_on_bad_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb,
                                                              http2_on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, http2_on_frame);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(
        cb, http2_on_invalid);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, http2_on_close);
    nghttp2_session_callbacks_set_error_callback2(cb, http2_on_error);
    kars__http2_callbacks_out(cb);
}

static void
http2_options(nghttp2_option *o)
{
    nghttp2_option_set_no_auto_window_update(o, 1);
    nghttp2_option_set_no_closed_streams(o, 1);
    nghttp2_option_set_max_outbound_ack(o, HTTP2_ACKS);
    nghttp2_option_set_max_settings(o, HTTP2_SETTINGS);
    nghttp2_option_set_max_send_header_block_length(o, HTTP2_HEAD_OUT);
}

static int
http2_settings(kars__http2_t *h)
{
    const kars__core_conf_t *core = h->c->listener->server->core;
    uint64_t window = core->http2_window < NGHTTP2_MAX_WINDOW_SIZE
                          ? core->http2_window
                          : NGHTTP2_MAX_WINDOW_SIZE;
    nghttp2_settings_entry say[] = {
        { NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS,
          (uint32_t) core->http2_streams },
        { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, (uint32_t) window },
        { NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE,
          (uint32_t) core->header_limit },
        { NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1 },
    };

    return nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, say,
                                   KARS_NELTS(say)) == 0 &&
                   nghttp2_session_set_local_window_size(
                       h->session, NGHTTP2_FLAG_NONE, 0, HTTP2_WINDOW) == 0
               ? KARS_OK
               : KARS_ERROR;
}

int
kars__http2_session(kars__http2_t *h)
{
    static nghttp2_session_callbacks *callbacks; /* of all, for ever */
    static nghttp2_option *options;
    nghttp2_mem mem = { NULL, http2_malloc, http2_free, http2_calloc,
                        http2_realloc };

    if (callbacks == NULL) {
        if (nghttp2_session_callbacks_new(&callbacks) != 0) {
            return KARS_ERROR;
        }
        http2_callbacks(callbacks);
    }
    if (options == NULL) {
        if (nghttp2_option_new(&options) != 0) {
            return KARS_ERROR;
        }
        http2_options(options);
    }
    if (nghttp2_session_server_new3(&h->session, callbacks, h, options, &mem) !=
        0) {
        return KARS_ERROR;
    }
    if (http2_settings(h) != KARS_OK) {
        nghttp2_session_del(h->session);
        return KARS_ERROR;
    }
    h->walk_left = KARS__HTTP2_PREFACE;
    h->since_ms = kars__loop_now(h->c->cycle->loop);
    return KARS_OK;
}

int
kars__http2_feed(kars__http2_t *h, kars__block_t *b, const char *p, size_t n)
{
    h->rd = b;
    http2_walk(h, p, n);
    ssize_t rc = nghttp2_session_mem_recv(h->session, (const uint8_t *) p, n);
    h->rd = NULL;

    while (rc >= 0 && h->limit == NULL && h->ignored > 0) {
        h->ignored--;
        (void) kars__http2_count(h, KARS__HTTP2_OTHER);
    }
    if (rc < 0 && h->limit == NULL) {
        if (rc == NGHTTP2_ERR_FLOODED) {
            h->limit = "acknowledgements that wait to be sent";
        } else if (h->continuations >= HTTP2_CONTINUATIONS) {
            h->limit = "CONTINUATION frames of a header block";
        } else if (h->why[0] == '\0') {
            (void) snprintf(h->why, sizeof(h->why), "%s",
                            nghttp2_strerror((int) rc));
        }
    }
    if (h->opening != NULL && h->opening->wait == KARS__HTTP2_WAIT_NONE) {
        kars__http2_wait(h->opening, KARS__HTTP2_WAIT_HEAD);
    }
    return rc < 0 || h->limit != NULL ? KARS_ERROR : KARS_OK;
}
