/*
 * test_exchange.c - calls beside a request: streams and events, pauses, each
 * way to end, attempts, what goes on the wire; and filter_call().
 */
#include "base/secret.h"
#include "loop.h"

#include <errno.h>

#define GET "GET / HTTP/1.1\r\nhost: x\r\n\r\n"
#define SSE \
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-a: b\r\n\r\n"

typedef struct {
    kars_exchange_t *x;
    int heads;
    int status;
    char got[4096]; /* bodies as they are, events as "[name|data]" */
    int events;
    int done;
    int error;
    int pause_at;  /* the event or piece that pauses it, from 1 */
    int cancel_at; /* and that cancels it */
    int refuse_at; /* and that returns ERROR */
} seen_t;

static int
seen_more(seen_t *s, kars_exchange_t *x)
{
    s->events++;
    CU_ASSERT_EQUAL(s->done, 0);
    if (s->events == s->pause_at) {
        kars__api.exchange_pause(x, 1);
    }
    if (s->events == s->cancel_at) {
        kars__api.exchange_cancel(x);
        CU_ASSERT_EQUAL(s->done, 1);  /* inside the call */
        kars__api.exchange_cancel(x); /* harmless */
    }
    return s->events == s->refuse_at ? KARS_ERROR : KARS_OK;
}

static int
seen_head(kars_exchange_t *x, const kars_reply_t *reply, void *data)
{
    seen_t *s = data;

    CU_ASSERT_PTR_EQUAL(x, s->x);
    CU_ASSERT_EQUAL(reply->error, 0);
    s->heads++;
    s->status = reply->status;
    if (kars__api.reply_header(reply, KARS_STR("x-a")).len != 0) {
        CU_ASSERT_TRUE(kars_str_eq(
            kars__api.reply_header(reply, KARS_STR("X-A")), KARS_STR("b")));
    }
    return KARS_OK;
}

static int
seen_body(kars_exchange_t *x, kars_str_t bytes, void *data)
{
    seen_t *s = data;
    size_t n = strlen(s->got);

    CU_ASSERT_EQUAL(s->heads, 1);
    (void) snprintf(s->got + n, sizeof(s->got) - n, "%.*s",
                    KARS_STR_ARG(bytes));
    return seen_more(s, x);
}

static int
seen_event(kars_exchange_t *x, const kars_event_t *ev, void *data)
{
    seen_t *s = data;
    kars_str_t name = kars__api.event_name(ev), text = kars__api.event_data(ev);
    size_t n = strlen(s->got);

    (void) snprintf(s->got + n, sizeof(s->got) - n, "[%.*s|%.*s]",
                    KARS_STR_ARG(name), KARS_STR_ARG(text));
    return seen_more(s, x);
}

static void
seen_done(kars_exchange_t *x, int error, void *data)
{
    seen_t *s = data;

    CU_ASSERT_PTR_EQUAL(x, s->x);
    s->done++;
    s->error = error;
}

static const kars_exchange_handler_t bodies = { .size = sizeof(bodies),
                                                .head = seen_head,
                                                .body = seen_body,
                                                .done = seen_done };
static const kars_exchange_handler_t events = { .size = sizeof(events),
                                                .head = seen_head,
                                                .body = seen_body,
                                                .event = seen_event,
                                                .done = seen_done };

static t_loop_t *
exchange_loop(void)
{
    return t_loop("upstream up { server 10.0.0.1:80; server 10.0.0.2:81; "
                  "retry 1; timeout connect=2s first_byte=5s idle=3s; }"
                  "server { listen 127.0.0.1:1; }",
                  &t_open);
}

static kars_call_t
exchange_call(t_loop_t *t)
{
    return (kars_call_t){ .size = sizeof(kars_call_t),
                          .upstream = t->cycle->upstreams,
                          .method = KARS_STR("POST"),
                          .path = KARS_STR("/x?y"),
                          .bytes = KARS_STR("hello") };
}

static void
exchange_start(t_loop_t *t, const kars_call_t *call, seen_t *s, int as_events)
{
    s->x = kars__api.exchange(t->cycle, call, as_events ? &events : &bodies, s);
    CU_ASSERT_PTR_NOT_NULL_FATAL(s->x);
    CU_ASSERT_EQUAL(t_upstreams(t), 0);
    t_run(t);
}

