/* sketch: a2a-ingress - the peer by its certificate, the answer signed. */
#include "kars_module.h"

typedef struct {
    kars_list_t peers; /* URI names that may call */
    kars_upstream_t *agent;
} a2a_conf_t;

static const kars_signing_t *a2a_signing;

static int
a2a_access(kars_req_t *r, const void *conf, void *ctx)
{
    const a2a_conf_t *ac = conf;
    kars_peer_t peer = { .size = sizeof(peer) };

    if (kars_req_peer(r, &peer) != KARS_OK) {
        return KARS_ERROR;
    }

    for (size_t i = 0; i < peer.tls_peer_names.n; i++) {
        for (size_t k = 0; k < ac->peers.n; k++) {
            if (kars_str_eq(peer.tls_peer_names.v[i], ac->peers.v[k])) {
                return kars_grant(r, KARS_STR("peer"), ac->peers.v[k]);
            }
        }
    }

    kars_denial_t no = { .size = sizeof(no),
                         .status = 403,
                         .code = KARS_STR("unknown_peer"),
                         .reason = KARS_STR("no name of the certificate may"),
                         .rule = &ac->peers };
    return kars_deny(r, &no);
}

static void
a2a_hex(const unsigned char sig[64], char out[128])
{
    for (size_t i = 0; i < 64; i++) {
        out[2 * i] = "0123456789abcdef"[sig[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[sig[i] & 15];
    }
}

static int
a2a_reply(kars_req_t *r, const kars_reply_t *reply, const void *conf, void *ctx)
{
    unsigned char sig[64];
    char hex[128];

    if (reply->error != 0) {
        return kars_reject(r, 502, KARS_STR("agent_unreachable"),
                           KARS_STR("the agent did not answer"));
    }

    if (a2a_signing->sign(reply->body, sig) != KARS_OK) {
        return KARS_ERROR;
    }

    a2a_hex(sig, hex);
    (void) kars_header_set(r, KARS_RESPONSE, KARS_STR("x-a2a-signature"),
                           (kars_str_t){ hex, sizeof(hex) });
    return kars_respond(r, reply->status, reply->content_type, reply->body);
}

static int
a2a_content(kars_req_t *r, const void *conf, void *ctx)
{
    const a2a_conf_t *ac = conf;
    kars_header_t who = { KARS_STR("x-kars-peer"), kars_req_principal(r) };
    kars_call_t call = { .size = sizeof(call),
                         .upstream = ac->agent,
                         .method = KARS_STR("POST"),
                         .path = KARS_STR("/"),
                         .body = kars_req_body(r),
                         .headers = &who,
                         .nheaders = 1,
                         .max_body = 4 << 20 };

    return kars_call(r, &call, a2a_reply);
}

static const kars_directive_t a2a_directives[] = {
    { .name = "a2a_peers", .at = KARS_AT_ROUTE, .type = KARS_T_LIST },
    { .name = "a2a_agent",
      .at = KARS_AT_ROUTE,
      .type = KARS_T_UPSTREAM,
      .offset = offsetof(a2a_conf_t, agent) },
    { 0 },
};
static const kars_hook_t a2a_hooks[] = {
    { KARS_PHASE_ACCESS, a2a_access, 0, NULL },
    { KARS_PHASE_CONTENT, a2a_content, KARS_NEEDS_BODY, NULL },
    { 0 },
};
static const kars_need_t a2a_needs[] = {
    { "signing/1", (const void **) &a2a_signing, sizeof(kars_signing_t), 0 },
    { 0 },
};

KARS_MODULE(a2a_ingress) = {
    KARS_MODULE_HEAD,
    .name = "a2a-ingress",
    .version = "1.0.0",
    .conf_size = sizeof(a2a_conf_t),
    .directives = a2a_directives,
    .hooks = a2a_hooks,
    .needs = a2a_needs,
};
