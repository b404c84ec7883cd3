/* test_ws_frame.c - WebSocket frames: what is accepted, what closes with which
 * code, whatever the pieces in which the bytes come. */
#include "http/ws_frame.h"
#include "t.h"

#include <stdlib.h>

enum { FRAME_MAX = 1000, MESSAGE_MAX = 1500 };

/* What a reader saw: "t-" begins a text, "-t" ends it, "b" of a binary one, "p"
 * ping, "q" pong, "c" close, each with its bytes in brackets. */
typedef struct {
    char text[8192];
    size_t len;
    uint32_t code; /* 0: no error */
    int rest;      /* a frame is not whole */
} seen_t;

static void
seen_put(seen_t *s, const char *p, size_t n)
{
    CU_ASSERT_FATAL(s->len + n < sizeof(s->text));
    memcpy(s->text + s->len, p, n);
    s->len += n;
    s->text[s->len] = '\0';
}

static void
seen_part(seen_t *s, const kars__wsf_part_t *part)
{
    char kind = "?tb?????cpq"[part->opcode];

    if (part->begins) {
        seen_put(s, &kind, 1);
        seen_put(s, part->first ? "-[" : "[", part->first ? 2 : 1);
    }
    seen_put(s, part->data, part->len);
    if (part->ends) {
        seen_put(s, part->last ? "]" : "]+", part->last ? 1 : 2);
    }
}

/* Reads n bytes in pieces of `piece`. */
static void
see(seen_t *s, const char *bytes, size_t n, size_t piece, int masked)
{
    kars__wsf_t f = { .max_frame = FRAME_MAX,
                      .max_message = MESSAGE_MAX,
                      .masked = (uint32_t) masked };

    memset(s, 0, sizeof(*s));
    for (size_t at = 0; at < n && s->code == 0; at += piece) {
        size_t len = n - at < piece ? n - at : piece;
        char *copy = malloc(len);
        char *p = copy;
        int rc;

        CU_ASSERT_PTR_NOT_NULL_FATAL(copy);
        memcpy(copy, bytes + at, len);
        do {
            kars__wsf_part_t part;

            rc = kars__wsf_next(&f, &p, copy + len, &part, &s->code);
            if (rc == KARS_OK) {
                s->code = 0;
                seen_part(s, &part);
            }
        } while (rc == KARS_OK);
        if (rc == KARS_AGAIN) {
            s->code = 0;
            CU_ASSERT_PTR_EQUAL(p, copy + len);
        }
        free(copy);
    }
    s->rest = f.in_frame || f.nhead != 0;
}

#define B(lit) lit, sizeof(lit) - 1

