/* test_ws.c - WebSockets at work, both sides: what a handler is told, times,
 * closes, and memory that fails. */
#include "base/pool.h"
#include "http/ws.h"
#include "loop.h"

#include <errno.h>

#define CONF                              \
    "upstream up { server 10.0.0.1:80; }" \
    "server { listen 127.0.0.1:1; "       \
    "route GET /ws { socket on; } }"
#define KEY    "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
#define ASK                                                        \
    "GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n"        \
    "connection: keep-alive, Upgrade\r\nsec-websocket-version: 13" \
    "\r\nsec-websocket-key: " KEY "\r\n\r\n"

static kars_ws_t *ws_now;
static char ws_saw[2000];
static int ws_rc; /* what frame() returns */

static void
ws_note(const char *fmt, ...)
{
    size_t n = strlen(ws_saw);
    va_list ap;

    va_start(ap, fmt);
    (void) vsnprintf(ws_saw + n, sizeof(ws_saw) - n, fmt, ap);
    va_end(ap);
}

static int
ws_opened(kars_ws_t *ws, void *data)
{
    ws_note("open;");
    return KARS_OK;
}

static int
ws_frame(kars_ws_t *ws, uint32_t opcode, kars_str_t payload, uint32_t flags,
         void *data)
{
    ws_note("%u %.*s%s%s;", opcode, KARS_STR_ARG(payload),
            flags & KARS_FIRST ? " first" : "",
            flags & KARS_LAST ? " last" : "");
    return ws_rc;
}

static void
ws_room(kars_ws_t *ws, void *data)
{
    ws_note("room;");
}

static void
ws_closed(kars_ws_t *ws, int error, void *data)
{
    CU_ASSERT_EQUAL(kars__api.ws_write(ws, 1, KARS_STR("x")), KARS_ERROR);
    ws_note("closed %d;", error);
    ws_now = NULL;
}

static const kars_ws_handler_t ws_handler = {
    .size = sizeof(ws_handler),
    .open = ws_opened,
    .frame = ws_frame,
    .room = ws_room,
    .closed = ws_closed,
    .max_frame = 100,
    .max_unsent = 1000,
    .ping_ms = 2000,
    .pong_ms = 1000,
};

static int
ws_content(kars_req_t *r, const void *conf, void *ctx)
{
    ws_now = kars__api.ws_accept(r, &ws_handler, NULL);
    return ws_now != NULL ? KARS_AGAIN : KARS_DONE;
}

static int
ws_log(kars_req_t *r, const void *conf, void *ctx)
{
    ws_note("log %lld;",
            (long long) kars__api.req_number(r, KARS_STR("status")));
    return KARS_OK;
}

/* clang-format off */
static const kars_directive_t ws_directives[] = {
    { .name = "socket", .at = KARS_AT_ROUTE, .type = KARS_T_FLAG,
      .offset = 0, .doc = "a WebSocket" },
    { 0 },
};
static const kars_hook_t ws_hooks[] = {
    { KARS_PHASE_CONTENT, ws_content, 0, NULL },
    { KARS_PHASE_LOG, ws_log, 0, NULL },
    { 0 },
};
/* clang-format on */

static const kars_module_t socket_module = { T_MODULE_HEAD, .name = "socket",
                                             .conf_size = sizeof(int32_t),
                                             .directives = ws_directives,
                                             .hooks = ws_hooks };

static t_loop_t *
ws_begin(void)
{
    t_loop_t *t = t_loop(CONF, &t_open, &socket_module);

    ws_saw[0] = '\0';
    ws_rc = KARS_OK;
    t_request(t, ASK);
    CU_ASSERT_NSTRING_EQUAL_FATAL(t_raw(t), "HTTP/1.1 101 ", 13);
    CU_ASSERT_PTR_NOT_NULL(
        strstr(t_raw(t), "\r\nsec-websocket-accept: " ACCEPT "\r\n"));
    CU_ASSERT_STRING_EQUAL(ws_saw, "open;");
    ws_saw[0] = '\0';
    return t;
}

static void
ws_end(t_loop_t *t)
{
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
}

/* A client's frame, masked with zeros. */
static void
ws_send(t_loop_t *t, uint32_t opcode, int fin, const char *payload)
{
    static const uint8_t mask[4] = { 0, 0, 0, 0 };
    char bytes[300];
    size_t n = kars__wsf_put(bytes, opcode, strlen(payload), mask);

    bytes[0] = (char) (fin ? bytes[0] : bytes[0] & 0x7f);
    memcpy(bytes + n, payload, strlen(payload));
    t_send(t, t->client, bytes, n + strlen(payload));
}

