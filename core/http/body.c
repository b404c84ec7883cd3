/* body.c - request bodies: held to their end where a gate must see them,
 * scanned once as they arrive, edited by splices. */
#include "http/request.h"

#define BODY_SMALL 512u /* bytes of a piece that is copied, not viewed */

/* The value of a watched member goes to who watches it. */
static int
body_value(void *data, uint32_t watch, kars_str_t text, uint32_t index,
           uint32_t flags)
{
    kars_req_t *r = data;
    const kars__watch_slot_t *s = &r->route->watch[0].slots[watch];

    if (kars__req_ctx(r, s->mod) == NULL) {
        (void) kars__req_refuse(r, 503, "server_error", "overloaded",
                                "no memory to read the body");
        return KARS_ERROR;
    }
    return kars__req_watch(r, s, text, index, flags);
}

/* A refusal found while bytes arrive: sent here, unless the engine is on the
 * stack and will find it. */
static int
body_refuse_by(kars_req_t *r, int status, const char *type, const char *code,
               const char *reason, const char *rule)
{
    if (r->answer != KARS__ANSWER_NONE) {
        if (r->answer == KARS__ANSWER_PASS && !r->head_sent) {
            kars__pass_cancel(r);
        } else {
            r->proto->abort(r);
            return KARS_ERROR;
        }
    }
    if (r->suspended) {
        r->suspended = 0;
        kars__wait_cancel(r->cycle->waits, r->token);
        kars__call_cancel(&r->call);
    }
    (void) kars__req_refuse_by(r, status, type, code, reason, rule);
    if (!r->running) {
        kars__req_send_answer(r);
    }
    return KARS_ERROR;
}

static int
body_refuse(kars_req_t *r, int status, const char *type, const char *code,
            const char *reason)
{
    return body_refuse_by(r, status, type, code, reason, NULL);
}

static int
body_scan_failed(kars_req_t *r, const kars_err_t *err)
{
    r->scan_failed = 1;
    if (r->answer == KARS__ANSWER_LOCAL && !r->head_sent) {
        if (!r->running) { /* a watcher refused it in its own words */
            kars__req_send_answer(r);
        }
        return KARS_ERROR;
    }
    return body_refuse(r, 400, "invalid_request_error", "invalid_json",
                       err->text[0] != '\0' ? err->text
                                            : "a member that is not allowed");
}

static int
body_scan(kars_req_t *r, const char *p, size_t n)
{
    kars_err_t err = KARS_ERR_INIT;

    if (r->route->watch[0].prog == NULL) {
        return KARS_OK;
    }
    if (r->scan == NULL) {
        r->scan = kars__pnew(r->pool, kars__json_scan_t);
        if (r->scan == NULL) {
            return body_refuse(r, 503, "server_error", "overloaded",
                               "no memory to read the body");
        }
        kars__json_begin(r->scan, r->route->watch[0].prog, body_value, r);
    }
    return kars__json_feed(r->scan, p, n, &err) == KARS_OK
               ? KARS_OK
               : body_scan_failed(r, &err);
}

static void
body_wait_over(kars__timer_t *t)
{
    kars_req_t *r =
        (kars_req_t *) ((char *) t - offsetof(kars_req_t, body_timer));

    kars__req_body_unpause(r);
    (void) body_refuse_by(r, 503, "server_error", "overloaded",
                          "the memory for held bodies (body_memory) is used up",
                          "body_memory");
}

/* Over the worker's cap: read no more until some came free. */
static void
body_pause(kars_req_t *r)
{
    kars_cycle_t *c = r->cycle;

    if (r->body_paused || c->body_held <= c->body_memory) {
        return;
    }
    r->body_paused = 1;
    r->wait_prev = c->body_last;
    *(c->body_last != NULL ? &c->body_last->wait_next : &c->body_first) = r;
    c->body_last = r;
    r->body_timer.fn = body_wait_over;
    kars__timer_start(c->loop, &r->body_timer, c->body_wait_ms);
    r->proto->read_body(r, 0);
}

