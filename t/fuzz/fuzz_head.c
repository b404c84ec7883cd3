/*
 * fuzz_head.c - request and reply heads: what ours accepts, llhttp accepts
 * too, and both read the same target, headers and framing.
 *
 * The comparison here is another one than core/http/head_check.c, which the
 * parser itself uses: spans are copied byte by byte, headers are compared as
 * they come, and the path is looked at as well.
 */
#include "base/str.h"
#include "http/head.h"

#include <llhttp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(ok)                                               \
    do {                                                             \
        if (!(ok)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #ok); \
            abort();                                                 \
        }                                                            \
    } while (0)

#define FUZZ_TEXT 65536

typedef struct {
    llhttp_t parser; /* first */
    char url[FUZZ_TEXT];
    size_t nurl;
    char text[2][FUZZ_TEXT]; /* of one field: its name, its value */
    size_t len[2];
    const kars__head_t *head;
    size_t nfields;
    int done;
} fuzz_t;

static int
fuzz_url(llhttp_t *p, const char *at, size_t n)
{
    fuzz_t *f = (fuzz_t *) p;

    memcpy(f->url + f->nurl, at, n);
    f->nurl += n;
    return 0;
}

static int
fuzz_take(fuzz_t *f, int what, const char *at, size_t n)
{
    memcpy(f->text[what] + f->len[what], at, n);
    f->len[what] += n;
    return 0;
}

static int
fuzz_name(llhttp_t *p, const char *at, size_t n)
{
    return fuzz_take((fuzz_t *) p, 0, at, n);
}

static int
fuzz_value(llhttp_t *p, const char *at, size_t n)
{
    return fuzz_take((fuzz_t *) p, 1, at, n);
}

static int
fuzz_field(llhttp_t *p)
{
    fuzz_t *f = (fuzz_t *) p;
    kars_str_t name = { f->text[0], f->len[0] };
    kars_str_t value = { f->text[1], f->len[1] };

    FUZZ_CHECK(f->nfields < f->head->nheaders);
    FUZZ_CHECK(kars_str_eq(name, f->head->headers[f->nfields].name));
    FUZZ_CHECK(
        kars_str_eq(kars__str_trim(value), f->head->headers[f->nfields].value));
    f->len[0] = f->len[1] = 0;
    f->nfields++;
    return 0;
}

static int
fuzz_done(llhttp_t *p)
{
    ((fuzz_t *) p)->done = 1;
    return HPE_PAUSED;
}

static const llhttp_settings_t fuzz_settings = {
    .on_url = fuzz_url,
    .on_header_field = fuzz_name,
    .on_header_value = fuzz_value,
    .on_header_value_complete = fuzz_field,
    .on_headers_complete = fuzz_done,
};

/* Reads the same bytes, one at a time. */
static void
fuzz_compare(const char *p, size_t n, const kars__head_t *head, int type)
{
    static fuzz_t f;
    llhttp_errno_t rc = HPE_OK;

    memset(&f.parser, 0, sizeof(f.parser));
    f.nurl = f.len[0] = f.len[1] = f.nfields = 0;
    f.done = 0;
    f.head = head;
    llhttp_init(&f.parser, (llhttp_type_t) type, &fuzz_settings);
    for (size_t i = 0; i < n && !f.done; i++) {
        rc = llhttp_execute(&f.parser, p + i, 1);
        FUZZ_CHECK(rc == HPE_OK || (rc == HPE_PAUSED && f.done));
        FUZZ_CHECK(!f.done || i + 1 == n);
    }
    FUZZ_CHECK(f.done && f.nfields == head->nheaders);
    FUZZ_CHECK(f.parser.http_minor == head->minor);
    FUZZ_CHECK(head->chunked == ((f.parser.flags & F_CHUNKED) != 0));
    FUZZ_CHECK((head->content_length >= 0) ==
               ((f.parser.flags & F_CONTENT_LENGTH) != 0));
    FUZZ_CHECK(head->content_length < 0 ||
               f.parser.content_length == (uint64_t) head->content_length);
    FUZZ_CHECK(!head->chunked || head->content_length < 0);
    if (type == HTTP_RESPONSE) {
        FUZZ_CHECK(f.parser.status_code == head->status);
        return;
    }

    /* of an absolute target, ours is the end, or "/" for an empty one */
    size_t end = head->target.len;

    int connect = kars_str_eq(head->method, KARS_STR("CONNECT"));

    FUZZ_CHECK(end > 0 && (head->target.data[0] == '/' || end == 1 || connect));
    FUZZ_CHECK(!connect ||
               (f.nurl == end && !head->chunked && head->content_length <= 0 &&
                memchr(head->target.data, ':', end) != NULL));
    FUZZ_CHECK((f.nurl >= end &&
                memcmp(f.url + f.nurl - end, head->target.data, end) == 0) ||
               kars_str_eq(head->target, KARS_STR("/")));
    FUZZ_CHECK(f.nurl == end || memcmp(f.url + 4, "://", 3) == 0);
}

/* A path that is accepted has nothing in it that another may read otherwise. */
static void
fuzz_path(const kars__head_t *head)
{
    char *buf = malloc(head->target.len);
    kars_str_t path, query;
    kars_err_t err = KARS_ERR_INIT;

    FUZZ_CHECK(buf != NULL);
    if (kars__head_path(head->target, buf, &path, &query, &err) == KARS_OK) {
        FUZZ_CHECK(path.len + query.len <= head->target.len);
        for (size_t i = 0; i < path.len; i++) {
            FUZZ_CHECK((unsigned char) path.data[i] >= 0x20 &&
                       path.data[i] != 0x7f && path.data[i] != '\\');
        }
        FUZZ_CHECK(path.len < 3 || memcmp(path.data, "/..", 3) != 0 ||
                   (path.len > 3 && path.data[3] != '/'));
    } else {
        FUZZ_CHECK(err.text[0] != '\0');
    }
    free(buf);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kars_header_t headers[KARS__HEADERS_MAX];
    size_t n = kars__head_end((const char *) data, size, 0);
    kars__head_t head;
    kars_err_t err = KARS_ERR_INIT;

    for (size_t cut = 1; cut < n; cut++) {
        FUZZ_CHECK(kars__head_end((const char *) data, cut, cut / 2) == 0);
    }
    n = n != 0 ? n : size;
    if (n == 0 || n > FUZZ_TEXT) {
        return 0;
    }

    char *exact = malloc(n);

    FUZZ_CHECK(exact != NULL);
    memcpy(exact, data, n);
    if (kars__head_request(exact, n, headers, &head, &err) == KARS_OK) {
        fuzz_compare(exact, n, &head, HTTP_REQUEST);
        fuzz_path(&head);
    } else {
        FUZZ_CHECK(head.status >= 400 && head.status < 600 &&
                   err.text[0] != '\0');
    }
    if (kars__head_response(exact, n, headers, &head, &err) == KARS_OK) {
        fuzz_compare(exact, n, &head, HTTP_RESPONSE);
    }
    free(exact);
    return 0;
}
