/* exchange.c - a call whose reply is taken as it comes: attempts, limits,
 * back-pressure, events. */
#include "http/exchange.h"
#include "http/event.h"

#include <errno.h>

/* Bytes of an event, unless max_body says. */
#define EXCHANGE_EVENT_MAX 65536u

struct kars_exchange_s {
    kars_exchange_t *prev;
    kars_exchange_t *next; /* of the cycle */
    kars_cycle_t *cycle;
    kars_pool_t *pool;
    kars__bufs_t bufs;
    kars_call_t call;
    kars_exchange_handler_t handler;
    void *data;
    kars__mod_t *mod;
    kars_buf_t *body; /* of the call, kept for another attempt */
    kars__upserver_t *server;
    kars__xch_t *xch;    /* NULL: the reply is whole, or it failed */
    kars__timer_t timer; /* of the whole call */
    kars__work_t work;   /* goes on after a pause; at last, frees it */
    kars__head_t head;
    kars_buf_t *held; /* came, and was not told yet */
    kars__sse_t sse;
    char *event; /* data of the one that is coming */
    size_t event_len;
    size_t event_cap;
    uint32_t attempts;
    uint8_t fresh;  /* a kept connection was stale: a new one now */
    uint8_t events; /* the reply is an event stream, and is told as one */
    uint8_t last;   /* nothing follows what is held */
    uint8_t paused;
    uint8_t dead; /* done() was called */
    int error;    /* of what was being told */
};

static int exchange_attempt(kars_exchange_t *x);

/* Ends. */

static void
exchange_free(kars__work_t *work)
{
    kars_exchange_t *x =
        (kars_exchange_t *) ((char *) work - offsetof(kars_exchange_t, work));

    kars__bufs_done(&x->bufs);
    kars__upstream_unref(x->call.upstream);
    kars__pool_destroy(x->pool);
    kars__free(x->event);
    kars__free(x);
}

static void
exchange_unlink(kars_exchange_t *x)
{
    if (x->prev != NULL) {
        x->prev->next = x->next;
    } else {
        x->cycle->exchanges = x->next;
    }
    if (x->next != NULL) {
        x->next->prev = x->prev;
    }
}

/* Its memory goes later in the turn: its handler may be on the stack. */
static void
exchange_end(kars_exchange_t *x, int error)
{
    kars__mod_t *was = kars__mod_now;

    if (x->dead) {
        return;
    }
    x->dead = 1;
    exchange_unlink(x);
    kars__timer_stop(x->cycle->loop, &x->timer);
    if (x->xch != NULL) {
        kars__xch_cancel(x->xch);
        x->xch = NULL;
    }
    if (x->handler.done != NULL) {
        kars__mod_now = x->mod;
        x->handler.done(x, error, x->data);
        kars__mod_now = was;
    }
    kars__work_cancel(x->cycle->loop, &x->work);
    x->work.fn = exchange_free;
    kars__work_queue(x->cycle->loop, &x->work, KARS__POST);
}

void
kars__exchange_cancel(kars_exchange_t *x)
{
    exchange_end(x, ECANCELED);
}

void
kars__exchange_cancel_all(kars_cycle_t *cycle)
{
    cycle->closing = 1;
    while (cycle->exchanges != NULL) {
        exchange_end(cycle->exchanges, ECANCELED);
    }
    cycle->closing = 0;
}

static void
exchange_timeout(kars__timer_t *t)
{
    exchange_end(
        (kars_exchange_t *) ((char *) t - offsetof(kars_exchange_t, timer)),
        ETIMEDOUT);
}

/* What the handler said. OK: go on. */
static int
exchange_said(kars_exchange_t *x, int rc)
{
    if (rc != KARS_OK) {
        exchange_end(x, x->error != 0 ? x->error : ECANCELED);
    }
    return x->dead ? KARS_ERROR : KARS_OK;
}

/* Telling. Once paused, no more of what came is told. */

static void
exchange_event_data(void *owner, kars_str_t fragment)
{
    kars_exchange_t *x = owner;
    size_t max = x->call.max_body != 0 ? x->call.max_body : EXCHANGE_EVENT_MAX;

    if (x->error != 0 || fragment.len == 0) {
        return;
    }
    if (fragment.len > max - x->event_len) {
        x->error = EMSGSIZE;
        return;
    }
    if (x->event_len + fragment.len > x->event_cap) {
        size_t cap = (x->event_len + fragment.len) * 2;
        char *p = kars__realloc(x->event, cap);

        if (p == NULL) {
            x->error = ENOMEM;
            return;
        }
        x->event = p;
        x->event_cap = cap;
    }
    memcpy(x->event + x->event_len, fragment.data, fragment.len);
    x->event_len += fragment.len;
}

