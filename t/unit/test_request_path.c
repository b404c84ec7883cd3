/*
 * test_request_path.c - a request that gets another path on its way: the new
 * route's access, gates and limits hold. And what else a module may do with a
 * held request: its body in one piece, a header that is a secret, memory that
 * outlives it.
 */
#include "loop.h"

#define OK_REPLY "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

static struct {
    char go[64];    /* the path that the hook asks for */
    char model[32]; /* the watched member */
    char route[64]; /* as LOG saw it */
    char path[64];
    int accesses;
    int rewrites;
    int admits;
    int rc; /* of rewrite_path */
    kars_token_t token;
    int waits;
    kars_str_t flat;
    kars_str_t flat_old;
    int edits;
    int logged;
} rp;

typedef struct {
    int32_t inside;
    kars_secret_t *key;
} rp_conf_t;

static int
rp_see(kars_req_t *r, kars_str_t text, uint32_t index, uint32_t flags,
       const void *conf, void *ctx)
{
    (void) snprintf(rp.model, sizeof(rp.model), "%.*s", KARS_STR_ARG(text));
    return KARS_OK;
}

/* Who comes in by this route: nobody but by /in. */
static int
rp_access(kars_req_t *r, const void *conf, void *ctx)
{
    const rp_conf_t *pc = conf;

    rp.accesses++;
    CU_ASSERT_EQUAL(kars__api.req_class(r).len, 0); /* nothing is left over */
    return pc->inside ? kars__api.grant(r, KARS_STR("agent"), KARS_STR("me"))
                      : KARS_OK;
}

static int
rp_woken(kars_req_t *r, int error, const void *conf, void *ctx)
{
    return error == 0 ? KARS_OK : KARS_ERROR;
}

static int
rp_rewrite(kars_req_t *r, const void *conf, void *ctx)
{
    const rp_conf_t *pc = conf;

    rp.rewrites++;
    if (rp.edits) {
        CU_ASSERT_EQUAL(
            kars__api.json_set(r, KARS_STR("model"), KARS_STR("\"e\"")),
            KARS_OK);
    }
    if (pc->key != NULL) {
        CU_ASSERT_EQUAL(kars__api.header_secret(r, KARS_STR("api-key"),
                                                KARS_STR("Key "), pc->key),
                        KARS_OK);
        CU_ASSERT_EQUAL(
            kars__api.header(r, KARS_REQUEST, KARS_STR("api-key")).len, 0);
        CU_ASSERT_EQUAL(kars__api.header_add(r, KARS_REQUEST,
                                             KARS_STR("API-Key"),
                                             KARS_STR("mine")),
                        KARS_ERROR); /* it would be a second one */
    }
    if (rp.go[0] == '\0') {
        return KARS_OK;
    }
    rp.rc = kars__api.rewrite_path(r, t_str(rp.go));
    if (rp.rewrites == 1 && strcmp(rp.go, "/loop") != 0) {
        rp.go[0] = '\0';
    }
    if (rp.waits) {
        rp.token = kars__api.suspend(r, 5000, rp_woken);
        return KARS_AGAIN;
    }
    return KARS_OK;
}

static int
rp_admit(kars_req_t *r, const void *conf, void *ctx)
{
    rp.admits++;
    CU_ASSERT_EQUAL(kars__api.rewrite_path(r, KARS_STR("/in")), KARS_ERROR);
    rp.flat = kars__api.req_body_flat(r);
    if (rp.edits && rp.flat.data != NULL) {
        rp.flat_old = rp.flat;
        CU_ASSERT_PTR_EQUAL(kars__api.req_body_flat(r).data, rp.flat.data);
    }
    return KARS_OK;
}

static int
rp_log(kars_req_t *r, const void *conf, void *ctx)
{
    rp.logged++;
    (void) snprintf(rp.route, sizeof(rp.route), "%.*s",
                    KARS_STR_ARG(kars__api.req_route(r)));
    (void) snprintf(rp.path, sizeof(rp.path), "%.*s?%.*s",
                    KARS_STR_ARG(kars__api.req_path(r)),
                    KARS_STR_ARG(kars__api.req_query(r)));
    return KARS_OK;
}

