/* request.c - the request object: its making, its facts, its end. */
#include "http/request.h"
#include "http/recheck.h"
#include "http/snapshot.h"

#include <sys/random.h>

kars__mod_t *kars__mod_now;

/* splitmix64 over a random start: trace ids need to be distinct, not secret. */
static uint64_t
req_random(void)
{
    static uint64_t state;

    if (state == 0) {
        (void) !getrandom(&state, sizeof(state), 0);
    }
    state += 0x9e3779b97f4a7c15u;

    uint64_t z = state;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int
req_trace_ok(kars_str_t s)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];

        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
              (c >= 'A' && c <= 'Z') || c == '-' || c == '_')) {
            return 0;
        }
    }
    return s.len >= 1 && s.len <= 128;
}

/* docs/compat.md 4: the caller's trace id where it is a good one, else a new
 * one. */
static int
req_trace(kars_req_t *r)
{
    kars_str_t given = kars__headers_get(&r->in, KARS_STR("x-kars-trace-id"));

    if (req_trace_ok(given)) {
        r->trace = given;
        return KARS_OK;
    }

    uint64_t id = req_random();
    unsigned char bytes[8];
    char *hex = kars__palloc(r->pool, 16);

    if (hex == NULL) {
        return KARS_ERROR;
    }
    memcpy(bytes, &id, sizeof(bytes));
    kars__to_hex(bytes, sizeof(bytes), hex);
    r->trace = (kars_str_t){ hex, 16 };
    return KARS_OK;
}

kars_req_t *
kars__req_create(kars_cycle_t *cycle, kars__server_t *server,
                 const kars__head_t *head, kars__block_t *block)
{
    kars_pool_t *pool = kars__pool_create((size_t) server->core->memory);
    kars_req_t *r = pool != NULL ? kars__pnew(pool, kars_req_t) : NULL;

    if (r == NULL) {
        kars__pool_destroy(pool);
        return NULL;
    }
    r->pool = pool;
    r->cycle = cycle;
    r->server = server;
    r->route = server->none;
    r->head = *head;
    r->phase = KARS_PHASE_ACCESS;
    r->start_ms = kars__loop_now(cycle->loop);
    r->start_wall_ms = kars__loop_wall(cycle->loop);

    r->in.cap = head->nheaders + 8;
    r->in.n = head->nheaders;
    r->in.v = kars__pnewn(pool, kars_header_t, r->in.cap);
    if (r->in.v == NULL) {
        kars__pool_destroy(pool);
        return NULL;
    }
    if (head->nheaders != 0) {
        memcpy(r->in.v, head->headers, head->nheaders * sizeof(kars_header_t));
    }
    r->head.headers = r->in.v;
    if (req_trace(r) != KARS_OK) {
        kars__pool_destroy(pool);
        return NULL;
    }
    r->snapset = kars__snapset_ref(cycle);
    r->head_block = block;
    if (block != NULL) {
        kars__block_ref(block);
    }
    return r;
}

kars_req_t *
kars__req_create_bad(kars_cycle_t *cycle, kars__server_t *server,
                     kars__block_t *block)
{
    kars__head_t known = { .method = KARS_STR("-"), .content_length = -1 };
    kars_req_t *r = kars__req_create(cycle, server, &known, block);

    if (r != NULL) {
        r->path = KARS_STR("-");
    }
    return r;
}

static void
req_free(kars_req_t *r)
{
    kars__req_body_release(r);
    kars__bufs_done(&r->bufs);
    kars__block_unref(r->head_block);
    kars__snapset_unref(r->snapset);
    kars__pool_destroy(r->pool);
}

static void
req_log_hooks(kars_req_t *r)
{
    for (size_t i = 0; i < r->route->nhooks; i++) {
        const kars__hook_t *h = &r->route->hooks[i];

        if (h->phase != KARS_PHASE_LOG || !kars__req_listens(r, h->mod)) {
            continue;
        }

        void *ctx = kars__req_ctx(r, h->mod);

        if (ctx == NULL) {
            continue;
        }
        kars__mod_now = r->cycle->mods[h->mod];
        (void) h->run(r, kars__req_conf(r, h->mod), ctx);
        kars__mod_now = NULL;
    }
}

static void
req_taken_back(kars_req_t *r)
{
    const kars__taker_t *taker = r->taker;

    r->taker = NULL;
    if (taker != NULL) {
        taker->gone(r, r->taker_data);
    }
}

static void
req_count(kars_req_t *r)
{
    static const char *const classes[] = { "0xx", "1xx", "2xx",
                                           "3xx", "4xx", "5xx" };
    kars_str_t label =
        kars__strz(classes[r->status < 600 ? r->status / 100 : 0]);

    kars__series_add(kars__series(r->cycle->m_requests, &label), 1);
}

void
kars__req_done(kars_req_t *r)
{
    if (r->finished) {
        return;
    }
    r->finished = 1;
    r->phase = KARS_PHASE_LOG;
    kars__req_body_unpause(r);
    kars__lasting_del(r);
    if (r->suspended) {
        r->suspended = 0;
        kars__wait_cancel(r->cycle->waits, r->token);
    }
    kars__call_cancel(&r->call);
    kars__filters_cancel(r);
    kars__pass_cancel(r);
    req_taken_back(r);
    req_log_hooks(r);
    req_count(r);
    r->conn = NULL;
    if (r->holds == 0) {
        req_free(r);
    }
}

void
kars__req_gone(kars_req_t *r)
{
    r->gone = 1;
    if (r->status == 0) { /* nginx's number for it, known to operators */
        kars__var_t *code = kars__var(r, KARS_STR("deny_code"), 1);

        r->status = 499;
        if (code != NULL) {
            code->text = KARS_STR("client_gone");
        }
    }
    kars__req_done(r);
}