static void
exchange_event(void *owner, kars_str_t name)
{
    kars_exchange_t *x = owner;
    kars_event_t ev = { .name = name, .data = { x->event, x->event_len } };

    x->event_len = 0;
    if (x->error != 0 || x->dead) {
        return;
    }
    if (x->handler.event(x, &ev, x->data) != KARS_OK && x->error == 0) {
        x->error = ECANCELED;
    }
}

/* A line at a time, since an event's end is where a pause begins. Returns how
 * many of the bytes were used. */
static size_t
exchange_feed(kars_exchange_t *x, const char *p, size_t n)
{
    size_t at = 0;

    while (at < n && !x->paused && !x->dead && x->error == 0) {
        size_t i = at;

        while (i < n && p[i] != '\n' && p[i] != '\r') {
            i++;
        }
        i += i < n;
        kars__sse_feed(&x->sse, p + at, i - at);
        at = i;
    }
    return at;
}

/* OK, or ERROR: it has ended. */
static int
exchange_tell_one(kars_exchange_t *x)
{
    kars_buf_t *b = x->held;
    size_t used = b->len;
    int rc = KARS_OK;

    if (x->events) {
        used = exchange_feed(x, b->data, b->len);
        rc = x->error != 0 ? KARS_ERROR : KARS_OK;
    } else if (x->handler.body != NULL && b->len != 0) {
        rc = x->handler.body(x, (kars_str_t){ b->data, b->len }, x->data);
    }
    if (x->dead) { /* cancelled by its own handler */
        return KARS_ERROR;
    }
    x->held = kars__chain_consume(x->held, used);
    return exchange_said(x, rc);
}

static void
exchange_tell(kars_exchange_t *x)
{
    kars__mod_t *was = kars__mod_now;
    int rc = KARS_OK;

    kars__mod_now = x->mod;
    while (rc == KARS_OK && x->held != NULL && !x->paused) {
        rc = exchange_tell_one(x);
    }
    kars__mod_now = was;
    if (rc == KARS_OK && x->last && x->held == NULL && !x->paused) {
        exchange_end(x, 0);
    }
}

static void
exchange_go_on(kars__work_t *work)
{
    kars_exchange_t *x =
        (kars_exchange_t *) ((char *) work - offsetof(kars_exchange_t, work));

    if (x->paused) {
        return;
    }
    exchange_tell(x);
    if (!x->dead && !x->paused && x->xch != NULL) {
        kars__xch_pause(x->xch, 0);
    }
}

void
kars__exchange_pause(kars_exchange_t *x, int on)
{
    if (x->dead || x->paused == (on != 0)) {
        return;
    }
    x->paused = on != 0;
    if (x->paused) {
        if (x->xch != NULL) {
            kars__xch_pause(x->xch, 1);
        }
        return;
    }
    kars__work_queue(x->cycle->loop, &x->work, KARS__POST); /* not from here */
}

/* The reply. */

static void
exchange_got_head(kars__xch_t *xch, const kars__head_t *head, void *data)
{
    kars_exchange_t *x = data;
    kars_header_t *copy =
        kars__pnewn(x->pool, kars_header_t, head->nheaders + 1);

    if (copy == NULL) {
        exchange_end(x, ENOMEM);
        return;
    }
    memcpy(copy, head->headers, head->nheaders * sizeof(*copy));
    x->head = *head;
    x->head.headers = copy;

    kars_reply_t reply = {
        .size = sizeof(reply),
        .status = (int32_t) head->status,
        .content_type =
            kars__head_get(copy, head->nheaders, KARS_STR("content-type")),
        .handle = &x->head,
    };
    kars__mod_t *was = kars__mod_now;

    x->events =
        x->handler.event != NULL &&
        kars__str_istarts(reply.content_type, KARS_STR("text/event-stream"));
    if (x->handler.head != NULL) {
        kars__mod_now = x->mod;
        int rc = x->handler.head(x, &reply, x->data);
        kars__mod_now = was;
        (void) exchange_said(x, rc);
    }
}

