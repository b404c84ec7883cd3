/*
 * test_grow.c - answers that grow: when the head leaves, back-pressure, and
 * each way in which they end.
 */
#include "loop.h"

#include <errno.h>

#define GET "GET / HTTP/1.1\r\nhost: x\r\n\r\n"

static struct {
    const char *type;
    uint32_t flags;
    const char *at_once; /* written and ended in the hook */
    int hook_fails;
    int in_continuation; /* begins after a wait */
    const char *filter;  /* what the response filter does */
    int end_in_room;
    kars_req_t *r;
    kars_token_t token;
    kars_token_t wait;
    int room;
    int gone;
    int logged;
} grow_st;

static void
grow_room(kars_req_t *r, void *data)
{
    CU_ASSERT_PTR_EQUAL(data, &grow_st);
    CU_ASSERT_PTR_EQUAL(r, grow_st.r);
    grow_st.room++;
    if (grow_st.end_in_room) {
        CU_ASSERT_EQUAL(kars__api.answer_end(r, 0), KARS_OK);
    }
}

static void
grow_gone(kars_req_t *r, void *data)
{
    CU_ASSERT_PTR_EQUAL(r, grow_st.r);
    CU_ASSERT_EQUAL(kars__api.answer_write(r, KARS_STR("x"), 0), KARS_ERROR);
    CU_ASSERT_EQUAL(kars__api.answer_end(r, 0), KARS_ERROR);
    grow_st.gone++;
}

static int
grow_begin(kars_req_t *r)
{
    kars_answer_t a = { .size = sizeof(a),
                        .status = 200,
                        .flags = grow_st.flags,
                        .content_type = t_str(grow_st.type),
                        .room = grow_room,
                        .gone = grow_gone,
                        .data = &grow_st };

    if (kars__api.answer_begin(r, &a) != KARS_AGAIN) {
        return KARS_ERROR; /* no memory */
    }
    grow_st.r = r;
    CU_ASSERT_EQUAL(kars__api.answer_begin(r, &a), KARS_ERROR);
    CU_ASSERT_EQUAL(kars__api.respond(r, 200, KARS_STR(""), KARS_STR("other")),
                    KARS_ERROR);
    CU_ASSERT_EQUAL(kars__api.suspend(r, 1, NULL), 0);
    if (grow_st.at_once != NULL) {
        (void) kars__api.answer_write(r, t_str(grow_st.at_once), 0);
        CU_ASSERT_EQUAL(kars__api.answer_end(r, 0), KARS_OK);
    }
    return grow_st.hook_fails ? KARS_ERROR : KARS_AGAIN;
}

static int
grow_woken(kars_req_t *r, int error, const void *conf, void *ctx)
{
    return grow_begin(r);
}

static int
grow_content(kars_req_t *r, const void *conf, void *ctx)
{
    if (!grow_st.in_continuation) {
        return grow_begin(r);
    }
    grow_st.wait = kars__api.suspend(r, 0, grow_woken);
    return KARS_AGAIN;
}

static int
grow_admit(kars_req_t *r, const void *conf, void *ctx)
{
    kars_answer_t a = { .size = sizeof(a), .status = 200 };

    /* only CONTENT answers */
    CU_ASSERT_EQUAL(kars__api.answer_begin(r, &a), KARS_ERROR);
    return KARS_OK;
}

static int
grow_log(kars_req_t *r, const void *conf, void *ctx)
{
    grow_st.logged++;
    return KARS_OK;
}

static int
grow_does(const char *what)
{
    return grow_st.filter != NULL && strcmp(grow_st.filter, what) == 0;
}

static int
grow_deny(kars_filter_t *f)
{
    kars_denial_t d = { .size = sizeof(d),
                        .status = 403,
                        .code = KARS_STR("content_filter") };

    return kars__api.filter_deny(f, &d);
}

static int
grow_head(kars_filter_t *f, const void *conf, void *ctx)
{
    return grow_does("head denies") ? grow_deny(f) : KARS_OK;
}

static int
grow_released(kars_filter_t *f, int error, const void *conf, void *ctx)
{
    return error != 0 ? grow_deny(f) : kars__api.filter_release(f, KARS_FLUSH);
}

