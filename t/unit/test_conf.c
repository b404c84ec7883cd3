/*
 * test_conf.c - the configuration language: words, places, limits, includes.
 *
 * t/golden/conf_bad/ holds broken texts. Each says itself what is wrong with
 * it, in a comment under the line at fault: `#    ^ message`, the `^` at the
 * column. They are applied to the small table below.
 */
#include "conf/conf.h"
#include "conf/directive.h"
#include "t.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef KARS_SRC_DIR
#define KARS_SRC_DIR "."
#endif

/* The tree as one line: words in brackets, blocks in braces. */
static void
conf_write(const kars__conf_node_t *node, FILE *out)
{
    for (; node != NULL; node = node->next) {
        for (size_t i = 0; i < node->argc; i++) {
            fprintf(out, "[%.*s]", KARS_STR_ARG(node->argv[i]));
        }
        if (node->has_block) {
            fputc('{', out);
            conf_write(node->child, out);
            fputc('}', out);
        } else {
            fputc(';', out);
        }
    }
}

/* Parses a text of n bytes into ret: the tree, or the error. */
static void
conf_show(const char *text, size_t n, char *ret, size_t size)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars_err_t err = KARS_ERR_INIT;
    kars__conf_node_t *root;

    memset(ret, 0, size);
    if (kars__conf_parse_text(pool, "t", (kars_str_t){ text, n }, &root,
                              &err) == KARS_OK) {
        FILE *out = fmemopen(ret, size, "w");

        conf_write(root->child, out);
        fclose(out);
    } else {
        snprintf(ret, size, "%s", err.text);
    }
    kars__pool_destroy(pool);
}

/* clang-format off */
static const struct { const char *text; const char *tree; } good[] = {
    { "",                        "" },
    { "# only a comment",        "" },
    { "a;",                      "[a];" },
    { "a b  c\td\n e;",          "[a][b][c][d][e];" },
    { "a;b;",                    "[a];[b];" },
    { "a;\r\nb c;\r\n",          "[a];[b][c];" },
    { "a b#c;",                  "[a][b#c];" },
    { "a #c;\nb;",               "[a][b];" },
    { "a;#c;",                   "[a];" },
    { "a{b;}",                   "[a]{[b];}" },
    { "a x { b { c; } } d;",     "[a][x]{[b]{[c];}}[d];" },
    { "a {}",                    "[a]{}" },
    { "a \"b c\" 'd;{}#';",      "[a][b c][d;{}#];" },
    { "a \"\\\"\\\\\\t\\n'\";",  "[a][\"\\\t\n'];" },
    { "a '\\'\"';",              "[a]['\"];" },
    { "a \"\" '';",              "[a][][];" },
    { "a \"b\r\nc\";",           "[a][b\nc];" },
    { "a b\\ c\\;\\{\\}\\#\\\";", "[a][b c;{}#\"];" },
    { "a k=\"b c\" k='d';",      "[a][k=b c][k=d];" },
    { "r GET /v1/{id}/{x...} { b; }", "[r][GET][/v1/{id}/{x...}]{[b];}" },
    { "r /v1/{id}{ b; }",        "[r][/v1/{id}]{[b];}" },
    { "\xef\xbb\xbf" "a;",       "[a];" },
    { "a \xc3\xa9\xe6\x97\xa5\xf0\x9f\x98\x80;", "[a][\xc3\xa9\xe6\x97\xa5\xf0\x9f\x98\x80];" },
};

