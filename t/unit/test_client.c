/*
 * test_client.c - replies of upstreams: every cut, every framing, every end.
 */
#include "loop.h"

#include <arpa/inet.h>
#include <errno.h>

static const char client_conf[] =
    "upstream up { server 10.0.0.1:80; server 10.0.0.2:80; retry 1;"
    "  timeout connect=2s first_byte=5s idle=3s total=60s;"
    "  keepalive 2 idle=20s; }"
    "server { listen 127.0.0.1:1; timeout send=900s;"
    "route * / { pass up; } }";

static const char client_one[] =
    "upstream up { server 10.0.0.1:80; retry 0; }"
    "server { listen 127.0.0.1:1; route * / { pass up; } }";

#define GET  "GET / HTTP/1.1\r\nhost: x\r\n\r\n"
#define HEAD "HEAD / HTTP/1.1\r\nhost: x\r\n\r\n"
#define OK   "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"

/* Sends the reply in two pieces, then ends the connection where it must. */
static t_loop_t *
client_run(const char *request, const char *reply, size_t cut, int ends)
{
    t_loop_t *t = t_loop(client_one, &t_open);
    t_end_t *up;

    t_request(t, request);
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1);
    up = t_upstream(t, 0);
    t_append(&up->in, reply, cut);
    t_run(t);
    t_append(&up->in, reply + cut, strlen(reply + cut));
    t_run(t);
    if (ends) {
        t_upstream_gone(t, 0);
    }
    return t;
}

