/*
 * master_state.h - the master's state, for the files that make it up: master.c
 * (loads, signals, the loop), master_ask.c (what workers ask for),
 * master_upgrade.c (USR2).
 */
#ifndef KARS_PROC_MASTER_STATE_H
#define KARS_PROC_MASTER_STATE_H

#include "base/log.h"
#include "base/shm.h"
#include "proc/known.h"
#include "proc/plan.h"
#include "proc/takeover.h"

#include <limits.h>

enum {
    KARS__UPGRADE_NO = 0,
    KARS__UPGRADE_WANTED,   /* once nothing is starting */
    KARS__UPGRADE_CHECKING, /* the new binary is asked whether it could */
    KARS__UPGRADE_READY     /* it could */
};

typedef struct {
    kars__keep_t keep; /* what another binary needs to go on */

    const char *conf_path;
    char **argv;
    int signals;
    uint32_t starting;  /* the load that is being started; 0: none */
    uint32_t new_slots; /* of it */
    int new_image_fd;   /* of its configuration; -1: none yet */
    char new_pid_path[512];
    uint32_t reload;   /* HUP came while one was starting */
    uint32_t stopping; /* SIGQUIT or SIGTERM, once asked for */
    uint64_t kill_at_ms;
    uint64_t respawn_at_ms; /* 0: no */
    kars_zone_t *zone;
    kars__known_t *known; /* paths of secrets that loads asked for */
    int exit_code;

    char binary[PATH_MAX];
    uint32_t upgrade; /* KARS__UPGRADE_* */
    pid_t checker;    /* 0: none */
    uint64_t check_until_ms;
} kars__master_t;

/* Monotonic milliseconds. */
uint64_t kars__master_now(void);

/* Opens, takes or notes what the worker asks for, and answers it. given: a
 * descriptor that came along, borrowed; -1: none. */
void kars__master_answer(kars__master_t *m, kars__master_worker_t *w,
                         kars__ask_t *ask, int given);

/* The same for a worker with modules: a secret that its load asked for is
 * opened again, any other question is refused (EPERM). */
void kars__master_answer_sealed(kars__master_t *m, kars__master_worker_t *w,
                                kars__ask_t *ask);

/* USR2 came. */
void kars__upgrade_want(kars__master_t *m);

/* A child ended: 1 if it was the one that checks the new binary. */
int kars__upgrade_child(kars__master_t *m, pid_t pid, int status);

/* Does what is due. When the new binary takes over, this does not return. */
void kars__upgrade_step(kars__master_t *m);

/* When kars__upgrade_step() is due without any event; 0: never. */
uint64_t kars__upgrade_due_ms(const kars__master_t *m);

#endif