static int
grow_body(kars_filter_t *f, kars_buf_t *in, uint32_t flags, const void *conf,
          void *ctx)
{
    if (grow_does("body denies")) {
        return grow_deny(f);
    }
    if (grow_does("fails")) {
        return KARS_ERROR;
    }
    if (grow_does("fails at the end") && (flags & KARS_LAST)) {
        return KARS_ERROR;
    }
    if (grow_does("waits")) {
        grow_st.filter = NULL;
        (void) kars__api.filter_hold(f, in);
        grow_st.token = kars__api.filter_suspend(f, 0, grow_released);
        return KARS_AGAIN;
    }
    return kars__api.filter_next(f, in, flags);
}

static const kars_hook_t grow_hooks[] = {
    { .phase = KARS_PHASE_ADMIT, .run = grow_admit },
    { .phase = KARS_PHASE_CONTENT, .run = grow_content },
    { .phase = KARS_PHASE_LOG, .run = grow_log },
    { 0 },
};

static const kars_filter_def_t grow_filters[] = {
    { .dir = KARS_RESPONSE, .head = grow_head, .body = grow_body },
    { 0 },
};

static const kars_module_t grower = {
    T_MODULE_HEAD,       .name = "grower",        .flags = KARS_ALWAYS,
    .hooks = grow_hooks, .filters = grow_filters,
};

static t_loop_t *
grow_loop(const char *type)
{
    memset(&grow_st, 0, sizeof(grow_st));
    grow_st.type = type;
    return t_loop("route * / { memory 64k; }", &t_open, &grower);
}

/* LOG once, gone as often as said, nothing left. */
static void
grow_end(t_loop_t *t, int gone)
{
    if (t->client->sock != NULL) {
        t_client_gone(t);
    }
    CU_ASSERT_EQUAL(grow_st.logged, 1);
    CU_ASSERT_EQUAL(grow_st.gone, gone);
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
    CU_ASSERT_EQUAL(grow_st.gone, gone);
}

static int
grow_write(const char *text)
{
    return kars__api.answer_write(grow_st.r, t_str(text), 0);
}

static void
test_grow_sends_what_is_written_at_every_cut(void)
{
    static const char text[] = "event: x\r\ndata: one\n\ndata: two\n\n";

    for (size_t cut = 0; cut < sizeof(text); cut++) {
        t_loop_t *t = grow_loop("text/event-stream");
        kars_str_t all = t_str(text);

        grow_st.in_continuation = cut & 1;
        t_request(t, GET);
        if (cut & 1) {
            (void) kars__api.resume(grow_st.wait, 0);
            t_run(t);
        }
        CU_ASSERT_EQUAL(t_status(t), 200); /* before there is an event */
        CU_ASSERT_STRING_EQUAL(t_header(t, "content-type"),
                               "text/event-stream");
        CU_ASSERT_EQUAL(
            kars__api.answer_write(grow_st.r, (kars_str_t){ all.data, cut }, 0),
            KARS_OK);
        CU_ASSERT_EQUAL(kars__api.answer_write(
                            grow_st.r,
                            (kars_str_t){ all.data + cut, all.len - cut },
                            KARS_FLUSH),
                        KARS_OK);
        t_run(t);
        CU_ASSERT_EQUAL(t_answers(t), 0);
        CU_ASSERT_STRING_EQUAL(t_body(t), text);
        CU_ASSERT_EQUAL(kars__api.answer_end(grow_st.r, 0), KARS_OK);
        CU_ASSERT_EQUAL(grow_write("more"), KARS_ERROR);
        CU_ASSERT_EQUAL(kars__api.answer_end(grow_st.r, 0), KARS_ERROR);
        t_run(t);
        CU_ASSERT_EQUAL(t_answers(t), 1);
        CU_ASSERT_STRING_EQUAL(t_body(t), text);
        CU_ASSERT_TRUE(t_is_open(t->client)); /* the next request may come */
        grow_end(t, 0);
    }
}