static void
exchange_end(t_loop_t *t, const seen_t *s, int error)
{
    t_run(t);
    CU_ASSERT_EQUAL(s->done, 1);
    CU_ASSERT_EQUAL(s->error, error);
    CU_ASSERT_PTR_NULL(t->cycle->exchanges);
    t_loop_destroy(t);
    CU_ASSERT_EQUAL(s->done, 1);
}

/* clang-format off */
static const struct {
    const char *reply;
    int ends; /* then the upstream closes */
    int events;
    const char *got;
    int error;
} replies[] = {
    { "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", 0, 0, "hi", 0 },
    { "HTTP/1.1 204 OK\r\n\r\n", 0, 0, "", 0 },
    { "HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 0, 1, "hi", 0 },
    { SSE "data: a\n\nevent: e\ndata: b\ndata: c\n\n: x\n\ndata: cut", 1, 1, "[|a][e|b\nc]", 0 },
    { SSE "data: a\r\n\r\ndata: b\r\n\r\n", 1, 1, "[|a][|b]", 0 },
    { SSE "data: a\n\n", 1, 0, "data: a\n\n", 0 },
    { SSE "data: 0123456789012345678\n\n", 1, 1, "", EMSGSIZE },
    { "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi", 1, 0, "hi", ECONNRESET },
    { "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 0, 0, "", EPROTO },
    { "HTTP/1.1 200", 1, 0, "", ECONNRESET },
    { "SSH-2.0\r\n\r\n", 0, 0, "", EPROTO },
    { "", 1, 0, "", ECONNRESET },
};
/* clang-format on */

static void
test_exchange_tells_replies_at_every_cut(void)
{
    for (size_t i = 0; i < KARS_NELTS(replies); i++) {
        for (size_t cut = 0; cut <= strlen(replies[i].reply); cut++) {
            t_loop_t *t = exchange_loop();
            kars_call_t call = exchange_call(t);
            seen_t s = { 0 };
            t_end_t *up;

            T_CASE(replies[i].reply);
            call.max_body = 18;
            exchange_start(t, &call, &s, replies[i].events);
            up = t_upstream(t, 0);
            t_append(&up->in, replies[i].reply, cut);
            t_run(t);
            t_append(&up->in, replies[i].reply + cut,
                     strlen(replies[i].reply + cut));
            t_run(t);
            if (replies[i].ends && up->sock != NULL) {
                t_upstream_gone(t, 0);
            }
            CU_ASSERT_STRING_EQUAL(s.got, replies[i].got);
            exchange_end(t, &s, replies[i].error);
        }
    }
}

/* The upstream resets at each byte of its reply. */
static void
test_exchange_hears_of_a_reset_at_each_point(void)
{
    static const char reply[] = SSE "data: a\n\ndata: b\n\n";

    for (size_t cut = 0; cut < sizeof(reply); cut++) {
        t_loop_t *t = exchange_loop();
        kars_call_t call = exchange_call(t);
        seen_t s = { 0 };

        exchange_start(t, &call, &s, 1);
        t_append(&t_upstream(t, 0)->in, reply, cut);
        t_upstream(t, 0)->error = ECONNRESET;
        t_run(t);
        CU_ASSERT_EQUAL(s.heads, cut >= strlen(SSE));
        exchange_end(t, &s, ECONNRESET);
    }
}

static void
test_exchange_pauses_between_two_events(void)
{
    t_loop_t *t = exchange_loop();
    kars_call_t call = exchange_call(t);
    seen_t s = { .pause_at = 1 };

    call.idle_ms = 100;
    exchange_start(t, &call, &s, 1);
    t_upstream_reply(t, SSE "data: a\n\ndata: b\n\ndata: c\n\n");
    CU_ASSERT_STRING_EQUAL(s.got, "[|a]"); /* though all of it came */
    CU_ASSERT_FALSE(t_upstream(t, 0)->sock->wanted & KARS__READ);
    t_advance_ms(t, 60000); /* it is us who take our time */
    CU_ASSERT_EQUAL(s.done, 0);
    s.pause_at = 2;
    kars__api.exchange_pause(s.x, 0);
    CU_ASSERT_STRING_EQUAL(s.got, "[|a]"); /* not from inside the call */
    t_run(t);
    CU_ASSERT_STRING_EQUAL(s.got, "[|a][|b]");
    kars__api.exchange_pause(s.x, 0);
    t_run(t);
    CU_ASSERT_STRING_EQUAL(s.got, "[|a][|b][|c]");
    s.pause_at = 4;
    t_upstream_reply(t, "data: d\n\n");
    t_upstream_gone(t, 0);
    CU_ASSERT_EQUAL(s.done, 0); /* its end waits too */
    kars__api.exchange_pause(s.x, 0);
    exchange_end(t, &s, 0);
}

static void
test_exchange_may_be_cancelled_anywhere(void)
{
    for (int how = 0; how < 5; how++) {
        t_loop_t *t = exchange_loop();
        kars_call_t call = exchange_call(t);
        seen_t s = { .cancel_at = how == 3 ? 2 : 0,
                     .refuse_at = how == 4 ? 2 : 0 };

        s.x = kars__api.exchange(t->cycle, &call, &events, &s);
        if (how == 0) { /* before it began */
            kars__api.exchange_cancel(s.x);
            CU_ASSERT_EQUAL(t_upstreams(t), 0);
            exchange_end(t, &s, ECANCELED);
            continue;
        }
        t_run(t);
        if (how > 1) {
            t_upstream_reply(t, SSE "data: a\n\ndata: b\n\ndata: c\n\n");
        }
        if (how < 3) {
            kars__api.exchange_cancel(s.x);
        } else {
            CU_ASSERT_STRING_EQUAL(s.got, "[|a][|b]");
        }
        CU_ASSERT_EQUAL(s.done, 1);
        CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
        exchange_end(t, &s, ECANCELED);
    }
}

static void
test_exchange_ends_with_the_cycle(void)
{
    t_loop_t *t = exchange_loop();
    kars_call_t call = exchange_call(t);
    seen_t a = { 0 }, b = { 0 };

    exchange_start(t, &call, &a, 1);
    b.x = kars__api.exchange(t->cycle, &call, &events, &b);
    t_loop_destroy(t);
    CU_ASSERT_EQUAL(a.done, 1);
    CU_ASSERT_EQUAL(b.done, 1);
    CU_ASSERT_EQUAL(b.error, ECANCELED);
}

static void
test_exchange_has_limits_of_time(void)
{
    t_loop_t *t = exchange_loop();
    kars_call_t call = exchange_call(t);
    seen_t s = { 0 }, i = { 0 };

    call.timeout_ms = 1000;
    exchange_start(t, &call, &s, 1);
    t_upstream_reply(t, SSE);
    t_advance_ms(t, 900);
    t_upstream_reply(t, "data: a\n\n");
    CU_ASSERT_EQUAL(s.done, 0);
    t_advance_ms(t, 100);
    CU_ASSERT_EQUAL(s.error, ETIMEDOUT);
    CU_ASSERT_EQUAL(t->cycle->upstreams->health->failures, 0);
    CU_ASSERT_EQUAL(s.done, 1);

    call.timeout_ms = 0;
    call.idle_ms = 20000; /* more than the upstream's own */
    i.x = kars__api.exchange(t->cycle, &call, &events, &i);
    t_run(t);
    t_advance_ms(t, 19000);
    t_upstream_reply(t, SSE);
    t_advance_ms(t, 19999);
    CU_ASSERT_EQUAL(i.done, 0);
    t_advance_ms(t, 1);
    exchange_end(t, &i, ETIMEDOUT);
}

static void
test_exchange_tries_again_what_was_not_sent(void)
{
    static const int once[] = { ECONNREFUSED };
    static const int twice[] = { ECONNREFUSED, EHOSTUNREACH };
    t_loop_t *t = exchange_loop();
    kars_call_t call = exchange_call(t);
    seen_t s = { 0 }, kept = { 0 }, no = { 0 };

    t_connects(t, once, 1);
    exchange_start(t, &call, &s, 0);
    CU_ASSERT_EQUAL(t_upstreams(t), 2);
    CU_ASSERT_PTR_NOT_NULL(strstr(t_upstream_got(t, 1), "host: 10.0.0.2:81\r"));
    CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 1), "hello");
    t_upstream_reply(t, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    CU_ASSERT_EQUAL(s.done, 1);

    /* a kept connection that turns out to be closed: with the whole body */
    t->cycle->upstreams->turn = 1;
    kept.x = kars__api.exchange(t->cycle, &call, &bodies, &kept);
    t_upstream(t, 1)->room = 20;
    t_run(t);
    CU_ASSERT_EQUAL(t_upstreams(t), 2);
    t_upstream(t, 1)->error = ECONNRESET;
    t_run(t);
    CU_ASSERT_EQUAL(t_upstreams(t), 3);
    CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 2), "hello");
    t_upstream_reply(t, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    CU_ASSERT_EQUAL(kept.error, 0);
    CU_ASSERT_EQUAL(kept.done, 1);
    t_upstream_gone(t, 2);

    t_connects(t, twice, 2);
    no.x = kars__api.exchange(t->cycle, &call, &bodies, &no);
    exchange_end(t, &no, EHOSTUNREACH);
}

