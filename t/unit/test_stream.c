/* test_stream.c - streams of modules: what a handler is told, and when. */
#include "base/pool.h"
#include "loop.h"

#include <errno.h>

#define CONF                                                       \
    "upstream up { server 10.0.0.1:443; timeout idle=9s; }"        \
    "server { listen 127.0.0.1:1 module=proto; timeout idle=30s; " \
    "route CONNECT /good:1 { } route CONNECT /bad:1 { wall on; } " \
    "route CONNECT /late:1 { wait on; } }"                         \
    "server { listen 127.0.0.1:2; route GET / { respond 200 hello; } }"

static kars_stream_t *stream_now; /* the last one that was accepted */
static kars_upstream_t *stream_up;
static char stream_saw[1000]; /* what was told, in its order */
static size_t stream_take;    /* bytes of each readable(); SIZE_MAX: all */
static int stream_echo;
static int stream_accepts; /* what accept() returns */
static kars_token_t stream_token;

static void
stream_note(const char *fmt, ...)
{
    size_t n = strlen(stream_saw);
    va_list ap;

    va_start(ap, fmt);
    (void) vsnprintf(stream_saw + n, sizeof(stream_saw) - n, fmt, ap);
    va_end(ap);
}

static int
proto_accept(kars_stream_t *s, const kars_peer_t *peer, void *data)
{
    stream_now = s;
    stream_note("accept %.*s;", KARS_STR_ARG(peer->listener));
    return stream_accepts;
}

static int
proto_readable(kars_stream_t *s, kars_str_t bytes, void *data)
{
    size_t n = bytes.len < stream_take ? bytes.len : stream_take;

    stream_note("read %.*s;", bytes.len < 20 ? (int) bytes.len : 20,
                bytes.data);
    if (stream_echo) {
        (void) kars__api.stream_write(s, (kars_str_t){ bytes.data, n });
    }
    return n == 0 ? KARS_OK : kars__api.stream_take(s, n);
}

static void
proto_closed(kars_stream_t *s, int error, void *data)
{
    CU_ASSERT_EQUAL(kars__api.stream_write(s, KARS_STR("x")), KARS_ERROR);
    stream_note("closed %d;", error);
    stream_now = NULL;
}

static void
proto_room(kars_stream_t *s, void *data)
{
    stream_note("room;");
}

static const kars_stream_handler_t proto_handler = {
    .size = sizeof(proto_handler),
    .accept = proto_accept,
    .readable = proto_readable,
    .closed = proto_closed,
    .room = proto_room,
};

typedef struct {
    int32_t wall, wait;
} proto_conf_t;

static int
proto_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    return place->at == KARS_AT_MAIN
               ? kars__api.listen(place->cycle, KARS_STR(""), 0, &proto_handler,
                                  NULL, err)
               : KARS_OK;
}

static int
proto_start(kars_cycle_t *cycle, kars_err_t *err)
{
    stream_up = cycle->upstreams;
    return KARS_OK;
}

static int
proto_woken(kars_req_t *r, int error, const void *conf, void *ctx)
{
    return KARS_OK;
}

static int
proto_admit(kars_req_t *r, const void *conf, void *ctx)
{
    const proto_conf_t *pc = conf;
    kars_denial_t d = { .size = sizeof(d),
                        .status = 429,
                        .code = KARS_STR("walled"),
                        .reason = KARS_STR("a wall") };

    if (pc->wait) {
        stream_token = kars__api.suspend(r, 5000, proto_woken);
        return KARS_AGAIN;
    }
    return pc->wall ? kars__api.deny(r, &d) : KARS_OK;
}

static int
proto_content(kars_req_t *r, const void *conf, void *ctx)
{
    stream_note("content;");
    return KARS_OK;
}

static int
proto_log(kars_req_t *r, const void *conf, void *ctx)
{
    stream_note("log %lld in=%lld out=%lld;",
                (long long) kars__api.req_number(r, KARS_STR("status")),
                (long long) kars__api.req_number(r, KARS_STR("bytes_in")),
                (long long) kars__api.req_number(r, KARS_STR("bytes_out")));
    return KARS_OK;
}

/* clang-format off */
static const kars_directive_t proto_directives[] = {
    { .name = "wall", .at = KARS_AT_ROUTE, .type = KARS_T_FLAG,
      .offset = offsetof(proto_conf_t, wall), .doc = "refuse" },
    { .name = "wait", .at = KARS_AT_ROUTE, .type = KARS_T_FLAG,
      .offset = offsetof(proto_conf_t, wait), .doc = "suspend" },
    { 0 },
};
static const kars_hook_t proto_hooks[] = {
    { KARS_PHASE_ADMIT, proto_admit, 0, NULL },
    { KARS_PHASE_CONTENT, proto_content, 0, NULL },
    { KARS_PHASE_LOG, proto_log, 0, NULL },
    { 0 },
};
/* clang-format on */