static void
test_grow_that_ends_in_its_hook_has_a_length(void)
{
    t_loop_t *t = grow_loop("text/plain");

    grow_st.at_once = "hello";
    t_request(t, GET);
    CU_ASSERT_EQUAL(t_answers(t), 1);
    CU_ASSERT_STRING_EQUAL(t_body(t), "hello");
    CU_ASSERT_STRING_EQUAL(t_header(t, "content-length"), "5");
    grow_end(t, 0);
}

static void
test_grow_keeps_the_head_until_there_are_bytes(void)
{
    t_loop_t *t = grow_loop("text/plain");

    t_request(t, GET);
    CU_ASSERT_EQUAL(t_status(t), 0);
    (void) grow_write("x");
    t_run(t);
    CU_ASSERT_EQUAL(t_status(t), 200);
    CU_ASSERT_STRING_EQUAL(t_body(t), "x");
    grow_end(t, 1);

    t = grow_loop("text/plain");
    grow_st.flags = KARS_OPEN_ENDED;
    t_request(t, GET);
    CU_ASSERT_EQUAL(t_status(t), 200);
    CU_ASSERT_EQUAL(kars__api.req_number(grow_st.r, KARS_STR("open_ended")), 1);
    grow_end(t, 1);
}

static void
test_grow_of_head_has_no_body(void)
{
    t_loop_t *t = grow_loop("text/event-stream");

    t_request(t, "HEAD / HTTP/1.1\r\nhost: x\r\n\r\n");
    CU_ASSERT_EQUAL(t_status(t), 200);
    CU_ASSERT_EQUAL(grow_write("data: x\n\n"), KARS_OK);
    (void) kars__api.answer_end(grow_st.r, 0);
    t_run(t);
    CU_ASSERT_PTR_NULL(strstr(t_raw(t), "data"));
    grow_end(t, 0);
}

/* Fills until AGAIN; how many bytes were taken. */
static size_t
grow_fill(char *piece, size_t n)
{
    size_t sent = 0;

    for (int rc = KARS_OK; rc == KARS_OK; sent += n) {
        memset(piece, 'a' + (int) (sent / n % 26), n);
        rc = kars__api.answer_write(grow_st.r, (kars_str_t){ piece, n }, 0);
        CU_ASSERT_FATAL(rc != KARS_ERROR && sent < 1000000);
    }
    return sent;
}

static void
test_grow_feels_a_slow_reader(void)
{
    static char piece[1000];
    t_loop_t *t = grow_loop("text/event-stream");
    size_t sent;

    t_request(t, GET);
    t->client->room = 0;
    sent = grow_fill(piece, sizeof(piece));
    CU_ASSERT_TRUE(sent > 200000);
    t_run(t);
    CU_ASSERT_EQUAL(grow_st.room, 0);
    t->client->room = 100000; /* not enough to be worth a word */
    t_run(t);
    CU_ASSERT_EQUAL(grow_st.room, 0);
    t->client->room = SIZE_MAX;
    t_run(t);
    CU_ASSERT_EQUAL(grow_st.room, 1);

    const char *body = t_body(t);
    size_t i = 0;

    CU_ASSERT_EQUAL(strlen(body), sent);
    while (i < sent && body[i] == (char) ('a' + (int) (i / 1000 % 26))) {
        i++;
    }
    CU_ASSERT_EQUAL(i, sent); /* in their order */

    /* and again, with the end said in room */
    grow_st.end_in_room = 1;
    t->client->room = 0;
    (void) grow_fill(piece, sizeof(piece));
    t_run(t);
    t->client->room = SIZE_MAX;
    t_run(t);
    CU_ASSERT_EQUAL(grow_st.room, 2);
    CU_ASSERT_EQUAL(t_answers(t), 1);
    grow_end(t, 0);
}

static void
test_grow_is_cut_when_its_module_does_not_stop(void)
{
    static char piece[65536];
    t_loop_t *t = grow_loop("text/event-stream");
    int rc = KARS_OK, n = 0;

    t_request(t, GET);
    t->client->room = 0;
    while (rc != KARS_ERROR && ++n < 1000) {
        rc = kars__api.answer_write(grow_st.r,
                                    (kars_str_t){ piece, sizeof(piece) }, 0);
    }
    CU_ASSERT_EQUAL(rc, KARS_ERROR);
    CU_ASSERT_TRUE(n < 100);
    t_run(t);
    CU_ASSERT_FALSE(t_is_open(t->client));
    CU_ASSERT_PTR_NOT_NULL(strstr(t_log(t), "module=grower"));
    grow_end(t, 1);
}

