/*
 * test_http1.c - connections of clients: one request after the other, whatever
 * the cuts, the clocks and the manners.
 */
#include "loop.h"

#include <errno.h>

static const char http1_conf[] =
    "upstream up { server 10.0.0.1:80; }"
    "server { listen 127.0.0.1:1; header_limit 2k; http2 off;"
    "timeout header=10s body=30s idle=75s send=20s;"
    "route GET / { respond 200 hello; }"
    "route GET /empty { respond 204; }"
    "route * /up { pass up; } }";

#define GET(path)   "GET " path " HTTP/1.1\r\nhost: x\r\n\r\n"
#define GET10(more) "GET / HTTP/1.0\r\n" more "\r\n"
#define OK          "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"

static t_loop_t *
http1_loop(void)
{
    return t_loop(http1_conf, &t_open);
}

/* clang-format off */
static const struct {
    const char *raw;
    int answers; /* that come */
    int status;  /* of the last */
    int open;    /* the connection afterwards */
} talks[] = {
    { GET("/"), 1, 200, 1 },
    { "\r\n" GET("/"), 1, 200, 1 },
    { "\r\n\r\n" GET("/"), 1, 200, 1 },
    { GET("/") GET("/"), 2, 200, 1 },
    { GET("/") GET("/none") GET("/"), 3, 200, 1 },
    { GET("/") "\r\n" GET("/"), 2, 200, 1 },
    { GET("/empty"), 1, 204, 1 },
    { GET("/empty") GET("/"), 2, 200, 1 },
    { GET10(""), 1, 200, 0 },
    { GET10("connection: keep-alive\r\n"), 1, 200, 1 },
    { GET10("connection: keep-alive\r\n") GET("/"), 2, 200, 1 },
    { "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" GET("/"), 1, 200, 0 },
    { "HEAD / HTTP/1.1\r\nhost: x\r\n\r\n", 1, 404, 1 },
    { "GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc", 1, 200, 0 },
    { "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc" GET("/"), 1, 404, 0 },
    { "BAD\r\n\r\n" GET("/"), 1, 400, 0 },
    { "GET / HTTP/1.1\r\n\r\n" GET("/"), 1, 400, 0 },
    { "GET / HTTP/1.1\nhost: x\n\n", 1, 400, 0 },
    { GET("/") "BAD\r\n\r\n", 2, 400, 0 },
    { GET("/a/../b"), 1, 400, 1 },
    { GET("/%00") GET("/"), 2, 200, 1 },
    { "GET / HTTP/3.0\r\n\r\n", 1, 505, 0 },
    { "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 1, 505, 0 },
};
/* clang-format on */

/* After an answer that ends a connection the router waits for the other side
 * to close: it counts as over once it has said that it sends no more. */
static int
http1_is_over(const t_end_t *e)
{
    return !t_is_open(e) || e->shut;
}

static void
test_http1_takes_a_talk_at_every_cut(void)
{
    for (size_t i = 0; i < KARS_NELTS(talks); i++) {
        size_t n = strlen(talks[i].raw);

        for (size_t cut = 0; cut <= n; cut++) {
            t_loop_t *t = http1_loop();

            T_CASE(talks[i].raw);
            (void) t_client(t);
            t_send(t, t->client, talks[i].raw, cut);
            t_send(t, t->client, talks[i].raw + cut, n - cut);
            CU_ASSERT_EQUAL(t_answers(t), talks[i].answers);
            CU_ASSERT_EQUAL(t_status(t), talks[i].status);
            CU_ASSERT_EQUAL(http1_is_over(t->client), !talks[i].open);
            t_client_gone(t);
            CU_ASSERT_TRUE(t_is_empty(t));
            t_loop_destroy(t);
        }
    }
}

static void
test_http1_takes_a_talk_byte_by_byte(void)
{
    for (size_t i = 0; i < KARS_NELTS(talks); i++) {
        t_loop_t *t = http1_loop();

        T_CASE(talks[i].raw);
        (void) t_client(t);
        t->client->recv_max = 1;
        t->client->room = 0;
        t_append(&t->client->in, talks[i].raw, strlen(talks[i].raw));
        for (int n = 0; n < 1000 && t->client->sock != NULL; n++) {
            t->client->room = 1; /* and answered so */
            t_run(t);
        }
        CU_ASSERT_EQUAL(t_answers(t), talks[i].answers);
        CU_ASSERT_EQUAL(t_status(t), talks[i].status);
        t_loop_destroy(t);
    }
}

static void
test_http1_head_has_no_body(void)
{
    t_loop_t *t = t_loop("route * / { respond 200 hello; }", &t_open);

    t_request(t, "HEAD / HTTP/1.1\r\nhost: x\r\n\r\n");
    CU_ASSERT_EQUAL(t_status(t), 200);
    CU_ASSERT_STRING_EQUAL(t_header(t, "content-length"), "5");
    CU_ASSERT_PTR_NULL(strstr(t_raw(t), "hello"));
    t_request(t, GET("/"));
    CU_ASSERT_PTR_NOT_NULL(strstr(t_raw(t), "\r\n\r\nhello"));
    t_loop_destroy(t);
}

static void
test_http1_204_has_neither_body_nor_length(void)
{
    t_loop_t *t = http1_loop();

    t_request(t, GET("/empty"));
    CU_ASSERT_EQUAL(t_status(t), 204);
    CU_ASSERT_PTR_NULL(t_header(t, "content-length"));
    CU_ASSERT_PTR_NULL(t_header(t, "transfer-encoding"));
    t_loop_destroy(t);
}

static void
test_http1_streams_in_chunks_or_until_close(void)
{
    static const char *const requests[] = { GET("/up"),
                                            "GET /up HTTP/1.0\r\n"
                                            "connection: keep-alive\r\n\r\n" };

    for (int old = 0; old < 2; old++) {
        t_loop_t *t = http1_loop();

        t_request(t, requests[old]);
        t_upstream_reply(t, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"
                            "\r\n2\r\nab\r\n");
        t_upstream_reply(t, "2\r\ncd\r\n");
        CU_ASSERT_STRING_EQUAL(t_body(t), "abcd"); /* at once */
        t_upstream_reply(t, "0\r\n\r\n");
        CU_ASSERT_EQUAL(t_answers(t), 1);
        CU_ASSERT_STRING_EQUAL(t_body(t), "abcd");
        CU_ASSERT_EQUAL(t_header(t, "transfer-encoding") != NULL, !old);
        CU_ASSERT_EQUAL(http1_is_over(t->client), old);
        t_loop_destroy(t);
    }
}

static void
test_http1_answers_in_order(void)
{
    t_loop_t *t = http1_loop();

    t_request(t, GET("/up") GET("/") GET("/up"));
    CU_ASSERT_EQUAL(t_answers(t), 0); /* the second waits for the first */
    CU_ASSERT_EQUAL(t_upstreams(t), 1);
    t_upstream_reply(t, OK);
    CU_ASSERT_EQUAL(t_answers(t), 2);
    t_upstream_reply(t, "HTTP/1.1 201 OK\r\ncontent-length: 0\r\n\r\n");
    CU_ASSERT_EQUAL(t_answers(t), 3);
    CU_ASSERT_EQUAL(t_status_at(t, 0), 200);
    CU_ASSERT_EQUAL(t_status_at(t, 2), 201);
    t_loop_destroy(t);
}

static void
test_http1_reads_ahead_within_bounds(void)
{
    t_loop_t *t = http1_loop();

    t_request(t, GET("/up"));
    for (int i = 0; i < 10000; i++) {
        t_append(&t->client->in, GET("/"), strlen(GET("/")));
    }
    t_run(t);
    CU_ASSERT_TRUE(t->client->in_at < 64 * 1024);
    t_upstream_reply(t, OK);
    CU_ASSERT_EQUAL(t_answers(t), 10001);
    t_loop_destroy(t);
}

static void
test_http1_bounds_a_head(void)
{
    for (int over = 0; over < 2; over++) {
        t_loop_t *t = http1_loop();
        char raw[2100];
        int n = snprintf(raw, sizeof(raw), "GET / HTTP/1.1\r\nhost: x\r\nA: ");
        size_t end = 2048 + (size_t) over;

        memset(raw + n, 'x', sizeof(raw) - (size_t) n);
        memcpy(raw + end - 4, "\r\n\r\n", 5);
        t_request(t, raw);
        CU_ASSERT_EQUAL(t_status(t), over ? 431 : 200);
        t_loop_destroy(t);

        /* one that never ends */
        t = http1_loop();
        memset(raw + n, 'x', sizeof(raw) - (size_t) n);
        raw[end] = '\0';
        t_request(t, raw);
        CU_ASSERT_EQUAL(t_status(t), over ? 431 : 0);
        t_loop_destroy(t);
    }
}

/* Clocks. */

static void
test_http1_slow_head_times_out(void)
{
    t_loop_t *t = http1_loop();
    const char *raw = GET("/");

    (void) t_client(t);
    for (int i = 0; i < 9; i++) { /* each byte does not begin anew */
        t_send(t, t->client, raw + i, 1);
        t_advance_ms(t, 1000);
    }
    CU_ASSERT_TRUE(t_is_open(t->client));
    t_advance_ms(t, 1100);
    CU_ASSERT_TRUE(http1_is_over(t->client));
    t_advance_ms(t, 3000);
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
}

static void
test_http1_silent_connection_times_out(void)
{
    t_loop_t *t = http1_loop();

    (void) t_client(t);
    t_advance_ms(t, 9900);
    CU_ASSERT_TRUE(t_is_open(t->client));
    t_advance_ms(t, 200);
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
}

static void
test_http1_idle_connection_times_out(void)
{
    t_loop_t *t = http1_loop();

    t_request(t, GET("/"));
    t_advance_ms(t, 74000);
    CU_ASSERT_TRUE(t_is_open(t->client));
    t_request(t, GET("/"));
    t_advance_ms(t, 74000);
    CU_ASSERT_TRUE(t_is_open(t->client));
    t_advance_ms(t, 2000);
    CU_ASSERT_TRUE(t_is_empty(t));
    CU_ASSERT_EQUAL(t_answers(t), 2);
    t_loop_destroy(t);
}

static void
test_http1_client_that_takes_nothing_times_out(void)
{
    t_loop_t *t = http1_loop();

    (void) t_client(t);
    t->client->room = 3;
    t_request(t, GET("/"));
    t_advance_ms(t, 19000);
    CU_ASSERT_TRUE(t_is_open(t->client));
    t_advance_ms(t, 2000);
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
}

static void
test_http1_waits_for_an_upstream_as_long_as_that_may(void)
{
    t_loop_t *t = http1_loop();

    t_request(t, GET("/up"));
    t_advance_ms(t, 500000); /* more than header, idle, send */
    CU_ASSERT_TRUE(t_is_open(t->client));
    t_upstream_reply(t, OK);
    CU_ASSERT_EQUAL(t_status(t), 200);
    t_loop_destroy(t);
}

static void
test_http1_lingers_for_what_still_comes(void)
{
    t_loop_t *t = http1_loop();
    char junk[4096];

    memset(junk, 'x', sizeof(junk));
    t_request(t, "POST /up HTTP/1.1\r\nhost: x\r\n"
                 "content-length: 999999999\r\n\r\n");
    CU_ASSERT_EQUAL(t_status(t), 413);
    CU_ASSERT_TRUE(t->client->shut);
    CU_ASSERT_TRUE(t_is_open(t->client)); /* or it would see a reset */
    t_send(t, t->client, junk, sizeof(junk));
    CU_ASSERT_EQUAL(t->client->in_at, t->client->in.len);
    CU_ASSERT_TRUE(t_is_open(t->client));
    t_client_half(t);
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);

    t = http1_loop(); /* but not for ever */
    t_request(t, "BAD\r\n\r\n");
    t_advance_ms(t, 1900);
    CU_ASSERT_TRUE(t_is_open(t->client));
    t_advance_ms(t, 200);
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);

    t = http1_loop(); /* nor for any number of bytes */
    t_request(t, "BAD\r\n\r\n");
    for (int i = 0; i < 600 && t_is_open(t->client); i++) {
        t_send(t, t->client, junk, sizeof(junk));
    }
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
}

