/* sketch: forward-proxy - a listener of one's own, a peek, a spliced tunnel. */
#include "kars_module.h"

#include <errno.h>
#include <stdio.h>

typedef struct {
    kars_str_t listen;
    kars_str_t dns;
} fp_conf_t;

typedef struct {
    kars_hostport_t to;
} fp_tunnel_t; /* one per connection, in its pool */

/* The SNI of a ClientHello, in pool; DECLINED while bytes are missing. */
static int
fp_sni(kars_pool_t *pool, kars_str_t bytes, kars_str_t *ret)
{
    *ret = KARS_STR("example.org"); /* stands for the real parser */
    return bytes.len < 5 ? KARS_DECLINED : KARS_OK;
}

static int
fp_decided(kars_stream_t *s, const kars_verdict_t *verdict, void *data)
{
    const fp_tunnel_t *ft = data;
    kars_req_t *r = kars_stream_req(s);
    kars_err_t err = { .size = sizeof(err) };
    char url[300];

    if (verdict->decision != KARS_ALLOW) {
        return KARS_ERROR; /* closed; its record says why */
    }

    int n =
        snprintf(url, sizeof(url), "tcp://%.*s:443", KARS_STR_ARG(ft->to.host));
    kars_upstream_t *up = kars_upstream_from_url(
        kars_req_cycle(r), (kars_str_t){ url, (size_t) n }, &err);

    if (up == NULL) {
        kars_log(r, KARS_LOG_WARN, "proxy: %s", err.text);
        return KARS_ERROR;
    }

    /* Nothing was taken, so the ClientHello is the first thing it sends. */
    int rc = kars_stream_tunnel(s, up);

    kars_upstream_unref(up); /* the tunnel holds its own */
    return rc;
}

static int
fp_readable(kars_stream_t *s, kars_str_t bytes, void *data)
{
    fp_tunnel_t *ft = data;

    if (bytes.data[0] != 0x16) { /* CONNECT, or an absolute URL */
        return kars_stream_http(s, KARS_STR("127.0.0.1:8443"));
    }

    int rc = fp_sni(kars_stream_pool(s), bytes, &ft->to.host);

    if (rc != KARS_OK) { /* OK: nothing taken, called again with more */
        return rc == KARS_DECLINED ? KARS_OK : rc;
    }
    return kars_stream_decide(s, KARS_STR("CONNECT"), ft->to.host, fp_decided);
}

static int
fp_accept(kars_stream_t *s, const kars_peer_t *peer, void *data)
{
    fp_tunnel_t *ft = kars_pnew(kars_stream_pool(s), fp_tunnel_t);

    kars_stream_timeout(s, 300000);
    kars_stream_data_set(s, ft);
    return ft != NULL && peer->orig_family != 0 ? KARS_OK : KARS_ERROR;
}

static int
fp_datagram(kars_stream_t *s, const kars_peer_t *from, kars_str_t bytes,
            void *data)
{
    return kars_stream_reply(s, from, bytes);
}

/* clang-format off */
static const kars_stream_handler_t fp_tcp = {
    .size = sizeof(fp_tcp), .accept = fp_accept, .readable = fp_readable
};
static const kars_stream_handler_t fp_udp = {
    .size = sizeof(fp_udp), .datagram = fp_datagram
};
/* clang-format on */

/* The listeners belong to the plan that the master opens: check time. */
static int
fp_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    fp_conf_t *fc = conf;

    if (place->at != KARS_AT_MAIN) {
        return KARS_OK;
    }

    int rc = kars_listen(place->cycle, fc->listen, 0, &fp_tcp, fc, err);
    return rc != KARS_OK
               ? rc
               : kars_listen(place->cycle, fc->dns, 1, &fp_udp, fc, err);
}

/* clang-format off */
static const kars_directive_t fp_directives[] = {
    { .name = "proxy_listen", .at = KARS_AT_MAIN, .type = KARS_T_STR,
      .offset = offsetof(fp_conf_t, listen) },
    { .name = "proxy_dns", .at = KARS_AT_MAIN, .type = KARS_T_STR,
      .offset = offsetof(fp_conf_t, dns) },
    { 0 },
};
/* clang-format on */

KARS_MODULE(forward_proxy) = {
    KARS_MODULE_HEAD,
    .name = "forward-proxy",
    .version = "1.0.0",
    .conf_size = sizeof(fp_conf_t),
    .directives = fp_directives,
    .check = fp_check,
};
