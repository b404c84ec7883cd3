/* ws_frame.c - WebSocket frames. */
#include "http/ws_frame.h"

/* UTF-8 as RFC 3629 4 has it: no overlong forms, no surrogates, none above
 * U+10FFFF. */

static int
utf8_first(kars__utf8_t *u, unsigned char c)
{
    u->low = 0x80;
    u->high = 0xbf;
    if (c < 0x80) {
        u->need = 0;
    } else if (c >= 0xc2 && c <= 0xdf) {
        u->need = 1;
    } else if (c >= 0xe0 && c <= 0xef) {
        u->need = 2;
        u->low = c == 0xe0 ? 0xa0 : 0x80;
        u->high = c == 0xed ? 0x9f : 0xbf;
    } else if (c >= 0xf0 && c <= 0xf4) {
        u->need = 3;
        u->low = c == 0xf0 ? 0x90 : 0x80;
        u->high = c == 0xf4 ? 0x8f : 0xbf;
    } else {
        return KARS_ERROR;
    }
    return KARS_OK;
}

int
kars__utf8_feed(kars__utf8_t *u, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char) p[i];

        if (u->need == 0) {
            if (utf8_first(u, c) != KARS_OK) {
                return KARS_ERROR;
            }
            continue;
        }
        if (c < u->low || c > u->high) {
            return KARS_ERROR;
        }
        u->need--;
        u->low = 0x80;
        u->high = 0xbf;
    }
    return KARS_OK;
}

void
kars__wsf_mask(char *p, size_t n, const uint8_t mask[4], size_t at)
{
    for (size_t i = 0; i < n; i++) {
        p[i] = (char) ((uint8_t) p[i] ^ mask[(at + i) & 3]);
    }
}

/* Bytes that the head will have, as far as its first two tell. */
static size_t
wsf_head_size(const kars__wsf_t *f)
{
    size_t n = 2;

    if (f->nhead < 2) {
        return n;
    }
    n += (f->head[1] & 0x7f) == 126 ? 2 : (f->head[1] & 0x7f) == 127 ? 8 : 0;
    return n + ((f->head[1] & 0x80) != 0 ? 4 : 0);
}

/* May such a frame come here? */
static int
wsf_kind(kars__wsf_t *f, uint64_t len, uint32_t *ret_code)
{
    *ret_code = KARS__WS_PROTOCOL;
    if (f->opcode >= KARS__WS_CLOSE) {
        return f->opcode <= KARS__WS_PONG && f->fin &&
                       len <= KARS__WS_CONTROL_MAX
                   ? KARS_OK
                   : KARS_ERROR;
    }
    if (f->opcode > KARS__WS_BINARY ||
        (f->opcode == KARS__WS_CONTINUATION) != (f->kind != 0)) {
        return KARS_ERROR;
    }
    if (f->opcode != KARS__WS_CONTINUATION) {
        f->kind = f->opcode;
        f->message = 0;
        memset(&f->utf8, 0, sizeof(f->utf8));
    }
    *ret_code = KARS__WS_TOO_BIG;
    if (len > f->max_frame || len > f->max_message - f->message) {
        return KARS_ERROR;
    }
    f->message += len;
    return KARS_OK;
}

/* The head is whole. */
static int
wsf_head(kars__wsf_t *f, uint32_t *ret_code)
{
    const uint8_t *h = f->head;
    size_t size = (h[1] & 0x7f) == 126 ? 2 : (h[1] & 0x7f) == 127 ? 8 : 0;
    uint64_t len = size == 0 ? h[1] & 0x7f : 0;

    for (size_t i = 0; i < size; i++) {
        len = len << 8 | h[2 + i];
    }
    *ret_code = KARS__WS_PROTOCOL;
    if ((h[0] & 0x70) != 0 || ((h[1] & 0x80) != 0) != (f->masked != 0) ||
        (size == 2 && len < 126) ||
        (size == 8 && (len < 65536 || len >> 63 != 0))) {
        return KARS_ERROR; /* no extension was agreed on; lengths are minimal */
    }
    f->opcode = h[0] & 0x0f;
    f->fin = (h[0] & 0x80) != 0;
    memcpy(f->mask, h + 2 + size, f->masked ? 4 : 0);
    f->mask_at = 0;
    f->left = len;
    f->in_frame = 1;
    f->begins = 1;
    return wsf_kind(f, len, ret_code);
}

