/* filter.c - response filters: head, then body chunks, through a chain of
 * modules to the proto. */
#include "http/event.h"

#include <errno.h>

static int
filter_start(kars_req_t *r)
{
    size_t n = r->route->nfilters;

    if (r->filters != NULL) {
        return KARS_OK;
    }
    r->filters = kars__pnewn(r->pool, kars_filter_t, n + 1);
    if (r->filters == NULL) {
        return KARS_ERROR;
    }
    for (size_t i = 0; i <= n; i++) {
        r->filters[i].r = r;
        r->filters[i].index = (uint32_t) i;
    }
    return KARS_OK;
}

int
kars__filters_head(kars_req_t *r)
{
    uint8_t answer = r->answer;

    if (filter_start(r) != KARS_OK) {
        return KARS_ERROR;
    }
    for (size_t i = 0; i < r->route->nfilters; i++) {
        const kars__filter_slot_t *s = &r->route->filters[i];

        if (s->def.head == NULL || !kars__req_listens(r, s->mod)) {
            continue;
        }

        void *ctx = kars__req_ctx(r, s->mod);

        if (ctx == NULL) {
            return KARS_ERROR;
        }
        kars__mod_now = r->cycle->mods[s->mod];
        int rc = s->def.head(&r->filters[i], kars__req_conf(r, s->mod), ctx);
        kars__mod_now = NULL;

        if (rc == KARS_DECLINED) {
            r->declined[s->mod] = 1;
        } else if (rc != KARS_OK && rc != KARS_DONE) {
            kars__log(KARS_LOG_ERR, "router: a head filter failed module=%s",
                      r->cycle->mods[s->mod]->def.name);
            (void) kars__req_refuse(r, 500, "server_error", "internal_error",
                                    "the router failed; its log says more");
        }
    }

    kars_str_t type = kars__headers_get(&r->out, KARS_STR("content-type"));

    r->head_filtered = 1;
    r->event_stream = kars__str_istarts(type, KARS_STR("text/event-stream"));
    return answer != KARS__ANSWER_LOCAL && r->answer == KARS__ANSWER_LOCAL
               ? KARS_DONE
               : KARS_OK;
}

static int filter_run(kars_req_t *r, size_t i, kars_buf_t *in, uint32_t flags);

static int
filter_out(kars_req_t *r, kars_buf_t *in, uint32_t flags)
{
    if (r->last_out) {
        kars__chain_free(in);
        return KARS_ERROR;
    }
    if (flags & KARS_LAST) {
        r->last_out = 1;
    }
    r->proto->output(r, in, flags);
    return KARS_OK;
}

/* What a filter returned, that is not a plain OK. */
static int
filter_result(kars_filter_t *f, int rc)
{
    kars_req_t *r = f->r;

    if (rc == KARS_AGAIN && f->suspended) {
        return KARS_AGAIN;
    }
    if (rc == KARS_DECLINED) {
        r->declined[r->route->filters[f->index].mod] = 1;
        return KARS_OK;
    }
    if (rc == KARS_OK || rc == KARS_DONE || rc == KARS_AGAIN) {
        return KARS_OK;
    }
    if (!r->gone && !r->finished) {
        kars__log(KARS_LOG_ERR, "router: a body filter failed module=%s",
                  r->cycle->mods[r->route->filters[f->index].mod]->def.name);
        kars__pass_cancel(r);
        r->proto->abort(r);
    }
    return KARS_ERROR;
}

void
kars__filter_pend(kars_filter_t *f, kars_buf_t *in, uint32_t flags)
{
    *kars__chain_tail(&f->pending) = in;
    f->pending_flags |= flags;
    f->has_pending = 1;
}

/* Does it want bytes of this reply? */
static int
filter_takes(const kars_req_t *r, const kars__filter_slot_t *s)
{
    return (s->def.body != NULL || (s->def.event != NULL && r->event_stream)) &&
           kars__req_listens(r, s->mod);
}

static int
filter_run(kars_req_t *r, size_t i, kars_buf_t *in, uint32_t flags)
{
    const kars__filter_slot_t *s = NULL;

    for (; i < r->route->nfilters; i++) {
        s = &r->route->filters[i];
        if (filter_takes(r, s)) {
            break;
        }
    }
    if (i == r->route->nfilters) {
        return filter_out(r, in, flags);
    }

    kars_filter_t *f = &r->filters[i];
    void *ctx = kars__req_ctx(r, s->mod);

    if (f->suspended || f->has_pending) {
        kars__filter_pend(f, in, flags);
        return KARS_AGAIN;
    }
    if (ctx == NULL) {
        return filter_result(f, KARS_ERROR);
    }

    kars__mod_t *was = kars__mod_now;

    kars__mod_now = r->cycle->mods[s->mod];
    int rc = r->event_stream && s->def.event != NULL
                 ? kars__events_body(f, s, in, flags)
                 : s->def.body(f, in, flags, kars__req_conf(r, s->mod), ctx);
    kars__mod_now = was;
    return rc == KARS_OK ? KARS_OK : filter_result(f, rc);
}

