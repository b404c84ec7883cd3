/*
 * test_sse.c - the SSE parser against a table, cut at every byte.
 */
#include "http/sse.h"
#include "t.h"

#include <stdio.h>
#include <stdlib.h>

/* What came: "[name|data]" for each event. */
typedef struct {
    char text[1024];
    size_t len;
    char data[512];
    size_t ndata;
} sse_seen_t;

static void
sse_on_data(void *owner, kars_str_t fragment)
{
    sse_seen_t *seen = owner;

    CU_ASSERT_TRUE(fragment.len > 0);
    CU_ASSERT_FATAL(seen->ndata + fragment.len <= sizeof(seen->data));
    memcpy(seen->data + seen->ndata, fragment.data, fragment.len);
    seen->ndata += fragment.len;
}

static void
sse_on_event(void *owner, kars_str_t name)
{
    sse_seen_t *seen = owner;

    seen->len += (size_t) snprintf(
        seen->text + seen->len, sizeof(seen->text) - seen->len, "[%.*s|%.*s]",
        KARS_STR_ARG(name), (int) seen->ndata, seen->data);
    seen->ndata = 0;
}

/* Feeds [0, cut), then pieces of step bytes, each in memory of its size. */
static void
sse_run(kars_str_t in, size_t cut, size_t step, sse_seen_t *seen)
{
    kars__sse_t s;

    memset(seen, 0, sizeof(*seen));
    kars__sse_begin(&s, sse_on_data, sse_on_event, seen);
    for (size_t at = 0; at < in.len;) {
        size_t n = at < cut ? cut - at : step;

        n = n < in.len - at ? n : in.len - at;
        char *chunk = malloc(n);

        CU_ASSERT_FATAL(chunk != NULL);
        memcpy(chunk, in.data + at, n);
        kars__sse_feed(&s, chunk, n);
        free(chunk);
        at += n;
    }
}

/* clang-format off */
static const struct { const char *in; const char *events; const char *rest; } sses[] = {
    { "", "", "" },
    { "data: a\n\n", "[|a]", "" },
    { "data:a\r\n\r\n", "[|a]", "" },
    { "data:  a\r\r", "[| a]", "" },
    { "data: a\r\ndata: b\r\n\r\ndata: c\n\n", "[|a\nb][|c]", "" },
    { "data: a\n\r\n", "[|a]", "" },
    { "data: a\r\n\n", "[|a]", "" },
    { "data: a\r\n\r\r\n\n", "[|a]", "" },
    { "data: a\n", "", "a" },
    { "data: a", "", "a" },
    { "\xef\xbb\xbf" "data: a\n\n", "[|a]", "" },
    { "\xef\xbb\xbf\xef\xbb\xbf" "data: a\n\n", "", "" },
    { "\xef\xbb" "data: a\n\ndata: b\n\n", "[|b]", "" },
    { "\xef\xbb\n\ndata: b\n\n", "[|b]", "" },
    { "\n\xef\xbb\xbf" "data: a\n\ndata: b\n\n", "[|b]", "" },
    { "\xef\xbb\xbf\xef" "data: a\n\ndata: b\n\n", "[|b]", "" },
    { "event: x\ndata: a\n\n", "[x|a]", "" },
    { "data: a\nevent: x\nevent:y\n\n", "[y|a]", "" },
    { "event: x\nevent\ndata: a\n\n", "[|a]", "" },
    { "event: x\n\ndata: a\n\n", "[|a]", "" },
    { "event: x\r\n\r\nevent: y\r\n\r\n", "", "" },
    { "event: x\ndata\n\ndata: b\n\n", "[x|][|b]", "" },
    { "data:\n\n", "[|]", "" },
    { "data: \n\n", "[|]", "" },
    { "data\ndata\n\n", "[|\n]", "" },
    { "data: a\ndata\ndata:\ndata: b\n\n", "[|a\n\n\nb]", "" },
    { ": keep-alive\n\n: data: x\ndata: a\n\n", "[|a]", "" },
    { ":\n\n:\r\rdata: a: b\n\n", "[|a: b]", "" },
    { "id: 1\nretry: 5\ndata: a\nid\nretry\n\n", "[|a]", "" },
    { "datax: a\ndat: b\nDATA: c\ndata : d\n data: e\ndata: f\n\n", "[|f]", "" },
    { "eventdata: a\nevents: b\nev: c\ndata: f\n\n", "[|f]", "" },
    { "data: [DONE]\n\n", "[|[DONE]]", "" },
    { "data: {\"choices\":[{\"delta\":{\"content\":\"long enough for vectors\"}}]}\n\n",
      "[|{\"choices\":[{\"delta\":{\"content\":\"long enough for vectors\"}}]}]", "" },
    { "event: 0123456789012345678901234567890123456789012345678901234567890123456789\n"
      "data: a\n\n",
      "[0123456789012345678901234567890123456789012345678901234567890123|a]", "" },
    { "data: a\n\ndata: b\n\ndata: c", "[|a][|b]", "c" },
    { "data:\ta\t\n\n", "[|\ta\t]", "" },
    { "data: \xc3\xa9\xff\n\n", "[|\xc3\xa9\xff]", "" },
};
/* clang-format on */

static void
test_sse_reads_as_the_specification_says(void)
{
    static sse_seen_t seen;

    for (size_t i = 0; i < KARS_NELTS(sses); i++) {
        T_CASE(sses[i].in);
        sse_run(t_str(sses[i].in), SIZE_MAX, 1, &seen);
        CU_ASSERT_STRING_EQUAL(seen.text, sses[i].events);
        CU_ASSERT_TRUE(kars_str_eq((kars_str_t){ seen.data, seen.ndata },
                                   t_str(sses[i].rest)));
    }
}

static void
test_sse_does_not_care_where_chunks_end(void)
{
    static sse_seen_t seen;

    for (size_t i = 0; i < KARS_NELTS(sses); i++) {
        kars_str_t in = t_str(sses[i].in);

        T_CASE(sses[i].in);
        for (size_t cut = 0; cut <= in.len; cut++) {
            sse_run(in, cut, cut == 0 ? 1 : SIZE_MAX, &seen);
            CU_ASSERT_STRING_EQUAL(seen.text, sses[i].events);
            CU_ASSERT_TRUE(kars_str_eq((kars_str_t){ seen.data, seen.ndata },
                                       t_str(sses[i].rest)));
        }
    }
}

static void
test_sse_takes_nul_bytes_as_data(void)
{
    static sse_seen_t seen;

    sse_run((kars_str_t){ "data: a\0b\n", 10 }, SIZE_MAX, 1, &seen);
    CU_ASSERT_EQUAL(seen.ndata, 3);
    CU_ASSERT_EQUAL(memcmp(seen.data, "a\0b", 3), 0);
}

void
suite_sse(void)
{
    T_SUITE(sse);
    T_TEST(sse, test_sse_reads_as_the_specification_says);
    T_TEST(sse, test_sse_does_not_care_where_chunks_end);
    T_TEST(sse, test_sse_takes_nul_bytes_as_data);
}
