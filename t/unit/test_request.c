/*
 * test_request.c - a governed request with its Nth allocation failing, for
 * every N: an answer of 5xx or a closed connection, never a crash, nothing
 * left.
 */
#include "base/pool.h"
#include "loop.h"

static int nomem_logged;

static int
nomem_value(kars_req_t *r, kars_str_t text, uint32_t index, uint32_t flags,
            const void *conf, void *ctx)
{
    (void) kars__api.var_set(r, KARS_STR("model"), text); /* a mere fact */
    return KARS_OK;
}

static int
nomem_verdict(kars_req_t *r, const kars_reply_t *reply, const void *conf,
              void *ctx)
{
    kars_denial_t d = { .size = sizeof(d),
                        .status = 503,
                        .code = KARS_STR("overloaded"),
                        .reason = KARS_STR("no verdict") };

    if (reply->error != 0 || reply->status != 200) {
        return kars__api.deny(r, &d);
    }
    return kars__api.json_set(r, KARS_STR("model"), KARS_STR("\"other\""));
}

static int
nomem_rewrite(kars_req_t *r, const void *conf, void *ctx)
{
    kars_upstream_t *const *up = conf;
    kars_call_t call = {
        .size = sizeof(call),
        .upstream = *up,
        .method = KARS_STR("POST"),
        .path = KARS_STR("/verdict"),
        .body = kars__api.req_body(r),
        .max_body = 64,
    };

    return kars__api.call(r, &call, nomem_verdict);
}

static int
nomem_admit(kars_req_t *r, const void *conf, void *ctx)
{
    return kars__api.header_set(r, KARS_REQUEST, KARS_STR("api-key"),
                                KARS_STR("secret")) == KARS_OK
               ? KARS_OK
               : KARS_ERROR;
}

static int
nomem_log(kars_req_t *r, const void *conf, void *ctx)
{
    nomem_logged++;
    return KARS_OK;
}

static int
nomem_body(kars_filter_t *f, kars_buf_t *in, uint32_t flags, const void *conf,
           void *ctx)
{
    (void) kars__api.filter_hold(f, in);
    return flags & KARS_LAST ? kars__api.filter_release(f, flags) : KARS_OK;
}

static const kars_hook_t nomem_hooks[] = {
    { .phase = KARS_PHASE_REWRITE,
      .run = nomem_rewrite,
      .flags = KARS_NEEDS_BODY },
    { .phase = KARS_PHASE_ADMIT, .run = nomem_admit, .flags = KARS_NEEDS_BODY },
    { .phase = KARS_PHASE_LOG, .run = nomem_log },
    { 0 },
};
static const kars_filter_def_t nomem_filters[] = {
    { .dir = KARS_RESPONSE, .body = nomem_body },
    { 0 },
};
static const kars_json_watch_t nomem_json[] = {
    { KARS_REQUEST, "model", nomem_value },
    { KARS_RESPONSE, "usage.total_tokens", nomem_value },
    { 0 },
};
static const kars_directive_t nomem_directives[] = {
    { .name = "verdict",
      .at = KARS_AT_ROUTE,
      .type = KARS_T_UPSTREAM,
      .doc = "who is asked" },
    { 0 },
};

static const kars_module_t governor = {
    T_MODULE_HEAD,
    .name = "governor",
    .conf_size = sizeof(void *),
    .ctx_size = 64,
    .directives = nomem_directives,
    .hooks = nomem_hooks,
    .filters = nomem_filters,
    .json = nomem_json,
};

#define REQUEST                                                         \
    "POST /v1/chat?x HTTP/1.1\r\nhost: x\r\ncontent-length: 38\r\n\r\n" \
    "{\"messages\":[],\"model\":\"m\",\"stream\":1}"

/* Answers all that the router asks; gives 1 when the Nth allocation was
 * reached. */
static int
nomem_run(uint64_t n)
{
    t_loop_t *t = t_loop("upstream up { server 10.0.0.1:80; }"
                         "server { listen 127.0.0.1:1;"
                         "route POST /v1/{name} { verdict up; pass up; } }",
                         &t_open, &governor);
    int status, reached;
    char *probe;
    kars_pool_t *pool;

    nomem_logged = 0;
    (void) t_client(t);
    kars__pool_fail_at(n);
    t_request(t, REQUEST);
    for (int i = 0; i < 2 && t_upstreams(t) > 0; i++) {
        if (t_is_open(t_upstream(t, t_upstreams(t) - 1))) {
            t_upstream_reply(
                t, i == 0 ? "HTTP/1.1 200 OK\r\ncontent-length: 5"
                            "\r\n\r\nallow"
                          : "HTTP/1.1 200 OK\r\ncontent-length: 30"
                            "\r\ncontent-type: application/json"
                            "\r\n\r\n{\"usage\":{\"total_tokens\":12}} ");
        }
    }
    kars__pool_fail_at(0);

    status = t_status(t);
    CU_ASSERT_TRUE(status == 200 || status >= 500 || !t_is_open(t->client));
    CU_ASSERT_TRUE(t_answers(t) <= 1);
    CU_ASSERT_TRUE(nomem_logged <= 1);
    CU_ASSERT_TRUE(status != 200 || nomem_logged == 1);
    reached = status != 200;

    /* a failure that nobody heard of: the request went on all the same */
    pool = kars__pool_create(0);
    probe = kars__palloc(pool, 1);
    CU_ASSERT_PTR_NOT_NULL(probe);
    kars__pool_destroy(pool);

    /* and the next request is served as if nothing had been */
    if (n % 7 == 0) {
        (void) t_client(t);
        t_request(t, "GET /none HTTP/1.1\r\nhost: x\r\n\r\n");
        CU_ASSERT_EQUAL(t_status(t), 404);
    }
    for (t_end_t *e = t->clients; e != NULL; e = e->next) {
        e->error = 104;
    }
    t_run(t);
    t_advance_ms(t, 5000);
    CU_ASSERT_TRUE(t_is_empty(t));
    t_loop_destroy(t);
    return reached;
}

