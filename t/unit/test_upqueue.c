/*
 * test_upqueue.c - turns at a server: who has one, who waits, who is refused.
 */
#include "loop.h"

#include <errno.h>

#define UP(more)                                                     \
    "upstream up { server 10.0.0.1:80; max_connections 1; " more "}" \
    "server { listen 127.0.0.1:1; route * / { pass up; } }"

#define GET(path) "GET /?" path " HTTP/1.1\r\nhost: x\r\n\r\n"
#define OK        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"

static const kars__upserver_t *
queue_server(const t_loop_t *t)
{
    return &t->cycle->upstreams->servers[0];
}

/* One request each of n clients: "/?0", "/?1", ... */
static void
queue_ask(t_loop_t *t, t_end_t **clients, int n)
{
    char raw[64];

    for (int i = 0; i < n; i++) {
        clients[i] = t_client(t);
        (void) snprintf(raw, sizeof(raw), GET("%d"), i);
        t_request(t, raw);
    }
}

static int
queue_status(t_loop_t *t, t_end_t *client)
{
    t->client = client;
    return t_status(t);
}

static void
test_upqueue_serves_in_the_order_of_coming(void)
{
    t_loop_t *t = t_loop(UP("queue 10 timeout=5s;"), &t_open);
    t_end_t *clients[4];
    char path[8];

    queue_ask(t, clients, 4);
    CU_ASSERT_EQUAL(queue_server(t)->busy, 1);
    CU_ASSERT_EQUAL(queue_server(t)->nwaiting, 3);
    for (int i = 0; i < 4; i++) {
        CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1); /* and it is kept */
        (void) snprintf(path, sizeof(path), "/?%d ", i);
        CU_ASSERT_PTR_NOT_NULL(strstr(t_upstream_got(t, 0), path));
        (void) snprintf(path, sizeof(path), "/?%d ", i + 1);
        CU_ASSERT_PTR_NULL(strstr(t_upstream_got(t, 0), path));
        CU_ASSERT_EQUAL(queue_status(t, clients[i]), 0);
        t_upstream_reply(t, OK);
        CU_ASSERT_EQUAL(queue_status(t, clients[i]), 200);
    }
    CU_ASSERT_EQUAL(queue_server(t)->busy, 0);
    CU_ASSERT_EQUAL(queue_server(t)->nwaiting, 0);
    t_loop_destroy(t);
}

static void
test_upqueue_refuses_one_too_many(void)
{
    t_loop_t *t = t_loop(UP("queue 1;"), &t_open);
    t_end_t *clients[3];

    queue_ask(t, clients, 3);
    CU_ASSERT_EQUAL(queue_status(t, clients[2]), 503);
    CU_ASSERT_PTR_NOT_NULL(strstr(t_log(t), "code=overloaded"));
    CU_ASSERT_PTR_NOT_NULL(strstr(t_log(t), "its queue is full"));
    CU_ASSERT_EQUAL(queue_status(t, clients[1]), 0);
    t_upstream_reply(t, OK);
    t_upstream_reply(t, OK);
    CU_ASSERT_EQUAL(queue_status(t, clients[0]), 200);
    CU_ASSERT_EQUAL(queue_status(t, clients[1]), 200);
    CU_ASSERT_EQUAL(queue_server(t)->health->failures,
                    0); /* no fault of its own */
    t_loop_destroy(t);
}

static void
test_upqueue_does_not_wait_for_ever(void)
{
    t_loop_t *t = t_loop(UP("queue 9 timeout=5s;"), &t_open);
    t_end_t *clients[2];

    queue_ask(t, clients, 1);
    t_advance_ms(t, 1000);
    clients[1] = t_client(t);
    t_request(t, GET("late"));
    t_advance_ms(t, 4990);
    CU_ASSERT_EQUAL(queue_status(t, clients[1]), 0);
    t_advance_ms(t, 20);
    CU_ASSERT_EQUAL(queue_status(t, clients[1]), 503);
    CU_ASSERT_EQUAL(queue_server(t)->nwaiting, 0);
    t_upstream_reply(t, OK);
    CU_ASSERT_EQUAL(queue_status(t, clients[0]), 200);
    CU_ASSERT_PTR_NULL(strstr(t_upstream_got(t, 0), "late"));
    t_loop_destroy(t);
}

/* Whoever leaves, first, in the middle or last, frees his place only. */
static void
test_upqueue_forgets_who_left(void)
{
    for (int gone = 0; gone < 4; gone++) {
        t_loop_t *t = t_loop(UP("queue 9;"), &t_open);
        t_end_t *clients[4];

        queue_ask(t, clients, 4);
        t->client = clients[gone];
        t_client_gone(t);
        CU_ASSERT_EQUAL(queue_server(t)->busy, 1);
        CU_ASSERT_EQUAL(queue_server(t)->nwaiting, 2);
        for (int i = 0; i < 4; i++) {
            if (i != gone) {
                t_upstream_reply(t, OK);
                CU_ASSERT_EQUAL(queue_status(t, clients[i]), 200);
            }
        }
        CU_ASSERT_EQUAL(queue_server(t)->busy, 0);
        t_loop_destroy(t);
    }
}

