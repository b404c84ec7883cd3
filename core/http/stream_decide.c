/* stream_decide.c - may this stream be? A pseudo-request runs the hooks of the
 * route that takes its method and path, up to ADMIT. It lives as long as the
 * stream, so that its records say how that ended. */
#include "http/stream.h"

#include <errno.h>

static kars_stream_t *
decide_stream(const kars_req_t *r)
{
    return r->conn->user;
}

static void
decide_end(kars_stream_t *s, uint32_t verdict)
{
    if (s->deciding && s->verdict == 0) {
        s->verdict = (uint8_t) verdict;
        kars__stream_later(s);
    }
}

/* The other side of the pseudo-request. It has no body, and its answer goes
 * nowhere: only what was decided counts. */

static void
decide_output(kars_req_t *r, kars_buf_t *chain, uint32_t flags)
{
    kars__chain_free(chain);
    r->head_sent = 1;
    if (r->answer == KARS__ANSWER_TAKEN) {
        decide_end(decide_stream(r), KARS_ALLOW);
    } else if (flags & KARS_LAST) {
        decide_end(decide_stream(r),
                   r->status == 429 ? KARS_RATE_LIMITED : KARS_DENY);
    }
}

static void
decide_read_body(kars_req_t *r, int on)
{
    if (on) {
        kars__req_body_end(r);
    }
}

static void
decide_abort(kars_req_t *r)
{
    decide_end(decide_stream(r), KARS_DENY);
}

static size_t
decide_unsent(const kars_req_t *r)
{
    return 0;
}

static const kars__proto_t decide_proto = {
    .output = decide_output,
    .read_body = decide_read_body,
    .abort = decide_abort,
    .unsent = decide_unsent,
};

static void
decide_allowed(kars_req_t *r, void *data)
{
    kars__req_open(r, 200);
}

static void
decide_taken(kars_req_t *r, void *data)
{
    /* Of connections of HTTP only. */
}

static void
decide_gone(kars_req_t *r, void *data)
{
    /* The stream ends it, not the other way round. */
}

static void
decide_refused_late(kars_req_t *r, const kars_denial_t *denial)
{
    kars__stream_close(decide_stream(r), EACCES);
}

static const kars__taker_t decide_taker = {
    .begin = decide_allowed,
    .taken = decide_taken,
    .gone = decide_gone,
    .end = decide_refused_late,
};

/* "host:port" stands for the path "/host:port", as in a CONNECT request. */
static int
decide_path(kars_req_t *r, kars_str_t path)
{
    char *text = kars__palloc(r->pool, path.len + 1);
    size_t slash = path.len == 0 || path.data[0] != '/';

    if (text == NULL) {
        return KARS_ERROR;
    }
    text[0] = '/';
    if (path.len != 0) {
        memcpy(text + slash, path.data, path.len);
    }
    r->path = (kars_str_t){ text, path.len + slash };
    r->query = KARS_STR("");
    r->head.target = r->path;
    r->head.method = kars__pdup(r->pool, r->head.method);
    return r->head.method.data != NULL ? KARS_OK : KARS_ERROR;
}

int
kars__stream_decide(kars_stream_t *s, kars_str_t method, kars_str_t path,
                    int (*fn)(kars_stream_t *s, const kars_verdict_t *verdict,
                              void *data))
{
    kars__head_t head = { .method = method, .minor = 1, .content_length = -1 };

    if (s->conn == NULL || s->r != NULL || s->closing || s->failed ||
        !kars__head_name_ok(method)) {
        return KARS_ERROR;
    }

    kars_req_t *r =
        kars__req_create(s->cycle, s->conn->listener->server, &head, NULL);

    if (r == NULL) {
        return KARS_ERROR;
    }
    s->r = r;
    s->decided = fn;
    s->deciding = 1;
    r->conn = s->conn;
    r->proto = &decide_proto;
    r->decide_only = 1;
    r->taker = &decide_taker;
    r->taker_data = s;
    if (decide_path(r, path) != KARS_OK) {
        s->deciding = 0;
        kars__stream_req_end(s);
        return KARS_ERROR;
    }
    kars__work_queue(s->cycle->loop, &s->decide, KARS__POST);
    return KARS_AGAIN;
}

/* Not from inside the module: its own hooks may run. */
void
kars__stream_decide_run(kars__work_t *work)
{
    kars__req_start(
        ((kars_stream_t *) ((char *) work - offsetof(kars_stream_t, decide)))
            ->r);
}

void
kars__stream_tell_verdict(kars_stream_t *s)
{
    kars_req_t *r = s->r;
    kars_verdict_t v = {
        .size = sizeof(v),
        .decision = s->verdict,
        .rule = kars__req_var(r, KARS_STR("deny_rule")),
        .reason = kars__req_var(r, KARS_STR("deny_reason")),
    };
    int rc = KARS_OK;

    s->deciding = 0;
    s->verdict = 0;
    s->fresh = 1;
    s->allowed = v.decision == KARS_ALLOW;
    KARS__STREAM_CALL(s, rc = s->decided(s, &v, s->data));
    if (rc == KARS_ERROR) {
        kars__stream_close(s, EACCES);
    }
    if (!s->allowed) {
        kars__stream_req_end(s); /* another question may follow */
    }
}

void
kars__stream_req_end(kars_stream_t *s)
{
    kars_req_t *r = s->r;

    kars__work_cancel(s->cycle->loop, &s->decide);
    s->r = NULL;
    if (r == NULL) {
        return;
    }
    if (s->deciding) {
        kars__req_gone(r);
        return;
    }
    if (r->open_ended) {
        kars__req_over(r, s->error, s->bytes_in + s->tunnel.relay.flow[0].bytes,
                       s->bytes_out + s->tunnel.relay.flow[1].bytes);
    }
    kars__req_done(r);
}
