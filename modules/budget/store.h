/*
 * store.h - the journal's files: `NAME.<number>.journal` in one folder.
 *
 * All workers append to the segment that the shared ledger names; the caller
 * holds the ledger's lock for every call but store_sync(). A new segment
 * begins with a base, so that the older ones are needed only until it is
 * durable: store_sync() flushes it and removes them. The store owns its two
 * descriptors.
 *
 * No call of the router's: functions return 0 or an errno.
 */
#ifndef BUDGET_STORE_H
#define BUDGET_STORE_H

#include "ledger.h"

#define STORE_SEGMENT_MAX (1u << 20) /* then a new segment begins */

typedef struct {
    int dir;
    int fd;
    uint64_t segment; /* that fd is */
    char path[1024];  /* of the folder */
    char name[64];    /* of the sandbox */
} store_t;

/* What store_sync() needs; it owns both descriptors. */
typedef struct {
    int dir;
    int fd;
    uint64_t remove_before; /* segments below go, once fd is durable; 0: none */
    char name[64];
} store_sync_t;

/* Keeps the names; nothing is opened yet. EINVAL: too long, or no file name. */
int store_init(store_t *st, const char *path, size_t path_len, const char *name,
               size_t name_len);
void store_close(store_t *st);

/* Makes the folder if its parent is there, replays what it holds into the
 * empty ledger, charges what was open, begins a new segment durably and
 * removes the old ones. The ledger's version stays for the caller to set. */
int store_load(store_t *st, ledger_t *l);

/* Appends lines; all of them are in the file when it returns 0. */
int store_append(store_t *st, ledger_t *l, const char *bytes, size_t len);

/* Begins a new segment with a base of the ledger, not yet durable. */
int store_rotate(store_t *st, ledger_t *l);

/* A worker died inside the lock: a segment that it began is dropped. */
void store_repair(store_t *st, const ledger_t *l);

/* Is the ledger's segment still a file of its folder, and can be opened? */
int store_linked(store_t *st, const ledger_t *l);

/* Opens the folder, and makes it if its parent is there. */
int store_reopen(store_t *st);

/* Takes what is needed to flush the open segment on another thread. */
int store_sync_begin(store_t *st, uint64_t remove_before, store_sync_t *ret);
int store_sync(store_sync_t *job);         /* closes its descriptors */
void store_sync_cancel(store_sync_t *job); /* likewise, without the flush */

#endif
