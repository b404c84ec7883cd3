/*
 * test_head.c - request and reply heads: what is read, what is refused.
 */
#include "http/head.h"
#include "t.h"

#include <stdio.h>
#include <stdlib.h>

/* A request head whose lines are given between "GET / HTTP/1.1" and the end. */
#define H(fields)  "GET / HTTP/1.1\r\nHost: x\r\n" fields "\r\n"
#define LINE(line) line "\r\nHost: x\r\n\r\n"
#define T(target)  LINE("GET " target " HTTP/1.1")

/* A row: bytes that may hold NUL, and the status; 0: accepted. */
#define ROW(text, status)              \
    {                                  \
        text, sizeof(text) - 1, status \
    }

/* clang-format off */
static const struct { const char *in; size_t len; uint32_t status; } heads[] = {
    /* lines */
    ROW("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 0),
    ROW("GET / HTTP/1.0\r\n\r\n", 0),
    ROW("GET / HTTP/1.0\r\nHost: x\r\n\r\n", 0),
    ROW("GET / HTTP/1.1\nHost: x\r\n\r\n", 400),
    ROW("GET / HTTP/1.1\r\nHost: x\n\r\n", 400),
    ROW("GET / HTTP/1.1\r\nHost: x\r\n\n", 400),
    ROW("GET / HTTP/1.1\r\nHost: x\r\r\n\r\n", 400),
    ROW("GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400),
    ROW("GET / HTTP/1.1\r\n\r\n", 400),
    ROW("\r\n", 400),
    ROW("\r\n\r\n", 400),
    ROW("GET\r\n\r\n", 400),
    ROW("GET /\r\n\r\n", 400),
    ROW("GET / \r\nHost: x\r\n\r\n", 400),
    ROW(" GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ROW("GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ROW("GET /  HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ROW("GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 400),
    ROW("GET\t/\tHTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ROW("GET / a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    /* versions */
    ROW(LINE("GET / HTTP/1.2"), 505),
    ROW(LINE("GET / HTTP/1.9"), 505),
    ROW(LINE("GET / HTTP/2.0"), 505),
    ROW(LINE("GET / HTTP/0.9"), 505),
    ROW(LINE("GET / HTTP/3.0"), 505),
    ROW(LINE("PRI * HTTP/2.0"), 505),
    ROW(LINE("GET / HTTP/1.10"), 400),
    ROW(LINE("GET / HTTP/11.1"), 400),
    ROW(LINE("GET / HTTP/1,1"), 400),
    ROW(LINE("GET / HTTP/1"), 400),
    ROW(LINE("GET / http/1.1"), 400),
    ROW(LINE("GET / HTTPS/1.1"), 400),
    ROW(LINE("GET / HTTP/a.b"), 400),
    ROW(LINE("GET / RTSP/1.0"), 400),
    /* methods */
    ROW(LINE("POST / HTTP/1.1"), 0),
    ROW(LINE("DELETE / HTTP/1.1"), 0),
    ROW(LINE("PATCH / HTTP/1.1"), 0),
    ROW(LINE("OPTIONS * HTTP/1.1"), 0),
    ROW(LINE("OPTIONS / HTTP/1.1"), 0),
    ROW(LINE("GET * HTTP/1.1"), 400),
    ROW(LINE("get / HTTP/1.1"), 400),
    ROW(LINE("G@T / HTTP/1.1"), 400),
    ROW(LINE("GET: / HTTP/1.1"), 400),
    ROW(LINE("G\xc3\x84T / HTTP/1.1"), 400),
    ROW(LINE("G\0T / HTTP/1.1"), 400),
    ROW(LINE("BREWCOFFEE / HTTP/1.1"), 400),
    ROW(LINE("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1"), 400),
    ROW(LINE("CONNECT x:443 HTTP/1.1"), 0),
    ROW(LINE("CONNECT X:443 HTTP/1.1"), 0),
    ROW(LINE("CONNECT / HTTP/1.1"), 400),
    ROW(LINE("CONNECT x HTTP/1.1"), 400),
    ROW(LINE("CONNECT x: HTTP/1.1"), 400),
    ROW(LINE("CONNECT x:0 HTTP/1.1"), 400),
    ROW(LINE("CONNECT x:65536 HTTP/1.1"), 400),
    ROW(LINE("CONNECT :443 HTTP/1.1"), 400),
    ROW(LINE("CONNECT y:443 HTTP/1.1"), 400),
    ROW(LINE("CONNECT x/../y:443 HTTP/1.1"), 400),
    ROW(LINE("CONNECT http://x:443 HTTP/1.1"), 400),
    /* targets */
    ROW(T("/a/b?c=d&e=%20"), 0),
    ROW(T("/%zz"), 0), /* kars__head_path() refuses it */
    ROW(T("/a;b=c,d@e:f!$&'()*+~"), 0),
    ROW(T("//a//b"), 0),
    ROW(T("/?"), 0),
    ROW(T("a"), 400),
    ROW(T("?a"), 400),
    ROW(T("/a#b"), 400),
    ROW(T("/a\"b"), 400),
    ROW(T("/a<b>"), 400),
    ROW(T("/a\\b"), 400),
    ROW(T("/a^b"), 400),
    ROW(T("/a`b"), 400),
    ROW(T("/a{b}"), 400),
    ROW(T("/a|b"), 400),
    ROW(T("/a\x7f"), 400),
    ROW(T("/a\x01"), 400),
    ROW(T("/a\xc3\xa4"), 400),
    ROW(T("/a\0b"), 400),
    ROW(T("http://x/a"), 0),
    ROW(T("HTTP://X/a"), 0),
    ROW(T("http://x"), 0),
    ROW(T("http://x?a"), 400),
    ROW(T("http://y/a"), 400),
    ROW(T("http://x:80/a"), 400),
    ROW(T("http://u@x/a"), 400),
    ROW(T("http:///a"), 400),
    ROW(T("https://x/a"), 400),
    ROW(T("ftp://x/a"), 400),
    ROW(T("x:80"), 400),
    /* fields */
    ROW(H("A: b\r\n"), 0),
    ROW(H("A:b\r\n"), 0),
    ROW(H("A: \t b \t \r\n"), 0),
    ROW(H("A:\r\n"), 0),
    ROW(H("A: a\tb\r\n"), 0),
    ROW(H("A: \xc3\xa4\r\n"), 0),
    ROW(H("A-!#$%&'*+.^_`|~9: b\r\n"), 0),
    ROW(H("A : b\r\n"), 400),
    ROW(H("A\t: b\r\n"), 400),
    ROW(H(" A: b\r\n"), 400),
    ROW(H("\tA: b\r\n"), 400),
    ROW(H("A: b\r\n c\r\n"), 400),
    ROW(H("A: b\r\n\tc\r\n"), 400),
    ROW(H("A: b\r\n \r\n"), 400),
    ROW(H(": b\r\n"), 400),
    ROW(H("A\r\n"), 400),
    ROW(H("A b: c\r\n"), 400),
    ROW(H("A(: c\r\n"), 400),
    ROW(H("\xc3\xa4: c\r\n"), 400),
    ROW(H("A: \0\r\n"), 400),
    ROW(H("A\0: b\r\n"), 400),
    ROW(H("A: \x01\r\n"), 400),
    ROW(H("A: \x7f\r\n"), 400),
    ROW(H("A: \x0b\r\n"), 400),
    /* host */
    ROW("GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
    ROW("GET / HTTP/1.1\r\nHost: x\r\nhost: y\r\n\r\n", 400),
    ROW("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    ROW("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ROW("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400),
    ROW("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ROW("GET / HTTP/1.1\r\nHost: u@b\r\n\r\n", 400),
    ROW("GET / HTTP/1.1\r\nHost: x:8080\r\n\r\n", 0),
    ROW("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 0),
    ROW("GET / HTTP/1.1\r\nA: b\r\n\r\n", 400),
    /* framing */
    ROW(H("Content-Length: 0\r\n"), 0),
    ROW(H("Content-Length: 12\r\n"), 0),
    ROW(H("content-length: 012\r\n"), 0),
    ROW(H("Content-Length: 9223372036854775807\r\n"), 0),
    ROW(H("Content-Length: 9223372036854775808\r\n"), 400),
    ROW(H("Content-Length: 18446744073709551617\r\n"), 400),
    ROW(H("Content-Length: -1\r\n"), 400),
    ROW(H("Content-Length: +1\r\n"), 400),
    ROW(H("Content-Length: 1 2\r\n"), 400),
    ROW(H("Content-Length: 1,1\r\n"), 400),
    ROW(H("Content-Length: 0x1\r\n"), 400),
    ROW(H("Content-Length: 1e1\r\n"), 400),
    ROW(H("Content-Length: 1.0\r\n"), 400),
    ROW(H("Content-Length:\r\n"), 400),
    ROW(H("Content-Length: 1\r\nContent-Length: 1\r\n"), 400),
    ROW(H("Content-Length: 1\r\nContent-Length: 2\r\n"), 400),
    ROW(H("Transfer-Encoding: chunked\r\n"), 0),
    ROW(H("transfer-encoding: CHUNKED\r\n"), 0),
    ROW(H("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), 400),
    ROW(H("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400),
    ROW(H("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400),
    ROW(H("Transfer-Encoding: chunked, chunked\r\n"), 501),
    ROW(H("Transfer-Encoding: gzip, chunked\r\n"), 501),
    ROW(H("Transfer-Encoding: gzip\r\n"), 501),
    ROW(H("Transfer-Encoding: identity\r\n"), 501),
    ROW(H("Transfer-Encoding: chunked;a=b\r\n"), 501),
    ROW(H("Transfer-Encoding:\r\n"), 501),
    ROW(H("Transfer-Encoding: \x0b" "chunked\r\n"), 400),
    ROW(H("Transfer-Encoding : chunked\r\n"), 400),
    ROW("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ROW(H("Expect: 100-continue\r\n"), 0),
    ROW(H("Expect: 100-Continue\r\n"), 0),
    ROW(H("Expect: more\r\n"), 417),
    ROW(H("Connection: upgrade\r\nUpgrade: websocket\r\n"), 0),
    ROW(H("Connection: close, a, keep-alive\r\n"), 0),
};
/* clang-format on */

static int
head_read(const char *in, size_t len, kars__head_t *ret,
          kars_header_t headers[KARS__HEADERS_MAX])
{
    kars_err_t err = KARS_ERR_INIT;
    int rc = kars__head_request(in, len, headers, ret, &err);

    CU_ASSERT_TRUE(rc == KARS_OK || err.text[0] != '\0'); /* it says why */
    return rc;
}

static void
test_head_table(void)
{
    kars_header_t headers[KARS__HEADERS_MAX];

    for (size_t i = 0; i < KARS_NELTS(heads); i++) {
        kars__head_t h;
        char *exact = malloc(heads[i].len); /* ASan sees its end */

        T_CASE(heads[i].in);
        CU_ASSERT_FATAL(exact != NULL);
        memcpy(exact, heads[i].in, heads[i].len);

        int rc = head_read(exact, heads[i].len, &h, headers);

        CU_ASSERT_EQUAL(rc, heads[i].status == 0 ? KARS_OK : KARS_ERROR);
        CU_ASSERT_EQUAL(h.status, heads[i].status);
        free(exact);
    }
}

/* What is accepted has the length that was searched for, at every cut. */
static void
test_head_end_is_found_at_every_cut(void)
{
    for (size_t i = 0; i < KARS_NELTS(heads); i++) {
        const char *in = heads[i].in;
        size_t whole = kars__head_end(in, heads[i].len, 0);

        T_CASE(in);
        CU_ASSERT_TRUE(heads[i].status != 0 || whole == heads[i].len);
        for (size_t cut = 0; cut <= heads[i].len; cut++) {
            size_t first = kars__head_end(in, cut, 0);

            CU_ASSERT_EQUAL(first, whole != 0 && cut >= whole ? whole : 0);
            if (first == 0) {
                CU_ASSERT_EQUAL(kars__head_end(in, heads[i].len, cut), whole);
            }
        }
    }
}

static void
test_head_tells_what_it_read(void)
{
    static const char in[] = "POST /a?b HTTP/1.1\r\nHost: h:1\r\n"
                             "Content-Length: 42\r\nexpect: 100-continue\r\n"
                             "X:  y \r\n\r\n";
    kars_header_t headers[KARS__HEADERS_MAX];
    kars__head_t h;

    CU_ASSERT_EQUAL_FATAL(head_read(in, sizeof(in) - 1, &h, headers), KARS_OK);
    CU_ASSERT_TRUE(kars_str_eq(h.method, KARS_STR("POST")));
    CU_ASSERT_TRUE(kars_str_eq(h.target, KARS_STR("/a?b")));
    CU_ASSERT_TRUE(kars_str_eq(h.host, KARS_STR("h:1")));
    CU_ASSERT_EQUAL(h.content_length, 42);
    CU_ASSERT_EQUAL(h.minor, 1);
    CU_ASSERT_TRUE(h.expect_continue);
    CU_ASSERT_TRUE(h.keep_alive);
    CU_ASSERT_FALSE(h.chunked);
    CU_ASSERT_EQUAL(h.nheaders, 4);
    CU_ASSERT_TRUE(kars_str_eq(
        kars__head_get(headers, h.nheaders, KARS_STR("x")), KARS_STR("y")));
    CU_ASSERT_PTR_NULL(kars__head_get(headers, h.nheaders, KARS_STR("z")).data);
}

/* clang-format off */
static const struct { const char *in; const char *target; int keep; } tells[] = {
    { H(""), "/", 1 },
    { H("Connection: close\r\n"), "/", 0 },
    { H("Connection: Keep-Alive, CLOSE\r\n"), "/", 0 },
    { H("Connection: closed\r\n"), "/", 1 },
    { "GET / HTTP/1.0\r\n\r\n", "/", 0 },
    { "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "/", 1 },
    { "GET / HTTP/1.0\r\nConnection: close, keep-alive\r\n\r\n", "/", 0 },
    { T("http://x"), "/", 1 },
    { T("http://X/a?b"), "/a?b", 1 },
    { LINE("OPTIONS * HTTP/1.1"), "*", 1 },
};
/* clang-format on */

static void
test_head_tells_target_and_keep_alive(void)
{
    kars_header_t headers[KARS__HEADERS_MAX];

    for (size_t i = 0; i < KARS_NELTS(tells); i++) {
        kars__head_t h;

        T_CASE(tells[i].in);
        CU_ASSERT_EQUAL_FATAL(
            head_read(tells[i].in, strlen(tells[i].in), &h, headers), KARS_OK);
        CU_ASSERT_TRUE(kars_str_eq(h.target, t_str(tells[i].target)));
        CU_ASSERT_EQUAL(h.keep_alive, tells[i].keep);
    }
}

static void
test_head_counts_headers(void)
{
    kars_header_t headers[KARS__HEADERS_MAX];

    for (int n = 98; n <= 101; n++) {
        char in[2048];
        size_t o =
            (size_t) snprintf(in, sizeof(in), "GET / HTTP/1.1\r\nHost: x\r\n");
        kars__head_t h;

        for (int i = 1; i < n; i++) {
            o += (size_t) snprintf(in + o, sizeof(in) - o, "A: b\r\n");
        }
        o += (size_t) snprintf(in + o, sizeof(in) - o, "\r\n");

        int rc = head_read(in, o, &h, headers);

        CU_ASSERT_EQUAL(rc, n <= 100 ? KARS_OK : KARS_ERROR);
        CU_ASSERT_EQUAL(h.status, n <= 100 ? 0 : 431);
    }
}

/* clang-format off */
static const struct { const char *target; const char *path; const char *query; } paths[] = {
    { "/", "/", "" },              { "/a/b", "/a/b", "" },
    { "/a?b?c", "/a", "b?c" },     { "/a?", "/a", "" },
    { "/%61%62", "/ab", "" },      { "/%C3%a4", "/\xc3\xa4", "" },
    { "/a%20b", "/a b", "" },      { "/a%3fb?c", "/a?b", "c" },
    { "/%2561", "/%61", "" },      { "/a?%zz", "/a", "%zz" },
    { "/a?/../b", "/a", "/../b" }, { "/a..", "/a..", "" },
    { "/...", "/...", "" },        { "/.a", "/.a", "" },
    { "//", "//", "" },            { "/a/", "/a/", "" },
    { "/a%23b", "/a#b", "" },      { "*", "*", "" },
    { "/%", NULL, NULL },          { "/%4", NULL, NULL },
    { "/%4?1", NULL, NULL },       { "/%zz", NULL, NULL },
    { "/%4g", NULL, NULL },        { "/%00", NULL, NULL },
    { "/%0a", NULL, NULL },        { "/%0d%0a", NULL, NULL },
    { "/%7f", NULL, NULL },        { "/%2f", NULL, NULL },
    { "/%2F", NULL, NULL },        { "/a%5cb", NULL, NULL },
    { "/.", NULL, NULL },          { "/..", NULL, NULL },
    { "/./a", NULL, NULL },        { "/a/../b", NULL, NULL },
    { "/a/.", NULL, NULL },        { "/a/..", NULL, NULL },
    { "/%2e", NULL, NULL },        { "/a/%2e%2E/b", NULL, NULL },
    { "/.%2e/a", NULL, NULL },     { "/..?a", NULL, NULL },
};
/* clang-format on */

static void
test_head_path_table(void)
{
    for (size_t i = 0; i < KARS_NELTS(paths); i++) {
        kars_str_t path = { NULL, 0 }, query = { NULL, 0 };
        kars_err_t err = KARS_ERR_INIT;
        char *buf = malloc(strlen(paths[i].target));

        T_CASE(paths[i].target);
        CU_ASSERT_FATAL(buf != NULL);

        int rc =
            kars__head_path(t_str(paths[i].target), buf, &path, &query, &err);

        CU_ASSERT_EQUAL(rc, paths[i].path != NULL ? KARS_OK : KARS_ERROR);
        if (rc == KARS_OK && paths[i].path != NULL) {
            CU_ASSERT_TRUE(kars_str_eq(path, t_str(paths[i].path)));
            CU_ASSERT_TRUE(kars_str_eq(query, t_str(paths[i].query)));
        }
        free(buf);
    }
}

/* clang-format off */
static const struct { const char *in; uint32_t status; int64_t length; int chunked; int keep; } replies[] = {
    { "HTTP/1.1 200 OK\r\n\r\n", 200, -1, 0, 1 },
    { "HTTP/1.1 200 \r\n\r\n", 200, -1, 0, 1 },
    { "HTTP/1.1 200\r\n\r\n", 200, -1, 0, 1 },
    { "HTTP/1.0 200 OK\r\n\r\n", 200, -1, 0, 0 },
    { "HTTP/1.1 100 Continue\r\n\r\n", 100, -1, 0, 1 },
    { "HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n", 404, 5, 0, 1 },
    { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, -1, 1, 1 },
    { "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", 200, -1, 0, 0 },
    { "HTTP/1.1 599 \xc3\xa4\r\n\r\n", 599, -1, 0, 1 },
    { "HTTP/1.1 099 OK\r\n\r\n", 0, 0, 0, 0 },
    { "HTTP/1.1 20 OK\r\n\r\n", 0, 0, 0, 0 },
    { "HTTP/1.1 2000 OK\r\n\r\n", 0, 0, 0, 0 },
    { "HTTP/1.1  200 OK\r\n\r\n", 0, 0, 0, 0 },
    { "HTTP/1.1 +20 OK\r\n\r\n", 0, 0, 0, 0 },
    { "HTTP/2.0 200 OK\r\n\r\n", 0, 0, 0, 0 },
    { "HTTP/1.1 200 OK\n\n", 0, 0, 0, 0 },
    { "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", 0, 0, 0, 0 },
    { "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 0, 0, 0, 0 },
    { "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 0, 0, 0, 0 },
    { "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 0, 0, 0, 0 },
    { "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", 0, 0, 0, 0 },
    { "HTTP/1.1 200 O\x01K\r\n\r\n", 0, 0, 0, 0 },
    { "ICY 200 OK\r\n\r\n", 0, 0, 0, 0 },
    { "\r\n\r\n", 0, 0, 0, 0 },
    { "200 OK\r\n\r\n", 0, 0, 0, 0 },
};
/* clang-format on */

static void
test_head_reply_table(void)
{
    kars_header_t headers[KARS__HEADERS_MAX];

    for (size_t i = 0; i < KARS_NELTS(replies); i++) {
        kars_err_t err = KARS_ERR_INIT;
        kars__head_t h;

        T_CASE(replies[i].in);

        int rc = kars__head_response(replies[i].in, strlen(replies[i].in),
                                     headers, &h, &err);

        CU_ASSERT_EQUAL(rc, replies[i].status != 0 ? KARS_OK : KARS_ERROR);
        if (rc == KARS_OK) {
            CU_ASSERT_EQUAL(h.status, replies[i].status);
            CU_ASSERT_EQUAL(h.content_length, replies[i].length);
            CU_ASSERT_EQUAL(h.chunked, replies[i].chunked);
            CU_ASSERT_EQUAL(h.keep_alive, replies[i].keep);
        }
    }
}

static void
test_head_knows_what_may_be_sent(void)
{
    CU_ASSERT_TRUE(kars__head_name_ok(KARS_STR("x-a_b")));
    CU_ASSERT_FALSE(kars__head_name_ok(KARS_STR("")));
    CU_ASSERT_FALSE(kars__head_name_ok(KARS_STR("a b")));
    CU_ASSERT_FALSE(kars__head_name_ok(KARS_STR("a:")));
    CU_ASSERT_FALSE(kars__head_name_ok(KARS_STR("a\r")));
    CU_ASSERT_TRUE(kars__head_value_ok(KARS_STR("")));
    CU_ASSERT_TRUE(kars__head_value_ok(KARS_STR("a b\tc \xc3\xa4")));
    CU_ASSERT_FALSE(kars__head_value_ok(KARS_STR("a\r\nb: c")));
    CU_ASSERT_FALSE(kars__head_value_ok(KARS_STR("a\nb")));
    CU_ASSERT_FALSE(kars__head_value_ok(KARS_STR("a\0b")));
}

void
suite_head(void)
{
    T_SUITE(head);
    T_TEST(head, test_head_table);
    T_TEST(head, test_head_end_is_found_at_every_cut);
    T_TEST(head, test_head_tells_what_it_read);
    T_TEST(head, test_head_tells_target_and_keep_alive);
    T_TEST(head, test_head_counts_headers);
    T_TEST(head, test_head_path_table);
    T_TEST(head, test_head_reply_table);
    T_TEST(head, test_head_knows_what_may_be_sent);
}
