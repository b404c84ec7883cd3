/*
 * json_text.h - strings and keys within a JSON scan; no header of others.
 *
 * What the two files share: the states, one run over one chunk, and where
 * values begin and end.
 */
#ifndef KARS_HTTP_JSON_TEXT_H
#define KARS_HTTP_JSON_TEXT_H

#include "http/json_prog.h"
#include "http/json_scan.h"

#define JSON_OUT 256 /* decoded text is gathered up to this size */

enum {
    JSON_VALUE,       /* a value, after `,` or at the start */
    JSON_FIRST_VALUE, /* a value or `]` */
    JSON_KEY,         /* a key, after `,` */
    JSON_FIRST_KEY,   /* a key or `}` */
    JSON_COLON,       /* `:` */
    JSON_AFTER,       /* `,` or the container's end */
    JSON_DONE,        /* white space only */
    JSON_STRING,      /* within a string */
    JSON_ESCAPE,      /* after `\` */
    JSON_HEX,         /* after `\u` */
    JSON_LOW_ESCAPE,  /* after a high surrogate: `\` */
    JSON_LOW_U,       /* and then `u` */
    JSON_NUMBER,
    JSON_WORD,
    JSON_FAILED
};

/* What becomes of the string or number at hand. */
enum {
    JSON_SKIP,     /* a value, only the grammar counts */
    JSON_TEXT,     /* a value for its watchers */
    JSON_SKIP_KEY, /* a key that nobody asks for */
    JSON_MEMBER    /* a key to be looked up */
};

/* One call of feed. */
typedef struct {
    kars__json_scan_t *s;
    const char *end;
    kars_err_t *err;
    size_t nout;             /* decoded text that has not been delivered yet */
    char out[JSON_OUT + 16]; /* copying may overshoot */
} kars__json_run_t;

/* Parsing functions return where to go on, or NULL if that is nowhere. */

/* Fails the scan; the text gets the offset of p before it. Returns NULL. */
const char *kars__json_fail(kars__json_run_t *r, const char *p, const char *fmt,
                            ...) __attribute__((format(printf, 3, 4), cold));

/* Fails because of the byte at p. Returns NULL. */
const char *kars__json_unexpected(kars__json_run_t *r, const char *p,
                                  const char *want) __attribute__((cold));

/* Hands text to everybody who watches the value at hand. */
int kars__json_deliver(kars__json_run_t *r, const char *text, size_t n,
                       uint32_t flags);

/* Hands on what was decoded so far. */
int kars__json_flush(kars__json_run_t *r, uint32_t flags);

/*
 * Take a string or key from p on, each in a state of its own: within it
 * (JSON_STRING), after `\`, at the digits of `\u`, and before the second
 * half of a surrogate pair.
 */
const char *kars__json_string(kars__json_run_t *r, const char *p);
const char *kars__json_escape(kars__json_run_t *r, const char *p);
const char *kars__json_hex(kars__json_run_t *r, const char *p);
const char *kars__json_low(kars__json_run_t *r, const char *p);

/* The offset of p in the document. */
static inline uint32_t
kars__json_offset(const kars__json_scan_t *s, const char *p)
{
    return (uint32_t) ((uintptr_t) p - s->origin);
}

/* The node of the value at hand. */
static inline const kars__json_node_t *
kars__json_here(const kars__json_scan_t *s)
{
    return &s->prog->nodes[s->node];
}

/* Gathers a part of a key or number; a key too long for any name is marked. */
static inline void
kars__json_gather(kars__json_scan_t *s, const char *p, size_t n)
{
    if (s->nbuf + n > sizeof(s->buf)) {
        s->nbuf = sizeof(s->buf) + 1;
        return;
    }

    memcpy(s->buf + s->nbuf, p, n);
    s->nbuf = (uint16_t) (s->nbuf + n);
}

/* A value begins at p. */
static inline const kars__json_node_t *
kars__json_value_begin(kars__json_scan_t *s, const char *p, uint32_t type)
{
    const kars__json_node_t *node = kars__json_here(s);

    s->token = kars__json_offset(s, p);
    s->begun = 0;
    s->nbuf = 0;
    s->mode = node->nwatches > 0 ? JSON_TEXT : JSON_SKIP;
    if (node->range != KARS__JSON_NO_RANGE) {
        s->starts[node->range] = s->token;
        s->ends[node->range] = 0;
        s->types[node->range] = (uint8_t) (type >> 8);
    }

    return node;
}

/* A string, number or word has ended before p. */
static inline void
kars__json_value_end(kars__json_scan_t *s, const char *p)
{
    const kars__json_node_t *node = kars__json_here(s);

    if (node->range != KARS__JSON_NO_RANGE) {
        s->ends[node->range] = kars__json_offset(s, p);
    }
    s->state = JSON_AFTER;
}

#endif
