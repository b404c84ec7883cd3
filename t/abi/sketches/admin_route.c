/* sketch: an admin route - `listen unix:… class=operator`, a state to set. */
#include "kars_module.h"

typedef struct {
    int32_t on;
} admin_conf_t;

typedef struct {
    char model[256];
    uint32_t len;
} admin_state_t; /* in the zone: what one worker sets, all obey */

typedef struct {
    char model[256];
    uint32_t len;
    uint32_t bad;
} admin_ctx_t;

static const kars_audit_sink_t *admin_audit;
static kars_area_t *admin_area;

static int
admin_model(kars_req_t *r, kars_str_t text, uint32_t index, uint32_t flags,
            const void *conf, void *ctx)
{
    admin_ctx_t *ax = ctx;

    if ((flags & KARS_FIRST) != 0) {
        ax->len = 0;
        ax->bad = (flags & KARS_JSON_STRING) == 0;
    }

    if (ax->bad || text.len > sizeof(ax->model) - ax->len) {
        ax->bad = 1;
        return KARS_OK;
    }

    if (text.len > 0) {
        memcpy(ax->model + ax->len, text.data, text.len);
        ax->len += (uint32_t) text.len;
    }
    return KARS_OK;
}

static int
admin_content(kars_req_t *r, const void *conf, void *ctx)
{
    const admin_ctx_t *ax = ctx;
    admin_state_t *st = kars_area_data(admin_area);

    if (ax->bad || ax->len == 0) {
        return kars_reject(r, 400, KARS_STR("invalid_request"),
                           KARS_STR("body must contain {\"model\": NAME}"));
    }

    (void) kars_area_lock(admin_area);
    memcpy(st->model, ax->model, ax->len);
    st->len = ax->len;
    kars_area_unlock(admin_area);

    if (admin_audit != NULL) {
        (void) admin_audit->emit(kars_req_cycle(r), r, kars_req_principal(r),
                                 KARS_STR("admin:model"), KARS_STR("success"));
    }
    return kars_respond(r, 200, KARS_STR("application/json"),
                        KARS_STR("{\"ok\":true}"));
}

static int
admin_worker(kars_cycle_t *cycle, kars_err_t *err)
{
    admin_area = kars_area(cycle, KARS_STR("admin.model"),
                           sizeof(admin_state_t), 1, err);
    return admin_area != NULL ? KARS_OK : KARS_ERROR;
}

static const kars_directive_t admin_directives[] = {
    { .name = "admin_model", .at = KARS_AT_ROUTE, .type = KARS_T_FLAG },
    { 0 },
};
static const kars_hook_t admin_hooks[] = {
    { KARS_PHASE_CONTENT, admin_content, KARS_NEEDS_BODY, NULL },
    { 0 },
};
static const kars_json_watch_t admin_json[] = {
    { KARS_REQUEST, "model", admin_model },
    { 0 },
};
static const kars_need_t admin_needs[] = {
    { "audit.sink/1", (const void **) &admin_audit, sizeof(kars_audit_sink_t),
      1 },
    { 0 },
};

KARS_MODULE(admin_route) = {
    KARS_MODULE_HEAD,
    .name = "admin-route",
    .version = "1.0.0",
    .conf_size = sizeof(admin_conf_t),
    .ctx_size = sizeof(admin_ctx_t),
    .directives = admin_directives,
    .hooks = admin_hooks,
    .json = admin_json,
    .needs = admin_needs,
    .worker_start = admin_worker,
};
