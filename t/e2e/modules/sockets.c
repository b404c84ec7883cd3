/*
 * sockets.c - a module of the end-to-end tests: WebSockets on routes.
 *
 *     sockets echo      what comes goes back, message by message
 *     sockets relay     joined to a WebSocket of sockets_to
 *     sockets talk      greets, then pauses for a while, then closes with 4000
 *     sockets flood     writes until there is no more room
 */
#include "kars_module.h"

#include <stdlib.h>

enum { SOCKETS_ECHO = 0, SOCKETS_RELAY, SOCKETS_TALK, SOCKETS_FLOOD };

typedef struct {
    int32_t kind;
    kars_upstream_t *to;
    kars_str_t protocol;
    uint64_t max_frame, max_message, max_unsent, ping_ms, pong_ms;
} sockets_conf_t;

typedef struct {
    kars_cycle_t *cycle;
    const sockets_conf_t *conf;
    kars_ws_t *near, *far; /* NULL: closed */
    uint32_t refs;
    char *message; /* of several frames */
    size_t len;
} sockets_t;

static void
sockets_unref(sockets_t *so)
{
    if (--so->refs == 0) {
        free(so->message);
        free(so);
    }
}

/* A message may come in several frames; it goes out in one. OK: not whole. */
static int
sockets_gather(sockets_t *so, kars_str_t payload, uint32_t flags,
               kars_str_t *ret)
{
    char *more;

    if (flags & KARS_FIRST) {
        so->len = 0;
    }
    more = realloc(so->message, so->len + payload.len + 1);
    if (more == NULL) {
        return KARS_ERROR;
    }
    so->message = more;
    if (payload.len != 0) {
        memcpy(more + so->len, payload.data, payload.len);
    }
    so->len += payload.len;
    *ret = (kars_str_t){ more, so->len };
    return flags & KARS_LAST ? KARS_DONE : KARS_OK;
}

static int
sockets_frame(kars_ws_t *ws, uint32_t opcode, kars_str_t payload,
              uint32_t flags, void *data)
{
    sockets_t *so = data;
    kars_ws_t *to = so->conf->kind == SOCKETS_ECHO ? ws
                    : ws == so->near               ? so->far
                                                   : so->near;
    kars_str_t whole;
    int rc = sockets_gather(so, payload, flags, &whole);

    if (rc != KARS_DONE || to == NULL) {
        return rc == KARS_ERROR ? rc : KARS_OK;
    }
    rc = kars_ws_write(to, opcode, whole);
    if (rc == KARS_AGAIN) {
        kars_ws_pause(ws, 1);
    }
    return rc == KARS_ERROR ? rc : KARS_OK;
}

static void
sockets_room(kars_ws_t *ws, void *data)
{
    sockets_t *so = data;
    kars_ws_t *from = so->conf->kind == SOCKETS_ECHO ? ws
                      : ws == so->near               ? so->far
                                                     : so->near;

    if (from != NULL) {
        kars_ws_pause(from, 0);
    }
}

static void
sockets_closed(kars_ws_t *ws, int error, void *data)
{
    sockets_t *so = data;
    int near = ws == so->near;
    kars_ws_t *other = near ? so->far : so->near;

    kars_cycle_log(so->cycle, KARS_LOG_NOTICE, "sockets: %s closed error=%d",
                   near ? "near" : "far", error);
    if (near) {
        so->near = NULL;
    } else {
        so->far = NULL;
    }
    if (other != NULL) {
        kars_ws_close(other, error == 0 ? 1000 : 1001,
                      KARS_STR("the other side closed"));
    }
    sockets_unref(so);
}

static void
sockets_go_on(kars_cycle_t *cycle, void *data)
{
    sockets_t *so = data;

    if (so->near != NULL) {
        kars_ws_pause(so->near, 0);
        (void) kars_ws_write(so->near, 1, KARS_STR("goodbye"));
        kars_ws_close(so->near, 4000, KARS_STR("enough said"));
    }
    sockets_unref(so);
}