static void
test_nomem_governed_request_without_failure_is_answered(void)
{
    CU_ASSERT_EQUAL(nomem_run(0), 0);
}

static void
test_nomem_every_allocation_may_fail(void)
{
    int failed = 0;

    for (uint64_t n = 1; n < 200; n++) {
        char label[24];

        (void) snprintf(label, sizeof(label), "allocation %d", (int) n);
        T_CASE(label);
        failed += nomem_run(n);
    }
    CU_ASSERT_TRUE(failed > 20);
}

/* The cap of a request's pool, byte by byte: the same as failing memory. */
static void
test_nomem_every_cap_is_survived(void)
{
    for (unsigned cap = 600; cap < 9000; cap += 48) {
        char conf[200];
        t_loop_t *t;

        (void) snprintf(conf, sizeof(conf),
                        "upstream up { server 10.0.0.1:80; }"
                        "server { listen 127.0.0.1:1; memory %u;"
                        "route POST /v1/{name} { verdict up; pass up; } }",
                        cap);
        T_CASE(conf + 60);
        t = t_loop(conf, &t_open, &governor);
        t_request(t, REQUEST);
        for (int i = 0; i < 2 && t_upstreams(t) > 0; i++) {
            if (t_is_open(t_upstream(t, t_upstreams(t) - 1))) {
                t_upstream_reply(t, "HTTP/1.1 200 OK\r\ncontent-length: 5"
                                    "\r\n\r\nallow");
            }
        }
        CU_ASSERT_TRUE(t_status(t) == 200 || t_status(t) >= 500 ||
                       !t_is_open(t->client));
        if (t_is_open(t->client)) {
            t_client_gone(t);
        }
        CU_ASSERT_TRUE(t_is_empty(t));
        t_loop_destroy(t);
    }
}

static void
test_headers_set_replaces_in_place_and_leaves_one(void)
{
    static const struct {
        const char *before; /* a letter a header; without case */
        const char *after;  /* with the values */
    } cases[] = {
        { "", "x1" },        { "a", "a0x1" },          { "x", "x1" },
        { "axb", "a0x1b0" }, { "aXbxcX", "a0x1b0c0" }, { "xX", "x1" },
    };
    kars_req_t r = { .pool = kars__pool_create(0) };

    for (size_t i = 0; i < KARS_NELTS(cases); i++) {
        char after[64];
        size_t n = 0;

        T_CASE(cases[i].before);
        r.in.n = 0;
        for (const char *p = cases[i].before; *p != '\0'; p++) {
            CU_ASSERT_EQUAL(kars__headers_add(r.pool, &r.in,
                                              (kars_str_t){ p, 1 },
                                              KARS_STR("0")),
                            KARS_OK);
        }
        CU_ASSERT_EQUAL(kars__api.header_set(&r, KARS_REQUEST, KARS_STR("x"),
                                             KARS_STR("1")),
                        KARS_OK);
        after[0] = '\0';
        for (size_t j = 0; j < r.in.n; j++) {
            n += (size_t) snprintf(after + n, sizeof(after) - n, "%.*s%.*s",
                                   KARS_STR_ARG(r.in.v[j].name),
                                   KARS_STR_ARG(r.in.v[j].value));
        }
        CU_ASSERT_STRING_EQUAL(after, cases[i].after);

        /* what cannot be set leaves nothing of that name */
        CU_ASSERT_EQUAL(kars__api.header_set(&r, KARS_REQUEST, KARS_STR("X"),
                                             KARS_STR("a\nb")),
                        KARS_ERROR);
        CU_ASSERT_EQUAL(kars__headers_get(&r.in, KARS_STR("x")).len, 0);
    }
    kars__pool_destroy(r.pool);
}

void
suite_request(void)
{
    T_SUITE(request);
    T_TEST(request, test_headers_set_replaces_in_place_and_leaves_one);
    T_TEST(request, test_nomem_governed_request_without_failure_is_answered);
    T_TEST(request, test_nomem_every_allocation_may_fail);
    T_TEST(request, test_nomem_every_cap_is_survived);
}