/* clang-format off */
static const struct {
    const char *reply;
    int ends;   /* the upstream closes after it */
    int status; /* of our answer; -1: it breaks off */
    const char *body;
    int kept;   /* its connection, for the next one */
} replies[] = {
    { OK, 0, 200, "hello", 1 },
    { "HTTP/1.1 201 OK\r\ncontent-length: 0\r\n\r\n", 0, 201, "", 1 },
    { "HTTP/1.1 204 OK\r\n\r\n", 0, 204, "", 1 },
    { "HTTP/1.1 304 OK\r\ncontent-length: 5\r\n\r\n", 0, 304, "", 1 },
    { "HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno", 0, 500, "no", 1 },
    { "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n", 0, 200, "hello", 1 },
    { "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n", 0, 200, "hello", 1 },
    { "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 0, 200, "", 1 },
    { "HTTP/1.1 200 OK\r\n\r\nhello", 1, 200, "hello", 0 },
    { "HTTP/1.0 200 OK\r\n\r\nhello", 1, 200, "hello", 0 },
    { "HTTP/1.1 200 OK\r\n\r\n", 1, 200, "", 0 },
    { "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", 0, 200, "hello", 0 },
    { "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello", 0, 200, "hello", 0 },
    { OK "x", 0, 200, "hello", 0 }, /* more than it said */
    { "HTTP/1.1 100 Continue\r\n\r\n" OK, 0, 200, "hello", 1 },
    { "HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" OK, 0, 200, "hello", 1 },
    { "HTTP/1.1 101 Switch\r\nupgrade: x\r\n\r\n", 0, 502, NULL, 0 },
    { "", 1, 502, NULL, 0 },
    { "HTTP/1.1 200 OK\r\ncontent-le", 1, 502, NULL, 0 },
    { "HTTP/1.1 100 Continue\r\n\r\n", 1, 502, NULL, 0 },
    { "SSH-2.0-x\r\n\r\n", 0, 502, NULL, 0 },
    { "HTTP/2.0 200 OK\r\n\r\n", 0, 502, NULL, 0 },
    { "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", 0, 502, NULL, 0 },
    { "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 0, 502, NULL, 0 },
    { "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 0, 502, NULL, 0 },
    { "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 0, 502, NULL, 0 },
    { "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", 0, 502, NULL, 0 },
    { "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel", 1, -1, NULL, 0 },
    { "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", 1, -1, NULL, 0 },
    { "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", 1, -1, NULL, 0 },
    { "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloxx", 0, -1, NULL, 0 },
    { "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 0, -1, NULL, 0 },
};
/* clang-format on */

static void
test_client_takes_replies_at_every_cut(void)
{
    for (size_t i = 0; i < KARS_NELTS(replies); i++) {
        for (size_t cut = 0; cut <= strlen(replies[i].reply); cut++) {
            t_loop_t *t =
                client_run(GET, replies[i].reply, cut, replies[i].ends);

            T_CASE(replies[i].reply);
            if (replies[i].status == -1) {
                /* never a whole one, unless none of it had left */
                CU_ASSERT_TRUE(t_answers(t) == 0 || t_status(t) == 502);
                CU_ASSERT_TRUE(t_answers(t) == 1 || !t_is_open(t->client));
            } else {
                CU_ASSERT_EQUAL(t_status(t), replies[i].status);
                CU_ASSERT_EQUAL(t_answers(t), 1);
            }
            if (replies[i].body != NULL) {
                CU_ASSERT_STRING_EQUAL(t_body(t), replies[i].body);
            }
            CU_ASSERT_EQUAL(t_is_open(t_upstream(t, 0)), replies[i].kept);
            t_loop_destroy(t);
        }
    }
}

static void
test_client_reads_no_body_of_head(void)
{
    t_loop_t *t =
        client_run(HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", 3, 0);

    CU_ASSERT_EQUAL(t_status(t), 200);
    CU_ASSERT_STRING_EQUAL(t_header(t, "content-length"), "5");
    CU_ASSERT_TRUE(t_is_open(t_upstream(t, 0)));
    t_loop_destroy(t);
}

static void
test_client_bounds_a_head(void)
{
    t_loop_t *t = t_loop(client_one, &t_open);
    char junk[4096];

    memset(junk, 'x', sizeof(junk));
    t_request(t, GET);
    t_upstream_reply(t, "HTTP/1.1 200 OK\r\nA: ");
    for (int i = 0; i < 64 && t_is_open(t_upstream(t, 0)); i++) {
        t_append(&t_upstream(t, 0)->in, junk, sizeof(junk));
        t_run(t);
    }
    CU_ASSERT_EQUAL(t_status(t), 502);
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
    CU_ASSERT_TRUE(t_upstream(t, 0)->in_at <= 160 * 1024);
    t_loop_destroy(t);
}

static void
test_client_uses_a_connection_again(void)
{
    t_loop_t *t = t_loop(client_one, &t_open);

    for (int i = 0; i < 5; i++) {
        t_request(t, GET);
        CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1);
        t_upstream_reply(t, OK);
        CU_ASSERT_EQUAL(t_answers(t), i + 1);
    }
    t_loop_destroy(t);
}

/* clang-format off */
static const struct { const char *name; const char *bytes; int eof; int error; } stales[] = {
    { "closed", "", 1, 0 }, { "reset", "", 0, ECONNRESET }, { "talks", "x", 0, 0 },
};
/* clang-format on */

static void
test_client_leaves_a_stale_connection(void)
{
    for (size_t i = 0; i < KARS_NELTS(stales); i++) {
        for (int seen = 0; seen < 2; seen++) {
            t_loop_t *t = t_loop(client_one, &t_open);
            t_end_t *up;

            T_CASE(stales[i].name);
            t_request(t, GET);
            t_upstream_reply(t, OK);
            up = t_upstream(t, 0);
            t_append(&up->in, stales[i].bytes, strlen(stales[i].bytes));
            up->eof = stales[i].eof;
            up->error = stales[i].error;
            if (seen) { /* the loop noticed before the next request */
                t_run(t);
                CU_ASSERT_FALSE(t_is_open(up));
            }
            t_request(t, GET);
            CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 2);
            t_upstream_reply(t, OK);
            CU_ASSERT_EQUAL(t_answers(t), 2);
            CU_ASSERT_EQUAL(t_status(t), 200);
            t_loop_destroy(t);
        }
    }
}

static void
test_client_closes_idle_connections(void)
{
    t_loop_t *t = t_loop(client_conf, &t_open);

    t_request(t, GET);
    t_upstream_reply(t, OK);
    t_advance_ms(t, 19999);
    CU_ASSERT_TRUE(t_is_open(t_upstream(t, 0)));
    t_advance_ms(t, 1);
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
    t_loop_destroy(t);
}

static void
test_client_keeps_no_more_than_keepalive(void)
{
    t_loop_t *t = t_loop("upstream up { server 10.0.0.1:80; keepalive 2; }"
                         "server { listen 127.0.0.1:1;"
                         "route * / { pass up; } }",
                         &t_open);
    int open = 0;

    for (int i = 0; i < 4; i++) {
        (void) t_client(t);
        t_request(t, GET);
    }
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 4);
    for (int i = 0; i < 4; i++) {
        t_append(&t_upstream(t, i)->in, OK, strlen(OK));
        t_run(t);
    }
    for (int i = 0; i < 4; i++) {
        open += t_is_open(t_upstream(t, i));
    }
    CU_ASSERT_EQUAL(open, 2);
    t_loop_destroy(t);
}

/* clang-format off */
static const struct { const char *name; int ends[3]; size_t n; int status; int made; } connects[] = {
    { "stands",                { 0 }, 1, 200, 1 },
    { "refused, then stands",  { ECONNREFUSED, 0 }, 2, 200, 2 },
    { "unreachable at once",   { T_CONNECT_FAILS(ENETUNREACH), 0 }, 2, 200, 1 },
    { "both refused",          { ECONNREFUSED, ECONNREFUSED }, 2, 502, 2 },
    { "none reachable",        { T_CONNECT_FAILS(EMFILE), T_CONNECT_FAILS(EMFILE) }, 2, 502, 0 },
};
/* clang-format on */

static void
test_client_tries_the_next_server(void)
{
    for (size_t i = 0; i < KARS_NELTS(connects); i++) {
        t_loop_t *t = t_loop(client_conf, &t_open);

        T_CASE(connects[i].name);
        t_connects(t, connects[i].ends, connects[i].n);
        t_request(t, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"
                     "hi");
        CU_ASSERT_EQUAL_FATAL(t_upstreams(t), connects[i].made);
        if (connects[i].status == 200) {
            const t_end_t *last = t_upstream(t, connects[i].made - 1);

            CU_ASSERT_STRING_EQUAL(t_upstream_body(t, connects[i].made - 1),
                                   "hi");
            CU_ASSERT_EQUAL(last->addr.u.in.sin_addr.s_addr >> 24,
                            connects[i].n);
            t_upstream_reply(t, OK);
        }
        CU_ASSERT_EQUAL(t_status(t), connects[i].status);
        t_loop_destroy(t);
    }
}

/* One server of several addresses: all of them, within one time-out. */
static void
test_client_tries_the_next_address(void)
{
    static const int ends[] = { ECONNREFUSED, T_CONNECT_FAILS(ENETUNREACH), 0 };
    t_loop_t *t = t_loop(client_one, &t_open);
    kars__upserver_t *s = &t->cycle->upstreams->servers[0];

    s->addrs[1] = s->addrs[2] = s->addrs[0];
    s->addrs[2].u.in.sin_port = htons(81);
    s->naddrs = 3;
    t_connects(t, ends, 3);
    t_request(t, GET);
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 2);
    CU_ASSERT_EQUAL(ntohs(t_upstream(t, 1)->addr.u.in.sin_port), 81);
    t_upstream_reply(t, OK);
    CU_ASSERT_EQUAL(t_status(t), 200);
    t_loop_destroy(t);
}

static void
test_client_times_out_connecting(void)
{
    static const int ends[] = { T_CONNECT_HANGS, T_CONNECT_HANGS };
    t_loop_t *t = t_loop(client_conf, &t_open);

    t_connects(t, ends, 2);
    t_request(t, GET);
    t_advance_ms(t, 1900);
    CU_ASSERT_EQUAL(t_upstreams(t), 1);
    t_advance_ms(t, 200);
    CU_ASSERT_EQUAL(t_upstreams(t), 2); /* the other server */
    t_advance_ms(t, 2100);
    CU_ASSERT_EQUAL(t_status(t), 504);
    t_loop_destroy(t);
}

static void
test_client_times_out_before_the_first_byte(void)
{
    t_loop_t *t = t_loop(client_conf, &t_open);

    t_request(t, GET);
    t_advance_ms(t, 4900);
    CU_ASSERT_EQUAL(t_status(t), 0);
    t_advance_ms(t, 200);
    CU_ASSERT_EQUAL(t_status(t), 504);
    CU_ASSERT_EQUAL(t_upstreams(t), 1); /* it left: not tried again */
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
    t_loop_destroy(t);
}

static void
test_client_times_out_within_a_body(void)
{
    t_loop_t *t = t_loop(client_conf, &t_open);

    t_request(t, GET);
    t_upstream_reply(t, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab");
    for (int i = 0; i < 3; i++) {
        t_advance_ms(t, 2900);
        t_upstream_reply(t, "c");
    }
    CU_ASSERT_TRUE(t_is_open(t->client));
    t_advance_ms(t, 3100);
    CU_ASSERT_FALSE(t_is_open(t->client)); /* its answer is cut, not ended */
    CU_ASSERT_EQUAL(t_answers(t), 0);
    t_loop_destroy(t);
}

static void
test_client_times_out_altogether(void)
{
    t_loop_t *t = t_loop(client_conf, &t_open);

    t_request(t, GET);
    t_upstream_reply(t, "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\nab");
    for (int i = 0; i < 29; i++) {
        t_advance_ms(t, 2000);
        t_upstream_reply(t, "c");
    }
    CU_ASSERT_TRUE(t_is_open(t->client));
    t_advance_ms(t, 2100);
    CU_ASSERT_FALSE(t_is_open(t->client));
    t_loop_destroy(t);
}

/* A client that reads slowly stops the upstream, and does not fail it. */
static void
test_client_waits_for_a_slow_reader(void)
{
    t_loop_t *t = t_loop(client_conf, &t_open);
    static char big[2 * 1024 * 1024];
    t_end_t *up;

    memset(big, 'x', sizeof(big));
    t_request(t, GET);
    t->client->room = 1000;
    up = t_upstream(t, 0);
    t_upstream_reply(t, "HTTP/1.1 200 OK\r\ncontent-length: 2097152\r\n\r\n");
    t_append(&up->in, big, sizeof(big));
    t_run(t);
    CU_ASSERT_TRUE(up->in_at < 1024 * 1024); /* back-pressure */
    t_advance_ms(t, 10000); /* more than the upstream's idle time */
    CU_ASSERT_TRUE(t_is_open(t->client));
    CU_ASSERT_TRUE(t_is_open(up));
    t->client->room = SIZE_MAX;
    t_run(t);
    CU_ASSERT_EQUAL(t_status(t), 200);
    CU_ASSERT_EQUAL(strlen(t_body(t)), sizeof(big));
    t_loop_destroy(t);
}

static void
test_client_stops_reading_a_body_that_goes_nowhere(void)
{
    t_loop_t *t = t_loop(client_conf, &t_open);
    static char big[2 * 1024 * 1024];

    memset(big, 'x', sizeof(big));
    t_request(t,
              "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2097152\r\n\r\n");
    t_upstream(t, 0)->room = 1000;
    t_append(&t->client->in, big, sizeof(big));
    t_run(t);
    CU_ASSERT_TRUE(t->client->in_at < 1024 * 1024);
    t_upstream(t, 0)->room = SIZE_MAX;
    t_run(t);
    CU_ASSERT_EQUAL(strlen(t_upstream_body(t, 0)), sizeof(big));
    t_upstream_reply(t, OK);
    CU_ASSERT_EQUAL(t_status(t), 200);
    t_loop_destroy(t);
}

/* A reply may come before the request is whole. */
static void
test_client_takes_an_early_reply(void)
{
    for (int breaks = 0; breaks < 2; breaks++) {
        t_loop_t *t = t_loop(client_one, &t_open);

        t_request(t, "POST / HTTP/1.1\r\nhost: x\r\n"
                     "content-length: 9\r\n\r\nabc");
        t_upstream(t, 0)->error = breaks ? EPIPE : 0;
        t_upstream_reply(t, "HTTP/1.1 413 Too much\r\n"
                            "content-length: 2\r\n\r\nno");
        CU_ASSERT_EQUAL(t_status(t), 413);
        CU_ASSERT_STRING_EQUAL(t_body(t), "no");
        CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0))); /* not used again */
        t_request(t, "def");
        t_client_gone(t);
        CU_ASSERT_TRUE(t_is_empty(t));
        t_loop_destroy(t);
    }
}

