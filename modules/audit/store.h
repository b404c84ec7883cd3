/*
 * store.h - the files of the log: where records get their place and go to
 * disk.
 *
 * All but open() and close() is called under the lock of the shared state,
 * which all workers of a router have in common. What a worker that died left
 * behind is repaired by the next call. Nothing here knows requests.
 */
#ifndef AUDIT_STORE_H
#define AUDIT_STORE_H

#include "audit/head.h"
#include "audit/queue.h"

#include <sys/types.h>

#define AUDIT_DATE 10

/* In the shared area; zeroed when new. Raise the version with any change. */
#define AUDIT_SHARED_VERSION 1
typedef struct {
    uint64_t ready; /* chain, date and size are true */
    audit_chain_t chain;
    char date[16];     /* of the file that is written to: the newest */
    uint64_t size;     /* of it, as its last writer left it */
    uint64_t reserved; /* bytes that the file system keeps for it */
    uint64_t since_checkpoint;
    uint64_t checkpoint_ms;
    uint64_t head_seq;     /* chain.seq when head.json was last written */
    uint64_t head_worker;  /* who writes it now; 0: nobody */
    uint64_t head_checked; /* the log was compared with the head once */
} audit_shared_t;

/* The calls that a full or broken disk makes fail; a test sets its own. */
typedef struct {
    ssize_t (*write)(int fd, const void *bytes, size_t n);
    int (*ftruncate)(int fd, off_t size);
    int (*fallocate)(int fd, int mode, off_t at, off_t n);
} audit_io_t;

typedef struct {
    audit_shared_t *shared;
    audit_io_t io;
    const kars_signing_t *signing; /* or NULL */
    uint64_t checkpoint_records;
    uint64_t checkpoint_every_ms;
    int dirfd;
    int fd;
    char date[16]; /* of fd */
    char *out;     /* lines of a group; the tail, while it is read */
    char sandbox_text[AUDIT_SANDBOX_MAX];
    kars_str_t sandbox;      /* encoded */
    kars_str_t subject;      /* agent_id of the log's own records */
    uint64_t checkpoint[64]; /* its draft */
} audit_store_t;

/* Opens the folder, which is made if its parent is there. `sandbox` lives as
 * long as the store; `shared` may be set later. KARS_OK or KARS_ERROR. */
int audit_store_open(audit_store_t *st, kars_str_t path, kars_str_t sandbox,
                     kars_err_t *err);
void audit_store_close(audit_store_t *st);

/* Finds the end of the chain if it is not known, or not true any more, and
 * closes a torn line. `died`: a holder of the lock did. 0 or an errno;
 * EBADMSG: there is no valid record where the chain should go on. */
int audit_store_ready(audit_store_t *st, uint64_t wall_ms, int died);

/*
 * Ready, then writes the queue, group by group, each by one write(2), and
 * checkpoints when they are due. *ret_done: bytes of the queue that are
 * written, whatever is returned; the caller drops them. 0 or an errno.
 */
int audit_store_append(audit_store_t *st, const audit_queue_t *q,
                       uint64_t wall_ms, int died, size_t *ret_done);
/* The same when audit_store_ready() has just returned 0 under this lock. It is
 * the one look at the file: others may have cut it or taken it away since the
 * last group, which no number of ours tells, and what is appended behind a cut
 * would hide it. A second look would see what the first saw. */
int audit_store_write(audit_store_t *st, const audit_queue_t *q,
                      uint64_t wall_ms, size_t *ret_done);

/* Keeps n bytes of disk beyond the end of the file. 0, or ENOSPC and such. */
int audit_store_reserve(audit_store_t *st, uint64_t n);
/* Without the lock: are n bytes kept? */
int audit_store_reserved(const audit_store_t *st, uint64_t n);

/* 1: there is something that head.json does not cover yet, and *ret does. */
int audit_store_head(audit_store_t *st, uint64_t wall_ms, audit_head_t *ret);

/*
 * Compares the log with head.json, once: a log that ends before its signed
 * head gets a record that says so. 0; EBADMSG: it does, and what is in `err`;
 * another errno: it could not be written.
 */
int audit_store_check_head(audit_store_t *st, uint64_t wall_ms,
                           kars_err_t *err);

#endif
