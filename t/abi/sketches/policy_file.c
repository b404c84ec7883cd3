/* sketch: watched policy files - parsed, published whole, kept per request. */
#include "kars_module.h"

#include <errno.h>

typedef struct {
    kars_str_t path;
    kars_snapshot_t *hosts; /* filled by check */
} pf_conf_t;

/* Runs again whenever a file changes; an error keeps the value before. Here
 * each file of the folder is one host that is denied. */
static int
pf_parse(kars_pool_t *pool, const kars_file_t *files, size_t n, void *data,
         void **ret, kars_err_t *err)
{
    kars_list_t *deny = kars_pnew(pool, kars_list_t);

    if (deny == NULL || (deny->v = kars_pnewn(pool, kars_str_t, n)) == NULL) {
        return kars_err(err, ENOMEM, "the deny list");
    }

    for (size_t i = 0; i < n; i++) {
        char *copy = kars_palloc(pool, files[i].bytes.len);

        if (copy == NULL) {
            return kars_err(err, ENOMEM, "the deny list");
        }
        if (files[i].bytes.len == 0) {
            return kars_err(err, 0, "%.*s is empty",
                            KARS_STR_ARG(files[i].name));
        }
        memcpy(copy, files[i].bytes.data, files[i].bytes.len);
        deny->v[i] = (kars_str_t){ copy, files[i].bytes.len };
    }
    deny->n = n;
    *ret = deny;
    return KARS_OK;
}

static int
pf_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    pf_conf_t *pc = conf;
    kars_watch_t watch = { .size = sizeof(watch),
                           .path = pc->path,
                           .kind = KARS_STR("EgressAllowlist"),
                           .parse_all = pf_parse };

    return pc->path.len == 0
               ? KARS_OK
               : kars_watch(place->cycle, &watch, &pc->hosts, err);
}

static int
pf_admit(kars_req_t *r, const void *conf, void *ctx)
{
    const pf_conf_t *pc = conf;
    const kars_list_t *deny =
        pc->hosts == NULL ? NULL : kars_snapshot(r, pc->hosts);
    kars_str_t host = kars_header(r, KARS_REQUEST, KARS_STR("host"));

    if (deny == NULL) {
        return kars_reject(r, 503, KARS_STR("policy_unavailable"),
                           KARS_STR("no policy has been loaded yet"));
    }
    for (size_t i = 0; i < deny->n; i++) {
        if (kars_str_eq(host, deny->v[i])) {
            return kars_reject(r, 403, KARS_STR("policy_denied"),
                               KARS_STR("a policy file names this host"));
        }
    }
    return KARS_OK;
}

/* clang-format off */
static const kars_directive_t pf_directives[] = {
    { .name = "deny_folder", .at = KARS_AT_MAIN | KARS_AT_ROUTE,
      .type = KARS_T_PATH, .offset = offsetof(pf_conf_t, path) },
    { 0 },
};
static const kars_hook_t pf_hooks[] = {
    { .phase = KARS_PHASE_ADMIT, .run = pf_admit },
    { 0 },
};
static const kars_os_need_t pf_os[] = {
    { KARS_OS_READ, "deny_folder", "the deny list is read again on change" },
    { 0 },
};
/* clang-format on */

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