static void
test_exchange_runs_beside_others(void)
{
    t_loop_t *t = exchange_loop();
    kars_call_t call = exchange_call(t);
    seen_t s[8] = { 0 };

    for (size_t i = 0; i < KARS_NELTS(s); i++) {
        s[i].x = kars__api.exchange(t->cycle, &call, &events, &s[i]);
    }
    t_run(t);
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 8);
    for (int i = 7; i >= 0; i--) {
        char reply[128];

        (void) snprintf(reply, sizeof(reply), SSE "data: %d\n\n", i);
        t_append(&t_upstream(t, i)->in, reply, strlen(reply));
        t_upstream_gone(t, i);
        CU_ASSERT_EQUAL(s[i].done, 1);
        CU_ASSERT_EQUAL(s[i].got[2], '0' + i);
    }
    t_loop_destroy(t);
}

static void
test_exchange_writes_what_it_is_told(void)
{
    t_loop_t *t = exchange_loop();
    kars_header_t headers[] = {
        { KARS_STR("x-one"), KARS_STR("1") },
        { KARS_STR("Authorization"), KARS_STR("Bearer forged") },
        { KARS_STR("accept-encoding"), KARS_STR("gzip") },
        { KARS_STR("host"), KARS_STR("other") }
    };
    kars_secret_t *secret =
        kars__secret_create(t->cycle->pool, "s3cr3t", 6, NULL);
    kars_call_t call = exchange_call(t);
    seen_t s = { 0 };

    call.headers = headers;
    call.nheaders = KARS_NELTS(headers);
    call.secret_name = KARS_STR("authorization");
    call.secret_prefix = KARS_STR("Bearer ");
    call.secret = secret;
    exchange_start(t, &call, &s, 0);
    memset(headers, 0, sizeof(headers)); /* it was copied */
    CU_ASSERT_STRING_EQUAL(t_upstream_got(t, 0),
                           "POST /x?y HTTP/1.1\r\nx-one: 1\r\nhost: other\r\n"
                           "authorization: Bearer s3cr3t\r\n"
                           "accept-encoding: identity\r\n"
                           "content-length: 5\r\n\r\nhello");
    CU_ASSERT_PTR_NULL(strstr(t_log(t), "s3cr3t"));
    kars__api.exchange_cancel(s.x);
    exchange_end(t, &s, ECANCELED);
}

