/* test_header_guard.c - the module in a router without a socket. */
#include <errno.h>
#include <kars_test.h>
#include <string.h>

#define ROUTES                                                    \
    "upstream up { server 10.0.0.1:80; timeout first_byte=30s; }" \
    "server { listen 127.0.0.1:1; guard_words Project-X hush;"    \
    "  route POST /v1/told { pass up; }"                          \
    "  route GET /v1/free { guard_words other; pass up; } }"

static const char reply[] = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"
                            "x-made: a HUSH b\r\nx-kept: fine\r\n\r\nok";

static void
test_a_header_is_refused(void)
{
    kars_test_t *t = kars_test(ROUTES, &kars_test_open, &kars_module);

    kars_test_ask(t, "POST", "/v1/told", "x-note: about project-x\r\n", "{}");
    KARS_TEST(kars_test_status(t) == 403);
    KARS_TEST(strstr(kars_test_body(t), "\"header_refused\"") != NULL);
    KARS_TEST(kars_test_upstreams(t) == 0);

    /* What the audit says of it. */
    KARS_TEST(kars_test_ended(t) == 1);
    KARS_TEST_STR(kars_test_fact(t, "decision"), "deny");
    KARS_TEST_STR(kars_test_fact(t, "deny_code"), "header_refused");
    KARS_TEST_STR(kars_test_fact(t, "deny_module"), "header-guard");
    KARS_TEST(strstr(kars_test_log(t), "header_refused") != NULL);
    KARS_TEST(strstr(kars_test_log(t), "project-x") == NULL);

    /* Where the inner list takes the place of the outer one. */
    kars_test_ask(t, "GET", "/v1/free", "x-note: about project-x\r\n", NULL);
    KARS_TEST(kars_test_upstreams(t) == 1);
    kars_test_upstream_reply(t, reply);
    KARS_TEST(kars_test_status(t) == 200);
    KARS_TEST_STR(kars_test_header(t, "x-made"), "a HUSH b");
    kars_test_destroy(t);
}

static void
test_a_member_is_read_in_pieces(void)
{
    static const char head[] = "POST /v1/told HTTP/1.1\r\nhost: x\r\n"
                               "content-type: application/json\r\n"
                               "content-length: 15\r\n\r\n";
    static const char body[] = "{\"user\":\"hush\"}";

    for (size_t cut = 0; cut <= sizeof(body) - 1; cut++) {
        kars_test_t *t = kars_test(ROUTES, &kars_test_open, &kars_module);

        kars_test_send(t, head, sizeof(head) - 1);
        kars_test_send(t, body, cut);
        kars_test_send(t, body + cut, sizeof(body) - 1 - cut);
        KARS_TEST(kars_test_status(t) == 403);
        KARS_TEST_STR(kars_test_fact(t, "deny_code"), "member_refused");
        kars_test_destroy(t);
    }
}

static void
test_a_reply_is_cleaned(void)
{
    kars_test_t *t = kars_test(ROUTES, &kars_test_open, &kars_module);

    kars_test_ask(t, "POST", "/v1/told", NULL, "{\"user\":\"me\"}");
    KARS_TEST(kars_test_upstreams(t) == 1);
    KARS_TEST_STR(kars_test_upstream_body(t, 0), "{\"user\":\"me\"}");
    kars_test_upstream_reply(t, reply);
    KARS_TEST(kars_test_status(t) == 200);
    KARS_TEST_STR(kars_test_body(t), "ok");
    KARS_TEST_STR(kars_test_header(t, "x-made"), NULL);
    KARS_TEST_STR(kars_test_header(t, "x-kept"), "fine");
    KARS_TEST_STR(kars_test_fact(t, "decision"), "allow");
    KARS_TEST(kars_test_number(t, "status") == 200);
    kars_test_destroy(t);
}

static void
test_an_upstream_that_is_silent_or_not_there(void)
{
    kars_test_t *t = kars_test(ROUTES, &kars_test_open, &kars_module);

    kars_test_ask(t, "POST", "/v1/told", NULL, "{}");
    kars_test_advance_ms(t, 29000);
    KARS_TEST(kars_test_status(t) == 0);
    kars_test_advance_ms(t, 1500);
    KARS_TEST(kars_test_status(t) == 504);
    KARS_TEST(!kars_test_upstream_is_open(t, 0));

    /* A connection that is refused is tried again, after a while. */
    kars_test_connects(t, (const int[]){ ECONNREFUSED, ECONNREFUSED }, 2);
    kars_test_ask(t, "POST", "/v1/told", NULL, "{}");
    kars_test_advance_ms(t, 10000);
    KARS_TEST(kars_test_status(t) == 502);

    kars_test_ask(t, "POST", "/v1/told", NULL, "{}");
    kars_test_client_gone(t);
    KARS_TEST(!kars_test_client_is_open(t));
    KARS_TEST(kars_test_ended(t) == 3);
    kars_test_destroy(t);
}

/* Memory that is refused: an answer or the end of the connection, never a
 * request that goes on as if it had been looked at. */
static void
test_each_allocation_may_be_refused(void)
{
    uint64_t n = 0;
    int refused = 1;

    while (refused) {
        kars_test_t *t = kars_test(ROUTES, &kars_test_open, &kars_module);

        kars_test_client(t);
        kars_test_refuse_alloc(++n);
        kars_test_ask(t, "POST", "/v1/told", "x-note: hush\r\n", "{}");
        refused = kars_test_refused();
        kars_test_refuse_alloc(0);

        int status = kars_test_status(t);

        KARS_TEST(status == 403 || status >= 500 ||
                  !kars_test_client_is_open(t));
        KARS_TEST(kars_test_upstreams(t) == 0);
        KARS_TEST(refused || status == 403);
        kars_test_client_gone(t);
        KARS_TEST(kars_test_is_empty(t));
        kars_test_destroy(t);
    }
    KARS_TEST(n > 5);
}

static void
test_what_does_not_load(void)
{
    static const kars_module_t *const mods[] = { &kars_test_open, &kars_module,
                                                 NULL };

    KARS_TEST_STR(kars_test_load_error(ROUTES, mods), "");
    KARS_TEST(strstr(kars_test_load_error("guard_words;", mods),
                     "guard_words") != NULL);
}

int
main(void)
{
    test_a_header_is_refused();
    test_a_member_is_read_in_pieces();
    test_a_reply_is_cleaned();
    test_an_upstream_that_is_silent_or_not_there();
    test_each_allocation_may_be_refused();
    test_what_does_not_load();
    return kars_test_failures() != 0;
}
