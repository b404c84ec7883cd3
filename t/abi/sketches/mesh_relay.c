/* sketch: mesh-relay - frames between peers, a store for those offline. */
#include "kars_module.h"

typedef struct {
    uint32_t nheld;
    unsigned char text[60][1024];
} relay_store_t; /* in the zone: every worker sees it, reloads keep it */

static kars_area_t *relay_area;
static kars_ws_t *relay_local; /* stands for a table: peer to socket */

static int
relay_store(kars_req_t *r, kars_str_t frame)
{
    relay_store_t *st = kars_area_data(relay_area);
    int rc = kars_area_lock(relay_area);

    if (rc == KARS_DONE) {
        st->nheld = 0; /* its holder died inside */
    }

    if (st->nheld == 60 || frame.len > sizeof(st->text[0])) {
        rc = KARS_ERROR;
    } else {
        memcpy(st->text[st->nheld++], frame.data, frame.len);
        rc = KARS_OK;
    }
    kars_area_unlock(relay_area);
    return rc;
}

static int
relay_frame(kars_ws_t *ws, uint32_t opcode, kars_str_t payload, uint32_t flags,
            void *data)
{
    kars_req_t *r = data;
    int rc = kars_owner_send(kars_req_cycle(r), KARS_STR("peer"), payload);

    return rc == KARS_OK ? rc : relay_store(r, payload);
}

static void
relay_closed(kars_ws_t *ws, int error, void *data)
{
    relay_local = NULL;
}

static const kars_ws_handler_t relay_ws = { .size = sizeof(relay_ws),
                                            .frame = relay_frame,
                                            .closed = relay_closed };

static int
relay_content(kars_req_t *r, const void *conf, void *ctx)
{
    kars_str_t me = kars_req_principal(r);

    if (kars_owner_claim(kars_req_cycle(r), me, 30000) != KARS_OK) {
        return kars_reject(r, 409, KARS_STR("already_connected"),
                           KARS_STR("this peer is connected elsewhere"));
    }

    relay_local = kars_ws_accept(r, &relay_ws, r);
    return relay_local != NULL ? KARS_AGAIN : KARS_ERROR;
}

static int
relay_receive(kars_cycle_t *cycle, kars_str_t key, kars_str_t message,
              void *data)
{
    if (relay_local == NULL) {
        return KARS_DECLINED;
    }
    return kars_ws_write(relay_local, 2, message);
}

/* A policy was published: is this peer still welcome? */
static int
relay_recheck(kars_req_t *r, const void *conf, void *ctx)
{
    return KARS_OK;
}

static int
relay_worker(kars_cycle_t *cycle, kars_err_t *err)
{
    relay_area = kars_area(cycle, KARS_STR("mesh-relay.offline"),
                           sizeof(relay_store_t), 1, err);
    return relay_area == NULL ? KARS_ERROR
                              : kars_owner_receive(cycle, relay_receive, NULL);
}

static const kars_directive_t relay_directives[] = {
    { .name = "relay", .at = KARS_AT_ROUTE, .type = KARS_T_FLAG },
    { 0 },
};
static const kars_hook_t relay_hooks[] = {
    { KARS_PHASE_CONTENT, relay_content, 0, NULL },
    { 0 },
};

KARS_MODULE(mesh_relay) = {
    KARS_MODULE_HEAD,
    .name = "mesh-relay",
    .version = "1.0.0",
    .conf_size = sizeof(int32_t),
    .directives = relay_directives,
    .hooks = relay_hooks,
    .worker_start = relay_worker,
    .recheck = relay_recheck,
};