static const struct { const char *text; size_t n; const char *err; } bad[] = {
#define BAD(text, err) { text, sizeof(text) - 1, err }
    BAD("a",               "t:1:1: \"a\" is not ended: a \";\" is missing"),
    BAD("a { b }",         "t:1:5: \"b\" is not ended: a \";\" is missing"),
    BAD("\n a x {\n b;\n", "t:2:2: the block of \"a\" is not closed"),
    BAD("a;}",             "t:1:3: a \"}\" that closes nothing"),
    BAD(";",               "t:1:1: a \";\" without a directive before it"),
    BAD("a;\n\t{ b; }",    "t:2:2: a \"{\" without a directive before it"),
    BAD("a \"b\nc;",       "t:1:3: this quote is not closed"),
    BAD("a 'b",            "t:1:3: this quote is not closed"),
    BAD("a k=\"b",         "t:1:5: this quote is not closed"),
    BAD("a b\"c\";",       "t:1:4: a quote inside a word: quote all of it, or put a backslash before"),
    BAD("a \"b\"c;",       "t:1:6: a blank must follow a closing quote"),
    BAD("a b\\q;",         "t:1:4: unknown escape; a backslash itself is \\\\"),
    BAD("a \"\\ \";",      "t:1:4: unknown escape; a backslash itself is \\\\"),
    BAD("a b\\",           "t:1:4: unknown escape; a backslash itself is \\\\"),
    BAD("\"\" a;",         "t:1:1: a directive with an empty name"),
    BAD("a;\na b\0c;",     "t:2:4: a NUL byte"),
    BAD("a \x01;",         "t:1:3: a control character"),
    BAD("a \x7f;",         "t:1:3: a control character"),
    BAD("a\rb;",           "t:1:2: a control character"),
    BAD("a \xc2\x85;",     "t:1:3: a control character"),
    BAD("a \xff;",         "t:1:3: this is not UTF-8"),
    BAD("a \xc3;",         "t:1:3: this is not UTF-8"),
    BAD("a \xc0\x80;",     "t:1:3: this is not UTF-8"),
    BAD("a \xe0\x80\x80;", "t:1:3: this is not UTF-8"),
    BAD("a \xed\xa0\x80;", "t:1:3: this is not UTF-8"),
    BAD("a \xf4\x90\x80\x80;", "t:1:3: this is not UTF-8"),
    BAD("\xc3\xa9\xc3\xa9 \"", "t:1:4: this quote is not closed"),
#undef BAD
};
/* clang-format on */

static void
test_conf_reads_words_quotes_and_blocks(void)
{
    char was[1024];

    for (size_t i = 0; i < KARS_NELTS(good); i++) {
        T_CASE(good[i].text);
        conf_show(good[i].text, strlen(good[i].text), was, sizeof(was));
        CU_ASSERT_STRING_EQUAL(was, good[i].tree);
    }
}

static void
test_conf_names_the_place_of_what_is_wrong(void)
{
    char was[1024];

    for (size_t i = 0; i < KARS_NELTS(bad); i++) {
        T_CASE(bad[i].text);
        conf_show(bad[i].text, bad[i].n, was, sizeof(was));
        CU_ASSERT_STRING_EQUAL(was, bad[i].err);
    }
}

static void
test_conf_knows_the_place_of_each_word(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars_err_t err = KARS_ERR_INIT;
    kars__conf_node_t *root = NULL;
    kars_str_t text = t_str("# x\n  a \"\xc3\xa9\xc3\xa9\" b\n\tc;\n{");

    text.len--;
    CU_ASSERT_FATAL(kars__conf_parse_text(pool, "t", text, &root, &err) ==
                    KARS_OK);

    const kars__conf_node_t *a = root->child;

    CU_ASSERT_EQUAL(root->argc, 0);
    CU_ASSERT_EQUAL(a->argc, 4);
    CU_ASSERT_EQUAL(a->line, 2);
    CU_ASSERT_EQUAL(a->column, 3);
    CU_ASSERT_EQUAL(a->columns[1], 5);
    CU_ASSERT_EQUAL(a->columns[2], 10);
    CU_ASSERT_EQUAL(a->lines[2], 2);
    CU_ASSERT_EQUAL(a->lines[3], 3);
    CU_ASSERT_EQUAL(a->columns[3], 2);
    CU_ASSERT_EQUAL(a->argv[3].data[1], '\0');
    CU_ASSERT_PTR_NULL(a->next);

    CU_ASSERT_EQUAL(kars__conf_err(&err, a, 3, "no %s", "good"), KARS_ERROR);
    CU_ASSERT_STRING_EQUAL(err.text, "t:3:2: no good");
    CU_ASSERT_EQUAL(kars__conf_err_at(&err, a, 1), KARS_ERROR);
    CU_ASSERT_STRING_EQUAL(err.text, "t:3:2: no good");
    snprintf(err.text, sizeof(err.text), "got \"x:1:2: y\"");
    (void) kars__conf_err_at(&err, a, 1);
    CU_ASSERT_STRING_EQUAL(err.text, "t:2:5: got \"x:1:2: y\"");
    kars__pool_destroy(pool);
}

