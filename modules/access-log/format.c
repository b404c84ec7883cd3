/* format.c - log formats read and written; see format.h. */
#include "format.h"

#include <stdio.h>

#define FORMAT_CUT "[cut]"

static int
format_fail(kars_err_t *err, const char *what, kars_str_t at)
{
    (void) snprintf(err->text, sizeof(err->text), "%s: \"%.*s\"", what,
                    (int) (at.len > 60 ? 60 : at.len), at.data);
    return KARS_ERROR;
}

static int
format_is_name(char c)
{
    return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c >= '0' && c <= '9');
}

/* Bytes of a UTF-8 sequence (RFC 3629 4), 0: it is none. */
static size_t
format_utf8(const unsigned char *p, size_t n)
{
    unsigned char c = p[0];
    size_t len = c < 0x80                 ? 1
                 : c >= 0xc2 && c <= 0xdf ? 2
                 : c >= 0xe0 && c <= 0xef ? 3
                 : c >= 0xf0 && c <= 0xf4 ? 4
                                          : 0;

    if (len == 0 || len > n) {
        return 0;
    }
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    if ((c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] > 0x9f) ||
        (c == 0xf0 && p[1] < 0x90) || (c == 0xf4 && p[1] > 0x8f)) {
        return 0;
    }
    return len;
}

/* One character at p, escaped, into out (6 bytes at most). */
static size_t
format_char(const unsigned char *p, size_t n, int json, char *out,
            size_t *ret_used)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t len = json ? format_utf8(p, n) : 1;
    unsigned char c = *p;

    *ret_used = len == 0 ? 1 : len;
    if (json && len == 0) {
        memcpy(out, "\\ufffd", 6);
        return 6;
    }
    if (json && (c == '"' || c == '\\')) {
        out[0] = '\\';
        out[1] = (char) c;
        return 2;
    }
    if (json && (c < 0x20 || c == 0x7f)) {
        memcpy(out, "\\u00", 4);
        out[4] = hex[c >> 4];
        out[5] = hex[c & 15];
        return 6;
    }
    if (!json && (c < 0x20 || c >= 0x7f || c == '"' || c == '\\')) {
        memcpy(out, "\\x", 2);
        out[2] = hex[c >> 4];
        out[3] = hex[c & 15];
        return 4;
    }
    memcpy(out, p, len);
    return len;
}

/* At most cap bytes, of which the last may be a mark. */
static size_t
format_escape(kars_str_t s, int json, char *out, size_t cap)
{
    const unsigned char *p = (const unsigned char *) s.data;
    size_t room = cap - (sizeof(FORMAT_CUT) - 1);
    size_t o = 0;
    size_t used;

    for (size_t i = 0; i < s.len; i += used) {
        char one[8];
        size_t n = format_char(p + i, s.len - i, json, one, &used);

        if (o + n > room) {
            memcpy(out + o, FORMAT_CUT, sizeof(FORMAT_CUT) - 1);
            return o + sizeof(FORMAT_CUT) - 1;
        }
        memcpy(out + o, one, n);
        o += n;
    }
    return o;
}

/* Reading. */

size_t
format_room(kars_str_t piece)
{
    size_t n = 3; /* a member, and literals around the last variable */

    for (size_t i = 0; i < piece.len; i++) {
        n += piece.data[i] == '$' ? 2 : 0;
    }
    return n;
}

static void
format_literal(format_t *f, const char *p, size_t n)
{
    if (n != 0) {
        f->v[f->n++] = (format_part_t){ .text = { p, n } };
        f->fixed += f->json ? 6 * n : n;
    }
}

/* "$name" or "${name}" at p; returns its length, 0: *err is set. */
static size_t
format_variable(format_t *f, const char *p, size_t n, format_resolve_pt resolve,
                kars_err_t *err)
{
    size_t brace = n > 1 && p[1] == '{';
    size_t begin = 1 + brace;
    size_t end = begin;
    format_part_t part = { .kind = FORMAT_VAR };

    while (end < n && format_is_name(p[end])) {
        end++;
    }
    if (end == begin || (brace && (end == n || p[end] != '}'))) {
        (void) format_fail(err, "expected $name, ${name} or $$",
                           (kars_str_t){ p, n });
        return 0;
    }
    if (resolve((kars_str_t){ p + begin, end - begin }, &part.var, &part.text,
                err) != KARS_OK) {
        return 0;
    }
    f->v[f->n++] = part;
    f->nvars++;
    return end + brace;
}

static int
format_pieces(format_t *f, kars_str_t s, format_resolve_pt resolve,
              kars_err_t *err)
{
    size_t from = 0;
    size_t i = 0;

    while (i < s.len) {
        if (s.data[i] != '$') {
            i++;
            continue;
        }
        format_literal(f, s.data + from, i - from);
        if (i + 1 < s.len && s.data[i + 1] == '$') {
            from = i + 1;
            i += 2;
            continue;
        }

        size_t n = format_variable(f, s.data + i, s.len - i, resolve, err);

        if (n == 0) {
            return KARS_ERROR;
        }
        i += n;
        from = i;
    }
    format_literal(f, s.data + from, i - from);
    return KARS_OK;
}

