/* reqfilter.c - filters of request bodies: after CONTENT has chosen the
 * upstream, before anything of the body goes there. A held body passes through
 * them whole, and what they made of it is what ADMIT has to agree to; others
 * stream. */
#include "http/request.h"

enum { FILTERS_NEW = 0, FILTERS_RUN, FILTERS_DONE };

static int reqfilter_run(kars_req_t *r, size_t i, kars_buf_t *in,
                         uint32_t flags);

static void
reqfilter_refuse(kars_req_t *r, int status, const char *code,
                 const char *reason)
{
    if (r->gone || r->finished || r->answer != KARS__ANSWER_PASS) {
        return;
    }
    kars__pass_cancel(r);
    if (r->head_sent || r->last_in) {
        r->proto->abort(r);
        return;
    }
    kars__filters_no_scan(r);
    (void) kars__req_refuse(r, status, "server_error", code, reason);
    kars__req_send_answer(r);
}

static void
reqfilter_failed(kars_req_t *r, const kars__mod_t *by)
{
    kars__log(KARS_LOG_ERR, "router: a request filter failed module=%s",
              by->def.name);
    reqfilter_refuse(r, 500, "internal_error",
                     "the router failed; its log says more");
}

/* What a filter returned. */
static int
reqfilter_result(kars_filter_t *f, int rc)
{
    kars_req_t *r = f->r;
    uint32_t mod = r->route->in_filters[f->index].mod;

    switch (rc) {
    case KARS_OK:
    case KARS_DONE:
        return KARS_OK;
    case KARS_AGAIN:
        return f->suspended ? KARS_AGAIN : KARS_OK;
    case KARS_DECLINED:
        r->declined[mod] = 1;
        return KARS_OK;
    default:
        reqfilter_failed(r, r->cycle->mods[mod]);
        return KARS_ERROR;
    }
}

/* Behind the last filter. */
static int
reqfilter_out(kars_req_t *r, kars_buf_t *in, uint32_t flags)
{
    kars_cycle_t *c = r->cycle;

    if (r->answer != KARS__ANSWER_PASS || r->in_last) {
        kars__chain_free(in);
        return KARS_ERROR;
    }
    r->in_last = (flags & KARS_LAST) != 0;
    if (!r->gated) {
        kars__pass_stream(r, in, flags);
        return KARS_OK;
    }

    size_t n = kars__chain_len(in);

    c->body_held += n;
    r->body_held += n;
    r->in_out_len += n;
    *kars__chain_tail(&r->in_out) = in;
    if (c->body_held > c->body_memory + r->body_size) { /* of which two are */
        reqfilter_refuse(r, 503, "overloaded",
                         "the memory for held bodies (body_memory) is used "
                         "up");
        return KARS_ERROR;
    }
    return KARS_OK;
}

static int
reqfilter_run(kars_req_t *r, size_t i, kars_buf_t *in, uint32_t flags)
{
    const kars__filter_slot_t *s = NULL;

    for (; i < r->route->nin_filters; i++) {
        s = &r->route->in_filters[i];
        if (s->def.body != NULL && kars__req_listens(r, s->mod)) {
            break;
        }
    }
    if (i == r->route->nin_filters) {
        return reqfilter_out(r, in, flags);
    }

    kars_filter_t *f = &r->in_filters[i];
    void *ctx = kars__req_ctx(r, s->mod);

    if (f->suspended || f->has_pending) {
        kars__filter_pend(f, in, flags);
        return KARS_AGAIN;
    }
    if (ctx == NULL) {
        return reqfilter_result(f, KARS_ERROR);
    }

    kars__mod_t *was = kars__mod_now;

    kars__mod_now = r->cycle->mods[s->mod];
    int rc = s->def.body(f, in, flags, kars__req_conf(r, s->mod), ctx);
    kars__mod_now = was;
    return reqfilter_result(f, rc);
}

/* The filters of the request, and their heads. OK, or it is answered. */
static int
reqfilters_head(kars_req_t *r)
{
    size_t n = r->route->nin_filters;

    r->in_filters = kars__pnewn(r->pool, kars_filter_t, n);
    for (size_t i = 0; r->in_filters != NULL && i < n; i++) {
        const kars__filter_slot_t *s = &r->route->in_filters[i];
        kars_filter_t *f = &r->in_filters[i];

        f->r = r;
        f->index = (uint32_t) i;
        f->request = 1;
        if (!kars__req_listens(r, s->mod)) {
            continue;
        }
        if (s->def.head != NULL) {
            void *ctx = kars__req_ctx(r, s->mod);

            kars__mod_now = r->cycle->mods[s->mod];
            int rc = ctx == NULL
                         ? KARS_ERROR
                         : s->def.head(f, kars__req_conf(r, s->mod), ctx);
            kars__mod_now = NULL;
            (void) reqfilter_result(f, rc == KARS_AGAIN ? KARS_ERROR : rc);
        }
        if (r->answer != KARS__ANSWER_PASS) {
            return KARS_DONE;
        }
        r->reframed |= s->def.body != NULL && kars__req_listens(r, s->mod);
    }
    if (r->in_filters == NULL) {
        reqfilter_refuse(r, 503, "overloaded", "no memory for the request");
        return KARS_DONE;
    }
    return KARS_OK;
}