/* A text that stays within a limit by nothing, and one beyond it. */
static void
conf_limit(const char *open, const char *unit, size_t n, const char *close,
           const char *expect)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    char was[256];

    fputs(open, out);
    for (size_t i = 0; i < n; i++) {
        fputs(unit, out);
    }
    for (size_t i = 0; i < (*close == '}' ? n : 1); i++) {
        fputs(close, out);
    }
    fclose(out);

    kars_pool_t *pool = kars__pool_create(0);
    kars_err_t err = KARS_ERR_INIT;
    kars__conf_node_t *root;

    snprintf(was, sizeof(was), "ok");
    if (kars__conf_parse_text(pool, "t", (kars_str_t){ text, size }, &root,
                              &err) != KARS_OK) {
        snprintf(was, sizeof(was), "%s", err.text);
    }
    CU_ASSERT_STRING_EQUAL(was, expect);
    kars__pool_destroy(pool);
    free(text);
}

static void
test_conf_keeps_its_limits_to_the_last_byte(void)
{
    conf_limit("a ", "x", 4096, ";", "ok");
    conf_limit("a ", "x", 4097, ";", "t:1:3: a word of more than 4096 bytes");
    conf_limit("a", " x", 255, ";", "ok");
    conf_limit("a", " x", 256, ";",
               "t:1:1: a directive of more than 256 words");
    conf_limit("", "a{", 16, "}", "ok");
    conf_limit("", "a{", 17, "}", "t:1:34: blocks more than 16 deep");
    conf_limit("", "a;\n", 349525, "#", "ok");
    conf_limit("", "a;\n", 349525, "##",
               "t:1:1: the file is larger than 1 MiB");
}

static char conf_dir[64];

static void
conf_put(const char *name, const char *text)
{
    char path[256];
    FILE *out;

    snprintf(path, sizeof(path), "%s/%s", conf_dir, name);
    out = fopen(path, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(out);
    fputs(text, out);
    fclose(out);
}

/* The tree of the file, or its error without the folder. */
static void
conf_get(const char *name, char *ret, size_t size)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars_err_t err = KARS_ERR_INIT;
    kars__conf_node_t *root;
    char path[256];

    snprintf(path, sizeof(path), "%s/%s", conf_dir, name);
    memset(ret, 0, size);
    if (kars__conf_parse(pool, path, &root, &err) == KARS_OK) {
        FILE *out = fmemopen(ret, size, "w");

        conf_write(root->child, out);
        fclose(out);
    } else {
        const char *from = err.text;

        if (strncmp(from, conf_dir, strlen(conf_dir)) == 0) {
            from += strlen(conf_dir) + 1;
        }
        snprintf(ret, size, "%s", from);
    }
    kars__pool_destroy(pool);
}

static void
conf_remove(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    char child[512];

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 &&
            strcmp(entry->d_name, "..") != 0) {
            snprintf(child, sizeof(child), "%s/%s", path, entry->d_name);
            conf_remove(child);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    (void) remove(path);
}

