/*
 * test_json_scan.c - the JSON scanner against tables, against every way to
 * cut a document, and against jansson.
 */
#include "http/json_prog.h"
#include "http/json_scan.h"
#include "t.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define SCAN_TRACE 4096

/* What the watchers of one scan saw: "watch[index] type text" a line. */
typedef struct {
    char text[SCAN_TRACE];
    size_t len;
    char open[16][1024]; /* the value that a watch is in the middle of */
    size_t nopen[16];
    uint32_t flags[16];
    int broken;  /* FIRST and LAST came in a wrong order */
    int fail_at; /* the callback that returns KARS_ERROR, from 1; 0: none */
    kars_err_t err;
} scan_seen_t;

/* clang-format off */
static const kars_str_t scan_paths[] = {
    { "model", 5 },
    { "messages[*].content", 19 },
    { "messages[*].content[*].text", 27 },
    { "n", 1 },
    { "stream", 6 },
    { "stream_options.include_usage", 28 },
    { "model", 5 },
    { "choices[*].delta.content", 24 },
    { "[*].id", 6 },
    { "tools", 5 },
};
/* clang-format on */

static kars_pool_t *scan_pool;
static kars__json_prog_t *scan_prog;

static void
scan_setup(void)
{
    kars_err_t err = KARS_ERR_INIT;

    scan_pool = kars__pool_create(0);
    CU_ASSERT_FATAL(scan_pool != NULL);
    CU_ASSERT_EQUAL_FATAL(kars__json_compile(scan_pool, scan_paths,
                                             KARS_NELTS(scan_paths), &scan_prog,
                                             &err),
                          KARS_OK);
}

static void
scan_teardown(void)
{
    kars__pool_destroy(scan_pool);
}

static char
scan_type(uint32_t flags)
{
    switch (flags & ~(uint32_t) (KARS_FIRST | KARS_LAST)) {
    case KARS_JSON_STRING:
        return 's';
    case KARS_JSON_NUMBER:
        return 'n';
    case KARS_JSON_TRUE:
        return 't';
    case KARS_JSON_FALSE:
        return 'f';
    case KARS_JSON_NULL:
        return '0';
    case KARS_JSON_OBJECT:
        return 'o';
    case KARS_JSON_ARRAY:
        return 'a';
    default:
        return '?';
    }
}

/* Notes that a watch has seen all of a value. */
static void
scan_trace(scan_seen_t *seen, uint32_t watch, uint32_t index)
{
    char line[SCAN_TRACE];
    int n = snprintf(line, sizeof(line), "%u[%u] %c %.*s\n", watch, index,
                     scan_type(seen->flags[watch]), (int) seen->nopen[watch],
                     seen->open[watch]);

    CU_ASSERT_FATAL(n > 0 && seen->len + (size_t) n < sizeof(seen->text));
    memcpy(seen->text + seen->len, line, (size_t) n);
    seen->len += (size_t) n;
}

static int
scan_value(void *data, uint32_t watch, kars_str_t text, uint32_t index,
           uint32_t flags)
{
    scan_seen_t *seen = data;
    int first = (flags & KARS_FIRST) != 0;

    if (seen->fail_at > 0 && --seen->fail_at == 0) {
        return KARS_ERROR;
    }
    if (watch >= 16 || first != (seen->flags[watch] == 0)) {
        seen->broken = 1;
        return KARS_OK;
    }
    if (seen->nopen[watch] + text.len < sizeof(seen->open[watch])) {
        memcpy(seen->open[watch] + seen->nopen[watch], text.data, text.len);
        seen->nopen[watch] += text.len;
    }
    seen->flags[watch] = flags;
    if ((flags & KARS_LAST) != 0) {
        scan_trace(seen, watch, index);
        seen->nopen[watch] = 0;
        seen->flags[watch] = 0;
    }

    return KARS_OK;
}

/*
 * Scans a document in chunks: [0, cut), [cut, cut + step) and so on, each in
 * memory of just its size.
 */
static int
scan_cut(kars__json_scan_t *s, kars_str_t doc, size_t cut, size_t step,
         scan_seen_t *seen)
{
    int rc = KARS_OK;

    kars__json_begin(s, scan_prog, scan_value, seen);
    for (size_t at = 0; at < doc.len && rc == KARS_OK;) {
        size_t n = at < cut ? cut - at : step;

        n = n < doc.len - at ? n : doc.len - at;
        char *chunk = malloc(n);

        CU_ASSERT_FATAL(chunk != NULL);
        memcpy(chunk, doc.data + at, n);
        rc = kars__json_feed(s, chunk, n, &seen->err);
        free(chunk);
        at += n;
    }

    return rc == KARS_OK ? kars__json_end(s, &seen->err) : rc;
}