/* The JSON members that modules watch in a reply: of a JSON body, or of the
 * data of each event. A reply that is no JSON has none. */

enum { SCAN_NEW = 0, SCAN_NONE, SCAN_JSON, SCAN_SSE, SCAN_BAD };

static int
scan_value(void *data, uint32_t watch, kars_str_t text, uint32_t index,
           uint32_t flags)
{
    kars_req_t *r = data;

    return kars__req_watch(r, &r->route->watch[1].slots[watch], text, index,
                           flags);
}

static void
scan_begin(kars_req_t *r)
{
    kars__json_begin(r->out_scan, r->route->watch[1].prog, scan_value, r);
}

static void
scan_sse_data(void *owner, kars_str_t fragment)
{
    kars_req_t *r = owner;

    if (r->out_scan_state == SCAN_SSE &&
        kars__json_feed(r->out_scan, fragment.data, fragment.len, NULL) !=
            KARS_OK) {
        r->out_scan_state = SCAN_BAD; /* "[DONE]": until the event's end */
    }
}

static void
scan_sse_event(void *owner, kars_str_t name)
{
    kars_req_t *r = owner;

    if (r->out_scan_state == SCAN_SSE) {
        (void) kars__json_end(r->out_scan, NULL);
    }
    r->out_scan_state = SCAN_SSE;
    scan_begin(r);
}

static void
scan_start(kars_req_t *r)
{
    kars_str_t type = kars__headers_get(&r->out, KARS_STR("content-type"));

    r->out_scan_state = SCAN_NONE;
    if (r->route->watch[1].prog == NULL || r->answer != KARS__ANSWER_PASS) {
        return;
    }
    if (r->event_stream) {
        r->out_sse = kars__pnew(r->pool, kars__sse_t);
        if (r->out_sse == NULL) {
            return;
        }
        kars__sse_begin(r->out_sse, scan_sse_data, scan_sse_event, r);
    } else if (!kars__str_istarts(type, KARS_STR("application/json"))) {
        return;
    }
    r->out_scan = kars__pnew(r->pool, kars__json_scan_t);
    if (r->out_scan != NULL) {
        scan_begin(r);
        r->out_scan_state = r->event_stream ? SCAN_SSE : SCAN_JSON;
    }
}

static void
scan_feed(kars_req_t *r, const kars_buf_t *in, uint32_t flags)
{
    if (r->out_scan_state == SCAN_NEW) {
        scan_start(r);
    }
    for (; in != NULL && r->out_scan_state != SCAN_NONE; in = in->next) {
        if (r->out_sse != NULL) {
            kars__sse_feed(r->out_sse, in->data, in->len);
        } else if (kars__json_feed(r->out_scan, in->data, in->len, NULL) !=
                   KARS_OK) {
            r->out_scan_state = SCAN_NONE;
        }
    }
    if ((flags & KARS_LAST) && r->out_scan_state == SCAN_JSON) {
        (void) kars__json_end(r->out_scan, NULL);
    }
}

void
kars__filters_no_scan(kars_req_t *r)
{
    r->out_scan_state = SCAN_NONE;
}

/* The end of what an event stream said so far: does an event end there? */
static void
filter_tail(kars_req_t *r, const kars_buf_t *in)
{
    for (; in != NULL; in = in->next) {
        for (size_t i = in->len < 4 ? 0 : in->len - 4; i < in->len; i++) {
            r->tail = r->tail << 8 | (unsigned char) in->data[i];
        }
    }
}

int
kars__filters_body(kars_req_t *r, kars_buf_t *in, uint32_t flags)
{
    if (r->last_in || filter_start(r) != KARS_OK) {
        kars__chain_free(in);
        return KARS_ERROR;
    }
    if (flags & KARS_LAST) {
        r->last_in = 1;
    }
    r->answer_bytes += kars__chain_len(in);
    if (r->event_stream) {
        filter_tail(r, in);
    }
    scan_feed(r, in, flags);
    return filter_run(r, 0, in, flags);
}

int
kars__filter_next(kars_filter_t *f, kars_buf_t *in, uint32_t flags)
{
    if (f->request) {
        return kars__reqfilter_next(f, in, flags);
    }
    if (f->events != NULL) {
        in = kars__events_before(f, in);
    }
    return filter_run(f->r, f->index + 1, in, flags);
}

int
kars__filter_hold(kars_filter_t *f, kars_buf_t *in)
{
    *kars__chain_tail(&f->held) = in;
    return KARS_OK;
}

