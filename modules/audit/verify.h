/*
 * verify.h - checks an audit log, record by record, over any number of files.
 *
 * Pure: bytes in, one fault or none out. The command (command.c) maps files
 * and prints; a test or a fuzzer calls this directly.
 */
#ifndef AUDIT_VERIFY_H
#define AUDIT_VERIFY_H

#include "audit/head.h"
#include "audit/line.h"

/* Zero it, set what is asked for, then give it the files in their order. */
typedef struct {
    /* Asked for. */
    const uint8_t *key;      /* the only key that may have signed; NULL: any */
    uint32_t has_head;       /* the end is at head_seq with head_digest */
    uint32_t head_is_signed; /* by `key`: checked by the caller */
    uint64_t head_seq;
    uint8_t head_digest[AUDIT_SHA];

    uint32_t has_start; /* start_* name the record before the first */
    uint32_t trust_start;
    uint64_t start_seq;
    uint8_t start_digest[AUDIT_SHA];

    /* Found. */
    uint64_t records;
    uint64_t legacy; /* lines of upstream, without our members */
    uint64_t checkpoints;
    uint64_t signatures; /* that were checked and good */
    uint64_t recoveries; /* torn lines that a record closes */
    uint64_t first_seq;
    uint64_t last_seq;
    uint64_t signed_seq; /* the last record that a good signature covers */
    uint32_t has_signed;
    uint32_t start_unchecked; /* begins within a chain */
    uint32_t head_seen;       /* the head's record was met */

    audit_chain_t chain;
    uint32_t has_full; /* a record of ours was met: none may lack a digest */
} audit_verify_t;

typedef struct {
    uint64_t line; /* 1 is the first; 0: none, the end */
    uint64_t seq;  /* of the record, or the one expected there */
    char text[240];
} audit_fault_t;

/* The next file. 1: good; 0: *ret says what is not. */
int audit_verify_file(audit_verify_t *v, kars_str_t bytes, audit_fault_t *ret);

/* After the last file: is the end where it should be, is it signed? */
int audit_verify_end(audit_verify_t *v, audit_fault_t *ret);

#endif