static int
scan_whole(const char *doc, scan_seen_t *seen)
{
    kars__json_scan_t s;

    memset(seen, 0, sizeof(*seen));
    return scan_cut(&s, t_str(doc), SIZE_MAX, 1, seen);
}

/* Every cut in two and byte by byte must give the same as the whole. */
static void
scan_check_cuts(kars_str_t doc)
{
    static scan_seen_t whole, cut;
    kars__json_scan_t s;

    memset(&whole, 0, sizeof(whole));
    int rc = scan_cut(&s, doc, SIZE_MAX, 1, &whole);

    for (size_t at = 0; at <= doc.len; at++) {
        memset(&cut, 0, sizeof(cut));
        CU_ASSERT_EQUAL(scan_cut(&s, doc, at, at == 0 ? 1 : SIZE_MAX, &cut),
                        rc);
        CU_ASSERT_FALSE(cut.broken);
        CU_ASSERT_STRING_EQUAL(cut.text, whole.text);
        CU_ASSERT_STRING_EQUAL(cut.err.text, whole.err.text);
    }
}

/* clang-format off */
static const struct { const char *doc; const char *seen; } scans[] = {
    { "{}", "" },
    { "[]", "" },
    { "{\"model\":\"gpt\"}", "0[0] s gpt\n6[0] s gpt\n" },
    { " \t\r\n{ \"model\" : \"\" } \n", "0[0] s \n6[0] s \n" },
    { "{\"\\u006dodel\":\"a\\u00e9\\ud83d\\ude00z\"}",
      "0[0] s a\xc3\xa9\xf0\x9f\x98\x80z\n6[0] s a\xc3\xa9\xf0\x9f\x98\x80z\n" },
    { "{\"model\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u20AC\"}",
      "0[0] s \"\\/\b\f\n\r\t\xe2\x82\xac\n6[0] s \"\\/\b\f\n\r\t\xe2\x82\xac\n" },
    { "{\"x\":{\"model\":1},\"n\":-12.5e+3,\"y\":[{\"n\":2}]}", "3[0] n -12.5e+3\n" },
    { "{\"n\":0}", "3[0] n 0\n" },
    { "{\"n\":{\"n\":1}}", "3[0] o \n" },
    { "{\"stream\":true,\"stream_options\":{\"a\":[{}],\"include_usage\":false}}",
      "4[0] t true\n5[0] f false\n" },
    { "{\"stream\":null,\"stream_options\":[1],\"tools\":[{\"model\":1}]}",
      "4[0] 0 null\n9[0] a \n" },
    { "{\"messages\":[{\"role\":\"u\",\"content\":\"a\"},7,[],{\"content\":"
      "[{\"text\":\"b\"},{\"type\":1,\"text\":\"c\"}]},{\"content\":{}}]}",
      "1[0] s a\n1[3] a \n2[0] s b\n2[1] s c\n1[4] o \n" },
    { "{\"choices\":[{},{\"delta\":{\"content\":\"x\"}}]}", "7[1] s x\n" },
    { "[{\"id\":1},[{\"id\":9}],{\"id\":\"\"}]", "8[0] n 1\n8[2] s \n" },
    { "{\"messages\":{\"content\":1},\"choices\":\"[*]\"}", "" },
    { "{\"modelx\":1,\"mode\":2,\"\":3,\"model\\n\":4,\"mod\xc3\xa9l\":5}", "" },
    { "{\"a-key-so-long-that-no-name-can-be-like-it-xxxxxxxxxxxxxxxxxxxxxxx"
      "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\\n\":1,\"n\":1}",
      "3[0] n 1\n" },
    { "{\"model\":\"a run long enough to go through whole vectors, twice and "
      "more\\nthen another one, long as well, with \xc3\xbc in its midst.\"}",
      "0[0] s a run long enough to go through whole vectors, twice and "
      "more\nthen another one, long as well, with \xc3\xbc in its midst.\n"
      "6[0] s a run long enough to go through whole vectors, twice and "
      "more\nthen another one, long as well, with \xc3\xbc in its midst.\n" },
};

