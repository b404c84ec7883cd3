/* event.c - events of a stream, one by one through a filter. */
#include "http/event.h"

struct kars__events_s {
    kars_event_t ev;
    kars__sse_t sse;
    char *data; /* of the event at hand */
    size_t len;
    size_t cap;
    kars_buf_t *raw; /* its bytes, as they came */
    size_t raw_len;
    kars_buf_t *out; /* decided: it goes on */
    size_t line;     /* bytes of the line at hand */
    uint8_t comment; /* it is one */
    uint8_t fields;  /* the block has a line that is none */
    uint8_t ended;   /* the block is an event, and whole */
    uint8_t passed;  /* the block before went on as it was */
    uint8_t waits;   /* for the filter's continuation */
    uint8_t gone;    /* nothing goes on any more */
    uint8_t failed;  /* no memory */
};

typedef kars__events_t events_t;

kars_str_t
kars__event_name(const kars_event_t *ev)
{
    return ev->name;
}

kars_str_t
kars__event_data(const kars_event_t *ev)
{
    return ev->data;
}

/* The end of the line that begins at s: LF, CR or CRLF end one. *ret_next: the
 * line after it; NULL: there is none. */
static size_t
event_line(kars_str_t s, size_t at, size_t *ret_next)
{
    size_t i = at;

    while (i < s.len && s.data[i] != '\n' && s.data[i] != '\r') {
        i++;
    }
    *ret_next = i + 1;
    if (i + 1 < s.len && s.data[i] == '\r' && s.data[i + 1] == '\n') {
        *ret_next = i + 2;
    }
    if (i == s.len) {
        *ret_next = SIZE_MAX;
    }
    return i - at;
}

static size_t
event_put(char *p, size_t o, const char *text, size_t n)
{
    if (n != 0) {
        memcpy(p + o, text, n);
    }
    return o + n;
}

int
kars__event_replace(kars_event_t *ev, kars_str_t name, kars_str_t data)
{
    size_t lines = 1, next;

    name = name.data != NULL ? name : ev->name;
    data = data.data != NULL ? data : ev->data;
    if (ev->r == NULL ||
        (name.len != 0 && (memchr(name.data, '\n', name.len) ||
                           memchr(name.data, '\r', name.len)))) {
        return KARS_ERROR;
    }
    for (size_t i = 0; i < data.len; i++) {
        lines += data.data[i] == '\n' || data.data[i] == '\r';
    }

    kars__block_t *b = kars__block_get(name.len + data.len + lines * 7 + 16);

    if (b == NULL) {
        return KARS_ERROR;
    }

    size_t o = 0;

    if (name.len != 0) {
        o = event_put(b->data, o, "event: ", 7);
        o = event_put(b->data, o, name.data, name.len);
        o = event_put(b->data, o, "\n", 1);
    }
    for (size_t at = 0; at != SIZE_MAX; at = next) {
        size_t n = event_line(data, at, &next);

        o = event_put(b->data, o, "data: ", 6);
        o = event_put(b->data, o, data.data + at, n);
        o = event_put(b->data, o, "\n", 1);
    }
    o = event_put(b->data, o, "\n", 1);

    kars_buf_t *out = kars__buf_view(&ev->r->bufs, b, b->data, o);

    kars__block_unref(b); /* the view holds it */
    if (out == NULL) {
        return KARS_ERROR;
    }
    kars__chain_free(ev->out);
    ev->out = out;
    return KARS_OK;
}

/* What the parser finds. */

static void
events_data(void *owner, kars_str_t fragment)
{
    events_t *st = owner;

    if (fragment.len > st->cap - st->len) { /* event_limit bounds it */
        size_t cap = (st->len + fragment.len) * 2;
        char *data = kars__realloc(st->data, cap);

        if (data == NULL) {
            st->failed = 1;
            return;
        }
        st->data = data;
        st->cap = cap;
    }
    memcpy(st->data + st->len, fragment.data, fragment.len);
    st->len += fragment.len;
}

static void
events_event(void *owner, kars_str_t name)
{
    events_t *st = owner;

    st->ended = 1;
    st->ev.name = name; /* the parser keeps it until the next line */
    st->ev.data = (kars_str_t){ st->data != NULL ? st->data : "", st->len };
}

