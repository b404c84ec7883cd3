/*
 * listeners.h - the listening sockets that the master keeps.
 *
 * A TCP address has one socket for each worker slot (SO_REUSEPORT): the kernel
 * spreads connections, and a worker that goes loses none that wait in another's
 * queue. A UNIX address, and a socket that was passed to us, has one that all
 * share. A socket stays open while its address is configured: closing one of
 * several loses what waits in it, so when there are fewer workers the others
 * accept from what is left over too.
 *
 * A new socket listens only when the load that asked for it serves: until then
 * no connection can wait in it, and closing it loses none.
 */
#ifndef KARS_PROC_LISTENERS_H
#define KARS_PROC_LISTENERS_H

#include "base/err.h"

#define KARS__LISTENERS 512u

enum {
    KARS__LISTEN_SHARED = 1 << 0, /* one for all slots */
    KARS__LISTEN_PASSED = 1 << 1, /* not ours to close or to unlink */
    KARS__LISTEN_ON = 1 << 2      /* listens */
};

/* Plain values: they pass to a new binary (proc/takeover.h) as they are. */
typedef struct {
    char address[128]; /* empty: free */
    int32_t fd;
    uint32_t flags; /* KARS__LISTEN_* */
    uint32_t slot;
    uint32_t made;   /* the load that made it */
    uint32_t wanted; /* the last load that asked for it */
} kars__listen_fd_t;

typedef struct {
    kars__listen_fd_t all[KARS__LISTENERS];
} kars__listeners_t;

/*
 * Sockets that the one who started us has bound: the environment's LISTEN_PID,
 * LISTEN_FDS and LISTEN_FDNAMES, as sd_listen_fds(3) describes them. `listen
 * fd:NAME` means them; those without a name are fd:0, fd:1, in their order.
 */
int kars__listeners_inherit(kars__listeners_t *t, kars_err_t *err);

/*
 * The index-th socket of an address for worker slot of nslots, of a load;
 * index 0 is its own and made where there is none, with that mode (UNIX).
 * Borrowed. *ret_more: there are further ones. -1 and *err on failure.
 */
int kars__listeners_get(kars__listeners_t *t, const char *address,
                        uint32_t slot, uint32_t nslots, uint32_t index,
                        uint32_t mode, uint32_t load, int *ret_more,
                        kars_err_t *err);

/* This load is about to serve: what it made listens. ERROR and *err where that
 * cannot be. */
int kars__listeners_on(kars__listeners_t *t, uint32_t load, kars_err_t *err);

/* This load serves: addresses that it did not ask for are closed. */
void kars__listeners_keep(kars__listeners_t *t, uint32_t load);

/* This load failed: what it made is closed. */
void kars__listeners_drop(kars__listeners_t *t, uint32_t load);

/* Closes the descriptors of all; unlink: removes UNIX sockets' files too. */
void kars__listeners_close(kars__listeners_t *t, int unlink_files);

#endif