/* The rest of the frame is here, or some of it. */
static int
wsf_part(kars__wsf_t *f, kars__wsf_part_t *ret, uint32_t *ret_code)
{
    int control = f->opcode >= KARS__WS_CLOSE;

    ret->opcode = control ? f->opcode : f->kind;
    ret->first = !control && f->opcode != KARS__WS_CONTINUATION;
    ret->last = f->fin;
    ret->ends = f->left == 0;
    if (!control && f->kind == KARS__WS_TEXT &&
        (kars__utf8_feed(&f->utf8, ret->data, ret->len) != KARS_OK ||
         (ret->ends && f->fin && f->utf8.need != 0))) {
        *ret_code = KARS__WS_NOT_TEXT;
        return KARS_ERROR;
    }
    if (ret->ends) {
        f->in_frame = 0;
        f->nhead = 0;
        if (!control && f->fin) {
            f->kind = 0;
        }
    }
    return KARS_OK;
}

int
kars__wsf_next(kars__wsf_t *f, char **p, char *end, kars__wsf_part_t *ret,
               uint32_t *ret_code)
{
    while (!f->in_frame) {
        if (f->nhead == wsf_head_size(f) && f->nhead >= 2) {
            if (wsf_head(f, ret_code) != KARS_OK) {
                return KARS_ERROR;
            }
            break;
        }
        if (*p == end) {
            return KARS_AGAIN;
        }
        f->head[f->nhead++] = (uint8_t) * (*p)++;
    }

    size_t have = (size_t) (end - *p);
    size_t n = f->left < have ? (size_t) f->left : have;

    if (n == 0 && f->left != 0) {
        return KARS_AGAIN;
    }
    memset(ret, 0, sizeof(*ret));
    ret->begins = f->begins;
    f->begins = 0;
    ret->data = *p;
    ret->len = n;
    if (f->masked) {
        kars__wsf_mask(*p, n, f->mask, f->mask_at);
        f->mask_at = (uint8_t) ((f->mask_at + n) & 3);
    }
    *p += n;
    f->left -= n;
    return wsf_part(f, ret, ret_code);
}

int
kars__wsf_close(const char *p, size_t n, uint32_t *ret_code)
{
    kars__utf8_t utf8 = { 0 };

    if (n == 0) {
        *ret_code = 1005;
        return KARS_OK;
    }

    uint32_t code =
        n < 2 ? 0 : (uint32_t) ((uint8_t) p[0] << 8 | (uint8_t) p[1]);

    if (code < 1000 || code > 4999 || (code >= 1004 && code <= 1006) ||
        (code >= 1015 && code < 3000)) {
        *ret_code = KARS__WS_PROTOCOL;
        return KARS_ERROR;
    }
    if (kars__utf8_feed(&utf8, p + 2, n - 2) != KARS_OK || utf8.need != 0) {
        *ret_code = KARS__WS_NOT_TEXT;
        return KARS_ERROR;
    }
    *ret_code = code;
    return KARS_OK;
}

size_t
kars__wsf_put(char ret[KARS__WS_HEAD_MAX], uint32_t opcode, uint64_t len,
              const uint8_t *mask)
{
    size_t size = len < 126 ? 0 : len < 65536 ? 2 : 8;
    size_t n = 2;

    ret[0] = (char) (0x80 | opcode);
    ret[1] = (char) ((mask != NULL ? 0x80 : 0) | (size == 0   ? (int) len
                                                  : size == 2 ? 126
                                                              : 127));
    for (size_t i = size; i > 0; i--) {
        ret[n++] = (char) (len >> (8 * (i - 1)));
    }
    if (mask != NULL) {
        memcpy(ret + n, mask, 4);
        n += 4;
    }
    return n;
}