/* Refused, with these words. */
static const struct { const char *doc; const char *err; } refusals[] = {
    { "", "json: byte 0: the document ends too early" },
    { "{\"a\":[1,2", "json: byte 9: the document ends too early" },
    { "{\"model\":\"a\",  \"model\":1}", "json: byte 15: duplicate member \"model\"" },
    { "{\"model\":1,\"m\\u006fdel\":1}", "json: byte 11: duplicate member \"model\"" },
    { "{\"Model\":1}", "json: byte 1: member \"Model\" differs from \"model\" only in case" },
    { "{\"TOOL\\u0053\":1}", "json: byte 1: member \"TOOLS\" differs from \"tools\" only in case" },
    { "{\"tool\xc5\xbf\":1}",
      "json: byte 1: member \"tool\\xc5\\xbf\" differs from \"tools\" only in case" },
    { "{\"\\u017ftream_opt\\u0131ons\":1}",
      "json: byte 1: member \"\\xc5\\xbftream_opt\\xc4\\xb1ons\" differs from "
      "\"stream_options\" only in case" },
    { "{\"messages\":[{\"content\":1,\"CONTENT\":2}]}",
      "json: byte 26: member \"CONTENT\" differs from \"content\" only in case" },
    { "{\"messages\":[{\"content\":1},{\"content\":1,\"content\":2}]}",
      "json: byte 40: duplicate member \"content\"" },
    { "\xef\xbb\xbf{}", "json: byte 0: expected an object or an array, found 0xef" },
    { "1", "json: byte 0: expected an object or an array, found '1'" },
    { "\"\"]", "json: byte 0: expected an object or an array, found '\"'" },
    { "{} {}", "json: byte 3: expected the end of the document, found '{'" },
    { "{\"a\":1,}", "json: byte 7: expected a key, found '}'" },
    { "[1,]", "json: byte 3: expected a value, found ']'" },
    { "[1}", "json: byte 2: expected ',' or ']', found '}'" },
    { "{\"a\":1]", "json: byte 6: expected ',' or '}', found ']'" },
    { "{\"a\" 1}", "json: byte 5: expected ':', found '1'" },
    { "[01]", "json: byte 2: expected ',' or ']', found '1'" },
    { "[1.]", "json: byte 3: expected a digit, found ']'" },
    { "[nul]", "json: byte 4: expected \"null\"" },
    { "[\"\\ud800\"]", "json: byte 8: half of a surrogate pair" },
    { "[\"\\u0000\"]", "json: byte 7: \\u0000 in a string" },
    { "[\"\\x\"]", "json: byte 3: expected an escape, found 'x'" },
    { "[\"\\u00g0\"]", "json: byte 6: expected a hexadecimal digit, found 'g'" },
    { "[\"a\nb\"]", "json: byte 3: control character in a string" },
    { "[\"a\xc3(\"]", "json: byte 4: invalid UTF-8" },
    { "{\"n\":11111111112222222222333333333344444444445555555555666666666677777}",
      "json: byte 69: a number too long to be checked" },
};

