/* upstream_url.c - upstreams made at run time from URLs: counted, decided by
 * egress.decision/1, gone with their last reference. */
#include "base/parse.h"
#include "http/upconn.h"

#include <errno.h>

#define URL_MAX 2048 /* bytes of a URL */

static const kars_egress_t *
url_decider(const kars_cycle_t *cycle, const kars__mod_t **ret_mod)
{
    for (size_t i = 0; i < cycle->nmods; i++) {
        const kars_service_t *s = cycle->mods[i]->def.provides;

        for (; s != NULL && s->name != NULL; s++) {
            if (strcmp(s->name, "egress.decision/1") == 0) {
                *ret_mod = cycle->mods[i];
                return s->vtable;
            }
        }
    }
    return NULL;
}

/* May that be reached? No decider, no verdict: no. */
static int
url_decide(kars_cycle_t *cycle, kars_str_t name, kars_hostport_t to,
           kars_err_t *err)
{
    const kars__mod_t *mod = NULL;
    const kars_egress_t *egress = url_decider(cycle, &mod);
    kars_verdict_t verdict = { .size = sizeof(verdict) };
    kars__mod_t *was = kars__mod_now;

    if (egress == NULL) {
        return kars__err(err, EACCES,
                         "upstream %.*s: no module decides about it: load one "
                         "that provides egress.decision/1",
                         KARS_STR_ARG(name));
    }

    kars__mod_now = cycle->mods[mod->index];
    int rc = egress->decide(cycle, NULL, to, &verdict);
    kars__mod_now = was;

    if (rc != KARS_OK || verdict.decision != KARS_ALLOW) {
        return kars__err(err, EACCES, "upstream %.*s: %s refuses it: %.*s",
                         KARS_STR_ARG(name), mod->def.name,
                         KARS_STR_ARG(verdict.reason));
    }
    return KARS_OK;
}

static int
url_char_ok(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
           (c >= 'A' && c <= 'Z') || memchr("-._:[]", c, 6) != NULL;
}

/* RFC 3986 3.2 without userinfo. *to borrows from pool; *name: how it is
 * known. */
static int
url_read(kars_pool_t *pool, kars_str_t url, kars_str_t *name,
         kars_hostport_t *to, kars_err_t *err)
{
    kars_str_t rest = url;
    size_t n = 0;
    int tcp = kars__str_istarts(url, KARS_STR("tcp://"));

    if (url.len > URL_MAX) {
        return kars__err(err, 0, "an upstream's URL of %zu bytes: %d at most",
                         url.len, URL_MAX);
    }
    if (kars__str_istarts(url, KARS_STR("https://"))) {
        return kars__err(err, 0,
                         "upstream %.*s: https is not spoken to upstreams made "
                         "from a URL: use http://",
                         KARS_STR_ARG(url));
    }
    if (!tcp && !kars__str_istarts(url, KARS_STR("http://"))) {
        return kars__err(err, 0,
                         "upstream %.*s: expected http://HOST[:PORT] or "
                         "tcp://HOST:PORT",
                         KARS_STR_ARG(url));
    }
    rest.data += tcp ? 6 : 7;
    rest.len -= tcp ? 6 : 7;
    while (n < rest.len && memchr("/?#", rest.data[n], 3) == NULL) {
        if (!url_char_ok((unsigned char) rest.data[n])) {
            return kars__err(err, 0, "upstream %.*s: no host and port",
                             KARS_STR_ARG(url));
        }
        n++;
    }
    rest.len = n;

    kars_str_t text = kars__pprintf(pool, tcp ? "tcp://%.*s" : "http://%.*s",
                                    KARS_STR_ARG(rest));
    kars_str_t host = { text.data + (tcp ? 6 : 7), rest.len };

    if (text.data != NULL && kars__parse_hostport(host, to) != KARS_OK) {
        if (tcp) {
            return kars__err(err, 0, "upstream %.*s: no host and port",
                             KARS_STR_ARG(url));
        }
        text = kars__pprintf(pool, "http://%.*s:80", KARS_STR_ARG(rest));
        host = (kars_str_t){ text.data + 7, rest.len + 3 };
        if (text.data != NULL && kars__parse_hostport(host, to) != KARS_OK) {
            return kars__err(err, 0, "upstream %.*s: no host and port",
                             KARS_STR_ARG(url));
        }
    }
    if (text.data == NULL) {
        return kars__err(err, ENOMEM, "upstream %.*s", KARS_STR_ARG(url));
    }
    *name = text;
    return KARS_OK;
}

/* Limits as an `upstream` block has them that says nothing. */
static void
url_defaults(kars_upstream_t *u)
{
    const kars_directive_t *d = kars__upstream_directives;

    for (; d->name != NULL; d++) {
        uint64_t *field = (uint64_t *) ((char *) u + d->offset);

        if (d->dflt != NULL && d->type == KARS_T_MSEC) {
            (void) kars__parse_msec(kars__strz(d->dflt), field);
        } else if (d->dflt != NULL && d->type == KARS_T_COUNT) {
            (void) kars__parse_count(kars__strz(d->dflt), field);
        }
    }
}

static kars_upstream_t *
url_make(kars_cycle_t *cycle, kars_pool_t *pool, kars_str_t name,
         kars_hostport_t to, kars_err_t *err)
{
    kars_upstream_t *u = kars__pnew(pool, kars_upstream_t);
    kars_str_t *word = kars__pnew(pool, kars_str_t);
    size_t scheme = kars_str_starts(name, KARS_STR("tcp://")) ? 6 : 7;

    if (u == NULL || word == NULL) {
        (void) kars__err(err, ENOMEM, "upstream %.*s", KARS_STR_ARG(name));
        return NULL;
    }
    *word = (kars_str_t){ name.data + scheme, name.len - scheme };
    u->name = name;
    u->file = "URL";
    u->server_words = (kars_list_t){ word, 1 };
    url_defaults(u);
    if (kars__upstream_init(u, pool, err) != KARS_OK) {
        return NULL;
    }
    u->refs = 1;
    u->pool = pool;
    u->cycle = cycle;
    u->next = cycle->url_upstreams;
    cycle->url_upstreams = u;
    return u;
}

kars_upstream_t *
kars__upstream_from_url(kars_cycle_t *cycle, kars_str_t url, kars_err_t *err)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars_upstream_t *u = NULL;
    kars_hostport_t to;
    kars_str_t name;

    if (pool == NULL) {
        (void) kars__err(err, ENOMEM, "an upstream");
        return NULL;
    }
    if (url_read(pool, url, &name, &to, err) == KARS_OK &&
        url_decide(cycle, name, to, err) == KARS_OK) {
        u = cycle->url_upstreams;
        while (u != NULL && !kars__str_ieq(u->name, name)) {
            u = u->next;
        }
        if (u == NULL) {
            u = url_make(cycle, pool, name, to, err);
            pool = u != NULL ? NULL : pool;
        } else {
            u->refs++;
        }
    }
    kars__pool_destroy(pool);
    return u;
}

void
kars__upstream_ref(kars_upstream_t *u)
{
    if (u->refs != 0) {
        u->refs++;
    }
}

void
kars__upstream_unref(kars_upstream_t *u)
{
    if (u == NULL || u->refs == 0 || --u->refs != 0) {
        return;
    }

    kars_upstream_t **at = &u->cycle->url_upstreams;

    while (*at != u) {
        at = &(*at)->next;
    }
    *at = u->next;
    kars__upstream_close(u);
    kars__pool_destroy(u->pool);
}
