/* pass_headers.c - which fields of a request go upstream, and which of a reply
 * come back. */
#include "base/str.h"
#include "http/request.h"

/* Headers that are the connection's, or ours to write (RFC 9110 7.6.1). */
static int
pass_hop(kars_str_t name)
{
    static const kars_str_t hop[] = {
        KARS_STR("connection"),
        KARS_STR("keep-alive"),
        KARS_STR("proxy-connection"),
        KARS_STR("transfer-encoding"),
        KARS_STR("te"),
        KARS_STR("trailer"),
        KARS_STR("upgrade"),
        KARS_STR("expect"),
        KARS_STR("content-length"),
        KARS_STR("proxy-authenticate"),
        KARS_STR("proxy-authorization"),
    };

    for (size_t i = 0; i < KARS_NELTS(hop); i++) {
        if (kars__str_ieq(name, hop[i])) {
            return 1;
        }
    }
    return 0;
}

/* What never goes upstream: hop-by-hop fields, those that Connection names,
 * the caller's credential, and our own header family but the trace id. */
void
kars__pass_clean_request(kars_req_t *r)
{
    kars_str_t named = kars__headers_get(&r->in, KARS_STR("connection"));
    size_t o = 0;

    for (size_t i = 0; i < r->in.n; i++) {
        kars_str_t name = r->in.v[i].name;

        if (pass_hop(name) || kars__str_ieq(name, KARS_STR("host")) ||
            kars__str_ieq(name, KARS_STR("authorization")) ||
            kars__str_istarts(name, KARS_STR("x-kars-")) ||
            kars__str_istarts(name, KARS_STR("x-azureclaw-")) ||
            (named.len != 0 && kars__str_has_token(named, name))) {
            continue;
        }
        r->in.v[o++] = r->in.v[i];
    }
    r->in.n = o;
}

int
kars__pass_copy_headers(kars_req_t *r, const kars__head_t *head)
{
    kars_str_t named =
        kars__head_get(head->headers, head->nheaders, KARS_STR("connection"));
    int is_head = kars_str_eq(r->head.method, KARS_STR("HEAD"));

    for (size_t i = 0; i < head->nheaders; i++) {
        kars_str_t name = head->headers[i].name;

        /* x-kars-*: an upstream must not speak in the router's name */
        if ((pass_hop(name) &&
             !(is_head && kars__str_ieq(name, KARS_STR("content-length")))) ||
            kars__str_istarts(name, KARS_STR("x-kars-")) ||
            (named.len != 0 && kars__str_has_token(named, name))) {
            continue;
        }
        if (kars__headers_add(r->pool, &r->out, name, head->headers[i].value) !=
            KARS_OK) {
            return KARS_ERROR;
        }
    }
    return KARS_OK;
}
