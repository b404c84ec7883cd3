/* sketch: mesh-relay - frames between peers, a store for those offline. */
#include "kars_module.h"

enum { RELAY_KEPT_MS = 3600 * 1000 };

static kars_map_t *relay_offline; /* the last frame for each absent peer */
static kars_ws_t *relay_local;    /* stands for a table: peer to socket */

/* Every frame is for "bob"; where he is decides which way it takes. */
static int
relay_frame(kars_ws_t *ws, uint32_t opcode, kars_str_t payload, uint32_t flags,
            void *data)
{
    kars_str_t to = KARS_STR("bob");
    int rc = kars_owner_send(kars_req_cycle(data), to, payload);

    return rc == KARS_OK
               ? rc
               : kars_map_put(relay_offline, to, payload, RELAY_KEPT_MS, 0);
}

static void
relay_closed(kars_ws_t *ws, int error, void *data)
{
    kars_req_t *r = data; /* still there: it ends after this */

    relay_local = NULL;
    kars_owner_release(kars_req_cycle(r), kars_req_principal(r));
}

static const kars_ws_handler_t relay_ws = { .size = sizeof(relay_ws),
                                            .frame = relay_frame,
                                            .closed = relay_closed,
                                            .max_message = 64 << 10,
                                            .ping_ms = 30000,
                                            .pong_ms = 10000 };

static int
relay_content(kars_req_t *r, const void *conf, void *ctx)
{
    kars_str_t me = kars_req_principal(r), kept;

    if (kars_owner_claim(kars_req_cycle(r), me, 30000) != KARS_OK) {
        return kars_reject(r, 409, KARS_STR("already_connected"),
                           KARS_STR("this peer is connected elsewhere"));
    }

    relay_local = kars_ws_accept(r, &relay_ws, r);
    if (relay_local == NULL) {
        return KARS_DONE; /* the answer says why */
    }
    if (kars_map_get(relay_offline, me, kars_req_pool(r), &kept) == KARS_OK) {
        (void) kars_map_delete(relay_offline, me);
        (void) kars_ws_write(relay_local, 2, kept);
    }
    return KARS_AGAIN; /* until it closes */
}

static int
relay_receive(kars_cycle_t *cycle, kars_str_t key, kars_str_t message,
              kars_token_t call, void *data)
{
    return relay_local != NULL ? kars_ws_write(relay_local, 2, message)
                               : KARS_DECLINED;
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
    kars_map_def_t def = { .size = sizeof(def),
                           .name = KARS_STR("mesh-relay.offline"),
                           .version = 1,
                           .max_entries = 1000,
                           .max_key = 128,
                           .max_value = 64 << 10 };

    relay_offline = kars_map(cycle, &def, err);
    return relay_offline == NULL ? KARS_ERROR
                                 : kars_owner_serve(cycle, relay_receive, NULL);
}

/* clang-format off */
static const kars_directive_t relay_directives[] = {
    { .name = "relay", .at = KARS_AT_ROUTE, .type = KARS_T_FLAG },
    { 0 },
};
static const kars_hook_t relay_hooks[] = {
    { .phase = KARS_PHASE_CONTENT, .run = relay_content },
    { 0 },
};
/* clang-format on */

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
