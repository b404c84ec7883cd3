/*
 * test_route.c - which route takes a request.
 */
#include "loop.h"

static const char route_conf[] =
    "route GET / { respond 200 root; }"
    "route GET /a { respond 200 a; }"
    "route GET /a/ { respond 200 a-slash; }"
    "route GET /{x} { respond 200 name; }"
    "route POST,PUT /a { respond 200 a-write; }"
    "route * /any { respond 200 any; }"
    "route GET /any { respond 200 any-get; }"
    "route GET /v1/models { respond 200 models; }"
    "route GET /v1/models/{id} { respond 200 model; }"
    "route GET /v1/{rest...} { respond 200 rest; }"
    "route GET /v1/{a}/{b}/end { respond 200 end; }"
    "route GET /only/{rest...} { respond 200 only; }"
    "route GET \"/sp ace\" { respond 200 space; }";

/* clang-format off */
static const struct { const char *method; const char *target; const char *taken; } finds[] = {
    { "GET", "/", "root" },               { "GET", "/?q", "root" },
    { "GET", "/a", "a" },                 { "GET", "/a?b", "a" },
    { "GET", "/%61", "a" },               { "GET", "/a/", "a-slash" },
    { "GET", "/b", "name" },              { "GET", "/A", "name" },
    { "GET", "/%20", "name" },            { "POST", "/a", "a-write" },
    { "PUT", "/a", "a-write" },           { "PATCH", "/a", NULL },
    { "GET", "/any", "any-get" },         { "DELETE", "/any", "any" },
    { "GET", "/v1/models", "models" },    { "GET", "/v1/models/x", "model" },
    { "GET", "/v1/models/", "rest" },     { "GET", "/v1/models/x/y", "rest" },
    { "GET", "/v1/x/y/end", "end" },      { "GET", "/v1/x/y/z", "rest" },
    { "GET", "/v1/", NULL },              { "GET", "/v1", "name" },
    { "GET", "/only/", NULL },            { "GET", "/only/x", "only" },
    { "GET", "/only//", "only" },         { "GET", "//", NULL },
    { "GET", "//a", NULL },               { "GET", "/a//", NULL },
    { "GET", "/sp%20ace", "space" },      { "POST", "/b", NULL },
    { "OPTIONS", "*", NULL },
};
/* clang-format on */

static void
test_route_table(void)
{
    t_loop_t *t = t_loop(route_conf, &t_open);

    for (size_t i = 0; i < KARS_NELTS(finds); i++) {
        char raw[200];

        T_CASE(finds[i].target);
        (void) snprintf(raw, sizeof(raw), "%s %s HTTP/1.1\r\nhost: x\r\n\r\n",
                        finds[i].method, finds[i].target);
        t_request(t, raw);
        if (finds[i].taken != NULL) {
            CU_ASSERT_EQUAL(t_status(t), 200);
            CU_ASSERT_STRING_EQUAL(t_body(t), finds[i].taken);
        } else {
            CU_ASSERT_EQUAL(t_status(t), 404);
        }
    }
    CU_ASSERT_EQUAL(t_answers(t), (int) KARS_NELTS(finds));
    t_loop_destroy(t);
}

/* clang-format off */
static const struct { const char *conf; const char *error; } wrongs[] = {
    { "route GET /a { respond 200; } route GET /a { respond 201; }", "matches what the route" },
    { "route GET /{a} { respond 200; } route GET /{b} { respond 201; }", "matches what the route" },
    { "route GET,PUT /a { respond 200; } route PUT,POST /a { respond 201; }", "matches what the route" },
    { "route * /a { respond 200; } route * /a { respond 201; }", "matches what the route" },
    { "route * /a { respond 200; } route GET /a { respond 201; }", "" },
    { "route GET a { respond 200; }", "does not begin with /" },
    { "route GET /{a...}/b { respond 200; }", "not the last segment" },
    { "route GET \"/{}\" { respond 200; }", "without a name" },
    { "route GET \"/{a\" { respond 200; }", "has no }" },
    { "route GET /a{b} { respond 200; }", "a brace inside" },
    { "route get /a { respond 200; }", "expected methods" },
    { "route GET, /a { respond 200; }", "expected methods" },
    { "route GET /a;", "expected `route" },
    { "route GET /a { respond 99; }", "from 200 to 599" },
    { "route GET /a { pass nobody; }", "nobody" },
    { "route GET /a { respnd 200; }", "did you mean \"respond\"" },
    { "", "" },
};
/* clang-format on */

static void
test_route_errors_say_what_is_wrong(void)
{
    for (size_t i = 0; i < KARS_NELTS(wrongs); i++) {
        const char *error = t_load_error(wrongs[i].conf, NULL);

        T_CASE(wrongs[i].conf);
        if (wrongs[i].error[0] == '\0') {
            CU_ASSERT_STRING_EQUAL(error, "");
        } else {
            CU_ASSERT_PTR_NOT_NULL(strstr(error, wrongs[i].error));
            CU_ASSERT_PTR_NOT_NULL(strstr(error, ":1:")); /* the line */
        }
    }
}

void
suite_route(void)
{
    T_SUITE(route);
    T_TEST(route, test_route_table);
    T_TEST(route, test_route_errors_say_what_is_wrong);
}