/* Valid and invalid documents about which jansson and we must agree. */
static const char *const agreed[] = {
    "{}", "[]", "", " ", "{", "}", "[", "]", "[1,2]", "[1 2]", "[,1]", "[1,,2]",
    "{\"a\":1}", "{\"a\":1,\"b\":2}", "{a:1}", "{'a':1}", "{\"a\"}", "{\"a\":}",
    "{\"a\":1 \"b\":2}", "{\"a\":1,,\"b\":2}", "{,}", "{\"a\"::1}", "{1:2}",
    "\"a\"", "1", "null", "true", "[true]", "[false]", "[null]", "[True]",
    "[tru]", "[truee]", "[nul", "[NaN]", "[Infinity]", "[-Infinity]", "[0]",
    "[-0]", "[-]", "[--1]", "[+1]", "[00]", "[01]", "[-01]", "[1.]", "[.5]",
    "[1.5]", "[1.5.5]", "[1e5]", "[1E5]", "[1e]", "[1e+]", "[1e-]", "[1e+5]",
    "[1e-5]", "[1e5.5]", "[0e0]", "[0.0]", "[0x10]", "[1_000]", "[1a]", "[-a]",
    "[9223372036854775807]", "[-9223372036854775808]", "[1e-999]", "[1\t]",
    "[\"\"]", "[\"a]", "[\"\\\"]", "[\"\\\\\"]", "[\"\\/\"]", "[\"\\'\"]",
    "[\"\\a\"]", "[\"\\0\"]", "[\"\\u\"]", "[\"\\u1\"]", "[\"\\u12\"]",
    "[\"\\u123\"]", "[\"\\u1234\"]", "[\"\\u12345\"]", "[\"\\uABCD\"]",
    "[\"\\uabcd\"]", "[\"\\U1234\"]", "[\"\\u 123\"]", "[\"\\u-123\"]",
    "[\"\\u0000\"]", "[\"\\u0001\"]", "[\"\\ud800\"]", "[\"\\udc00\"]",
    "[\"\\ud800\\udc00\"]", "[\"\\udbff\\udfff\"]", "[\"\\ud800\\ud800\"]",
    "[\"\\udc00\\ud800\"]", "[\"\\ud800x\"]", "[\"\\ud800\\n\"]",
    "[\"\\ud800\\u0041\"]", "[\"\\ud800\\u\"]", "[\"\\ufffe\"]", "[\"\\uffff\"]",
    "[\"a\tb\"]", "[\"a\nb\"]", "[\"a\x1f\"]", "[\"a\x7f\"]", "[\"\x01\"]",
    "[\"\xc3\xa9\"]", "[\"\xc3\"]", "[\"\xa9\"]", "[\"\xc0\x80\"]",
    "[\"\xc1\xbf\"]", "[\"\xc2\x80\"]", "[\"\xe0\x80\x80\"]",
    "[\"\xe0\x9f\xbf\"]", "[\"\xe0\xa0\x80\"]", "[\"\xe2\x82\xac\"]",
    "[\"\xe2\x82\"]", "[\"\xe2\x28\xa1\"]", "[\"\xe2\x82\x28\"]",
    "[\"\xed\x9f\xbf\"]", "[\"\xed\xa0\x80\"]", "[\"\xed\xbf\xbf\"]",
    "[\"\xee\x80\x80\"]", "[\"\xef\xbf\xbf\"]", "[\"\xef\xbb\xbf\"]",
    "[\"\xf0\x8f\xbf\xbf\"]", "[\"\xf0\x90\x80\x80\"]",
    "[\"\xf0\x9f\x98\x80\"]", "[\"\xf0\x9f\x98\"]", "[\"\xf4\x8f\xbf\xbf\"]",
    "[\"\xf4\x90\x80\x80\"]", "[\"\xf5\x80\x80\x80\"]",
    "[\"\xf8\x88\x80\x80\x80\"]", "[\"\xff\"]", "[\"\xfe\"]",
    "{\"\xc3\":1}", "{\"\xc3\xa9\":1}", "{\"\\ud800\":1}", "{\"\\u0000\":1}",
    "{\"a\\u0000b\":1}", "{\"\":1}", "{\"a\nb\":1}", "\xef\xbb\xbf[]",
    "\xff\xfe[", "[]\n", "[] []", "[]x", "[]]", "{}}", "[}", "{]", "[{]}",
    "\v[]", "\f[]", "[\xc2\xa0]", "[1]/**/", "[1]//", "/**/[1]", "[1]#",
    "[[[[[[]]]]]]", "{\"a\":{\"b\":{\"c\":[]}}}", "[\"\\\n\"]", "[1,\n2\r\n]",
    "{\"model\":1,\"x\":2}", "{\"model\":1,\"model\":2}", "{\"a\":[1,]}",
    "{\"model\":\"\xff\"}", "{\"model\":\"\\ud83d\\ude00\"}",
    "{\"model\":[\"model\"]}", "{\"messages\":[{\"content\":[]}]}",
    "[123456789012345678901234567890.0]", "[\"\x80\"]", "[\"\xbf\xbf\"]",
};

/* Where we differ, and on purpose: ours says whether we accept. */
static const struct { const char *doc; int ours; int jansson; } differences[] = {
    { "{\"Model\":1}", 0, 1 },
    { "{\"model\":1,\"MODEL\":2}", 0, 1 },
    { "{\"messages\":[{\"Content\":1}]}", 0, 1 },
    { "{\"n\":111111111122222222223333333333444444444455555555556666666666.7777777}", 0, 1 },
    { "{\"x\":1,\"x\":2}", 1, 0 },                   /* not watched */
    { "{\"tools\":{\"model\":1,\"model\":2}}", 1, 0 }, /* not watched */
    { "[9223372036854775808]", 1, 0 },               /* the watcher's concern */
    { "[1e999]", 1, 0 },
};

