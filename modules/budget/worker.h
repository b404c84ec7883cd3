/*
 * worker.h - this worker's hand on the shared ledger.
 *
 * Owns the lock's discipline, the journal's descriptors, settlements that wait
 * for the end of the turn, the timers and the flushes. One per process: a
 * worker serves one cycle. Without `budget_ledger` nothing here is active.
 */
#ifndef BUDGET_WORKER_H
#define BUDGET_WORKER_H

#include "kars_module.h"
#include "ledger.h"

enum { WORKER_SYNC_INTERVAL = 0, WORKER_SYNC_REQUEST };

typedef struct {
    kars_str_t ledger; /* the folder; empty: no ledger */
    int32_t sync;      /* WORKER_SYNC_* */
    uint64_t interval_ms;
} worker_conf_t;

/* How a reservation went. */
enum {
    WORKER_OK = 0,
    WORKER_OVER_DAY,
    WORKER_OVER_MONTH,
    WORKER_FULL,       /* no slot left */
    WORKER_UNAVAILABLE /* the journal cannot be written */
};

typedef struct {
    uint64_t tokens;
    uint64_t day_limit; /* 0: none */
    uint64_t month_limit;
    int waits; /* the request calls worker_wait() before it goes on */
} worker_ask_t;

int worker_start(kars_cycle_t *cycle, const worker_conf_t *conf,
                 kars_err_t *err);
void worker_stop(kars_cycle_t *cycle);

/* Is there a ledger in the configuration? */
int worker_has_ledger(void);

/* What counts now; ERROR when the ledger is not readable. */
int worker_view(kars_cycle_t *cycle, ledger_view_t *ret);

/* Makes (*id 0) or changes a reservation and journals it, at once unless the
 * request is going to wait. ret_view holds what counts besides this
 * reservation, whatever the outcome. */
int worker_reserve(kars_cycle_t *cycle, const worker_ask_t *ask, uint64_t *id,
                   ledger_view_t *ret_view);

/* Suspends a request: AGAIN, and fn runs when its reservation is in the journal
 * (sync interval: at the end of the turn) or durable (sync request), or ERROR.
 * After an error fn settles the reservation, which may be gone by then. */
int worker_wait(kars_req_t *r, uint64_t id, int is_new, kars_wake_pt fn);

/* Closes a reservation. Its record leaves at the end of the turn. */
void worker_settle(kars_cycle_t *cycle, uint64_t id, uint64_t charge);

/* Charges without asking: what was used is used. */
int worker_charge(kars_cycle_t *cycle, uint64_t tokens);

/* The limits that the gauges show. */
void worker_show(uint64_t day_limit, uint64_t month_limit);

#endif
