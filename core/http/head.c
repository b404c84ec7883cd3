/* head.c - strict HTTP/1 heads; see head.h. */
#include "http/head.h"
#include "base/parse.h"
#include "base/str.h"
#include "http/head_check.h"

enum { CH_TOKEN = 1, CH_VALUE = 2, CH_TARGET = 4 };

/* What each byte may be part of: RFC 9110 5.6.2 (token), 5.5 (field value,
 * with obs-text), RFC 3986 (a target: visible ASCII, no fragment). */
static uint8_t head_classes[256];

__attribute__((constructor)) static void
head_classes_init(void)
{
    static const char token[] = "!#$%&'*+-.^_`|~";

    for (int c = 0; c < 256; c++) {
        uint8_t k = 0;

        if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
            (c >= 'A' && c <= 'Z') || (c != 0 && strchr(token, c) != NULL)) {
            k |= CH_TOKEN;
        }
        if (c == '\t' || (c >= 0x20 && c != 0x7f)) {
            k |= CH_VALUE;
        }
        if (c > 0x20 && c < 0x7f && c != '#' && c != '"' && c != '<' &&
            c != '>' && c != '\\' && c != '^' && c != '`' && c != '{' &&
            c != '|' && c != '}') {
            k |= CH_TARGET;
        }
        head_classes[c] = k;
    }
}

static int
head_is(kars_str_t s, uint8_t klass)
{
    for (size_t i = 0; i < s.len; i++) {
        if (!(head_classes[(unsigned char) s.data[i]] & klass)) {
            return 0;
        }
    }
    return 1;
}

int
kars__head_name_ok(kars_str_t name)
{
    return name.len != 0 && head_is(name, CH_TOKEN);
}

int
kars__head_value_ok(kars_str_t value)
{
    return head_is(value, CH_VALUE);
}

size_t
kars__head_end(const char *p, size_t n, size_t from)
{
    const char *at = p + (from > 3 ? from - 3 : 0);
    const char *end = p + n;

    while (at < end) {
        const char *lf = memchr(at, '\n', (size_t) (end - at));

        if (lf == NULL) {
            return 0;
        }
        if (lf - p >= 3 && memcmp(lf - 3, "\r\n\r\n", 4) == 0) {
            return (size_t) (lf - p) + 1;
        }
        at = lf + 1;
    }
    return 0;
}

kars_str_t
kars__head_get(const kars_header_t *headers, size_t n, kars_str_t name)
{
    for (size_t i = 0; i < n; i++) {
        if (kars__str_ieq(headers[i].name, name)) {
            return headers[i].value;
        }
    }
    return (kars_str_t){ NULL, 0 };
}

static int
head_fail(kars__head_t *h, uint32_t status, kars_err_t *err, const char *what)
{
    h->status = status;
    return kars__err(err, 0, "%s", what);
}

/* One line without its CRLF; a bare CR or LF inside is refused. */
static int
head_line(const char **p, const char *end, kars_str_t *ret)
{
    const char *lf = memchr(*p, '\n', (size_t) (end - *p));

    if (lf == NULL || lf == *p || lf[-1] != '\r') {
        return KARS_ERROR;
    }
    ret->data = *p;
    ret->len = (size_t) (lf - *p) - 1;
    *p = lf + 1;
    return memchr(ret->data, '\r', ret->len) == NULL ? KARS_OK : KARS_ERROR;
}

static int
head_field(kars__head_t *h, kars_str_t line, kars_err_t *err)
{
    if (line.data[0] == ' ' || line.data[0] == '\t') {
        return head_fail(h, 400, err, "a folded header line");
    }

    const char *colon = memchr(line.data, ':', line.len);

    if (colon == NULL) {
        return head_fail(h, 400, err, "a header line without a colon");
    }

    kars_str_t name = { line.data, (size_t) (colon - line.data) };
    kars_str_t value = { colon + 1, line.len - name.len - 1 };

    if (!kars__head_name_ok(name)) {
        return head_fail(h, 400, err, "a header name that is not a token");
    }
    value = kars__str_trim(value);
    if (!kars__head_value_ok(value)) {
        return head_fail(h, 400, err, "a control byte in a header value");
    }
    if (h->nheaders == KARS__HEADERS_MAX) {
        return head_fail(h, 431, err, "more than 100 headers");
    }
    h->headers[h->nheaders].name = name;
    h->headers[h->nheaders].value = value;
    h->nheaders++;
    return KARS_OK;
}

static int
head_connection(kars__head_t *h, kars_str_t value)
{
    if (kars__str_has_token(value, KARS_STR("close"))) {
        h->keep_alive = 0;
    } else if (h->minor == 0 &&
               kars__str_has_token(value, KARS_STR("keep-alive"))) {
        h->keep_alive = 1;
    }
    return KARS_OK;
}