static const struct {
    const char *doc; const char *path; int rc; uint32_t type;
    const char *text; uint32_t empty;
} ranges[] = {
    { "{\"model\": \"a\\n\" }", "model", KARS_OK, KARS_JSON_STRING, "\"a\\n\"", 0 },
    { "{\"n\":-1.5 }", "n", KARS_OK, KARS_JSON_NUMBER, "-1.5", 0 },
    { "{\"n\":10}", "n", KARS_OK, KARS_JSON_NUMBER, "10", 0 },
    { "{\"n\":null}", "n", KARS_OK, KARS_JSON_NULL, "null", 0 },
    { "{\"n\":true}", "n", KARS_OK, KARS_JSON_TRUE, "true", 0 },
    { " {\"n\":false} ", "", KARS_OK, KARS_JSON_OBJECT, "{\"n\":false}", 0 },
    { " [ ] ", "", KARS_OK, KARS_JSON_ARRAY, "[ ]", 1 },
    { "{\"stream_options\": {} }", "stream_options", KARS_OK, KARS_JSON_OBJECT, "{}", 1 },
    { "{\"stream_options\": { \"include_usage\" : [[]] } }", "stream_options",
      KARS_OK, KARS_JSON_OBJECT, "{ \"include_usage\" : [[]] }", 0 },
    { "{\"stream_options\": { \"include_usage\" : [[]] } }",
      "stream_options.include_usage", KARS_OK, KARS_JSON_ARRAY, "[[]]", 0 },
    { "{\"messages\": [{\"content\":[]}] }", "messages", KARS_OK, KARS_JSON_ARRAY,
      "[{\"content\":[]}]", 0 },
    { "{}", "model", KARS_OK, 0, "", 0 },
    { "{\"x\":{\"model\":1}}", "model", KARS_OK, 0, "", 0 },
    { "{}", "nobody", KARS_DECLINED, 0, NULL, 0 },
    { "{}", "Model", KARS_DECLINED, 0, NULL, 0 },
    { "{}", "messages[*]", KARS_DECLINED, 0, NULL, 0 },
    { "{}", "messages[*].content", KARS_DECLINED, 0, NULL, 0 },
    { "{}", "[*]", KARS_DECLINED, 0, NULL, 0 },
    { "{}", "model.", KARS_DECLINED, 0, NULL, 0 },
    { "{}", ".model", KARS_DECLINED, 0, NULL, 0 },
};

static const struct { const char *path; const char *err; } bad_paths[] = {
    { ".", "json path \".\": malformed" },
    { "a.", "json path \"a.\": malformed" },
    { "a..b", "json path \"a..b\": malformed" },
    { ".a", "json path \".a\": malformed" },
    { "a[0]", "json path \"a[0]\": malformed" },
    { "a[*]b", "json path \"a[*]b\": malformed" },
    { "a]", "json path \"a]\": malformed" },
    { "a[", "json path \"a[\": malformed" },
    { "a.[*]", "json path \"a.[*]\": malformed" },
    { "a.b.c.d.e.f.g.h.i", "json path \"a.b.c.d.e.f.g.h.i\": more than 8 steps" },
    { "MODEL", "json paths: \"model\" and \"MODEL\" differ only in case" },
    { "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk",
      "json path: name \"kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk\" is too long" },
};
/* clang-format on */

static void
test_json_scan_delivers_watched_values(void)
{
    static scan_seen_t seen;

    scan_setup();
    for (size_t i = 0; i < KARS_NELTS(scans); i++) {
        T_CASE(scans[i].doc);
        CU_ASSERT_EQUAL(scan_whole(scans[i].doc, &seen), KARS_OK);
        CU_ASSERT_FALSE(seen.broken);
        CU_ASSERT_STRING_EQUAL(seen.text, scans[i].seen);
    }
    scan_teardown();
}

static void
test_json_scan_says_what_it_refuses_and_where(void)
{
    static scan_seen_t seen;

    scan_setup();
    for (size_t i = 0; i < KARS_NELTS(refusals); i++) {
        T_CASE(refusals[i].doc);
        CU_ASSERT_EQUAL(scan_whole(refusals[i].doc, &seen), KARS_ERROR);
        CU_ASSERT_STRING_EQUAL(seen.err.text, refusals[i].err);
    }
    scan_teardown();
}

static void
test_json_scan_does_not_care_where_chunks_end(void)
{
    scan_setup();
    for (size_t i = 0; i < KARS_NELTS(scans); i++) {
        T_CASE(scans[i].doc);
        scan_check_cuts(t_str(scans[i].doc));
    }
    for (size_t i = 0; i < KARS_NELTS(refusals); i++) {
        T_CASE(refusals[i].doc);
        scan_check_cuts(t_str(refusals[i].doc));
    }
    for (size_t i = 0; i < KARS_NELTS(agreed); i++) {
        T_CASE(agreed[i]);
        scan_check_cuts(t_str(agreed[i]));
    }
    scan_teardown();
}

static int
scan_jansson(kars_str_t doc)
{
    json_t *root = json_loadb(doc.data, doc.len, JSON_REJECT_DUPLICATES, NULL);
    int ok = root != NULL;

    json_decref(root);
    return ok;
}

static void
test_json_scan_agrees_with_jansson(void)
{
    static scan_seen_t seen;

    scan_setup();
    for (size_t i = 0; i < KARS_NELTS(agreed); i++) {
        T_CASE(agreed[i]);
        CU_ASSERT_EQUAL(scan_whole(agreed[i], &seen) == KARS_OK,
                        scan_jansson(t_str(agreed[i])));
    }
    for (size_t i = 0; i < KARS_NELTS(differences); i++) {
        T_CASE(differences[i].doc);
        CU_ASSERT_EQUAL(scan_whole(differences[i].doc, &seen) == KARS_OK,
                        differences[i].ours);
        CU_ASSERT_EQUAL(scan_jansson(t_str(differences[i].doc)),
                        differences[i].jansson);
    }
    scan_teardown();
}

