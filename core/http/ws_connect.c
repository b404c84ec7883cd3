/* ws_connect.c - WebSockets that go out: the connection and the handshake
 * (RFC 6455 4.1). */
#include "base/secret.h"
#include "http/ws.h"

#include <errno.h>
#include <openssl/evp.h>
#include <sys/random.h>

#define CONNECT_HEAD_MAX 65536u /* bytes of the answer's head */

static const kars_str_t connect_fixed =
    KARS_STR("upgrade: websocket\r\nconnection: upgrade\r\n"
             "sec-websocket-version: 13\r\nsec-websocket-key: ");

static char *
connect_put(char *p, kars_str_t s)
{
    if (s.len != 0) {
        memcpy(p, s.data, s.len);
    }
    return p + s.len;
}

static char *
connect_field(char *p, kars_str_t name, kars_str_t prefix, kars_str_t value)
{
    p = connect_put(p, name);
    p = connect_put(p, KARS_STR(": "));
    p = connect_put(p, prefix);
    p = connect_put(p, value);
    return connect_put(p, KARS_STR("\r\n"));
}

/* Fields that are ours to write. */
static int
connect_ours(kars_str_t name)
{
    static const kars_str_t ours[] = {
        KARS_STR("host"),
        KARS_STR("upgrade"),
        KARS_STR("connection"),
        KARS_STR("content-length"),
        KARS_STR("transfer-encoding"),
        KARS_STR("sec-websocket-key"),
        KARS_STR("sec-websocket-version"),
        KARS_STR("sec-websocket-extensions"),
    };

    for (size_t i = 0; i < KARS_NELTS(ours); i++) {
        if (kars__str_ieq(name, ours[i])) {
            return 1;
        }
    }
    return 0;
}

static int
connect_key(kars_ws_t *ws)
{
    unsigned char bytes[16], text[32];

    if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes)) {
        return KARS_ERROR;
    }
    (void) EVP_EncodeBlock(text, bytes, sizeof(bytes));
    memcpy(ws->key, text, sizeof(ws->key));
    return KARS_OK;
}

/* What the head says but its first two lines; the secret is in it, so it is in
 * memory of the handshake alone. */
static int
connect_fields(kars_ws_t *ws, const kars_call_t *call)
{
    kars_str_t secret = call->secret != NULL ? kars__secret_str(call->secret)
                                             : (kars_str_t){ NULL, 0 };
    size_t size = connect_fixed.len + sizeof(ws->key) + call->secret_name.len +
                  call->secret_prefix.len + secret.len + 16;

    for (size_t i = 0; i < call->nheaders; i++) {
        const kars_header_t *h = &call->headers[i];

        if (!kars__head_name_ok(h->name) || !kars__head_value_ok(h->value) ||
            connect_ours(h->name)) {
            return KARS_ERROR;
        }
        size += h->name.len + h->value.len + 4;
    }
    if (call->secret != NULL && (!kars__head_name_ok(call->secret_name) ||
                                 !kars__head_value_ok(call->secret_prefix) ||
                                 !kars__head_value_ok(secret))) {
        return KARS_ERROR;
    }

    char *begin = kars__palloc(ws->pool, size);
    char *p = begin;

    if (begin == NULL) {
        return KARS_ERROR;
    }
    p = connect_put(p, connect_fixed);
    p = connect_put(p, (kars_str_t){ ws->key, sizeof(ws->key) });
    p = connect_put(p, KARS_STR("\r\n"));
    for (size_t i = 0; i < call->nheaders; i++) {
        p = connect_field(p, call->headers[i].name, KARS_STR(""),
                          call->headers[i].value);
        if (kars__str_ieq(call->headers[i].name,
                          KARS_STR("sec-websocket-protocol"))) {
            ws->offered = kars__pdup(ws->pool, call->headers[i].value);
        }
    }
    if (call->secret != NULL) {
        p = connect_field(p, call->secret_name, call->secret_prefix, secret);
    }
    p = connect_put(p, KARS_STR("\r\n"));
    ws->fields = (kars_str_t){ begin, (size_t) (p - begin) };
    return KARS_OK;
}

