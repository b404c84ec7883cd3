/*
 * json_scan.c - looks into a JSON document as its bytes pass.
 *
 * A state machine over bytes. A container is *live* while every container
 * around it stands on a watched path; the live ones are the outermost, so
 * `level` counts them and depth == level says that the innermost is one. Only
 * in live objects are keys looked at; everywhere else only the grammar counts.
 */
#include "http/json_scan.h"

#include "http/json_text.h"

#include <stdarg.h>
#include <stdio.h>

#define JSON_EMPTY 0x80 /* beside the type of a range: no members */

/* States within a number: what the last character was. */
enum {
    NUM_END,
    NUM_MINUS,
    NUM_ZERO,
    NUM_INT,
    NUM_DOT,
    NUM_FRAC,
    NUM_E,
    NUM_SIGN,
    NUM_EXP
};

static const struct {
    kars_str_t text;
    uint32_t type;
} json_words[] = {
    { { "true", 4 }, KARS_JSON_TRUE },
    { { "false", 5 }, KARS_JSON_FALSE },
    { { "null", 4 }, KARS_JSON_NULL },
};

const char *
kars__json_fail(kars__json_run_t *r, const char *p, const char *fmt, ...)
{
    kars__json_scan_t *s = r->s;
    uint64_t at = (uintptr_t) p - s->origin;
    char text[200];
    va_list args;

    va_start(args, fmt);
    (void) vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    s->state = JSON_FAILED;
    (void) kars__err(r->err, 0, "json: byte %llu: %s", (unsigned long long) at,
                     text);
    return NULL;
}

const char *
kars__json_unexpected(kars__json_run_t *r, const char *p, const char *want)
{
    unsigned char c = (unsigned char) *p;

    if (c > ' ' && c < 0x7f) {
        return kars__json_fail(r, p, "expected %s, found '%c'", want, c);
    }
    return kars__json_fail(r, p, "expected %s, found 0x%02x", want, c);
}

int
kars__json_deliver(kars__json_run_t *r, const char *text, size_t n,
                   uint32_t flags)
{
    kars__json_scan_t *s = r->s;
    const kars__json_node_t *node = kars__json_here(s);
    const uint32_t *watches = s->prog->watches + node->watch;
    uint32_t index = s->level > 0 ? s->frames[s->level - 1].index : 0;

    flags |= s->begun ? 0 : KARS_FIRST;
    s->begun = 1;
    for (uint32_t i = 0; i < node->nwatches; i++) {
        if (s->fn(s->data, watches[i], (kars_str_t){ text, n }, index, flags) !=
            KARS_OK) {
            s->state = JSON_FAILED;
            return KARS_ERROR;
        }
    }

    return KARS_OK;
}

/* The state within a number after one more character; NUM_END: not its own. */
static inline uint8_t
json_number_next(uint8_t state, char c)
{
    /* clang-format off */
    static const uint8_t next[][6] = {
        /*              0         1-9       -          .        e      +     */
        [NUM_MINUS] = { NUM_ZERO, NUM_INT,  0,         0,       0,     0 },
        [NUM_ZERO]  = { 0,        0,        0,         NUM_DOT, NUM_E, 0 },
        [NUM_INT]   = { NUM_INT,  NUM_INT,  0,         NUM_DOT, NUM_E, 0 },
        [NUM_DOT]   = { NUM_FRAC, NUM_FRAC, 0,         0,       0,     0 },
        [NUM_FRAC]  = { NUM_FRAC, NUM_FRAC, 0,         0,       NUM_E, 0 },
        [NUM_E]     = { NUM_EXP,  NUM_EXP,  NUM_SIGN,  0,   0, NUM_SIGN },
        [NUM_SIGN]  = { NUM_EXP,  NUM_EXP,  0,         0,       0,     0 },
        [NUM_EXP]   = { NUM_EXP,  NUM_EXP,  0,         0,       0,     0 },
    };
    /* clang-format on */

    switch (c) {
    case '0':
        return next[state][0];
    case '-':
        return next[state][2];
    case '.':
        return next[state][3];
    case 'e':
    case 'E':
        return next[state][4];
    case '+':
        return next[state][5];
    default:
        return c >= '1' && c <= '9' ? next[state][1] : NUM_END;
    }
}

/* Takes a number from p on, of which the first character has been seen. */
static const char *
json_number(kars__json_run_t *r, const char *p)
{
    kars__json_scan_t *s = r->s;
    const char *q = p;
    uint8_t state = s->nword;

    for (uint8_t next; q < r->end; q++) {
        next = json_number_next(state, *q);
        if (next == NUM_END) {
            break;
        }
        state = next;
    }
    s->nword = state;

    size_t n = (size_t) (q - p);

    if (s->mode == JSON_TEXT) {
        if (s->nbuf + n > KARS__JSON_NUMBER) {
            return kars__json_fail(
                r, (const char *) (s->origin + s->token + KARS__JSON_NUMBER),
                "a number too long to be checked");
        }
        kars__json_gather(s, p, n);
    }
    if (q == r->end) {
        return q;
    }
    if (state != NUM_ZERO && state != NUM_INT && state != NUM_FRAC &&
        state != NUM_EXP) {
        return kars__json_unexpected(r, q, "a digit");
    }
    if (s->mode == JSON_TEXT &&
        kars__json_deliver(r, s->buf, s->nbuf, KARS_JSON_NUMBER | KARS_LAST) !=
            KARS_OK) {
        return NULL;
    }

    kars__json_value_end(s, q);
    return q;
}

