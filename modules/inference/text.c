/*
 * text.c - what inference decides about words alone; owns nothing.
 */
#include "text.h"

static char
text_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char) (c | 0x20) : c;
}

/* The same but for case; both have n bytes. */
static int
text_ieq(const char *a, const char *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (a[i] != b[i] && text_lower(a[i]) != text_lower(b[i])) {
            return 0;
        }
    }
    return 1;
}

int
inference_ieq(kars_str_t a, kars_str_t b)
{
    return a.len == b.len && text_ieq(a.data, b.data, a.len);
}

static int
text_istarts(kars_str_t s, kars_str_t prefix)
{
    return s.len >= prefix.len && text_ieq(s.data, prefix.data, prefix.len);
}

static kars_str_t
text_trim(kars_str_t s)
{
    while (s.len > 0 && (s.data[0] == ' ' || s.data[0] == '\t')) {
        s.data++;
        s.len--;
    }

    while (s.len > 0 &&
           (s.data[s.len - 1] == ' ' || s.data[s.len - 1] == '\t')) {
        s.len--;
    }
    return s;
}

int
inference_is_type(kars_str_t content_type, kars_str_t want)
{
    kars_str_t type = content_type;

    for (size_t i = 0; i < type.len; i++) {
        if (type.data[i] == ';') {
            type.len = i;
        }
    }
    return inference_ieq(text_trim(type), want);
}

int
inference_is_identity(kars_str_t encoding)
{
    kars_str_t e = text_trim(encoding);

    return e.len == 0 || inference_ieq(e, KARS_STR("identity"));
}

int
inference_header_passes(kars_str_t name, int event_stream)
{
    /* Content-Length and Content-Encoding frame the body, which the router
     * checks and writes itself; dropping them here would hide them from it. */
    static const kars_str_t names[] = {
        KARS_STR("content-type"),         KARS_STR("content-length"),
        KARS_STR("content-encoding"),     KARS_STR("retry-after"),
        KARS_STR("retry-after-ms"),       KARS_STR("x-request-id"),
        KARS_STR("x-ms-request-id"),      KARS_STR("apim-request-id"),
        KARS_STR("openai-processing-ms"),
    };

    for (size_t i = 0; i < KARS_NELTS(names); i++) {
        if (name.len == names[i].len &&
            text_ieq(name.data, names[i].data, name.len)) {
            return 1;
        }
    }

    return text_istarts(name, KARS_STR("x-ratelimit-")) ||
           text_istarts(name, KARS_STR("x-kars-")) ||
           (event_stream && inference_ieq(name, KARS_STR("cache-control")));
}

const char *
inference_model_fault(kars_str_t model)
{
    if (model.len == 0) {
        return "model must not be empty";
    }

    if (model.len > INFERENCE_MAX_MODEL) {
        return "model must not be longer than 256 bytes";
    }

    for (size_t i = 0; i < model.len; i++) {
        unsigned char c = (unsigned char) model.data[i];

        if (c < 0x20 || c == 0x7f) {
            return "model must not contain control characters";
        }
    }
    return NULL;
}

int
inference_listed(const kars_list_t *list, kars_str_t name)
{
    for (size_t i = 0; i < list->n; i++) {
        if (kars_str_eq(list->v[i], name)) {
            return 1;
        }
    }
    return 0;
}

/* Bytes that stand in a path as they are. */
static int
text_is_plain(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("/-._~!$&'()*+,;=:@", c) != NULL);
}

static int
text_has_dots(kars_str_t path)
{
    size_t start = 0;

    for (size_t i = 0; i <= path.len; i++) {
        if (i < path.len && path.data[i] != '/') {
            continue;
        }

        kars_str_t seg = { path.data + start, i - start };

        if (kars_str_eq(seg, KARS_STR(".")) ||
            kars_str_eq(seg, KARS_STR(".."))) {
            return 1;
        }
        start = i + 1;
    }
    return 0;
}

int
inference_base_ok(kars_str_t base)
{
    if (base.len == 0) {
        return 1;
    }

    for (size_t i = 0; i < base.len; i++) {
        if (!text_is_plain((unsigned char) base.data[i])) {
            return 0;
        }
    }
    return base.data[0] == '/' && !text_has_dots(base);
}

/* Appends; *at > cap afterwards means that it did not fit. */
static void
text_put(kars_str_t s, char *ret, size_t cap, size_t *at)
{
    if (*at > cap || s.len > cap - *at) {
        *at = cap + 1;
        return;
    }

    if (s.len > 0) {
        memcpy(ret + *at, s.data, s.len);
        *at += s.len;
    }
}

static void
text_put_escaped(kars_str_t s, char *ret, size_t cap, size_t *at)
{
    static const char hex[] = "0123456789ABCDEF";

    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char) s.data[i];
        char esc[3] = { '%', hex[c >> 4], hex[c & 15] };

        text_put(text_is_plain(c) ? (kars_str_t){ s.data + i, 1 }
                                  : (kars_str_t){ esc, sizeof(esc) },
                 ret, cap, at);
    }
}

size_t
inference_path(kars_str_t base, kars_str_t path, kars_str_t own,
               kars_str_t query, char *ret, size_t cap)
{
    kars_str_t rest = own;
    size_t at = 0;

    if (kars_str_starts(path, KARS_STR("/v1/"))) {
        rest = (kars_str_t){ path.data + 3, path.len - 3 };
    }

    if (text_has_dots(rest)) {
        return 0;
    }

    while (base.len > 0 && base.data[base.len - 1] == '/') {
        base.len--;
    }

    text_put(base, ret, cap, &at);
    text_put_escaped(rest, ret, cap, &at);
    if (query.len > 0) {
        text_put(KARS_STR("?"), ret, cap, &at);
        text_put(query, ret, cap, &at);
    }
    return at > cap ? 0 : at;
}

size_t
inference_quote(kars_str_t s, char *ret, size_t cap)
{
    static const char hex[] = "0123456789abcdef";
    size_t at = 0;

    text_put(KARS_STR("\""), ret, cap, &at);
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char) s.data[i];
        char esc[6] = { '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] };
        char pair[2] = { '\\', (char) c };

        if (c < 0x20) {
            text_put((kars_str_t){ esc, sizeof(esc) }, ret, cap, &at);
        } else if (c == '"' || c == '\\') {
            text_put((kars_str_t){ pair, sizeof(pair) }, ret, cap, &at);
        } else {
            text_put((kars_str_t){ s.data + i, 1 }, ret, cap, &at);
        }
    }
    text_put(KARS_STR("\""), ret, cap, &at);
    return at > cap ? 0 : at;
}

int
inference_digits(kars_str_t text, int64_t *n)
{
    int64_t value = *n;

    for (size_t i = 0; i < text.len; i++) {
        int64_t d = text.data[i] - '0';

        if (d < 0 || d > 9 || value > (INT64_MAX - d) / 10) {
            return KARS_ERROR;
        }
        value = value * 10 + d;
    }

    *n = value;
    return KARS_OK;
}