/* The frames that the router sent, behind the head. */
static int
ws_sent(t_loop_t *t, const char *want, size_t n)
{
    const t_end_t *e = t->client;
    const char *end = strstr(e->out.data, "\r\n\r\n") + 4;
    size_t have = e->out.len - (size_t) (end - e->out.data);

    return have == n && memcmp(end, want, n) == 0;
}

#define WS_SENT(t, lit) ws_sent(t, lit, sizeof(lit) - 1)

static void
test_ws_frames_and_the_close(void)
{
    t_loop_t *t = ws_begin();

    ws_send(t, 1, 1, "hello");
    ws_send(t, 2, 0, "a");
    ws_send(t, 9, 1, "?");
    ws_send(t, 0, 1, "b");
    CU_ASSERT_STRING_EQUAL(ws_saw, "1 hello first last;2 a first;2 b last;");
    CU_ASSERT_TRUE(WS_SENT(t, "\x8a\x01?"));
    CU_ASSERT_EQUAL(kars__api.ws_write(ws_now, 1, KARS_STR("hi")), KARS_OK);
    CU_ASSERT_EQUAL(kars__api.ws_write(ws_now, 1, KARS_STR("\xff")),
                    KARS_ERROR);
    CU_ASSERT_EQUAL(kars__api.ws_write(ws_now, 3, KARS_STR("")), KARS_ERROR);
    t_run(t);
    CU_ASSERT_TRUE(WS_SENT(t, "\x8a\x01?\x81\x02hi"));
    ws_send(t, 8, 1, "\x03\xe8");
    CU_ASSERT_TRUE(WS_SENT(t, "\x8a\x01?\x81\x02hi\x88\x02\x03\xe8"));
    CU_ASSERT_FALSE(t_is_open(t->client));
    CU_ASSERT_PTR_NOT_NULL(strstr(ws_saw, "closed 0;log 101;"));
    ws_end(t);
}

static void
test_ws_module_closes(void)
{
    t_loop_t *t = ws_begin();

    kars__api.ws_close(ws_now, 4000, KARS_STR("enough"));
    CU_ASSERT_EQUAL(kars__api.ws_write(ws_now, 1, KARS_STR("x")), KARS_ERROR);
    t_run(t);
    CU_ASSERT_TRUE(WS_SENT(t, "\x88\x08\x0f\xa0"
                              "enough"));
    ws_send(t, 1, 1, "late"); /* not shown any more */
    CU_ASSERT_STRING_EQUAL(ws_saw, "");
    ws_send(t, 8, 1, "\x0f\xa0");
    CU_ASSERT_STRING_EQUAL(ws_saw, "closed 0;log 101;");
    ws_end(t);

    t = ws_begin(); /* and the peer says nothing */
    kars__api.ws_close(ws_now, 1000, KARS_STR(""));
    t_advance_ms(t, 4000);
    CU_ASSERT_TRUE(t_is_open(t->client));
    t_advance_ms(t, 2000);
    CU_ASSERT_STRING_EQUAL(ws_saw, "closed 110;log 101;");
    ws_end(t);
}

/* A reason is cut at a character, to what a control frame holds. */
static void
test_ws_long_reason_is_cut(void)
{
    t_loop_t *t = ws_begin();
    char reason[201];
    const t_end_t *e = t->client;

    for (size_t i = 0; i < 100; i++) {
        memcpy(reason + 2 * i, "\xc3\xa4", 2);
    }
    kars__api.ws_close(ws_now, 1000, (kars_str_t){ reason, 200 });
    t_run(t);
    CU_ASSERT_EQUAL((uint8_t) e->out.data[e->out.len - 1], 0xa4);
    CU_ASSERT_EQUAL((uint8_t) e->out.data[e->out.len - 125], 124);
    t_client_gone(t);
    ws_end(t);
}

static void
test_ws_pings_who_is_silent(void)
{
    t_loop_t *t = ws_begin();

    t_advance_ms(t, 1900);
    CU_ASSERT_TRUE(WS_SENT(t, ""));
    ws_send(t, 1, 1, "x");
    t_advance_ms(t, 1900);
    CU_ASSERT_TRUE(WS_SENT(t, ""));
    t_advance_ms(t, 200);
    CU_ASSERT_TRUE(WS_SENT(t, "\x89\x00"));
    ws_send(t, 10, 1, "");
    t_advance_ms(t, 1900);
    CU_ASSERT_TRUE(WS_SENT(t, "\x89\x00"));
    t_advance_ms(t, 800);
    CU_ASSERT_TRUE(WS_SENT(t, "\x89\x00\x89\x00"));
    CU_ASSERT_TRUE(t_is_open(t->client));
    t_advance_ms(t, 1000);
    CU_ASSERT_PTR_NOT_NULL(strstr(ws_saw, "closed 110;log 101;"));
    ws_end(t);
}

