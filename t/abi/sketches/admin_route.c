/* sketch: an admin route - `listen unix:… class=operator`, a state to set. */
#include "kars_module.h"

typedef struct {
    int32_t on;
} admin_conf_t;

static kars_map_t *admin_state; /* what one worker sets, all obey */
static const kars_audit_sink_t *admin_audit;

/* The body is the model's name, as text. */
static int
admin_content(kars_req_t *r, const void *conf, void *ctx)
{
    kars_str_t model = kars_req_body_flat(r);

    if (model.len == 0 || model.len > 256) {
        return kars_reject(r, 400, KARS_STR("invalid_request"),
                           KARS_STR("the body must be the name of a model"));
    }
    if (kars_map_put(admin_state, KARS_STR("model"), model, 0, 0) != KARS_OK) {
        return KARS_ERROR;
    }
    if (admin_audit != NULL) {
        (void) admin_audit->emit(kars_req_cycle(r), r, kars_req_principal(r),
                                 KARS_STR("admin:model"), KARS_STR("success"));
    }
    return kars_respond(r, 200, KARS_STR("application/json"),
                        KARS_STR("{\"ok\":true}"));
}

/* On a listener of the agent this route would be a mistake: -t says so. */
static int
admin_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    const admin_conf_t *ac = conf;

    for (size_t i = 0; ac->on && i < place->listen_classes.n; i++) {
        if (kars_str_eq(place->listen_classes.v[i], KARS_STR("agent"))) {
            return kars_check_err(place, &ac->on, err,
                                  "a listener of class=agent leads here");
        }
    }
    return KARS_OK;
}

static int
admin_worker(kars_cycle_t *cycle, kars_err_t *err)
{
    kars_map_def_t def = { .size = sizeof(def),
                           .name = KARS_STR("admin-route.state"),
                           .version = 1,
                           .max_entries = 16,
                           .max_key = 16,
                           .max_value = 256 };

    admin_state = kars_map(cycle, &def, err);
    return admin_state != NULL ? KARS_OK : KARS_ERROR;
}

/* clang-format off */
static const kars_directive_t admin_directives[] = {
    { .name = "admin_model", .at = KARS_AT_ROUTE, .type = KARS_T_FLAG,
      .offset = offsetof(admin_conf_t, on) },
    { 0 },
};
static const kars_hook_t admin_hooks[] = {
    { .phase = KARS_PHASE_CONTENT, .run = admin_content,
      .flags = KARS_NEEDS_BODY },
    { 0 },
};
static const kars_need_t admin_needs[] = {
    { "audit.sink/1", (const void **) &admin_audit, sizeof(kars_audit_sink_t),
      1 },
    { 0 },
};
/* clang-format on */

KARS_MODULE(admin_route) = {
    KARS_MODULE_HEAD,
    .name = "admin-route",
    .version = "1.0.0",
    .conf_size = sizeof(admin_conf_t),
    .directives = admin_directives,
    .hooks = admin_hooks,
    .needs = admin_needs,
    .check = admin_check,
    .worker_start = admin_worker,
};