/* It stands: the request. */
static void
connect_stands(kars__dial_t *d, int error, void *data)
{
    kars_ws_t *ws = data;
    const kars__upserver_t *server = kars__dial_server(d);
    kars_str_t host = server->at.host;
    int v6 = host.len != 0 && memchr(host.data, ':', host.len) != NULL;
    kars_str_t line = { NULL, 0 };

    if (error != 0) {
        kars__ws_finish(ws, error);
        return;
    }
    if (host.len == 0) {
        line =
            kars__pprintf(ws->pool, "GET %.*s HTTP/1.1\r\nhost: localhost\r\n",
                          KARS_STR_ARG(ws->path));
    } else {
        line = kars__pprintf(
            ws->pool, "GET %.*s HTTP/1.1\r\nhost: %s%.*s%s:%u\r\n",
            KARS_STR_ARG(ws->path), v6 ? "[" : "", KARS_STR_ARG(host),
            v6 ? "]" : "", server->at.port);
    }

    kars_buf_t *first =
        line.data != NULL ? kars__buf_view(&ws->bufs, NULL, line.data, line.len)
                          : NULL;
    kars_buf_t *second =
        first != NULL
            ? kars__buf_view(&ws->bufs, NULL, ws->fields.data, ws->fields.len)
            : NULL;

    if (second == NULL) {
        kars__ws_finish(ws, ENOMEM);
        return;
    }
    first->next = second;
    ws->out = first;
    ws->out_last = second;
    ws->sock = kars__dial_sock(d);
    kars__sock_want(ws->sock, KARS__READ | KARS__WRITE);
}

/* Is it the answer to our key? No extension was asked for, and no protocol that
 * was not offered may be chosen. */
static int
connect_good(const kars_ws_t *ws, const kars__head_t *head)
{
    kars_str_t chosen = kars__head_get(head->headers, head->nheaders,
                                       KARS_STR("sec-websocket-protocol"));
    char want[28];

    kars__ws_answer(ws->key, want);
    return head->status == 101 &&
           kars__str_ieq(kars__head_get(head->headers, head->nheaders,
                                        KARS_STR("upgrade")),
                         KARS_STR("websocket")) &&
           kars__str_has_token(kars__head_get(head->headers, head->nheaders,
                                              KARS_STR("connection")),
                               KARS_STR("upgrade")) &&
           kars_str_eq(kars__head_get(head->headers, head->nheaders,
                                      KARS_STR("sec-websocket-accept")),
                       (kars_str_t){ want, sizeof(want) }) &&
           kars__head_get(head->headers, head->nheaders,
                          KARS_STR("sec-websocket-extensions"))
                   .len == 0 &&
           (chosen.len == 0 || kars__str_has_token(ws->offered, chosen));
}

/* The head is whole, n bytes of it. */
static void
connect_answered(kars_ws_t *ws, size_t n)
{
    kars_header_t headers[KARS__HEADERS_MAX];
    kars__head_t head;
    kars_err_t err = KARS_ERR_INIT;

    if (kars__head_response(ws->rd->data, n, headers, &head, &err) != KARS_OK ||
        !connect_good(ws, &head)) {
        kars__log(KARS_LOG_WARN,
                  "client: no WebSocket upstream=%.*s status=%u error=\"%s\"",
                  KARS_STR_ARG(ws->name), head.status,
                  err.text[0] != '\0' ? err.text : "another answer than 101");
        kars__ws_finish(ws, EPROTO);
        return;
    }
    ws->rd_at = (uint32_t) n;
    ws->bytes_in = ws->rd_end - ws->rd_at;
    kars__ws_begin(ws, ws->sock);
    kars__ws_forget_handshake(ws);
}