int
format_add(format_t *f, kars_str_t piece, format_resolve_pt resolve,
           kars_err_t *err)
{
    kars_str_t s = piece;

    if (f->json) {
        const char *eq = memchr(s.data, '=', s.len);
        size_t n = eq != NULL ? (size_t) (eq - s.data) : 0;

        for (size_t i = 0; i < n; i++) {
            n = format_is_name(s.data[i]) || s.data[i] == '.' ? n : 0;
        }
        if (n == 0) {
            return format_fail(err, "expected name=value", piece);
        }
        f->v[f->n++] =
            (format_part_t){ .kind = FORMAT_MEMBER, .text = { s.data, n } };
        f->fixed += n + 6;
        s = (kars_str_t){ s.data + n + 1, s.len - n - 1 };
    }
    if (format_pieces(f, s, resolve, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (f->fixed > FORMAT_FIXED || f->nvars > FORMAT_VARS) {
        return format_fail(err, "a format of a line that is too long", piece);
    }
    return KARS_OK;
}

/* Writing. */

typedef struct {
    const format_t *f;
    format_get_pt get;
    void *data;
    char *out;
    size_t o;
    size_t value; /* bytes that one value may take */
    int full;     /* it did not fit */
} format_out_t;

static void
format_put(format_out_t *w, const char *p, size_t n)
{
    if (w->o + n > FORMAT_LINE) {
        w->full = 1;
        return;
    }
    memcpy(w->out + w->o, p, n);
    w->o += n;
}

static void
format_put_value(format_out_t *w, kars_str_t s)
{
    char text[FORMAT_VALUE];

    format_put(w, text, format_escape(s, w->f->json != 0, text, w->value));
}

static void
format_text(format_out_t *w)
{
    for (size_t i = 0; i < w->f->n; i++) {
        const format_part_t *p = &w->f->v[i];
        format_value_t v = { .kind = FORMAT_ABSENT };

        if (p->kind == FORMAT_LITERAL) {
            format_put(w, p->text.data, p->text.len);
            continue;
        }
        w->get(w->data, p, &v);
        if (v.kind == FORMAT_ABSENT) {
            format_put(w, "-", 1);
        } else {
            format_put_value(w, v.text);
        }
    }
}

/* The value of one member: parts i to end. A variable alone keeps its type. */
static void
format_member(format_out_t *w, size_t i, size_t end)
{
    const format_part_t *v = w->f->v;
    format_value_t one = { .kind = FORMAT_ABSENT };

    if (end - i == 1 && v[i].kind == FORMAT_VAR) {
        w->get(w->data, &v[i], &one);
        if (one.kind == FORMAT_ABSENT) {
            format_put(w, "null", 4);
            return;
        }
        if (one.kind == FORMAT_NUMBER) {
            format_put(w, one.text.data, one.text.len);
            return;
        }
    }
    format_put(w, "\"", 1);
    for (; i < end; i++) {
        format_value_t part = { .kind = FORMAT_TEXT, .text = v[i].text };

        if (v[i].kind == FORMAT_VAR) {
            w->get(w->data, &v[i], &part);
        }
        if (part.kind != FORMAT_ABSENT && v[i].kind == FORMAT_VAR) {
            format_put_value(w, part.text);
        } else if (part.kind != FORMAT_ABSENT) {
            char text[6 * FORMAT_FIXED];

            format_put(w, text,
                       format_escape(part.text, 1, text, sizeof(text)));
        }
    }
    format_put(w, "\"", 1);
}

static void
format_json(format_out_t *w)
{
    const format_t *f = w->f;

    format_put(w, "{", 1);
    for (size_t i = 0; i < f->n;) {
        size_t end = i + 1;

        while (end < f->n && f->v[end].kind != FORMAT_MEMBER) {
            end++;
        }
        format_put(w, ",\"", i == 0 ? 0 : 1);
        format_put(w, "\"", 1);
        format_put(w, f->v[i].text.data, f->v[i].text.len);
        format_put(w, "\":", 2);
        format_member(w, i + 1, end);
        i = end;
    }
    format_put(w, "}", 1);
}

size_t
format_write(const format_t *f, format_get_pt get, void *data, char *out)
{
    format_out_t w = {
        .f = f, .get = get, .data = data, .out = out, .value = FORMAT_VALUE
    };

    for (int again = 0; again < 2; again++) {
        w.o = 0;
        w.full = 0;
        if (f->json) {
            format_json(&w);
        } else {
            format_text(&w);
        }
        if (!w.full) {
            break;
        }
        /* Too long as a whole: each value gets its share. */
        w.value = (FORMAT_LINE - f->fixed - 8) / f->nvars;
    }
    return w.o;
}