void
kars__req_body_unpause(kars_req_t *r)
{
    kars_cycle_t *c = r->cycle;

    if (!r->body_paused) {
        return;
    }
    r->body_paused = 0;
    kars__timer_stop(c->loop, &r->body_timer);
    *(r->wait_prev != NULL ? &r->wait_prev->wait_next : &c->body_first) =
        r->wait_next;
    *(r->wait_next != NULL ? &r->wait_next->wait_prev : &c->body_last) =
        r->wait_prev;
    r->wait_prev = r->wait_next = NULL;
}

/* Some body memory came free: those that wait for it read on, in their order,
 * as long as it lasts. */
static void
body_memory_free(kars_cycle_t *c)
{
    kars_req_t *r;

    while ((r = c->body_first) != NULL && c->body_held <= c->body_memory) {
        kars__req_body_unpause(r);
        r->proto->read_body(r, 1);
    }
}

void
kars__body_memory_take(kars_cycle_t *cycle, size_t n)
{
    cycle->body_held += n;
}

void
kars__body_memory_give(kars_cycle_t *cycle, size_t n)
{
    cycle->body_held -= n;
    body_memory_free(cycle);
}

/* Small pieces of a body go together into blocks of their own: a view costs
 * more than such a piece, and a sender may make many. */
static int
body_gather(kars_req_t *r, const char *p, size_t n)
{
    kars_buf_t *last = r->body_last;
    kars__block_t *b = r->gather;

    if (b != NULL && last->block == b &&
        (size_t) (b->data + b->size - (last->data + last->len)) >= n) {
        memcpy(b->data + (last->data - b->data) + last->len, p, n);
        last->len += n;
        return KARS_OK;
    }
    b = kars__block_get(0);
    if (b == NULL) {
        return KARS_ERROR;
    }
    memcpy(b->data, p, n);
    last->next = kars__buf_view(&r->bufs, b, b->data, n);
    kars__block_unref(b); /* the view holds it */
    if (last->next == NULL) {
        return KARS_ERROR;
    }
    r->gather = b;
    r->body_last = last->next;
    return KARS_OK;
}

static int
body_hold(kars_req_t *r, kars__block_t *block, const char *p, size_t n)
{
    kars_buf_t *last = r->body_last;

    r->cycle->body_held += n;
    r->body_held += n;
    if (last != NULL && last->block == block && last->data + last->len == p) {
        last->len += n; /* the next bytes of the same block: one view */
        body_pause(r);
        return KARS_OK;
    }

    if (last != NULL && n <= BODY_SMALL) {
        if (body_gather(r, p, n) != KARS_OK) {
            return body_refuse(r, 503, "server_error", "overloaded",
                               "no memory for the body");
        }
        body_pause(r);
        return KARS_OK;
    }

    kars_buf_t *b = kars__buf_view(&r->bufs, block, p, n);

    if (b == NULL) {
        return body_refuse(r, 503, "server_error", "overloaded",
                           "no memory for the body");
    }
    if (last != NULL) {
        last->next = b;
    } else {
        r->body = b;
    }
    r->body_last = b;
    body_pause(r);
    return KARS_OK;
}

int
kars__req_body_in(kars_req_t *r, kars__block_t *block, const char *p, size_t n)
{
    if (n == 0 || r->finished) {
        return KARS_OK;
    }
    r->body_size += n;
    if (r->body_size > r->route->core->body_limit) {
        return body_refuse(r, 413, "invalid_request_error", "body_too_large",
                           "the body is larger than body_limit");
    }
    if (body_scan(r, p, n) != KARS_OK) {
        return KARS_ERROR;
    }
    if (r->gated) {
        return body_hold(r, block, p, n);
    }

    kars_buf_t *b = kars__buf_view(&r->bufs, block, p, n);

    if (b == NULL) {
        r->proto->abort(r);
        return KARS_ERROR;
    }
    kars__pass_body(r, b, 0);
    return KARS_OK;
}

