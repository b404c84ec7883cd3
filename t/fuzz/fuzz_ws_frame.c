/*
 * fuzz_ws_frame.c - WebSocket frames: the same whatever the pieces; what was
 * accepted is within the limits and, where it says so, UTF-8. The first byte of
 * the input chooses the side.
 */
#include "http/ws_frame.h"

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

enum { FRAME_MAX = 300, MESSAGE_MAX = 500 };

typedef struct {
    uint32_t code;  /* 0: no error */
    uint32_t nends; /* frames that were whole */
    size_t n;
    char *payloads; /* of all frames; of controls too */
    size_t message; /* bytes of the open message */
    size_t frame;   /* of the open frame */
    kars__utf8_t utf8;
} seen_t;

static void
fuzz_part(seen_t *s, const kars__wsf_part_t *part, size_t size)
{
    int control = part->opcode >= KARS__WS_CLOSE;
    uint32_t code;

    FUZZ_CHECK(part->opcode == KARS__WS_TEXT ||
               part->opcode == KARS__WS_BINARY ||
               (control && part->opcode <= KARS__WS_PONG));
    FUZZ_CHECK(s->n + part->len <= size);
    s->frame = part->begins ? part->len : s->frame + part->len;
    if (part->len != 0) {
        memcpy(s->payloads + s->n, part->data, part->len);
    }
    s->n += part->len;
    if (control) {
        FUZZ_CHECK(part->last && s->frame <= KARS__WS_CONTROL_MAX);
        if (part->ends && part->opcode == KARS__WS_CLOSE) {
            (void) kars__wsf_close(s->payloads + s->n - s->frame, s->frame,
                                   &code);
            FUZZ_CHECK(code >= 1000 && code <= 4999);
        }
    } else {
        if (part->begins && part->first) {
            s->message = 0;
            memset(&s->utf8, 0, sizeof(s->utf8));
        }
        s->message += part->len;
        FUZZ_CHECK(s->frame <= FRAME_MAX && s->message <= MESSAGE_MAX);
        if (part->opcode == KARS__WS_TEXT) {
            FUZZ_CHECK(kars__utf8_feed(&s->utf8, part->data, part->len) ==
                       KARS_OK);
            FUZZ_CHECK(!(part->ends && part->last) || s->utf8.need == 0);
        }
    }
    s->nends += part->ends;
}

/* Feeds pieces of random sizes, each in memory of its size; seed 0: one. */
static seen_t
fuzz_feed(const uint8_t *data, size_t size, int masked, uint64_t seed)
{
    seen_t s = { .payloads = malloc(size + 1) };
    kars__wsf_t f = { .max_frame = FRAME_MAX,
                      .max_message = MESSAGE_MAX,
                      .masked = (uint32_t) masked };
    uint64_t random = seed;

    FUZZ_CHECK(s.payloads != NULL);
    for (size_t at = 0, n; at < size && s.code == 0; at += n) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        n = seed == 0 ? size : 1 + (size_t) (random >> 33) % 9;
        n = n < size - at ? n : size - at;

        char *piece = malloc(n), *p = piece;
        kars__wsf_part_t part;
        uint32_t code = 0;
        int rc;

        FUZZ_CHECK(piece != NULL);
        memcpy(piece, data + at, n);
        while ((rc = kars__wsf_next(&f, &p, piece + n, &part, &code)) ==
               KARS_OK) {
            FUZZ_CHECK(p <= piece + n);
            fuzz_part(&s, &part, size);
        }
        FUZZ_CHECK(rc == KARS_ERROR || p == piece + n);
        if (rc == KARS_ERROR) {
            FUZZ_CHECK(code == KARS__WS_PROTOCOL || code == KARS__WS_NOT_TEXT ||
                       code == KARS__WS_TOO_BIG);
            s.code = code;
        }
        free(piece);
    }
    return s;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }

    uint64_t seed = 14695981039346656037u;

    for (size_t i = 0; i < size; i++) {
        seed = (seed ^ data[i]) * 1099511628211u;
    }

    seen_t whole = fuzz_feed(data + 1, size - 1, data[0] & 1, 0);
    seen_t cut = fuzz_feed(data + 1, size - 1, data[0] & 1, seed | 1);

    FUZZ_CHECK(whole.code == cut.code && whole.nends == cut.nends);
    FUZZ_CHECK(
        whole.code == KARS__WS_NOT_TEXT ||
        (whole.n == cut.n && memcmp(whole.payloads, cut.payloads, cut.n) == 0));
    free(whole.payloads);
    free(cut.payloads);
    return 0;
}
