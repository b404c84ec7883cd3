/*
 * head.h - head.json, the signed end of the log: its text, and its file.
 */
#ifndef AUDIT_HEAD_H
#define AUDIT_HEAD_H

#include "audit/record.h"

#define AUDIT_HEAD_FILE "head.json"
#define AUDIT_HEAD_MAX  512

typedef struct {
    uint64_t seq; /* of the last record */
    uint8_t digest[AUDIT_SHA];
    char ts[AUDIT_TS];
    uint32_t is_signed;
    uint8_t key[32];
    uint8_t sig[64];
} audit_head_t;

/* Fills *ret; signed if `signing` has a key. `chain` has at least a record. */
void audit_head_make(const audit_chain_t *chain, uint64_t wall_ms,
                     const kars_signing_t *signing, audit_head_t *ret);

/* Its text with an LF; cap: AUDIT_HEAD_MAX. Returns the length. */
size_t audit_head_text(const audit_head_t *head, char *out);

/* 1, or 0: not a head. */
int audit_head_parse(kars_str_t text, audit_head_t *ret);

/* 1: signed by `key`. */
int audit_head_signed_by(const audit_head_t *head, const uint8_t key[32]);

/* Replaces the file as a whole, durably. 0 or an errno. Any thread. */
int audit_head_write(int dirfd, const audit_head_t *head);

/* Reads it. 0, ENOENT, EINVAL (not a head) or another errno. */
int audit_head_read(int dirfd, audit_head_t *ret);

#endif