static int
head_length(kars__head_t *h, kars_str_t value, kars_err_t *err)
{
    uint64_t n;

    if (h->content_length != -1) {
        return head_fail(h, 400, err, "more than one Content-Length");
    }
    if (kars__parse_uint(value, INT64_MAX, &n) != KARS_OK) {
        return head_fail(h, 400, err, "a Content-Length that is no number");
    }
    h->content_length = (int64_t) n;
    return KARS_OK;
}

static int
head_coding(kars__head_t *h, kars_str_t value, kars_err_t *err)
{
    if (h->chunked) {
        return head_fail(h, 400, err, "more than one Transfer-Encoding");
    }
    if (h->minor == 0) {
        return head_fail(h, 400, err, "Transfer-Encoding in HTTP/1.0");
    }
    if (!kars__str_ieq(value, KARS_STR("chunked"))) {
        return head_fail(h, 501, err, "a Transfer-Encoding other than chunked");
    }
    h->chunked = 1;
    return KARS_OK;
}

/* The framing headers of both directions. */
static int
head_framing(kars__head_t *h, kars_err_t *err)
{
    int rc = KARS_OK;

    h->content_length = -1;
    h->keep_alive = h->minor >= 1;
    for (size_t i = 0; i < h->nheaders && rc == KARS_OK; i++) {
        kars_str_t name = h->headers[i].name;
        kars_str_t value = h->headers[i].value;

        switch (name.len) {
        case 7:
            if (kars__str_ieq(name, KARS_STR("upgrade"))) {
                h->upgrade = 1;
            }
            break;
        case 10:
            if (kars__str_ieq(name, KARS_STR("connection"))) {
                rc = head_connection(h, value);
            }
            break;
        case 14:
            if (kars__str_ieq(name, KARS_STR("content-length"))) {
                rc = head_length(h, value, err);
            }
            break;
        case 17:
            if (kars__str_ieq(name, KARS_STR("transfer-encoding"))) {
                rc = head_coding(h, value, err);
            }
            break;
        default:
            break;
        }
    }
    if (rc == KARS_OK && h->chunked && h->content_length != -1) {
        return head_fail(h, 400, err,
                         "both Content-Length and Transfer-Encoding");
    }
    return rc;
}

