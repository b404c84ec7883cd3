/*
 * fuzz_chunked.c - chunked bodies: the same whatever the pieces, and the data
 * that a plain second reader finds.
 */
#include "http/head.h"

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

typedef struct {
    int rc;
    size_t used; /* bytes of the input, when DONE */
    size_t n;
    char *data;
} fuzz_seen_t;

/* Feeds pieces of random sizes, each in memory of its size; seed 0: one. */
static fuzz_seen_t
fuzz_feed(const uint8_t *data, size_t size, uint64_t seed)
{
    fuzz_seen_t seen = { .rc = KARS_AGAIN, .data = malloc(size + 1) };
    kars__chunked_t c = { 0 };

    FUZZ_CHECK(seen.data != NULL);
    for (size_t at = 0; at < size && seen.rc == KARS_AGAIN;) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;

        size_t want = 1 + (size_t) (seed >> 33) % 9;
        size_t n =
            seed != 1442695040888963407u && want < size - at ? want : size - at;
        char *piece = malloc(n);
        const char *p = piece;
        kars_str_t got = { NULL, 0 };

        FUZZ_CHECK(piece != NULL);
        memcpy(piece, data + at, n);
        while ((seen.rc = kars__chunked_next(&c, &p, piece + n, &got, NULL)) ==
               KARS_OK) {
            FUZZ_CHECK(got.len > 0 && got.data >= piece &&
                       got.data + got.len <= p);
            memcpy(seen.data + seen.n, got.data, got.len);
            seen.n += got.len;
        }
        at += (size_t) (p - piece);
        seen.used = at;
        free(piece);
    }
    return seen;
}

/* A line up to CRLF; NULL: there is none. */
static const char *
fuzz_line(const char *p, const char *end)
{
    const char *lf = memchr(p, '\n', (size_t) (end - p));

    return lf != NULL && lf > p && lf[-1] == '\r' ? lf + 1 : NULL;
}

/* What was accepted is a body by the plain grammar, too. */
static void
fuzz_read(const char *p, size_t used, const fuzz_seen_t *seen)
{
    const char *end = p + used;
    size_t o = 0;

    for (;;) {
        char digits[17] = { 0 };
        size_t n = 0;

        while (n < 16 && p + n < end && strchr("\r;", p[n]) == NULL) {
            digits[n] = p[n];
            n++;
        }
        FUZZ_CHECK(n > 0 && strspn(digits, "0123456789abcdefABCDEF") == n);

        size_t size = strtoul(digits, NULL, 16);

        p = fuzz_line(p, end);
        FUZZ_CHECK(p != NULL);
        if (size == 0) {
            break;
        }
        FUZZ_CHECK((size_t) (end - p) >= size + 2 && o + size <= seen->n);
        FUZZ_CHECK(memcmp(seen->data + o, p, size) == 0);
        FUZZ_CHECK(memcmp(p + size, "\r\n", 2) == 0);
        o += size;
        p += size + 2;
    }
    FUZZ_CHECK(o == seen->n);
    while (!(end - p == 2 && memcmp(p, "\r\n", 2) == 0)) {
        p = fuzz_line(p, end);
        FUZZ_CHECK(p != NULL && p < end);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t seed = 14695981039346656037u;

    for (size_t i = 0; i < size; i++) {
        seed = (seed ^ data[i]) * 1099511628211u;
    }

    fuzz_seen_t whole = fuzz_feed(data, size, 0);
    fuzz_seen_t cut = fuzz_feed(data, size, seed | 1);

    FUZZ_CHECK(whole.rc == cut.rc && whole.n == cut.n);
    FUZZ_CHECK(memcmp(whole.data, cut.data, cut.n) == 0);
    if (whole.rc == KARS_DONE) {
        FUZZ_CHECK(whole.used == cut.used);
        fuzz_read((const char *) data, whole.used, &whole);
    }
    free(whole.data);
    free(cut.data);
    return 0;
}