/* All of it came: does the scan agree? Where members are watched, no body is
 * no JSON, for methods that have one. */
static int
body_scan_end(kars_req_t *r, kars_err_t *err)
{
    if (r->scan == NULL && r->route->watch[0].prog != NULL &&
        (kars_str_eq(r->head.method, KARS_STR("POST")) ||
         kars_str_eq(r->head.method, KARS_STR("PUT")))) {
        return kars__err(err, 0, "json: the body is empty");
    }
    return r->scan != NULL ? kars__json_end(r->scan, err) : KARS_OK;
}

void
kars__req_body_end(kars_req_t *r)
{
    kars_err_t err = KARS_ERR_INIT;

    if (r->finished || r->body_state == KARS__BODY_WHOLE) {
        return;
    }
    if (body_scan_end(r, &err) != KARS_OK) {
        (void) body_scan_failed(r, &err);
        return;
    }
    r->body_state = KARS__BODY_WHOLE;
    r->body_final = r->body_size;
    kars__req_body_unpause(r); /* nothing more of it comes */
    if (!r->gated) {
        kars__pass_body(r, NULL, KARS_LAST);
        return;
    }
    kars__req_run(r);
}

int
kars__req_body_replace(kars_req_t *r, kars_buf_t *body)
{
    kars_err_t err = KARS_ERR_INIT;
    uint64_t n;

    if (body == NULL && r->edits != NULL &&
        kars__req_body_send(r, &body, &n) != KARS_OK) {
        return KARS_ERROR;
    }
    if (body != NULL) {
        kars__chain_free(r->body);
        r->body = body;
        r->edits = NULL;
        r->flat = NULL;
    }
    r->scan = NULL;
    for (const kars_buf_t *b = r->body; b != NULL; b = b->next) {
        if (body_scan(r, b->data, b->len) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    if (body_scan_end(r, &err) != KARS_OK) {
        return body_scan_failed(r, &err);
    }
    return KARS_OK;
}

int
kars__req_body_reroute(kars_req_t *r)
{
    if (r->body_state != KARS__BODY_WHOLE) {
        return KARS_OK; /* nothing was read yet */
    }
    if (r->body_size > r->route->core->body_limit) {
        (void) body_refuse(r, 413, "invalid_request_error", "body_too_large",
                           "the body is larger than body_limit");
        return KARS_OK;
    }
    (void) kars__req_body_replace(r, NULL);
    return r->answer != KARS__ANSWER_NONE || !r->scan_failed ? KARS_OK
                                                             : KARS_ERROR;
}

/* A new block of the chain's bytes, which count against body_memory until the
 * request ends. */
static kars_buf_t *
body_join(kars_req_t *r, const kars_buf_t *chain, uint64_t len)
{
    kars_cycle_t *c = r->cycle;

    if (c->body_held > c->body_memory || len > c->body_memory - c->body_held) {
        return NULL;
    }

    kars__block_t *block = kars__block_get((size_t) len);

    if (block == NULL) {
        return NULL;
    }

    size_t o = 0;

    for (; chain != NULL; chain = chain->next) {
        memcpy(block->data + o, chain->data, chain->len);
        o += chain->len;
    }

    kars_buf_t *b = kars__buf_view(&r->bufs, block, block->data, o);

    kars__block_unref(block); /* the view holds it */
    if (b != NULL) {
        c->body_held += len;
        r->body_held += len;
    }
    return b;
}

kars_str_t
kars__req_body_flat(kars_req_t *r)
{
    kars_str_t none = { NULL, 0 };
    kars_buf_t *chain;
    uint64_t len;

    if (r->body_state != KARS__BODY_WHOLE || !r->gated || r->finished) {
        return none;
    }
    if (r->body == NULL) {
        return KARS_STR("");
    }
    if (r->edits == NULL && r->body->next == NULL) {
        return (kars_str_t){ r->body->data, r->body->len };
    }
    if (r->flat == NULL) {
        if (kars__req_body_send(r, &chain, &len) != KARS_OK) {
            return none;
        }
        r->flat = body_join(r, chain, len);
        kars__chain_free(chain);
    }
    return r->flat != NULL ? (kars_str_t){ r->flat->data, r->flat->len } : none;
}

void
kars__req_body_release(kars_req_t *r)
{
    if (r->body == NULL) {
        return;
    }
    r->cycle->body_held -= r->body_held;
    r->body_held = 0;
    kars__chain_free(r->body);
    r->body = NULL;
    r->body_last = NULL;
    body_memory_free(r->cycle);
}

/* Edits. */

/* Inserts before the edit that begins later; inserts at one place stay in the
 * order in which they were made. */
static void
edit_add(kars_req_t *r, kars__edit_t *e)
{
    kars__edit_t **at = &r->edits;

    while (*at != NULL && (*at)->at <= e->at) {
        at = &(*at)->next;
    }
    e->next = *at;
    *at = e;
}

/* Is path a member inside the one at outer? */
static int
edit_within(kars_str_t path, kars_str_t outer)
{
    return path.len > outer.len && kars_str_starts(path, outer) &&
           path.data[outer.len] == '.';
}

/* The edit that this member is part of. One that would lie inside a value that
 * was itself written, or around one, is a clash. */
static kars__edit_t *
edit_find(kars_req_t *r, kars_str_t path, int *ret_clash)
{
    kars__edit_t *found = NULL;

    *ret_clash = 0;
    for (kars__edit_t *e = r->edits; e != NULL; e = e->next) {
        if (kars_str_eq(e->path, path) || edit_within(path, e->path)) {
            found = e;
        }
        for (const kars__edit_t *k = e->kids; k != NULL; k = k->next) {
            *ret_clash |=
                edit_within(path, k->path) || edit_within(k->path, path);
        }
    }
    return found;
}

static kars_str_t
edit_parent(kars_str_t path, kars_str_t *ret_name)
{
    const char *dot = path.len != 0 ? memrchr(path.data, '.', path.len) : NULL;
    size_t n = dot != NULL ? (size_t) (dot - path.data) : 0;

    *ret_name = dot != NULL ? (kars_str_t){ dot + 1, path.len - n - 1 } : path;
    return (kars_str_t){ path.data, n };
}

/* Where the path's value goes: *e gets at, cut, insert, and as its path the
 * outermost member that is written: what lies on the way to the value and is
 * not there, or is no object, is made. */
static int
edit_place(kars_req_t *r, kars_str_t path, kars__edit_t *e)
{
    kars__json_range_t range;

    for (e->path = path;;) {
        kars_str_t name, parent;

        if (kars__json_find(r->scan, e->path, &range) != KARS_OK) {
            return KARS_ERROR;
        }
        if (range.type != 0) {
            e->at = range.start;
            e->cut = range.end - range.start;
            return KARS_OK;
        }
        parent = edit_parent(e->path, &name);
        if (kars__json_find(r->scan, parent, &range) != KARS_OK) {
            return KARS_ERROR;
        }
        if (range.type & KARS_JSON_OBJECT) {
            e->at = range.start + 1;
            e->insert = range.empty ? KARS__INSERT_ONLY : KARS__INSERT_FIRST;
            return KARS_OK;
        }
        if (parent.len == 0) {
            return KARS_ERROR; /* the document is an array */
        }
        e->path = parent;
    }
}

/* The value at that path: what was set there, or an object of what was set
 * inside it. Paths are short (they are compiled), so is the recursion. */
static kars_str_t
edit_value(kars_req_t *r, const kars__edit_t *kids, kars_str_t path)
{
    kars_str_t all = { "", 0 };

    for (const kars__edit_t *k = kids; k != NULL; k = k->next) {
        if (kars_str_eq(k->path, path)) {
            return k->text;
        }
        if (!edit_within(k->path, path)) {
            continue;
        }

        size_t from = path.len + 1;
        const char *dot = memchr(k->path.data + from, '.', k->path.len - from);
        kars_str_t child = { k->path.data, dot != NULL
                                               ? (size_t) (dot - k->path.data)
                                               : k->path.len };
        const kars__edit_t *seen = kids;

        while (seen != k && !kars_str_eq(seen->path, child) &&
               !edit_within(seen->path, child)) {
            seen = seen->next;
        }
        if (seen != k) {
            continue; /* written already */
        }

        kars_str_t value = edit_value(r, kids, child);

        if (value.data == NULL) {
            return value;
        }
        all = kars__pprintf(r->pool, "%.*s%s\"%.*s\":%.*s", KARS_STR_ARG(all),
                            all.len != 0 ? "," : "", (int) (child.len - from),
                            child.data + from, KARS_STR_ARG(value));
        if (all.data == NULL) {
            return all;
        }
    }
    return kars__pprintf(r->pool, "{%.*s}", KARS_STR_ARG(all));
}

/* One more member of an edit, or another value of one. The edit is as it was
 * when there is no memory. */
static int
edit_set(kars_req_t *r, kars__edit_t *e, kars_str_t path, kars_str_t json)
{
    kars__edit_t **at = &e->kids;
    kars__edit_t *kid = kars__pnew(r->pool, kars__edit_t);
    kars_str_t name, text;

    if (kid == NULL || path.data == NULL || json.data == NULL) {
        return KARS_ERROR;
    }
    while (*at != NULL && !kars_str_eq((*at)->path, path)) {
        at = &(*at)->next;
    }

    kars__edit_t *was = *at;

    kid->path = path;
    kid->text = json;
    kid->next = was != NULL ? was->next : NULL;
    *at = kid;
    text = edit_value(r, e->kids, e->path);
    if (text.data != NULL && e->insert) {
        (void) edit_parent(e->path, &name);
        text = kars__pprintf(r->pool, "\"%.*s\":%.*s", KARS_STR_ARG(name),
                             KARS_STR_ARG(text));
    }
    if (text.data == NULL) {
        *at = was;
        return KARS_ERROR;
    }
    e->text = text;
    return KARS_OK;
}

static int
edit_value_seen(void *data, uint32_t watch, kars_str_t text, uint32_t index,
                uint32_t flags)
{
    return KARS_OK;
}

/* Is it one JSON value? What reads as one in an array and, by edit_tell(), as
 * a member's value cannot bring another member with it. */
static int
edit_is_value(kars_req_t *r, kars_str_t json)
{
    kars__json_scan_t *scan = kars__pnew(r->pool, kars__json_scan_t);

    if (scan == NULL) {
        return 0;
    }
    kars__json_begin(scan, r->route->watch[0].prog, edit_value_seen, r);
    return kars__json_feed(scan, "[", 1, NULL) == KARS_OK &&
           kars__json_feed(scan, json.data, json.len, NULL) == KARS_OK &&
           kars__json_feed(scan, "]", 1, NULL) == KARS_OK &&
           kars__json_end(scan, NULL) == KARS_OK;
}

/* Shows the watchers what the member is now: a document with it alone. */
static int
edit_tell(kars_req_t *r, kars_str_t path, kars_str_t json)
{
    kars_str_t doc = json;
    kars__json_scan_t *scan = kars__pnew(r->pool, kars__json_scan_t);
    kars_err_t err = KARS_ERR_INIT;

    for (kars_str_t rest = path; rest.len != 0;) {
        kars_str_t name;

        rest = edit_parent(rest, &name);
        doc = kars__pprintf(r->pool, "{\"%.*s\":%.*s}", KARS_STR_ARG(name),
                            KARS_STR_ARG(doc));
    }
    if (scan == NULL || doc.data == NULL) {
        return KARS_ERROR;
    }
    kars__json_begin(scan, r->route->watch[0].prog, body_value, r);
    if (kars__json_feed(scan, doc.data, doc.len, &err) != KARS_OK ||
        kars__json_end(scan, &err) != KARS_OK) {
        kars__log(KARS_LOG_ERR, "router: json_set of \"%.*s\": %s",
                  KARS_STR_ARG(path), err.text);
        return KARS_ERROR;
    }
    return KARS_OK;
}

int
kars__req_json_set(kars_req_t *r, kars_str_t path, kars_str_t json)
{
    int clash;

    if (r->scan == NULL || r->body_state != KARS__BODY_WHOLE ||
        r->answer != KARS__ANSWER_NONE || path.len == 0) {
        return KARS_ERROR;
    }

    kars__edit_t *e = edit_find(r, path, &clash);
    kars_str_t own = kars__pdup(r->pool, path);
    kars__edit_t *made = NULL;

    if (clash || own.data == NULL || !edit_is_value(r, json) ||
        edit_tell(r, path, json) != KARS_OK) {
        return KARS_ERROR;
    }
    if (e == NULL) {
        e = made = kars__pnew(r->pool, kars__edit_t);
        if (made == NULL || edit_place(r, own, made) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    if (edit_set(r, e, own, kars__pdup(r->pool, json)) != KARS_OK) {
        return KARS_ERROR;
    }
    if (made != NULL) {
        edit_add(r, made);
    }
    r->flat = NULL; /* what was given out stays until the request's end */
    if (r->phase >= KARS_PHASE_ADMIT) {
        r->again = 1;
    }
    return KARS_OK;
}

/* A chain under construction. */
typedef struct {
    kars_req_t *r;
    kars_buf_t *first;
    kars_buf_t **last;
    uint64_t len;
    int failed;
} body_out_t;

static void
body_put(body_out_t *o, kars__block_t *block, const char *p, size_t n)
{
    if (n == 0) {
        return;
    }

    kars_buf_t *b = kars__buf_view(&o->r->bufs, block, p, n);

    if (b == NULL) {
        o->failed = 1;
        return;
    }
    *o->last = b;
    o->last = &b->next;
    o->len += n;
}

static void
body_put_edit(body_out_t *o, const kars__edit_t *e, const kars__edit_t *before)
{
    int joins =
        before != NULL && before->insert && e->insert && before->at == e->at;

    if (joins && e->insert == KARS__INSERT_ONLY) {
        body_put(o, NULL, ",", 1);
    }
    body_put(o, NULL, e->text.data, e->text.len);
    if (e->insert == KARS__INSERT_FIRST) {
        body_put(o, NULL, ",", 1);
    }
}

int
kars__req_body_send(kars_req_t *r, kars_buf_t **ret, uint64_t *ret_len)
{
    body_out_t o = { .r = r, .last = &o.first };
    const kars__edit_t *e = r->edits, *before = NULL;
    uint64_t at = 0, skip = 0;

    for (const kars_buf_t *b = r->body; b != NULL; b = b->next) {
        size_t i = 0;

        while (i < b->len) {
            if (skip > 0) {
                size_t n = skip < b->len - i ? (size_t) skip : b->len - i;

                i += n;
                at += n;
                skip -= n;
                continue;
            }
            if (e != NULL && e->at == at) {
                body_put_edit(&o, e, before);
                skip = e->cut;
                before = e;
                e = e->next;
                continue;
            }

            size_t n = b->len - i;

            if (e != NULL && e->at - at < n) {
                n = (size_t) (e->at - at);
            }
            body_put(&o, b->block, b->data + i, n);
            i += n;
            at += n;
        }
    }
    if (o.failed) {
        kars__chain_free(o.first);
        return KARS_ERROR;
    }
    r->body_final = o.len;
    *ret = o.first;
    *ret_len = o.len;
    return KARS_OK;
}
