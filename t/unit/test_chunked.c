/*
 * test_chunked.c - chunked bodies against a table, cut at every byte.
 */
#include "http/head.h"
#include "t.h"

#include <stdlib.h>

/* clang-format off */
static const struct { const char *in; int rc; const char *data; size_t rest; } bodies[] = {
    { "0\r\n\r\n", KARS_DONE, "", 0 },
    { "0\r\n\r\nGET", KARS_DONE, "", 3 },
    { "3\r\nabc\r\n0\r\n\r\n", KARS_DONE, "abc", 0 },
    { "03\r\nabc\r\n0\r\n\r\n", KARS_DONE, "abc", 0 },
    { "1\r\na\r\n2\r\nbc\r\n000\r\n\r\n", KARS_DONE, "abc", 0 },
    { "A\r\n0123456789\r\n0\r\n\r\n", KARS_DONE, "0123456789", 0 },
    { "a;x=y;z\r\n0123456789\r\n0;q\r\n\r\n", KARS_DONE, "0123456789", 0 },
    { "3\r\na\r\n\r\n0\r\n\r\n", KARS_DONE, "a\r\n", 0 },
    { "0\r\nA: b\r\nC: d\r\n\r\nx", KARS_DONE, "", 1 },
    { "", KARS_AGAIN, "", 0 },
    { "3", KARS_AGAIN, "", 0 },
    { "3\r\nab", KARS_AGAIN, "ab", 0 },
    { "3\r\nabc\r\n", KARS_AGAIN, "abc", 0 },
    { "3\r\nabc\r\n0\r\n", KARS_AGAIN, "abc", 0 },
    { "0\r\nA: b\r\n", KARS_AGAIN, "", 0 },
    { "\r\n", KARS_ERROR, "", 0 },
    { ";\r\n", KARS_ERROR, "", 0 },
    { "g\r\n", KARS_ERROR, "", 0 },
    { "0x3\r\nabc\r\n", KARS_ERROR, "", 0 },
    { "-1\r\n", KARS_ERROR, "", 0 },
    { "+3\r\nabc\r\n", KARS_ERROR, "", 0 },
    { " 3\r\nabc\r\n", KARS_ERROR, "", 0 },
    { "3 \r\nabc\r\n", KARS_ERROR, "", 0 },
    { "3\nabc\r\n", KARS_ERROR, "", 0 },
    { "3\r\r\nabc\r\n", KARS_ERROR, "", 0 },
    { "3\r\nabcd\r\n", KARS_ERROR, "abc", 0 },
    { "3\r\nabc\n0\r\n\r\n", KARS_ERROR, "abc", 0 },
    { "3\r\nabc\r0\r\n\r\n", KARS_ERROR, "abc", 0 },
    { "3\r\nabc0\r\n\r\n", KARS_ERROR, "abc", 0 },
    { "3;a\nb\r\nabc\r\n", KARS_ERROR, "", 0 },
    { "3;a\x01\r\nabc\r\n", KARS_ERROR, "", 0 },
    { "0\r\n A: b\r\n\r\n", KARS_ERROR, "", 0 },
    { "0\r\n: b\r\n\r\n", KARS_ERROR, "", 0 },
    { "0\r\nA: b\n\r\n", KARS_ERROR, "", 0 },
    { "0\r\n\n", KARS_ERROR, "", 0 },
    { "0\r\n\rx", KARS_ERROR, "", 0 },
    { "0000000000000003\r\nabc\r\n", KARS_ERROR, "", 0 },
    { "fffffffffffffffff\r\n", KARS_ERROR, "", 0 },
};
/* clang-format on */

/* Feeds [0, cut) and the rest, each in memory of its own size. */
static int
chunked_run(kars_str_t in, size_t cut, char *data, size_t *ret_rest)
{
    kars__chunked_t c = { 0 };
    size_t o = 0;
    int rc = KARS_AGAIN;

    for (size_t at = 0; at < in.len && rc == KARS_AGAIN;) {
        size_t n = at < cut ? cut - at : in.len - at;
        char *piece = malloc(n);
        const char *p = piece;
        kars_str_t got = { NULL, 0 };

        CU_ASSERT_FATAL(piece != NULL);
        memcpy(piece, in.data + at, n);
        while ((rc = kars__chunked_next(&c, &p, piece + n, &got, NULL)) ==
               KARS_OK) {
            CU_ASSERT_TRUE(got.len > 0);
            memcpy(data + o, got.data, got.len);
            o += got.len;
        }
        at += (size_t) (p - piece);
        CU_ASSERT_TRUE(rc != KARS_AGAIN || p == piece + n); /* took all */
        free(piece);
        *ret_rest = in.len - at;
    }
    data[o] = '\0';
    return rc;
}

static void
test_chunked_table_at_every_cut(void)
{
    for (size_t i = 0; i < KARS_NELTS(bodies); i++) {
        kars_str_t in = t_str(bodies[i].in);

        T_CASE(bodies[i].in);
        for (size_t cut = 0; cut <= in.len; cut++) {
            char data[64];
            size_t rest = 0;

            CU_ASSERT_EQUAL(chunked_run(in, cut, data, &rest), bodies[i].rc);
            CU_ASSERT_STRING_EQUAL(data, bodies[i].data);
            CU_ASSERT_TRUE(bodies[i].rc == KARS_ERROR ||
                           rest == bodies[i].rest);
        }
    }
}

static void
test_chunked_bounds_extensions_and_trailers(void)
{
    static const char *const heads[] = { "3;", "0\r\nA:" };

    for (size_t i = 0; i < KARS_NELTS(heads); i++) {
        kars__chunked_t c = { 0 };
        char in[8192];
        const char *p = in;
        size_t n = strlen(heads[i]);
        kars_str_t got;

        memset(in, 'x', sizeof(in));
        memcpy(in, heads[i], n);
        CU_ASSERT_EQUAL(kars__chunked_next(&c, &p, in + sizeof(in), &got, NULL),
                        KARS_ERROR);
        CU_ASSERT_TRUE(p - in < 4200);
    }
}

/* Many small trailers are bounded together, not each. */
static void
test_chunked_bounds_all_trailers_together(void)
{
    kars__chunked_t c = { 0 };
    char in[16384];
    const char *p = in;
    size_t o = 3;
    kars_str_t got;

    memcpy(in, "0\r\n", 3);
    while (o + 6 < sizeof(in)) {
        memcpy(in + o, "A: b\r\n", 6);
        o += 6;
    }
    CU_ASSERT_EQUAL(kars__chunked_next(&c, &p, in + o, &got, NULL), KARS_ERROR);
}

void
suite_chunked(void)
{
    T_SUITE(chunked);
    T_TEST(chunked, test_chunked_table_at_every_cut);
    T_TEST(chunked, test_chunked_bounds_extensions_and_trailers);
    T_TEST(chunked, test_chunked_bounds_all_trailers_together);
}