static void
events_release(void *data)
{
    kars__free(((events_t *) data)->data);
}

static events_t *
events_state(kars_filter_t *f)
{
    if (f->events == NULL) {
        f->events = kars__pown(f->r->pool, sizeof(events_t), events_release);
        if (f->events != NULL) {
            f->events->ev.r = f->r;
            f->events->passed = 1;
            kars__sse_begin(&f->events->sse, events_data, events_event,
                            f->events);
        }
    }
    return f->events;
}

/* Decisions about the block at hand. */

static void
events_end(events_t *st)
{
    st->raw = NULL;
    st->raw_len = 0;
    st->len = 0;
    st->line = 0;
    st->fields = 0;
    st->ended = 0;
    st->ev.out = NULL;
}

/* It goes on: as it is, or what took its place. */
static void
events_pass(events_t *st)
{
    kars_buf_t *go = st->raw;

    st->passed = st->ev.out == NULL;
    if (st->ev.out != NULL) {
        kars__chain_free(st->raw);
        go = st->ev.out;
    }
    *kars__chain_tail(&st->out) = go;
    events_end(st);
}

static void
events_drop(events_t *st)
{
    kars__chain_free(st->raw);
    kars__chain_free(st->ev.out);
    st->passed = 0;
    events_end(st);
}

/* What the filter said of the event. */
static int
events_decide(kars_filter_t *f, int rc)
{
    events_t *st = f->events;

    if (st->gone) {
        return KARS_OK;
    }
    switch (rc) {
    case KARS_OK:
    case KARS_DECLINED:
        events_pass(st);
        return rc;
    case KARS_DONE:
        events_drop(st);
        return KARS_OK;
    case KARS_AGAIN:
        st->waits = f->suspended != 0;
        return st->waits ? KARS_AGAIN : KARS_ERROR;
    default:
        return KARS_ERROR;
    }
}

/* The block is whole. */
static int
events_block(kars_filter_t *f, const kars__filter_slot_t *slot)
{
    events_t *st = f->events;
    kars_req_t *r = f->r;

    if (!st->ended) { /* no data: a comment, an id, a retry time */
        events_pass(st);
        return KARS_OK;
    }

    void *ctx = kars__req_ctx(r, slot->mod);

    if (ctx == NULL) {
        return KARS_ERROR;
    }

    kars__mod_t *was = kars__mod_now;

    kars__mod_now = r->cycle->mods[slot->mod];
    int rc = slot->def.event(f, &st->ev, kars__req_conf(r, slot->mod), ctx);
    kars__mod_now = was;
    return events_decide(f, rc);
}

/* Bytes. */

/* [from, to) of *b waits with its block; a buffer that is used up is given
 * over itself. */
static int
events_keep(kars_filter_t *f, kars_buf_t **b, const char *from, const char *to)
{
    events_t *st = f->events;
    kars_buf_t *v = *b;

    if (from == to) {
        return KARS_OK;
    }
    if (from == v->data && to == v->data + v->len) {
        *b = NULL;
    } else {
        v = kars__buf_view(&f->r->bufs, v->block, from, (size_t) (to - from));
        if (v == NULL) {
            return KARS_ERROR;
        }
    }
    *kars__chain_tail(&st->raw) = v;
    return KARS_OK;
}

/* The next line, or what there is of it: up to *ret. 1: it ends the block. */
static int
events_line(events_t *st, const char *p, const char *end, const char **ret)
{
    const char *q = kars__sse_line(p, end);
    size_t n = (size_t) (q - p);

    if (st->line == 0 && n != 0) {
        st->comment = *p == ':';
        st->fields |= !st->comment;
    }
    st->line += n;
    *ret = q < end ? q + 1 : q;
    kars__sse_feed(&st->sse, p, (size_t) (*ret - p));
    if (q == end) {
        return 0;
    }
    if (st->line == 0) {
        return 1;
    }
    st->line = 0;
    return !st->fields; /* a comment alone need not wait for anything */
}

static int
events_too_large(const kars_filter_t *f)
{
    kars__log(KARS_LOG_WARN,
              "router: an event is larger than event_limit route=\"%.*s\" "
              "trace=%.*s",
              KARS_STR_ARG(f->r->route->path), KARS_STR_ARG(f->r->trace));
    return KARS_ERROR;
}

