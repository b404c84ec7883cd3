/*
 * takeover.h - USR2: another binary goes on in this process. The master
 * execve()s in place, so that it stays the parent of its workers, process 1 of
 * a container, and the one that the service manager knows. What it must not
 * lose - sockets, the zone, its workers - goes along as open descriptors and
 * one structure in a memfd, whose number KARS_TAKEOVER holds.
 */
#ifndef KARS_PROC_TAKEOVER_H
#define KARS_PROC_TAKEOVER_H

#include "base/shm.h"
#include "proc/listeners.h"
#include "proc/logbook.h"

#include <sys/types.h>

/* Those that serve and those that drain. */
#define KARS__MASTER_WORKERS (2 * KARS__ZONE_WORKERS)

enum {
    KARS__WORKER_FREE = 0,
    KARS__WORKER_STARTING,
    KARS__WORKER_READY,
    KARS__WORKER_DRAINING
};

typedef struct {
    int32_t pid;
    int32_t channel;
    uint64_t id; /* in the zone */
    uint32_t state;
    uint32_t load;
    uint32_t slot;   /* 0 to nslots - 1 of its load */
    uint8_t listens; /* to what the master sends: it was READY */
    uint8_t relog;   /* USR1 came before that */
    uint8_t deaf;    /* nothing more comes from its channel */
    uint8_t sealed;  /* its modules are loaded: KARS__ASK_SEAL */
} kars__master_worker_t;

/* Plain values; a change of any of them changes KARS__KEEP_VERSION. */
#define KARS__KEEP_VERSION 2u
typedef struct {
    uint64_t magic;
    uint32_t version;
    uint32_t size;
    uint32_t loads;
    uint32_t load;
    uint32_t nslots;
    int32_t zone_fd;  /* -1: none */
    int32_t image_fd; /* of the configuration that serves; -1: none */
    uint32_t unused;
    uint64_t zone_size;
    char pid_path[512];
    kars__master_worker_t workers[KARS__MASTER_WORKERS];
    kars__listeners_t listeners;
    kars__logbook_t logbook;
} kars__keep_t;

/* The program as it was called: argv[0], or what this process runs where that
 * has no slash. Absolute, so that it can be found again. OK, or ERROR. */
int kars__takeover_binary(const char *argv0, char *ret, size_t size);

/* The structure (its magic, version and size are filled in) in a memfd. -1 and
 * *err on failure. */
int kars__takeover_write(kars__keep_t *keep, kars_err_t *err);

/* DONE: nobody handed us anything. OK: *ret, and all descriptors closed on the
 * next exec again. ERROR and *err: it is of another version. */
int kars__takeover_read(kars__keep_t *ret, kars_err_t *err);

/* Starts the binary once to say whether it could read what is in fd: its
 * process, which exits with 0 if so. -1 and *err on failure. */
pid_t kars__takeover_check(const char *binary, int fd, kars_err_t *err);

/* Becomes the binary. Returns only when that failed, with *err. */
void kars__takeover_exec(const char *binary, char **argv,
                         const kars__keep_t *keep, int fd, kars_err_t *err);

#endif
