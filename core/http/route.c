/* route.c - which route takes a request: exact text, {name}, {rest...}. */
#include "http/request.h"

#define ROUTE_SEGS 32

static int
route_segment(kars_str_t text, kars__segment_t *ret, int last, kars_err_t *err)
{
    if (text.len < 2 || text.data[0] != '{') {
        if (text.len != 0 && (memchr(text.data, '{', text.len) != NULL ||
                              memchr(text.data, '}', text.len) != NULL)) {
            return kars__err(err, 0, "a brace inside the segment \"%.*s\"",
                             KARS_STR_ARG(text));
        }
        *ret = (kars__segment_t){ text, KARS__SEG_TEXT };
        return KARS_OK;
    }
    if (text.data[text.len - 1] != '}') {
        return kars__err(err, 0, "the segment \"%.*s\" has no }",
                         KARS_STR_ARG(text));
    }

    kars_str_t name = { text.data + 1, text.len - 2 };
    uint32_t kind = KARS__SEG_NAME;

    if (name.len > 3 && memcmp(name.data + name.len - 3, "...", 3) == 0) {
        name.len -= 3;
        kind = KARS__SEG_REST;
        if (!last) {
            return kars__err(err, 0, "{%.*s...} is not the last segment",
                             KARS_STR_ARG(name));
        }
    }
    if (name.len == 0) {
        return kars__err(err, 0, "a segment without a name");
    }
    *ret = (kars__segment_t){ name, kind };
    return KARS_OK;
}

int
kars__route_compile(kars_pool_t *pool, kars__route_t *route, kars_err_t *err)
{
    kars__segment_t segs[ROUTE_SEGS];
    size_t n = 0;
    kars_str_t p = route->path;

    if (p.len == 0 || p.data[0] != '/') {
        return kars__err(err, 0, "the path \"%.*s\" does not begin with /",
                         KARS_STR_ARG(p));
    }
    p.data++;
    p.len--;
    for (;;) {
        const char *slash = p.len != 0 ? memchr(p.data, '/', p.len) : NULL;
        kars_str_t text = { p.data,
                            slash != NULL ? (size_t) (slash - p.data) : p.len };

        if (n == ROUTE_SEGS) {
            return kars__err(err, 0, "a path of more than %d segments",
                             ROUTE_SEGS);
        }
        if (route_segment(text, &segs[n++], slash == NULL, err) != KARS_OK) {
            return KARS_ERROR;
        }
        if (slash == NULL) {
            break;
        }
        p.data += text.len + 1;
        p.len -= text.len + 1;
    }

    route->segs = kars__pnewn(pool, kars__segment_t, n);
    if (route->segs == NULL) {
        return kars__err(err, 0, "no memory for a route");
    }
    memcpy(route->segs, segs, n * sizeof(*segs));
    route->nsegs = n;
    return KARS_OK;
}

/* <0: a is more specific. Texts before names before the rest; then longer. */
static int
route_order(const kars__route_t *a, const kars__route_t *b)
{
    for (size_t i = 0; i < a->nsegs && i < b->nsegs; i++) {
        if (a->segs[i].kind != b->segs[i].kind) {
            return a->segs[i].kind < b->segs[i].kind ? -1 : 1;
        }
    }
    if (a->nsegs != b->nsegs) {
        return a->nsegs > b->nsegs ? -1 : 1;
    }

    int any_a = kars_str_eq(a->methods, KARS_STR("*"));
    int any_b = kars_str_eq(b->methods, KARS_STR("*"));

    return any_a - any_b;
}

static int
route_methods_meet(kars_str_t a, kars_str_t b)
{
    kars_str_t any = KARS_STR("*");

    if (kars_str_eq(a, any) || kars_str_eq(b, any)) {
        return kars_str_eq(a, b);
    }
    while (a.len > 0) {
        const char *comma = memchr(a.data, ',', a.len);
        size_t n = comma != NULL ? (size_t) (comma - a.data) : a.len;

        if (kars__str_has_token(b, (kars_str_t){ a.data, n })) {
            return 1;
        }
        if (comma == NULL) {
            break;
        }
        a.data += n + 1;
        a.len -= n + 1;
    }
    return 0;
}