static void
test_grow_hears_once_that_its_client_left(void)
{
    for (int how = 0; how < 3; how++) {
        t_loop_t *t = grow_loop("text/event-stream");

        t_request(t, GET);
        (void) grow_write("data: x\n\n");
        if (how == 0) { /* with bytes that were not yet sent */
            t->client->error = ECONNRESET;
        }
        t_run(t);
        if (how == 1) {
            t_client_gone(t);
        } else if (how == 2) {
            t_client_half(t); /* of a stream nobody does that */
        }
        CU_ASSERT_EQUAL(grow_st.gone, 1);
        grow_end(t, 1);
    }
}

static void
test_grow_that_ended_hears_nothing_more(void)
{
    t_loop_t *t = grow_loop("text/event-stream");

    t_request(t, GET);
    t->client->room = 0;
    (void) grow_write("data: x\n\n");
    (void) kars__api.answer_end(grow_st.r, 0);
    t_run(t);
    CU_ASSERT_EQUAL(grow_st.logged, 0); /* it is still being sent */
    t_client_gone(t);
    grow_end(t, 0);
}

static void
test_grow_ends_with_the_cycle(void)
{
    t_loop_t *t = grow_loop("text/event-stream");

    t_request(t, GET);
    (void) grow_write("data: x\n\n");
    t_loop_destroy(t);
    CU_ASSERT_EQUAL(grow_st.gone, 1);
    CU_ASSERT_EQUAL(grow_st.logged, 1);
}

static void
test_grow_of_a_hook_that_fails_is_500(void)
{
    for (int cont = 0; cont < 2; cont++) {
        t_loop_t *t = grow_loop("text/event-stream");

        grow_st.hook_fails = 1;
        grow_st.in_continuation = cont;
        t_request(t, GET);
        if (cont) {
            (void) kars__api.resume(grow_st.wait, 0);
            t_run(t);
        }
        CU_ASSERT_EQUAL(t_status(t), 500);
        CU_ASSERT_EQUAL(t_answers(t), 1);
        grow_end(t, 0);
    }
}

static void
test_grow_that_fails_never_looks_whole(void)
{
    t_loop_t *t = grow_loop("text/plain"); /* nothing has left */

    t_request(t, GET);
    (void) kars__api.answer_end(grow_st.r, ECONNRESET);
    t_run(t);
    CU_ASSERT_EQUAL(t_status(t), 502);
    CU_ASSERT_EQUAL(t_answers(t), 1);
    grow_end(t, 0);

    t = grow_loop("text/plain");
    t_request(t, GET);
    (void) kars__api.answer_end(grow_st.r, ETIMEDOUT);
    t_run(t);
    CU_ASSERT_EQUAL(t_status(t), 504);
    grow_end(t, 0);

    t = grow_loop("text/plain"); /* the head has */
    t_request(t, GET);
    (void) grow_write("half");
    t_run(t);
    (void) kars__api.answer_end(grow_st.r, ECONNRESET);
    t_run(t);
    CU_ASSERT_EQUAL(t_answers(t), 0);
    CU_ASSERT_FALSE(t_is_open(t->client));
    grow_end(t, 0);

    t = grow_loop("text/event-stream"); /* says so in band */
    t_request(t, GET);
    (void) grow_write("data: half\n\n");
    (void) kars__api.answer_end(grow_st.r, ECONNRESET);
    t_run(t);
    CU_ASSERT_EQUAL(t_answers(t), 1);
    CU_ASSERT_PTR_NOT_NULL(strstr(t_body(t), "data: half\n\ndata: {\"error\""));
    grow_end(t, 0);
}

