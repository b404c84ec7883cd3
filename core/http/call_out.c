/* call_out.c - the bytes of a module's call. */
#include "base/secret.h"
#include "http/exchange.h"

/* Headers that are the connection's or the framing's: not a caller's. */
static int
out_is_ours(kars_str_t name)
{
    static const kars_str_t ours[] = {
        KARS_STR("connection"), KARS_STR("content-length"),
        KARS_STR("te"),         KARS_STR("transfer-encoding"),
        KARS_STR("upgrade"),    KARS_STR("expect"),
    };

    for (size_t i = 0; i < KARS_NELTS(ours); i++) {
        if (kars__str_ieq(name, ours[i])) {
            return 1;
        }
    }
    return 0;
}

/* Written by call_out() where the caller says nothing, or never twice. */
static int
out_is_replaced(const kars_call_t *call, kars_str_t name)
{
    return kars__str_ieq(name, KARS_STR("accept-encoding")) ||
           (call->secret != NULL && kars__str_ieq(name, call->secret_name));
}

/* RFC 9112 3.2: nothing that would end the request line. */
static int
out_path_ok(kars_str_t path)
{
    for (size_t i = 0; i < path.len; i++) {
        unsigned char c = (unsigned char) path.data[i];

        if (c <= 0x20 || c >= 0x7f) {
            return 0;
        }
    }
    return path.len != 0;
}

static int
out_strings(kars_pool_t *pool, kars_call_t *c)
{
    kars_str_t *const all[] = { &c->method,        &c->path,
                                &c->bytes,         &c->secret_name,
                                &c->secret_prefix, &c->pool_scope };

    for (size_t i = 0; i < KARS_NELTS(all); i++) {
        *all[i] = kars__pdup(pool, *all[i]);
        if (all[i]->data == NULL) {
            return KARS_ERROR;
        }
    }
    return KARS_OK;
}

static int
out_headers(kars_pool_t *pool, kars_call_t *c)
{
    kars_header_t *h = kars__pnewn(pool, kars_header_t, c->nheaders + 1);

    if (h == NULL) {
        return KARS_ERROR;
    }
    for (size_t i = 0; i < c->nheaders; i++) {
        const kars_header_t *from = &c->headers[i];

        if (!kars__head_name_ok(from->name) ||
            !kars__head_value_ok(from->value) || out_is_ours(from->name)) {
            return KARS_ERROR;
        }
        h[i].name = kars__pdup(pool, from->name);
        h[i].value = kars__pdup(pool, from->value);
        if (h[i].name.data == NULL || h[i].value.data == NULL) {
            return KARS_ERROR;
        }
    }
    c->headers = h;
    return KARS_OK;
}

static int
out_secret_ok(const kars_call_t *c)
{
    return c->secret == NULL ||
           (kars__head_name_ok(c->secret_name) &&
            !out_is_ours(c->secret_name) &&
            kars__head_value_ok(c->secret_prefix) &&
            kars__head_value_ok(kars__secret_str(c->secret)));
}

int
kars__call_copy(kars_pool_t *pool, kars_call_t *ret, const kars_call_t *call)
{
    kars_call_t c = { 0 };

    memcpy(&c, call, call->size < sizeof(c) ? call->size : sizeof(c));
    c.size = sizeof(c);
    if (c.upstream == NULL || !kars__head_name_ok(c.method) ||
        !out_path_ok(c.path) || !out_secret_ok(&c) ||
        out_strings(pool, &c) != KARS_OK || out_headers(pool, &c) != KARS_OK) {
        return KARS_ERROR;
    }
    *ret = c;
    return KARS_OK;
}

/* A chain under construction. */
typedef struct {
    kars__bufs_t *bufs;
    kars_buf_t *first;
    kars_buf_t **last;
    int failed;
} out_t;

static void
out_put(out_t *o, kars__block_t *block, kars_str_t s)
{
    kars_buf_t *b =
        s.len != 0 ? kars__buf_view(o->bufs, block, s.data, s.len) : NULL;

    if (b != NULL) {
        *o->last = b;
        o->last = &b->next;
    }
    o->failed |= b == NULL && s.len != 0;
}

/* "METHOD path HTTP/1.1" and Host (RFC 9110 7.2). */
static kars_str_t
out_line(kars_pool_t *pool, const kars_call_t *call,
         const kars__upserver_t *server)
{
    kars_str_t said =
        kars__head_get(call->headers, call->nheaders, KARS_STR("host"));
    kars_str_t host = server->at.host;

    if (said.data != NULL) {
        return kars__pprintf(pool, "%.*s %.*s HTTP/1.1\r\n",
                             KARS_STR_ARG(call->method),
                             KARS_STR_ARG(call->path));
    }
    if (host.len == 0) {
        return kars__pprintf(pool, "%.*s %.*s HTTP/1.1\r\nhost: localhost\r\n",
                             KARS_STR_ARG(call->method),
                             KARS_STR_ARG(call->path));
    }

    int v6 = memchr(host.data, ':', host.len) != NULL;

    return kars__pprintf(pool, "%.*s %.*s HTTP/1.1\r\nhost: %s%.*s%s:%u\r\n",
                         KARS_STR_ARG(call->method), KARS_STR_ARG(call->path),
                         v6 ? "[" : "", KARS_STR_ARG(host), v6 ? "]" : "",
                         server->at.port);
}

static void
out_fields(out_t *o, const kars_call_t *call)
{
    for (size_t i = 0; i < call->nheaders; i++) {
        if (!out_is_replaced(call, call->headers[i].name)) {
            out_put(o, NULL, call->headers[i].name);
            out_put(o, NULL, KARS_STR(": "));
            out_put(o, NULL, call->headers[i].value);
            out_put(o, NULL, KARS_STR("\r\n"));
        }
    }
    if (call->secret != NULL) {
        out_put(o, NULL, call->secret_name);
        out_put(o, NULL, KARS_STR(": "));
        out_put(o, NULL, call->secret_prefix);
        out_put(o, NULL, kars__secret_str(call->secret));
        out_put(o, NULL, KARS_STR("\r\n"));
    }
}

kars_buf_t *
kars__call_out(kars_pool_t *pool, kars__bufs_t *bufs, const kars_call_t *call,
               const kars_buf_t *body, const kars__upserver_t *server)
{
    out_t o = { .bufs = bufs, .last = &o.first };
    uint64_t length = body != NULL ? kars__chain_len(body) : call->bytes.len;
    kars_str_t line = out_line(pool, call, server);
    kars_str_t end = kars__pprintf(pool,
                                   "accept-encoding: identity\r\n"
                                   "content-length: %llu\r\n\r\n",
                                   (unsigned long long) length);

    if (line.data == NULL || end.data == NULL) {
        return NULL;
    }
    out_put(&o, NULL, line);
    out_fields(&o, call);
    out_put(&o, NULL, end);
    for (const kars_buf_t *b = body; b != NULL; b = b->next) {
        out_put(&o, b->block, (kars_str_t){ b->data, b->len });
    }
    if (body == NULL) {
        out_put(&o, NULL, call->bytes);
    }
    if (o.failed) {
        kars__chain_free(o.first);
        return NULL;
    }
    return o.first;
}