/* Takes letters of true, false or null. */
static const char *
json_word(kars__json_run_t *r, const char *p)
{
    kars__json_scan_t *s = r->s;
    kars_str_t text = json_words[s->word].text;

    for (; s->nword < text.len; p++, s->nword++) {
        if (p == r->end) {
            return p;
        }
        if (*p != text.data[s->nword]) {
            return kars__json_fail(r, p, "expected \"%s\"", text.data);
        }
    }
    if (s->mode == JSON_TEXT &&
        kars__json_deliver(r, text.data, text.len,
                           json_words[s->word].type | KARS_LAST) != KARS_OK) {
        return NULL;
    }

    kars__json_value_end(s, p);
    return p;
}

static const char *
json_word_begin(kars__json_run_t *r, const char *p, uint8_t word)
{
    kars__json_scan_t *s = r->s;

    (void) kars__json_value_begin(s, p, json_words[word].type);
    s->word = word;
    s->nword = 1;
    s->state = JSON_WORD;
    return json_word(r, p + 1);
}

static const char *
json_number_begin(kars__json_run_t *r, const char *p)
{
    kars__json_scan_t *s = r->s;

    (void) kars__json_value_begin(s, p, KARS_JSON_NUMBER);
    s->nword = *p == '-' ? NUM_MINUS : *p == '0' ? NUM_ZERO : NUM_INT;
    s->state = JSON_NUMBER;
    if (s->mode == JSON_TEXT) {
        kars__json_gather(s, p, 1);
    }
    return json_number(r, p + 1);
}

/* Opens a container at p. */
static const char *
json_open(kars__json_run_t *r, const char *p, int object)
{
    kars__json_scan_t *s = r->s;
    uint32_t type = object ? KARS_JSON_OBJECT : KARS_JSON_ARRAY;
    uint32_t index = s->level > 0 ? s->frames[s->level - 1].index : 0;

    if (s->depth == KARS__JSON_DEPTH) {
        return kars__json_fail(r, p, "nested deeper than %d", KARS__JSON_DEPTH);
    }

    const kars__json_node_t *node = kars__json_value_begin(s, p, type);

    if (node->nwatches > 0 &&
        kars__json_deliver(r, p, 0, type | KARS_LAST) != KARS_OK) {
        return NULL;
    }

    uint64_t bit = (uint64_t) 1 << (s->depth % 64);
    uint64_t *word = &s->stack[s->depth / 64];

    *word = s->object ? *word | bit : *word & ~bit;
    s->object = (uint8_t) object;
    s->depth++;
    if (s->node != 0) {
        s->frames[s->level++] =
            (kars__json_frame_t){ 0, object ? index : 0, s->node };
    }
    s->node = object ? 0 : node->elem;
    s->state = object ? JSON_FIRST_KEY : JSON_FIRST_VALUE;
    return p + 1;
}

/* Closes the innermost container at p. */
static const char *
json_close(kars__json_run_t *r, const char *p, int empty)
{
    kars__json_scan_t *s = r->s;

    if (s->depth == s->level) {
        uint32_t at = s->frames[--s->level].node;
        uint8_t range = s->prog->nodes[at].range;

        if (range != KARS__JSON_NO_RANGE) {
            s->ends[range] = kars__json_offset(s, p) + 1;
            s->types[range] |= empty ? JSON_EMPTY : 0;
        }
    }

    s->depth--;
    s->object = s->stack[s->depth / 64] >> (s->depth % 64) & 1;
    s->state = s->depth > 0 ? JSON_AFTER : JSON_DONE;
    return p + 1;
}

/* Takes a value that begins at p. */
static const char *
json_value(kars__json_run_t *r, const char *p)
{
    kars__json_scan_t *s = r->s;

    if (s->depth == 0 && *p != '{' && *p != '[') {
        return kars__json_unexpected(r, p, "an object or an array");
    }

    switch (*p) {
    case '"':
        (void) kars__json_value_begin(s, p, KARS_JSON_STRING);
        s->state = JSON_STRING;
        return kars__json_string(r, p + 1);
    case '{':
        return json_open(r, p, 1);
    case '[':
        return json_open(r, p, 0);
    case 't':
        return json_word_begin(r, p, 0);
    case 'f':
        return json_word_begin(r, p, 1);
    case 'n':
        return json_word_begin(r, p, 2);
    case '-':
    case '0' ... '9':
        return json_number_begin(r, p);
    default:
        return kars__json_unexpected(r, p, "a value");
    }
}