static void
test_grow_meets_filters_that_refuse(void)
{
    t_loop_t *t = grow_loop("text/event-stream");

    grow_st.filter = "head denies";
    t_request(t, GET);
    CU_ASSERT_EQUAL(t_status(t), 403);
    CU_ASSERT_EQUAL(t_answers(t), 1);
    CU_ASSERT_EQUAL(grow_st.gone, 1);
    grow_end(t, 1);

    t = grow_loop("text/event-stream");
    grow_st.filter = "body denies";
    t_request(t, GET);
    CU_ASSERT_EQUAL(t_status(t), 403);
    CU_ASSERT_EQUAL(t_answers(t), 1);
    CU_ASSERT_STRING_EQUAL(t_header(t, "content-type"), "application/json");
    grow_end(t, 1);

    t = grow_loop("text/event-stream");
    grow_st.filter = "fails";
    t_request(t, GET);
    CU_ASSERT_FALSE(t_is_open(t->client));
    grow_end(t, 1);

    t = grow_loop("text/plain"); /* the module's end came too late for it */
    grow_st.filter = "fails at the end";
    t_request(t, GET);
    (void) grow_write("x");
    t_run(t);
    (void) kars__api.answer_end(grow_st.r, 0);
    t_run(t);
    CU_ASSERT_EQUAL(t_answers(t), 0);
    CU_ASSERT_FALSE(t_is_open(t->client));
    grow_end(t, 0);
}

static void
test_grow_waits_with_a_filter(void)
{
    for (int error = 0; error < 2; error++) {
        t_loop_t *t = grow_loop("text/event-stream");

        grow_st.filter = "waits";
        t_request(t, GET);
        CU_ASSERT_EQUAL(t_status(t), 0); /* nothing leaves before */
        CU_ASSERT_EQUAL(grow_write("data: x\n\n"), KARS_AGAIN);
        t_run(t);
        CU_ASSERT_EQUAL(grow_st.room, 0);
        (void) kars__api.resume(grow_st.token, error ? EIO : 0);
        t_run(t);
        if (error) {
            CU_ASSERT_EQUAL(t_status(t), 403);
        } else {
            CU_ASSERT_EQUAL(grow_st.room, 1);
            CU_ASSERT_STRING_EQUAL(t_body(t), "data: x\n\n");
        }
        grow_end(t, 1);
    }
}

static void
test_grow_survives_each_failing_allocation(void)
{
    int whole = 0;

    for (uint64_t n = 1; n < 200 && !whole; n++) {
        t_loop_t *t = grow_loop("text/plain");

        grow_st.at_once = "hello";
        (void) t_client(t);
        kars__pool_fail_at(n);
        t_request(t, GET);
        kars__pool_fail_at(0);
        whole = t_status(t) == 200 && t_answers(t) == 1 &&
                strcmp(t_body(t), "hello") == 0;
        CU_ASSERT_TRUE(whole || t_status(t) >= 500 || !t_is_open(t->client));
        if (t->client->sock != NULL) {
            t_client_gone(t);
        }
        CU_ASSERT_TRUE(t_is_empty(t));
        t_loop_destroy(t);
    }
    CU_ASSERT_TRUE(whole);
}

void
suite_grow(void)
{
    T_SUITE(grow);
    T_TEST(grow, test_grow_sends_what_is_written_at_every_cut);
    T_TEST(grow, test_grow_that_ends_in_its_hook_has_a_length);
    T_TEST(grow, test_grow_keeps_the_head_until_there_are_bytes);
    T_TEST(grow, test_grow_of_head_has_no_body);
    T_TEST(grow, test_grow_feels_a_slow_reader);
    T_TEST(grow, test_grow_is_cut_when_its_module_does_not_stop);
    T_TEST(grow, test_grow_hears_once_that_its_client_left);
    T_TEST(grow, test_grow_that_ended_hears_nothing_more);
    T_TEST(grow, test_grow_ends_with_the_cycle);
    T_TEST(grow, test_grow_of_a_hook_that_fails_is_500);
    T_TEST(grow, test_grow_that_fails_never_looks_whole);
    T_TEST(grow, test_grow_meets_filters_that_refuse);
    T_TEST(grow, test_grow_waits_with_a_filter);
    T_TEST(grow, test_grow_survives_each_failing_allocation);
}
