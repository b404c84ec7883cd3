/*
 * test_http2.c - HTTP/2 connections in memory: every cut, clock and manner of
 * a client, and what many requests at once may cost.
 */
#include "h2client.h"
#include "http/http2_session.h"

#include <errno.h>

static const char http2_conf[] =
    "body_memory 200k wait=10s;"
    "upstream up { server 10.0.0.1:80; }"
    "server { listen 127.0.0.1:1; header_limit 2k; http2_limit resets=20;"
    "timeout header=10s body=30s idle=75s send=20s;"
    "route GET / { respond 200 hello; }"
    "route GET /empty { respond 204; }"
    "route * /up { pass up; }"
    "route POST /gated { gate on; pass up; } }";

#define OK_REPLY "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
#define PREFACE  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

static char http2_cookie[64];
static char http2_host[64];

static int
http2_seen_admit(kars_req_t *r, const void *conf, void *ctx)
{
    (void) snprintf(
        http2_cookie, sizeof(http2_cookie), "%.*s",
        KARS_STR_ARG(kars__api.header(r, KARS_REQUEST, KARS_STR("cookie"))));
    (void) snprintf(
        http2_host, sizeof(http2_host), "%.*s",
        KARS_STR_ARG(kars__api.header(r, KARS_REQUEST, KARS_STR("host"))));
    return KARS_OK;
}

static const kars_hook_t http2_gate_hooks[] = {
    { .phase = KARS_PHASE_ADMIT,
      .run = http2_seen_admit,
      .flags = KARS_NEEDS_BODY },
    { 0 },
};

static const kars_directive_t http2_gate_directives[] = {
    { .name = "gate",
      .at = KARS_AT_ROUTE,
      .type = KARS_T_FLAG,
      .doc = "makes the route wait for its body" },
    { 0 },
};

static const kars_module_t http2_gate = {
    T_MODULE_HEAD,
    .name = "gate",
    .conf_size = sizeof(int32_t),
    .directives = http2_gate_directives,
    .hooks = http2_gate_hooks,
};

static t_loop_t *
http2_loop(void)
{
    return t_loop(http2_conf, &t_open, &http2_gate);
}

static void
http2_done(h2_t *h)
{
    t_loop_t *t = h->t;

    CU_ASSERT_FALSE(h->broken);
    h2_close(h);
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
}

/* What a client would send: its bytes, for another one to send in pieces. */
static t_bytes_t
http2_talk(void)
{
    t_loop_t *t = http2_loop();
    h2_t *h = h2_open(t);
    t_bytes_t talk = { 0 };

    (void) h2_get(h, "/");
    (void) h2_post(h, "/", "abc");
    (void) h2_get(h, "/empty");
    t_append(&talk, h->end->in.data, h->end->in.len);
    CU_ASSERT_EQUAL(h->streams[1].status, 404);
    http2_done(h);
    return talk;
}

static int
http2_heads(const t_end_t *e)
{
    int heads = 0;

    for (size_t at = 0; at + 9 <= e->out.len;) {
        const unsigned char *f = (const unsigned char *) e->out.data + at;

        heads += f[3] == NGHTTP2_HEADERS;
        at += 9u + ((size_t) f[0] << 16 | (size_t) f[1] << 8 | f[2]);
    }
    return heads;
}

static void
test_http2_takes_a_talk_at_every_cut(void)
{
    t_bytes_t talk = http2_talk();

    for (size_t cut = 0; cut <= talk.len; cut++) {
        t_loop_t *t = http2_loop();

        (void) t_client(t);
        t_send(t, t->client, talk.data, cut);
        t_send(t, t->client, talk.data + cut, talk.len - cut);
        CU_ASSERT_EQUAL(http2_heads(t->client), 3);
        CU_ASSERT_TRUE(t_is_open(t->client));
        t_client_gone(t);
        CU_ASSERT_TRUE(t_is_empty(t));
        t_loop_destroy(t);
    }
    free(talk.data);
}