int
kars__filter_release(kars_filter_t *f, uint32_t flags)
{
    kars_buf_t *held = f->held;

    f->held = NULL;
    return kars__filter_next(f, held, flags);
}

static void
filter_woken(void *owner, int error)
{
    kars_filter_t *f = owner;
    kars_req_t *r = f->r;
    uint32_t mod = f->request ? r->route->in_filters[f->index].mod
                              : r->route->filters[f->index].mod;

    f->suspended = 0;
    kars__mod_now = r->cycle->mods[mod];
    int rc = f->wake(f, error, kars__req_conf(r, mod), kars__req_ctx(r, mod));
    kars__mod_now = NULL;
    kars__filter_continue(f, rc);
}

void
kars__filter_continue(kars_filter_t *f, int rc)
{
    kars_req_t *r = f->r;

    if (f->request) {
        kars__reqfilter_woken(f, rc);
        return;
    }
    rc = kars__events_woken(f, rc);

    if (filter_result(f, rc) != KARS_OK || f->suspended || r->finished) {
        return;
    }
    if (f->has_pending) {
        kars_buf_t *in = f->pending;
        uint32_t flags = f->pending_flags;

        f->pending = NULL;
        f->pending_flags = 0;
        f->has_pending = 0;
        (void) filter_run(r, f->index, in, flags);
    }
    kars__pass_room(r);
}

int
kars__filter_await(kars_filter_t *f, kars_token_t token, uint32_t timeout_ms,
                   kars_filter_wake_pt fn)
{
    if (f->suspended || (!f->request && !f->r->head_filtered) ||
        kars__wait_take(f->r->cycle->waits, token, timeout_ms, f->r,
                        filter_woken, f) != KARS_OK) {
        return KARS_ERROR;
    }
    f->token = token;
    f->suspended = 1;
    f->wake = fn;
    return KARS_AGAIN;
}

kars_token_t
kars__filter_suspend(kars_filter_t *f, uint32_t timeout_ms,
                     kars_filter_wake_pt fn)
{
    if (f->suspended) {
        return 0;
    }
    f->token = kars__wait_add(f->r->cycle->waits, timeout_ms, filter_woken, f);
    if (f->token != 0) {
        f->suspended = 1;
        f->wake = fn;
    }
    return f->token;
}

/* What it waits for is nobody's business any more. */
static void
filter_wake_never(kars_filter_t *f)
{
    if (f->suspended) {
        f->suspended = 0;
        kars__wait_cancel(f->r->cycle->waits, f->token);
        kars__call_cancel(&f->call);
    }
}

/* What this filter and those behind it hold of the answer is not sent. */
static void
filter_forget(kars_req_t *r, size_t i)
{
    for (; i < r->route->nfilters; i++) {
        kars_filter_t *f = &r->filters[i];

        kars__chain_free(f->held);
        kars__chain_free(f->pending);
        f->held = f->pending = NULL;
        if (f->events != NULL) {
            kars__events_forget(f);
        }
        f->has_pending = 0;
        f->pending_flags = 0;
        filter_wake_never(f);
    }
}

int
kars__filter_deny(kars_filter_t *f, const kars_denial_t *denial)
{
    if (f->request) {
        return kars__reqfilter_deny(f, denial);
    }

    kars_req_t *r = f->r;
    const kars__mod_t *by = r->cycle->mods[r->route->filters[f->index].mod];

    if (r->head_sent) {
        return KARS_ERROR; /* the caller's ERROR cuts the answer */
    }
    kars__pass_cancel(r);
    if (kars__req_deny(r, denial, by) != KARS_DONE) {
        return KARS_ERROR;
    }
    r->event_stream = 0;
    kars__filters_no_scan(r);
    if (!r->head_filtered) {
        return KARS_DONE; /* a head filter: the body follows from its caller */
    }

    kars_buf_t *b =
        kars__buf_view(&r->bufs, NULL, r->answer_body.data, r->answer_body.len);

    if (b == NULL) {
        return KARS_ERROR;
    }
    r->last_in = 1;
    r->answer_bytes = b->len;
    filter_forget(r, f->index);
    return kars__filter_next(f, b, KARS_LAST);
}

int
kars__filters_busy(const kars_req_t *r)
{
    for (size_t i = 0; r->filters != NULL && i < r->route->nfilters; i++) {
        if (r->filters[i].suspended) {
            return 1;
        }
    }
    return 0;
}

static void
filters_cancel(kars_filter_t *filters, size_t n)
{
    for (size_t i = 0; filters != NULL && i < n; i++) {
        filter_wake_never(&filters[i]);
    }
}

void
kars__filters_cancel(kars_req_t *r)
{
    filters_cancel(r->filters, r->route->nfilters);
    filters_cancel(r->in_filters, r->route->nin_filters);
}
