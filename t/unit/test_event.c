/*
 * test_event.c - events of a stream, one by one: whole, in their order, in the
 * turn in which they came; passed, dropped, replaced, waited for.
 */
#include "loop.h"

#include <errno.h>

#define GET  "GET / HTTP/1.1\r\nhost: x\r\n\r\n"
#define HEAD "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"

static struct {
    char seen[4096]; /* "name=data|" of each event */
    int bodies;      /* calls of the filter's body */
    kars_token_t token;
    int woken;
    int wake_rc;
    kars_event_t *ev;
} event_st;

static int
event_woken(kars_filter_t *f, int error, const void *conf, void *ctx)
{
    event_st.woken++;
    if (error != 0) {
        return KARS_ERROR;
    }
    if (event_st.wake_rc == KARS_OK) {
        CU_ASSERT_TRUE(
            kars_str_eq(kars__api.event_data(event_st.ev), KARS_STR("wait")));
        return kars__api.event_replace(event_st.ev, KARS_STR("late"),
                                       (kars_str_t){ NULL, 0 });
    }
    return event_st.wake_rc;
}

/* What the event's data say is done with it. */
static int
event_event(kars_filter_t *f, kars_event_t *ev, const void *conf, void *ctx)
{
    kars_str_t name = kars__api.event_name(ev), data = kars__api.event_data(ev);
    size_t o = strlen(event_st.seen);

    (void) snprintf(event_st.seen + o, sizeof(event_st.seen) - o, "%.*s=%.*s|",
                    KARS_STR_ARG(name), KARS_STR_ARG(data));
    if (kars_str_eq(data, KARS_STR("drop"))) {
        return KARS_DONE;
    }
    if (kars_str_eq(data, KARS_STR("fail"))) {
        return KARS_ERROR;
    }
    if (kars_str_eq(data, KARS_STR("leave"))) {
        return KARS_DECLINED;
    }
    if (kars_str_eq(data, KARS_STR("swap"))) {
        CU_ASSERT_EQUAL(kars__api.event_replace(ev, KARS_STR("a\nb"), data),
                        KARS_ERROR);
        return kars__api.event_replace(ev, KARS_STR("new"),
                                       KARS_STR("x\r\ny\rz"));
    }
    if (kars_str_eq(data, KARS_STR("more"))) { /* bytes of its own, before */
        return kars__api.filter_next(
            f, kars__api.buf_copy(kars__api.filter_req(f), KARS_STR(": m\n\n")),
            0);
    }
    if (kars_str_eq(data, KARS_STR("wait"))) {
        event_st.ev = ev;
        event_st.token = kars__api.filter_suspend(f, 5000, event_woken);
        CU_ASSERT_NOT_EQUAL(event_st.token, 0);
        return KARS_AGAIN;
    }
    return KARS_OK;
}

static int
event_body(kars_filter_t *f, kars_buf_t *in, uint32_t flags, const void *conf,
           void *ctx)
{
    event_st.bodies++;
    return kars__api.filter_next(f, in, flags);
}

static const kars_filter_def_t event_filters[] = {
    { .dir = KARS_RESPONSE, .event = event_event, .body = event_body },
    { 0 },
};

static const kars_module_t mod_event = {
    T_MODULE_HEAD,
    .name = "event",
    .flags = KARS_ALWAYS,
    .filters = event_filters,
};

static t_loop_t *
event_loop(const char *more)
{
    char conf[300];

    memset(&event_st, 0, sizeof(event_st));
    (void) snprintf(
        conf, sizeof(conf),
        "upstream up { server 10.0.0.1:80; retry 0; }"
        "server { listen 127.0.0.1:1; %s route GET / { pass up; } }",
        more);
    return t_loop(conf, &t_open, &mod_event);
}

static void
event_end(t_loop_t *t)
{
    if (t_is_open(t->client)) {
        t_client_gone(t);
    }
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
}

/* clang-format off */
static const struct { const char *in; const char *out; const char *seen; } streams[] = {
    { "data: a\n\n", "data: a\n\n", "=a|" },
    { "data: a\r\n\r\ndata: b\r\n\r\n", "data: a\r\n\r\ndata: b\r\n\r\n", "=a|=b|" },
    { "data: a\r\rdata:b\r\r", "data: a\r\rdata:b\r\r", "=a|=b|" },
    { "event: e\ndata: a\ndata:  b\n\n", "event: e\ndata: a\ndata:  b\n\n", "e=a\n b|" },
    { ": hi\ndata: a\n\n", ": hi\ndata: a\n\n", "=a|" },
    { "id: 7\n\nretry: 3\n\n", "id: 7\n\nretry: 3\n\n", "" },
    { "\xef\xbb\xbf" "data: a\n\n", "\xef\xbb\xbf" "data: a\n\n", "=a|" },
    { "data: drop\n\ndata: b\n\n", "data: b\n\n", "=drop|=b|" },
    { "data: a\n\ndata: drop\r\n\r\ndata: b\n\n", "data: a\n\ndata: b\n\n", "=a|=drop|=b|" },
    { "id: 1\ndata: swap\n\ndata: b\n\n", "event: new\ndata: x\ndata: y\ndata: z\n\ndata: b\n\n", "=swap|=b|" },
    { "data: a\n\ndata: more\n\n", "data: a\n\n: m\n\ndata: more\n\n", "=a|=more|" },
    { "data: a\n\ndata: leave\n\ndata: drop\n\nx", "data: a\n\ndata: leave\n\ndata: drop\n\nx", "=a|=leave|" },
    { "data: a\n\ndata: open", "data: a\n\ndata: open", "=a|=open|" },
    { "data: a\n\ndata: drop\n", "data: a\n\n", "=a|=drop|" },
    { "data: a\n\ndata: dr", "data: a\n\ndata: dr", "=a|=dr|" },
    { "data: swap", "event: new\ndata: x\ndata: y\ndata: z\n\n", "=swap|" },
    { "", "", "" },
};
/* clang-format on */