static const kars_module_t proto = { T_MODULE_HEAD,
                                     .name = "proto",
                                     .flags = KARS_ALWAYS,
                                     .conf_size = sizeof(proto_conf_t),
                                     .directives = proto_directives,
                                     .hooks = proto_hooks,
                                     .check = proto_check,
                                     .worker_start = proto_start };

static kars_listener_t *
stream_port(const t_loop_t *t)
{
    kars_listener_t *l = t->cycle->listeners;

    while (l->port == NULL) {
        l = l->next;
    }
    return l;
}

static t_loop_t *
stream_begin(void)
{
    t_loop_t *t = t_loop(CONF, &t_open, &proto);

    stream_saw[0] = '\0';
    stream_take = SIZE_MAX;
    stream_echo = 0;
    stream_accepts = KARS_OK;
    (void) t_client_at(t, stream_port(t));
    return t;
}

static void
stream_end(t_loop_t *t)
{
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
}

static void
test_stream_tells_its_handler(void)
{
    t_loop_t *t = stream_begin();

    stream_echo = 1;
    t_request(t, "hello");
    t_request(t, "world");
    CU_ASSERT_STRING_EQUAL(t_raw(t), "helloworld");
    t_client_half(t);
    CU_ASSERT_STRING_EQUAL(
        stream_saw, "accept 127.0.0.1:1;read hello;read world;closed 0;");
    stream_end(t);
}

static void
test_stream_refused_is_told_no_more(void)
{
    t_loop_t *t = stream_begin();

    t_client_gone(t);
    stream_saw[0] = '\0';
    stream_accepts = KARS_ERROR;
    (void) t_client_at(t, stream_port(t));
    t_run(t);
    CU_ASSERT_FALSE(t_is_open(t->client));
    CU_ASSERT_STRING_EQUAL(stream_saw, "accept 127.0.0.1:1;");
    stream_end(t);
}

static void
test_stream_keeps_what_is_not_taken(void)
{
    t_loop_t *t = stream_begin();

    stream_take = 0;
    t_request(t, "ab");
    t_request(t, "cd");
    CU_ASSERT_EQUAL(kars__api.stream_take(stream_now, 5), KARS_ERROR);
    CU_ASSERT_EQUAL(kars__api.stream_take(stream_now, 1), KARS_OK);
    t_run(t);
    stream_take = 2;
    t_request(t, "e");
    CU_ASSERT_STRING_EQUAL(stream_saw,
                           "accept 127.0.0.1:1;read ab;read abcd;read bcd;"
                           "read bcde;read de;");
    t_client_gone(t);
    stream_end(t);
}

/* 64 KiB that nobody takes: it reads no more until some are. */
static void
test_stream_reads_no_more_than_it_may(void)
{
    t_loop_t *t = stream_begin();
    static char much[200000];

    memset(much, 'x', sizeof(much));
    stream_take = 0;
    t_send(t, t->client, much, sizeof(much));
    CU_ASSERT_EQUAL(t->client->in_at, 65536);
    CU_ASSERT_EQUAL(kars__api.stream_take(stream_now, 60000), KARS_OK);
    t_run(t);
    CU_ASSERT_EQUAL(t->client->in_at, 65536 + 60000);
    stream_take = SIZE_MAX;
    CU_ASSERT_EQUAL(kars__api.stream_take(stream_now, 0), KARS_OK);
    t_run(t);
    CU_ASSERT_EQUAL(t->client->in_at, sizeof(much));
    t_client_gone(t);
    stream_end(t);
}

static void
test_stream_write_says_when_it_is_full(void)
{
    t_loop_t *t = stream_begin();
    static char much[100000];
    int rc = KARS_OK, n = 0;

    t->client->room = 0;
    while (rc == KARS_OK && n < 100) {
        rc = kars__api.stream_write(stream_now,
                                    (kars_str_t){ much, sizeof(much) });
        n++;
    }
    CU_ASSERT_EQUAL(rc, KARS_AGAIN);
    CU_ASSERT_EQUAL(n, 3);
    while (rc == KARS_AGAIN && n < 100) {
        rc = kars__api.stream_write(stream_now,
                                    (kars_str_t){ much, sizeof(much) });
        n++;
    }
    CU_ASSERT_EQUAL(rc, KARS_ERROR);
    CU_ASSERT_EQUAL(n, 12);
    CU_ASSERT_PTR_NULL(strstr(stream_saw, "room"));
    t->client->room = SIZE_MAX;
    t_run(t);
    CU_ASSERT_PTR_NOT_NULL(strstr(stream_saw, "room;"));
    CU_ASSERT_EQUAL(t->client->out.len, 11 * sizeof(much));
    kars__api.stream_close(stream_now, 0);
    t_run(t);
    CU_ASSERT_PTR_NOT_NULL(strstr(stream_saw, "closed 0;"));
    stream_end(t);
}