static void
test_exchange_refuses_what_is_no_request(void)
{
    static const kars_header_t bad[] = {
        { KARS_STR("content-length"), KARS_STR("0") },
        { KARS_STR("transfer-encoding"), KARS_STR("chunked") },
        { KARS_STR("connection"), KARS_STR("close") },
        { KARS_STR("a b"), KARS_STR("c") },
        { KARS_STR("a"), KARS_STR("b\r\nc: d") },
    };
    t_loop_t *t = exchange_loop();
    kars_call_t call = exchange_call(t), c;
    seen_t s = { 0 };

#define REFUSED(change) \
    c = call;           \
    change;             \
    CU_ASSERT_PTR_NULL(kars__api.exchange(t->cycle, &c, &bodies, &s))

    REFUSED(c.upstream = NULL);
    REFUSED(c.method = KARS_STR("GET /"));
    REFUSED(c.method = KARS_STR(""));
    REFUSED(c.path = KARS_STR("/ HTTP/1.1\r\nx: y"));
    REFUSED(c.path = KARS_STR(""));
    for (size_t i = 0; i < KARS_NELTS(bad); i++) {
        REFUSED((c.headers = &bad[i], c.nheaders = 1));
    }
    c = call;
    c.secret = kars__secret_create(t->cycle->pool, "a\r\nb", 4, NULL);
    c.secret_name = KARS_STR("x");
    CU_ASSERT_PTR_NULL(kars__api.exchange(t->cycle, &c, &bodies, &s));
    CU_ASSERT_EQUAL(s.done, 0);
    t_loop_destroy(t);
}

