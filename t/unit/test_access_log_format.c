/*
 * test_access_log_format.c - modules/access-log/format.c: what a format is,
 * and that no value breaks a line of text or of JSON.
 */
#include "t.h"
#include "../../modules/access-log/format.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static kars_str_t format_given; /* of $a */

static int
format_resolver(kars_str_t name, uint32_t *ret_var, kars_str_t *ret_rest,
                kars_err_t *err)
{
    *ret_var = (uint32_t) name.data[0];
    return name.len == 1 ? KARS_OK : KARS_ERROR;
}

static void
format_getter(void *data, const format_part_t *part, format_value_t *ret)
{
    ret->kind = part->var == 'n'   ? FORMAT_NUMBER
                : part->var == 'x' ? FORMAT_ABSENT
                                   : FORMAT_TEXT;
    ret->text = part->var == 'n' ? KARS_STR("42") : format_given;
}

/* The line of a format in pieces, NUL-terminated; NULL: it is refused. */
static const char *
format_line(uint32_t json, const char *const *pieces, size_t n)
{
    static char out[FORMAT_LINE + 1];
    format_part_t parts[512];
    format_t f = { .json = json, .v = parts };
    kars_err_t err = { .size = sizeof(err) };
    size_t room = 0;

    for (size_t i = 0; i < n; i++) {
        room += format_room(t_str(pieces[i]));
    }
    if (room > KARS_NELTS(parts)) {
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        if (format_add(&f, t_str(pieces[i]), format_resolver, &err) !=
            KARS_OK) {
            return NULL;
        }
    }
    CU_ASSERT_TRUE(f.n <= room);
    out[format_write(&f, format_getter, NULL, out)] = '\0';
    return out;
}

static void
test_access_log_format_text(void)
{
    /* clang-format off */
    static const struct { const char *in, *value, *line; } rows[] = {
        { "plain", "v", "plain" },
        { "$a", "v", "v" },
        { "<$a|${a}b>", "v", "<v|vb>" },
        { "$$a $n", "v", "$a 42" },
        { "$x", "v", "-" },
        { "\"$a\"", "q\"\\\n\x1b\x7f", "\"q\\x22\\x5C\\x0A\\x1B\\x7F\"" },
        { "$a", "\xc3\xbc\xff", "\\xC3\\xBC\\xFF" },
        { "$", "v", NULL },       { "${a", "v", NULL },
        { "$ a", "v", NULL },     { "$ab", "v", NULL },
        { "${}", "v", NULL },     { "a $", "v", NULL },
    };
    /* clang-format on */

    for (size_t i = 0; i < KARS_NELTS(rows); i++) {
        T_CASE(rows[i].in);
        format_given = t_str(rows[i].value);

        const char *line = format_line(0, &rows[i].in, 1);

        CU_ASSERT_EQUAL(line == NULL, rows[i].line == NULL);
        if (line != NULL && rows[i].line != NULL) {
            CU_ASSERT_STRING_EQUAL(line, rows[i].line);
        }
    }
}

static void
test_access_log_format_json(void)
{
    static const char *const pieces[] = { "a=$a", "n=$n", "x=$x",
                                          "both=<$a \"$n\">", "lit=b\\c" };

    format_given = KARS_STR("q\"\\\xff\x01");
    CU_ASSERT_STRING_EQUAL(
        format_line(1, pieces, KARS_NELTS(pieces)),
        "{\"a\":\"q\\\"\\\\\\ufffd\\u0001\",\"n\":42,\"x\":null,"
        "\"both\":\"<q\\\"\\\\\\ufffd\\u0001 \\\"42\\\">\","
        "\"lit\":\"b\\\\c\"}");

    static const char *const wrong[] = { "a", "=x", "a b=c", "\"=c" };

    for (size_t i = 0; i < KARS_NELTS(wrong); i++) {
        T_CASE(wrong[i]);
        CU_ASSERT_PTR_NULL(format_line(1, &wrong[i], 1));
    }
}

/* Any bytes, of any length: a text line is printable, a JSON line is what a
 * strict parser takes, and neither is longer than a line. */
static void
test_access_log_format_any_value_is_one_good_line(void)
{
    static const char *const text[] = { "<$a> $a$a", "$a\"$a\"" };
    static const char *const json[] = { "k=$a", "l=<$a>$n", "m=$a",
                                        "n=$n", "o=$a",     "p=$a" };
    static unsigned char bytes[6000];

    srand(7);
    for (int i = 0; i < 2000; i++) {
        size_t n = (size_t) rand() % (i % 3 == 0 ? sizeof(bytes) : 40);

        for (size_t b = 0; b < n; b++) {
            bytes[b] =
                (unsigned char) (i % 2 ? rand() : "\xe2\x82\xac\""[b % 4]);
        }
        format_given = (kars_str_t){ (char *) bytes, n };

        const char *line = format_line(0, text, KARS_NELTS(text));

        CU_ASSERT_TRUE(strlen(line) <= FORMAT_LINE);
        for (const char *p = line; *p != '\0'; p++) {
            if (*p < ' ' || *p > '~') {
                CU_FAIL_FATAL("a byte that is not printable");
            }
        }
        line = format_line(1, json, KARS_NELTS(json));
        CU_ASSERT_TRUE(strlen(line) <= FORMAT_LINE);

        json_t *tree =
            json_loads(line, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);

        CU_ASSERT_PTR_NOT_NULL_FATAL(tree);
        CU_ASSERT_EQUAL(json_object_size(tree), KARS_NELTS(json));
        CU_ASSERT_EQUAL(json_integer_value(json_object_get(tree, "n")), 42);
        json_decref(tree);
    }
}

static void
test_access_log_format_limits(void)
{
    static char many[400], fixed[1600];
    const char *piece = many;

    for (int i = 0; i < 49; i++) {
        memcpy(many + 2 * i, "$a", 3);
    }
    format_given = KARS_STR("v");
    CU_ASSERT_PTR_NULL(format_line(0, &piece, 1));
    many[96] = '\0'; /* 48 of them */
    CU_ASSERT_PTR_NOT_NULL(format_line(0, &piece, 1));
    format_given = (kars_str_t){ memset(calloc(1, 9000), 'v', 9000), 9000 };

    const char *line = format_line(0, &piece, 1);

    CU_ASSERT_TRUE(strlen(line) <= FORMAT_LINE && strlen(line) > 3000);
    CU_ASSERT_PTR_NOT_NULL(strstr(line, "v[cut]v"));
    free((void *) (uintptr_t) format_given.data);

    memset(fixed, 'f', 1401);
    piece = fixed;
    CU_ASSERT_PTR_NULL(format_line(0, &piece, 1));
    fixed[1400] = '\0';
    CU_ASSERT_PTR_NOT_NULL(format_line(0, &piece, 1));
}

void
suite_access_log_format(void)
{
    T_SUITE(access_log_format);
    T_TEST(access_log_format, test_access_log_format_text);
    T_TEST(access_log_format, test_access_log_format_json);
    T_TEST(access_log_format,
           test_access_log_format_any_value_is_one_good_line);
    T_TEST(access_log_format, test_access_log_format_limits);
}
