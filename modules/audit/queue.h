/*
 * queue.h - records of one worker that wait to be written, in order.
 *
 * One stretch of address space, taken once and touched as it is needed. It is
 * empty after each loop turn, unless the log cannot be written: then it keeps
 * what must not be lost, and ADMIT lets nobody in for whom there is no room.
 */
#ifndef AUDIT_QUEUE_H
#define AUDIT_QUEUE_H

#include "audit/record.h"

typedef struct {
    char *base;
    size_t cap;
    size_t used;
    size_t promised; /* records of AUDIT_RECORD_MAX that may still come */
} audit_queue_t;

/* 0 or an errno. */
int audit_queue_init(audit_queue_t *q, size_t cap);
void audit_queue_done(audit_queue_t *q);

/* Keeps room for one record that comes later. 1, or 0: there is none. */
int audit_queue_promise(audit_queue_t *q);
/* It will not come, or comes now. */
void audit_queue_redeem(audit_queue_t *q);

/* Adds a record, never in room that is promised to others. NULL: no room. The
 * draft may be changed until the queue is. */
audit_draft_t *audit_queue_push(audit_queue_t *q, const audit_fields_t *f);

/* The draft at offset `at`, or NULL at the end; the next is its size on. */
audit_draft_t *audit_queue_at(const audit_queue_t *q, size_t at);

/* Forgets the first n bytes: whole drafts. */
void audit_queue_drop(audit_queue_t *q, size_t n);

#endif