/* jansson refuses them, too, but overlooks one after a number or a word. */
static void
test_json_scan_refuses_nul_bytes(void)
{
    static scan_seen_t seen;
    static const struct {
        kars_str_t doc;
        int jansson;
    } nuls[] = {
        { { "[\0]", 3 }, 0 }, { { "[\"\0\"]", 5 }, 0 }, { { "[]\0", 3 }, 0 },
        { { "\0", 1 }, 0 },   { { "[null\0]", 7 }, 1 }, { { "[4\0]", 4 }, 1 },
    };
    kars__json_scan_t s;

    scan_setup();
    for (size_t i = 0; i < KARS_NELTS(nuls); i++) {
        memset(&seen, 0, sizeof(seen));
        CU_ASSERT_EQUAL(scan_cut(&s, nuls[i].doc, SIZE_MAX, 1, &seen),
                        KARS_ERROR);
        CU_ASSERT_EQUAL(scan_jansson(nuls[i].doc), nuls[i].jansson);
        scan_check_cuts(nuls[i].doc);
    }
    scan_teardown();
}

static void
test_json_scan_finds_ranges(void)
{
    static scan_seen_t seen;
    kars__json_scan_t s;

    scan_setup();
    for (size_t i = 0; i < KARS_NELTS(ranges); i++) {
        kars__json_range_t at = { 7, 7, 7, 7 };

        T_CASE(ranges[i].doc);
        memset(&seen, 0, sizeof(seen));
        CU_ASSERT_EQUAL(scan_cut(&s, t_str(ranges[i].doc), 3, 2, &seen),
                        KARS_OK);
        CU_ASSERT_EQUAL(kars__json_find(&s, t_str(ranges[i].path), &at),
                        ranges[i].rc);
        if (ranges[i].rc != KARS_OK) {
            CU_ASSERT_EQUAL(at.start, 7);
            continue;
        }
        CU_ASSERT_EQUAL(at.type, ranges[i].type);
        CU_ASSERT_EQUAL(at.empty, ranges[i].empty);
        CU_ASSERT_TRUE(kars_str_eq(
            (kars_str_t){ ranges[i].doc + at.start, at.end - at.start },
            t_str(ranges[i].text)));
    }
    scan_teardown();
}

static int
scan_nested(const char *open, size_t n, const char *inner, const char *close)
{
    static scan_seen_t seen;
    size_t unit = strlen(open);
    char *doc = malloc(n * (unit + 1) + strlen(inner) + 1);
    size_t len = 0;

    CU_ASSERT_FATAL(doc != NULL);
    for (size_t i = 0; i < n; i++, len += unit) {
        memcpy(doc + len, open, unit);
    }
    memcpy(doc + len, inner, strlen(inner));
    len += strlen(inner);
    for (size_t i = 0; i < n && close[0] != '\0'; i++) {
        doc[len++] = close[0];
    }
    doc[len] = '\0';

    int rc = scan_whole(doc, &seen);

    free(doc);
    return rc;
}

static void
test_json_scan_refuses_deep_nesting(void)
{
    scan_setup();
    CU_ASSERT_EQUAL(scan_nested("[", KARS__JSON_DEPTH, "", "]"), KARS_OK);
    CU_ASSERT_EQUAL(scan_nested("{\"a\":", KARS__JSON_DEPTH, "0", "}"),
                    KARS_OK);
    CU_ASSERT_EQUAL(scan_nested("{\"model\":", KARS__JSON_DEPTH, "0", "}"),
                    KARS_OK);
    CU_ASSERT_EQUAL(scan_nested("[", KARS__JSON_DEPTH + 1, "", "]"),
                    KARS_ERROR);
    CU_ASSERT_EQUAL(scan_nested("[", 10000, "", "]"), KARS_ERROR);
    CU_ASSERT_EQUAL(scan_nested("[", 10000, "", ""), KARS_ERROR);
    CU_ASSERT_EQUAL(scan_nested("{\"messages\":[", 5000, "", ""), KARS_ERROR);
    CU_ASSERT_EQUAL(scan_nested("{\"a\":", 10000, "1", "}"), KARS_ERROR);
    scan_teardown();
}