void
kars__req_unhold(kars_req_t *r)
{
    r->holds--;
    if (r->holds == 0 && r->finished) {
        req_free(r);
    }
}

/* Modules' contexts. */

static int
req_ctx_make(kars_req_t *r)
{
    size_t n = r->cycle->nmods;

    r->ctx = kars__pcalloc(r->pool, n + 1, sizeof(void *) + 1);
    if (r->ctx == NULL) {
        return KARS_ERROR;
    }
    r->declined = (uint8_t *) (r->ctx + n);
    return KARS_OK;
}

void *
kars__req_ctx(kars_req_t *r, uint32_t mod)
{
    if (r->ctx == NULL && req_ctx_make(r) != KARS_OK) {
        return NULL;
    }
    if (r->ctx[mod] == NULL) {
        size_t size = r->cycle->mods[mod]->def.ctx_size;

        r->ctx[mod] = kars__pcalloc(r->pool, 1, size == 0 ? 1 : size);
    }
    return r->ctx[mod];
}

const void *
kars__req_conf(const kars_req_t *r, uint32_t mod)
{
    return r->route->conf[mod];
}

int
kars__req_listens(const kars_req_t *r, uint32_t mod)
{
    return r->declined == NULL || !r->declined[mod];
}

int
kars__req_watch(kars_req_t *r, const kars__watch_slot_t *s, kars_str_t text,
                uint32_t index, uint32_t flags)
{
    void *ctx = kars__req_ctx(r, s->mod);

    if (ctx == NULL || !kars__req_listens(r, s->mod)) {
        return KARS_OK;
    }

    kars__mod_t *was = kars__mod_now;

    kars__mod_now = r->cycle->mods[s->mod];
    int rc = s->value(r, text, index, flags, kars__req_conf(r, s->mod), ctx);
    kars__mod_now = was;
    if (rc == KARS_DECLINED) {
        r->declined[s->mod] = 1;
        return KARS_OK;
    }
    return rc == KARS_OK ? KARS_OK : KARS_ERROR;
}

/* Headers. */

int
kars__headers_add(kars_pool_t *pool, kars__headers_t *h, kars_str_t name,
                  kars_str_t value)
{
    if (h->n == h->cap) {
        size_t cap = h->cap == 0 ? 12 : h->cap * 2;
        kars_header_t *v = kars__pnewn(pool, kars_header_t, cap);

        if (v == NULL) {
            return KARS_ERROR;
        }
        if (h->n != 0) {
            memcpy(v, h->v, h->n * sizeof(*v));
        }
        h->v = v;
        h->cap = cap;
    }
    h->v[h->n].name = name;
    h->v[h->n].value = value;
    h->n++;
    return KARS_OK;
}

kars_str_t
kars__headers_get(const kars__headers_t *h, kars_str_t name)
{
    return kars__head_get(h->v, h->n, name);
}

/* Removes those that stand at `from` or later. */
static void
headers_del_from(kars__headers_t *h, size_t from, kars_str_t name)
{
    size_t o = from;

    for (size_t i = from; i < h->n; i++) {
        if (kars__str_ieq(h->v[i].name, name)) {
            continue;
        }
        if (o != i) {
            h->v[o] = h->v[i];
        }
        o++;
    }
    h->n = o;
}

int
kars__headers_set(kars_pool_t *pool, kars__headers_t *h, kars_str_t name,
                  kars_str_t value)
{
    size_t i = 0;

    while (i < h->n && !kars__str_ieq(h->v[i].name, name)) {
        i++;
    }
    if (i == h->n) {
        return kars__headers_add(pool, h, name, value);
    }

    h->v[i].name = name;
    h->v[i].value = value;
    headers_del_from(h, i + 1, name);
    return KARS_OK;
}

void
kars__headers_del(kars__headers_t *h, kars_str_t name)
{
    headers_del_from(h, 0, name);
}

/* Headers whose value is a secret. */

int
kars__header_secret_has(const kars_req_t *r, kars_str_t name)
{
    const kars__header_secret_t *s = r->secrets;

    while (s != NULL && !kars__str_ieq(s->name, name)) {
        s = s->next;
    }
    return s != NULL;
}

void
kars__header_secret_del(kars_req_t *r, kars_str_t name)
{
    for (kars__header_secret_t **at = &r->secrets; *at != NULL;) {
        if (kars__str_ieq((*at)->name, name)) {
            *at = (*at)->next;
        } else {
            at = &(*at)->next;
        }
    }
}

int
kars__header_secret(kars_req_t *r, kars_str_t name, kars_str_t prefix,
                    const kars_secret_t *secret)
{
    kars__header_secret_t *s = NULL;

    /* Whatever comes of it: rather none than the one before. */
    kars__headers_del(&r->in, name);
    kars__header_secret_del(r, name);
    if (secret != NULL && kars__head_name_ok(name) &&
        kars__head_value_ok(prefix) &&
        kars__head_value_ok(kars__secret_str(secret))) {
        s = kars__pnew(r->pool, kars__header_secret_t);
    }
    if (s == NULL) {
        return KARS_ERROR;
    }
    s->name = kars__pdup(r->pool, name);
    s->prefix = kars__pdup(r->pool, prefix);
    s->secret =
        kars__secret_share(r->pool, (kars_secret_t *) (uintptr_t) secret);
    if (s->name.data == NULL || s->prefix.data == NULL || s->secret == NULL) {
        return KARS_ERROR;
    }
    s->next = r->secrets;
    r->secrets = s;
    return KARS_OK;
}