static int
head_fields(kars__head_t *h, const char *p, const char *end, kars_err_t *err)
{
    kars_str_t line;

    for (;;) {
        if (head_line(&p, end, &line) != KARS_OK) {
            return head_fail(h, 400, err, "a line that does not end in CRLF");
        }
        if (line.len == 0) {
            break;
        }
        if (head_field(h, line, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    if (p != end) {
        return head_fail(h, 400, err, "bytes after the head");
    }
    return head_framing(h, err);
}

static int
head_version(kars__head_t *h, kars_str_t v, kars_err_t *err)
{
    if (v.len != 8 || memcmp(v.data, "HTTP/", 5) != 0 || v.data[6] != '.' ||
        v.data[5] < '0' || v.data[5] > '9' || v.data[7] < '0' ||
        v.data[7] > '9') {
        return head_fail(h, 400, err, "a version that is not HTTP/1.1");
    }
    if (v.data[5] != '1' || v.data[7] > '1') {
        return head_fail(h, 505, err, "an HTTP version other than 1.0 and 1.1");
    }
    h->minor = (uint32_t) (v.data[7] - '0');
    return KARS_OK;
}

static int
head_request_line(kars__head_t *h, kars_str_t line, kars_err_t *err)
{
    const char *sp = memchr(line.data, ' ', line.len);
    const char *sp2 =
        sp == NULL
            ? NULL
            : memchr(sp + 1, ' ', line.len - (size_t) (sp + 1 - line.data));

    if (sp2 == NULL) {
        return head_fail(h, 400, err, "a request line without three parts");
    }
    h->method = (kars_str_t){ line.data, (size_t) (sp - line.data) };
    h->target = (kars_str_t){ sp + 1, (size_t) (sp2 - sp) - 1 };
    if (!kars__head_name_ok(h->method) || h->method.len > 32) {
        return head_fail(h, 400, err, "a method that is not a token");
    }
    if (h->target.len == 0 || !head_is(h->target, CH_TARGET)) {
        return head_fail(h, 400, err,
                         "a byte in the target that is not allowed");
    }
    return head_version(
        h, (kars_str_t){ sp2 + 1, line.len - (size_t) (sp2 + 1 - line.data) },
        err);
}

/* host, host:port, [v6], [v6]:port: only such bytes, and not empty. */
static int
head_host_ok(kars_str_t host)
{
    for (size_t i = 0; i < host.len; i++) {
        unsigned char c = (unsigned char) host.data[i];

        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
              (c >= 'A' && c <= 'Z') || strchr("-._~:[]%", c) != NULL)) {
            return 0;
        }
    }
    return host.len != 0 && host.len <= 261;
}

/* http://host/path: the authority must be what Host says. */
static int
head_absolute(kars__head_t *h, kars_err_t *err)
{
    kars_str_t scheme = KARS_STR("http://");

    if (!kars__str_istarts(h->target, scheme)) {
        return head_fail(h, 400, err, "a target that is not a path");
    }

    const char *p = h->target.data + scheme.len;
    size_t n = h->target.len - scheme.len;
    size_t host = 0;

    while (host < n && p[host] != '/' && p[host] != '?') {
        host++;
    }
    if (!kars__str_ieq((kars_str_t){ p, host }, h->host)) {
        return head_fail(h, 400, err, "a target for another host than Host");
    }
    h->target = (kars_str_t){ p + host, n - host };
    if (h->target.len == 0) {
        h->target = KARS_STR("/");
    } else if (h->target.data[0] != '/') {
        return head_fail(h, 400, err, "a target that is not a path");
    }
    return KARS_OK;
}

/* CONNECT host:port (RFC 9110 9.3.6): without content, and Host says the same
 * host, so that nobody reads another one. */
static int
head_authority(kars__head_t *h, kars_err_t *err)
{
    kars_hostport_t to, host;

    if (!head_host_ok(h->target) ||
        kars__parse_hostport(h->target, &to) != KARS_OK || to.port == 0) {
        return head_fail(h, 400, err, "a CONNECT target that is no host:port");
    }
    if (h->content_length > 0 || h->chunked) {
        return head_fail(h, 400, err, "a CONNECT with content");
    }
    if (h->host.len != 0 && !kars__str_ieq(h->host, h->target) &&
        !kars__str_ieq(h->host, to.host) &&
        (kars__parse_hostport(h->host, &host) != KARS_OK ||
         !kars__str_ieq(host.host, to.host))) {
        return head_fail(h, 400, err, "a target for another host than Host");
    }
    return KARS_OK;
}

static int
head_request_fields(kars__head_t *h, kars_err_t *err)
{
    size_t hosts = 0;

    for (size_t i = 0; i < h->nheaders; i++) {
        if (kars__str_ieq(h->headers[i].name, KARS_STR("host"))) {
            h->host = h->headers[i].value;
            hosts++;
        } else if (kars__str_ieq(h->headers[i].name, KARS_STR("expect"))) {
            if (!kars__str_ieq(h->headers[i].value, KARS_STR("100-continue"))) {
                return head_fail(h, 417, err, "an Expect that is not known");
            }
            h->expect_continue = h->minor >= 1;
        }
    }
    if (hosts > 1) {
        return head_fail(h, 400, err, "more than one Host");
    }
    if (hosts == 0 && h->minor >= 1) {
        return head_fail(h, 400, err, "no Host");
    }
    if (hosts == 1 && !head_host_ok(h->host)) {
        return head_fail(h, 400, err, "a Host that is no host");
    }
    if (kars_str_eq(h->method, KARS_STR("CONNECT"))) {
        return head_authority(h, err);
    }
    if (h->target.data[0] == '/' ||
        (kars_str_eq(h->target, KARS_STR("*")) &&
         kars_str_eq(h->method, KARS_STR("OPTIONS")))) {
        return KARS_OK;
    }
    return head_absolute(h, err);
}

/* Lower-case names of no connection, and values that end where they end. */
static int
head_field_check(kars__head_t *h, const kars_header_t *f, kars_err_t *err)
{
    static const kars_str_t connection[] = {
        KARS_STR("connection"),        KARS_STR("keep-alive"),
        KARS_STR("proxy-connection"),  KARS_STR("upgrade"),
        KARS_STR("transfer-encoding"),
    };

    if (!kars__head_name_ok(f->name)) {
        return head_fail(h, 400, err, "a header name that is not a token");
    }
    for (size_t i = 0; i < f->name.len; i++) {
        if (f->name.data[i] >= 'A' && f->name.data[i] <= 'Z') {
            return head_fail(h, 400, err, "a header name in capitals");
        }
    }
    if (!kars__head_value_ok(f->value) ||
        kars__str_trim(f->value).len != f->value.len) {
        return head_fail(h, 400, err,
                         "a byte in a header value that is not "
                         "allowed");
    }
    for (size_t i = 0; i < KARS_NELTS(connection); i++) {
        if (kars_str_eq(f->name, connection[i])) {
            return head_fail(h, 400, err, "a header of the connection");
        }
    }
    if (kars_str_eq(f->name, KARS_STR("te")) &&
        !kars__str_ieq(f->value, KARS_STR("trailers"))) {
        return head_fail(h, 400, err, "a TE other than trailers");
    }
    return KARS_OK;
}

int
kars__head_fields(kars__head_t *h, kars_err_t *err)
{
    h->minor = 1;
    if (!kars__head_name_ok(h->method) || h->method.len > 32) {
        return head_fail(h, 400, err, "a method that is not a token");
    }
    for (size_t i = 0; i < h->nheaders; i++) {
        if (head_field_check(h, &h->headers[i], err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    if (head_framing(h, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (!kars_str_eq(h->method, KARS_STR("CONNECT")) &&
        (h->target.len == 0 || !head_is(h->target, CH_TARGET) ||
         (h->target.data[0] != '/' &&
          !kars_str_eq(h->target, KARS_STR("*"))))) {
        return head_fail(h, 400, err, "a :path that is not a path");
    }
    return head_request_fields(h, err);
}

int
kars__head_request(const char *p, size_t n, kars_header_t *headers,
                   kars__head_t *ret, kars_err_t *err)
{
    const char *at = p;
    kars_str_t line;

    memset(ret, 0, sizeof(*ret));
    ret->headers = headers;
    ret->content_length = -1;

    if (head_line(&at, p + n, &line) != KARS_OK) {
        return head_fail(ret, 400, err, "a line that does not end in CRLF");
    }
    if (head_request_line(ret, line, err) != KARS_OK ||
        head_fields(ret, at, p + n, err) != KARS_OK) {
        return KARS_ERROR;
    }

    kars_str_t target = ret->target;

    if (head_request_fields(ret, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (kars__head_check(p, n, ret, target) != KARS_OK) {
        return head_fail(ret, 400, err, "a head that two parsers read apart");
    }
    return KARS_OK;
}

int
kars__head_response(const char *p, size_t n, kars_header_t *headers,
                    kars__head_t *ret, kars_err_t *err)
{
    const char *at = p;
    kars_str_t line;
    uint64_t status = 0;

    memset(ret, 0, sizeof(*ret));
    ret->headers = headers;
    ret->content_length = -1;

    if (head_line(&at, p + n, &line) != KARS_OK || line.len < 12 ||
        head_version(ret, (kars_str_t){ line.data, 8 }, err) != KARS_OK ||
        line.data[8] != ' ' ||
        kars__parse_uint((kars_str_t){ line.data + 9, 3 }, 999, &status) !=
            KARS_OK ||
        status < 100 || (line.len > 12 && line.data[12] != ' ') ||
        !kars__head_value_ok(line)) {
        return kars__err(err, 0, "a status line that is none");
    }
    ret->status = (uint32_t) status;
    if (head_fields(ret, at, p + n, err) != KARS_OK) {
        return KARS_ERROR;
    }
    ret->status = (uint32_t) status;
    if (kars__head_check(p, n, ret, (kars_str_t){ NULL, 0 }) != KARS_OK) {
        return kars__err(err, 0, "a head that two parsers read apart");
    }
    return KARS_OK;
}

static int
path_hex(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char) (c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int
path_dots(kars_str_t path)
{
    for (size_t i = 0; i < path.len; i++) {
        size_t end = i;

        while (end < path.len && path.data[end] != '/') {
            end++;
        }
        if ((end - i == 1 && path.data[i] == '.') ||
            (end - i == 2 && memcmp(path.data + i, "..", 2) == 0)) {
            return 1;
        }
        i = end;
    }
    return 0;
}

int
kars__head_path(kars_str_t target, char *buf, kars_str_t *ret_path,
                kars_str_t *ret_query, kars_err_t *err)
{
    const char *q = memchr(target.data, '?', target.len);
    size_t n = q != NULL ? (size_t) (q - target.data) : target.len;
    size_t o = 0;

    for (size_t i = 0; i < n; i++) {
        char c = target.data[i];

        if (c == '%') {
            int hi = i + 2 < n ? path_hex(target.data[i + 1]) : -1;
            int lo = hi >= 0 ? path_hex(target.data[i + 2]) : -1;

            if (lo < 0) {
                return kars__err(err, 0, "a bad percent escape in the path");
            }
            c = (char) (hi << 4 | lo);
            if ((unsigned char) c < 0x20 || c == 0x7f || c == '/' ||
                c == '\\') {
                return kars__err(
                    err, 0, "an escaped slash or control byte in the path");
            }
            i += 2;
        }
        buf[o++] = c;
    }

    kars_str_t path = { buf, o };

    if (path_dots(path)) {
        return kars__err(err, 0, "a dot segment in the path");
    }
    *ret_path = path;
    *ret_query = q != NULL ? (kars_str_t){ q + 1, target.len - n - 1 }
                           : (kars_str_t){ "", 0 };
    return KARS_OK;
}