static void
test_json_scan_finds_the_model_after_4m_of_messages(void)
{
    static scan_seen_t seen;
    static const char tail[] = "\"}],\"model\":\"last\"}";
    size_t cap = (size_t) 4 << 20;
    char *doc = malloc(cap + 256);
    kars__json_scan_t s;
    kars__json_range_t at;
    size_t n;

    CU_ASSERT_FATAL(doc != NULL);
    scan_setup();
    n = (size_t) snprintf(doc, cap, "{\"messages\":[{\"text\":\"");
    for (; n < cap; n += 16) {
        memcpy(doc + n, "0123 \\n gr\xc3\xbc\xc3\x9f e", 16);
    }
    memcpy(doc + n, tail, sizeof(tail) - 1);
    n += sizeof(tail) - 1;

    memset(&seen, 0, sizeof(seen));
    CU_ASSERT_EQUAL(scan_cut(&s, (kars_str_t){ doc, n }, 1, 16384, &seen),
                    KARS_OK);
    CU_ASSERT_STRING_EQUAL(seen.text, "0[0] s last\n6[0] s last\n");
    CU_ASSERT_EQUAL(kars__json_find(&s, KARS_STR("model"), &at), KARS_OK);
    CU_ASSERT_EQUAL(at.end, n - 1);
    CU_ASSERT_EQUAL(at.start, n - 7);
    scan_teardown();
    free(doc);
}

static void
test_json_scan_stops_when_a_watcher_says_so(void)
{
    static scan_seen_t seen;
    static const char doc[] = "{\"model\":\"a\\nb\",\"n\":1,\"stream\":true,"
                              "\"tools\":[]}";
    kars__json_scan_t s;

    scan_setup();
    for (int at = 1; at <= 5; at++) {
        for (size_t step = 1; step < sizeof(doc); step++) {
            memset(&seen, 0, sizeof(seen));
            seen.fail_at = at;
            CU_ASSERT_EQUAL(scan_cut(&s, t_str(doc), 0, step, &seen),
                            KARS_ERROR);
            CU_ASSERT_STRING_EQUAL(seen.err.text, "");
            CU_ASSERT_EQUAL(kars__json_feed(&s, " ", 1, &seen.err), KARS_ERROR);
            CU_ASSERT_EQUAL(kars__json_end(&s, NULL), KARS_ERROR);
        }
    }
    scan_teardown();
}

static void
test_json_compile_refuses_bad_paths(void)
{
    kars_pool_t *pool = kars__pool_create(0);

    CU_ASSERT_FATAL(pool != NULL);
    for (size_t i = 0; i < KARS_NELTS(bad_paths); i++) {
        kars_str_t paths[] = { KARS_STR("model"), t_str(bad_paths[i].path) };
        kars__json_prog_t *prog = NULL;
        kars_err_t err = KARS_ERR_INIT;

        T_CASE(bad_paths[i].path);
        CU_ASSERT_EQUAL(kars__json_compile(pool, paths, 2, &prog, &err),
                        KARS_ERROR);
        CU_ASSERT_STRING_EQUAL(err.text, bad_paths[i].err);
        CU_ASSERT_PTR_NULL(prog);
    }
    kars__pool_destroy(pool);
}

/* n paths that differ by a number: "<before>x<number>". */
static int
scan_compile_many(size_t n, const char *before)
{
    static char text[128][32];
    kars_str_t paths[128];
    kars_pool_t *pool = kars__pool_create(0);
    kars__json_prog_t *prog;

    CU_ASSERT_FATAL(pool != NULL && n <= KARS_NELTS(paths));
    for (size_t i = 0; i < n; i++) {
        (void) snprintf(text[i], sizeof(text[i]), "%sx%zu", before, i);
        paths[i] = t_str(text[i]);
    }

    int rc = kars__json_compile(pool, paths, n, &prog, NULL);

    kars__pool_destroy(pool);
    return rc;
}

static void
test_json_compile_keeps_its_limits(void)
{
    CU_ASSERT_EQUAL(scan_compile_many(0, ""), KARS_OK);
    CU_ASSERT_EQUAL(scan_compile_many(KARS__JSON_RANGES - 1, ""), KARS_OK);
    CU_ASSERT_EQUAL(scan_compile_many(KARS__JSON_RANGES, ""), KARS_ERROR);
    CU_ASSERT_EQUAL(scan_compile_many(KARS__JSON_NAMES, "a[*]."), KARS_OK);
    CU_ASSERT_EQUAL(scan_compile_many(KARS__JSON_NAMES + 1, "a[*]."),
                    KARS_ERROR);
}

