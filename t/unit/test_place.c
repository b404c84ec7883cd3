/*
 * test_place.c - what check() may ask of the level that it checks: watches of
 * JSON members, errors that name a directive's line.
 */
#include "loop.h"

static struct {
    char seen[64];
    int rc_main; /* what json_watch said at main */
} pl;

typedef struct {
    kars_str_t member;
    uint64_t bad;
} place_conf_t;

static int
place_see(kars_req_t *r, kars_str_t text, uint32_t index, uint32_t flags,
          const void *conf, void *ctx)
{
    size_t o = strlen(pl.seen);

    (void) snprintf(pl.seen + o, sizeof(pl.seen) - o, "%.*s",
                    KARS_STR_ARG(text));
    return KARS_OK;
}

static int
place_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    place_conf_t *pc = conf;
    kars_json_watch_t row = { KARS_REQUEST, pc->member.data, place_see };

    if (pc->bad > 100) {
        return kars__api.check_err(place, &pc->bad, err, "%d is too much",
                                   (int) pc->bad);
    }
    if (pc->bad == 7) {
        return kars__api.check_err(place, conf, err, "nothing there");
    }
    if (place->at == KARS_AT_MAIN) {
        pl.rc_main = kars__api.json_watch(place, &row);
        return KARS_OK;
    }
    return pc->member.len == 0 || kars__api.json_watch(place, &row) == KARS_OK
               ? KARS_OK
               : kars__api.err(err, 0, "json_watch");
}

static const kars_directive_t place_directives[] = {
    { .name = "member",
      .at = KARS_AT_ROUTE,
      .type = KARS_T_STR,
      .offset = offsetof(place_conf_t, member),
      .doc = "x" },
    { .name = "bad",
      .at = KARS_AT_MAIN | KARS_AT_ROUTE,
      .type = KARS_T_COUNT,
      .offset = offsetof(place_conf_t, bad),
      .doc = "x" },
    { 0 },
};
static const kars_module_t mod_place = {
    T_MODULE_HEAD,
    .name = "place",
    .conf_size = sizeof(place_conf_t),
    .directives = place_directives,
    .check = place_check,
};

#define POST(path, body, n) \
    "POST " path " HTTP/1.1\r\nhost: x\r\ncontent-length: " n "\r\n\r\n" body

static void
test_place_watches_a_configured_member(void)
{
    t_loop_t *t;

    memset(&pl, 0, sizeof(pl));
    t = t_loop("route POST /a { member user.name; respond 200 ok; }"
               "route POST /b { respond 200 ok; }",
               &t_open, &mod_place);
    CU_ASSERT_EQUAL(pl.rc_main, KARS_ERROR);
    t_request(t, POST("/a", "{\"user\":{\"name\":\"me\"}}", "22"));
    CU_ASSERT_EQUAL(t_status(t), 200);
    CU_ASSERT_STRING_EQUAL(pl.seen, "me");
    t_request(t, POST("/b", "{\"user\":{\"name\":\"me\"}}", "22"));
    CU_ASSERT_STRING_EQUAL(pl.seen, "me");
    (void) t_client(t);
    t_request(t, POST("/a", "{\"user\":{\"name\":\"me\"}x", "22"));
    CU_ASSERT_EQUAL(t_status(t), 400);
    t_loop_destroy(t);
}

/* clang-format off */
static const struct { const char *conf; const char *error; } errors[] = {
    { "route POST / { member a..b; respond 200 ok; }", "JSON watches" },
    { "\nroute POST / {\n bad 101;\n respond 200 ok; }", ":3: module place: bad: 101 is too much" },
    { "route POST / { bad 7; respond 200 ok; }", "module place: member (default): nothing there" },
    { "route POST / { bad 100; respond 200 ok; }", "" },
};
/* clang-format on */

static void
test_place_errors_name_the_line(void)
{
    static const kars_module_t *const mods[] = { &t_open, &mod_place, NULL };

    for (size_t i = 0; i < KARS_NELTS(errors); i++) {
        const char *text = t_load_error(errors[i].conf, mods);

        T_CASE(errors[i].conf);
        if (errors[i].error[0] == '\0') {
            CU_ASSERT_STRING_EQUAL(text, "");
        } else {
            CU_ASSERT_PTR_NOT_NULL(strstr(text, errors[i].error));
        }
    }
}

void
suite_place(void)
{
    T_SUITE(place);
    T_TEST(place, test_place_watches_a_configured_member);
    T_TEST(place, test_place_errors_name_the_line);
}
