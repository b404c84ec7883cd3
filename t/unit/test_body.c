/*
 * test_body.c - request bodies: held where a gate must see them, limited,
 * paused, scanned.
 */
#include "loop.h"

/* A gate: it watches "model" and must see the whole body. */
static char gate_model[64];
static int gate_admits;

static int
gate_value(kars_req_t *r, kars_str_t text, uint32_t index, uint32_t flags,
           const void *conf, void *ctx)
{
    size_t o = flags & KARS_FIRST ? 0 : strlen(gate_model);

    (void) snprintf(gate_model + o, sizeof(gate_model) - o, "%.*s",
                    KARS_STR_ARG(text));
    if (strcmp(gate_model, "own words") == 0 && (flags & KARS_LAST)) {
        kars_denial_t d = { .size = sizeof(d),
                            .status = 422,
                            .code = KARS_STR("not_that"),
                            .reason = KARS_STR("not that one") };

        return kars__api.deny(r, &d);
    }
    return strcmp(gate_model, "bad") == 0 && (flags & KARS_LAST) ? KARS_ERROR
                                                                 : KARS_OK;
}

static int
gate_admit(kars_req_t *r, const void *conf, void *ctx)
{
    gate_admits++;
    return KARS_OK;
}

static const kars_hook_t gate_hooks[] = {
    { .phase = KARS_PHASE_ADMIT, .run = gate_admit, .flags = KARS_NEEDS_BODY },
    { 0 },
};

static const kars_json_watch_t gate_json[] = {
    { KARS_REQUEST, "model", gate_value },
    { 0 },
};

static const kars_directive_t gate_directives[] = {
    { .name = "gate",
      .at = KARS_AT_ROUTE,
      .type = KARS_T_FLAG,
      .doc = "makes the route wait for its body" },
    { 0 },
};

static const kars_module_t gate = {
    T_MODULE_HEAD,
    .name = "gate",
    .conf_size = sizeof(int32_t),
    .directives = gate_directives,
    .hooks = gate_hooks,
    .json = gate_json,
};

#define CONF(more)                         \
    "upstream up { server 10.0.0.1:80; }"  \
    "server { listen 127.0.0.1:1; " more   \
    "route * /gated { gate on; pass up; }" \
    "route * /free { pass up; }"           \
    "route * /own { gate on; respond 200 ok; } }"

static t_loop_t *
body_loop(const char *conf)
{
    gate_model[0] = '\0';
    gate_admits = 0;
    return t_loop(conf, &t_open, &gate);
}

#define OK_REPLY "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

/* A POST of body; chunked in two chunks. */
static char *
body_request(const char *path, const char *body, int chunked)
{
    static char raw[256 * 1024];
    size_t n = strlen(body);
    int o = snprintf(raw, sizeof(raw), "POST %s HTTP/1.1\r\nhost: x\r\n", path);

    if (chunked) {
        (void) snprintf(raw + o, sizeof(raw) - (size_t) o,
                        "transfer-encoding: chunked\r\n\r\n%zx\r\n%.*s\r\n"
                        "%zx\r\n%s\r\n0\r\n\r\n",
                        n / 2, (int) (n / 2), body, n - n / 2, body + n / 2);
    } else {
        (void) snprintf(raw + o, sizeof(raw) - (size_t) o,
                        "content-length: %zu\r\n\r\n%s", n, body);
    }
    return raw;
}

static void
test_body_of_a_gate_reaches_no_upstream_before_its_end(void)
{
    static const char body[] = "{\"messages\":[1,2,3],\"model\":\"m-1\"}";

    for (int chunked = 0; chunked < 2; chunked++) {
        t_loop_t *t = body_loop(CONF(""));
        const char *raw = body_request("/gated", body, chunked);
        size_t n = strlen(raw);

        for (size_t i = 0; i + 1 < n; i++) {
            if (i == 0) {
                (void) t_client(t);
            }
            t_send(t, t->client, raw + i, 1);
            CU_ASSERT_EQUAL(t_upstreams(t), 0);
        }
        CU_ASSERT_EQUAL(gate_admits, 0);
        t_send(t, t->client, raw + n - 1, 1);
        CU_ASSERT_EQUAL(gate_admits, 1);
        CU_ASSERT_STRING_EQUAL(gate_model, "m-1");
        CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1);
        CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 0), body);
        CU_ASSERT_PTR_NOT_NULL(
            strstr(t_upstream_got(t, 0), "content-length: 34\r\n"));
        t_upstream_reply(t, OK_REPLY);
        CU_ASSERT_EQUAL(t_status(t), 200);
        t_loop_destroy(t);
    }
}