/* The reply in two pieces, cut everywhere, then byte by byte. */
static void
test_event_whatever_the_pieces(void)
{
    for (size_t i = 0; i < KARS_NELTS(streams); i++) {
        size_t n = strlen(streams[i].in);

        for (size_t cut = 0; cut <= n + 1; cut++) {
            t_loop_t *t = event_loop("");
            char head[200], label[64];

            (void) snprintf(label, sizeof(label), "%zu, cut %zu", i, cut);
            T_CASE(label);
            (void) snprintf(head, sizeof(head),
                            HEAD "content-length: %zu\r\n\r\n", n);
            t_request(t, GET);
            t_upstream_reply(t, head);
            if (cut > n) {
                t_upstream(t, 0)->recv_max = 1;
                t_upstream_reply(t, streams[i].in);
            } else {
                t_end_t *up = t_upstream(t, 0);

                t_append(&up->in, streams[i].in, cut);
                t_run(t);
                t_upstream_reply(t, streams[i].in + cut);
            }
            CU_ASSERT_EQUAL(t_answers(t), 1);
            CU_ASSERT_STRING_EQUAL(t_body(t), streams[i].out);
            CU_ASSERT_STRING_EQUAL(event_st.seen, streams[i].seen);
            CU_ASSERT_EQUAL(event_st.bodies, 0);
            event_end(t);
        }
    }
}

static void
test_event_leaves_in_its_turn(void)
{
    t_loop_t *t = event_loop("");

    t_request(t, GET);
    t_upstream_reply(t, HEAD "transfer-encoding: chunked\r\n\r\n");
    t_upstream_reply(t, "9\r\ndata: a\n\n\r\n");
    CU_ASSERT_PTR_NOT_NULL(strstr(t_raw(t), "data: a\n\n"));
    t_upstream_reply(t, "4\r\ndata\r\n");
    CU_ASSERT_PTR_NULL(strstr(t_raw(t), "data\r\n")); /* not unseen */
    t_upstream_reply(t, "3\r\n: b\r\n");
    CU_ASSERT_PTR_NULL(strstr(t_raw(t), "data: b"));
    t_upstream_reply(t, "2\r\n\r\n\r\n");
    t_upstream_reply(t, "1\r\n\n\r\n");
    CU_ASSERT_STRING_EQUAL(event_st.seen, "=a|=b|");
    /* A comment alone keeps a connection alive: it does not wait. */
    t_upstream_reply(t, "5\r\n: k1\n\r\n");
    CU_ASSERT_PTR_NOT_NULL(strstr(t_raw(t), ": k1\n"));
    t_upstream_reply(t, "0\r\n\r\n");
    CU_ASSERT_STRING_EQUAL(t_body(t), "data: a\n\ndata: b\r\n\n: k1\n");
    event_end(t);
}

static void
test_event_of_no_stream_goes_to_body(void)
{
    t_loop_t *t = event_loop("");

    t_request(t, GET);
    t_upstream_reply(t, "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
                        "content-length: 9\r\n\r\ndata: a\n\n");
    CU_ASSERT_STRING_EQUAL(t_body(t), "data: a\n\n");
    CU_ASSERT_TRUE(event_st.bodies > 0);
    CU_ASSERT_STRING_EQUAL(event_st.seen, "");
    event_end(t);
}

/* clang-format off */
static const struct { int rc; const char *out; } waits[] = {
    { KARS_OK, "data: a\n\nevent: late\ndata: wait\n\ndata: b\n\ndata: c\n\n" },
    { KARS_DONE, "data: a\n\ndata: b\n\ndata: c\n\n" },
    { KARS_DECLINED, "data: a\n\ndata: wait\n\ndata: b\n\ndata: c\n\n" },
    { KARS_ERROR, NULL },
};
/* clang-format on */

