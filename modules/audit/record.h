/*
 * record.h - one record of the audit log, from its values to its line.
 *
 * A record is made in two steps. A draft holds what is known when the request
 * ends, already encoded; a seal gives it its place in the chain. Nothing here
 * allocates or does I/O; docs/audit-format.md describes the bytes.
 */
#ifndef AUDIT_RECORD_H
#define AUDIT_RECORD_H

#include "kars_module.h"

#define AUDIT_RECORD_MAX 4096 /* a line with its LF; a draft too */
#define AUDIT_HEX        64   /* of a SHA-256 in hex */
#define AUDIT_SHA        32

/* The state between two records: what the next one continues. */
typedef struct {
    uint64_t seq;              /* of the next record */
    uint64_t has_hash;         /* 0: no record yet, prev_hash is empty */
    char hash[AUDIT_HEX];      /* of the last record: AGT profile */
    uint8_t digest[AUDIT_SHA]; /* of the last record: ours; zeros: none */
} audit_chain_t;

/* What a draft is made of. Empty strings and zero numbers are left out. */
typedef struct {
    kars_str_t agent_id, action, decision;
    uint32_t request; /* 1: trace to status are written even when empty */
    kars_str_t trace, klass, route, method, path;
    int64_t status;
    kars_str_t module, rule, code, reason, model;
    int64_t tokens_in, tokens_out, tokens_total, tokens_charged;
    kars_str_t upstream;
    int64_t attempts, bytes_in, bytes_out, duration_ms;
    int64_t refused;        /* audit:unavailable: how many were */
    const uint8_t *torn;    /* audit:recovery: SHA-256 of the torn bytes */
    uint64_t torn_bytes;    /* and how many they are */
    uint32_t is_checkpoint; /* 1: key and sig are added when it is sealed */
} audit_fields_t;

/* An encoded record without its place. Followed by its text. */
typedef struct {
    uint32_t size; /* with the text, a multiple of 8 */
    uint16_t agent_len, action_len, decision_len, ext_len;
    uint32_t is_checkpoint;
    kars_token_t token; /* who waits for it, or 0 */
    char text[];
} audit_draft_t;

/* The domain of the digests; the name of the format's version. */
#define AUDIT_DOMAIN "kars-audit-1\n"

/*
 * Encodes *f at `at`, which has room for AUDIT_RECORD_MAX bytes and is aligned
 * to 8. Returns the draft's size. Values longer than their limit are cut.
 */
size_t audit_draft(const audit_fields_t *f, void *at);

/*
 * Writes the line of a draft, with its LF, to `out` (AUDIT_RECORD_MAX bytes)
 * and advances the chain. `sandbox` is encoded: audit_sandbox(). `signing` may
 * be NULL: a checkpoint is then unsigned. Returns the line's length.
 */
size_t audit_seal(audit_chain_t *chain, kars_str_t sandbox,
                  const audit_draft_t *draft, uint64_t wall_ms,
                  const kars_signing_t *signing, char *out);

/* The sandbox's name as the record's JSON has it; cap: 160 bytes. */
#define AUDIT_SANDBOX_MAX 160
kars_str_t audit_sandbox(kars_str_t name, char *out);

/* SHA-256 of seq|ts|agent_id|action|decision|prev_hash, as hex. */
void audit_hash(uint64_t seq, kars_str_t ts, kars_str_t agent_id,
                kars_str_t action, kars_str_t decision, kars_str_t prev_hash,
                char ret[AUDIT_HEX]);

/* SHA-256 of the domain, the previous digest and the record's bytes. */
void audit_digest(const uint8_t prev[AUDIT_SHA], kars_str_t bytes,
                  uint8_t ret[AUDIT_SHA]);

void audit_sha256(kars_str_t bytes, uint8_t ret[AUDIT_SHA]);
void audit_hex(const uint8_t *bytes, size_t n, char *ret);
/* Lower-case digits only. 1: done; 0: they are not, or not 2 * n. */
int audit_unhex(kars_str_t hex, uint8_t *ret, size_t n);

/* "2026-01-01T00:00:00Z", 20 characters, not terminated. */
#define AUDIT_TS 20
void audit_ts(uint64_t wall_ms, char ret[AUDIT_TS]);

/* Writes n in decimal; at most 20 digits. Returns what follows them. */
char *audit_uint(char *p, uint64_t n);

/* Bytes of the well-formed UTF-8 sequence that s begins with; 0: none. */
size_t audit_utf8(const unsigned char *s, size_t len);

/*
 * The message that a checkpoint or a head signs: `domain`, seq, LF, the digest
 * in hex. Returns its length; cap: AUDIT_SIGNED_MAX.
 */
#define AUDIT_SIGNED_MAX 160
size_t audit_signed(const char *domain, uint64_t seq,
                    const uint8_t digest[AUDIT_SHA], char *out);
#define AUDIT_CHECKPOINT_DOMAIN "kars-audit-checkpoint-1\n"
#define AUDIT_HEAD_DOMAIN       "kars-audit-head-1\n"

#endif
