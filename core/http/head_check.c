/* head_check.c - what our reading of a head must agree with. */
#include "http/head_check.h"
#include "base/str.h"

#include <llhttp.h>

typedef struct {
    llhttp_t parser;
    const kars__head_t *head;
    kars_str_t target;
    kars_str_t url; /* the span so far: one view, since all bytes are here */
    kars_str_t field;
    kars_str_t value;
    size_t nfields;
    int differs;
} check_t;

static void
check_grow(kars_str_t *s, const char *p, size_t n)
{
    if (s->len == 0) {
        s->data = p;
    }
    s->len = (size_t) (p + n - s->data);
}

static int
check_url(llhttp_t *p, const char *at, size_t n)
{
    check_grow(&((check_t *) p)->url, at, n);
    return 0;
}

static int
check_field(llhttp_t *p, const char *at, size_t n)
{
    check_grow(&((check_t *) p)->field, at, n);
    return 0;
}

static int
check_value(llhttp_t *p, const char *at, size_t n)
{
    check_grow(&((check_t *) p)->value, at, n);
    return 0;
}

static int
check_field_done(llhttp_t *p)
{
    check_t *c = (check_t *) p;

    if (c->nfields >= c->head->nheaders) {
        c->differs = 1;
    } else {
        const kars_header_t *h = &c->head->headers[c->nfields];

        c->differs |= !kars_str_eq(h->name, c->field) ||
                      !kars_str_eq(h->value, kars__str_trim(c->value));
    }
    c->nfields++;
    c->field.len = 0;
    c->value.len = 0;
    return 0;
}

static int
check_headers_done(llhttp_t *p)
{
    return HPE_PAUSED; /* the body is ours */
}

static const llhttp_settings_t check_settings = {
    .on_url = check_url,
    .on_header_field = check_field,
    .on_header_value = check_value,
    .on_header_value_complete = check_field_done,
    .on_headers_complete = check_headers_done,
};

static int
check_framing(const check_t *c)
{
    const llhttp_t *p = &c->parser;
    int has_length = (p->flags & F_CONTENT_LENGTH) != 0;

    return (c->head->content_length != -1) == has_length &&
           (!has_length ||
            p->content_length == (uint64_t) c->head->content_length) &&
           c->head->chunked == ((p->flags & F_CHUNKED) != 0);
}

int
kars__head_check(const char *p, size_t n, const kars__head_t *head,
                 kars_str_t target)
{
    check_t c = { .head = head, .target = target };
    int request = head->method.len != 0;

    llhttp_init(&c.parser, request ? HTTP_REQUEST : HTTP_RESPONSE,
                &check_settings);

    llhttp_errno_t rc = llhttp_execute(&c.parser, p, n);

    if (rc != HPE_PAUSED || c.differs || c.nfields != head->nheaders ||
        c.parser.http_major != 1 || c.parser.http_minor != head->minor ||
        !check_framing(&c)) {
        return KARS_ERROR;
    }
    if (!request) {
        return c.parser.status_code == head->status ? KARS_OK : KARS_ERROR;
    }
    return kars_str_eq(c.url, target) &&
                   kars_str_eq(kars__strz(llhttp_method_name(
                                   (llhttp_method_t) c.parser.method)),
                               head->method)
               ? KARS_OK
               : KARS_ERROR;
}
