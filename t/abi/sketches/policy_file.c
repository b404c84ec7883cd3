/* sketch: a watched policy file - parsed, published whole, kept per request. */
#include "kars_module.h"

typedef struct {
    kars_str_t path;
    kars_snapshot_t *hosts; /* filled by check */
} pf_conf_t;

typedef struct {
    kars_list_t deny;
} pf_hosts_t;

/* Runs again whenever the file changes; an error keeps the old snapshot. */
static int
pf_parse(kars_pool_t *pool, kars_str_t name, kars_str_t bytes, void **ret,
         kars_err_t *err)
{
    pf_hosts_t *ph = kars_pnew(pool, pf_hosts_t);

    if (ph == NULL) {
        return kars_err(err, 12, "parse \"%.*s\"", KARS_STR_ARG(name));
    }

    ph->deny.v = kars_pnewn(pool, kars_str_t, 1);
    if (ph->deny.v == NULL) {
        return kars_err(err, 12, "parse \"%.*s\"", KARS_STR_ARG(name));
    }

    char *copy = kars_palloc(pool, bytes.len + 1);
    if (copy == NULL) {
        return kars_err(err, 12, "parse \"%.*s\"", KARS_STR_ARG(name));
    }
    memcpy(copy, bytes.data, bytes.len);
    ph->deny.v[0] = (kars_str_t){ copy, bytes.len };
    ph->deny.n = 1;
    *ret = ph;
    return KARS_OK;
}

static int
pf_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    pf_conf_t *pc = conf;
    kars_watch_t watch = { .size = sizeof(watch),
                           .path = pc->path,
                           .kind = KARS_STR("EgressAllowlist"),
                           .parse = pf_parse };

    return pc->path.len == 0
               ? KARS_OK
               : kars_watch(place->cycle, &watch, &pc->hosts, err);
}

static int
pf_admit(kars_req_t *r, const void *conf, void *ctx)
{
    const pf_conf_t *pc = conf;
    const pf_hosts_t *ph =
        pc->hosts == NULL ? NULL : kars_snapshot(r, pc->hosts);
    kars_str_t host = kars_header(r, KARS_REQUEST, KARS_STR("host"));

    if (ph == NULL) {
        return kars_reject(r, 503, KARS_STR("policy_unavailable"),
                           KARS_STR("no policy has been loaded yet"));
    }

    for (size_t i = 0; i < ph->deny.n; i++) {
        if (kars_str_eq(host, ph->deny.v[i])) {
            return kars_reject(r, 403, KARS_STR("policy_denied"),
                               KARS_STR("the policy file names this host"));
        }
    }
    return KARS_OK;
}

static const kars_directive_t pf_directives[] = {
    { .name = "deny_file",
      .at = KARS_AT_MAIN | KARS_AT_ROUTE,
      .type = KARS_T_PATH,
      .offset = offsetof(pf_conf_t, path) },
    { 0 },
};
static const kars_hook_t pf_hooks[] = {
    { KARS_PHASE_ADMIT, pf_admit, 0, NULL },
    { 0 },
};
static const kars_os_need_t pf_os[] = {
    { KARS_OS_READ, "deny_file", "the deny list is read again on change" },
    { 0 },
};

KARS_MODULE(policy_file) = {
    KARS_MODULE_HEAD,
    .name = "policy-file",
    .version = "1.0.0",
    .conf_size = sizeof(pf_conf_t),
    .directives = pf_directives,
    .hooks = pf_hooks,
    .os_needs = pf_os,
    .check = pf_check,
};