static void
test_stream_idle_time(void)
{
    t_loop_t *t = stream_begin(); /* 30 s, its server's */

    t_advance_ms(t, 29000);
    t_request(t, "x");
    t_advance_ms(t, 29000);
    CU_ASSERT_TRUE(t_is_open(t->client));
    kars__api.stream_timeout(stream_now, 3000);
    t_advance_ms(t, 3500);
    CU_ASSERT_FALSE(t_is_open(t->client));
    CU_ASSERT_PTR_NOT_NULL(strstr(stream_saw, "closed 110;"));
    stream_end(t);
}

/* Decisions. */

static int
stream_decided(kars_stream_t *s, const kars_verdict_t *v, void *data)
{
    stream_note("verdict %u %.*s;", v->decision, KARS_STR_ARG(v->reason));
    return v->decision == KARS_ALLOW ? kars__api.stream_tunnel(s, stream_up)
                                     : KARS_ERROR;
}

static int
stream_ask(const char *to)
{
    return kars__api.stream_decide(stream_now, KARS_STR("CONNECT"),
                                   kars__strz(to), stream_decided);
}

static void
test_stream_decide_and_tunnel(void)
{
    t_loop_t *t = stream_begin();

    stream_take = 0;
    t_request(t, "hello");
    CU_ASSERT_EQUAL(kars__api.stream_tunnel(stream_now, stream_up),
                    KARS_ERROR); /* nothing allowed it */
    CU_ASSERT_EQUAL(stream_ask("good:1"), KARS_AGAIN);
    CU_ASSERT_EQUAL(stream_ask("good:1"), KARS_ERROR); /* one at a time */
    t_run(t);
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1);
    CU_ASSERT_STRING_EQUAL(t_upstream_got(t, 0), "hello");
    t_upstream_reply(t, "down");
    t_request(t, "!");
    CU_ASSERT_STRING_EQUAL(t_raw(t), "down");
    CU_ASSERT_STRING_EQUAL(t_upstream_got(t, 0), "hello!");
    t_client_half(t);
    t_upstream_gone(t, 0);
    CU_ASSERT_STRING_EQUAL(stream_saw, "accept 127.0.0.1:1;read hello;"
                                       "verdict 1 ;closed 0;"
                                       "log 200 in=6 out=4;");
    stream_end(t);
}

/* clang-format off */
static const struct { const char *to; const char *saw; } refusals[] = {
    { "bad:1",     "log 429 in=0 out=" },
    { "nowhere:1", "log 404 in=0 out=" },
};
/* clang-format on */

static void
test_stream_refusals_are_logged_once(void)
{
    for (size_t i = 0; i < KARS_NELTS(refusals); i++) {
        t_loop_t *t = stream_begin();
        const char *at;

        T_CASE(refusals[i].to);
        CU_ASSERT_EQUAL(stream_ask(refusals[i].to), KARS_AGAIN);
        t_run(t);
        CU_ASSERT_FALSE(t_is_open(t->client));
        CU_ASSERT_PTR_NOT_NULL(
            strstr(stream_saw, i == 0 ? "verdict 4 a wall;" : "verdict 2 "));
        at = strstr(stream_saw, refusals[i].saw);
        CU_ASSERT_PTR_NOT_NULL_FATAL(at);
        CU_ASSERT_PTR_NULL(strstr(at + 1, "log "));
        CU_ASSERT_PTR_NULL(strstr(stream_saw, "content"));
        CU_ASSERT_PTR_NOT_NULL(strstr(stream_saw, "closed 13;"));
        stream_end(t);
    }
}

