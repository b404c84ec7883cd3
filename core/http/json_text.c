/*
 * json_text.c - strings and keys within a JSON scan: plain runs, UTF-8,
 * escapes, and what becomes of them.
 *
 * json_ascii() is the loop that matters: it runs through most bytes of most
 * documents.
 */
#include "http/json_text.h"

#include <stdio.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define JSON_SHORT 48 /* a run up to this size is copied, not passed on */
#define JSON_ECHO  64 /* bytes of input in an error */

int
kars__json_flush(kars__json_run_t *r, uint32_t flags)
{
    size_t n = r->nout;

    r->nout = 0;
    return kars__json_deliver(r, r->out, n, KARS_JSON_STRING | flags);
}

/* Takes n bytes, four at most, that an escape stands for. */
static inline int
json_put(kars__json_run_t *r, const char *p, size_t n)
{
    kars__json_scan_t *s = r->s;

    if (s->mode == JSON_TEXT) {
        if (n > JSON_OUT - r->nout && kars__json_flush(r, 0) != KARS_OK) {
            return KARS_ERROR;
        }
        memcpy(r->out + r->nout, p, n);
        r->nout += n;
    } else if (s->mode == JSON_MEMBER) {
        kars__json_gather(s, p, n);
    }

    return KARS_OK;
}

/* Copies a short run; most are so short that one move of fixed size does. */
static inline void
json_copy(kars__json_run_t *r, const char *p, size_t n)
{
    char *out = r->out + r->nout;

    if (n <= 16 && r->end - p >= 16) {
        memcpy(out, p, 16);
    } else {
        memcpy(out, p, n);
    }
    r->nout += n;
}

/* Takes a run of plain bytes, borrowed from the chunk. */
static int
json_put_run(kars__json_run_t *r, const char *p, size_t n, uint32_t flags)
{
    if (r->nout > 0 && n <= JSON_SHORT && n <= JSON_OUT - r->nout) {
        json_copy(r, p, n);
        return flags != 0 ? kars__json_flush(r, flags) : KARS_OK;
    }
    if (r->nout > 0 && kars__json_flush(r, 0) != KARS_OK) {
        return KARS_ERROR;
    }
    if (n == 0 && flags == 0) {
        return KARS_OK;
    }

    return kars__json_deliver(r, p, n, KARS_JSON_STRING | flags);
}

/* The end of the run at p of bytes that are plain ASCII within a string. */
static inline const char *
json_ascii(const char *p, const char *end)
{
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"');
    const __m128i slash = _mm_set1_epi8('\\');
    const __m128i space = _mm_set1_epi8(' ');

    /* Compared with sign: what is below a space includes all above 0x7f. */
    for (; end - p >= 16; p += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *) p);
        __m128i hit = _mm_or_si128(
            _mm_cmplt_epi8(v, space),
            _mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, slash)));
        int mask = _mm_movemask_epi8(hit);

        if (mask != 0) {
            return p + __builtin_ctz((unsigned) mask);
        }
    }
#else
    const uint64_t ones = 0x0101010101010101u;
    uint64_t v;

    for (; end - p >= 8; p += 8) {
        memcpy(&v, p, 8);
        uint64_t hit = v | (v - ones * 0x20) | ((v ^ (ones * '"')) - ones) |
                       ((v ^ (ones * '\\')) - ones);

        if ((hit & (ones * 0x80)) != 0) {
            break;
        }
    }
#endif
    while (p < end && (signed char) *p >= ' ' && *p != '"' && *p != '\\') {
        p++;
    }

    return p;
}

/* Takes what is still to come of a character. */
static const char *
json_utf8_rest(kars__json_run_t *r, const char *p)
{
    kars__json_scan_t *s = r->s;

    for (; s->utf8_need > 0 && p < r->end; p++) {
        unsigned char c = (unsigned char) *p;

        if (c < s->utf8_low || c > s->utf8_high) {
            return kars__json_fail(r, p, "invalid UTF-8");
        }
        s->utf8_low = 0x80;
        s->utf8_high = 0xbf;
        s->utf8_need--;
    }

    return p;
}

/* Takes a character whose first byte, at p, is none of ASCII. */
static const char *
json_utf8_first(kars__json_run_t *r, const char *p)
{
    kars__json_scan_t *s = r->s;
    unsigned char c = (unsigned char) *p;

    if (c < 0xc2 || c > 0xf4) {
        return kars__json_fail(r, p, "invalid UTF-8");
    }

    s->utf8_need = c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
    s->utf8_low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    s->utf8_high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    return json_utf8_rest(r, p + 1);
}

