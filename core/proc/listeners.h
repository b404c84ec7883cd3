/*
 * listeners.h - the listening sockets that the master keeps.
 *
 * A TCP address has one socket for each worker slot (SO_REUSEPORT): the kernel
 * spreads connections, and a worker that goes loses none that wait in another's
 * queue. A UNIX address has one that all share. A socket stays open while its
 * address is configured: closing one of several loses what waits in it, so
 * when there are fewer workers the others accept from what is left over too.
 */
#ifndef KARS_PROC_LISTENERS_H
#define KARS_PROC_LISTENERS_H

#include "base/err.h"

#define KARS__LISTENERS 512u

typedef struct {
    char address[128]; /* empty: free */
    int fd;
    uint32_t slot;
    uint32_t made;   /* the load that made it */
    uint32_t wanted; /* the last load that asked for it */
} kars__listen_fd_t;

typedef struct {
    kars__listen_fd_t all[KARS__LISTENERS];
} kars__listeners_t;

/*
 * The index-th socket of an address for worker slot of nslots, of a load;
 * index 0 is its own and made where there is none, with that mode (UNIX).
 * Borrowed. *ret_more: there are further ones. -1 and *err on failure.
 */
int kars__listeners_get(kars__listeners_t *t, const char *address,
                        uint32_t slot, uint32_t nslots, uint32_t index,
                        uint32_t mode, uint32_t load, int *ret_more,
                        kars_err_t *err);

/* This load serves: addresses that it did not ask for are closed. */
void kars__listeners_keep(kars__listeners_t *t, uint32_t load);

/* This load failed: what it made is closed. */
void kars__listeners_drop(kars__listeners_t *t, uint32_t load);

/* Closes the descriptors of all; unlink: removes UNIX sockets' files too. */
void kars__listeners_close(kars__listeners_t *t, int unlink_files);

#endif
