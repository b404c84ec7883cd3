/*
 * sse.c - looks into a stream of Server-Sent Events as its bytes pass.
 */
#include "http/sse.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum {
    SSE_BOM,   /* the first byte of the stream, ... */
    SSE_BOM_2, /* the second of a byte order mark, ... */
    SSE_BOM_3, /* and its third */
    SSE_START, /* the first byte of a line */
    SSE_FIELD, /* within a field's name */
    SSE_SPACE, /* after the colon, where one space does not count */
    SSE_VALUE, /* within the value */
    SSE_SKIP   /* a comment, or a field that we do not look at */
};

const char *
kars__sse_line(const char *p, const char *end)
{
#ifdef __SSE2__
    const __m128i lf = _mm_set1_epi8('\n');
    const __m128i cr = _mm_set1_epi8('\r');

    for (; end - p >= 16; p += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *) p);
        int mask = _mm_movemask_epi8(
            _mm_or_si128(_mm_cmpeq_epi8(v, lf), _mm_cmpeq_epi8(v, cr)));

        if (mask != 0) {
            return p + __builtin_ctz((unsigned) mask);
        }
    }
#endif
    while (p < end && *p != '\n' && *p != '\r') {
        p++;
    }

    return p;
}

/* Is the field of this line called so? */
static int
sse_is(const kars__sse_t *s, kars_str_t name)
{
    return kars_str_eq((kars_str_t){ s->field, s->nfield }, name);
}

/* The field's name is complete: the state for its value. */
static uint8_t
sse_field(kars__sse_t *s)
{
    if (sse_is(s, KARS_STR("data"))) {
        if (s->has_data) {
            s->data(s->owner, KARS_STR("\n"));
        }
        s->has_data = 1;
        return SSE_SPACE;
    }
    if (sse_is(s, KARS_STR("event"))) {
        s->nname = 0;
        return SSE_SPACE;
    }

    return SSE_SKIP;
}

/* A line has ended; an empty one ends its event. */
static void
sse_line_end(kars__sse_t *s)
{
    if (s->state == SSE_FIELD) {
        (void) sse_field(s); /* a name alone has an empty value */
    } else if (s->state <= SSE_START) {
        if (s->state == SSE_START && s->has_data) {
            s->event(s->owner, (kars_str_t){ s->name, s->nname });
        }
        s->has_data = 0;
        s->nname = 0;
    }

    s->state = SSE_START;
    s->nfield = 0;
}

/* Takes a part of a value; it has at least one byte. */
static void
sse_value(kars__sse_t *s, const char *p, size_t n)
{
    size_t room = sizeof(s->name) - s->nname;

    if (s->state == SSE_SPACE) {
        s->state = SSE_VALUE;
        if (*p == ' ') {
            p++;
            n--;
        }
    }
    if (n == 0) {
        return;
    }
    if (s->field[0] == 'd') {
        s->data(s->owner, (kars_str_t){ p, n });
        return;
    }

    n = n < room ? n : room;
    memcpy(s->name + s->nname, p, n);
    s->nname = (uint8_t) (s->nname + n);
}

/* Takes a byte at the start of a line, which is not the line's end. */
static void
sse_byte(kars__sse_t *s, char c)
{
    static const char bom[] = "\xef\xbb\xbf";

    if (s->state < SSE_START) {
        if (c == bom[s->state]) {
            s->state++;
            return;
        }
        s->state = s->state == SSE_BOM ? SSE_START : SSE_SKIP;
    }

    if (s->state == SSE_SKIP) {
        return;
    }
    if (c == ':') {
        s->state = s->state == SSE_FIELD ? sse_field(s) : SSE_SKIP;
    } else if (s->nfield == sizeof(s->field)) {
        s->state = SSE_SKIP;
    } else {
        s->state = SSE_FIELD;
        s->field[s->nfield++] = c;
    }
}

void
kars__sse_begin(kars__sse_t *s, kars__sse_data_pt data,
                kars__sse_event_pt event, void *owner)
{
    *s = (kars__sse_t){ .data = data, .event = event, .owner = owner };
}

void
kars__sse_feed(kars__sse_t *s, const char *p, size_t n)
{
    const char *end = p + n;

    while (p < end) {
        uint8_t skip_lf = s->skip_lf;

        s->skip_lf = 0;
        if (*p == '\n' && skip_lf) {
            p++;
        } else if (*p == '\n' || *p == '\r') {
            s->skip_lf = *p == '\r';
            sse_line_end(s);
            p++;
        } else if (s->state < SSE_SPACE) {
            sse_byte(s, *p++);
        } else {
            const char *q = kars__sse_line(p, end);

            if (s->state != SSE_SKIP) {
                sse_value(s, p, (size_t) (q - p));
            }
            p = q;
        }
    }
}
