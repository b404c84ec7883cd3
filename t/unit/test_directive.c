/* test_directive.c - tables of directives, their values, levels and places. */
#include "conf/directive.h"
#include "t.h"

#include <stdio.h>
#include <unistd.h>

typedef struct {
    kars_list_t list;
    kars_list_t more;
    kars_str_t name;
    uint64_t size;
    uint64_t day;
    uint64_t month;
    kars_secret_t *key;
    int32_t flag;
    int32_t custom;
} demo_t;

static int
demo_set(const kars_setting_t *s, void *conf, kars_err_t *err)
{
    if (s->size != sizeof(*s) || s->pool == NULL || s->argc != 2) {
        return KARS_ERROR; /* without a word about it */
    }
    ((demo_t *) conf)->custom += (int32_t) s->argv[1].len;
    return KARS_OK;
}

/* clang-format off */
#define ROW(n, t, field, ...) \
    { .name = n, .at = KARS_AT_MAIN | KARS_AT_ROUTE, .type = t, .doc = "x", \
      .offset = offsetof(demo_t, field), __VA_ARGS__ }
static const kars_directive_t demo_rows[] = {
    ROW("list",   KARS_T_LIST,   list, .dflt = "p  q"),
    ROW("more",   KARS_T_LIST,   more, .flags = KARS_D_REPEAT),
    ROW("limit",  KARS_T_SIZE,   size, .dflt = "1k"),
    ROW("limit",  KARS_T_COUNT,  day,   .key = "day", .dflt = "5k"),
    ROW("limit",  KARS_T_COUNT,  month, .key = "month"),
    ROW("key",    KARS_T_SECRET, key),
    ROW("flag",   KARS_T_FLAG,   flag, .dflt = "on", .flags = KARS_D_PASSIVE),
    ROW("custom", KARS_T_CUSTOM, custom, .set = demo_set, .dflt = "abc",
        .flags = KARS_D_REPEAT),
    { 0 },
};
/* clang-format on */

enum { DEMO_LIST, DEMO_MORE, DEMO_LIMIT, DEMO_DAY, DEMO_MONTH, DEMO_KEY };

static kars_secret_t *
demo_secret(void *data, kars_str_t ref, kars_err_t *err)
{
    (void) kars__err(err, 0, "cannot read it");
    return data;
}

typedef struct {
    kars_pool_t *pool;
    kars__dtable_t table;
    kars__dresolve_t resolve;
    demo_t *conf;
    kars__prov_t *prov;
    kars_err_t err;
} level_t;

static level_t
level_begin(void)
{
    static const demo_t zero;
    static const kars__prov_t none[KARS_NELTS(demo_rows)];
    level_t l = { .pool = kars__pool_create(0), .err = KARS_ERR_INIT };
    void *conf;

    l.resolve = (kars__dresolve_t){ .data = l.pool, .secret = demo_secret };
    CU_ASSERT_EQUAL_FATAL(kars__dtable_init(&l.table, l.pool, "demo", demo_rows,
                                            sizeof(demo_rows[0]),
                                            sizeof(demo_t), &l.err),
                          KARS_OK);
    CU_ASSERT_EQUAL_FATAL(
        kars__directive_inner(&l.table, &zero, none, l.pool, &conf, &l.prov),
        KARS_OK);
    CU_ASSERT_EQUAL_FATAL(
        kars__directive_defaults(&l.table, conf, l.pool, &l.resolve, &l.err),
        KARS_OK);
    l.conf = conf;
    return l;
}

/* Goes one level inwards. */
static void
level_inner(level_t *l)
{
    void *conf;

    CU_ASSERT_EQUAL_FATAL(kars__directive_inner(&l->table, l->conf, l->prov,
                                                l->pool, &conf, &l->prov),
                          KARS_OK);
    l->conf = conf;
}

/* Applies a text of directives to the level; "" or the error. */
static const char *
level_set(level_t *l, const char *text)
{
    kars__conf_node_t *root;

    l->err.text[0] = '\0';
    if (kars__conf_parse_text(l->pool, "dir/t", t_str(text), &root, &l->err) !=
        KARS_OK) {
        return l->err.text;
    }
    for (kars__conf_node_t *n = root->child; n != NULL; n = n->next) {
        if (kars__directive_set(&l->table, n, KARS_AT_ROUTE, l->conf, l->prov,
                                l->pool, &l->resolve, &l->err) != KARS_OK) {
            break;
        }
    }
    return l->err.text;
}

