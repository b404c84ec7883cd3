/*
 * line.h - reads one line of an audit log, strictly.
 *
 * There is one way to write a record (docs/audit-format.md), so there is no
 * need of a JSON parser that accepts more: what differs in one byte from the
 * canonical form is refused. Results borrow from the line.
 */
#ifndef AUDIT_LINE_H
#define AUDIT_LINE_H

#include "audit/record.h"

#define AUDIT_LINE_MAX 65536 /* longer lines are refused: upstream's too */

typedef struct {
    uint64_t seq;
    kars_str_t sandbox, ts, agent_id, action, decision; /* as in the JSON */
    kars_str_t prev_hash, hash;
    uint32_t full;      /* ours; 0: the eight keys of upstream's line */
    kars_str_t covered; /* what the digest is over */
    uint8_t prev_digest[AUDIT_SHA], digest[AUDIT_SHA];
    kars_str_t code, reason;
    kars_str_t key, sig; /* of a signed checkpoint, as hex */
    uint32_t has_torn;   /* a recovery record that closes a torn line */
    uint64_t torn_bytes;
    uint8_t torn[AUDIT_SHA];
} audit_line_t;

/* Reads a line without its LF. 1, or 0 and why in one phrase. */
int audit_line(kars_str_t line, audit_line_t *ret, const char **ret_why);

/* 1: the line's own hash, and its digest if it has one, are right. */
int audit_line_intact(const audit_line_t *line, const char **ret_why);

/* A cursor over text that must be exactly what is asked for. */
typedef struct {
    const char *p;
    const char *end;
} audit_scan_t;

int audit_scan_lit(audit_scan_t *s, const char *lit);
int audit_scan_uint(audit_scan_t *s, uint64_t *ret);
/* A JSON string with its quotes; *ret is the inside, still escaped. */
int audit_scan_str(audit_scan_t *s, kars_str_t *ret);

#endif