static void
test_client_never_sends_what_is_not_for_upstreams(void)
{
    t_loop_t *t = t_loop(client_one, &t_open);
    const char *got;

    t_request(t, "GET /?q HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s\r\n"
                 "Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nTE: gzip\r\n"
                 "X-Kars-Decision: allow\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\n"
                 "Accept-Encoding: gzip\r\nX-Other: 2\r\n\r\n");
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1);
    got = t_upstream_got(t, 0);
    CU_ASSERT_PTR_EQUAL(
        strstr(got, "GET /?q HTTP/1.1\r\nhost: 10.0.0.1:80\r\n"), got);
    CU_ASSERT_PTR_NULL(strcasestr(got, "authorization"));
    CU_ASSERT_PTR_NULL(strcasestr(got, "x-mine"));
    CU_ASSERT_PTR_NULL(strcasestr(got, "\r\nte:"));
    CU_ASSERT_PTR_NULL(strcasestr(got, "x-kars-decision"));
    CU_ASSERT_PTR_NULL(strcasestr(got, "keep-alive"));
    CU_ASSERT_PTR_NULL(strcasestr(got, "upgrade"));
    CU_ASSERT_PTR_NULL(strcasestr(got, "gzip"));
    CU_ASSERT_PTR_NOT_NULL(strcasestr(got, "accept-encoding: identity\r\n"));
    CU_ASSERT_PTR_NOT_NULL(strcasestr(got, "x-other: 2\r\n"));
    CU_ASSERT_PTR_NOT_NULL(strcasestr(got, "x-kars-trace-id: "));
    t_upstream_reply(t, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n"
                        "X-Kars-Decision: forged\r\nConnection: x-hop\r\n"
                        "X-Hop: 1\r\nX-Stays: 2\r\n\r\n");
    CU_ASSERT_PTR_NULL(t_header(t, "x-kars-decision"));
    CU_ASSERT_PTR_NULL(t_header(t, "x-hop"));
    CU_ASSERT_STRING_EQUAL(t_header(t, "x-stays"), "2");
    t_loop_destroy(t);
}

