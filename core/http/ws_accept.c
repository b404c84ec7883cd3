/* ws_accept.c - WebSockets that come in: the handshake (RFC 6455 4.2), and the
 * connection that becomes one. */
#include "http/ws.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/sha.h>

void
kars__ws_answer(const char key[KARS__WS_KEY], char ret[28])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    unsigned char text[KARS__WS_KEY + sizeof(guid) - 1];
    unsigned char md[SHA_DIGEST_LENGTH];
    unsigned char out[32];

    memcpy(text, key, KARS__WS_KEY);
    memcpy(text + KARS__WS_KEY, guid, sizeof(guid) - 1);
    (void) SHA1(text, sizeof(text), md);
    (void) EVP_EncodeBlock(out, md, sizeof(md));
    memcpy(ret, out, 28);
}

/* 16 bytes in base64. */
static int
accept_key_ok(kars_str_t key)
{
    unsigned char out[20];

    return key.len == KARS__WS_KEY && memcmp(key.data + 22, "==", 2) == 0 &&
           memchr(key.data, '=', 22) == NULL &&
           EVP_DecodeBlock(out, (const unsigned char *) key.data,
                           KARS__WS_KEY) == 18;
}

static kars_ws_t *
accept_refuse(kars_req_t *r, const char *reason)
{
    (void) kars__req_refuse(r, 400, "invalid_request_error", "bad_websocket",
                            reason);
    return NULL;
}

/* RFC 6455 4.4. */
static kars_ws_t *
accept_other_version(kars_req_t *r)
{
    (void) kars__req_refuse(r, 426, "invalid_request_error", "bad_websocket",
                            "this router speaks version 13 of the WebSocket "
                            "protocol");
    (void) kars__headers_add(r->pool, &r->out, KARS_STR("upgrade"),
                             KARS_STR("websocket"));
    (void) kars__headers_add(r->pool, &r->out,
                             KARS_STR("sec-websocket-version"), KARS_STR("13"));
    return NULL;
}

/* The connection while it is a WebSocket. */

static void
accept_ready(kars_conn_t *c, uint32_t events)
{
    kars__ws_ready(c->user, events);
}

static void
accept_timeout(kars_conn_t *c)
{
    /* A WebSocket has a timer of its own. */
}

/* The last byte is recorded, or the record failed. */
static void
accept_flush(kars_conn_t *c)
{
    if (c->h1.ended || c->h1.broken) {
        kars__conn_close(c);
    }
}

static void
accept_drain(kars_conn_t *c, int force)
{
    if (force > 1) {
        kars__ws_leave(c->user);
        kars__ws_finish(c->user, ECANCELED);
    }
}

static void
accept_close(kars_conn_t *c)
{
    kars__http1_ops.close(c);
}

static const kars__conn_ops_t accept_ops = {
    .ready = accept_ready,
    .timeout = accept_timeout,
    .flush = accept_flush,
    .drain = accept_drain,
    .close = accept_close,
};

static void
accept_begin(kars_req_t *r, void *data)
{
    kars__req_open(r, 101);
}

static void
accept_taken(kars_req_t *r, void *data)
{
    kars_ws_t *ws = data;
    kars_conn_t *c = r->conn;

    c->user = ws;
    c->ops = &accept_ops;
    kars__timer_stop(r->cycle->loop, &c->timer);
    ws->rd = c->h1.rd;
    ws->rd_at = c->h1.rd_at;
    ws->rd_end = c->h1.rd_end;
    ws->bytes_in = ws->rd_end - ws->rd_at;
    c->h1.rd = NULL;
    c->h1.rd_at = c->h1.rd_end = 0;
    kars__ws_begin(ws, &c->sock);
}

/* The request ends, with the WebSocket or before it was one. */
static void
accept_gone(kars_req_t *r, void *data)
{
    kars_ws_t *ws = data;

    if (ws->open && !ws->over) {
        r->body_size = ws->bytes_in;
        r->answer_bytes = ws->bytes_out;
    }
    kars__ws_tell_closed(ws, ECONNRESET);
    kars__ws_free(ws);
}

/* RFC 6455 7.4.1. */
static void
accept_end(kars_req_t *r, const kars_denial_t *denial)
{
    kars__ws_close(r->taker_data, KARS__WS_POLICY,
                   KARS_STR("no longer allowed"));
}

static const kars__taker_t accept_taker = {
    .begin = accept_begin,
    .taken = accept_taken,
    .gone = accept_gone,
    .end = accept_end,
};

/* The module's choice must be one that was offered; no extension is known. */
static int
accept_headers(kars_req_t *r, kars_str_t key)
{
    kars_str_t chosen =
        kars__headers_get(&r->out, KARS_STR("sec-websocket-protocol"));
    kars_str_t offered =
        kars__headers_get(&r->in, KARS_STR("sec-websocket-protocol"));
    char *answer = kars__palloc(r->pool, 28);

    if (answer == NULL ||
        (chosen.len != 0 && !kars__str_has_token(offered, chosen))) {
        return KARS_ERROR;
    }
    kars__ws_answer(key.data, answer);
    kars__headers_del(&r->out, KARS_STR("sec-websocket-extensions"));
    kars__headers_del(&r->out, KARS_STR("content-type"));
    if (kars__headers_set(r->pool, &r->out, KARS_STR("upgrade"),
                          KARS_STR("websocket")) != KARS_OK ||
        kars__headers_set(r->pool, &r->out, KARS_STR("connection"),
                          KARS_STR("upgrade")) != KARS_OK) {
        return KARS_ERROR;
    }
    return kars__headers_set(r->pool, &r->out, KARS_STR("sec-websocket-accept"),
                             (kars_str_t){ answer, 28 });
}

kars_ws_t *
kars__ws_accept(kars_req_t *r, const kars_ws_handler_t *handler, void *data)
{
    kars_str_t key = kars__headers_get(&r->in, KARS_STR("sec-websocket-key"));
    kars_str_t version =
        kars__headers_get(&r->in, KARS_STR("sec-websocket-version"));

    if (r->answer != KARS__ANSWER_NONE || r->phase != KARS_PHASE_CONTENT) {
        return NULL;
    }
    if (r->proto != &kars__http1_proto || r->head.minor == 0 ||
        !kars_str_eq(r->head.method, KARS_STR("GET")) ||
        !kars__str_has_token(kars__headers_get(&r->in, KARS_STR("connection")),
                             KARS_STR("upgrade")) ||
        !kars__str_has_token(kars__headers_get(&r->in, KARS_STR("upgrade")),
                             KARS_STR("websocket"))) {
        return accept_refuse(r, "a WebSocket is asked for here: GET with "
                                "Upgrade: websocket");
    }
    if (!kars_str_eq(version, KARS_STR("13"))) {
        return accept_other_version(r);
    }
    if (!accept_key_ok(key) || r->head.content_length > 0 || r->head.chunked) {
        return accept_refuse(r, "a WebSocket handshake without a good "
                                "Sec-WebSocket-Key, or with a body");
    }

    kars_ws_t *ws = kars__ws_make(r->cycle, handler, data);

    if (ws == NULL || accept_headers(r, key) != KARS_OK) {
        kars__free(ws);
        return NULL;
    }
    ws->r = r;
    r->taker = &accept_taker;
    r->taker_data = ws;
    r->answer = KARS__ANSWER_TAKEN;
    return ws;
}