static int
sockets_open(kars_ws_t *ws, void *data)
{
    sockets_t *so = data;

    kars_cycle_log(so->cycle, KARS_LOG_NOTICE, "sockets: %s open",
                   ws == so->near ? "near" : "far");
    if (so->conf->kind == SOCKETS_TALK) {
        so->refs++;
        (void) kars_ws_write(ws, 1, KARS_STR("hello"));
        kars_ws_pause(ws, 1);
        (void) kars_timer(so->cycle, 500, sockets_go_on, so);
    } else if (so->conf->kind == SOCKETS_FLOOD) {
        char bytes[1000] = "";
        int n = 0;

        while (kars_ws_write(ws, 2, (kars_str_t){ bytes, sizeof(bytes) }) !=
               KARS_ERROR) {
            n++;
        }
        kars_cycle_log(so->cycle, KARS_LOG_NOTICE, "sockets: wrote n=%d", n);
    }
    return KARS_OK;
}

static int
sockets_content(kars_req_t *r, const void *conf, void *ctx)
{
    const sockets_conf_t *sc = conf;
    kars_ws_handler_t h = { .size = sizeof(h),
                            .open = sockets_open,
                            .frame = sockets_frame,
                            .room = sockets_room,
                            .closed = sockets_closed,
                            .max_frame = (uint32_t) sc->max_frame,
                            .max_message = (uint32_t) sc->max_message,
                            .max_unsent = (uint32_t) sc->max_unsent,
                            .ping_ms = (uint32_t) sc->ping_ms,
                            .pong_ms = (uint32_t) sc->pong_ms };
    sockets_t *so = calloc(1, sizeof(*so));

    if (so == NULL) {
        return KARS_ERROR;
    }
    so->conf = sc;
    so->cycle = kars_req_cycle(r);
    if (sc->protocol.len != 0) {
        (void) kars_header_set(
            r, KARS_RESPONSE, KARS_STR("sec-websocket-protocol"), sc->protocol);
    }
    so->near = kars_ws_accept(r, &h, so);
    if (so->near == NULL) {
        free(so);
        return KARS_DONE;
    }
    so->refs = 1;
    if (sc->kind == SOCKETS_RELAY) {
        kars_header_t offered = { KARS_STR("sec-websocket-protocol"),
                                  KARS_STR("chat") };
        kars_call_t call = { .size = sizeof(call),
                             .upstream = sc->to,
                             .path = KARS_STR("/far?a=b"),
                             .headers = &offered,
                             .nheaders = 1,
                             .timeout_ms = 3000 };

        so->far = kars_ws_connect(so->cycle, &call, &h, so);
        so->refs += so->far != NULL;
    }
    return KARS_AGAIN;
}

/* clang-format off */
#define SOCKETS_ROW(word, field_type, field) \
    { .name = word, .at = KARS_AT_ROUTE, .type = field_type, \
      .offset = offsetof(sockets_conf_t, field), .doc = "see the file" }
static const kars_directive_t sockets_directives[] = {
    { .name = "sockets", .at = KARS_AT_ROUTE, .type = KARS_T_ENUM,
      .offset = offsetof(sockets_conf_t, kind),
      .values = "echo relay talk flood", .dflt = "echo", .doc = "which" },
    SOCKETS_ROW("sockets_to", KARS_T_UPSTREAM, to),
    SOCKETS_ROW("sockets_protocol", KARS_T_STR, protocol),
    SOCKETS_ROW("sockets_max_frame", KARS_T_SIZE, max_frame),
    SOCKETS_ROW("sockets_max_message", KARS_T_SIZE, max_message),
    SOCKETS_ROW("sockets_max_unsent", KARS_T_SIZE, max_unsent),
    SOCKETS_ROW("sockets_ping", KARS_T_MSEC, ping_ms),
    SOCKETS_ROW("sockets_pong", KARS_T_MSEC, pong_ms),
    { 0 },
};
static const kars_hook_t sockets_hooks[] = {
    { .phase = KARS_PHASE_CONTENT, .run = sockets_content },
    { 0 },
};
/* clang-format on */

KARS_MODULE(sockets) = {
    KARS_MODULE_HEAD,
    .name = "sockets",
    .version = "1.0.0",
    .conf_size = sizeof(sockets_conf_t),
    .directives = sockets_directives,
    .hooks = sockets_hooks,
};
