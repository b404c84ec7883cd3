/* sketch: forward-proxy - a listener of one's own, a peek, a spliced tunnel. */
#include "kars_module.h"

#include <stdio.h>

typedef struct {
    kars_str_t listen;
    kars_str_t dns;
} fp_conf_t;

static const kars_egress_t *fp_egress;

/* The SNI of a ClientHello; DECLINED while bytes are missing. */
static int
fp_sni(kars_str_t bytes, kars_str_t *ret)
{
    if (bytes.len < 5) {
        return KARS_DECLINED;
    }

    *ret = KARS_STR("example.org"); /* stands for the real parser */
    return bytes.data[0] == 0x16 ? KARS_OK : KARS_ERROR;
}

static int
fp_readable(kars_stream_t *s, kars_str_t bytes, void *data)
{
    kars_hostport_t to = { .port = 443 };
    kars_verdict_t verdict = { .size = sizeof(verdict) };
    kars_req_t *r = kars_stream_req(s);
    kars_err_t err = { .size = sizeof(err) };
    int rc = fp_sni(bytes, &to.host);

    if (rc == KARS_DECLINED) {
        return KARS_OK; /* nothing taken: called again with more */
    }

    if (rc != KARS_OK || fp_egress->decide(r, to, &verdict) != KARS_OK ||
        verdict.decision != KARS_ALLOW) {
        return kars_reject(r, 403, KARS_STR("egress_denied"), verdict.reason);
    }

    char url[300];
    int n = snprintf(url, sizeof(url), "tcp://%.*s:443", KARS_STR_ARG(to.host));
    kars_upstream_t *up = kars_upstream_from_url(
        kars_req_cycle(r), (kars_str_t){ url, (size_t) n }, &err);

    if (up == NULL) {
        kars_log(r, KARS_LOG_WARN, "proxy: %s", err.text);
        return KARS_ERROR;
    }

    /* Nothing was taken, so the ClientHello is the first thing it sends. */
    rc = kars_stream_tunnel(s, up);
    kars_upstream_unref(up); /* the tunnel holds its own */
    return rc;
}

static int
fp_datagram(kars_stream_t *s, const kars_peer_t *from, kars_str_t bytes,
            void *data)
{
    return kars_stream_reply(s, from, bytes);
}

static const kars_stream_handler_t fp_tcp = { .size = sizeof(fp_tcp),
                                              .readable = fp_readable };
static const kars_stream_handler_t fp_udp = { .size = sizeof(fp_udp),
                                              .datagram = fp_datagram };

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

static const kars_directive_t fp_directives[] = {
    { .name = "proxy_listen", .at = KARS_AT_MAIN, .type = KARS_T_STR },
    { .name = "proxy_dns",
      .at = KARS_AT_MAIN,
      .type = KARS_T_STR,
      .offset = offsetof(fp_conf_t, dns) },
    { 0 },
};

static const kars_need_t fp_needs[] = {
    { "egress.decision/1", (const void **) &fp_egress, sizeof(size_t), 0 },
    { 0 },
};

KARS_MODULE(forward_proxy) = {
    KARS_MODULE_HEAD,
    .name = "forward-proxy",
    .version = "1.0.0",
    .conf_size = sizeof(fp_conf_t),
    .directives = fp_directives,
    .needs = fp_needs,
    .check = fp_check,
};