/* Whatever is under way when it happens: all of it goes. */
static void
test_http1_client_may_go_at_every_stage(void)
{
    static const char raw[] = "POST /up HTTP/1.1\r\nhost: x\r\n"
                              "content-length: 4\r\n\r\nabcd";
    static const char reply[] = "HTTP/1.1 200 OK\r\n"
                                "transfer-encoding: chunked\r\n\r\n"
                                "4\r\nefgh\r\n0\r\n\r\n";
    size_t n = sizeof(raw) - 1, m = sizeof(reply) - 1;

    for (size_t stage = 0; stage <= n + m; stage++) {
        for (int how = 0; how < 2; how++) {
            t_loop_t *t = http1_loop();

            (void) t_client(t);
            t_send(t, t->client, raw, stage < n ? stage : n);
            if (stage > n) {
                t_append(&t_upstream(t, 0)->in, reply, stage - n);
                t_run(t);
            }
            if (how) {
                t_client_half(t);
            }
            t_client_gone(t);
            if (how && !t_is_empty(t)) {
                /* it waits for its answer; writing it finds the reset */
                t_append(&t_upstream(t, 0)->in, reply + (stage - n),
                         m - (stage - n));
                t_run(t);
            }
            CU_ASSERT_TRUE(t_is_empty(t));
            t_loop_destroy(t);
        }
    }
}

