/* call.c - kars_call(): one buffered request to an upstream for a module. */
#include "http/client.h"
#include "http/request.h"

#include <errno.h>
#include <stdio.h>

struct kars__call_s {
    kars_req_t *r;
    kars__xch_t *x;
    kars__bufs_t bufs;
    kars_reply_pt fn;
    uint32_t mod;
    uint32_t max_body;
    kars__timer_t timer;
    kars__head_t head;
    kars_buf_t *body;
    size_t body_len;
};

typedef kars__call_t call_t;

/* Ends the suspension with what came of the call. */
static void
call_end(call_t *c, int error)
{
    kars_req_t *r = c->r;
    char *flat = kars__palloc(r->pool, c->body_len);
    size_t o = 0;

    kars__timer_stop(r->cycle->loop, &c->timer);
    for (const kars_buf_t *b = c->body; flat != NULL && b != NULL;
         b = b->next) {
        memcpy(flat + o, b->data, b->len);
        o += b->len;
    }

    kars_reply_t reply = {
        .size = sizeof(reply),
        .error = flat == NULL ? ENOMEM : error,
        .status = (int32_t) c->head.status,
        .body = { flat, o },
        .content_type = kars__head_get(c->head.headers, c->head.nheaders,
                                       KARS_STR("content-type")),
        .handle = &c->head,
    };

    kars__bufs_done(&c->bufs);
    c->body = NULL;
    r->call = NULL;
    r->suspended = 0;
    kars__mod_now = r->cycle->mods[c->mod];
    int rc =
        c->fn(r, &reply, kars__req_conf(r, c->mod), kars__req_ctx(r, c->mod));
    kars__mod_now = NULL;
    kars__req_continue(r, rc);
}

static void
call_head(kars__xch_t *x, const kars__head_t *head, void *data)
{
    call_t *c = data;
    kars_header_t *copy =
        kars__pnewn(c->r->pool, kars_header_t, head->nheaders + 1);

    c->head = *head;
    c->head.headers = copy;
    c->head.nheaders = copy != NULL ? head->nheaders : 0;
    if (copy != NULL) {
        memcpy(copy, head->headers, head->nheaders * sizeof(*copy));
    }
}

static void
call_body(kars__xch_t *x, kars_buf_t *in, uint32_t flags, void *data)
{
    call_t *c = data;

    c->body_len += kars__chain_len(in);
    *kars__chain_tail(&c->body) = in;
    if (flags & KARS_LAST) {
        c->x = NULL;
    }
    if (c->body_len > c->max_body) {
        if (c->x != NULL) {
            kars__xch_cancel(c->x);
            c->x = NULL;
        }
        kars__bufs_done(&c->bufs);
        c->body = NULL;
        c->body_len = 0;
        call_end(c, EMSGSIZE);
    } else if (flags & KARS_LAST) {
        call_end(c, 0);
    }
}

static void
call_fail(kars__xch_t *x, int error, int reached, void *data)
{
    call_t *c = data;

    c->x = NULL;
    call_end(c, error);
}

static const kars__xch_handler_t call_handler = {
    .head = call_head,
    .body = call_body,
    .fail = call_fail,
};

static void
call_timeout(kars__timer_t *t)
{
    call_t *c = (call_t *) ((char *) t - offsetof(call_t, timer));

    kars__xch_cancel(c->x);
    c->x = NULL;
    call_end(c, ETIMEDOUT);
}

/* The request's bytes: its head, then the body that was given. */
static kars_buf_t *
call_out(call_t *c, const kars_call_t *call, const kars__upserver_t *s)
{
    uint64_t length =
        call->body != NULL ? kars__chain_len(call->body) : call->bytes.len;
    kars_str_t head = kars__pprintf(
        c->r->pool, "%.*s %.*s HTTP/1.1\r\nhost: %.*s:%u\r\n",
        KARS_STR_ARG(call->method), KARS_STR_ARG(call->path),
        s->at.host.len != 0 ? (int) s->at.host.len : 9,
        s->at.host.len != 0 ? s->at.host.data : "localhost", s->at.port);

    for (size_t i = 0; i < call->nheaders; i++) {
        if (!kars__head_name_ok(call->headers[i].name) ||
            !kars__head_value_ok(call->headers[i].value)) {
            return NULL;
        }
        head =
            kars__pprintf(c->r->pool, "%.*s%.*s: %.*s\r\n", KARS_STR_ARG(head),
                          KARS_STR_ARG(call->headers[i].name),
                          KARS_STR_ARG(call->headers[i].value));
    }
    head = kars__pprintf(c->r->pool,
                         "%.*saccept-encoding: identity\r\n"
                         "content-length: %llu\r\n\r\n",
                         KARS_STR_ARG(head), (unsigned long long) length);
    if (head.data == NULL) {
        return NULL;
    }

    kars_buf_t *first = kars__buf_view(&c->bufs, NULL, head.data, head.len);
    kars_buf_t **tail = first != NULL ? &first->next : &first;

    for (const kars_buf_t *b = call->body; b != NULL && first != NULL;
         b = b->next) {
        *tail = kars__buf_view(&c->bufs, b->block, b->data, b->len);
        if (*tail == NULL) {
            return NULL;
        }
        tail = &(*tail)->next;
    }
    if (call->body == NULL && call->bytes.len != 0 && first != NULL) {
        *tail = kars__buf_copy(&c->bufs, call->bytes);
    }
    return first;
}

int
kars__req_call(kars_req_t *r, const kars_call_t *call, kars_reply_pt fn)
{
    kars_call_t full = { 0 };

    memcpy(&full, call, call->size < sizeof(full) ? call->size : sizeof(full));
    if (r->suspended || r->call != NULL || kars__mod_now == NULL ||
        full.upstream == NULL) {
        return KARS_ERROR;
    }

    call_t *c = kars__pnew(r->pool, call_t);
    kars__upserver_t *s = kars__upstream_pick(r->cycle, full.upstream, NULL);
    kars_buf_t *out;

    if (c == NULL) {
        return KARS_ERROR;
    }
    c->r = r;
    c->fn = fn;
    c->mod = kars__mod_now->index;
    c->max_body = full.max_body != 0 ? full.max_body : 65536;
    if (full.pool_scope.len != 0) {
        full.pool_scope = kars__pdup(r->pool, full.pool_scope);
        if (full.pool_scope.data == NULL) {
            return KARS_ERROR; /* not over somebody else's connection */
        }
    }
    out = call_out(c, &full, s);

    kars__xch_conf_t conf = {
        .upstream = full.upstream,
        .server = s,
        .bufs = &c->bufs,
        .pool = r->pool,
        .handler = &call_handler,
        .data = c,
        .out = out,
        .last = 1,
        .scope = full.pool_scope,
    };

    c->x = out != NULL ? kars__xch_start(r->cycle, &conf) : NULL;
    if (c->x == NULL) {
        kars__bufs_done(&c->bufs);
        return KARS_ERROR;
    }
    if (full.timeout_ms != 0) {
        c->timer.fn = call_timeout;
        kars__timer_start(r->cycle->loop, &c->timer, full.timeout_ms);
    }
    r->call = c;
    r->suspended = 1;
    r->token = 0;
    r->wait_mod = c->mod;
    return KARS_AGAIN;
}

void
kars__call_cancel(kars_req_t *r)
{
    call_t *c = r->call;

    if (c == NULL) {
        return;
    }
    r->call = NULL;
    kars__timer_stop(r->cycle->loop, &c->timer);
    if (c->x != NULL) {
        kars__xch_cancel(c->x);
    }
    kars__bufs_done(&c->bufs);
}