/* Takes one buffer. Returns what the filter said last; *at: what is left of
 * the buffer, where that was not OK. */
static int
events_take(kars_filter_t *f, const kars__filter_slot_t *slot, kars_buf_t *b,
            kars_buf_t **left)
{
    events_t *st = f->events;
    const char *p = b->data, *end = p + b->len, *from = p, *q;
    uint64_t max = f->r->route->core->event_limit;

    *left = NULL;
    if (p < end && *p == '\n' && st->sse.skip_lf) {
        kars__sse_feed(&st->sse, p++, 1); /* of a CRLF that was cut */
        if (st->raw == NULL && !st->passed) {
            from = p; /* it ended a block that did not go on */
        }
    }
    while (p < end) {
        int whole = events_line(st, p, end, &q);
        int rc = KARS_OK;

        st->raw_len += (size_t) (q - p);
        p = q;
        if (p < end && p[-1] == '\r' && *p == '\n' && st->sse.skip_lf) {
            kars__sse_feed(&st->sse, p++, 1);
        }
        if (st->raw_len > max || st->failed) {
            kars__buf_free(b);
            return st->failed ? KARS_ERROR : events_too_large(f);
        }
        if (!whole) {
            continue;
        }
        if (events_keep(f, &b, from, p) != KARS_OK) {
            kars__buf_free(b);
            return KARS_ERROR;
        }
        from = p;
        rc = events_block(f, slot);
        if (rc != KARS_OK || st->gone) {
            if (b != NULL && p < end) {
                b->data = p;
                b->len = (size_t) (end - p);
                *left = b;
            } else if (b != NULL) {
                kars__buf_free(b);
            }
            return rc;
        }
    }

    int rc = b != NULL ? events_keep(f, &b, from, end) : KARS_OK;

    if (b != NULL) {
        kars__buf_free(b);
    }
    return rc;
}

/* The stream ends within a block: some clients would take that for an event. */
static int
events_last(kars_filter_t *f, const kars__filter_slot_t *slot)
{
    events_t *st = f->events;

    if (st->raw == NULL) {
        return KARS_OK;
    }
    kars__sse_feed(&st->sse, "\n\n", 2);
    return st->failed ? KARS_ERROR : events_block(f, slot);
}

int
kars__events_body(kars_filter_t *f, const kars__filter_slot_t *slot,
                  kars_buf_t *in, uint32_t flags)
{
    events_t *st = events_state(f);
    int rc = st != NULL ? KARS_OK : KARS_ERROR;

    while (in != NULL && rc == KARS_OK && !st->gone) {
        kars_buf_t *next = in->next, *left;

        in->next = NULL;
        rc = events_take(f, slot, in, &left);
        if (left != NULL) {
            left->next = next;
            next = left;
        }
        in = next;
    }
    if (rc == KARS_OK && (flags & KARS_LAST) && !st->gone) {
        rc = events_last(f, slot);
    }
    if (rc == KARS_ERROR || st->gone) {
        kars__chain_free(in);
        return rc;
    }
    if (rc == KARS_AGAIN) {
        if (in != NULL || flags != 0) {
            kars__filter_pend(f, in, flags);
        }
        flags = 0;
    } else if (rc == KARS_DECLINED) { /* and all that follows */
        *kars__chain_tail(&st->out) = in;
    }
    if (st->out != NULL || flags != 0) {
        (void) kars__filter_next(f, NULL, flags);
    }
    return rc;
}

int
kars__events_woken(kars_filter_t *f, int rc)
{
    events_t *st = f->events;

    if (st == NULL || !st->waits) {
        return rc;
    }
    st->waits = 0;
    rc = events_decide(f, rc);
    if (rc != KARS_ERROR && st->out != NULL) {
        (void) kars__filter_next(f, NULL, 0);
    }
    return rc;
}

kars_buf_t *
kars__events_before(kars_filter_t *f, kars_buf_t *in)
{
    kars_buf_t *first = f->events->out;

    f->events->out = NULL;
    *kars__chain_tail(&first) = in;
    return first;
}

void
kars__events_forget(kars_filter_t *f)
{
    events_t *st = f->events;

    st->gone = 1;
    kars__chain_free(st->out);
    kars__chain_free(st->raw);
    kars__chain_free(st->ev.out);
    st->out = NULL;
    events_end(st);
}