static void
test_event_that_is_waited_for(void)
{
    for (size_t i = 0; i < KARS_NELTS(waits) * 2; i++) {
        t_loop_t *t = event_loop("");
        int rc = waits[i / 2].rc;

        event_st.wake_rc = rc;
        t_request(t, GET);
        t_upstream_reply(t, HEAD "content-length: 39\r\n\r\n");
        if (i % 2 == 0) { /* all at once, or the rest while it waits */
            t_upstream_reply(t, "data: a\n\ndata: wait\n\ndata: b\n\n"
                                "data: c\n\n");
        } else {
            t_upstream_reply(t, "data: a\n\ndata: wait\n\nda");
            t_upstream_reply(t, "ta: b\n\ndata: c\n\n");
        }
        CU_ASSERT_PTR_NOT_NULL(strstr(t_raw(t), "data: a\n\n"));
        CU_ASSERT_PTR_NULL(strstr(t_raw(t), "wait"));
        CU_ASSERT_STRING_EQUAL(event_st.seen, "=a|=wait|");
        (void) kars__api.resume(event_st.token, 0);
        t_run(t);
        CU_ASSERT_EQUAL(event_st.woken, 1);
        CU_ASSERT_EQUAL(t_answers(t), rc != KARS_ERROR);
        if (rc != KARS_ERROR) {
            CU_ASSERT_STRING_EQUAL(t_body(t), waits[i / 2].out);
        }
        event_end(t);
    }
}

static void
test_event_that_waits_ends_with_its_client(void)
{
    for (int how = 0; how < 2; how++) {
        t_loop_t *t = event_loop("");

        t_request(t, GET);
        t_upstream_reply(t, HEAD "content-length: 999\r\n\r\n");
        t_upstream_reply(t, "data: wait\n\ndata: b\n\n");
        if (how == 0) {
            t_client_gone(t);
            (void) kars__api.resume(event_st.token, 0);
        }
        t_advance_ms(t, 6000);
        CU_ASSERT_EQUAL(event_st.woken, how); /* its time-out is an error */
        CU_ASSERT_FALSE(t_is_open(t->client));
        event_end(t);
    }
}

static void
test_event_that_is_too_large_cuts_the_answer(void)
{
    for (int over = 0; over < 2; over++) {
        t_loop_t *t = event_loop("event_limit 100;");
        char text[120];

        memset(text, 'x', sizeof(text));
        memcpy(text, "data: ", 6);
        memcpy(text + 98 + over, "\n\n", 3);
        t_request(t, GET);
        t_upstream_reply(t, HEAD "transfer-encoding: chunked\r\n\r\n");
        t_upstream_reply(t, over ? "65\r\n" : "64\r\n");
        t_upstream(t, 0)->recv_max = 7;
        t_upstream_reply(t, text);
        t_upstream_reply(t, "\r\n0\r\n\r\n");
        CU_ASSERT_EQUAL(t_answers(t), !over);
        CU_ASSERT_EQUAL(strlen(event_st.seen) > 0, !over);
        CU_ASSERT_EQUAL(strstr(t_log(t), "larger than event_limit") != NULL,
                        over);
        CU_ASSERT_EQUAL(strstr(t_raw(t), "xxx") == NULL, over);
        event_end(t);
    }
}

static void
test_event_filter_that_fails(void)
{
    t_loop_t *t = event_loop("");

    t_request(t, GET);
    t_upstream_reply(t, HEAD "content-length: 99\r\n\r\n"
                             "data: a\n\ndata: fail\n\ndata: b\n\n");
    CU_ASSERT_EQUAL(t_answers(t), 0);
    CU_ASSERT_FALSE(t_is_open(t->client));
    CU_ASSERT_PTR_NULL(strstr(t_raw(t), "fail"));
    CU_ASSERT_STRING_EQUAL(event_st.seen, "=a|=fail|");
    event_end(t);
}

/* Whichever allocation fails: never a byte that nobody saw, never a crash. */
static void
test_event_without_memory(void)
{
    for (uint64_t nth = 1; nth < 60; nth++) {
        t_loop_t *t = event_loop("");
        char label[32];

        (void) snprintf(label, sizeof(label), "allocation %d", (int) nth);
        T_CASE(label);
        t_request(t, GET);
        kars__pool_fail_at(nth);
        t_upstream_reply(t,
                         HEAD "content-length: 41\r\n\r\n"
                              "data: drop\n\ndata: b\n\n: x\n\ndata: swap\n\n"
                              "z");
        kars__pool_fail_at(0);
        CU_ASSERT_PTR_NULL(strstr(t_raw(t), "drop"));
        if (t_status(t) == 200 && t_answers(t) == 1) {
            CU_ASSERT_STRING_EQUAL(t_body(t),
                                   "data: b\n\n: x\n\nevent: new\ndata: x\n"
                                   "data: y\ndata: z\n\nz");
        }
        event_end(t);
    }
}

void
suite_event(void)
{
    T_SUITE(event);
    T_TEST(event, test_event_whatever_the_pieces);
    T_TEST(event, test_event_leaves_in_its_turn);
    T_TEST(event, test_event_of_no_stream_goes_to_body);
    T_TEST(event, test_event_that_is_waited_for);
    T_TEST(event, test_event_that_waits_ends_with_its_client);
    T_TEST(event, test_event_that_is_too_large_cuts_the_answer);
    T_TEST(event, test_event_filter_that_fails);
    T_TEST(event, test_event_without_memory);
}