static void
test_body_without_a_gate_streams(void)
{
    t_loop_t *t = body_loop(CONF(""));

    t_request(t,
              "POST /free HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nab");
    CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 0), "ab");
    t_request(t, "cd");
    CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 0), "abcd");
    t_request(t, "ef");
    CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 0), "abcdef");
    t_upstream_reply(t, OK_REPLY);
    CU_ASSERT_EQUAL(t_status(t), 200);

    t_request(t, "POST /free HTTP/1.1\r\nhost: x\r\n"
                 "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
    CU_ASSERT_EQUAL(t_upstreams(t), 1); /* kept alive */
    CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 0), "3\r\nabc\r\n");
    t_request(t, "0;x=y\r\nA: trailer\r\n\r\n");
    CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 0), ""); /* after the last */
    CU_ASSERT_PTR_NOT_NULL(
        strstr(t_upstream_got(t, 0), "\r\n\r\n3\r\nabc\r\n0\r\n\r\n"));
    t_upstream_reply(t, OK_REPLY);
    CU_ASSERT_EQUAL(t_answers(t), 2);
    t_loop_destroy(t);
}

static void
test_body_limit_is_exact(void)
{
    static const char *const routes[] = { "/gated", "/free", "/own" };

    for (size_t i = 0; i < KARS_NELTS(routes); i++) {
        for (int chunked = 0; chunked < 2; chunked++) {
            for (int over = 0; over < 2; over++) {
                t_loop_t *t = body_loop(CONF("body_limit 20;"));
                const char *body = over ? "{\"model\":\"123456789\"}"
                                        : "{\"model\":\"12345678\"}";
                char label[80];

                (void) snprintf(label, sizeof(label), "%s %s %zu", routes[i],
                                chunked ? "chunked" : "length", strlen(body));
                T_CASE(label);
                CU_ASSERT_EQUAL(strlen(body), over ? 21 : 20);
                t_request(t, body_request(routes[i], body, chunked));
                if (!over && i < 2) {
                    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1);
                    t_upstream_reply(t, OK_REPLY);
                }
                CU_ASSERT_EQUAL(t_status(t), over ? 413 : 200);
                CU_ASSERT_EQUAL(t_answers(t), 1);
                if (over) {
                    CU_ASSERT_STRING_EQUAL(t_header(t, "connection"), "close");
                    CU_ASSERT_TRUE(i == 1 || t_upstreams(t) == 0);
                }
                t_client_gone(t);
                CU_ASSERT_TRUE(t_is_empty(t));
                t_loop_destroy(t);
            }
        }
    }
}

/* clang-format off */
static const struct { const char *body; int status; } docs[] = {
    { "{\"model\":\"m\"}", 200 },
    { "{}", 200 },
    { "[]", 200 },
    { " {\"a\":[{\"model\":1}]} ", 200 },
    { "{\"\\u006dodel\":\"m\"}", 200 },
    { "", 400 },
    { "{", 400 },
    { "{\"model\":\"m\"", 400 },
    { "{\"model\":\"m\"}}", 400 },
    { "{\"model\":\"m\"} x", 400 },
    { "{\"model\":\"m\",\"model\":\"n\"}", 400 },
    { "{\"model\":m}", 400 },
    { "{'model':\"m\"}", 400 },
    { "\xef\xbb\xbf{}", 400 },
    { "{\"model\":\"\xff\"}", 400 },
    { "{\"model\":\"\\ud800\"}", 400 },
    { "{\"model\":\"a\nb\"}", 400 },
    { "{\"a\":01}", 400 },
    { "{\"model\":\"bad\"}", 400 }, /* the watcher says ERROR */
    { "{\"model\":\"own words\",\"a\":1}", 422 }, /* it says so itself */
    { "model=m", 400 },
};
/* clang-format on */