/* clang-format off */
static const struct {
    const char *label; const char *in; size_t n; const char *seen;
    uint32_t code; int rest;
} frames[] = {
    { "empty text",     B("\x81\x00"), "t-[]", 0, 0 },
    { "text",           B("\x81\x05hello"), "t-[hello]", 0, 0 },
    { "binary",         B("\x82\x02\xff\x01"), "b-[\xff\x01]", 0, 0 },
    { "two",            B("\x81\x01" "a\x82\x01" "b"), "t-[a]b-[b]", 0, 0 },
    { "fragments",      B("\x01\x01" "a\x00\x01" "b\x80\x01" "c"), "t-[a]+t[b]+t[c]", 0, 0 },
    { "ping between",   B("\x01\x01" "a\x89\x02hi\x80\x01" "c"), "t-[a]+p[hi]t[c]", 0, 0 },
    { "close between",  B("\x01\x01" "a\x88\x00"), "t-[a]+c[]", 0, 0 },
    { "pong",           B("\x8a\x00"), "q[]", 0, 0 },
    { "cut head",       B("\x81"), "", 0, 1 },
    { "cut length",     B("\x82\x7e\x01"), "", 0, 1 },
    { "utf-8",          B("\x81\x09\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"), "t-[\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80]", 0, 0 },
    { "utf-8 cut",      B("\x01\x01\xe2\x80\x02\x82\xac"), "t-[\xe2]+t[\x82\xac]", 0, 0 },
    { "last code point", B("\x81\x04\xf4\x8f\xbf\xbf"), "t-[\xf4\x8f\xbf\xbf]", 0, 0 },
    { "binary is free", B("\x82\x01\xff"), "b-[\xff]", 0, 0 },
    { "rsv1",           B("\xc1\x00"), "", 1002, 0 },
    { "rsv2",           B("\xa1\x00"), "", 1002, 0 },
    { "rsv3",           B("\x91\x00"), "", 1002, 0 },
    { "opcode 3",       B("\x83\x00"), "", 1002, 0 },
    { "opcode 11",      B("\x8b\x00"), "", 1002, 0 },
    { "opcode 15",      B("\x8f\x00"), "", 1002, 0 },
    { "nothing open",   B("\x80\x01" "a"), "", 1002, 0 },
    { "still open",     B("\x01\x01" "a\x81\x01" "b"), "t-[a]+", 1002, 0 },
    { "closed again",   B("\x81\x01" "a\x80\x01" "b"), "t-[a]", 1002, 0 },
    { "cut ping",       B("\x09\x00"), "", 1002, 0 },
    { "cut close",      B("\x08\x00"), "", 1002, 0 },
    { "long ping",      B("\x89\x7e\x00\x7e"), "", 1002, 0 },
    { "a mask",         B("\x81\x80\x01\x02\x03\x04"), "", 1002, 0 },
    { "125 as 16 bits", B("\x82\x7e\x00\x7d"), "", 1002, 0 },
    { "126 as 64 bits", B("\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x7e"), "", 1002, 0 },
    { "negative",       B("\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00"), "", 1002, 0 },
    { "too large",      B("\x82\x7e\x03\xe9"), "", 1009, 0 },
    { "far too large",  B("\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"), "", 1009, 0 },
    { "bad utf-8",      B("\x81\x01\xff"), "", 1007, 0 },
    { "continuation alone", B("\x81\x01\x80"), "", 1007, 0 },
    { "overlong 2",     B("\x81\x02\xc1\xbf"), "", 1007, 0 },
    { "overlong 3",     B("\x81\x03\xe0\x9f\xbf"), "", 1007, 0 },
    { "overlong 4",     B("\x81\x04\xf0\x8f\xbf\xbf"), "", 1007, 0 },
    { "surrogate",      B("\x81\x03\xed\xa0\x80"), "", 1007, 0 },
    { "above the last", B("\x81\x04\xf4\x90\x80\x80"), "", 1007, 0 },
    { "utf-8 not whole", B("\x81\x02\xe2\x82"), "", 1007, 0 },
    { "not whole in fragments", B("\x01\x01\xe2\x80\x01\x82"), "t-[\xe2]+", 1007, 0 },
};
/* clang-format on */

static void
test_ws_frame_reads(void)
{
    for (size_t i = 0; i < KARS_NELTS(frames); i++) {
        seen_t s;

        T_CASE(frames[i].label);
        see(&s, frames[i].in, frames[i].n, frames[i].n, 0);
        CU_ASSERT_EQUAL(s.code, frames[i].code);
        CU_ASSERT_NSTRING_EQUAL(s.text, frames[i].seen, strlen(frames[i].seen));
        if (frames[i].code == 0) {
            CU_ASSERT_EQUAL(s.rest, frames[i].rest);
        }
    }
}

/* The same whatever the pieces; an error is never later than a byte at a time
 * shows it. */
static void
test_ws_frame_in_pieces(void)
{
    for (size_t i = 0; i < KARS_NELTS(frames); i++) {
        T_CASE(frames[i].label);
        for (size_t piece = 1; piece < 5; piece++) {
            seen_t whole, cut;

            see(&whole, frames[i].in, frames[i].n, frames[i].n, 0);
            see(&cut, frames[i].in, frames[i].n, piece, 0);
            CU_ASSERT_EQUAL(whole.code, cut.code);
            if (whole.code == 0) {
                CU_ASSERT_STRING_EQUAL(whole.text, cut.text);
            }
        }
    }
}

/* A frame of each length, written and read again; masked and not. */
static void
test_ws_frame_written_is_read(void)
{
    static const size_t sizes[] = { 0, 1, 125, 126, 127, 999, 1000 };
    static const uint8_t mask[4] = { 1, 2, 3, 250 };

    for (size_t i = 0; i < KARS_NELTS(sizes) * 2; i++) {
        size_t n = sizes[i / 2];
        int masked = i % 2 != 0;
        char bytes[2000], want[1200];
        size_t head =
            kars__wsf_put(bytes, KARS__WS_BINARY, n, masked ? mask : NULL);
        seen_t s;

        CU_ASSERT_FATAL(head <= KARS__WS_HEAD_MAX);
        memset(bytes + head, 'x', n);
        if (masked) {
            kars__wsf_mask(bytes + head, n, mask, 0);
        }
        memcpy(want, "b-[", 3);
        memset(want + 3, 'x', n);
        memcpy(want + 3 + n, "]", 2);
        for (size_t piece = 1; piece <= head + n; piece += 7) {
            see(&s, bytes, head + n, piece, masked);
            CU_ASSERT_EQUAL(s.code, 0);
            CU_ASSERT_STRING_EQUAL(s.text, want);
            see(&s, bytes, head + n, piece, !masked);
            CU_ASSERT_EQUAL(s.code, KARS__WS_PROTOCOL);
        }
    }
}

