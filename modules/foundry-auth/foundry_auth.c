/*
 * foundry_auth.c - credentials of upstreams: the agent's never leave, ours
 * goes only to the servers that it is bound to.
 *
 * Two jobs. On every route (KARS_ALWAYS) what the agent sent as a credential
 * is removed from what goes upstream. Where a `credential` stands, each attempt
 * at an upstream gets the key, if its server is one of the key's own. Owns
 * nothing: the key stays in the router's guarded memory until an attempt.
 */
#include "kars_module.h"
#include "text.h"

#include <errno.h>

enum { FAUTH_AUTHORIZATION = 0, FAUTH_API_KEY, FAUTH_X_API_KEY };

typedef struct {
    int32_t kind;
    int32_t header; /* FAUTH_* */
    const kars_secret_t *secret;
    kars_str_t hosts;
} fauth_conf_t;

/* clang-format off */
static const kars_directive_t fauth_directives[] = {
    { .name = "credential",
      .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_ENUM, .offset = offsetof(fauth_conf_t, kind),
      .values = "api_key",
      .doc = "how the upstream knows us: api_key sends a key" },
    { .name = "credential",
      .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_SECRET, .offset = offsetof(fauth_conf_t, secret),
      .doc = "the key: file:PATH or env:NAME" },
    { .name = "credential", .key = "host",
      .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_STR, .flags = KARS_D_REQUIRED,
      .offset = offsetof(fauth_conf_t, hosts),
      .doc = "the only servers that may see it: host:port,host:port" },
    { .name = "credential", .key = "header",
      .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_ENUM, .offset = offsetof(fauth_conf_t, header),
      .dflt = "authorization", .values = "authorization api-key x-api-key",
      .doc = "the header it is sent in; authorization: as a Bearer" },
    { 0 },
};
/* clang-format on */

static int
fauth_drop(kars_str_t name, kars_str_t value, void *data)
{
    return fauth_is_credential(name) ? KARS_DECLINED : KARS_OK;
}

/* REWRITE, on every route: whoever needed the agent's credentials to know it
 * did so in ACCESS; nobody after this hook sees them. */
static int
fauth_strip(kars_req_t *r, const void *conf, void *ctx)
{
    return kars_header_each(r, KARS_REQUEST, fauth_drop, NULL);
}

static int
fauth_refuse(kars_req_t *r, kars_str_t code, kars_str_t reason,
             const void *rule)
{
    kars_denial_t no = { .size = sizeof(no),
                         .status = 502,
                         .code = code,
                         .type = KARS_STR("auth_error"),
                         .reason = reason,
                         .rule = rule };

    return kars_deny(r, &no);
}

static int
fauth_send(kars_req_t *r, const fauth_conf_t *fc, kars_str_t key)
{
    static const char bearer[] = "Bearer ";
    size_t n = sizeof(bearer) - 1;

    if (fc->header != FAUTH_AUTHORIZATION) {
        return kars_header_set(r, KARS_REQUEST,
                               fc->header == FAUTH_API_KEY
                                   ? KARS_STR("api-key")
                                   : KARS_STR("x-api-key"),
                               key);
    }

    char *p = kars_palloc(kars_req_pool(r), n + key.len);

    if (p == NULL) {
        return KARS_ERROR;
    }

    memcpy(p, bearer, n);
    memcpy(p + n, key.data, key.len);
    return kars_header_set(r, KARS_REQUEST, KARS_STR("authorization"),
                           (kars_str_t){ p, n + key.len });
}

/* UPSTREAM, once per attempt: the server is known now, and may be another than
 * last time. Strips again, so that no key of an attempt before stays. */
static int
fauth_upstream(kars_req_t *r, const void *conf, void *ctx)
{
    const fauth_conf_t *fc = conf;
    kars_str_t host = kars_req_var(r, KARS_STR("upstream_host"));
    int64_t port = kars_req_number(r, KARS_STR("upstream_port"));

    if (fauth_strip(r, conf, ctx) != KARS_OK) {
        return KARS_ERROR;
    }

    if (fc->secret == NULL) {
        return KARS_OK; /* no credential here: it goes without one */
    }

    if (!fauth_bound(fc->hosts, host, port)) {
        kars_log(r, KARS_LOG_ERR,
                 "foundry-auth: credential kept back host=%.*s port=%lld",
                 KARS_STR_ARG(host), (long long) port);
        return fauth_refuse(r, KARS_STR("credential_host_mismatch"),
                            KARS_STR("the credential of this route is not "
                                     "bound to the server it goes to"),
                            &fc->hosts);
    }

    kars_str_t key = fauth_key(kars_secret(fc->secret));

    if (fauth_key_fault(key) != NULL) {
        kars_log(r, KARS_LOG_ERR, "foundry-auth: the key %s",
                 fauth_key_fault(key));
        return fauth_refuse(r, KARS_STR("credential_unavailable"),
                            KARS_STR("the credential of this route cannot "
                                     "be used"),
                            &fc->secret);
    }

    return fauth_send(r, fc, key);
}

/* Every word is a host and a port, and the route's upstream has one of them. */
static int
fauth_check_hosts(const kars_place_t *place, const fauth_conf_t *fc,
                  kars_err_t *err)
{
    kars_str_t rest = fc->hosts;
    kars_hostport_t at;
    int served = 0;
    int rc = fauth_next_host(&rest, &at);

    for (; rc == KARS_OK; rc = fauth_next_host(&rest, &at)) {
        served |= place->route_upstream != NULL &&
                  kars_upstream_serves(place->route_upstream, at);
    }

    if (rc == KARS_ERROR || fc->hosts.len == 0) {
        return kars_err(err, EINVAL,
                        "credential host=%.*s: want host:port, more of them "
                        "after commas",
                        KARS_STR_ARG(fc->hosts));
    }

    if (place->route_upstream != NULL && !served) {
        kars_str_t name = kars_upstream_name(place->route_upstream);

        return kars_err(err, EINVAL,
                        "route %.*s: upstream %.*s has no server of "
                        "credential host=%.*s",
                        KARS_STR_ARG(place->route_path), KARS_STR_ARG(name),
                        KARS_STR_ARG(fc->hosts));
    }
    return KARS_OK;
}

static int
fauth_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    const fauth_conf_t *fc = conf;

    if (fc->secret == NULL) {
        return KARS_OK;
    }

    const char *fault = fauth_key_fault(fauth_key(kars_secret(fc->secret)));

    if (fault != NULL) {
        return kars_err(err, EINVAL, "credential: the key %s", fault);
    }

    return fauth_check_hosts(place, fc, err);
}

static const kars_hook_t fauth_hooks[] = {
    { .phase = KARS_PHASE_REWRITE, .run = fauth_strip },
    { .phase = KARS_PHASE_UPSTREAM, .run = fauth_upstream },
    { 0 },
};

KARS_MODULE(foundry_auth) = {
    KARS_MODULE_HEAD,
    .name = "foundry-auth",
    .version = "1.0.0",
    .flags = KARS_ALWAYS,
    .conf_size = sizeof(fauth_conf_t),
    .directives = fauth_directives,
    .hooks = fauth_hooks,
    .check = fauth_check,
};
