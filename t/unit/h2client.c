/* h2client.c - a client of HTTP/2 on the loop in memory. */
#include "h2client.h"

#include <errno.h>

static int
h2_on_header(nghttp2_session *s, const nghttp2_frame *frame,
             const uint8_t *name, size_t n, const uint8_t *value, size_t len,
             uint8_t flags, void *data)
{
    h2_stream_t *st = h2_stream(data, frame->hd.stream_id);

    if (n == 7 && memcmp(name, ":status", 7) == 0) {
        st->status = (int) strtol((const char *) value, NULL, 10);
        st->heads++;
    }
    return 0;
}

static int
h2_on_data(nghttp2_session *s, uint8_t flags, int32_t id, const uint8_t *p,
           size_t n, void *data)
{
    t_append(&h2_stream(data, id)->body, (const char *) p, n);
    return nghttp2_session_consume_connection(s, n);
}

static int
h2_on_frame(nghttp2_session *s, const nghttp2_frame *frame, void *data)
{
    h2_t *h = data;

    if (frame->hd.type == NGHTTP2_GOAWAY) {
        h->goaways++;
        h->last_id = frame->goaway.last_stream_id;
        h->error = frame->goaway.error_code;
    } else if ((frame->hd.type == NGHTTP2_DATA ||
                frame->hd.type == NGHTTP2_HEADERS) &&
               (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
        h2_stream(h, frame->hd.stream_id)->ended = 1;
    }
    return 0;
}

static int
h2_on_close(nghttp2_session *s, int32_t id, uint32_t error, void *data)
{
    h2_stream_t *st = h2_stream(data, id);

    st->closed = 1;
    st->error = error;
    return 0;
}

static void
h2_deliver(h2_t *h)
{
    const uint8_t *p;
    ssize_t n;

    while ((n = nghttp2_session_mem_send(h->session, &p)) > 0) {
        t_append(&h->end->in, (const char *) p, (size_t) n);
    }
}

void
h2_push(h2_t *h)
{
    h2_deliver(h);
    t_run(h->t);
}

void
h2_run(h2_t *h)
{
    do {
        h2_push(h);
        if (h->taken < h->end->out.len && !h->broken) {
            ssize_t n = nghttp2_session_mem_recv(
                h->session, (uint8_t *) h->end->out.data + h->taken,
                h->end->out.len - h->taken);

            h->taken = h->end->out.len;
            h->broken = n < 0;
        }
    } while (nghttp2_session_want_write(h->session));
    t_run(h->t);
}

h2_t *
h2_open_window(t_loop_t *t, uint32_t window)
{
    h2_t *h = calloc(1, sizeof(*h));
    nghttp2_session_callbacks *cb;
    nghttp2_option *o;
    nghttp2_settings_entry say = { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
                                   window };

    CU_ASSERT_FATAL(h != NULL);
    h->t = t;
    h->end = t_client(t);
    CU_ASSERT_EQUAL_FATAL(nghttp2_session_callbacks_new(&cb), 0);
    nghttp2_session_callbacks_set_on_header_callback(cb, h2_on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, h2_on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, h2_on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, h2_on_close);
    CU_ASSERT_EQUAL_FATAL(nghttp2_option_new(&o), 0);
    nghttp2_option_set_no_auto_window_update(o, 1);
    CU_ASSERT_EQUAL_FATAL(nghttp2_session_client_new2(&h->session, cb, h, o),
                          0);
    nghttp2_session_callbacks_del(cb);
    nghttp2_option_del(o);
    say.value = window != 0 ? window : 0x7fffffff;
    CU_ASSERT_EQUAL(nghttp2_submit_settings(h->session, 0, &say, 1), 0);
    h2_run(h);
    return h;
}

h2_t *
h2_open(t_loop_t *t)
{
    return h2_open_window(t, 0);
}

void
h2_close(h2_t *h)
{
    if (t_is_open(h->end)) {
        h->end->error = ECONNRESET;
        t_run(h->t);
    }
    nghttp2_session_del(h->session);
    for (size_t i = 0; i < h->nstreams; i++) {
        free(h->streams[i].body.data);
    }
    free(h);
}

h2_stream_t *
h2_stream(h2_t *h, int32_t id)
{
    for (size_t i = 0; i < h->nstreams; i++) {
        if (h->streams[i].id == id) {
            return &h->streams[i];
        }
    }
    CU_ASSERT_FATAL(h->nstreams < H2_STREAMS);

    h2_stream_t *st = &h->streams[h->nstreams++];

    st->id = id;
    t_append(&st->body, "", 0);
    return st;
}

static nghttp2_nv
h2_nv(const char *name, size_t n, const char *value)
{
    return (nghttp2_nv){ (uint8_t *) (uintptr_t) name,
                         (uint8_t *) (uintptr_t) value, n, strlen(value), 0 };
}

int32_t
h2_begin(h2_t *h, const char *method, const char *path, const char *const *more,
         int end)
{
    nghttp2_nv nv[40] = {
        h2_nv(":method", 7, method),
        h2_nv(":scheme", 7, "http"),
        h2_nv(":authority", 10, "x"),
        h2_nv(":path", 5, path),
    };
    size_t n = 4;

    for (; more != NULL && *more != NULL; more++) {
        const char *colon = strchr(*more, ':');

        nv[n++] = h2_nv(*more, (size_t) (colon - *more), colon + 2);
    }

    int32_t id = nghttp2_submit_headers(
        h->session, end ? NGHTTP2_FLAG_END_STREAM : 0, -1, NULL, nv, n, NULL);

    CU_ASSERT_FATAL(id > 0);
    (void) h2_stream(h, id);
    h2_run(h);
    return id;
}

int32_t
h2_get(h2_t *h, const char *path)
{
    return h2_begin(h, "GET", path, NULL, 1);
}

void
h2_raw(h2_t *h, uint8_t type, uint8_t flags, int32_t id, const char *p,
       size_t n)
{
    const char head[9] = {
        (char) (n >> 16),  (char) (n >> 8),  (char) n,
        (char) type,       (char) flags,     (char) (id >> 24),
        (char) (id >> 16), (char) (id >> 8), (char) id,
    };

    t_append(&h->end->in, head, sizeof(head));
    t_append(&h->end->in, p, n);
    h2_run(h);
}

void
h2_data(h2_t *h, int32_t id, const char *p, size_t n, int end)
{
    do {
        size_t some = n < 16384 ? n : 16384;

        h2_raw(h, NGHTTP2_DATA, end && some == n ? NGHTTP2_FLAG_END_STREAM : 0,
               id, p, some);
        p += some;
        n -= some;
    } while (n > 0);
}

int32_t
h2_post(h2_t *h, const char *path, const char *body)
{
    int32_t id = h2_begin(h, "POST", path, NULL, 0);

    h2_data(h, id, body, strlen(body), 1);
    return id;
}

void
h2_cancel(h2_t *h, int32_t id)
{
    (void) nghttp2_submit_rst_stream(h->session, 0, id, NGHTTP2_CANCEL);
    h2_run(h);
}

void
h2_take(h2_t *h, int32_t id, int32_t n)
{
    CU_ASSERT_EQUAL(nghttp2_submit_window_update(h->session, 0, id, n), 0);
    h2_run(h);
}