static void
test_body_that_is_no_json_is_refused(void)
{
    for (size_t i = 0; i < KARS_NELTS(docs); i++) {
        for (int chunked = 0; chunked < 2; chunked++) {
            t_loop_t *t = body_loop(CONF(""));

            if (chunked && strlen(docs[i].body) < 2) {
                t_loop_destroy(t);
                continue; /* an empty chunk would be the last */
            }
            T_CASE(docs[i].body);
            t_request(t, body_request("/own", docs[i].body, chunked));
            CU_ASSERT_EQUAL(t_status(t), docs[i].status);
            CU_ASSERT_EQUAL(t_answers(t), 1);
            CU_ASSERT_EQUAL(gate_admits, docs[i].status == 200);
            t_client_gone(t);
            CU_ASSERT_TRUE(t_is_empty(t));
            t_loop_destroy(t);
        }
    }
}

static void
test_body_is_asked_for_once(void)
{
    t_loop_t *t = body_loop(CONF(""));

    t_request(t, "POST /own HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
                 "content-length: 2\r\n\r\n");
    CU_ASSERT_STRING_EQUAL(t_raw(t), "HTTP/1.1 100 Continue\r\n\r\n");
    t_request(t, "{");
    CU_ASSERT_STRING_EQUAL(t_raw(t), "HTTP/1.1 100 Continue\r\n\r\n");
    t_request(t, "}");
    CU_ASSERT_EQUAL(t_status(t), 200);
    t_loop_destroy(t);

    /* not for one that is refused anyway */
    t = body_loop(CONF("body_limit 1;"));
    t_request(t, "POST /own HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
                 "content-length: 2\r\n\r\n");
    CU_ASSERT_EQUAL(t_status(t), 413);
    CU_ASSERT_PTR_NULL(strstr(t_raw(t), "100 Continue"));
    t_loop_destroy(t);
}

static void
test_body_that_does_not_come_times_out(void)
{
    static const char *const routes[] = { "/gated", "/free" };

    for (size_t i = 0; i < KARS_NELTS(routes); i++) {
        t_loop_t *t = body_loop(CONF("timeout body=5s;"));
        char raw[200];

        T_CASE(routes[i]);
        (void) snprintf(raw, sizeof(raw),
                        "POST %s HTTP/1.1\r\nhost: x\r\n"
                        "content-length: 9\r\n\r\n{",
                        routes[i]);
        t_request(t, raw);
        for (int n = 0; n < 3; n++) { /* slow, but it comes */
            t_advance_ms(t, 4000);
            t_request(t, " ");
        }
        CU_ASSERT_EQUAL(t_status(t), 0);
        CU_ASSERT_EQUAL(t->cycle->nconns, 1);
        t_advance_ms(t, 5000);
        CU_ASSERT_EQUAL(t_status(t), i == 0 ? 408 : 0);
        t_advance_ms(t, 5000);
        CU_ASSERT_TRUE(t_is_empty(t));
        t_loop_destroy(t);
    }
}

/* Bodies that are held share a cap. */

#define BIG 40000

static char *
body_big(void)
{
    static char body[BIG + 1];

    memset(body, ' ', BIG);
    memcpy(body, "{}", 2);
    return body;
}

static t_loop_t *
body_memory_loop(void)
{
    return body_loop("body_memory 60000 wait=10s;" CONF(""));
}

static void
test_body_memory_pauses_and_goes_on(void)
{
    t_loop_t *t = body_memory_loop();
    const char *raw = body_request("/gated", body_big(), 0);
    t_end_t *first, *second;

    t_request(t, raw);
    first = t->client;
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1);
    second = t_client(t);
    second->recv_max = 8000;
    t_request(t, raw);
    CU_ASSERT_EQUAL(t_upstreams(t), 1);
    CU_ASSERT_TRUE(second->in_at < second->in.len); /* the router stopped */
    t_advance_ms(t, 9000);
    CU_ASSERT_EQUAL(t_status(t), 0);

    t_append(&t->ups->in, OK_REPLY, strlen(OK_REPLY)); /* the first ends */
    t_run(t);
    t->client = first;
    CU_ASSERT_EQUAL(t_status(t), 200);
    t->client = second;
    CU_ASSERT_EQUAL(t_upstreams(t), 1); /* on the same connection again */
    t_upstream_reply(t, OK_REPLY);
    CU_ASSERT_EQUAL(t_status(t), 200);
    t_loop_destroy(t);
}