static const kars_hook_t rp_hooks[] = {
    { .phase = KARS_PHASE_ACCESS, .run = rp_access },
    { .phase = KARS_PHASE_REWRITE, .run = rp_rewrite },
    { .phase = KARS_PHASE_LOG, .run = rp_log },
    { 0 },
};
static const kars_directive_t rp_directives[] = {
    { .name = "inside",
      .at = KARS_AT_ROUTE,
      .type = KARS_T_FLAG,
      .offset = offsetof(rp_conf_t, inside),
      .doc = "x" },
    { .name = "key",
      .at = KARS_AT_ROUTE,
      .type = KARS_T_SECRET,
      .offset = offsetof(rp_conf_t, key),
      .doc = "x" },
    { 0 },
};
static const kars_module_t mod_rp = {
    T_MODULE_HEAD,        .name = "rp",
    .flags = KARS_ALWAYS, .conf_size = sizeof(rp_conf_t),
    .hooks = rp_hooks,    .directives = rp_directives,
};
/* The same, its REWRITE after the body came. */
static const kars_hook_t rp_late_hooks[] = {
    { .phase = KARS_PHASE_ACCESS, .run = rp_access },
    { .phase = KARS_PHASE_REWRITE,
      .run = rp_rewrite,
      .flags = KARS_NEEDS_BODY },
    { .phase = KARS_PHASE_LOG, .run = rp_log },
    { 0 },
};
static const kars_module_t mod_late = {
    T_MODULE_HEAD,          .name = "rp",
    .flags = KARS_ALWAYS,   .conf_size = sizeof(rp_conf_t),
    .hooks = rp_late_hooks, .directives = rp_directives,
};

static const kars_hook_t gate_hooks[] = {
    { .phase = KARS_PHASE_ADMIT, .run = rp_admit, .flags = KARS_NEEDS_BODY },
    { 0 },
};
static const kars_json_watch_t gate_json[] = {
    { KARS_REQUEST, "model", rp_see },
    { 0 },
};
static const kars_directive_t gate_directives[] = {
    { .name = "gate", .at = KARS_AT_ROUTE, .type = KARS_T_FLAG, .doc = "x" },
    { 0 },
};
static const kars_module_t mod_gate = {
    T_MODULE_HEAD,       .name = "gate",    .conf_size = sizeof(int32_t),
    .hooks = gate_hooks, .json = gate_json, .directives = gate_directives,
};

#define CONF                                                            \
    "upstream up { server 10.0.0.1:80; }"                               \
    "server { listen 127.0.0.1:1;"                                      \
    "route POST,GET /from { inside on; pass up; }"                      \
    "route POST,GET /gated/{id} { inside on; gate on; pass up; }"       \
    "route POST /small { inside on; gate on; body_limit 10; pass up; }" \
    "route POST /key { inside on; key env:RP_KEY; gate on; pass up; }"  \
    "route POST,GET /loop { inside on; pass up; }"                      \
    "route POST,GET /outside { pass up; } }"

static t_loop_t *
rp_loop(int late, const char *go)
{
    memset(&rp, 0, sizeof(rp));
    (void) snprintf(rp.go, sizeof(rp.go), "%s", go);
    (void) setenv("RP_KEY", "hush-hush", 1);
    return late ? t_loop(CONF, &mod_late, &mod_gate)
                : t_loop(CONF, &mod_rp, &mod_gate);
}

#define BODY "{\"model\":\"m1\"}"
#define POST(path) \
    "POST " path " HTTP/1.1\r\nhost: x\r\ncontent-length: 14\r\n\r\n" BODY

static void
rp_end(t_loop_t *t)
{
    if (t_is_open(t->client)) {
        t_client_gone(t);
    }
    CU_ASSERT_TRUE(t_is_empty(t));
    CU_ASSERT_EQUAL(rp.logged, 1);
    t_loop_destroy(t);
}