static void
test_json_scan_knows_64_members_of_one_object(void)
{
    static char text[KARS__JSON_NAMES][16];
    static scan_seen_t seen;
    kars_str_t paths[KARS__JSON_NAMES];
    char doc[2048] = "[{";
    size_t n = 2;

    scan_pool = kars__pool_create(0);
    CU_ASSERT_FATAL(scan_pool != NULL);
    for (size_t i = 0; i < KARS__JSON_NAMES; i++) {
        (void) snprintf(text[i], sizeof(text[i]), "[*].x%zu", i);
        paths[i] = t_str(text[i]);
        n += (size_t) snprintf(doc + n, sizeof(doc) - n, "\"x%zu\":[],", i);
    }
    CU_ASSERT_EQUAL_FATAL(kars__json_compile(scan_pool, paths, KARS__JSON_NAMES,
                                             &scan_prog, NULL),
                          KARS_OK);
    (void) snprintf(doc + n, sizeof(doc) - n, "\"y\":0}]");
    CU_ASSERT_EQUAL(scan_whole(doc, &seen), KARS_OK);
    (void) snprintf(doc + n, sizeof(doc) - n, "\"x63\":0}]");
    CU_ASSERT_EQUAL(scan_whole(doc, &seen), KARS_ERROR);
    CU_ASSERT_PTR_NOT_NULL(strstr(seen.err.text, "duplicate member \"x63\""));
    scan_teardown();
}

static void
test_json_compile_survives_no_memory(void)
{
    int rc = KARS_ERROR;

    for (uint64_t nth = 1; rc != KARS_OK && nth < 1000; nth++) {
        kars_pool_t *pool = kars__pool_create(0);
        kars__json_prog_t *prog = NULL;
        kars_err_t err = KARS_ERR_INIT;

        CU_ASSERT_FATAL(pool != NULL);
        kars__pool_fail_at(nth);
        rc = kars__json_compile(pool, scan_paths, KARS_NELTS(scan_paths), &prog,
                                &err);
        kars__pool_fail_at(0);
        CU_ASSERT_EQUAL(rc == KARS_OK, prog != NULL);
        CU_ASSERT_EQUAL(rc == KARS_OK, err.text[0] == '\0');
        kars__pool_destroy(pool);
    }
    CU_ASSERT_EQUAL(rc, KARS_OK);
}

/* Every way to write a name of k, i and s, in an object that knows but it. */
static void
test_json_scan_finds_every_twin(void)
{
    static const char *const k[] = { "k", "K", "\xe2\x84\xaa" };
    static const char *const i[] = { "i", "I", "\xc4\xb0", "\xc4\xb1" };
    static const char *const s[] = { "s", "S", "\xc5\xbf" };
    static const char *const names[] = { "%s%s%s", "%2$s%1$s%3$s",
                                         "%3$s%2$s%1$s" };

    for (size_t f = 0; f < KARS_NELTS(names); f++) {
        for (size_t n = 0; n < 36 * 36; n++) {
            char name[16];
            char key[16];
            kars_pool_t *pool = kars__pool_create(0);
            kars__json_prog_t *prog = NULL;
            kars_err_t err = { .size = sizeof(err) };
            uint32_t twin = 0;
            size_t a = n / 36;
            size_t b = n % 36;

            (void) snprintf(name, sizeof(name), names[f], k[a % 3],
                            i[a / 3 % 4], s[a / 12]);
            (void) snprintf(key, sizeof(key), names[f], k[b % 3], i[b / 3 % 4],
                            s[b / 12]);

            kars_str_t path = t_str(name);

            CU_ASSERT_EQUAL_FATAL(
                kars__json_compile(pool, &path, 1, &prog, &err), KARS_OK);

            uint32_t at =
                kars__json_child(prog, KARS__JSON_ROOT, t_str(key), &twin);

            CU_ASSERT_TRUE(a == b ? at != 0 && twin == 0
                                  : at == 0 && twin != 0);
            kars__pool_destroy(pool);
        }
    }
}

void
suite_json_scan(void)
{
    T_SUITE(json_scan);
    T_TEST(json_scan, test_json_scan_finds_every_twin);
    T_TEST(json_scan, test_json_scan_delivers_watched_values);
    T_TEST(json_scan, test_json_scan_says_what_it_refuses_and_where);
    T_TEST(json_scan, test_json_scan_does_not_care_where_chunks_end);
    T_TEST(json_scan, test_json_scan_agrees_with_jansson);
    T_TEST(json_scan, test_json_scan_refuses_nul_bytes);
    T_TEST(json_scan, test_json_scan_finds_ranges);
    T_TEST(json_scan, test_json_scan_refuses_deep_nesting);
    T_TEST(json_scan, test_json_scan_finds_the_model_after_4m_of_messages);
    T_TEST(json_scan, test_json_scan_stops_when_a_watcher_says_so);
    T_TEST(json_scan, test_json_compile_refuses_bad_paths);
    T_TEST(json_scan, test_json_compile_keeps_its_limits);
    T_TEST(json_scan, test_json_scan_knows_64_members_of_one_object);
    T_TEST(json_scan, test_json_compile_survives_no_memory);
}