static void
test_body_memory_refuses_after_its_wait(void)
{
    t_loop_t *t = body_memory_loop();
    const char *raw = body_request("/gated", body_big(), 0);

    t_request(t, raw);
    (void) t_client(t);
    t->client->recv_max = 8000;
    t_request(t, raw);
    t_advance_ms(t, 10000);
    CU_ASSERT_EQUAL(t_status(t), 503);
    t_client_gone(t);
    CU_ASSERT_EQUAL(t->cycle->body_held, BIG); /* of the first one */
    CU_ASSERT_EQUAL(t->cycle->nconns, 1);
    t_loop_destroy(t);
}

static void
test_body_memory_is_given_back_by_a_client_that_left(void)
{
    t_loop_t *t = body_memory_loop();
    const char *raw = body_request("/gated", body_big(), 0);
    t_end_t *first;

    t_request(t, raw);
    first = t->client;
    (void) t_client(t);
    t->client->recv_max = 8000;
    t_request(t, raw);
    CU_ASSERT_EQUAL(t_upstreams(t), 1);
    first->error = 104;
    t_run(t);
    CU_ASSERT_EQUAL(t_upstreams(t), 2); /* the other one's turn */
    t_client_gone(t);
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
}

/* The last piece of a body may be the one that is over: nothing waits then. */
static void
test_body_that_is_whole_waits_for_no_memory(void)
{
    t_loop_t *t = body_loop("body_memory 1000 wait=10s;" CONF(""));

    t_request(t, "POST /gated HTTP/1.1\r\nhost: x\r\n"
                 "content-length: 1200\r\n\r\n{}");
    for (int i = 0; i < 1198; i++) {
        t_append(&t->client->in, " ", 1);
    }
    t_run(t);
    CU_ASSERT_EQUAL_FATAL(t_upstreams(t), 1);
    t_advance_ms(t, 12000);
    CU_ASSERT_EQUAL(t_status(t), 0); /* not refused for want of memory */
    t_upstream_reply(t, OK_REPLY);
    CU_ASSERT_EQUAL(t_status(t), 200);
    t_loop_destroy(t);
}

/* A client that sends on, but takes no answer, costs bounded memory. */
static void
test_body_that_is_refused_is_not_read_for_ever(void)
{
    t_loop_t *t = body_loop(CONF("body_limit 20;"));
    char piece[4096];

    memset(piece, 'x', sizeof(piece));
    (void) t_client(t);
    t->client->room = 0;
    t_request(t, "POST /free HTTP/1.1\r\nhost: x\r\n"
                 "transfer-encoding: chunked\r\n\r\nffffff\r\n");
    for (int i = 0; i < 256; i++) {
        t_send(t, t->client, piece, sizeof(piece));
    }
    CU_ASSERT_TRUE(t->client->in_at < 256 * 1024);
    t_loop_destroy(t);
}

/* A paused body is not read ahead without bounds either. */
static void
test_body_that_is_paused_is_not_read(void)
{
    t_loop_t *t = body_loop("body_memory 1000 wait=10s;" CONF(""));
    char piece[4096];

    memset(piece, ' ', sizeof(piece));
    (void) t_client(t);
    t_request(t, "POST /gated HTTP/1.1\r\nhost: x\r\n"
                 "content-length: 4000000\r\n\r\n{}");
    for (int i = 0; i < 256; i++) {
        t_append(&t->client->in, piece, sizeof(piece));
    }
    t_run(t);
    CU_ASSERT_TRUE(t->client->in_at < 128 * 1024);
    t_loop_destroy(t);
}

void
suite_body(void)
{
    T_SUITE(body);
    T_TEST(body, test_body_of_a_gate_reaches_no_upstream_before_its_end);
    T_TEST(body, test_body_without_a_gate_streams);
    T_TEST(body, test_body_limit_is_exact);
    T_TEST(body, test_body_that_is_no_json_is_refused);
    T_TEST(body, test_body_is_asked_for_once);
    T_TEST(body, test_body_that_does_not_come_times_out);
    T_TEST(body, test_body_memory_pauses_and_goes_on);
    T_TEST(body, test_body_memory_refuses_after_its_wait);
    T_TEST(body, test_body_memory_is_given_back_by_a_client_that_left);
    T_TEST(body, test_body_that_is_whole_waits_for_no_memory);
    T_TEST(body, test_body_that_is_refused_is_not_read_for_ever);
    T_TEST(body, test_body_that_is_paused_is_not_read);
}
