/* chunked.c - chunked bodies, strictly; declared in head.h. */
#include "http/head.h"

enum {
    CHUNK_SIZE = 0, /* first, so that zero begins */
    CHUNK_EXT,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    CHUNK_TRAILER, /* at the begin of a line */
    CHUNK_TRAILER_LINE,
    CHUNK_TRAILER_LF,
    CHUNK_END_LF,
    CHUNK_DONE
};

#define CHUNK_DIGITS 15   /* of a size: far more than any limit, no overflow */
#define CHUNK_EXTRA  4096 /* bytes of extensions, and of trailers */

static int
chunk_hex(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char) (c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int
chunk_size(kars__chunked_t *c, char ch, kars_err_t *err)
{
    int digit = chunk_hex(ch);

    if (digit >= 0) {
        if (++c->counted > CHUNK_DIGITS) {
            return kars__err(err, 0, "a chunk size that is too long");
        }
        c->left = c->left * 16 + (uint64_t) digit;
        return KARS_OK;
    }
    if (c->counted == 0) {
        return kars__err(err, 0, "a chunk without a size");
    }
    c->counted = 0;
    if (ch == '\r') {
        c->state = CHUNK_SIZE_LF;
    } else if (ch == ';') {
        c->state = CHUNK_EXT;
    } else {
        return kars__err(err, 0, "a chunk size that is no number");
    }
    return KARS_OK;
}

/* Extensions and trailers: looked at, counted, dropped. */
static int
chunk_skip(kars__chunked_t *c, char ch, uint32_t at_cr, kars_err_t *err)
{
    if (ch == '\r') {
        c->state = at_cr;
        return KARS_OK;
    }
    if (((unsigned char) ch < 0x20 && ch != '\t') || ch == 0x7f) {
        return kars__err(err, 0, "a control byte in a chunked body's frame");
    }
    if (++c->counted > CHUNK_EXTRA) {
        return kars__err(err, 0, "too many chunk extensions or trailers");
    }
    return KARS_OK;
}

static int
chunk_byte(kars__chunked_t *c, char ch, kars_err_t *err)
{
    switch (c->state) {
    case CHUNK_SIZE:
        return chunk_size(c, ch, err);
    case CHUNK_EXT:
        return chunk_skip(c, ch, CHUNK_SIZE_LF, err);
    case CHUNK_TRAILER:
        if (ch == '\r') {
            c->state = CHUNK_END_LF;
            return KARS_OK;
        }
        if (ch == ' ' || ch == '\t' || ch == ':') {
            return kars__err(err, 0, "a trailer that is no header");
        }
        c->state = CHUNK_TRAILER_LINE;
        return chunk_skip(c, ch, CHUNK_TRAILER_LF, err);
    case CHUNK_TRAILER_LINE:
        return chunk_skip(c, ch, CHUNK_TRAILER_LF, err);
    case CHUNK_DATA_CR:
        c->state = CHUNK_DATA_LF;
        return ch == '\r' ? KARS_OK
                          : kars__err(err, 0, "a chunk longer than its size");
    default:
        break;
    }

    /* What is left expects LF. */
    if (ch != '\n') {
        return kars__err(err, 0, "a bare CR in a chunked body's frame");
    }
    switch (c->state) {
    case CHUNK_SIZE_LF:
        c->counted = 0;
        c->state = c->left == 0 ? CHUNK_TRAILER : CHUNK_DATA;
        break;
    case CHUNK_DATA_LF:
        c->state = CHUNK_SIZE;
        break;
    case CHUNK_TRAILER_LF:
        c->state = CHUNK_TRAILER;
        break;
    default:
        c->state = CHUNK_DONE;
        break;
    }
    return KARS_OK;
}

int
kars__chunked_next(kars__chunked_t *c, const char **p, const char *end,
                   kars_str_t *ret, kars_err_t *err)
{
    while (c->state != CHUNK_DONE && *p < end) {
        if (c->state == CHUNK_DATA) {
            size_t n = (size_t) (end - *p);

            n = n < c->left ? n : (size_t) c->left;
            *ret = (kars_str_t){ *p, n };
            *p += n;
            c->left -= n;
            if (c->left == 0) {
                c->state = CHUNK_DATA_CR;
            }
            return KARS_OK;
        }
        if (chunk_byte(c, *(*p)++, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    return c->state == CHUNK_DONE ? KARS_DONE : KARS_AGAIN;
}