static void
test_exchange_keeps_scopes_apart(void)
{
    static const struct {
        const char *scope;
        int connections;
    } calls[] = { { "a", 1 }, { "a", 1 }, { "b", 2 }, { "", 3 },
                  { "", 3 },  { "b", 3 }, { "a", 3 }, { "ab", 4 } };
    t_loop_t *t = t_loop("upstream up { server 10.0.0.1:80; }"
                         "server { listen 127.0.0.1:1; }",
                         &t_open);

    for (size_t i = 0; i < KARS_NELTS(calls); i++) {
        kars_call_t call = exchange_call(t);
        seen_t s = { 0 };

        T_CASE(calls[i].scope);
        call.pool_scope = t_str(calls[i].scope);
        s.x = kars__api.exchange(t->cycle, &call, &bodies, &s);
        t_run(t);
        CU_ASSERT_EQUAL(t_upstreams(t), calls[i].connections);
        for (t_end_t *e = t->ups; e != NULL; e = e->next) {
            const char ok[] = "HTTP/1.1 204 OK\r\n\r\n";

            if (e->sock != NULL && s.done == 0 && e->out.len != 0) {
                t_append(&e->in, ok, sizeof(ok) - 1);
                e->out.len = 0;
                t_run(t);
            }
        }
        CU_ASSERT_EQUAL(s.done, 1);
    }
    t_loop_destroy(t);
}

static void
test_exchange_survives_each_failing_allocation(void)
{
    int whole = 0;

    for (uint64_t n = 1; n < 200 && !whole; n++) {
        t_loop_t *t = exchange_loop();
        kars_call_t call = exchange_call(t);
        seen_t s = { 0 };

        kars__pool_fail_at(n);
        s.x = kars__api.exchange(t->cycle, &call, &events, &s);
        t_run(t);
        if (t_upstreams(t) != 0) {
            t_upstream_reply(t, SSE "data: a\n\n");
            t_upstream_gone(t, 0);
        }
        kars__pool_fail_at(0);
        CU_ASSERT_EQUAL(s.done, s.x != NULL);
        whole = s.done && s.error == 0;
        CU_ASSERT_TRUE(s.x == NULL || whole || s.error == ENOMEM);
        t_loop_destroy(t);
    }
    CU_ASSERT_TRUE(whole);
}

/* filter_call(): the reply waits for what another upstream says of it. */

static struct {
    int called;
    int error;
    int status;
    int rc; /* what the continuation returns, with the tail released if OK */
    uint32_t flags;
} fc;

static int
fc_replied(kars_filter_t *f, const kars_reply_t *reply, const void *conf,
           void *ctx)
{
    fc.called++;
    fc.error = reply->error;
    fc.status = reply->status;
    if (reply->error != 0 || !kars_str_eq(reply->body, KARS_STR("yes"))) {
        kars_denial_t d = { .size = sizeof(d),
                            .status = 403,
                            .code = KARS_STR("content_filter") };

        return kars__api.filter_deny(f, &d);
    }
    return kars__api.filter_release(f, fc.flags);
}

static int
fc_body(kars_filter_t *f, kars_buf_t *in, uint32_t flags, const void *conf,
        void *ctx)
{
    kars_req_t *r = kars__api.filter_req(f);
    kars_call_t call = { .size = sizeof(call),
                         .upstream = r->cycle->upstreams,
                         .method = KARS_STR("POST"),
                         .path = KARS_STR("/judge"),
                         .timeout_ms = 1000,
                         .body = in };

    if (!(flags & KARS_LAST)) {
        return kars__api.filter_hold(f, in);
    }

    int rc = kars__api.filter_call(f, &call, fc_replied);

    if (rc != KARS_AGAIN) {
        return KARS_ERROR; /* no memory */
    }
    CU_ASSERT_EQUAL(kars__api.filter_call(f, &call, fc_replied), KARS_ERROR);
    CU_ASSERT_EQUAL(kars__api.filter_suspend(f, 1, NULL), 0);
    fc.flags = flags;
    (void) kars__api.filter_hold(f, in);
    return rc;
}

static int
fc_head(kars_filter_t *f, const void *conf, void *ctx)
{
    kars_call_t call = { .size = sizeof(call),
                         .upstream = kars__api.filter_req(f)->cycle->upstreams,
                         .method = KARS_STR("GET"),
                         .path = KARS_STR("/") };

    /* nothing waits there */
    CU_ASSERT_EQUAL(kars__api.filter_call(f, &call, fc_replied), KARS_ERROR);
    return KARS_OK;
}

static const kars_filter_def_t fc_filters[] = {
    { .dir = KARS_RESPONSE, .head = fc_head, .body = fc_body },
    { 0 },
};