/* Are these the same bytes? */
static int
chains_equal(const kars_buf_t *a, const kars_buf_t *b)
{
    size_t i = 0, j = 0;

    while (a != NULL && b != NULL) {
        size_t n = a->len - i < b->len - j ? a->len - i : b->len - j;

        if (n != 0 && a->data + i != b->data + j &&
            memcmp(a->data + i, b->data + j, n) != 0) {
            return 0;
        }
        i += n;
        j += n;
        if (i == a->len) {
            a = a->next;
            i = 0;
        }
        if (b != NULL && j == b->len) {
            b = b->next;
            j = 0;
        }
    }
    while (a != NULL && a->len == 0) {
        a = a->next;
    }
    while (b != NULL && b->len == 0) {
        b = b->next;
    }
    return a == NULL && b == NULL;
}

/* All of a held body is through. OK: it is what it was. DONE: it is another
 * one, which ADMIT has to see, or the request was refused. */
static int
reqfilters_whole(kars_req_t *r)
{
    kars_buf_t *before, *after = r->in_out;
    uint64_t n;

    r->in_state = FILTERS_DONE;
    r->in_out = NULL;
    if (kars__req_body_send(r, &before, &n) != KARS_OK) {
        reqfilter_refuse(r, 503, "overloaded", "no memory for the request");
        return KARS_DONE;
    }

    int same = chains_equal(before, after);

    kars__chain_free(before);
    n = same ? r->in_out_len : r->body_size;
    r->cycle->body_held -= n;
    r->body_held -= n;
    if (same) {
        kars__chain_free(after);
        return KARS_OK;
    }
    r->answer = KARS__ANSWER_NONE;
    if (kars__req_body_replace(r, after) != KARS_OK) {
        if (r->answer == KARS__ANSWER_NONE) {
            (void) kars__req_refuse(r, 500, "server_error", "internal_error",
                                    "the router failed; its log says more");
        }
        kars__req_send_answer(r);
        return KARS_DONE;
    }
    kars__req_readmit(r);
    return KARS_DONE;
}

int
kars__reqfilters_start(kars_req_t *r)
{
    kars_buf_t *body;
    uint64_t n;

    if (r->in_state == FILTERS_DONE) {
        return KARS_OK;
    }
    if (r->in_state == FILTERS_NEW) {
        r->in_state = FILTERS_RUN;
        if (reqfilters_head(r) != KARS_OK) {
            return KARS_DONE;
        }
        if (!r->reframed || !r->gated || r->body == NULL) {
            r->in_state = FILTERS_DONE;
            return KARS_OK;
        }
        if (kars__req_body_send(r, &body, &n) != KARS_OK) {
            reqfilter_refuse(r, 503, "overloaded", "no memory for the request");
            return KARS_DONE;
        }
        (void) reqfilter_run(r, 0, body, KARS_LAST);
        if (r->answer != KARS__ANSWER_PASS) {
            return KARS_DONE;
        }
    }
    return r->in_last ? reqfilters_whole(r) : KARS_AGAIN;
}

int
kars__reqfilters_busy(const kars_req_t *r)
{
    for (size_t i = 0; r->in_filters != NULL && i < r->route->nin_filters;
         i++) {
        if (r->in_filters[i].suspended) {
            return 1;
        }
    }
    return 0;
}

void
kars__reqfilters_body(kars_req_t *r, kars_buf_t *in, uint32_t flags)
{
    (void) reqfilter_run(r, 0, in, flags);
    if (r->answer == KARS__ANSWER_PASS && kars__reqfilters_busy(r)) {
        r->proto->read_body(r, 0);
    }
}

int
kars__reqfilter_next(kars_filter_t *f, kars_buf_t *in, uint32_t flags)
{
    return reqfilter_run(f->r, f->index + 1, in, flags);
}

int
kars__reqfilter_deny(kars_filter_t *f, const kars_denial_t *denial)
{
    kars_req_t *r = f->r;

    if (r->head_sent || r->last_in || r->answer != KARS__ANSWER_PASS) {
        return KARS_ERROR; /* the caller's ERROR cuts the answer */
    }
    kars__pass_cancel(r);
    if (kars__req_deny(r, denial,
                       r->cycle->mods[r->route->in_filters[f->index].mod]) !=
        KARS_DONE) {
        return KARS_ERROR;
    }
    r->event_stream = 0;
    kars__filters_no_scan(r);
    kars__req_send_answer(r);
    return KARS_DONE;
}

void
kars__reqfilter_woken(kars_filter_t *f, int rc)
{
    kars_req_t *r = f->r;

    if (reqfilter_result(f, rc) != KARS_OK || f->suspended || r->finished ||
        r->answer != KARS__ANSWER_PASS) {
        return;
    }
    if (f->has_pending) {
        kars_buf_t *in = f->pending;
        uint32_t flags = f->pending_flags;

        f->pending = NULL;
        f->pending_flags = 0;
        f->has_pending = 0;
        (void) reqfilter_run(r, f->index, in, flags);
    }
    if (r->answer != KARS__ANSWER_PASS || kars__reqfilters_busy(r)) {
        return;
    }
    if (r->gated) {
        kars__req_go_on(r);
    } else if (r->body_state == KARS__BODY_READING) {
        r->proto->read_body(r, 1);
    }
}