/* Do both match the same paths: the same kinds, the same texts? */
static int
route_same(const kars__route_t *a, const kars__route_t *b)
{
    if (a->nsegs != b->nsegs || !route_methods_meet(a->methods, b->methods)) {
        return 0;
    }
    for (size_t i = 0; i < a->nsegs; i++) {
        if (a->segs[i].kind != b->segs[i].kind ||
            (a->segs[i].kind == KARS__SEG_TEXT &&
             !kars_str_eq(a->segs[i].text, b->segs[i].text))) {
            return 0;
        }
    }
    return 1;
}

int
kars__route_insert(kars__server_t *server, kars__route_t *route,
                   kars_err_t *err)
{
    kars__route_t **at = &server->routes;

    for (kars__route_t *o = server->routes; o != NULL; o = o->next) {
        if (route_same(o, route)) {
            return kars__err(err, 0,
                             "route %.*s %.*s matches what the route in %s:%u "
                             "matches",
                             KARS_STR_ARG(route->methods),
                             KARS_STR_ARG(route->path), o->file, o->line);
        }
    }
    while (*at != NULL && route_order(*at, route) <= 0) {
        at = &(*at)->next;
    }
    route->next = *at;
    *at = route;
    route->server = server;
    return KARS_OK;
}

static int
route_method_ok(const kars__route_t *route, kars_str_t method)
{
    if (route->methods.len == 1 && route->methods.data[0] == '*') {
        return !kars_str_eq(method, KARS_STR("CONNECT")); /* by name only */
    }
    if (kars_str_eq(route->methods, method)) {
        return 1;
    }
    /* Methods are case-sensitive; the list was checked at load. */
    for (kars_str_t l = route->methods; l.len > 0;) {
        const char *comma = memchr(l.data, ',', l.len);
        size_t n = comma != NULL ? (size_t) (comma - l.data) : l.len;

        if (kars_str_eq((kars_str_t){ l.data, n }, method)) {
            return 1;
        }
        if (comma == NULL) {
            break;
        }
        l.data += n + 1;
        l.len -= n + 1;
    }
    return 0;
}

static int
route_match(const kars__route_t *route, kars_str_t path, kars_header_t *found,
            size_t *nfound)
{
    *nfound = 0;
    if (path.len == 0 || path.data[0] != '/') {
        return 0;
    }
    path.data++;
    path.len--;
    for (size_t i = 0; i < route->nsegs; i++) {
        const kars__segment_t *s = &route->segs[i];
        const char *slash =
            path.len != 0 ? memchr(path.data, '/', path.len) : NULL;
        kars_str_t text = { path.data, slash != NULL
                                           ? (size_t) (slash - path.data)
                                           : path.len };

        if (s->kind == KARS__SEG_REST) {
            found[(*nfound)++] = (kars_header_t){ s->text, path };
            return path.len != 0;
        }
        if (s->kind == KARS__SEG_NAME) {
            if (text.len == 0) {
                return 0;
            }
            found[(*nfound)++] = (kars_header_t){ s->text, text };
        } else if (!kars_str_eq(s->text, text)) {
            return 0;
        }
        if ((slash == NULL) != (i + 1 == route->nsegs)) {
            /* The one is at its end; a rest may still follow, not empty. */
            return 0;
        }
        if (slash != NULL) {
            path.data += text.len + 1;
            path.len -= text.len + 1;
        }
    }
    return 1;
}

const kars__route_t *
kars__route_find(kars_req_t *r)
{
    kars_header_t found[ROUTE_SEGS];
    size_t n;

    for (const kars__route_t *o = r->server->routes; o != NULL; o = o->next) {
        if (!route_method_ok(o, r->head.method) ||
            !route_match(o, r->path, found, &n)) {
            continue;
        }
        if (n != 0) {
            r->segments = kars__pnewn(r->pool, kars_header_t, n);
            if (r->segments == NULL) {
                return r->server->none; /* no memory */
            }
            memcpy(r->segments, found, n * sizeof(*found));
        }
        r->nsegments = n;
        return o;
    }
    return NULL;
}