static const kars_module_t judge = {
    T_MODULE_HEAD,
    .name = "judge",
    .flags = KARS_ALWAYS,
    .filters = fc_filters,
};

static t_loop_t *
fc_loop(void)
{
    t_loop_t *t = t_loop("upstream up { server 10.0.0.1:80; retry 0; }"
                         "server { listen 127.0.0.1:1; "
                         "route * / { respond 200 \"the answer\"; } }",
                         &t_open, &judge);

    memset(&fc, 0, sizeof(fc));
    t_request(t, GET);
    CU_ASSERT_EQUAL(t_status(t), 0);
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1);
    CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 0), "the answer");
    return t;
}

static void
fc_end(t_loop_t *t, int status, int error)
{
    CU_ASSERT_EQUAL(fc.called, status != 0);
    CU_ASSERT_EQUAL(fc.error, error);
    CU_ASSERT_EQUAL(t_status(t), status);
    if (t->client->sock != NULL) {
        t_client_gone(t);
    }
    CU_ASSERT_TRUE(t_is_empty(t));
    CU_ASSERT_PTR_NULL(t->cycle->exchanges);
    t_loop_destroy(t);
}

static void
test_exchange_of_a_filter_ends_four_ways(void)
{
    t_loop_t *t = fc_loop();

    t_upstream_reply(t, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes");
    CU_ASSERT_STRING_EQUAL(t_body(t), "the answer");
    fc_end(t, 200, 0);

    t = fc_loop();
    t_upstream_reply(t, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno");
    CU_ASSERT_PTR_NULL(strstr(t_raw(t), "the answer"));
    fc_end(t, 403, 0);

    t = fc_loop();
    t_upstream_gone(t, 0);
    fc_end(t, 403, ECONNRESET);

    t = fc_loop();
    t_advance_ms(t, 1000);
    fc_end(t, 403, ETIMEDOUT);

    t = fc_loop();
    t_client_gone(t);
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
    fc_end(t, 0, 0);

    t = fc_loop();
    t_loop_destroy(t);
    CU_ASSERT_EQUAL(fc.called, 0);
}

static void
test_exchange_of_a_filter_survives_each_failing_allocation(void)
{
    int whole = 0;

    for (uint64_t n = 1; n < 200 && !whole; n++) {
        t_loop_t *t = t_loop("upstream up { server 10.0.0.1:80; retry 0; }"
                             "server { listen 127.0.0.1:1; "
                             "route * / { respond 200 \"the answer\"; } }",
                             &t_open, &judge);

        memset(&fc, 0, sizeof(fc));
        (void) t_client(t);
        kars__pool_fail_at(n);
        t_request(t, GET);
        if (t_upstreams(t) == 1) {
            t_upstream_reply(t,
                             "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes");
        }
        kars__pool_fail_at(0);
        whole = t_status(t) == 200;
        /* unjudged it never leaves */
        CU_ASSERT_EQUAL(strstr(t_raw(t), "the answer") != NULL, whole);
        CU_ASSERT_TRUE(!whole || (fc.called == 1 && fc.error == 0));
        if (t->client->sock != NULL) {
            t_client_gone(t);
        }
        CU_ASSERT_TRUE(t_is_empty(t));
        CU_ASSERT_PTR_NULL(t->cycle->exchanges);
        t_loop_destroy(t);
    }
    CU_ASSERT_TRUE(whole);
}

void
suite_exchange(void)
{
    T_SUITE(exchange);
    T_TEST(exchange, test_exchange_tells_replies_at_every_cut);
    T_TEST(exchange, test_exchange_hears_of_a_reset_at_each_point);
    T_TEST(exchange, test_exchange_pauses_between_two_events);
    T_TEST(exchange, test_exchange_may_be_cancelled_anywhere);
    T_TEST(exchange, test_exchange_ends_with_the_cycle);
    T_TEST(exchange, test_exchange_has_limits_of_time);
    T_TEST(exchange, test_exchange_tries_again_what_was_not_sent);
    T_TEST(exchange, test_exchange_runs_beside_others);
    T_TEST(exchange, test_exchange_writes_what_it_is_told);
    T_TEST(exchange, test_exchange_refuses_what_is_no_request);
    T_TEST(exchange, test_exchange_keeps_scopes_apart);
    T_TEST(exchange, test_exchange_survives_each_failing_allocation);
    T_TEST(exchange, test_exchange_of_a_filter_ends_four_ways);
    T_TEST(exchange,
           test_exchange_of_a_filter_survives_each_failing_allocation);
}