static void
test_http2_takes_a_talk_byte_by_byte(void)
{
    t_bytes_t talk = http2_talk();
    t_loop_t *t = http2_loop();

    (void) t_client(t);
    t->client->recv_max = 1;
    t->client->room = 0;
    t_append(&t->client->in, talk.data, talk.len);
    for (int n = 0; n < 2000; n++) {
        t->client->room = 1; /* and answered so */
        t_run(t);
    }
    CU_ASSERT_EQUAL(http2_heads(t->client), 3);
    t_client_gone(t);
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
    free(talk.data);
}

static void
test_http2_client_may_go_at_every_byte(void)
{
    t_bytes_t talk = http2_talk();

    for (int error = 0; error < 2; error++) {
        for (size_t cut = 0; cut <= talk.len; cut += 3) {
            t_loop_t *t = http2_loop();

            (void) t_client(t);
            t_append(&t->client->in, talk.data, cut);
            *(error ? &t->client->error : &t->client->eof) =
                error ? ECONNRESET : 1;
            t_run(t);
            CU_ASSERT_TRUE(t_is_empty(t));
            t_loop_destroy(t);
        }
    }
    free(talk.data);
}

static void
test_http2_without_memory_ends_well(void)
{
    t_bytes_t talk = http2_talk();

    for (uint64_t nth = 1; nth < 60; nth++) {
        t_loop_t *t = http2_loop();

        (void) t_client(t);
        kars__pool_fail_at(nth);
        t_send(t, t->client, talk.data, talk.len);
        kars__pool_fail_at(0);
        t_client_gone(t);
        CU_ASSERT_TRUE(t_is_empty(t));
        t_loop_destroy(t);
    }
    free(talk.data);
}

static void
test_http2_off_is_http1(void)
{
    t_loop_t *t =
        t_loop("http2 off; route GET / { respond 200 hello; }", &t_open);

    t_request(t, PREFACE);
    CU_ASSERT_EQUAL(t_status(t), 505);
    t_loop_destroy(t);
}