static void
test_http1_half_closed_client_gets_its_answer(void)
{
    t_loop_t *t = http1_loop();

    t_request(t, GET("/up"));
    t_client_half(t);
    CU_ASSERT_EQUAL(t->cycle->nconns, 1);
    t_upstream_reply(t, OK);
    CU_ASSERT_EQUAL(t_status(t), 200);
    CU_ASSERT_TRUE(t_is_empty(t)); /* and the connection ends with it */
    t_loop_destroy(t);
}

static void
test_http1_half_closed_client_without_its_body_is_gone(void)
{
    t_loop_t *t = http1_loop();

    t_request(t, "POST /up HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab");
    t_client_half(t);
    CU_ASSERT_TRUE(t_is_empty(t));
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
    t_loop_destroy(t);
}

static int http1_drained;

static void
http1_on_drained(kars_cycle_t *cycle)
{
    http1_drained++;
}

static void
test_http1_drains(void)
{
    t_loop_t *t = http1_loop();
    t_end_t *idle, *busy;

    http1_drained = 0;
    t->cycle->drained = http1_on_drained;
    t_request(t, GET("/"));
    idle = t->client;
    (void) t_client(t);
    busy = t->client;
    t_request(t, GET("/up"));
    kars__conn_drain(t->cycle, 1);
    t_run(t);
    CU_ASSERT_FALSE(t_is_open(idle));
    CU_ASSERT_TRUE(t_is_open(busy));
    CU_ASSERT_EQUAL(http1_drained, 0);
    t_upstream_reply(t, OK);
    CU_ASSERT_EQUAL(t_status(t), 200);
    t_client_half(t);
    t_advance_ms(t, 3000);
    CU_ASSERT_TRUE(t_is_empty(t));
    CU_ASSERT_EQUAL(http1_drained, 1);
    t_loop_destroy(t);
}

