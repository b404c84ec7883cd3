/*
 * journal.c - the ledger as lines of text, and back.
 */
#include "journal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "kars_module.h"

enum { JOURNAL_FIELDS = 5 };

typedef struct {
    char kind; /* B, R, S */
    uint64_t v[JOURNAL_FIELDS];
} journal_line_t;

/* Where the reading stands. */
typedef struct {
    const char *p;
    const char *end;
} journal_cursor_t;

static uint32_t
journal_crc(const char *p, size_t n)
{
    uint32_t crc = 0xffffffffu;

    for (size_t i = 0; i < n; i++) {
        crc ^= (unsigned char) p[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1)));
        }
    }

    return ~crc;
}

/* Closes a line of n bytes with its checksum. */
static size_t
journal_close(char *buf, int n)
{
    uint32_t crc = journal_crc(buf, (size_t) n);

    return (size_t) n + (size_t) snprintf(buf + n, JOURNAL_LINE - (size_t) n,
                                          " %08" PRIx32 "\n", crc);
}

size_t
journal_reserve(char *buf, uint64_t id, uint32_t day, uint64_t tokens)
{
    return journal_close(buf, snprintf(buf, JOURNAL_LINE,
                                       "R %" PRIu64 " %" PRIu32 " %" PRIu64, id,
                                       day, tokens));
}

size_t
journal_settle(char *buf, uint64_t id, uint64_t charged)
{
    return journal_close(buf, snprintf(buf, JOURNAL_LINE,
                                       "S %" PRIu64 " %" PRIu64, id, charged));
}

size_t
journal_base(char *buf, const ledger_t *l, uint64_t nopen)
{
    const ledger_head_t *h = ledger_head(l);

    return journal_close(buf, snprintf(buf, JOURNAL_LINE,
                                       "B %" PRIu32 " %" PRIu64 " %" PRIu64
                                       " %" PRIu64 " %" PRIu64,
                                       h->day, h->used_day, h->used_month,
                                       h->seq, nopen));
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
    char crc[10];

    if (len < sizeof(crc) || len >= JOURNAL_LINE) {
        return KARS_ERROR;
    }

    const char *end = p + len - 9; /* " " and eight digits */
    size_t nfields = journal_nfields(p[0]);

    (void) snprintf(crc, sizeof(crc), " %08" PRIx32,
                    journal_crc(p, (size_t) (end - p)));
    if (nfields == 0 || memcmp(crc, end, 9) != 0) {
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