static int
connect_room(kars_ws_t *ws)
{
    if (ws->rd != NULL && ws->rd_end < ws->rd->size) {
        return KARS_OK;
    }
    if (ws->rd != NULL && ws->rd->size >= CONNECT_HEAD_MAX) {
        return KARS_ERROR;
    }

    kars__block_t *b = kars__block_get(ws->rd != NULL ? ws->rd->size * 2 : 0);

    if (b == NULL) {
        return KARS_ERROR;
    }
    if (ws->rd != NULL) {
        memcpy(b->data, ws->rd->data, ws->rd_end);
        kars__block_unref(ws->rd);
    }
    ws->rd = b;
    return KARS_OK;
}

static void
connect_read(kars_ws_t *ws)
{
    if (connect_room(ws) != KARS_OK) {
        kars__ws_finish(ws, EMSGSIZE);
        return;
    }

    ssize_t n = kars__sock_recv(ws->sock, ws->rd->data + ws->rd_end,
                                ws->rd->size - ws->rd_end);

    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) {
            kars__ws_finish(ws, n == 0 ? ECONNRESET : errno);
        }
        return;
    }
    ws->rd_end += (uint32_t) n;

    size_t end = kars__head_end(ws->rd->data, ws->rd_end, 0);

    if (end != 0) {
        connect_answered(ws, end);
    }
}

static void
connect_ready(kars__dial_t *d, uint32_t events, void *data)
{
    kars_ws_t *ws = data;

    if (ws->open) {
        kars__ws_ready(ws, events);
        return;
    }
    while (ws->out != NULL) {
        ssize_t n = kars__sock_sendv(ws->sock, ws->out);

        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
            kars__ws_finish(ws, errno);
            return;
        }
        if (n < 0) {
            break;
        }
        ws->out = kars__chain_consume(ws->out, (size_t) n);
    }
    kars__sock_want(ws->sock, KARS__READ | (ws->out != NULL ? KARS__WRITE : 0));
    if (events & KARS__READ) {
        connect_read(ws);
    }
}

static const kars__dial_handler_t connect_handler = {
    .done = connect_stands,
    .ready = connect_ready,
};

static int
connect_path_ok(kars_str_t path)
{
    for (size_t i = 0; i < path.len; i++) {
        unsigned char c = (unsigned char) path.data[i];

        if (c <= 0x20 || c >= 0x7f) {
            return 0;
        }
    }
    return path.len != 0 && path.data[0] == '/';
}

kars_ws_t *
kars__ws_connect(kars_cycle_t *cycle, const kars_call_t *from,
                 const kars_ws_handler_t *handler, void *data)
{
    kars_call_t call = { 0 };

    memcpy(&call, from, from->size < sizeof(call) ? from->size : sizeof(call));
    if (call.upstream == NULL || !connect_path_ok(call.path)) {
        return NULL;
    }

    kars_ws_t *ws = kars__ws_make(cycle, handler, data);

    if (ws == NULL) {
        return NULL;
    }
    ws->pool = kars__pool_create(0);
    if (ws->pool == NULL || connect_key(ws) != KARS_OK ||
        connect_fields(ws, &call) != KARS_OK ||
        (ws->path = kars__pdup(ws->pool, call.path)).data == NULL ||
        (ws->name = kars__pdup(ws->pool, call.upstream->name)).data == NULL ||
        (ws->dial = kars__dial(cycle, call.upstream, &connect_handler, ws)) ==
            NULL) {
        kars__ws_free(ws);
        return NULL;
    }
    kars__timer_start(cycle->loop, &ws->timer,
                      call.timeout_ms != 0 ? call.timeout_ms
                                           : call.upstream->connect_ms +
                                                 call.upstream->first_byte_ms);
    ws->next = cycle->sockets;
    if (ws->next != NULL) {
        ws->next->prev = ws;
    }
    cycle->sockets = ws;
    return ws;
}