void
suite_http1(void)
{
    T_SUITE(http1);
    T_TEST(http1, test_http1_takes_a_talk_at_every_cut);
    T_TEST(http1, test_http1_takes_a_talk_byte_by_byte);
    T_TEST(http1, test_http1_head_has_no_body);
    T_TEST(http1, test_http1_204_has_neither_body_nor_length);
    T_TEST(http1, test_http1_streams_in_chunks_or_until_close);
    T_TEST(http1, test_http1_answers_in_order);
    T_TEST(http1, test_http1_reads_ahead_within_bounds);
    T_TEST(http1, test_http1_bounds_a_head);
    T_TEST(http1, test_http1_slow_head_times_out);
    T_TEST(http1, test_http1_silent_connection_times_out);
    T_TEST(http1, test_http1_idle_connection_times_out);
    T_TEST(http1, test_http1_client_that_takes_nothing_times_out);
    T_TEST(http1, test_http1_waits_for_an_upstream_as_long_as_that_may);
    T_TEST(http1, test_http1_lingers_for_what_still_comes);
    T_TEST(http1, test_http1_client_may_go_at_every_stage);
    T_TEST(http1, test_http1_half_closed_client_gets_its_answer);
    T_TEST(http1, test_http1_half_closed_client_without_its_body_is_gone);
    T_TEST(http1, test_http1_drains);
}