/* clang-format off */
static const struct {
    const char *go;
    int status;
    const char *route; /* the final one */
    const char *path;
    const char *line;  /* what the upstream got; NULL: nothing */
    int admits;
    int rc;
} ways[] = {
    { "/gated/7?a=b%20c", 200, "/gated/{id}", "/gated/7?a=b%20c", "POST /gated/7?a=b%20c HTTP/1.1\r\n", 1, KARS_OK },
    { "/gated/%41",       200, "/gated/{id}", "/gated/A?",        "POST /gated/%41 HTTP/1.1\r\n",       1, KARS_OK },
    { "/from",            200, "/from",       "/from?",           "POST /from HTTP/1.1\r\n",            0, KARS_OK },
    { "/outside",         403, "/outside",    "/outside?",        NULL, 0, KARS_OK },
    { "/small",           413, "/small",      "/small?",          NULL, 0, KARS_OK },
    { "/nowhere",         404, "-",           "/nowhere?",        NULL, 0, KARS_OK },
    { "/loop",            500, "/loop",       "/loop?",           NULL, 0, KARS_OK },
    { "relative",         200, "/from",       "/from?q",          "POST /from?q HTTP/1.1\r\n", 0, KARS_ERROR },
    { "/a b",             200, "/from",       "/from?q",          "POST /from?q HTTP/1.1\r\n", 0, KARS_ERROR },
    { "/a\r\nx: y",       200, "/from",       "/from?q",          "POST /from?q HTTP/1.1\r\n", 0, KARS_ERROR },
    { "/a/../b",          200, "/from",       "/from?q",          "POST /from?q HTTP/1.1\r\n", 0, KARS_ERROR },
};
/* clang-format on */

static void
test_request_path_rewritten(void)
{
    for (size_t i = 0; i < KARS_NELTS(ways) * 4; i++) {
        size_t w = i / 4;
        int late = i & 1, waits = (i & 2) != 0;
        t_loop_t *t = rp_loop(late, ways[w].go);
        char label[80];

        if (waits && strcmp(ways[w].go, "/loop") == 0) {
            waits = 0;
        }
        rp.waits = waits;
        (void) snprintf(label, sizeof(label), "%s late=%d waits=%d", ways[w].go,
                        late, waits);
        T_CASE(label);
        t_request(t, POST("/from?q"));
        while (rp.token != 0) {
            kars_token_t token = rp.token;

            rp.token = 0;
            (void) kars__api.resume(token, 0);
            t_run(t);
            t_run(t); /* what the turn's last flush began */
        }
        CU_ASSERT_EQUAL(rp.rc, ways[w].rc);
        CU_ASSERT_EQUAL(t_upstreams(t), ways[w].line != NULL);
        if (ways[w].line != NULL && t_upstreams(t) == 1) {
            CU_ASSERT_EQUAL(strncmp(t_upstream_got(t, 0), ways[w].line,
                                    strlen(ways[w].line)),
                            0);
            CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 0), BODY);
            t_upstream_reply(t, OK_REPLY);
        }
        CU_ASSERT_EQUAL(t_status(t), ways[w].status);
        CU_ASSERT_EQUAL(rp.admits, ways[w].admits);
        CU_ASSERT_STRING_EQUAL(rp.model, ways[w].admits ? "m1" : "");
        CU_ASSERT_STRING_EQUAL(rp.route, ways[w].route);
        CU_ASSERT_STRING_EQUAL(rp.path, ways[w].path);
        if (strcmp(ways[w].go, "/loop") == 0) {
            CU_ASSERT_EQUAL(rp.accesses, 5); /* and four more */
        }
        rp_end(t);
    }
}

/* What was edited before is what the new route sees. */
static void
test_request_path_takes_its_edits_along(void)
{
    t_loop_t *t = rp_loop(1, "");

    rp.edits = 1;
    (void) snprintf(rp.go, sizeof(rp.go), "/gated/2");
    t_request(t, POST("/gated/1"));
    CU_ASSERT_STRING_EQUAL(rp.model, "e");
    CU_ASSERT_TRUE(kars_str_eq(rp.flat, KARS_STR("{\"model\":\"e\"}")));
    CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 0), "{\"model\":\"e\"}");
    CU_ASSERT_PTR_NOT_NULL(
        strstr(t_upstream_got(t, 0), "content-length: 13\r\n"));
    rp_end(t);
}

/* Whichever allocation fails: nothing goes by the old path, nobody comes in
 * whom the new route does not let in. */
static void
test_request_path_without_memory(void)
{
    for (uint64_t nth = 1; nth < 60; nth++) {
        t_loop_t *t = rp_loop(nth % 2, "/outside");

        (void) t_client(t);
        kars__pool_fail_at(nth / 2 + 1);
        t_request(t, POST("/gated/1"));
        kars__pool_fail_at(0);
        if (rp.rc == KARS_OK) {
            CU_ASSERT_EQUAL(t_upstreams(t), 0);
        }
        if (t_is_open(t->client)) {
            t_client_gone(t);
        }
        CU_ASSERT_TRUE(t_is_empty(t));
        t_loop_destroy(t);
    }
}

