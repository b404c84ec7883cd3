/*
 * tail.h - where a log ends: the last good record, and what follows it.
 */
#ifndef AUDIT_TAIL_H
#define AUDIT_TAIL_H

#include "audit/record.h"

/* A crash tears at most what was written since the last sync. */
#define AUDIT_TAIL_MAX (4u << 20)

typedef struct {
    audit_chain_t chain; /* after the last good record */
    kars_str_t torn;     /* bytes behind it, in the caller's buffer */
    uint64_t size;       /* of the file */
    uint32_t lacks_lf;   /* the last good record is whole but for its LF */
} audit_tail_t;

/* The newest YYYY-MM-DD.jsonl of the folder, older than `before` unless that
 * is NULL. ret_date is left empty when there is none. 0 or an errno. */
int audit_tail_newest(int dirfd, const char *before, char ret_date[16]);

/*
 * Reads the end of fd, the file of `date`; if it has no good record, that of
 * the files before it. `buf` has AUDIT_TAIL_MAX bytes. 0 or an errno; EBADMSG:
 * there is more than that behind the last good record.
 */
int audit_tail_read(int dirfd, int fd, const char *date, char *buf,
                    audit_tail_t *ret);

#endif
