/* sketch: a2a-ingress - the peer by its certificate, the answer signed. */
#include "kars_module.h"

typedef struct {
    kars_list_t peers; /* URI names that may call */
    kars_upstream_t *agent;
} a2a_conf_t;

static const kars_jws_t *a2a_jws;

static int
a2a_access(kars_req_t *r, const void *conf, void *ctx)
{
    const a2a_conf_t *ac = conf;
    kars_peer_t peer = { .size = sizeof(peer) };

    if (kars_req_peer(r, &peer) != KARS_OK) {
        return KARS_ERROR;
    }

    for (size_t i = 0; i < peer.tls_peer_names.n * ac->peers.n; i++) {
        kars_str_t want = ac->peers.v[i % ac->peers.n];

        if (kars_str_eq(peer.tls_peer_names.v[i / ac->peers.n], want)) {
            return kars_grant(r, KARS_STR("peer"), want);
        }
    }
    return kars_reject(r, 403, KARS_STR("unknown_peer"),
                       KARS_STR("no name of the certificate may call"));
}

static int
a2a_reply(kars_req_t *r, const kars_reply_t *reply, const void *conf, void *ctx)
{
    kars_str_t jws;

    if (reply->error != 0) {
        return kars_reject(r, 502, KARS_STR("agent_unreachable"),
                           KARS_STR("the agent did not answer"));
    }
    if (a2a_jws->sign(kars_req_pool(r), reply->body, &jws) != KARS_OK) {
        return KARS_ERROR;
    }
    return kars_respond(r, reply->status, KARS_STR("application/jose"), jws);
}

static int
a2a_content(kars_req_t *r, const void *conf, void *ctx)
{
    const a2a_conf_t *ac = conf;
    kars_header_t who = { KARS_STR("x-caller"), kars_req_principal(r) };
    kars_call_t call = { .size = sizeof(call),
                         .upstream = ac->agent,
                         .method = KARS_STR("POST"),
                         .path = KARS_STR("/"),
                         .bytes = kars_req_body_flat(r),
                         .headers = &who,
                         .nheaders = 1,
                         .max_body = 4 << 20 };

    return kars_call(r, &call, a2a_reply);
}

/* clang-format off */
static const kars_directive_t a2a_directives[] = {
    { .name = "a2a_peers", .at = KARS_AT_ROUTE, .type = KARS_T_LIST,
      .offset = offsetof(a2a_conf_t, peers) },
    { .name = "a2a_agent", .at = KARS_AT_ROUTE, .type = KARS_T_UPSTREAM,
      .offset = offsetof(a2a_conf_t, agent) },
    { 0 },
};
static const kars_hook_t a2a_hooks[] = {
    { .phase = KARS_PHASE_ACCESS,  .run = a2a_access },
    { .phase = KARS_PHASE_CONTENT, .run = a2a_content,
      .flags = KARS_NEEDS_BODY },
    { 0 },
};
static const kars_need_t a2a_needs[] = {
    { "jws/1", (const void **) &a2a_jws, sizeof(kars_jws_t), 0 },
    { 0 },
};
/* clang-format on */

KARS_MODULE(a2a_ingress) = {
    KARS_MODULE_HEAD,
    .name = "a2a-ingress",
    .version = "1.0.0",
    .conf_size = sizeof(a2a_conf_t),
    .directives = a2a_directives,
    .hooks = a2a_hooks,
    .needs = a2a_needs,
};