static void
conf_make_dir(void)
{
    char path[128];

    snprintf(conf_dir, sizeof(conf_dir), "/tmp/kars-conf-XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(conf_dir));
    snprintf(path, sizeof(path), "%s/d[1]", conf_dir);
    CU_ASSERT_EQUAL_FATAL(mkdir(path, 0700), 0);
}

static void
test_conf_includes_files_and_sorted_globs(void)
{
    char was[512];

    conf_make_dir();
    conf_put("d[1]/b.conf", "b;");
    conf_put("d[1]/a.conf", "a { include c.inc; }");
    conf_put("d[1]/c.inc", "c;");
    conf_put("d[1]/main", "x { include *.conf; } include no*.conf; y;");
    conf_get("d[1]/main", was, sizeof(was));
    CU_ASSERT_STRING_EQUAL(was, "[x]{[a]{[c];}[b];}[y];");
    conf_put("none", "include gone/*.conf;");
    conf_get("none", was, sizeof(was));
    CU_ASSERT_STRING_EQUAL(was, "");
    conf_remove(conf_dir);
}

static void
test_conf_refuses_bad_includes(void)
{
    char was[512];
    char want[512];
    char name[32];
    char text[64];

    conf_make_dir();
    conf_put("missing", "a;\n include gone;");
    conf_get("missing", was, sizeof(was));
    snprintf(want, sizeof(want),
             "missing:2:10: cannot open \"%s/gone\": No such file or "
             "directory",
             conf_dir);
    CU_ASSERT_STRING_EQUAL(was, want);

    conf_put("folder", "include d[1]/..;"); /* a glob: no such name */
    conf_get("folder", was, sizeof(was));
    CU_ASSERT_STRING_EQUAL(was, "");
    conf_put("folder", "include ../;");
    conf_get("folder", was, sizeof(was));
    CU_ASSERT_PTR_NOT_NULL(strstr(was, "is not a regular file"));

    conf_put("loop", "include loop2;");
    conf_put("loop2", "x {\n  include loop;\n}");
    conf_get("loop", was, sizeof(was));
    snprintf(want, sizeof(want), "loop2:2:11: \"%s/loop\" would include itself",
             conf_dir);
    CU_ASSERT_STRING_EQUAL(was, want);

    /* A block ends in the file that it began in. */
    conf_put("half", "a {");
    conf_put("halves", "include half; }");
    conf_get("halves", was, sizeof(was));
    CU_ASSERT_STRING_EQUAL(was, "half:1:1: the block of \"a\" is not closed");

    for (int i = 0; i <= 11; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        snprintf(text, sizeof(text), i == 11 ? "x;" : "include n%d;", i + 1);
        conf_put(name, text);
    }
    conf_get("n1", was, sizeof(was));
    CU_ASSERT_STRING_EQUAL(was, "[x];");
    conf_get("n0", was, sizeof(was));
    CU_ASSERT_STRING_EQUAL(was, "n10:1:9: includes more than 10 deep");

    conf_put("leaf", "x;");
    for (int n = 255; n <= 256; n++) {
        char many[256 * 16 + 1];

        many[0] = '\0';
        for (int i = 0; i < n; i++) {
            memcpy(many + i * 14, "include leaf;\n", 15);
        }
        conf_put("many", many);
        conf_get("many", was, sizeof(was));
        CU_ASSERT_EQUAL(strcmp(was, "many:256:9: more than 256 files") == 0,
                        n == 256);
    }
    conf_remove(conf_dir);
}

/* --- a small table, for the golden files and for lack of memory */

typedef struct {
    kars_str_t user;
    kars_str_t log;
    kars_str_t ca;
    kars_str_t header;
    kars_list_t models;
    kars_list_t allow;
    kars_list_t alpn;
    uint64_t workers;
    uint64_t body_limit;
    uint64_t connect;
    uint64_t idle;
    kars_rate_t rate;
    kars_hostport_t to;
    kars_upstream_t *pass;
    kars_zone_t *zone;
    kars_secret_t *key;
    int32_t level;
    int32_t shields;
    int32_t kind;
    int32_t lines;
} conf_small_t;

static int
conf_line(const kars_setting_t *child, void *data, kars_err_t *err)
{
    if (child->argc != 2) {
        return kars__err(err, 0, "a name and a value");
    }
    ++*(int32_t *) data;
    return KARS_OK;
}

static int
conf_lines(const kars_setting_t *s, void *conf, kars_err_t *err)
{
    conf_small_t *sc = conf;

    if (s->argc != 1) {
        return kars__err(err, 0, "no words, only lines");
    }
    return kars__directive_block_each(s, conf_line, &sc->lines, err);
}

/* clang-format off */
#define ROW(n, where, t, field, ...) \
    { .name = n, .at = where, .type = t, .doc = "x", \
      .offset = offsetof(conf_small_t, field), __VA_ARGS__ }
#define MAIN  KARS_AT_MAIN
#define ROUTE KARS_AT_ROUTE
#define ANY   (KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE)
static const kars_directive_t small_rows[] = {
    ROW("user",       MAIN,  KARS_T_STR,      user),
    ROW("workers",    MAIN,  KARS_T_COUNT,    workers, .dflt = "1"),
    ROW("log",        MAIN,  KARS_T_STR,      log),
    ROW("log",        MAIN,  KARS_T_ENUM,     level, .key = "level", .values = "err warn notice"),
    ROW("ca",         MAIN,  KARS_T_PATH,     ca),
    ROW("zone",       MAIN,  KARS_T_ZONE,     zone),
    ROW("body_limit", ANY,   KARS_T_SIZE,     body_limit, .dflt = "1m"),
    ROW("timeout",    ANY,   KARS_T_MSEC,     connect, .key = "connect", .flags = KARS_D_REQUIRED),
    ROW("timeout",    ANY,   KARS_T_MSEC,     idle, .key = "idle", .dflt = "30s"),
    ROW("models",     ANY,   KARS_T_LIST,     models),
    ROW("allow",      ANY,   KARS_T_LIST,     allow, .flags = KARS_D_REPEAT),
    ROW("tls",        ANY,   KARS_T_LIST,     alpn, .key = "alpn", .dflt = "h2,http/1.1"),
    ROW("shields",    ROUTE, KARS_T_FLAG,     shields),
    ROW("rate",       ROUTE, KARS_T_RATE,     rate),
    ROW("forward",    ROUTE, KARS_T_HOSTPORT, to),
    ROW("pass",       ROUTE, KARS_T_UPSTREAM, pass),
    ROW("credential", ROUTE, KARS_T_ENUM,     kind, .values = "api_key token"),
    ROW("credential", ROUTE, KARS_T_SECRET,   key),
    ROW("credential", ROUTE, KARS_T_STR,      header, .key = "header"),
    ROW("lines",      KARS_AT_SERVER | ROUTE, KARS_T_CUSTOM, lines, .set = conf_lines,
        .flags = KARS_D_BLOCK),
    { 0 },
};
/* clang-format on */

static kars_upstream_t *
small_upstream(void *data, kars_str_t name)
{
    return kars_str_eq(name, KARS_STR("model")) ? data : NULL;
}

static kars_zone_t *
small_zone(void *data, kars_str_t name)
{
    return kars_str_eq(name, KARS_STR("state")) ? data : NULL;
}

static kars_secret_t *
small_secret(void *data, kars_str_t ref, kars_err_t *err)
{
    return data;
}

static int
small_apply(const kars__dtable_t *t, const kars__conf_node_t *node, uint32_t at,
            void *conf, kars__prov_t *prov, kars_pool_t *pool, kars_err_t *err)
{
    const kars__dresolve_t r = { pool, small_upstream, small_zone, small_secret,
                                 NULL };

    for (; node != NULL; node = node->next) {
        int server = kars_str_eq(node->argv[0], KARS_STR("server"));
        int rc;

        if (server || kars_str_eq(node->argv[0], KARS_STR("route"))) {
            void *c;
            kars__prov_t *p;

            rc = kars__directive_inner(t, conf, prov, pool, &c, &p) != KARS_OK
                     ? kars__err(err, 0, "t:1:1: out of memory")
                     : small_apply(t, node->child,
                                   server ? KARS_AT_SERVER : KARS_AT_ROUTE, c,
                                   p, pool, err);
        } else {
            rc = kars__directive_set(t, node, at, conf, prov, pool, &r, err);
        }
        if (rc != KARS_OK) {
            return rc;
        }
    }
    return KARS_OK;
}

/* text NULL: the file. */
static int
small_load(const char *name, const char *text, kars_err_t *err)
{
    kars_pool_t *pool = kars__pool_create(0);

    if (pool == NULL) {
        return kars__err(err, 0, "out of memory");
    }

    const kars__dresolve_t r = { pool, small_upstream, small_zone, small_secret,
                                 NULL };
    conf_small_t conf = { .lines = 0 };
    kars__prov_t prov[KARS_NELTS(small_rows)] = { { .set = 0 } };
    kars__dtable_t t;
    kars__conf_node_t *root = NULL;

    int rc = kars__dtable_init(&t, pool, "small", small_rows,
                               sizeof(small_rows[0]), sizeof(conf), err);

    if (rc == KARS_OK) {
        rc = kars__directive_defaults(&t, &conf, pool, &r, err);
    }
    if (rc == KARS_OK) {
        rc = text == NULL
                 ? kars__conf_parse(pool, name, &root, err)
                 : kars__conf_parse_text(pool, name, t_str(text), &root, err);
    }
    if (rc == KARS_OK) {
        rc = small_apply(&t, root->child, KARS_AT_MAIN, &conf, prov, pool, err);
    }
    kars__pool_destroy(pool);
    return rc;
}

/* The first `#   ^ message` of a file as "path:line:column: message". */
static void
golden_expect(const char *path, char *ret, size_t size)
{
    FILE *in = fopen(path, "r");
    char line[1024];

    CU_ASSERT_PTR_NOT_NULL_FATAL(in);
    ret[0] = '\0';
    for (unsigned n = 0; fgets(line, sizeof(line), in) != NULL; n++) {
        size_t hash = strspn(line, " ");
        size_t at = hash + 1 + strspn(line + hash + 1, " ");

        if (line[hash] == '#' && line[at] == '^' && line[at + 1] == ' ') {
            line[strcspn(line, "\n")] = '\0';
            snprintf(ret, size, "%s:%u:%zu: %s", path, n, at + 1,
                     line + at + 2);
            break;
        }
    }
    fclose(in);
}

static void
test_conf_says_what_is_wrong_with_each_bad_file(void)
{
    static const char folder[] = KARS_SRC_DIR "/t/golden/conf_bad";
    DIR *dir = opendir(folder);
    struct dirent *entry;
    size_t n = 0;

    CU_ASSERT_PTR_NOT_NULL_FATAL(dir);
    while ((entry = readdir(dir)) != NULL) {
        kars_err_t err = KARS_ERR_INIT;
        char path[512];
        char expect[1024];

        if (strstr(entry->d_name, ".conf") == NULL) {
            continue;
        }
        T_CASE(entry->d_name);
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        golden_expect(path, expect, sizeof(expect));
        CU_ASSERT_EQUAL(small_load(path, NULL, &err), KARS_ERROR);
        CU_ASSERT_STRING_EQUAL(err.text, expect);
        if (strcmp(err.text, expect) != 0) {
            printf("\n  is:     %s\n  expect: %s\n", err.text, expect);
        }
        n++;
    }
    closedir(dir);
    CU_ASSERT(n >= 25);
}

static const char small_text[] =
    "user kars; workers 2; log stderr level=warn; ca x/y.pem; zone state;\n"
    "timeout connect=1s; models a b; allow x; allow y;\n"
    "server {\n"
    "  tls alpn=h2; models inherit c; timeout connect=2s idle=1m;\n"
    "  lines { a b; c d; }\n"
    "  route GET \"/x\" { pass model; rate 5/s; forward [::1]:80;\n"
    "    models z; allow q; shields on; tls;\n"
    "    credential api_key file:key header=x-api-key; }\n"
    "}\n";

static void
test_conf_survives_each_allocation_failing(void)
{
    kars_err_t err = KARS_ERR_INIT;
    uint64_t n = 1;
    int rc = KARS_ERROR;

    CU_ASSERT_EQUAL(small_load("t", small_text, &err), KARS_OK);
    CU_ASSERT_STRING_EQUAL(err.text, "");
    for (; n < 2000 && rc != KARS_OK; n++) {
        kars_err_t why = KARS_ERR_INIT;

        kars__pool_fail_at(n);
        rc = small_load("t", small_text, &why);
        kars__pool_fail_at(0);
        CU_ASSERT(rc == KARS_OK || strstr(why.text, "out of memory") != NULL);
    }
    CU_ASSERT(n > 100 && n < 2000);
}

void
suite_conf(void)
{
    T_SUITE(conf);
    T_TEST(conf, test_conf_reads_words_quotes_and_blocks);
    T_TEST(conf, test_conf_names_the_place_of_what_is_wrong);
    T_TEST(conf, test_conf_knows_the_place_of_each_word);
    T_TEST(conf, test_conf_keeps_its_limits_to_the_last_byte);
    T_TEST(conf, test_conf_includes_files_and_sorted_globs);
    T_TEST(conf, test_conf_refuses_bad_includes);
    T_TEST(conf, test_conf_says_what_is_wrong_with_each_bad_file);
    T_TEST(conf, test_conf_survives_each_allocation_failing);
}
