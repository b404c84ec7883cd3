/*
 * json_scan.h - looks into a JSON document as its bytes pass.
 *
 * No tree is built and nothing is allocated while scanning: the whole state is
 * one struct of fixed size, and a document may be cut into chunks anywhere.
 * Accepted is what RFC 8259 allows and jansson would accept, with an object or
 * an array at the root; refused are also members that another parser might
 * read differently: duplicates and names that differ only in case, at every
 * level that a watched path leads through.
 *
 * A watched path is a list of steps: a member's name or `[*]`, any element of
 * an array. "model", "messages[*].content", "[*].id"; "" is the root.
 */
#ifndef KARS_HTTP_JSON_SCAN_H
#define KARS_HTTP_JSON_SCAN_H

#include "base/err.h"
#include "base/pool.h"
#include "kars_module.h"

#define KARS__JSON_DEPTH  512 /* containers inside each other */
#define KARS__JSON_STEPS  8   /* steps of a path */
#define KARS__JSON_NAMES  64  /* watched members of one object */
#define KARS__JSON_RANGES 32  /* nodes of which kars__json_find() knows */
#define KARS__JSON_NUMBER 64  /* characters of a watched number */
#define KARS__JSON_KEY    96  /* bytes of a key that can match a name */
#define KARS__JSON_PATHS  4096

/* Compiled watch paths: immutable, may be shared, lives in its pool. */
typedef struct kars__json_prog_s kars__json_prog_t;

/*
 * A watched value, or a part of one. watch: index into the paths; index: of
 * the innermost array element on the path, else 0; flags: KARS_FIRST,
 * KARS_LAST and the one KARS_JSON_type. Strings come decoded, in fragments
 * that may end within a character; numbers, true, false and null whole, as
 * text; objects and arrays once, when they open, without text. The text is
 * borrowed until the callback returns. Anything but KARS_OK stops the scan:
 * feed returns KARS_ERROR and leaves its err for the callback to fill.
 */
typedef int (*kars__json_value_pt)(void *data, uint32_t watch, kars_str_t text,
                                   uint32_t index, uint32_t flags);

/* Where a member's value stands: byte offsets from the document's start. */
typedef struct {
    uint64_t start;
    uint64_t end;
    uint32_t type;  /* KARS_JSON_*; 0: absent */
    uint32_t empty; /* an object or array without members */
} kars__json_range_t;

/* An open container on a watched path. */
typedef struct {
    uint64_t seen;  /* which of the node's members have come */
    uint32_t index; /* of the element at hand, or of the one around us */
    uint32_t node;
} kars__json_frame_t;

/* The state of one scan. Its fields are nobody else's business. */
typedef struct kars__json_scan_s {
    const kars__json_prog_t *prog;
    kars__json_value_pt fn;
    void *data;
    uintptr_t origin; /* where byte 0 would be, seen from this chunk */
    uint32_t size;    /* bytes taken by the chunks before */
    uint32_t token;   /* where the key or value at hand began */
    uint32_t node;    /* of the value at hand; 0: nobody watches it */
    uint16_t depth;   /* open containers */
    uint16_t level;   /* those of them on a watched path: the outer ones */
    uint16_t nbuf;
    uint16_t hex;  /* the \u escape at hand */
    uint16_t high; /* the surrogate that waits for its other half */
    uint8_t nhex;
    uint8_t state;
    uint8_t mode;   /* what becomes of the string or number at hand */
    uint8_t object; /* the innermost container is one */
    uint8_t begun;  /* its first fragment has been delivered */
    uint8_t word;   /* which of true, false, null */
    uint8_t nword;  /* letters of it, or state within a number */
    uint8_t utf8_need;
    uint8_t utf8_low; /* what the next byte may be */
    uint8_t utf8_high;
    uint8_t types[KARS__JSON_RANGES];
    uint32_t starts[KARS__JSON_RANGES];
    uint32_t ends[KARS__JSON_RANGES];
    kars__json_frame_t frames[KARS__JSON_STEPS + 1];
    uint64_t stack[KARS__JSON_DEPTH / 64]; /* a bit each: object or array */
    char buf[KARS__JSON_KEY];              /* a key or number cut by chunks */
} kars__json_scan_t;

/*
 * Compiles n paths; the program copies what it needs of them. The same path
 * may stand there more than once. KARS_ERROR: a path is malformed, two names
 * differ only in case, a limit above is passed, or the pool is full.
 */
int kars__json_compile(kars_pool_t *pool, const kars_str_t *paths, size_t n,
                       kars__json_prog_t **ret, kars_err_t *err);

/* Starts a document. The program must outlive the scan. */
void kars__json_begin(kars__json_scan_t *s, const kars__json_prog_t *prog,
                      kars__json_value_pt fn, void *data);

/*
 * Takes the next n bytes, cut anywhere. After KARS_ERROR the document is bad
 * for good. Documents end at 4 GiB.
 */
int kars__json_feed(kars__json_scan_t *s, const char *p, size_t n,
                    kars_err_t *err);

/* Says that all bytes have come; KARS_ERROR if the document is not complete. */
int kars__json_end(kars__json_scan_t *s, kars_err_t *err);

/*
 * Finds the value at a path, watched itself or on the way to one that is; ""
 * is the root. Good once kars__json_end() said KARS_OK; before, end is 0 for
 * a value that is still open. KARS_DECLINED: the program does not know the
 * path, or it leads through an array.
 */
int kars__json_find(const kars__json_scan_t *s, kars_str_t path,
                    kars__json_range_t *ret);

#endif