/* Goes on to the route's upstream, in the scope that a header names. */
static int
client_scoped(kars_req_t *r, const void *conf, void *ctx)
{
    kars_pass_t pass = {
        .size = sizeof(pass),
        .pool_scope = kars__api.header(r, KARS_REQUEST, KARS_STR("x-scope")),
    };

    return kars__api.pass(r, &pass);
}

static const kars_hook_t client_scoped_hooks[] = {
    { .phase = KARS_PHASE_CONTENT, .run = client_scoped },
    { 0 },
};

static const kars_module_t client_scoped_module = {
    T_MODULE_HEAD,
    .name = "scoped",
    .flags = KARS_ALWAYS,
    .hooks = client_scoped_hooks,
};

static void
test_client_keeps_scopes_apart(void)
{
    static const struct {
        const char *scope;
        int connections;
    } steps[] = { { "a", 1 }, { "a", 1 }, { "b", 2 }, { "", 3 },
                  { "a", 3 }, { "b", 3 }, { "", 3 } };
    t_loop_t *t = t_loop("upstream up { server 10.0.0.1:80; }"
                         "server { listen 127.0.0.1:1;"
                         "route * / { pass up; } }",
                         &t_open, &client_scoped_module);
    char raw[100];
    int served[4] = { 0 };

    for (size_t i = 0; i < KARS_NELTS(steps); i++) {
        int up = strcmp(steps[i].scope, "a") == 0   ? 0
                 : strcmp(steps[i].scope, "b") == 0 ? 1
                                                    : 2;

        T_CASE(steps[i].scope);
        (void) snprintf(raw, sizeof(raw),
                        "GET / HTTP/1.1\r\nhost: x\r\nx-scope: %s\r\n\r\n",
                        steps[i].scope);
        t_request(t, raw);
        CU_ASSERT_EQUAL_FATAL(t_upstreams(t), steps[i].connections);
        t_append(&t_upstream(t, up)->in, OK, sizeof(OK) - 1);
        t_run(t);
        served[up]++;
        CU_ASSERT_EQUAL(t_answers(t), (int) i + 1);
    }
    CU_ASSERT_EQUAL(served[0], 3);
    t_loop_destroy(t);
}

void
suite_client(void)
{
    T_SUITE(client);
    T_TEST(client, test_client_takes_replies_at_every_cut);
    T_TEST(client, test_client_reads_no_body_of_head);
    T_TEST(client, test_client_bounds_a_head);
    T_TEST(client, test_client_uses_a_connection_again);
    T_TEST(client, test_client_leaves_a_stale_connection);
    T_TEST(client, test_client_closes_idle_connections);
    T_TEST(client, test_client_keeps_no_more_than_keepalive);
    T_TEST(client, test_client_keeps_scopes_apart);
    T_TEST(client, test_client_tries_the_next_server);
    T_TEST(client, test_client_tries_the_next_address);
    T_TEST(client, test_client_times_out_connecting);
    T_TEST(client, test_client_times_out_before_the_first_byte);
    T_TEST(client, test_client_times_out_within_a_body);
    T_TEST(client, test_client_times_out_altogether);
    T_TEST(client, test_client_waits_for_a_slow_reader);
    T_TEST(client, test_client_stops_reading_a_body_that_goes_nowhere);
    T_TEST(client, test_client_takes_an_early_reply);
    T_TEST(client, test_client_never_sends_what_is_not_for_upstreams);
}
