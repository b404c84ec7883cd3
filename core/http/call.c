/* call.c - kars_call() and filter_call(): one buffered request to an upstream,
 * for which a hook or a response filter waits. */
#include "http/exchange.h"
#include "http/request.h"

#include <errno.h>

#define CALL_BODY_MAX 65536u /* bytes, unless max_body says */

struct kars__call_s {
    kars_req_t *r;    /* NULL: nobody waits any more */
    kars_filter_t *f; /* NULL: a hook waits */
    kars_exchange_t *x;
    kars_reply_pt fn;
    kars_filter_reply_pt filter_fn;
    uint32_t mod;
    uint32_t max_body;
    int error;
    char *body;
    size_t body_len;
    size_t body_cap;
};

typedef kars__call_t call_t;

static void
call_free(call_t *c)
{
    kars__free(c->body);
    kars__free(c);
}

static int
call_body(kars_exchange_t *x, kars_str_t bytes, void *data)
{
    call_t *c = data;

    if (bytes.len > c->max_body - c->body_len) {
        c->error = EMSGSIZE;
        return KARS_ERROR;
    }
    if (c->body_len + bytes.len > c->body_cap) {
        size_t cap = (c->body_len + bytes.len) * 2;
        char *p = kars__realloc(c->body, cap);

        if (p == NULL) {
            c->error = ENOMEM;
            return KARS_ERROR;
        }
        c->body = p;
        c->body_cap = cap;
    }
    memcpy(c->body + c->body_len, bytes.data, bytes.len);
    c->body_len += bytes.len;
    return KARS_OK;
}

/* The end of the suspension. */
static void
call_tell(call_t *c, const kars_reply_t *reply)
{
    kars_req_t *r = c->r;
    kars_filter_t *f = c->f;
    const void *conf = kars__req_conf(r, c->mod);
    void *ctx = kars__req_ctx(r, c->mod);
    int rc;

    kars__mod_now = r->cycle->mods[c->mod];
    if (f != NULL) {
        f->call = NULL;
        f->suspended = 0;
        rc = c->filter_fn(f, reply, conf, ctx);
    } else {
        r->call = NULL;
        r->suspended = 0;
        rc = c->fn(r, reply, conf, ctx);
    }
    kars__mod_now = NULL;
    call_free(c);
    if (f != NULL) {
        kars__filter_continue(f, rc);
    } else {
        kars__req_continue(r, rc);
    }
}

static void
call_done(kars_exchange_t *x, int error, void *data)
{
    call_t *c = data;
    const kars__head_t *head = kars__exchange_head(x);
    kars_reply_t reply = {
        .size = sizeof(reply),
        .error = c->error != 0 ? c->error : error,
        .status = (int32_t) head->status,
        .content_type = kars__head_get(head->headers, head->nheaders,
                                       KARS_STR("content-type")),
        .handle = head,
    };

    if (c->r == NULL) {
        call_free(c);
        return;
    }
    if (reply.error == 0) {
        reply.body =
            (kars_str_t){ c->body != NULL ? c->body : "", c->body_len };
    }
    call_tell(c, &reply);
}

static const kars_exchange_handler_t call_handler = {
    .size = sizeof(call_handler),
    .body = call_body,
    .done = call_done,
};

static call_t *
call_start(kars_req_t *r, const kars_call_t *call)
{
    call_t *c = kars__mod_now != NULL ? kars__alloc(sizeof(*c)) : NULL;

    if (c == NULL) {
        return NULL;
    }
    c->r = r;
    c->mod = kars__mod_now->index;
    c->max_body = KARS_HAS(call, max_body) && call->max_body != 0
                      ? call->max_body
                      : CALL_BODY_MAX;
    c->x = kars__exchange(r->cycle, call, &call_handler, c);
    if (c->x == NULL) {
        call_free(c);
        return NULL;
    }
    return c;
}

int
kars__req_call(kars_req_t *r, const kars_call_t *call, kars_reply_pt fn)
{
    call_t *c = r->suspended || r->rechecking || r->finished ||
                        r->answer == KARS__ANSWER_GROWS
                    ? NULL
                    : call_start(r, call);

    if (c == NULL) {
        return KARS_ERROR;
    }
    c->fn = fn;
    r->call = c;
    r->suspended = 1;
    r->token = 0;
    r->wait_mod = c->mod;
    return KARS_AGAIN;
}

int
kars__filter_call(kars_filter_t *f, const kars_call_t *call,
                  kars_filter_reply_pt fn)
{
    /* Not from a head filter: nothing there waits. */
    call_t *c = f->suspended || f->r->finished || !f->r->head_filtered
                    ? NULL
                    : call_start(f->r, call);

    if (c == NULL) {
        return KARS_ERROR;
    }
    c->f = f;
    c->filter_fn = fn;
    f->call = c;
    f->suspended = 1;
    f->token = 0;
    return KARS_AGAIN;
}

void
kars__call_cancel(kars__call_t **at)
{
    call_t *c = *at;

    *at = NULL;
    if (c != NULL) {
        c->r = NULL;
        kars__exchange_cancel(c->x);
    }
}
