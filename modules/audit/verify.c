/* verify.c - see verify.h. */
#include "audit/verify.h"

#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>

/* A torn stretch is at most what the writer looks at: store.h. */
#define VERIFY_TORN_MAX (4u << 20)

static int verify_fault(audit_fault_t *ret, uint64_t seq, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int
verify_fault(audit_fault_t *ret, uint64_t seq, const char *fmt, ...)
{
    va_list args;

    ret->seq = seq;
    va_start(args, fmt);
    vsnprintf(ret->text, sizeof(ret->text), fmt, args);
    va_end(args);
    return 0;
}

/* Where the first record stands: at a genesis, or within a chain that we must
 * take on trust. */
static int
verify_first(audit_verify_t *v, const audit_line_t *line, audit_fault_t *ret)
{
    v->first_seq = line->seq;
    v->chain.seq = line->seq;
    if (line->seq == 0) {
        return 1; /* prev values are checked against a genesis */
    }

    if (line->prev_hash.len != AUDIT_HEX) {
        return verify_fault(ret, line->seq,
                            "has no prev_hash and is not seq 0");
    }
    if (v->has_start &&
        (line->seq != v->start_seq + 1 ||
         memcmp(line->prev_digest, v->start_digest, AUDIT_SHA) != 0)) {
        return verify_fault(ret, line->seq,
                            "does not follow the record that --start names");
    }
    if (!v->has_start && !v->trust_start) {
        return verify_fault(ret, line->seq,
                            "the records before it are missing: give the "
                            "earlier files too, or --start SEQ:DIGEST of the "
                            "record before it, or --start trust");
    }
    v->start_unchecked = !v->has_start;
    v->chain.has_hash = 1;
    memcpy(v->chain.hash, line->prev_hash.data, AUDIT_HEX);
    memcpy(v->chain.digest, line->prev_digest, AUDIT_SHA);
    return 1;
}

static int
verify_links(const audit_verify_t *v, const audit_line_t *line,
             audit_fault_t *ret)
{
    unsigned long long seq = line->seq;
    unsigned long long want = v->chain.seq;
    kars_str_t prev = { v->chain.hash, v->chain.has_hash ? AUDIT_HEX : 0 };

    if (line->full && seq > want) {
        return verify_fault(ret, seq,
                            "%llu record%s missing before it (seq %llu was "
                            "expected): dropped, or out of order",
                            seq - want, seq - want == 1 ? " is" : "s are",
                            want);
    }
    if (line->full && seq < want) {
        return verify_fault(ret, seq,
                            "seq %llu was expected: repeated, inserted or out "
                            "of order",
                            want);
    }
    if (!kars_str_eq(prev, line->prev_hash)) {
        return verify_fault(ret, seq,
                            "does not follow the record before it (prev_hash): "
                            "one was inserted, dropped or replaced");
    }
    if (line->full &&
        memcmp(v->chain.digest, line->prev_digest, AUDIT_SHA) != 0) {
        return verify_fault(ret, seq,
                            "does not follow the record before it "
                            "(prev_digest): one was replaced");
    }

    return 1;
}

/* The signature of a checkpoint, if a key was asked for. */
static int
verify_signature(audit_verify_t *v, const audit_line_t *line,
                 audit_fault_t *ret)
{
    uint8_t key[32];
    uint8_t sig[64];
    char text[AUDIT_SIGNED_MAX];

    v->checkpoints++;
    if (v->key == NULL) {
        return 1;
    }
    if (line->sig.len == 0) {
        return v->has_signed ? verify_fault(ret, line->seq,
                                            "checkpoint without a signature "
                                            "after signed ones")
                             : 1;
    }
    if (!audit_unhex(line->key, key, sizeof(key)) ||
        !audit_unhex(line->sig, sig, sizeof(sig))) {
        return verify_fault(ret, line->seq, "checkpoint: bad signature");
    }
    if (memcmp(key, v->key, sizeof(key)) != 0) {
        return verify_fault(ret, line->seq,
                            "checkpoint signed with another key, %.16s...",
                            line->key.data);
    }

    size_t n = audit_signed(AUDIT_CHECKPOINT_DOMAIN, line->seq,
                            line->prev_digest, text);

    if (crypto_sign_verify_detached(sig, (const unsigned char *) text, n,
                                    key) != 0) {
        return verify_fault(ret, line->seq, "checkpoint: bad signature");
    }

    v->signatures++;
    if (line->seq > v->first_seq) {
        v->has_signed = 1;
        v->signed_seq = line->seq - 1;
    }
    return 1;
}

static int
verify_head(audit_verify_t *v, const audit_line_t *line, audit_fault_t *ret)
{
    if (!v->has_head || line->seq != v->head_seq) {
        return 1;
    }
    if (!line->full || memcmp(v->head_digest, line->digest, AUDIT_SHA) != 0) {
        return verify_fault(ret, line->seq,
                            "is not the record that the head names: the log "
                            "was rewritten");
    }

    v->head_seen = 1;
    if (v->head_is_signed) {
        v->has_signed = 1;
        v->signed_seq = line->seq;
    }
    return 1;
}

/* What a record says about the log itself. */
static int
verify_meaning(audit_verify_t *v, const audit_line_t *line, audit_fault_t *ret)
{
    if (!line->full) {
        return 1;
    }
    if (kars_str_eq(line->action, KARS_STR("audit:checkpoint"))) {
        return verify_signature(v, line, ret);
    }
    if (kars_str_eq(line->action, KARS_STR("audit:recovery")) &&
        kars_str_eq(line->code, KARS_STR("log_cut"))) {
        return verify_fault(
            ret, line->seq,
            "the router found records missing "
            "here: %.*s",
            (int) (line->reason.len < 120 ? line->reason.len : 120),
            line->reason.data);
    }

    return 1;
}

static int
verify_record(audit_verify_t *v, const audit_line_t *line, audit_fault_t *ret)
{
    const char *why;

    if (!audit_line_intact(line, &why)) {
        return verify_fault(ret, line->seq, "%s", why);
    }
    if (v->has_full && !line->full) {
        return verify_fault(ret, line->seq,
                            "has no digest, after records that have one");
    }
    if (v->records == 0) {
        if (!verify_first(v, line, ret)) {
            return 0;
        }
    } else if (!line->full && line->seq == 0 && line->prev_hash.len == 0) {
        /* Upstream begins a new chain each time that it starts. */
        memset(&v->chain, 0, sizeof(v->chain));
    }
    if (!verify_links(v, line, ret) || !verify_meaning(v, line, ret) ||
        !verify_head(v, line, ret)) {
        return 0;
    }

    v->records++;
    v->legacy += !line->full;
    v->has_full |= line->full;
    v->last_seq = line->seq;
    v->chain.seq = line->seq + 1;
    v->chain.has_hash = 1;
    memcpy(v->chain.hash, line->hash.data, AUDIT_HEX);
    memcpy(v->chain.digest, line->digest, AUDIT_SHA);
    return 1;
}

/* Does the line end as a whole record does? A torn one cannot: quotes inside
 * of values are escaped. */
static int
verify_whole(kars_str_t line)
{
    static const char tail[] = ",\"digest\":\"";
    size_t n = sizeof(tail) - 1 + AUDIT_HEX + 2;

    return line.len >= n &&
           memcmp(line.data + line.len - n, tail, sizeof(tail) - 1) == 0 &&
           memcmp(line.data + line.len - 2, "\"}", 2) == 0;
}

/*
 * Bytes from `at` that a recovery record right behind them accounts for, by
 * length and SHA-256, counting their LFs in *ret_lines; 0: there is none. A
 * whole record among them was not torn by a crash.
 */
static size_t
verify_torn(kars_str_t bytes, size_t at, uint64_t *ret_lines)
{
    const char *start = bytes.data + at;
    const char *end = bytes.data + bytes.len;
    const char *line = start;
    uint64_t nlines = 0;

    while (line < end && (size_t) (line - start) <= VERIFY_TORN_MAX) {
        const char *lf = memchr(line, '\n', (size_t) (end - line));

        if (lf == NULL ||
            verify_whole((kars_str_t){ line, (size_t) (lf - line) })) {
            return 0;
        }
        nlines++;
        line = lf + 1;
        lf = memchr(line, '\n', (size_t) (end - line));
        if (lf == NULL) {
            return 0;
        }

        audit_line_t next;
        const char *why;
        uint8_t sha[AUDIT_SHA];
        size_t n = (size_t) (line - start) - 1;

        if (audit_line((kars_str_t){ line, (size_t) (lf - line) }, &next,
                       &why) &&
            kars_str_eq(next.action, KARS_STR("audit:recovery")) &&
            next.has_torn && next.torn_bytes == n) {
            audit_sha256((kars_str_t){ start, n }, sha);
            if (memcmp(sha, next.torn, AUDIT_SHA) == 0) {
                *ret_lines = nlines;
                return n + 1;
            }
        }
    }

    return 0;
}

int
audit_verify_file(audit_verify_t *v, kars_str_t bytes, audit_fault_t *ret)
{
    size_t at = 0;

    ret->line = 1;
    while (at < bytes.len) {
        const char *start = bytes.data + at;
        const char *lf = memchr(start, '\n', bytes.len - at);

        if (lf == NULL) {
            return verify_fault(ret, v->chain.seq,
                                "the line does not end: cut, or still being "
                                "written");
        }

        kars_str_t text = { start, (size_t) (lf - start) };
        audit_line_t line;
        const char *why;

        if (audit_line(text, &line, &why)) {
            if (!verify_record(v, &line, ret)) {
                return 0;
            }
            ret->line++;
            at += text.len + 1;
            continue;
        }

        uint64_t nlines = 0;
        size_t torn = verify_torn(bytes, at, &nlines);

        if (torn == 0) {
            return verify_fault(ret, v->chain.seq, "the line %s", why);
        }
        v->recoveries++;
        ret->line += nlines;
        at += torn;
    }

    return 1;
}

int
audit_verify_end(audit_verify_t *v, audit_fault_t *ret)
{
    unsigned long long head = v->head_seq;

    ret->line = 0;
    if (v->has_head && !v->head_seen &&
        (v->records == 0 || v->last_seq < v->head_seq)) {
        return verify_fault(ret, v->chain.seq,
                            "the log is cut: it ends before seq %llu, which "
                            "the head names (or later files were not given)",
                            head);
    }
    if (v->key != NULL && v->records > 0 && !v->has_signed) {
        return verify_fault(ret, v->last_seq,
                            "nothing in these files is signed with this key");
    }

    return 1;
}