static void
test_ws_pause_holds_frames_back(void)
{
    t_loop_t *t = ws_begin();

    kars__api.ws_pause(ws_now, 1);
    ws_send(t, 1, 1, "held");
    t_advance_ms(t, 10000); /* nobody is pinged: the silence is ours */
    CU_ASSERT_STRING_EQUAL(ws_saw, "");
    CU_ASSERT_TRUE(t_is_open(t->client));
    kars__api.ws_pause(ws_now, 0);
    t_run(t);
    CU_ASSERT_STRING_EQUAL(ws_saw, "1 held first last;");
    t_client_gone(t);
    CU_ASSERT_PTR_NOT_NULL(strstr(ws_saw, "closed 104;log 101;"));
    ws_end(t);
}

static void
test_ws_write_is_bounded(void)
{
    t_loop_t *t = ws_begin();
    char bytes[100] = "";
    kars_str_t some = { bytes, sizeof(bytes) };
    int n = 0, rc;

    t->client->room = 0;
    while ((rc = kars__api.ws_write(ws_now, 2, some)) == KARS_OK) {
        n++;
    }
    CU_ASSERT_EQUAL(rc, KARS_AGAIN);
    CU_ASSERT_EQUAL(n, 4); /* of 102 bytes: half of what may wait */
    while (kars__api.ws_write(ws_now, 2, some) != KARS_ERROR && n < 100) {
        n++;
    }
    CU_ASSERT_EQUAL(n, 8);
    t_run(t);
    CU_ASSERT_STRING_EQUAL(ws_saw, "");
    t->client->room = SIZE_MAX;
    t_run(t);
    CU_ASSERT_STRING_EQUAL(ws_saw, "room;");
    t_client_gone(t);
    ws_end(t);
}

static void
test_ws_what_breaks_the_rules(void)
{
    t_loop_t *t = ws_begin();

    ws_send(t, 3, 1, "");
    CU_ASSERT_TRUE(WS_SENT(t, "\x88\x02\x03\xea"));
    CU_ASSERT_TRUE(t->client->shut);
    ws_send(t, 1, 1, "not heard");
    CU_ASSERT_STRING_EQUAL(ws_saw, "");
    t_client_half(t);
    CU_ASSERT_STRING_EQUAL(ws_saw, "closed 71;log 101;");
    ws_end(t);

    t = ws_begin();
    ws_rc = KARS_ERROR;
    ws_send(t, 1, 1, "x");
    CU_ASSERT_TRUE(WS_SENT(t, "\x88\x02\x03\xf3"));
    t_advance_ms(t, 6000);
    CU_ASSERT_PTR_NOT_NULL(strstr(ws_saw, "closed 103;log 101;"));
    ws_end(t);
}

static void
test_ws_end_of_a_drain_says_1001(void)
{
    t_loop_t *t = ws_begin();

    kars__conn_drain(t->cycle, 1);
    ws_send(t, 1, 1, "still");
    CU_ASSERT_STRING_EQUAL(ws_saw, "1 still first last;");
    kars__conn_drain(t->cycle, 2);
    CU_ASSERT_TRUE(WS_SENT(t, "\x88\x11\x03\xe9"
                              "the router ends"));
    CU_ASSERT_PTR_NOT_NULL(strstr(ws_saw, "closed 125;log 101;"));
    ws_end(t);
}

static void
test_ws_survives_each_allocation_failing(void)
{
    for (uint64_t n = 1; n < 100; n++) {
        t_loop_t *t = t_loop(CONF, &t_open, &socket_module);

        ws_saw[0] = '\0';
        ws_now = NULL;
        (void) t_client(t);
        kars__pool_fail_at(n);
        t_send(t, t->client, ASK, strlen(ASK));
        for (int i = 0; i < 3 && t_is_open(t->client); i++) {
            ws_send(t, 1, 1, "hello");
            ws_send(t, 9, 1, "ping");
        }
        kars__pool_fail_at(0);
        if (t_is_open(t->client)) {
            t_client_gone(t);
        }
        t_advance_ms(t, 60000);
        CU_ASSERT_PTR_NULL(ws_now);
        ws_end(t);
    }
}

/* Out. */

static kars_ws_t *
ws_dial(t_loop_t *t, const char *path)
{
    kars_header_t h = { KARS_STR("x-who"), KARS_STR("me") };
    kars_call_t call = { .size = sizeof(call),
                         .upstream = t->cycle->upstreams,
                         .path = kars__strz(path),
                         .headers = &h,
                         .nheaders = 1,
                         .timeout_ms = 3000 };

    ws_saw[0] = '\0';
    kars__mod_now = t->cycle->mods[1];
    ws_now = kars__api.ws_connect(t->cycle, &call, &ws_handler, NULL);
    kars__mod_now = NULL;
    t_run(t);
    return ws_now;
}