/* Takes characters beyond ASCII: the common ones here, the others above. */
static const char *
json_utf8(kars__json_run_t *r, const char *p)
{
    while (p != NULL && p < r->end && (unsigned char) *p >= 0x80) {
        const unsigned char *u = (const unsigned char *) p;
        size_t n = (size_t) (r->end - p);

        if (u[0] >= 0xc2 && u[0] < 0xe0 && n > 1 && (u[1] & 0xc0) == 0x80) {
            p += 2;
        } else if (u[0] > 0xe0 && u[0] < 0xf0 && u[0] != 0xed && n > 2 &&
                   (u[1] & 0xc0) == 0x80 && (u[2] & 0xc0) == 0x80) {
            p += 3;
        } else {
            p = json_utf8_first(r, p);
        }
    }

    return p;
}

/* The end of the run at p that needs no decoding. */
static const char *
json_plain(kars__json_run_t *r, const char *p)
{
    if (r->s->utf8_need > 0) {
        p = json_utf8_rest(r, p);
    }

    while (p != NULL) {
        p = json_ascii(p, r->end);
        if (p == r->end || (unsigned char) *p < 0x80) {
            return p;
        }
        p = json_utf8(r, p);
    }

    return NULL;
}

/* Writes a key for an error: the start of it, printable. */
static void
json_show(kars_str_t key, char *out, size_t cap)
{
    size_t len = key.len < JSON_ECHO ? key.len : JSON_ECHO;
    size_t n = 0;

    out[0] = '\0';
    for (size_t i = 0; i < len && n + 5 < cap; i++) {
        unsigned char c = (unsigned char) key.data[i];
        int plain = c >= ' ' && c < 0x7f && c != '"' && c != '\\';

        n += (size_t) snprintf(out + n, cap - n, plain ? "%c" : "\\x%02x", c);
    }
}

/* Decides what a key in a live object stands for. */
static int
json_member(kars__json_run_t *r, kars_str_t key)
{
    kars__json_scan_t *s = r->s;
    kars__json_frame_t *frame = &s->frames[s->level - 1];
    const kars__json_node_t *nodes = s->prog->nodes;
    uint32_t twin;
    char text[4 * JSON_ECHO + 8];

    s->node = kars__json_child(s->prog, frame->node, key, &twin);
    if (twin != 0) {
        char name[4 * JSON_ECHO + 8];

        json_show(key, text, sizeof(text));
        json_show(nodes[twin].name, name, sizeof(name));
        (void) kars__json_fail(r, (const char *) (s->origin + s->token),
                               "member \"%s\" differs from \"%s\" only in case",
                               text, name);
        return KARS_ERROR;
    }
    if (s->node == 0) {
        return KARS_OK;
    }

    uint64_t bit = (uint64_t) 1 << (s->node - nodes[frame->node].child);

    if ((frame->seen & bit) != 0) {
        json_show(key, text, sizeof(text));
        (void) kars__json_fail(r, (const char *) (s->origin + s->token),
                               "duplicate member \"%s\"", text);
        return KARS_ERROR;
    }
    frame->seen |= bit;
    return KARS_OK;
}

/* Takes the closing quote of a value at q; [p, q) is its last run. */
static const char *
json_string_end(kars__json_run_t *r, const char *p, const char *q)
{
    kars__json_scan_t *s = r->s;

    if (s->mode == JSON_TEXT &&
        json_put_run(r, p, (size_t) (q - p), KARS_LAST) != KARS_OK) {
        return NULL;
    }

    kars__json_value_end(s, q + 1);
    return q + 1;
}

/* The same of a key. */
static const char *
json_key_end(kars__json_run_t *r, const char *p, const char *q)
{
    kars__json_scan_t *s = r->s;
    kars_str_t key = { p, (size_t) (q - p) };

    s->state = JSON_COLON;
    if (s->nbuf > 0) {
        kars__json_gather(s, p, key.len);
        key = (kars_str_t){ s->buf, s->nbuf };
    }
    if (s->mode == JSON_MEMBER && key.len <= sizeof(s->buf) &&
        json_member(r, key) != KARS_OK) {
        return NULL;
    }

    return q + 1;
}

/* Takes a code point that an escape gave, not a surrogate. */
static int
json_put_code(kars__json_run_t *r, uint32_t code)
{
    char out[4];
    size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = { 0, 0, 0xc0, 0xe0, 0xf0 };

    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char) (0x80 | (code & 0x3f));
        code >>= 6;
    }
    out[0] = (char) (lead[n] | code);
    return json_put(r, out, n);
}