static void
exchange_got_body(kars__xch_t *xch, kars_buf_t *in, uint32_t flags, void *data)
{
    kars_exchange_t *x = data;

    *kars__chain_tail(&x->held) = in;
    if (flags & KARS_LAST) {
        x->xch = NULL;
        x->last = 1;
    }
    exchange_tell(x);
}

/* Sends again only what no server can have seen. */
static void
exchange_failed(kars__xch_t *xch, int error, int reached, void *data)
{
    kars_exchange_t *x = data;
    const kars_upstream_t *u = x->call.upstream;
    int stale = reached == KARS__REACHED_STALE && !x->fresh;

    x->xch = NULL;
    if (x->head.status == 0 &&
        (stale || (reached == KARS__REACHED_NOT && error != EBUSY &&
                   u->retry_on == 0 && x->attempts <= u->retries))) {
        x->fresh |= stale != 0;
        error = exchange_attempt(x);
    }
    if (error != 0) {
        exchange_end(x, error);
    }
}

static const kars__xch_handler_t exchange_handler = {
    .head = exchange_got_head,
    .body = exchange_got_body,
    .fail = exchange_failed,
};

/* 0, or an errno. */
static int
exchange_attempt(kars_exchange_t *x)
{
    kars_upstream_t *u = x->call.upstream;

    x->server = kars__upstream_pick(x->cycle, u, x->server);
    x->attempts++;

    kars__xch_conf_t conf = {
        .upstream = u,
        .server = x->server,
        .bufs = &x->bufs,
        .pool = x->pool,
        .handler = &exchange_handler,
        .data = x,
        .out = kars__call_out(x->pool, &x->bufs, &x->call, x->body, x->server),
        .last = 1,
        .is_head = kars_str_eq(x->call.method, KARS_STR("HEAD")),
        .fresh = x->fresh,
        /* Its own timer says when it is over; a slow server is no sick one. */
        .total_ms = x->call.timeout_ms != 0 ? x->call.timeout_ms + 1ull : 0,
        .idle_ms = x->call.idle_ms,
        .scope = x->call.pool_scope,
    };

    x->xch = conf.out != NULL ? kars__xch_start(x->cycle, &conf) : NULL;
    if (x->xch != NULL && x->paused) {
        kars__xch_pause(x->xch, 1);
    }
    return x->xch != NULL ? 0 : ENOMEM;
}

/* The body that was given stays with the exchange. */
static int
exchange_keep_body(kars_exchange_t *x)
{
    kars_buf_t **last = &x->body;

    for (const kars_buf_t *b = x->call.body; b != NULL; b = b->next) {
        kars_str_t bytes = { b->data, b->len };

        *last = b->block != NULL
                    ? kars__buf_view(&x->bufs, b->block, b->data, b->len)
                    : kars__buf_copy(&x->bufs, bytes);
        if (*last == NULL) {
            return KARS_ERROR;
        }
        last = &(*last)->next;
    }
    x->call.body = NULL;
    return KARS_OK;
}

kars_exchange_t *
kars__exchange(kars_cycle_t *cycle, const kars_call_t *call,
               const kars_exchange_handler_t *handler, void *data)
{
    kars_pool_t *pool = cycle->closing ? NULL : kars__pool_create(0);
    kars_exchange_t *x = pool != NULL ? kars__alloc(sizeof(*x)) : NULL;

    if (x == NULL || kars__call_copy(pool, &x->call, call) != KARS_OK) {
        kars__free(x);
        kars__pool_destroy(pool);
        return NULL;
    }
    memcpy(&x->handler, handler,
           handler->size < sizeof(x->handler) ? handler->size
                                              : sizeof(x->handler));
    x->cycle = cycle;
    x->pool = pool;
    x->data = data;
    x->mod = kars__mod_now;
    x->work.fn = exchange_go_on;
    kars__upstream_ref(x->call.upstream);
    kars__sse_begin(&x->sse, exchange_event_data, exchange_event, x);
    if (exchange_keep_body(x) != KARS_OK || exchange_attempt(x) != 0) {
        exchange_free(&x->work);
        return NULL;
    }
    if (x->call.timeout_ms != 0) {
        x->timer.fn = exchange_timeout;
        kars__timer_start(cycle->loop, &x->timer, x->call.timeout_ms);
    }
    x->next = cycle->exchanges;
    if (x->next != NULL) {
        x->next->prev = x;
    }
    cycle->exchanges = x;
    return x;
}

const kars__head_t *
kars__exchange_head(const kars_exchange_t *x)
{
    return &x->head;
}
