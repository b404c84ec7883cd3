/*
 * sse.h - looks into a stream of Server-Sent Events as its bytes pass.
 *
 * It only looks: whoever feeds it passes the bytes on unchanged. It reads as
 * the WHATWG specification says: lines end with LF, CR or CRLF, a byte order
 * mark at the start does not count, an event without data is none. Nothing is
 * allocated or kept but the state below, and chunks may be cut anywhere.
 */
#ifndef KARS_HTTP_SSE_H
#define KARS_HTTP_SSE_H

#include "kars_module.h"

#define KARS__SSE_NAME 64 /* bytes of an event's name; the rest is cut off */

/* The payload of an event, in fragments, borrowed; "\n" between its lines. */
typedef void (*kars__sse_data_pt)(void *owner, kars_str_t fragment);

/*
 * The event is complete. The name is borrowed and empty if none was given. At
 * the end of the stream an event without this call was not finished: what
 * came of its data does not count.
 */
typedef void (*kars__sse_event_pt)(void *owner, kars_str_t name);

/* The state of one stream. Its fields are nobody else's business. */
typedef struct {
    kars__sse_data_pt data;
    kars__sse_event_pt event;
    void *owner;
    uint8_t state;
    uint8_t skip_lf;  /* the last byte was a CR */
    uint8_t has_data; /* the event has a data line */
    uint8_t nfield;
    uint8_t nname;
    char field[5]; /* the start of a line: a field's name, if we know it */
    char name[KARS__SSE_NAME];
} kars__sse_t;

/* Starts a stream. */
void kars__sse_begin(kars__sse_t *s, kars__sse_data_pt data,
                     kars__sse_event_pt event, void *owner);

/* Takes the next n bytes, cut anywhere. No input is an error. */
void kars__sse_feed(kars__sse_t *s, const char *p, size_t n);

/* The first LF or CR in [p, end), or end. */
const char *kars__sse_line(const char *p, const char *end);

#endif
