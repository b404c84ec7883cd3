/* sketch: mcp-gateway - one held answer, fed by many upstream streams. */
#include "kars_module.h"

enum { MCP_MAX_SERVERS = 8 };

typedef struct {
    kars_upstream_t *server;
} mcp_conf_t;

typedef struct {
    kars_req_t *r;
    kars_exchange_t *x[MCP_MAX_SERVERS];
    uint32_t nopen;
} mcp_ctx_t;

/* A slow client stops the reads from every server, and its room starts them. */
static int
mcp_room(kars_req_t *r, int error, const void *conf, void *ctx)
{
    mcp_ctx_t *mc = ctx;

    for (uint32_t i = 0; i < MCP_MAX_SERVERS; i++) {
        if (mc->x[i] != NULL) {
            kars_exchange_pause(mc->x[i], 0);
        }
    }
    return KARS_AGAIN;
}

/* A server's event, which may be a request of its own, goes to the client. */
static int
mcp_event(kars_exchange_t *x, const kars_event_t *ev, void *data)
{
    mcp_ctx_t *mc = data;

    if (kars_answer_write(mc->r, KARS_STR("data: "), 0) != KARS_OK ||
        kars_answer_write(mc->r, kars_event_data(ev), 0) != KARS_OK ||
        kars_answer_write(mc->r, KARS_STR("\n\n"), KARS_FLUSH) != KARS_OK) {
        return KARS_ERROR;
    }

    if (kars_answer_room(mc->r, mcp_room) == KARS_AGAIN) {
        kars_exchange_pause(x, 1);
    }
    return KARS_OK;
}

static void
mcp_done(kars_exchange_t *x, int error, void *data)
{
    mcp_ctx_t *mc = data;

    for (uint32_t i = 0; i < MCP_MAX_SERVERS; i++) {
        mc->x[i] = mc->x[i] == x ? NULL : mc->x[i];
    }

    if (--mc->nopen == 0) {
        (void) kars_answer_end(mc->r);
    }
}

static const kars_exchange_handler_t mcp_handler = {
    .size = sizeof(mcp_handler), .event = mcp_event, .done = mcp_done
};

/* GET: the client's stream. POST: its answer, for whoever owns the session. */
static int
mcp_content(kars_req_t *r, const void *conf, void *ctx)
{
    const mcp_conf_t *cc = conf;
    mcp_ctx_t *mc = ctx;
    kars_str_t session =
        kars_header(r, KARS_REQUEST, KARS_STR("mcp-session-id"));
    kars_call_t call = { .size = sizeof(call),
                         .upstream = cc->server,
                         .method = KARS_STR("GET"),
                         .path = KARS_STR("/mcp") };

    if (kars_str_eq(kars_req_method(r), KARS_STR("POST"))) {
        kars_str_t first = kars_buf_str(kars_req_body(r));
        int rc = kars_owner_send(kars_req_cycle(r), session, first);

        return kars_respond(r, rc == KARS_OK ? 202 : 404, KARS_STR(""),
                            KARS_STR(""));
    }

    mc->r = r;
    mc->x[0] = kars_exchange(kars_req_cycle(r), &call, &mcp_handler, mc);
    mc->nopen = 1;
    return mc->x[0] != NULL && kars_owner_claim(kars_req_cycle(r), session,
                                                30000) == KARS_OK
               ? kars_answer_start(r, 200, KARS_STR("text/event-stream"))
               : KARS_ERROR;
}

/* The client left: nobody may write into this request any more. */
static int
mcp_log(kars_req_t *r, const void *conf, void *ctx)
{
    mcp_ctx_t *mc = ctx;

    for (uint32_t i = 0; i < MCP_MAX_SERVERS; i++) {
        if (mc->x[i] != NULL) {
            kars_exchange_cancel(mc->x[i]);
        }
    }
    return KARS_OK;
}

/* A message for a session of this worker, from whichever worker got it. */
static int
mcp_receive(kars_cycle_t *cycle, kars_str_t key, kars_str_t message, void *data)
{
    return KARS_OK;
}

static int
mcp_worker(kars_cycle_t *cycle, kars_err_t *err)
{
    return kars_owner_receive(cycle, mcp_receive, NULL);
}

static const kars_directive_t mcp_directives[] = {
    { .name = "mcp_server", .at = KARS_AT_ROUTE, .type = KARS_T_UPSTREAM },
    { 0 },
};
static const kars_hook_t mcp_hooks[] = {
    { KARS_PHASE_CONTENT, mcp_content, KARS_NEEDS_BODY, NULL },
    { KARS_PHASE_LOG, mcp_log, 0, NULL },
    { 0 },
};

KARS_MODULE(mcp_gateway) = {
    KARS_MODULE_HEAD,
    .name = "mcp-gateway",
    .version = "1.0.0",
    .conf_size = sizeof(mcp_conf_t),
    .ctx_size = sizeof(mcp_ctx_t),
    .directives = mcp_directives,
    .hooks = mcp_hooks,
    .worker_start = mcp_worker,
};