static void
test_ws_frame_lengths_are_minimal(void)
{
    char head[KARS__WS_HEAD_MAX];

    CU_ASSERT_EQUAL(kars__wsf_put(head, 1, 125, NULL), 2);
    CU_ASSERT_EQUAL(kars__wsf_put(head, 1, 126, NULL), 4);
    CU_ASSERT_EQUAL(kars__wsf_put(head, 1, 65535, NULL), 4);
    CU_ASSERT_EQUAL(kars__wsf_put(head, 1, 65536, NULL), 10);
    CU_ASSERT_EQUAL(memcmp(head, "\x81\x7f\0\0\0\0\0\1\0\0", 10), 0);
}

static void
test_ws_frame_limits(void)
{
    char bytes[4000];
    size_t n = 0;
    seen_t s;

    for (int i = 0; i < 3; i++) { /* 700 of 1500 each time, in one message */
        n += kars__wsf_put(bytes + n, i == 0 ? 2 : 0, 700, NULL);
        bytes[n - 4] = (char) (i == 0 ? 0x02 : 0x00); /* not the last */
        memset(bytes + n, 'x', 700);
        n += 700;
    }
    see(&s, bytes, n, n, 0);
    CU_ASSERT_EQUAL(s.code, KARS__WS_TOO_BIG);

    n = 0;
    for (int i = 0; i < 4; i++) { /* each a message of its own */
        n += kars__wsf_put(bytes + n, 2, 700, NULL);
        memset(bytes + n, 'x', 700);
        n += 700;
    }
    see(&s, bytes, n, n, 0);
    CU_ASSERT_EQUAL(s.code, 0);
}

/* clang-format off */
static const struct { const char *in; size_t n; int rc; uint32_t code; } closes[] = {
    { B(""), KARS_OK, 1005 },
    { B("\x03\xe8"), KARS_OK, 1000 },
    { B("\x03\xe9" "bye"), KARS_OK, 1001 },
    { B("\x03\xeb"), KARS_OK, 1003 },
    { B("\x03\xef"), KARS_OK, 1007 },
    { B("\x03\xf6"), KARS_OK, 1014 },
    { B("\x0b\xb8"), KARS_OK, 3000 },
    { B("\x13\x87"), KARS_OK, 4999 },
    { B("\x03"), KARS_ERROR, 1002 },
    { B("\x00\x00"), KARS_ERROR, 1002 },
    { B("\x03\xe7"), KARS_ERROR, 1002 },
    { B("\x03\xec"), KARS_ERROR, 1002 },
    { B("\x03\xed"), KARS_ERROR, 1002 },
    { B("\x03\xee"), KARS_ERROR, 1002 },
    { B("\x03\xf7"), KARS_ERROR, 1002 },
    { B("\x0b\xb7"), KARS_ERROR, 1002 },
    { B("\x13\x88"), KARS_ERROR, 1002 },
    { B("\x03\xe8\xff"), KARS_ERROR, 1007 },
    { B("\x03\xe8" "a\xe2\x82"), KARS_ERROR, 1007 },
};
/* clang-format on */

static void
test_ws_frame_closes(void)
{
    for (size_t i = 0; i < KARS_NELTS(closes); i++) {
        uint32_t code = 0;

        CU_ASSERT_EQUAL(kars__wsf_close(closes[i].in, closes[i].n, &code),
                        closes[i].rc);
        CU_ASSERT_EQUAL(code, closes[i].code);
    }
}

void
suite_ws_frame(void)
{
    T_SUITE(ws_frame);
    T_TEST(ws_frame, test_ws_frame_reads);
    T_TEST(ws_frame, test_ws_frame_in_pieces);
    T_TEST(ws_frame, test_ws_frame_written_is_read);
    T_TEST(ws_frame, test_ws_frame_lengths_are_minimal);
    T_TEST(ws_frame, test_ws_frame_limits);
    T_TEST(ws_frame, test_ws_frame_closes);
}