static void
test_http2_is_decided_by_the_first_bytes_alone(void)
{
    t_loop_t *t = http2_loop();

    t_request(t, "P");
    CU_ASSERT_EQUAL(t_status(t), 0);
    t_request(t, "OST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    CU_ASSERT_EQUAL(t_status(t), 404);
    t_request(t, PREFACE); /* not after a request */
    CU_ASSERT_EQUAL(t_status(t), 505);
    t_loop_destroy(t);
}

static void
test_http2_joins_cookies_and_knows_its_host(void)
{
    static const char *const more[] = { "cookie: a=b", "x-other: y",
                                        "cookie: c=d", "cookie: e=f", NULL };
    h2_t *h = h2_open(http2_loop());
    int32_t id = h2_begin(h, "POST", "/gated", more, 0);

    h2_data(h, id, "{}", 2, 1);
    CU_ASSERT_STRING_EQUAL(http2_cookie, "a=b; c=d; e=f");
    CU_ASSERT_STRING_EQUAL(http2_host, "x");
    t_upstream_reply(h->t, OK_REPLY);
    h2_run(h);
    CU_ASSERT_EQUAL(h2_stream(h, id)->status, 200);
    CU_ASSERT_PTR_NULL(strstr(t_upstream_got(h->t, 0), "transfer-encoding"));
    http2_done(h);
}

static void
test_http2_bodies_of_no_known_length_go_on_in_chunks(void)
{
    static const char *const more[] = { "content-length: 3", NULL };
    h2_t *h = h2_open(http2_loop());

    for (int known = 0; known < 2; known++) {
        int32_t id = h2_begin(h, "POST", "/up", known ? more : NULL, 0);

        h2_data(h, id, "abc", 3, 1);
        CU_ASSERT_EQUAL(t_upstreams(h->t), 1);
        CU_ASSERT_STRING_EQUAL(t_upstream_body(h->t, 0), known ? "abc" : "");
        CU_ASSERT_PTR_NOT_NULL(
            strstr(t_upstream_got(h->t, 0),
                   known ? "content-length: 3\r\n" : "3\r\nabc\r\n0\r\n\r\n"));
        t_upstream_reply(h->t, OK_REPLY);
        h2_run(h);
        CU_ASSERT_STRING_EQUAL(h2_stream(h, id)->body.data, "hi");
    }
    http2_done(h);
}

static void
test_http2_refuses_a_length_before_a_gate_is_passed(void)
{
    static const char *const more[] = { "content-length: 5", NULL };
    h2_t *h = h2_open(http2_loop());
    int32_t id = h2_begin(h, "POST", "/gated", more, 0);

    h2_data(h, id, "{}", 2, 1);
    CU_ASSERT_EQUAL(h2_stream(h, id)->error, NGHTTP2_PROTOCOL_ERROR);
    CU_ASSERT_EQUAL(t_upstreams(h->t), 0);
    CU_ASSERT_PTR_NOT_NULL(
        strstr(t_log(h->t), "the body is not what its head"));
    http2_done(h);
}

/* Clocks. */

static void
test_http2_slow_head_times_out(void)
{
    h2_t *h = h2_open(http2_loop());

    h2_raw(h, NGHTTP2_HEADERS, 0, 1, "\x82", 1); /* CONTINUATION follows */
    t_advance_ms(h->t, 9900);
    CU_ASSERT_TRUE(t_is_open(h->end));
    t_advance_ms(h->t, 200);
    CU_ASSERT_FALSE(t_is_open(h->end));
    http2_done(h);
}

static void
test_http2_slow_preface_times_out(void)
{
    t_loop_t *t = http2_loop();

    t_request(t, "PRI * HTTP/2.0\r\n\r\nSM");
    t_advance_ms(t, 10100);
    CU_ASSERT_FALSE(t_is_open(t->client));
    t_loop_destroy(t);
}

static void
test_http2_idle_connection_is_told_before_it_closes(void)
{
    h2_t *h = h2_open(http2_loop());

    CU_ASSERT_EQUAL(h2_stream(h, h2_get(h, "/"))->status, 200);
    t_advance_ms(h->t, 74000);
    h2_raw(h, NGHTTP2_PING, 0, 0, "12345678", 8); /* keeps nothing alive */
    CU_ASSERT_EQUAL(h->goaways, 0);
    t_advance_ms(h->t, 1100);
    h2_run(h);
    CU_ASSERT_EQUAL(h->goaways, 1);
    CU_ASSERT_EQUAL(h->error, NGHTTP2_NO_ERROR);
    CU_ASSERT_EQUAL(h->last_id, 1);
    CU_ASSERT_TRUE(h->end->shut);
    t_advance_ms(h->t, 2100);
    CU_ASSERT_FALSE(t_is_open(h->end));
    http2_done(h);
}

static void
test_http2_body_that_does_not_come_is_408(void)
{
    h2_t *h = h2_open(http2_loop());
    int32_t id = h2_begin(h, "POST", "/gated", NULL, 0);
    int32_t other = h2_begin(h, "POST", "/gated", NULL, 0);

    h2_data(h, id, "{", 1, 0);
    t_advance_ms(h->t, 20000);
    h2_data(h, other, "{", 1, 0);
    t_advance_ms(h->t, 10100);
    h2_run(h);
    CU_ASSERT_EQUAL(h2_stream(h, id)->status, 408);
    CU_ASSERT_EQUAL(h2_stream(h, other)->status, 0); /* has its own clock */
    t_advance_ms(h->t, 2100);
    h2_run(h);
    CU_ASSERT_TRUE(h2_stream(h, id)->closed); /* what was to come is unwanted */
    CU_ASSERT_EQUAL(h2_stream(h, id)->error, NGHTTP2_NO_ERROR);
    http2_done(h);
}

static void
test_http2_stream_that_takes_nothing_times_out_alone(void)
{
    h2_t *h = h2_open_window(http2_loop(), 3);
    int32_t id = h2_get(h, "/"), slow;

    CU_ASSERT_STRING_EQUAL(h2_stream(h, id)->body.data, "hel");
    h2_take(h, id, 10);
    CU_ASSERT_STRING_EQUAL(h2_stream(h, id)->body.data, "hello");
    CU_ASSERT_TRUE(h2_stream(h, id)->ended);
    slow = h2_get(h, "/");
    t_advance_ms(h->t, 15000);
    h2_take(h, slow, 1); /* it moves: the clock begins again */
    t_advance_ms(h->t, 15000);
    h2_run(h);
    CU_ASSERT_FALSE(h2_stream(h, slow)->closed);
    t_advance_ms(h->t, 5100);
    h2_run(h);
    CU_ASSERT_TRUE(h2_stream(h, slow)->closed);
    CU_ASSERT_STRING_EQUAL(h2_stream(h, slow)->body.data, "hell");
    CU_ASSERT_EQUAL(h2_stream(h, h2_get(h, "/empty"))->status, 204);
    http2_done(h);
}

static void
test_http2_connection_that_takes_nothing_times_out(void)
{
    h2_t *h = h2_open(http2_loop());

    h->end->room = 4;
    (void) h2_get(h, "/");
    t_advance_ms(h->t, 19000);
    CU_ASSERT_TRUE(t_is_open(h->end));
    t_advance_ms(h->t, 1100);
    CU_ASSERT_FALSE(t_is_open(h->end));
    h->broken = 0;
    http2_done(h);
}

/* Back-pressure. */

static void
test_http2_unread_stream_holds_its_upstream_back(void)
{
    h2_t *h = h2_open_window(http2_loop(), 1000);
    int32_t id = h2_get(h, "/up");
    char piece[4096];
    t_end_t *up;

    memset(piece, 'x', sizeof(piece));
    t_upstream_reply(h->t,
                     "HTTP/1.1 200 OK\r\ncontent-length: 4096000\r\n\r\n");
    up = t_upstream(h->t, 0);
    for (int i = 0; i < 1000; i++) {
        t_append(&up->in, piece, sizeof(piece));
    }
    t_run(h->t);
    h2_run(h);
    CU_ASSERT_EQUAL(h2_stream(h, id)->body.len, 1000);
    CU_ASSERT_TRUE(up->in_at < 600 * 1024); /* the rest waits there */
    for (int i = 0; i < 50; i++) {          /* others do not wait for it */
        CU_ASSERT_EQUAL(h2_stream(h, h2_get(h, "/empty"))->status, 204);
    }
    h2_take(h, id, 8000000);
    CU_ASSERT_TRUE(h2_stream(h, id)->ended);
    CU_ASSERT_EQUAL(h2_stream(h, id)->body.len, 4096000);
    http2_done(h);
}

static void
test_http2_bodies_are_held_within_body_memory(void)
{
    h2_t *h = h2_open(http2_loop());
    char piece[16384];
    int32_t ids[6];

    memset(piece, ' ', sizeof(piece));
    for (int i = 0; i < 6; i++) { /* 6 * 48k: more than there is */
        ids[i] = h2_begin(h, "POST", "/gated", NULL, 0);
        for (int n = 0; n < 3; n++) {
            h2_data(h, ids[i], piece, sizeof(piece), 0);
        }
    }
    CU_ASSERT_TRUE(h->t->cycle->body_held > 200 * 1024);
    CU_ASSERT_TRUE(h->t->cycle->body_held <= 6 * 3 * sizeof(piece));
    t_advance_ms(h->t, 10100); /* nobody gives: those that wait are refused */
    h2_run(h);
    CU_ASSERT_EQUAL(h2_stream(h, ids[0])->status, 0);
    CU_ASSERT_EQUAL(h2_stream(h, ids[5])->status, 503);
    CU_ASSERT_TRUE(h->t->cycle->body_held <= 200 * 1024);
    h2_data(h, ids[0], "{}", 2, 1);
    CU_ASSERT_EQUAL(t_upstreams(h->t), 1);
    http2_done(h);
}

static void
test_http2_small_pieces_ahead_of_their_time_are_cheap(void)
{
    static const int ends[] = { 0, T_CONNECT_HANGS };
    h2_t *h = h2_open(http2_loop());

    t_connects(h->t, ends, KARS_NELTS(ends));
    int32_t first = h2_begin(h, "POST", "/up", NULL, 0);
    int32_t id;

    CU_ASSERT_EQUAL(t_upstreams(h->t), 1);    /* its body is wanted then */
    id = h2_begin(h, "POST", "/up", NULL, 0); /* and this one's is not */
    for (int i = 0; i < 3000; i++) {
        h2_raw(h, NGHTTP2_DATA, 0, id, "x", 1);
    }
    CU_ASSERT_EQUAL(h->t->cycle->body_held, 3000);
    h2_data(h, first, "a", 1, 1);
    CU_ASSERT_PTR_NOT_NULL(strstr(t_upstream_got(h->t, 0), "1\r\na\r\n0\r\n"));
    http2_done(h);
}

/* Limits. */

static void
test_http2_resets_are_counted_in_a_span(void)
{
    h2_t *h = h2_open(http2_loop());

    for (int span = 0; span < 3; span++) {
        for (int i = 0; i < 20; i++) {
            h2_cancel(h, h2_get(h, "/up"));
        }
        CU_ASSERT_EQUAL(h->goaways, 0);
        t_advance_ms(h->t, 10000);
    }
    for (int i = 0; i < 21; i++) {
        h2_cancel(h, h2_get(h, "/up"));
    }
    CU_ASSERT_EQUAL(h->goaways, 1);
    CU_ASSERT_EQUAL(h->error, NGHTTP2_ENHANCE_YOUR_CALM);
    CU_ASSERT_PTR_NOT_NULL(strstr(t_log(h->t), "too many of these: resets"));
    CU_ASSERT_TRUE(h->end->shut);
    http2_done(h);
}

static void
test_http2_answered_requests_are_no_resets(void)
{
    h2_t *h = h2_open(http2_loop());

    for (int i = 0; i < 100; i++) {
        int32_t id = h2_begin(h, "POST", "/", NULL, 0); /* refused: 404 */

        CU_ASSERT_EQUAL(h2_stream(h, id)->status, 404);
        h2_cancel(h, id); /* the body that nobody wants */
    }
    CU_ASSERT_EQUAL(h->goaways, 0);
    http2_done(h);
}

static void
test_http2_cancel_ends_the_exchange(void)
{
    h2_t *h = h2_open(http2_loop());
    int32_t id = h2_get(h, "/up");

    CU_ASSERT_TRUE(t_is_open(t_upstream(h->t, 0)));
    h2_cancel(h, id);
    CU_ASSERT_FALSE(t_is_open(t_upstream(h->t, 0)));
    http2_done(h);
}

static void
test_http2_upstream_that_breaks_resets_its_stream(void)
{
    h2_t *h = h2_open(http2_loop());
    int32_t id = h2_get(h, "/up");

    t_upstream_reply(h->t, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi");
    t_upstream_gone(h->t, 0);
    h2_run(h);
    CU_ASSERT_TRUE(h2_stream(h, id)->closed);
    CU_ASSERT_EQUAL(h2_stream(h, id)->error, NGHTTP2_INTERNAL_ERROR);
    CU_ASSERT_EQUAL(h2_stream(h, h2_get(h, "/"))->status, 200);
    http2_done(h);
}

/* Drain. */

static int http2_drained;

static void
http2_on_drained(kars_cycle_t *cycle)
{
    http2_drained++;
}

static void
test_http2_drains(void)
{
    for (int force = 0; force < 2; force++) {
        h2_t *h = h2_open(http2_loop());
        int32_t id = h2_get(h, "/up"), late;

        http2_drained = 0;
        h->t->cycle->drained = http2_on_drained;
        kars__conn_drain(h->t->cycle, force);
        late = h2_get(h, "/"); /* sent before the client heard of it */
        CU_ASSERT_EQUAL(h2_stream(h, late)->status, 200);
        CU_ASSERT_EQUAL(h->goaways, 2); /* notice, PING, the one that counts */
        CU_ASSERT_EQUAL(h->last_id, late);
        CU_ASSERT_FALSE(h->end->shut);
        CU_ASSERT_EQUAL(http2_drained, 0);
        t_upstream_reply(h->t, OK_REPLY);
        h2_run(h);
        CU_ASSERT_STRING_EQUAL(h2_stream(h, id)->body.data, "hi");
        CU_ASSERT_TRUE(h->end->shut);
        h->end->eof = 1;
        t_run(h->t);
        CU_ASSERT_EQUAL(http2_drained, 1);
        h->t->cycle->drained = NULL;
        http2_done(h);
    }
}

static void
test_http2_idle_connection_goes_at_once_when_nobody_follows(void)
{
    h2_t *h = h2_open(http2_loop());

    kars__conn_drain(h->t->cycle, 1);
    h2_run(h);
    CU_ASSERT_TRUE(h->goaways > 0);
    CU_ASSERT_TRUE(h->end->shut);
    h->end->eof = 1;
    t_run(h->t);
    CU_ASSERT_EQUAL(h->t->cycle->nconns, 0);
    http2_done(h);
}

void
suite_http2(void)
{
    T_SUITE(http2);
    T_TEST(http2, test_http2_takes_a_talk_at_every_cut);
    T_TEST(http2, test_http2_takes_a_talk_byte_by_byte);
    T_TEST(http2, test_http2_client_may_go_at_every_byte);
    T_TEST(http2, test_http2_without_memory_ends_well);
    T_TEST(http2, test_http2_off_is_http1);
    T_TEST(http2, test_http2_is_decided_by_the_first_bytes_alone);
    T_TEST(http2, test_http2_joins_cookies_and_knows_its_host);
    T_TEST(http2, test_http2_bodies_of_no_known_length_go_on_in_chunks);
    T_TEST(http2, test_http2_refuses_a_length_before_a_gate_is_passed);
    T_TEST(http2, test_http2_slow_head_times_out);
    T_TEST(http2, test_http2_slow_preface_times_out);
    T_TEST(http2, test_http2_idle_connection_is_told_before_it_closes);
    T_TEST(http2, test_http2_body_that_does_not_come_is_408);
    T_TEST(http2, test_http2_stream_that_takes_nothing_times_out_alone);
    T_TEST(http2, test_http2_connection_that_takes_nothing_times_out);
    T_TEST(http2, test_http2_unread_stream_holds_its_upstream_back);
    T_TEST(http2, test_http2_bodies_are_held_within_body_memory);
    T_TEST(http2, test_http2_small_pieces_ahead_of_their_time_are_cheap);
    T_TEST(http2, test_http2_resets_are_counted_in_a_span);
    T_TEST(http2, test_http2_answered_requests_are_no_resets);
    T_TEST(http2, test_http2_cancel_ends_the_exchange);
    T_TEST(http2, test_http2_upstream_that_breaks_resets_its_stream);
    T_TEST(http2, test_http2_drains);
    T_TEST(http2, test_http2_idle_connection_goes_at_once_when_nobody_follows);
}
