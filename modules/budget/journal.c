/*
 * journal.c - the ledger as lines of text, and back.
 */
#include "journal.h"

#include <string.h>

#include "kars_module.h"

enum { JOURNAL_FIELDS = 5, JOURNAL_SUM = 9 };

typedef struct {
    char kind; /* B, R, S */
    uint64_t v[JOURNAL_FIELDS];
} journal_line_t;

/* Where the reading stands. */
typedef struct {
    const char *p;
    const char *end;
} journal_cursor_t;

/* CRC-32, four bits at a time: lines are short, and so is the table. */
static uint32_t
journal_crc(const char *p, size_t n)
{
    static const uint32_t nibble[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    uint32_t crc = 0xffffffffu;

    for (size_t i = 0; i < n; i++) {
        crc ^= (unsigned char) p[i];
        crc = crc >> 4 ^ nibble[crc & 15];
        crc = crc >> 4 ^ nibble[crc & 15];
    }

    return ~crc;
}

size_t
journal_digits(char *p, uint64_t value)
{
    char back[JOURNAL_DIGITS];
    size_t n = 0;

    do {
        back[n++] = (char) ('0' + value % 10);
        value /= 10;
    } while (value > 0);

    for (size_t i = 0; i < n; i++) {
        p[i] = back[n - 1 - i];
    }
    return n;
}

/* " " and the checksum of the n bytes at p, as eight digits. */
static void
journal_sum(const char *p, size_t n, char *ret)
{
    uint32_t crc = journal_crc(p, n);

    *ret++ = ' ';
    for (int shift = 28; shift >= 0; shift -= 4) {
        *ret++ = "0123456789abcdef"[crc >> shift & 15];
    }
}

/* A line: its kind, its numbers, its checksum. buf has JOURNAL_LINE bytes. */
static size_t
journal_line(char *buf, char kind, const uint64_t *v, size_t nv)
{
    size_t n = 0;

    buf[n++] = kind;
    for (size_t i = 0; i < nv; i++) {
        buf[n++] = ' ';
        n += journal_digits(buf + n, v[i]);
    }
    journal_sum(buf, n, buf + n);
    n += JOURNAL_SUM;
    buf[n++] = '\n';
    return n;
}

size_t
journal_reserve(char *buf, uint64_t id, uint32_t day, uint64_t tokens)
{
    return journal_line(buf, 'R', (uint64_t[]){ id, day, tokens }, 3);
}

size_t
journal_settle(char *buf, uint64_t id, uint64_t charged)
{
    return journal_line(buf, 'S', (uint64_t[]){ id, charged }, 2);
}

size_t
journal_base(char *buf, const ledger_t *l, uint64_t nopen)
{
    const ledger_head_t *h = ledger_head(l);

    return journal_line(
        buf, 'B',
        (uint64_t[]){ h->day, h->used_day, h->used_month, h->seq, nopen }, 5);
}

/* A decimal number of at least one digit; advances *p past it. */
static int
journal_number(const char **p, const char *end, uint64_t *ret)
{
    const char *s = *p;
    uint64_t n = 0;

    while (s < end && *s >= '0' && *s <= '9') {
        uint64_t d = (uint64_t) (*s - '0');

        if (n > (UINT64_MAX - d) / 10) {
            return KARS_ERROR;
        }
        n = n * 10 + d;
        s++;
    }

    if (s == *p) {
        return KARS_ERROR;
    }

    *p = s;
    *ret = n;
    return KARS_OK;
}

static size_t
journal_nfields(char kind)
{
    return kind == 'B' ? 5 : kind == 'R' ? 3 : kind == 'S' ? 2 : 0;
}

/* Reads one line without its newline. */
static int
journal_parse(const char *p, size_t len, journal_line_t *ret)
{
    char sum[JOURNAL_SUM];

    if (len <= sizeof(sum) || len >= JOURNAL_LINE) {
        return KARS_ERROR;
    }

    const char *end = p + len - JOURNAL_SUM;
    size_t nfields = journal_nfields(p[0]);

    journal_sum(p, (size_t) (end - p), sum);
    if (nfields == 0 || memcmp(sum, end, sizeof(sum)) != 0) {
        return KARS_ERROR;
    }

    ret->kind = *p++;
    for (size_t i = 0; i < nfields; i++) {
        if (p == end || *p++ != ' ' ||
            journal_number(&p, end, &ret->v[i]) != KARS_OK) {
            return KARS_ERROR;
        }
    }

    return p == end ? KARS_OK : KARS_ERROR;
}

/* The next line that is whole and sound; ERROR at a bad one, DONE at the end.
 * A last line without a newline is torn, however sound it looks. */
static int
journal_next(journal_cursor_t *c, journal_line_t *ret)
{
    const char *nl =
        c->p == c->end ? NULL : memchr(c->p, '\n', (size_t) (c->end - c->p));

    if (nl == NULL) {
        return KARS_DONE;
    }

    int rc = journal_parse(c->p, (size_t) (nl - c->p), ret);

    c->p = nl + 1;
    return rc;
}

/* Are the n lines that follow all reservations? */
static int
journal_base_whole(journal_cursor_t c, uint64_t n)
{
    journal_line_t line;

    if (n > LEDGER_SLOTS) {
        return 0;
    }
    for (; n > 0; n--) {
        if (journal_next(&c, &line) != KARS_OK || line.kind != 'R') {
            return 0;
        }
    }

    return 1;
}

static void
journal_rebase(ledger_t *l, journal_cursor_t *c, const journal_line_t *base)
{
    uint64_t segment = l->segment;
    journal_line_t line;

    if (base->v[0] > UINT32_MAX || !journal_base_whole(*c, base->v[4])) {
        return;
    }

    ledger_init(l);
    l->segment = segment;
    l->head[0] = (ledger_head_t){
        .day = (uint32_t) base->v[0],
        .used_day = base->v[1],
        .used_month = base->v[2],
        .seq = base->v[3],
    };
    for (uint64_t i = 0; i < base->v[4]; i++) {
        if (journal_next(c, &line) == KARS_OK && line.v[1] <= UINT32_MAX) {
            ledger_restore(l, line.v[0], (uint32_t) line.v[1], line.v[2]);
        }
    }
}

static void
journal_apply(ledger_t *l, const journal_line_t *line)
{
    uint64_t id = line->v[0];

    if (line->kind == 'S') {
        if (ledger_settle(l, id, line->v[1]) == KARS_OK) {
            ledger_written(l, id);
        }
        return;
    }

    if (ledger_open(l, id) != NULL) {
        (void) ledger_adjust(l, id, line->v[2]);
        return;
    }

    if (line->v[1] <= UINT32_MAX && ledger_seq(id) > ledger_head(l)->seq) {
        ledger_restore(l, id, (uint32_t) line->v[1], line->v[2]);
    }
}

void
journal_replay(ledger_t *l, const char *bytes, size_t len)
{
    journal_cursor_t c = { bytes, bytes + len };
    journal_line_t line;

    for (int rc; (rc = journal_next(&c, &line)) != KARS_DONE;) {
        if (rc != KARS_OK) {
            continue;
        }
        if (line.kind == 'B') {
            journal_rebase(l, &c, &line);
        } else {
            journal_apply(l, &line);
        }
    }
}