static const char *
list_show(kars_list_t list)
{
    static char text[256];
    size_t n = 0;

    text[0] = '\0';
    for (size_t i = 0; i < list.n; i++) {
        n += (size_t) snprintf(text + n, sizeof(text) - n, "%s%.*s",
                               i == 0 ? "" : " ", KARS_STR_ARG(list.v[i]));
    }
    return text;
}

static void
test_directive_writes_defaults(void)
{
    level_t l = level_begin();

    CU_ASSERT_STRING_EQUAL(list_show(l.conf->list), "p q");
    CU_ASSERT_EQUAL(l.conf->more.n, 0);
    CU_ASSERT_EQUAL(l.conf->size, 1024);
    CU_ASSERT_EQUAL(l.conf->day, 5000);
    CU_ASSERT_EQUAL(l.conf->month, 0);
    CU_ASSERT_EQUAL(l.conf->flag, 1);
    CU_ASSERT_EQUAL(l.conf->custom, 3);
    CU_ASSERT_PTR_NULL(l.conf->key);
    kars__pool_destroy(l.pool);
}

static void
test_directive_inner_replaces_outer(void)
{
    level_t l = level_begin();

    CU_ASSERT_STRING_EQUAL(level_set(&l, "list a b; limit 2k day=7 month=8;"),
                           "");
    level_inner(&l);
    CU_ASSERT_STRING_EQUAL(list_show(l.conf->list), "a b");
    CU_ASSERT_EQUAL(l.prov[DEMO_LIST].set, KARS__SET_OUTER);
    CU_ASSERT_STRING_EQUAL(level_set(&l, "list c; limit month=9;"), "");
    CU_ASSERT_STRING_EQUAL(list_show(l.conf->list), "c");
    CU_ASSERT_EQUAL(l.conf->size, 1024); /* back to the defaults */
    CU_ASSERT_EQUAL(l.conf->day, 5000);
    CU_ASSERT_EQUAL(l.conf->month, 9);
    kars__pool_destroy(l.pool);
}

static void
test_directive_inherit_extends_a_list(void)
{
    level_t l = level_begin();

    CU_ASSERT_STRING_EQUAL(level_set(&l, "list inherit r;"), "");
    CU_ASSERT_STRING_EQUAL(list_show(l.conf->list), "p q r");
    level_inner(&l);
    CU_ASSERT_STRING_EQUAL(level_set(&l, "list inherit s inherit;"), "");
    CU_ASSERT_STRING_EQUAL(list_show(l.conf->list), "p q r s inherit");
    level_inner(&l);
    CU_ASSERT_STRING_EQUAL(level_set(&l, "list inherit;"), "");
    CU_ASSERT_STRING_EQUAL(list_show(l.conf->list), "p q r s inherit");
    level_inner(&l);
    CU_ASSERT_STRING_EQUAL(level_set(&l, "list a inherit;"), "");
    CU_ASSERT_STRING_EQUAL(list_show(l.conf->list), "a inherit");
    kars__pool_destroy(l.pool);
}

static void
test_directive_repeat_appends_at_one_level(void)
{
    level_t l = level_begin();

    CU_ASSERT_STRING_EQUAL(level_set(&l, "more a; more b c;"), "");
    CU_ASSERT_STRING_EQUAL(list_show(l.conf->more), "a b c");
    level_inner(&l);
    CU_ASSERT_STRING_EQUAL(level_set(&l, "more d; more e;"), "");
    CU_ASSERT_STRING_EQUAL(list_show(l.conf->more), "d e");
    level_inner(&l);
    CU_ASSERT_STRING_EQUAL(level_set(&l, "more inherit f; more g;"), "");
    CU_ASSERT_STRING_EQUAL(list_show(l.conf->more), "d e f g");
    CU_ASSERT_STRING_EQUAL(
        level_set(&l, "more inherit h;"),
        "dir/t:1:6: \"inherit\" belongs into the first \"more\" of a level");
    kars__pool_destroy(l.pool);
}

static void
test_directive_duplicates_name_the_first_place(void)
{
    level_t l = level_begin();

    CU_ASSERT_STRING_EQUAL(
        level_set(&l, "flag on;\n\nlimit month=1;\n flag off;"),
        "dir/t:4:2: duplicate \"flag\", first in dir/t:1");
    CU_ASSERT_STRING_EQUAL(level_set(&l, "limit 1k;"),
                           "dir/t:1:1: duplicate \"limit\", first in dir/t:3");
    level_inner(&l);
    CU_ASSERT_STRING_EQUAL(level_set(&l, "flag off; limit 1k;"), "");
    kars__pool_destroy(l.pool);
}

