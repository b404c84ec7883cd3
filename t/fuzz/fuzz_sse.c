/*
 * fuzz_sse.c - the SSE parser, cut at random, against a plain reading of the
 * specification that has the whole stream at hand.
 */
#include "http/sse.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Each event: its name, 0xfe, its data, 0xff; then the data of no event. */
typedef struct {
    char *text;
    size_t len;
    char *data; /* of the event that is not complete */
    size_t ndata;
    int has_data; /* the plain reader's */
    kars_str_t name;
} fuzz_seen_t;

#define FUZZ_CHECK(ok)                                               \
    do {                                                             \
        if (!(ok)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #ok); \
            abort();                                                 \
        }                                                            \
    } while (0)

static void
fuzz_put(fuzz_seen_t *seen, kars_str_t s)
{
    if (s.len > 0) {
        memcpy(seen->text + seen->len, s.data, s.len);
    }
    seen->len += s.len;
}

static void
fuzz_data(void *owner, kars_str_t fragment)
{
    fuzz_seen_t *seen = owner;

    FUZZ_CHECK(fragment.len > 0);
    memcpy(seen->data + seen->ndata, fragment.data, fragment.len);
    seen->ndata += fragment.len;
}

static void
fuzz_event(void *owner, kars_str_t name)
{
    fuzz_seen_t *seen = owner;

    fuzz_put(seen, name);
    fuzz_put(seen, KARS_STR("\xfe"));
    fuzz_put(seen, (kars_str_t){ seen->data, seen->ndata });
    fuzz_put(seen, KARS_STR("\xff"));
    seen->ndata = 0;
}

static void
fuzz_init(fuzz_seen_t *seen, size_t size)
{
    memset(seen, 0, sizeof(*seen));
    seen->text = malloc(4 * size + 4);
    seen->data = malloc(size + 1);
    FUZZ_CHECK(seen->text != NULL && seen->data != NULL);
}

static void
fuzz_done(fuzz_seen_t *seen)
{
    free(seen->text);
    free(seen->data);
}

static void
fuzz_feed(fuzz_seen_t *seen, const uint8_t *data, size_t size, uint64_t seed)
{
    kars__sse_t s;

    kars__sse_begin(&s, fuzz_data, fuzz_event, seen);
    for (size_t at = 0; at < size;) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;

        size_t want = 1 + (size_t) (seed >> 33) % ((seed >> 60) < 8 ? 3 : 40);
        size_t n = want < size - at ? want : size - at;
        char *chunk = malloc(n);

        FUZZ_CHECK(chunk != NULL);
        memcpy(chunk, data + at, n);
        kars__sse_feed(&s, chunk, n);
        free(chunk);
        at += n;
    }
}

/* Takes a line as the specification says: "process the field". */
static void
fuzz_line(fuzz_seen_t *seen, kars_str_t line)
{
    const char *colon = line.len > 0 ? memchr(line.data, ':', line.len) : NULL;
    kars_str_t field = line;
    kars_str_t value = { "", 0 };

    if (line.len == 0) {
        if (seen->has_data) {
            fuzz_event(seen, seen->name);
        }
        seen->has_data = 0;
        seen->name = value;
        return;
    }
    if (colon != NULL) {
        field.len = (size_t) (colon - line.data);
        value = (kars_str_t){ colon + 1, line.len - field.len - 1 };
        if (kars_str_starts(value, KARS_STR(" "))) {
            value = (kars_str_t){ value.data + 1, value.len - 1 };
        }
    }

    if (kars_str_eq(field, KARS_STR("event"))) {
        seen->name = value;
        seen->name.len =
            value.len < KARS__SSE_NAME ? value.len : KARS__SSE_NAME;
    } else if (kars_str_eq(field, KARS_STR("data"))) {
        if (seen->has_data) {
            fuzz_data(seen, KARS_STR("\n"));
        }
        seen->has_data = 1;
        if (value.len > 0) {
            fuzz_data(seen, value);
        }
    }
}

static void
fuzz_read(fuzz_seen_t *seen, kars_str_t in)
{
    size_t start = kars_str_starts(in, KARS_STR("\xef\xbb\xbf")) ? 3 : 0;

    for (size_t i = start; i < in.len; i++) {
        if (in.data[i] != '\n' && in.data[i] != '\r') {
            continue;
        }
        fuzz_line(seen, (kars_str_t){ in.data + start, i - start });
        if (in.data[i] == '\r' && i + 1 < in.len && in.data[i + 1] == '\n') {
            i++;
        }
        start = i + 1;
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fuzz_seen_t want, got;
    uint64_t seed = 14695981039346656037u;

    for (size_t i = 0; i < size; i++) {
        seed = (seed ^ data[i]) * 1099511628211u;
    }

    fuzz_init(&want, size);
    fuzz_init(&got, size);
    fuzz_read(&want, (kars_str_t){ (const char *) data, size });
    fuzz_feed(&got, data, size, seed);
    FUZZ_CHECK(want.len == got.len);
    FUZZ_CHECK(memcmp(want.text, got.text, got.len) == 0);
    fuzz_done(&want);
    fuzz_done(&got);
    return 0;
}