/* Takes a key that begins at p. */
static const char *
json_key(kars__json_run_t *r, const char *p)
{
    kars__json_scan_t *s = r->s;

    if (*p != '"') {
        return kars__json_unexpected(r, p, "a key");
    }

    s->token = kars__json_offset(s, p);
    s->nbuf = 0;
    s->node = 0;
    s->mode = JSON_SKIP_KEY;
    if (s->depth == s->level) {
        uint32_t at = s->frames[s->level - 1].node;

        s->mode =
            s->prog->nodes[at].nchildren > 0 ? JSON_MEMBER : JSON_SKIP_KEY;
    }
    s->state = JSON_STRING;
    return kars__json_string(r, p + 1);
}

/* Takes what stands at p after a value in a container. */
static const char *
json_after(kars__json_run_t *r, const char *p)
{
    kars__json_scan_t *s = r->s;

    if (*p == (s->object ? '}' : ']')) {
        return json_close(r, p, 0);
    }
    if (*p != ',') {
        return kars__json_unexpected(r, p,
                                     s->object ? "',' or '}'" : "',' or ']'");
    }

    s->state = s->object ? JSON_KEY : JSON_VALUE;
    if (!s->object && s->depth == s->level) {
        kars__json_frame_t *frame = &s->frames[s->level - 1];

        frame->index++;
        s->node = s->prog->nodes[frame->node].elem;
    }
    return p + 1;
}

/* Takes one token between strings; p is no white space. */
static const char *
json_token(kars__json_run_t *r, const char *p)
{
    switch (r->s->state) {
    case JSON_FIRST_VALUE:
        return *p == ']' ? json_close(r, p, 1) : json_value(r, p);
    case JSON_VALUE:
        return json_value(r, p);
    case JSON_FIRST_KEY:
        return *p == '}' ? json_close(r, p, 1) : json_key(r, p);
    case JSON_KEY:
        return json_key(r, p);
    case JSON_COLON:
        if (*p != ':') {
            return kars__json_unexpected(r, p, "':'");
        }
        r->s->state = JSON_VALUE;
        return p + 1;
    case JSON_AFTER:
        return json_after(r, p);
    default:
        return kars__json_unexpected(r, p, "the end of the document");
    }
}

/* Takes as much as the state at hand knows how to. */
static inline const char *
json_step(kars__json_run_t *r, const char *p)
{
    switch (r->s->state) {
    case JSON_STRING:
        return kars__json_string(r, p);
    case JSON_ESCAPE:
        return kars__json_escape(r, p);
    case JSON_HEX:
        return kars__json_hex(r, p);
    case JSON_LOW_ESCAPE:
    case JSON_LOW_U:
        return kars__json_low(r, p);
    case JSON_NUMBER:
        return json_number(r, p);
    case JSON_WORD:
        return json_word(r, p);
    default:
        if (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t') {
            return p + 1;
        }
        return json_token(r, p);
    }
}

void
kars__json_begin(kars__json_scan_t *s, const kars__json_prog_t *prog,
                 kars__json_value_pt fn, void *data)
{
    memset(s, 0, offsetof(kars__json_scan_t, starts));
    s->prog = prog;
    s->fn = fn;
    s->data = data;
    s->node = KARS__JSON_ROOT;
    s->state = JSON_VALUE;
}

int
kars__json_feed(kars__json_scan_t *s, const char *p, size_t n, kars_err_t *err)
{
    kars__json_run_t r;

    if (s->state == JSON_FAILED) {
        return kars__err(err, 0, "json: the document is bad already");
    }
    if (n == 0) {
        return KARS_OK;
    }

    r.s = s;
    r.end = p + n;
    r.err = err;
    r.nout = 0;
    s->origin = (uintptr_t) p - s->size;
    if (n > UINT32_MAX - s->size) {
        (void) kars__json_fail(&r, p, "the document is longer than 4 GiB");
        return KARS_ERROR;
    }

    while (p != NULL && p < r.end) {
        p = json_step(&r, p);
    }
    if (p == NULL || (r.nout > 0 && kars__json_flush(&r, 0) != KARS_OK)) {
        return KARS_ERROR;
    }

    s->size += (uint32_t) n;
    return KARS_OK;
}

int
kars__json_end(kars__json_scan_t *s, kars_err_t *err)
{
    if (s->state == JSON_DONE) {
        return KARS_OK;
    }
    if (s->state == JSON_FAILED) {
        return kars__err(err, 0, "json: the document is bad already");
    }

    s->state = JSON_FAILED;
    return kars__err(err, 0, "json: byte %u: the document ends too early",
                     s->size);
}

int
kars__json_find(const kars__json_scan_t *s, kars_str_t path,
                kars__json_range_t *ret)
{
    uint32_t at = kars__json_node(s->prog, path);
    uint8_t range = s->prog->nodes[at].range;

    if (at == 0 || range == KARS__JSON_NO_RANGE) {
        return KARS_DECLINED;
    }

    *ret = (kars__json_range_t){ 0 };
    if (s->types[range] != 0) {
        ret->start = s->starts[range];
        ret->end = s->ends[range];
        ret->type = (uint32_t) (s->types[range] & ~JSON_EMPTY) << 8;
        ret->empty = (s->types[range] & JSON_EMPTY) != 0;
    }

    return KARS_OK;
}
