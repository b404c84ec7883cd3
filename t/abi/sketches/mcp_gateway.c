/* sketch: mcp-gateway - one held answer, fed by an upstream's stream; the
 * session belongs to one worker, whoever of them gets the client's POST. */
#include "kars_module.h"

typedef struct {
    kars_upstream_t *server;
} mcp_conf_t;

typedef struct {
    kars_req_t *r;
    kars_exchange_t *x; /* a table of them, one per server */
    kars_str_t session;
} mcp_ctx_t;

/* A server's event goes to the client; a slow client stops the reads. */
static int
mcp_event(kars_exchange_t *x, const kars_event_t *ev, void *data)
{
    mcp_ctx_t *mc = data;
    kars_str_t parts[] = { KARS_STR("data: "), kars_event_data(ev),
                           KARS_STR("\n\n") };
    int rc = KARS_OK;

    for (size_t i = 0; i < KARS_NELTS(parts) && rc != KARS_ERROR; i++) {
        rc = kars_answer_write(mc->r, parts[i], i == 2 ? KARS_FLUSH : 0);
    }
    if (rc == KARS_AGAIN) { /* taken; mcp_room goes on */
        kars_exchange_pause(x, 1);
    }
    return rc == KARS_ERROR ? rc : KARS_OK;
}

static void
mcp_done(kars_exchange_t *x, int error, void *data)
{
    mcp_ctx_t *mc = data;

    if (mc->x != NULL) { /* NULL: mcp_gone ended it */
        mc->x = NULL;
        kars_owner_release(kars_req_cycle(mc->r), mc->session);
        (void) kars_answer_end(mc->r, error);
    }
}

static void
mcp_room(kars_req_t *r, void *data)
{
    kars_exchange_pause(((mcp_ctx_t *) data)->x, 0);
}

static void
mcp_gone(kars_req_t *r, void *data)
{
    mcp_ctx_t *mc = data;
    kars_exchange_t *x = mc->x;

    mc->x = NULL;
    kars_owner_release(kars_req_cycle(r), mc->session);
    if (x != NULL) {
        kars_exchange_cancel(x);
    }
}

/* clang-format off */
static const kars_exchange_handler_t mcp_handler = {
    .size = sizeof(mcp_handler), .event = mcp_event, .done = mcp_done
};
/* clang-format on */

/* POST: the client's answer to the server, for whoever owns the session. */
static int
mcp_post(kars_req_t *r, kars_str_t session)
{
    int rc = kars_owner_send(kars_req_cycle(r), session, kars_req_body_flat(r));

    return kars_respond(r, rc == KARS_OK ? 202 : 404, KARS_STR(""),
                        KARS_STR(""));
}

static int
mcp_content(kars_req_t *r, const void *conf, void *ctx)
{
    const mcp_conf_t *cc = conf;
    mcp_ctx_t *mc = ctx;
    kars_answer_t answer = { .size = sizeof(answer),
                             .status = 200,
                             .flags = KARS_OPEN_ENDED,
                             .content_type = KARS_STR("text/event-stream"),
                             .room = mcp_room,
                             .gone = mcp_gone,
                             .data = mc };
    kars_call_t call = { .size = sizeof(call),
                         .upstream = cc->server,
                         .method = KARS_STR("GET"),
                         .path = KARS_STR("/mcp"),
                         .idle_ms = 600000 };

    mc->r = r;
    mc->session = kars_header(r, KARS_REQUEST, KARS_STR("mcp-session-id"));
    if (kars_str_eq(kars_req_method(r), KARS_STR("POST"))) {
        return mcp_post(r, mc->session);
    }
    if (kars_owner_claim(kars_req_cycle(r), mc->session, 30000) != KARS_OK) {
        return kars_reject(r, 409, KARS_STR("session_in_use"),
                           KARS_STR("this session has a stream already"));
    }
    if (kars_answer_begin(r, &answer) != KARS_AGAIN) {
        return KARS_ERROR;
    }
    mc->x = kars_exchange(kars_req_cycle(r), &call, &mcp_handler, mc);
    return mc->x != NULL ? KARS_AGAIN : KARS_ERROR; /* cuts it */
}

/* A question from another worker about a session of ours. */
static int
mcp_asked(kars_cycle_t *cycle, kars_str_t key, kars_str_t message,
          kars_token_t call, void *data)
{
    return call != 0 ? kars_owner_reply(cycle, call, KARS_STR("open"))
                     : KARS_OK;
}

static int
mcp_worker(kars_cycle_t *cycle, kars_err_t *err)
{
    return kars_owner_serve(cycle, mcp_asked, NULL);
}

/* clang-format off */
static const kars_directive_t mcp_directives[] = {
    { .name = "mcp_server", .at = KARS_AT_ROUTE, .type = KARS_T_UPSTREAM,
      .offset = offsetof(mcp_conf_t, server) },
    { 0 },
};
static const kars_hook_t mcp_hooks[] = {
    { .phase = KARS_PHASE_CONTENT, .run = mcp_content,
      .flags = KARS_NEEDS_BODY },
    { 0 },
};
/* clang-format on */

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