static void
test_upqueue_goes_on_after_failures(void)
{
    static const int ends[] = { ECONNREFUSED, T_CONNECT_FAILS(ENETUNREACH), 0 };
    t_loop_t *t = t_loop(UP("queue 9; retry 0;"), &t_open);
    t_end_t *clients[4];

    t_connects(t, ends, 3);
    queue_ask(t, clients, 4);
    CU_ASSERT_EQUAL(queue_status(t, clients[0]), 502);
    CU_ASSERT_EQUAL(queue_status(t, clients[1]), 502);
    t_upstream_gone(t, t_upstreams(t) - 1); /* without an answer */
    CU_ASSERT_EQUAL(queue_status(t, clients[2]), 502);
    t_upstream_reply(t, OK);
    CU_ASSERT_EQUAL(queue_status(t, clients[3]), 200);
    CU_ASSERT_EQUAL(queue_server(t)->busy, 0);
    t_loop_destroy(t);
}

static void
test_upqueue_prefers_a_server_that_is_free(void)
{
    t_loop_t *t =
        t_loop("upstream up { server 10.0.0.1:80; server 10.0.0.2:80;"
               " max_connections 2; queue 1; }"
               "server { listen 127.0.0.1:1; route * / { pass up; } }",
               &t_open);
    t_end_t *clients[7];

    queue_ask(t, clients, 7);
    CU_ASSERT_EQUAL(t_upstreams(t), 4);
    for (int i = 0; i < 2; i++) {
        CU_ASSERT_EQUAL(queue_server(t)[i].busy, 2);
        CU_ASSERT_EQUAL(queue_server(t)[i].nwaiting, 1);
    }
    CU_ASSERT_EQUAL(queue_status(t, clients[6]), 503);
    t_loop_destroy(t); /* with some at work and some waiting */
}

static int queue_error, queue_done_n;

static void
queue_done(kars_exchange_t *x, int error, void *data)
{
    queue_error = error;
    queue_done_n++;
}

static void
test_upqueue_holds_for_calls_of_modules(void)
{
    static const kars_exchange_handler_t handler = { .size = sizeof(handler),
                                                     .done = queue_done };
    t_loop_t *t = t_loop(UP("queue 1;"), &t_open);
    kars_call_t call = { .size = sizeof(call),
                         .upstream = t->cycle->upstreams,
                         .method = KARS_STR("GET"),
                         .path = KARS_STR("/") };

    queue_done_n = 0;
    for (int i = 0; i < 3; i++) {
        CU_ASSERT_PTR_NOT_NULL(
            kars__api.exchange(t->cycle, &call, &handler, NULL));
        t_run(t);
    }
    CU_ASSERT_EQUAL(queue_done_n, 1);
    CU_ASSERT_EQUAL(queue_error, EBUSY);
    t_upstream_reply(t, OK);
    t_upstream_reply(t, OK);
    CU_ASSERT_EQUAL(queue_done_n, 3);
    CU_ASSERT_EQUAL(queue_error, 0);
    t_loop_destroy(t);
}

/* Goes on in the scope that the query names. */
static int
queue_scoped(kars_req_t *r, const void *conf, void *ctx)
{
    kars_pass_t pass = {
        .size = sizeof(pass),
        .pool_scope = kars__api.header(r, KARS_REQUEST, KARS_STR("x-scope")),
    };

    return kars__api.pass(r, &pass);
}

static const kars_hook_t queue_hooks[] = {
    { .phase = KARS_PHASE_CONTENT, .run = queue_scoped },
    { 0 },
};

static const kars_module_t queue_module = { T_MODULE_HEAD, .name = "scoped",
                                            .flags = KARS_ALWAYS,
                                            .hooks = queue_hooks };

/* An idle connection of another scope is no use, and it counts. */
static void
test_upqueue_counts_idle_connections(void)
{
    t_loop_t *t = t_loop(UP(""), &t_open, &queue_module);

    t_request(t, "GET / HTTP/1.1\r\nhost: x\r\nx-scope: a\r\n\r\n");
    t_upstream_reply(t, OK);
    CU_ASSERT_TRUE(t_is_open(t_upstream(t, 0)));
    t_request(t, "GET / HTTP/1.1\r\nhost: x\r\nx-scope: b\r\n\r\n");
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 2);
    CU_ASSERT_FALSE(t_is_open(t_upstream(t, 0)));
    t_upstream_reply(t, OK);
    CU_ASSERT_EQUAL(t_answers(t), 2);
    CU_ASSERT_TRUE(t_is_open(t_upstream(t, 1)));
    t_loop_destroy(t);
}

void
suite_upqueue(void)
{
    T_SUITE(upqueue);
    T_TEST(upqueue, test_upqueue_serves_in_the_order_of_coming);
    T_TEST(upqueue, test_upqueue_refuses_one_too_many);
    T_TEST(upqueue, test_upqueue_does_not_wait_for_ever);
    T_TEST(upqueue, test_upqueue_forgets_who_left);
    T_TEST(upqueue, test_upqueue_goes_on_after_failures);
    T_TEST(upqueue, test_upqueue_prefers_a_server_that_is_free);
    T_TEST(upqueue, test_upqueue_holds_for_calls_of_modules);
    T_TEST(upqueue, test_upqueue_counts_idle_connections);
}