/* A hook waits: nothing is shown meanwhile, and the client may leave. */
static void
test_stream_decision_that_waits(void)
{
    t_loop_t *t = stream_begin();

    CU_ASSERT_EQUAL(stream_ask("late:1"), KARS_AGAIN);
    t_request(t, "held");
    CU_ASSERT_PTR_NULL(strstr(stream_saw, "read"));
    CU_ASSERT_EQUAL(kars__api.resume(stream_token, 0), KARS_OK);
    t_run(t);
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1);
    CU_ASSERT_STRING_EQUAL(t_upstream_got(t, 0), "held");
    t_upstream(t, 0)->error = ECONNRESET;
    t_run(t);
    CU_ASSERT_PTR_NOT_NULL(strstr(stream_saw, "closed 104;"));
    stream_end(t);

    t = stream_begin();
    CU_ASSERT_EQUAL(stream_ask("late:1"), KARS_AGAIN);
    t_run(t);
    t_client_gone(t); /* not read while it decides: idle time ends it */
    t_advance_ms(t, 31000);
    CU_ASSERT_PTR_NOT_NULL(strstr(stream_saw, "closed "));
    CU_ASSERT_EQUAL(kars__api.resume(stream_token, 0), KARS_OK); /* late */
    t_run(t);
    stream_end(t);
}

static void
test_stream_http_after_all(void)
{
    t_loop_t *t = stream_begin();

    stream_take = 0;
    t_request(t, "GET / HTTP/1.1\r\n");
    CU_ASSERT_EQUAL(kars__api.stream_http(stream_now, KARS_STR("127.0.0.1:1")),
                    KARS_ERROR); /* a module's own */
    CU_ASSERT_EQUAL(kars__api.stream_http(stream_now, KARS_STR("127.0.0.1:2")),
                    KARS_OK);
    t_request(t, "host: x\r\n\r\n");
    CU_ASSERT_EQUAL(t_status(t), 200);
    CU_ASSERT_PTR_NULL(strstr(stream_saw, "closed"));
    t_client_gone(t);
    stream_end(t);
}

/* Opened ones. */

static void
open_connected(kars_stream_t *s, void *data)
{
    stream_note("connected;");
    (void) kars__api.stream_write(s, KARS_STR("hi"));
}

static const kars_stream_handler_t open_handler = {
    .size = sizeof(open_handler),
    .connected = open_connected,
    .readable = proto_readable,
    .closed = proto_closed,
};

static void
stream_dial(t_loop_t *t)
{
    stream_saw[0] = '\0';
    kars__mod_now = t->cycle->mods[1];
    stream_now =
        kars__api.stream_open(t->cycle, stream_up, &open_handler, NULL);
    kars__mod_now = NULL;
    CU_ASSERT_PTR_NOT_NULL_FATAL(stream_now);
    t_run(t);
}

static void
test_stream_open(void)
{
    static const int refused[] = { ECONNREFUSED, ECONNREFUSED };
    t_loop_t *t = stream_begin();

    stream_dial(t);
    CU_ASSERT_STRING_EQUAL(t_upstream_got(t, 0), "hi");
    t_upstream_reply(t, "hello");
    CU_ASSERT_STRING_EQUAL(stream_saw, "connected;read hello;");
    t_advance_ms(t, 9500); /* the upstream's idle time */
    CU_ASSERT_PTR_NOT_NULL(strstr(stream_saw, "closed 110;"));
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));

    t_connects(t, refused, 2);
    stream_dial(t);
    CU_ASSERT_STRING_EQUAL(stream_saw, "closed 111;");

    stream_dial(t); /* still open when the cycle ends */
    t_client_gone(t);
    stream_end(t);
    CU_ASSERT_STRING_EQUAL(stream_saw, "connected;closed 104;closed 125;");
}

static void
test_stream_survives_each_allocation_failing(void)
{
    for (uint64_t n = 1; n < 80; n++) {
        t_loop_t *t = stream_begin();

        stream_take = 0;
        kars__pool_fail_at(n);
        t_request(t, "hello");
        if (stream_now != NULL && t_is_open(t->client)) {
            (void) stream_ask("good:1");
            t_run(t);
        }
        kars__pool_fail_at(0);
        if (t_is_open(t->client)) {
            t_client_gone(t);
        }
        t_advance_ms(t, 60000);
        stream_end(t);
    }
}

void
suite_stream(void)
{
    T_SUITE(stream);
    T_TEST(stream, test_stream_tells_its_handler);
    T_TEST(stream, test_stream_refused_is_told_no_more);
    T_TEST(stream, test_stream_keeps_what_is_not_taken);
    T_TEST(stream, test_stream_reads_no_more_than_it_may);
    T_TEST(stream, test_stream_write_says_when_it_is_full);
    T_TEST(stream, test_stream_idle_time);
    T_TEST(stream, test_stream_decide_and_tunnel);
    T_TEST(stream, test_stream_refusals_are_logged_once);
    T_TEST(stream, test_stream_decision_that_waits);
    T_TEST(stream, test_stream_http_after_all);
    T_TEST(stream, test_stream_open);
    T_TEST(stream, test_stream_survives_each_allocation_failing);
}