/* The answer that fits the key in what the router sent. */
static void
ws_reply(t_loop_t *t, const char *more)
{
    const char *got = t_upstream_got(t, t_upstreams(t) - 1);
    const char *key = strstr(got, "sec-websocket-key: ") + 19;
    char answer[28], text[400];

    kars__ws_answer(key, answer);
    (void) snprintf(text, sizeof(text),
                    "HTTP/1.1 101 Go\r\nUpgrade: WebSocket\r\n"
                    "Connection: Upgrade\r\nSec-WebSocket-Accept: %.28s\r\n"
                    "%s\r\n",
                    answer, more);
    t_upstream_reply(t, text);
}

static void
test_ws_connect(void)
{
    t_loop_t *t = t_loop(CONF, &t_open, &socket_module);
    const t_end_t *up;

    CU_ASSERT_PTR_NULL(ws_dial(t, "no path"));
    CU_ASSERT_PTR_NOT_NULL(ws_dial(t, "/a?b"));
    up = t_upstream(t, 0);
    CU_ASSERT_NSTRING_EQUAL(up->out.data,
                            "GET /a?b HTTP/1.1\r\nhost: 10.0.0.1:80\r\n", 38);
    CU_ASSERT_PTR_NOT_NULL(strstr(up->out.data, "x-who: me\r\n"));
    ws_reply(t, "");
    CU_ASSERT_STRING_EQUAL(ws_saw, "open;");
    t_upstream_reply(t, "\x81\x02hi");
    CU_ASSERT_STRING_EQUAL(ws_saw, "open;1 hi first last;");

    /* what it sends is masked */
    CU_ASSERT_EQUAL(kars__api.ws_write(ws_now, 1, KARS_STR("hello")), KARS_OK);
    t_run(t);
    const char *f = up->out.data + up->out.len - 11;
    char plain[5];

    CU_ASSERT_EQUAL(memcmp(f, "\x81\x85", 2), 0);
    memcpy(plain, f + 6, 5);
    kars__wsf_mask(plain, 5, (const uint8_t *) f + 2, 0);
    CU_ASSERT_EQUAL(memcmp(plain, "hello", 5), 0);

    /* and a masked one is not taken */
    t_upstream_reply(t, "\x81\x81\x01\x02\x03\x04x");
    t_upstream_gone(t, 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(ws_saw, "closed 71;"));
    CU_ASSERT_FALSE(t_is_open(up));
    ws_end(t);
}

/* clang-format off */
static const struct { const char *label; const char *more; } strangers[] = {
    { "an extension nobody asked for", "sec-websocket-extensions: permessage-deflate\r\n" },
    { "a protocol nobody offered", "sec-websocket-protocol: chat\r\n" },
};
/* clang-format on */

static void
test_ws_connect_refuses_strangers(void)
{
    t_loop_t *t = t_loop(CONF, &t_open, &socket_module);

    for (size_t i = 0; i < KARS_NELTS(strangers); i++) {
        T_CASE(strangers[i].label);
        (void) ws_dial(t, "/");
        ws_reply(t, strangers[i].more);
        CU_ASSERT_STRING_EQUAL(ws_saw, "closed 71;");
    }
    T_CASE("no answer");
    (void) ws_dial(t, "/");
    t_advance_ms(t, 3500);
    CU_ASSERT_STRING_EQUAL(ws_saw, "closed 110;");
    T_CASE("an endless head");
    (void) ws_dial(t, "/");
    t_upstream_reply(t, "HTTP/1.1 101 Go\r\nx: ");
    for (int i = 0; i < 1200 && ws_now != NULL; i++) {
        t_upstream_reply(t, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
                            "xxxxxxxxxxxxxxxx");
    }
    CU_ASSERT_STRING_EQUAL(ws_saw, "closed 90;");
    T_CASE("the end of the cycle");
    (void) ws_dial(t, "/");
    ws_reply(t, "");
    ws_end(t);
    CU_ASSERT_STRING_EQUAL(ws_saw, "open;closed 125;");
}

void
suite_ws(void)
{
    T_SUITE(ws);
    T_TEST(ws, test_ws_frames_and_the_close);
    T_TEST(ws, test_ws_module_closes);
    T_TEST(ws, test_ws_long_reason_is_cut);
    T_TEST(ws, test_ws_pings_who_is_silent);
    T_TEST(ws, test_ws_pause_holds_frames_back);
    T_TEST(ws, test_ws_write_is_bounded);
    T_TEST(ws, test_ws_what_breaks_the_rules);
    T_TEST(ws, test_ws_end_of_a_drain_says_1001);
    T_TEST(ws, test_ws_survives_each_allocation_failing);
    T_TEST(ws, test_ws_connect);
    T_TEST(ws, test_ws_connect_refuses_strangers);
}