static void
test_directive_knows_where_values_came_from(void)
{
    level_t l = level_begin();
    size_t row = 99;

    CU_ASSERT_EQUAL(kars__directive_active(&l.table, l.prov), 0);
    CU_ASSERT_STRING_EQUAL(level_set(&l, "flag off;"), "");
    CU_ASSERT_EQUAL(kars__directive_active(&l.table, l.prov), 0); /* PASSIVE */
    CU_ASSERT_STRING_EQUAL(level_set(&l, "\nlimit month=4;"), "");
    CU_ASSERT_EQUAL(kars__directive_active(&l.table, l.prov), 1);
    CU_ASSERT_EQUAL(l.prov[DEMO_MONTH].line, 2);
    CU_ASSERT_STRING_EQUAL(l.prov[DEMO_MONTH].file, "dir/t");
    CU_ASSERT_PTR_NULL(l.prov[DEMO_DAY].file); /* the default */
    CU_ASSERT_EQUAL(l.prov[DEMO_DAY].set, KARS__SET_HERE);
    CU_ASSERT_PTR_NULL(l.prov[DEMO_KEY].file);
    CU_ASSERT_EQUAL(l.prov[DEMO_KEY].set, 0);

    CU_ASSERT_PTR_EQUAL(
        kars__directive_of(&l.table, l.conf, &l.conf->month, &row),
        &l.table.rows[DEMO_MONTH]);
    CU_ASSERT_EQUAL(row, DEMO_MONTH);
    CU_ASSERT_PTR_EQUAL(
        kars__directive_of(&l.table, l.conf, &l.conf->list.n, &row),
        &l.table.rows[DEMO_LIST]);
    CU_ASSERT_PTR_NULL(
        kars__directive_of(&l.table, l.conf, &l.conf->name, &row));
    CU_ASSERT_PTR_NULL(kars__directive_of(&l.table, l.conf, l.conf + 1, &row));
    CU_ASSERT_PTR_NULL(kars__directive_of(&l.table, l.conf, NULL, &row));
    kars__pool_destroy(l.pool);
}

static void
test_directive_custom_calls_its_setter(void)
{
    level_t l = level_begin();

    CU_ASSERT_STRING_EQUAL(level_set(&l, "custom xx; custom yyy;"), "");
    CU_ASSERT_EQUAL(l.conf->custom, 3 + 2 + 3);
    CU_ASSERT_STRING_EQUAL(level_set(&l, "\n custom;"),
                           "dir/t:2:2: refused by its module");
    kars__pool_destroy(l.pool);
}

static void
test_directive_never_shows_a_secret(void)
{
    static const char *const texts[] = {
        "key sk-123;",       "key QUJDsk-123=;",        "key env:sk-123;",
        "key env:X sk-123;", "key file: ; key sk-123;",
    };

    for (size_t i = 0; i < KARS_NELTS(texts); i++) {
        level_t l = level_begin();

        T_CASE(texts[i]);
        CU_ASSERT(level_set(&l, texts[i])[0] != '\0');
        CU_ASSERT_PTR_NULL(strstr(l.err.text, "sk-"));
        CU_ASSERT_PTR_NULL(strstr(l.err.text, "QUJD"));
        kars__pool_destroy(l.pool);
    }

    level_t l = level_begin();

    l.resolve.data = NULL;
    CU_ASSERT_STRING_EQUAL(level_set(&l, "key file:x;"),
                           "dir/t:1:5: cannot read it");
    kars__pool_destroy(l.pool);
}

/* clang-format off */
static const struct { uint32_t type; const char *in; const char *err; } values[] = {
    { KARS_T_STR,      "",          "" },
    { KARS_T_STR,      "a b",       "" },
    { KARS_T_FLAG,     "on",        "" },
    { KARS_T_FLAG,     "On",        "expected on or off, got \"On\"" },
    { KARS_T_ENUM,     "medium",    "" },
    { KARS_T_ENUM,     "med",       "expected one of: low medium, got \"med\"" },
    { KARS_T_ENUM,     "",          "expected one of: low medium, got \"\"" },
    { KARS_T_LIST,     "a,b",       "" },
    { KARS_T_LIST,     "",          "" },
    { KARS_T_LIST,     "a,",        "expected a list such as a,b,c, got \"a,\"" },
    { KARS_T_SIZE,     "64k",       "" },
    { KARS_T_SIZE,     "64q",       "expected a size such as 64k, got \"64q\"" },
    { KARS_T_COUNT,    "200k",      "" },
    { KARS_T_COUNT,    "-1",        "expected a count such as 200k, got \"-1\"" },
    { KARS_T_MSEC,     "30s",       "" },
    { KARS_T_MSEC,     "30",        "expected a time such as 30s, got \"30\"" },
    { KARS_T_RATE,     "5/m",       "" },
    { KARS_T_RATE,     "5/0s",      "expected a rate such as 100/60s, got \"5/0s\"" },
    { KARS_T_PATH,     "/x",        "" },
    { KARS_T_PATH,     "",          "expected a path such as certs/ca.pem, got \"\"" },
    { KARS_T_HOSTPORT, "h:1",       "" },
    { KARS_T_HOSTPORT, "h",         "expected host:port such as example.com:443, got \"h\"" },
    { KARS_T_UPSTREAM, "x",         "no upstream can be named here" },
    { KARS_T_ZONE,     "x",         "no zone can be named here" },
    { KARS_T_SECRET,   "env:A",     "no secret can be named here" },
    { KARS_T_CUSTOM,   "x",         "there are no values of type 14" },
    { 99,              "x",         "there are no values of type 99" },
    { KARS_T_FLAG,     "a\nb\x7f",  "expected on or off, got \"a?b?\"" },
    { KARS_T_FLAG,     "01234567890123456789012345678901234567890123456\xc3\xa9",
                       "expected on or off, got \"01234567890123456789012345678901234567890123456...\"" },
};

