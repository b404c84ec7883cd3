/*
 * cycle.h - one configuration, from its text to everything that runs it.
 */
#ifndef KARS_PROC_CYCLE_H
#define KARS_PROC_CYCLE_H

#include "http/conn.h"
#include "http/upstream.h"
#include "proc/plan.h"

enum {
    KARS__CYCLE_SERVE = 1, /* a worker: everything */
    KARS__CYCLE_CHECK,     /* -t: everything but listeners and worker_start */
    KARS__CYCLE_COMMAND    /* a module's command: likewise */
};

/*
 * Loads a configuration. channel: to the master, or -1. In a worker the
 * process loses its privileges in here, before the first module is opened.
 * NULL and *err (with file:line:column where there is one) on failure.
 */
kars_cycle_t *kars__cycle_load(const char *path, uint32_t mode, int channel,
                               kars_err_t *err);

/* Flags of the loops that cycles get: tests set KARS__LOOP_FAKE. */
extern uint32_t kars__cycle_loop_flags;

/* An empty one, for commands that need no configuration. */
kars_cycle_t *kars__cycle_bare(kars_err_t *err);

/* Opens one module into a bare cycle. */
int kars__cycle_add_module(kars_cycle_t *cycle, const char *dir,
                           kars_str_t name, kars_err_t *err);

/* worker_start of every module, providers of services first. */
int kars__cycle_start(kars_cycle_t *cycle, kars_err_t *err);

/* Accepts connections from now on. */
void kars__cycle_serve(kars_cycle_t *cycle);

/* worker_stop in reverse, then all memory. */
void kars__cycle_destroy(kars_cycle_t *cycle);

/* For a command of the cycle: turns its loop until kars__cycle_run_stop(),
 * which may have come before. ERROR: timeout_ms went by (0: no limit), no
 * command runs, or it turns already. */
int kars__cycle_run(kars_cycle_t *cycle, uint32_t timeout_ms);
void kars__cycle_run_stop(kars_cycle_t *cycle);

/* Where modules are, unless the configuration says: beside this program (a
 * build tree), in ../lib/kars/modules of it (installed, wherever that was moved
 * to), else where configure was told. */
const char *kars__module_dir(void);

/* Memory of a module, beside any request; the cycle's end is its end. cap: in
 * bytes, 0: none. NULL: no memory. kars__pool_destroy() ends it earlier. */
kars_pool_t *kars__cycle_pool_create(kars_cycle_t *cycle, size_t cap);

#endif