static void
test_request_body_in_one_piece(void)
{
    for (int memory = 0; memory < 2; memory++) {
        t_loop_t *t = rp_loop(0, "");
        const char *raw = POST("/gated/1");

        t->cycle->body_memory = memory ? 64 : 20; /* the body, and a copy? */
        (void) t_client(t);
        for (size_t i = 0; i < strlen(raw); i++) {
            t_send(t, t->client, raw + i, 1);
            if (i == strlen(raw) - 7) { /* what stood in a block of its own */
                kars_buf_t *b = t->client->conn->h1.r->body;

                CU_ASSERT_PTR_NOT_NULL_FATAL(b);
                b->next = kars__buf_view(b->owner, NULL, "", 0);
                t->client->conn->h1.r->body_last = b->next;
            }
        }
        CU_ASSERT_EQUAL(rp.admits, 1);
        CU_ASSERT_EQUAL(rp.flat.data != NULL, memory);
        if (memory) {
            CU_ASSERT_TRUE(kars_str_eq(rp.flat, KARS_STR(BODY)));
            CU_ASSERT_EQUAL(t->cycle->body_held, 28);
        }
        rp_end(t);
    }
}

/* It reaches the upstream, and nothing else. */
static void
test_request_header_secret(void)
{
    t_loop_t *t = rp_loop(0, "");

    t_request(t, "POST /key HTTP/1.1\r\nhost: x\r\napi-key: mine\r\n"
                 "content-length: 14\r\n\r\n" BODY);
    CU_ASSERT_PTR_NOT_NULL(
        strstr(t_upstream_got(t, 0), "\r\napi-key: Key hush-hush\r\n"));
    CU_ASSERT_PTR_NULL(strstr(t_upstream_got(t, 0), "mine"));
    CU_ASSERT_STRING_EQUAL(t_upstream_body(t, 0), BODY);
    t_upstream_reply(t, OK_REPLY);
    CU_ASSERT_EQUAL(t_status(t), 200);
    CU_ASSERT_PTR_NULL(strstr(t_log(t), "hush"));
    rp_end(t);
}

static int rp_released;

static void
rp_release(void *data)
{
    rp_released++;
}

static void
test_request_outlived_by_a_pool(void)
{
    t_loop_t *t = rp_loop(0, "");
    kars_pool_t *a = kars__api.pool_create(t->cycle, 4096);
    kars_pool_t *b = kars__api.pool_create(t->cycle, 0);
    kars_pool_t *c = kars__api.pool_create(t->cycle, SIZE_MAX);
    unsigned char bytes[2][64] = { { 0 }, { 0 } };

    rp_released = 0;
    CU_ASSERT_PTR_NOT_NULL_FATAL(a);
    CU_ASSERT_PTR_NOT_NULL_FATAL(b);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    CU_ASSERT_PTR_NOT_NULL(kars__api.palloc(a, 4000));
    CU_ASSERT_PTR_NULL(kars__api.palloc(a, 4000));
    CU_ASSERT_PTR_NOT_NULL(kars__api.palloc(b, 100000));
    CU_ASSERT_PTR_NOT_NULL(kars__api.pown(b, 1, rp_release));
    CU_ASSERT_PTR_NOT_NULL(kars__api.pown(c, 1, rp_release));
    kars__api.pool_destroy(b);
    CU_ASSERT_EQUAL(rp_released, 1);
    kars__api.pool_destroy(NULL);

    CU_ASSERT_EQUAL(kars__api.random(bytes[0], 64), KARS_OK);
    CU_ASSERT_EQUAL(kars__api.random(bytes[1], 64), KARS_OK);
    CU_ASSERT_NOT_EQUAL(memcmp(bytes[0], bytes[1], 64), 0);
    t_loop_destroy(t);
    CU_ASSERT_EQUAL(rp_released, 2); /* what nobody destroyed goes, too */
}

void
suite_request_path(void)
{
    T_SUITE(request_path);
    T_TEST(request_path, test_request_path_rewritten);
    T_TEST(request_path, test_request_path_takes_its_edits_along);
    T_TEST(request_path, test_request_path_without_memory);
    T_TEST(request_path, test_request_body_in_one_piece);
    T_TEST(request_path, test_request_header_secret);
    T_TEST(request_path, test_request_outlived_by_a_pool);
}
