/*
 * ledger.h - what a sandbox used, and what it may still be using.
 *
 * A ledger_t lives in memory that all workers share and that outlives each of
 * them; its caller holds the lock. A worker may be killed between any two
 * stores: the head is doubled and switched by one store, a slot's state is its
 * last store, and ledger_repair() finishes what was begun. The sums of open
 * reservations are a cache that repair counts again.
 *
 * A reservation belongs to the UTC day in which it was made. When that day (or
 * month) is over before it is settled, it no longer counts in it, and is not
 * carried into the next. Days only move forward: a clock that steps back
 * resets nothing.
 *
 * Pure: no I/O, no clock, no allocation.
 */
#ifndef BUDGET_LEDGER_H
#define BUDGET_LEDGER_H

#include <stddef.h>
#include <stdint.h>

#define LEDGER_VERSION 2
#define LEDGER_SLOTS   4096 /* a power of two: an id's low bits name its slot */

enum { LEDGER_FREE = 0, LEDGER_OPEN, LEDGER_SETTLED };

typedef struct {
    uint64_t used_day;
    uint64_t used_month;
    uint64_t seq;        /* of the youngest id */
    uint64_t settled_id; /* the last settlement, for repair */
    uint64_t settled_tokens;
    uint32_t day;
    uint32_t unused;
} ledger_head_t;

typedef struct {
    uint64_t id;
    uint64_t worker;
    uint64_t tokens; /* OPEN: reserved; SETTLED: charged, not yet journaled */
    uint32_t day;
    uint32_t state;
} ledger_slot_t;

typedef struct {
    uint32_t version; /* zero: a new area, the journal is not replayed yet */
    uint32_t cur;     /* which head counts */
    ledger_head_t head[2];
    uint64_t open_day; /* cache: reserved in the current day and month */
    uint64_t open_month;
    uint64_t segment;      /* of the journal, that all append to */
    uint64_t segment_size; /* bytes written to it, about */
    uint32_t torn;         /* its last line may be incomplete */
    uint32_t hint;         /* where to look for a free slot */
    uint32_t nfresh;
    uint32_t unused;
    uint64_t fresh[LEDGER_SLOTS]; /* made or changed and not in the journal */
    ledger_slot_t slots[LEDGER_SLOTS];
} ledger_t;

/* What counts now. */
typedef struct {
    uint32_t day;
    uint64_t used_day;
    uint64_t used_month;
    uint64_t open_day;
    uint64_t open_month;
} ledger_view_t;

/* Sums that stop at the largest number. */
uint64_t ledger_add(uint64_t a, uint64_t b);
uint64_t ledger_mul(uint64_t a, uint64_t b);

/* Empties the ledger; `version` stays 0 until the caller says it is loaded. */
void ledger_init(ledger_t *l);

/* After the last holder of the lock died inside. Repeatable. */
void ledger_repair(ledger_t *l);

/* Moves on to `day` if it is later than the ledger's. */
void ledger_roll(ledger_t *l, uint32_t day);

void ledger_view(const ledger_t *l, ledger_view_t *ret);

/* A slot for `tokens` in the current day; ERROR when the table is full. */
int ledger_reserve(ledger_t *l, uint64_t worker, uint64_t tokens,
                   uint64_t *ret_id);

/* The slot of an open reservation, or NULL. Valid while the lock is held. */
ledger_slot_t *ledger_open(ledger_t *l, uint64_t id);

/* Changes what an open reservation holds; ERROR when it is not open. */
int ledger_adjust(ledger_t *l, uint64_t id, uint64_t tokens);

/* Takes a reservation back that never reached the journal. */
void ledger_cancel(ledger_t *l, uint64_t id);

/* Reservations of all workers that the journal must still be told, in the
 * order of their ids: there, one with a smaller id than its predecessor counts
 * as settled long ago. Whoever writes, writes all of them; one that was
 * cancelled is NULL. is_new: surely not among them yet. */
void ledger_fresh(ledger_t *l, uint64_t id, int is_new);
const ledger_slot_t *ledger_fresh_at(const ledger_t *l, uint32_t i);
void ledger_fresh_written(ledger_t *l);

/* Charges and closes: exactly once, ERROR when it is not open. The slot stays
 * until ledger_written() says that the journal has it. */
int ledger_settle(ledger_t *l, uint64_t id, uint64_t charge);
void ledger_written(ledger_t *l, uint64_t id);

/* Takes over what dead workers left: open reservations are charged in full,
 * settlements that they did not journal wait in the new owner's name. Writes
 * up to `max` ids into ret; returns how many. */
size_t ledger_orphans(ledger_t *l, uint64_t owner,
                      int (*alive)(void *data, uint64_t worker), void *data,
                      uint64_t *ret, size_t max);

/* For replay: as if the reservation had just been made by nobody. */
void ledger_restore(ledger_t *l, uint64_t id, uint32_t day, uint64_t tokens);

/* After replay: charges all that is open in full, and frees every slot. */
void ledger_charge_open(ledger_t *l);

static inline const ledger_head_t *
ledger_head(const ledger_t *l)
{
    return &l->head[l->cur & 1];
}

static inline uint64_t
ledger_seq(uint64_t id)
{
    return id / LEDGER_SLOTS;
}

#endif
