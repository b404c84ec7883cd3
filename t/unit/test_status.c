/*
 * test_status.c - modules/status/status.c, its hook called as the router would.
 */
#undef KARS_CORE /* a module, not the core */
#define KARS_BUILTIN
#include "status/status.c"

#include "t.h"

#include <stdio.h>

static struct {
    kars_upstream_state_t upstreams[3];
    size_t nupstreams;
    kars_watch_state_t watched[2];
    size_t nwatched;
    int healthy, ending, status;
    char type[128], body[20000], pool[20000];
    size_t cap;
} fake;

static void *
fake_palloc(kars_pool_t *pool, size_t size)
{
    return size > fake.cap ? NULL : fake.pool;
}

static kars_pool_t *
fake_req_pool(kars_req_t *r)
{
    return NULL;
}

static kars_cycle_t *
fake_req_cycle(kars_req_t *r)
{
    return NULL;
}

static void
fake_each(kars_cycle_t *cycle,
          void (*fn)(const kars_upstream_state_t *s, void *data), void *data)
{
    for (size_t i = 0; i < fake.nupstreams; i++) {
        fn(&fake.upstreams[i], data);
        fake.upstreams[i].failure_streak = UINT32_MAX; /* another worker's */
        fake.upstreams[i].first_failure_at_ms = UINT64_MAX;
    }
}

static void
fake_watch_each(kars_cycle_t *cycle,
                void (*fn)(const kars_watch_state_t *s, void *data), void *data)
{
    for (size_t i = 0; i < fake.nwatched; i++) {
        fn(&fake.watched[i], data);
        fake.watched[i].error = KARS_STR("refused by another worker");
    }
}

static int
fake_respond(kars_req_t *r, int status, kars_str_t type, kars_str_t body)
{
    fake.status = status;
    snprintf(fake.type, sizeof(fake.type), "%.*s", KARS_STR_ARG(type));
    snprintf(fake.body, sizeof(fake.body), "%.*s", KARS_STR_ARG(body));
    return KARS_DONE;
}

static kars_str_t
fake_metrics(kars_req_t *r)
{
    return fake.cap == 0 ? (kars_str_t){ NULL, 0 } : KARS_STR("kars_up 1\n");
}

static int
fake_ending(kars_cycle_t *cycle)
{
    return fake.ending;
}

static int
fake_healthy(kars_cycle_t *cycle)
{
    return fake.healthy;
}

static const kars_audit_sink_t fake_sink = { .size = sizeof(fake_sink),
                                             .healthy = fake_healthy };

static const kars_api_t fake_api = { .size = sizeof(fake_api),
                                     .palloc = fake_palloc,
                                     .req_pool = fake_req_pool,
                                     .req_cycle = fake_req_cycle,
                                     .cycle_ending = fake_ending,
                                     .respond = fake_respond,
                                     .upstream_each = fake_each,
                                     .watch_each = fake_watch_each,
                                     .metrics_text = fake_metrics };

static int
fake_ask(int32_t what)
{
    status_conf_t conf = { .what = what };

    return status_content(NULL, &conf, NULL);
}

static void
fake_begin(const kars_audit_sink_t *sink)
{
    memset(&fake, 0, sizeof(fake));
    fake.cap = sizeof(fake.pool);
    status_audit = sink;
    kars_api = &fake_api;
}

static void
test_status_is_not_ready_while_audit_cannot_write(void)
{
    fake_begin(&fake_sink);
    CU_ASSERT_EQUAL(fake_ask(STATUS_READYZ), KARS_DONE);
    CU_ASSERT_EQUAL(fake.status, 503);
    CU_ASSERT_STRING_EQUAL(fake.body, "not ready — audit cannot write");
    (void) fake_ask(STATUS_HEALTHZ);
    CU_ASSERT_EQUAL(fake.status, 200);

    fake.healthy = 1;
    fake.ending = 1;
    (void) fake_ask(STATUS_READYZ);
    CU_ASSERT_EQUAL(fake.status, 503);
    CU_ASSERT_PTR_NOT_NULL(strstr(fake.body, "stopping"));
    fake.ending = 0;
    (void) fake_ask(STATUS_READYZ);
    CU_ASSERT_EQUAL(fake.status, 200);
    CU_ASSERT_STRING_EQUAL(fake.body, "ok");

    fake_begin(NULL);
    (void) fake_ask(STATUS_READYZ);
    CU_ASSERT_EQUAL(fake.status, 200);
}

