/*
 * conf_lex.c - configuration text to tokens.
 *
 * The bytes are checked once, before the first token: from then on the text is
 * UTF-8 and its only control characters are \t, \n and the \r of a \r\n.
 */
#include "conf/conf_lex.h"

#include <stdarg.h>
#include <stdio.h>

#define LEX_PATH 100 /* bytes of a path in an error */

int
kars__lex_err(kars_err_t *err, const char *file, uint32_t line, uint32_t column,
              const char *fmt, ...)
{
    char text[sizeof(err->text)];
    size_t len = strlen(file);
    va_list ap;

    va_start(ap, fmt);
    (void) vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);

    if (len > LEX_PATH) {
        return kars__err(err, 0, "...%s:%u:%u: %s", file + len - LEX_PATH, line,
                         column, text);
    }
    return kars__err(err, 0, "%s:%u:%u: %s", file, line, column, text);
}

static int
lex_at_err(const kars__lex_t *lex, kars_err_t *err, const char *what)
{
    return kars__lex_err(err, lex->file, lex->line, lex->column, "%s", what);
}

/* Bytes of the UTF-8 character at p, or 0 if there is none. */
static size_t
lex_utf8(const char *p, const char *end)
{
    unsigned char c = (unsigned char) *p;
    size_t n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;

    if (n == 1) {
        return 1;
    }
    if (c < 0xc2 || c > 0xf4 || (size_t) (end - p) < n) {
        return 0;
    }
    for (size_t i = 1; i < n; i++) {
        if (((unsigned char) p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }

    /* Too long for what they say, surrogates, beyond U+10FFFF. */
    unsigned char d = (unsigned char) p[1];

    if ((c == 0xe0 && d < 0xa0) || (c == 0xed && d > 0x9f) ||
        (c == 0xf0 && d < 0x90) || (c == 0xf4 && d > 0x8f)) {
        return 0;
    }
    return n;
}

/* The character at lex->at, of n bytes, is behind us. */
static void
lex_skip(kars__lex_t *lex, size_t n)
{
    if (*lex->at == '\n') {
        lex->line++;
        lex->column = 1;
    } else {
        lex->column++;
    }
    lex->at += n;
}

/* Steps over one byte; the tail of a character does not count as a column. */
static char
lex_take(kars__lex_t *lex)
{
    char c = *lex->at;

    if (((unsigned char) c & 0xc0) == 0x80) {
        lex->at++;
    } else {
        lex_skip(lex, 1);
    }
    return c;
}

static int
lex_is_control(const char *p, const char *end)
{
    unsigned char c = (unsigned char) *p;

    if (c == '\r') {
        return end - p < 2 || p[1] != '\n';
    }
    return (c < 0x20 && c != '\t' && c != '\n') || c == 0x7f ||
           (c == 0xc2 && (unsigned char) p[1] < 0xa0);
}

static int
lex_check(kars__lex_t lex, kars_err_t *err)
{
    while (lex.at < lex.end) {
        size_t n = lex_utf8(lex.at, lex.end);

        if (n == 0) {
            return lex_at_err(&lex, err, "this is not UTF-8");
        }
        if (lex_is_control(lex.at, lex.end)) {
            return lex_at_err(&lex, err,
                              *lex.at == '\0' ? "a NUL byte"
                                              : "a control character");
        }
        lex_skip(&lex, n);
    }
    return KARS_OK;
}

int
kars__lex_init(kars__lex_t *lex, const char *file, kars_str_t text,
               kars_err_t *err)
{
    *lex = (kars__lex_t){
        .file = file,
        .at = text.len == 0 ? "" : text.data,
        .line = 1,
        .column = 1,
    };
    lex->end = lex->at + text.len;

    if (text.len > KARS__CONF_FILE) {
        return lex_at_err(lex, err, "the file is larger than 1 MiB");
    }
    if (kars_str_starts(text, KARS_STR("\xef\xbb\xbf"))) {
        lex->at += 3; /* a byte order mark, of some editors */
    }
    return lex_check(*lex, err);
}

static int
lex_is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void
lex_skip_blanks(kars__lex_t *lex)
{
    while (lex->at < lex->end) {
        if (*lex->at == '#') {
            while (lex->at < lex->end && *lex->at != '\n') {
                (void) lex_take(lex);
            }
        } else if (!lex_is_blank(*lex->at)) {
            return;
        } else {
            (void) lex_take(lex);
        }
    }
}

/* Does `{name}` or `{name...}` stand here? No block can begin so, since the
 * last directive of a block ends with `;`. Returns its length, or 0. */
static size_t
lex_segment(const kars__lex_t *lex)
{
    const char *p = lex->at + 1;

    while (p < lex->end &&
           (*p == '_' || *p == '-' || *p == '.' || (*p >= '0' && *p <= '9') ||
            ((*p | 0x20) >= 'a' && (*p | 0x20) <= 'z'))) {
        p++;
    }
    if (p == lex->at + 1 || p == lex->end || *p != '}') {
        return 0;
    }
    return (size_t) (p + 1 - lex->at);
}

static int
lex_add(const kars__lex_t *lex, kars__lex_token_t *t, char c, kars_err_t *err)
{
    if (t->len == KARS__CONF_WORD) {
        return kars__lex_err(err, lex->file, t->line, t->column,
                             "a word of more than %d bytes", KARS__CONF_WORD);
    }
    t->text[t->len++] = c;
    return KARS_OK;
}

/* The escape that begins at lex->at. */
static int
lex_escape(kars__lex_t *lex, int quoted, kars__lex_token_t *t, kars_err_t *err)
{
    char c = lex->at + 1 < lex->end ? lex->at[1] : '\0';

    switch (c) {
    case 'n':
        c = '\n';
        break;
    case 't':
        c = '\t';
        break;
    case '"':
    case '\'':
    case '\\':
        break;
    case ' ':
    case ';':
    case '{':
    case '}':
    case '#':
        if (!quoted) {
            break;
        }
        /* fall through */
    default:
        return lex_at_err(lex, err,
                          "unknown escape; a backslash itself is \\\\");
    }

    lex_skip(lex, 1);
    lex_skip(lex, 1);
    return lex_add(lex, t, c, err);
}

/* From the opening quote over the closing one. */
static int
lex_quoted(kars__lex_t *lex, kars__lex_token_t *t, kars_err_t *err)
{
    uint32_t line = lex->line;
    uint32_t column = lex->column;
    char quote = lex_take(lex);

    while (lex->at < lex->end && *lex->at != quote) {
        int rc = KARS_OK;

        if (*lex->at == '\\') {
            rc = lex_escape(lex, 1, t, err);
        } else if (*lex->at == '\r') {
            (void) lex_take(lex); /* a line's end is \n, whatever the editor */
        } else {
            rc = lex_add(lex, t, lex_take(lex), err);
        }
        if (rc != KARS_OK) {
            return rc;
        }
    }
    if (lex->at == lex->end) {
        return kars__lex_err(err, lex->file, line, column,
                             "this quote is not closed");
    }

    (void) lex_take(lex);
    if (lex->at < lex->end && !lex_is_blank(*lex->at) && *lex->at != ';' &&
        *lex->at != '{' && *lex->at != '}') {
        return lex_at_err(lex, err, "a blank must follow a closing quote");
    }
    return KARS_OK;
}

static int
lex_word(kars__lex_t *lex, kars__lex_token_t *t, kars_err_t *err)
{
    while (lex->at < lex->end) {
        char c = *lex->at;
        size_t n = c == '{' ? lex_segment(lex) : 1;
        int rc = KARS_OK;

        if (lex_is_blank(c) || c == ';' || c == '}' || n == 0) {
            break;
        }
        if (c == '"' || c == '\'') {
            if (t->len == 0 || lex->at[-1] == '=') {
                return lex_quoted(lex, t, err);
            }
            return lex_at_err(lex, err,
                              "a quote inside a word: quote all of it, or put "
                              "a backslash before");
        }
        if (c == '\\') {
            rc = lex_escape(lex, 0, t, err);
        }
        for (size_t i = 0; c != '\\' && i < n && rc == KARS_OK; i++) {
            rc = lex_add(lex, t, lex_take(lex), err);
        }
        if (rc != KARS_OK) {
            return rc;
        }
    }
    return KARS_OK;
}

int
kars__lex_next(kars__lex_t *lex, kars__lex_token_t *ret, kars_err_t *err)
{
    lex_skip_blanks(lex);
    ret->line = lex->line;
    ret->column = lex->column;
    ret->len = 0;

    if (lex->at == lex->end) {
        ret->kind = KARS__LEX_END;
        return KARS_OK;
    }

    switch (*lex->at) {
    case ';':
        ret->kind = KARS__LEX_SEMICOLON;
        break;
    case '{':
        ret->kind = KARS__LEX_OPEN;
        break;
    case '}':
        ret->kind = KARS__LEX_CLOSE;
        break;
    default:
        ret->kind = KARS__LEX_WORD;
        if (lex_word(lex, ret, err) != KARS_OK) {
            return KARS_ERROR;
        }
        ret->text[ret->len] = '\0';
        return KARS_OK;
    }

    (void) lex_take(lex);
    return KARS_OK;
}