static const struct { const char *fault; kars_directive_t rows[3]; } tables[] = {
#define R(n, t, ...) ROW(n, t, size, __VA_ARGS__)
    { "not a name",                 { R("", 5), } },
    { "not a name",                 { R("a=b", 5), } },
    { "key is not a name",          { R("a", 5, .key = "x="), } },
    { "no doc line",                { { .name = "a", .at = 1, .type = 5 }, } },
    { "unknown type",               { R("a", 99), } },
    { "unknown type",               { R("a", 0), } },
    { "outside the conf",           { { .name = "a", .at = 1, .type = 5, .doc = "x", .offset = sizeof(demo_t) - 7 }, } },
    { "outside the conf",           { { .name = "a", .at = 1, .type = 5, .doc = "x", .offset = SIZE_MAX }, } },
    { "not aligned",                { { .name = "a", .at = 1, .type = 5, .doc = "x", .offset = 4 }, } },
    { "ENUM without values",        { R("a", KARS_T_ENUM), } },
    { "has a setter and no key",    { R("a", KARS_T_CUSTOM), } },
    { "has a setter and no key",    { R("a", 5, .set = demo_set), } },
    { "take a block",               { R("a", 5, .flags = KARS_D_BLOCK), } },
    { "rows repeat",                { R("a", 5, .flags = KARS_D_REPEAT), } },
    { "may stand nowhere",          { { .name = "a", .type = 5, .doc = "x" }, } },
    { "the same key twice",         { R("a", 5, .key = "x"), R("a", 5, .key = "x"), } },
    { "it comes last",              { ROW("a", 4, list), R("a", 5), } },
    { "only one of its name",       { ROW("a", 4, list, .flags = KARS_D_REPEAT), R("a", 5, .key = "x"), } },
    { "in different places",        { R("a", 5), { .name = "a", .at = KARS_AT_LISTEN, .type = 5, .doc = "x" }, } },
#undef R
};
/* clang-format on */

static void
test_directive_values_say_what_was_expected(void)
{
    kars_pool_t *pool = kars__pool_create(0);

    for (size_t i = 0; i < KARS_NELTS(values); i++) {
        kars_err_t err = KARS_ERR_INIT;
        uint64_t ret[3] = { 7, 7, 7 };
        int rc;

        T_CASE(values[i].in);
        rc = kars__directive_parse(values[i].type, t_str(values[i].in),
                                   "low medium", ret, pool, "t", NULL, &err);
        CU_ASSERT_EQUAL(rc, *values[i].err == '\0' ? KARS_OK : KARS_ERROR);
        CU_ASSERT_STRING_EQUAL(err.text, values[i].err);
        CU_ASSERT(rc == KARS_OK ? ret[0] != 7 : ret[0] == 7);
    }
    kars__pool_destroy(pool);
}

static void
test_directive_paths_become_absolute(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars_str_t ret;
    char folder[512];
    char want[600];

    CU_ASSERT_PTR_NOT_NULL_FATAL(getcwd(folder, sizeof(folder)));
    CU_ASSERT_EQUAL(kars__directive_parse(KARS_T_PATH, t_str("x"), NULL, &ret,
                                          pool, "/etc/kars/a.conf", NULL, NULL),
                    KARS_OK);
    CU_ASSERT_STRING_EQUAL(ret.data, "/etc/kars/x");
    CU_ASSERT_EQUAL(kars__directive_parse(KARS_T_PATH, t_str("x"), NULL, &ret,
                                          pool, "conf/a.conf", NULL, NULL),
                    KARS_OK);
    snprintf(want, sizeof(want), "%s/conf/x", folder);
    CU_ASSERT_STRING_EQUAL(ret.data, want);
    CU_ASSERT_EQUAL(kars__directive_parse(KARS_T_PATH, t_str("x"), NULL, &ret,
                                          pool, NULL, NULL, NULL),
                    KARS_ERROR);
    kars__pool_destroy(pool);
}