static void
test_status_metrics_say_their_format(void)
{
    fake_begin(NULL);
    CU_ASSERT_EQUAL(fake_ask(STATUS_METRICS), KARS_DONE);
    CU_ASSERT_STRING_EQUAL(fake.type,
                           "text/plain; version=0.0.4; charset=utf-8");
    CU_ASSERT_STRING_EQUAL(fake.body, "kars_up 1\n");
    fake.cap = 0;
    CU_ASSERT_EQUAL(fake_ask(STATUS_METRICS), KARS_ERROR);
}

static void
test_status_policy_lists_every_upstream(void)
{
    static const char none[] = "{\"schema_version\":1,\"count\":0,"
                               "\"entries\":[],\"deployment_health\":[]}";

    fake_begin(NULL);
    CU_ASSERT_EQUAL(fake_ask(STATUS_POLICY_STATUS), KARS_DONE);
    CU_ASSERT_STRING_EQUAL(fake.type, "application/json");
    CU_ASSERT_STRING_EQUAL(fake.body, none);

    fake.nupstreams = 3;
    for (size_t i = 0; i < fake.nupstreams; i++) {
        fake.upstreams[i].name = KARS_STR("\"u\"");
    }
    CU_ASSERT_EQUAL(fake_ask(STATUS_POLICY_STATUS), KARS_DONE);

    size_t n = 0;

    for (const char *p = fake.body;
         (p = strstr(p, "{\"deployment\":\"\\\"u\\\"\"")) != NULL; p++) {
        n++;
    }
    CU_ASSERT_EQUAL(n, 3);
    CU_ASSERT_PTR_NOT_NULL(strstr(fake.body, "},{"));
    CU_ASSERT_STRING_EQUAL(fake.body + strlen(fake.body) - 3, "}]}");

    fake.cap = 10;
    CU_ASSERT_EQUAL(fake_ask(STATUS_POLICY_STATUS), KARS_ERROR);
}

static void
test_status_policy_lists_every_watched_file(void)
{
    static const char start[] =
        "{\"schema_version\":1,\"count\":2,\"entries\":["
        "{\"kind\":\"A\",\"digest\":null,\"source_path\":\"/p\","
        "\"loaded_at\":null,\"last_error\":\"refused by another worker\"},"
        "{\"kind\":\"B\",";

    fake_begin(NULL);
    fake.nwatched = 2;
    fake.watched[0].kind = KARS_STR("A");
    fake.watched[1].kind = KARS_STR("B");
    fake.watched[0].path = fake.watched[1].path = KARS_STR("/p");
    CU_ASSERT_EQUAL(fake_ask(STATUS_POLICY_STATUS), KARS_DONE);
    CU_ASSERT_TRUE(kars_str_starts(t_str(fake.body), t_str(start)));
    CU_ASSERT_STRING_EQUAL(fake.body + strlen(fake.body) - 26,
                           "}],\"deployment_health\":[]}");
    fake.cap = 100;
    CU_ASSERT_EQUAL(fake_ask(STATUS_POLICY_STATUS), KARS_ERROR);
}

void
suite_status(void)
{
    T_SUITE(status);
    T_TEST(status, test_status_is_not_ready_while_audit_cannot_write);
    T_TEST(status, test_status_metrics_say_their_format);
    T_TEST(status, test_status_policy_lists_every_upstream);
    T_TEST(status, test_status_policy_lists_every_watched_file);
}