/* Takes the four digits of an escape, the last of them before p. */
static const char *
json_code(kars__json_run_t *r, const char *p)
{
    kars__json_scan_t *s = r->s;
    uint32_t code = s->hex;
    int low = (code & 0xfc00) == 0xdc00;

    if (low != (s->high != 0)) {
        return kars__json_fail(r, p - 1, "half of a surrogate pair");
    }
    if (code == 0) {
        return kars__json_fail(r, p - 1, "\\u0000 in a string");
    }
    if ((code & 0xfc00) == 0xd800) {
        s->high = s->hex;
        s->state = JSON_LOW_ESCAPE;
        return p;
    }
    if (low) {
        code = 0x10000 + ((uint32_t) (s->high & 0x3ff) << 10) + (code & 0x3ff);
        s->high = 0;
    }

    s->state = JSON_STRING;
    return json_put_code(r, code) == KARS_OK ? p : NULL;
}

/* Takes hexadecimal digits. */
const char *
kars__json_hex(kars__json_run_t *r, const char *p)
{
    kars__json_scan_t *s = r->s;
    uint32_t hex = s->hex;
    uint8_t n = s->nhex;

    for (; n < 4 && p < r->end; p++, n++) {
        unsigned char c = (unsigned char) *p;
        unsigned letter = (c | 0x20u) - 'a';
        unsigned digit = (unsigned) c - '0';

        if (digit > 9) {
            if (letter > 5) {
                return kars__json_unexpected(r, p, "a hexadecimal digit");
            }
            digit = letter + 10;
        }
        hex = hex << 4 | digit;
    }

    s->hex = (uint16_t) hex;
    s->nhex = n;
    return n == 4 ? json_code(r, p) : p;
}

/* Takes one of the two bytes before the digits of a low surrogate. */
const char *
kars__json_low(kars__json_run_t *r, const char *p)
{
    kars__json_scan_t *s = r->s;

    if (*p != (s->state == JSON_LOW_ESCAPE ? '\\' : 'u')) {
        return kars__json_fail(r, p, "half of a surrogate pair");
    }
    s->state = s->state == JSON_LOW_ESCAPE ? JSON_LOW_U : JSON_HEX;
    s->nhex = 0;
    s->hex = 0;
    return p + 1;
}

/* Takes the character after `\`. */
const char *
kars__json_escape(kars__json_run_t *r, const char *p)
{
    static const char escapes[256] = {
        ['"'] = '"',  ['\\'] = '\\', ['/'] = '/',  ['b'] = '\b',
        ['f'] = '\f', ['n'] = '\n',  ['r'] = '\r', ['t'] = '\t',
    };
    kars__json_scan_t *s = r->s;
    const char *c = &escapes[(unsigned char) *p];

    if (*p == 'u') {
        s->state = JSON_HEX;
        s->nhex = 0;
        s->hex = 0;
        return kars__json_hex(r, p + 1);
    }
    if (*c == 0) {
        return kars__json_unexpected(r, p, "an escape");
    }

    s->state = JSON_STRING;
    return json_put(r, c, 1) == KARS_OK ? p + 1 : NULL;
}

/* Takes a run within a string, not its last. */
static inline int
json_run(kars__json_run_t *r, const char *p, size_t n)
{
    if (r->s->mode == JSON_TEXT) {
        return json_put_run(r, p, n, 0);
    }
    if (r->s->mode == JSON_MEMBER) {
        kars__json_gather(r->s, p, n);
    }

    return KARS_OK;
}

/* Takes a string from p on, which stands within it. */
const char *
kars__json_string(kars__json_run_t *r, const char *p)
{
    kars__json_scan_t *s = r->s;

    while (p != NULL && p < r->end && s->state == JSON_STRING) {
        const char *q = json_plain(r, p);

        if (q == NULL) {
            return NULL;
        }
        if (q < r->end && *q == '"') {
            return s->mode >= JSON_SKIP_KEY ? json_key_end(r, p, q)
                                            : json_string_end(r, p, q);
        }
        if (json_run(r, p, (size_t) (q - p)) != KARS_OK || q == r->end) {
            return s->state != JSON_FAILED ? q : NULL;
        }
        if (*q != '\\') {
            return kars__json_fail(r, q, "control character in a string");
        }
        s->state = JSON_ESCAPE;
        p = q + 1 < r->end ? kars__json_escape(r, q + 1) : q + 1;
    }

    return p;
}