static void
test_directive_table_refuses_bad_rows(void)
{
    kars_pool_t *pool = kars__pool_create(0);

    for (size_t i = 0; i < KARS_NELTS(tables); i++) {
        kars_err_t err = KARS_ERR_INIT;
        kars__dtable_t t;

        T_CASE(tables[i].fault);
        CU_ASSERT_EQUAL(kars__dtable_init(&t, pool, "mod", tables[i].rows,
                                          sizeof(kars_directive_t),
                                          sizeof(demo_t), &err),
                        KARS_ERROR);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, tables[i].fault));
        CU_ASSERT_PTR_EQUAL(strstr(err.text, "mod: directive \""), err.text);
    }
    kars__pool_destroy(pool);
}

static void
test_directive_table_reads_other_strides(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars_err_t err = KARS_ERR_INIT;
    struct {
        kars_directive_t row;
        uint64_t newer;
    } rows[3] = { { demo_rows[2], 1 }, { demo_rows[6], 2 } };
    const size_t old = offsetof(kars_directive_t, set);
    char bytes[3 * sizeof(kars_directive_t)] = { 0 };
    kars__dtable_t t;

    CU_ASSERT_EQUAL(kars__dtable_init(&t, pool, "m", rows, sizeof(rows[0]),
                                      sizeof(demo_t), &err),
                    KARS_OK);
    CU_ASSERT_EQUAL(t.nrows, 2);
    CU_ASSERT_PTR_EQUAL(kars__dtable_find(&t, t_str("flag")), &t.rows[1]);
    CU_ASSERT_PTR_NULL(kars__dtable_find(&t, t_str("flags")));

    memcpy(bytes, &demo_rows[2], old);
    memcpy(bytes + old, &demo_rows[6], old);
    CU_ASSERT_EQUAL(
        kars__dtable_init(&t, pool, "m", bytes, old, sizeof(demo_t), &err),
        KARS_OK);
    CU_ASSERT_EQUAL(t.nrows, 2);
    CU_ASSERT_EQUAL(
        kars__dtable_init(&t, pool, "m", NULL, old, sizeof(demo_t), &err),
        KARS_OK);
    CU_ASSERT_EQUAL(t.nrows, 0);
    CU_ASSERT_EQUAL(kars__dtable_init(&t, pool, "m", bytes, 4, 0, &err),
                    KARS_ERROR);
    kars__pool_destroy(pool);
}

static void
test_directive_finds_the_nearest_name(void)
{
    level_t l = level_begin();
    kars__dtable_t empty = { .owner = "e" };
    const kars__dtable_t *both[] = { &empty, &l.table };

    CU_ASSERT_STRING_EQUAL(kars__dtable_nearest(both, 2, t_str("limmit")),
                           "limit");
    CU_ASSERT_STRING_EQUAL(kars__dtable_nearest(both, 2, t_str("costum")),
                           "custom");
    CU_ASSERT_PTR_NULL(kars__dtable_nearest(both, 2, t_str("zzzzzz")));
    CU_ASSERT_PTR_NULL(kars__dtable_nearest(both, 1, t_str("limit")));
    kars__pool_destroy(l.pool);
}

void
suite_directive(void)
{
    T_SUITE(directive);
    T_TEST(directive, test_directive_writes_defaults);
    T_TEST(directive, test_directive_inner_replaces_outer);
    T_TEST(directive, test_directive_inherit_extends_a_list);
    T_TEST(directive, test_directive_repeat_appends_at_one_level);
    T_TEST(directive, test_directive_duplicates_name_the_first_place);
    T_TEST(directive, test_directive_knows_where_values_came_from);
    T_TEST(directive, test_directive_custom_calls_its_setter);
    T_TEST(directive, test_directive_never_shows_a_secret);
    T_TEST(directive, test_directive_values_say_what_was_expected);
    T_TEST(directive, test_directive_paths_become_absolute);
    T_TEST(directive, test_directive_table_refuses_bad_rows);
    T_TEST(directive, test_directive_table_reads_other_strides);
    T_TEST(directive, test_directive_finds_the_nearest_name);
}
