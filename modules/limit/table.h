/*
 * table.h - counts by key in shared memory of a fixed size. Nothing here locks,
 * waits or allocates; whoever calls holds the area's lock.
 *
 * A key is 128 bits of a keyed hash: what a caller sends cannot aim at a slot.
 * Rates are GCRA (ATM Forum TM 4.0, the virtual scheduling algorithm): a slot
 * holds the time at which the key's bucket is empty again. A key may stand in
 * TABLE_WAYS slots; when all are taken the one whose bucket empties first gives
 * way, which forgets least. Open requests are counted by key and worker, so
 * that those of a worker that died can be told and do not count.
 */
#ifndef LIMIT_TABLE_H
#define LIMIT_TABLE_H

#include "kars_module.h"

#define TABLE_WAYS 16u

typedef struct {
    uint64_t v[2];
} table_key_t;

typedef struct {
    table_key_t key;  /* 0, 0: free */
    uint64_t full_ns; /* monotonic: when the bucket is empty again */
    uint64_t unused;
} table_rate_t;

typedef struct {
    table_key_t key;
    uint64_t worker;
    uint64_t open; /* 0: free */
} table_open_t;

typedef struct {
    uint64_t seed[4]; /* 0: not yet made */
    uint64_t nslots;  /* of each, a power of two, TABLE_WAYS at least */
    uint64_t slots;   /* where they begin: rates, then open requests */
} table_head_t;

/* Bytes of a table of n slots; *ret_slots: n rounded up. */
size_t table_size(uint64_t n, uint64_t *ret_slots);

/* In zeroed memory of that size, or after its last holder died inside. */
void table_init(void *table, uint64_t nslots, const uint64_t seed[4]);

/* Of the pieces together; pieces do not run into each other. */
table_key_t table_key(const void *table, const kars_str_t *pieces, size_t n);

/* One more at now_ns. 0: it may pass; else nanoseconds until it might. */
uint64_t table_take(void *table, table_key_t key, uint64_t now_ns,
                    uint64_t every_ns, uint64_t burst);

/*
 * One more open request of this worker, unless `limit` are open in all workers
 * that alive() knows. OK; DECLINED: the limit; ERROR: no slot is free.
 */
int table_open(void *table, table_key_t key, uint64_t worker, uint64_t limit,
               int (*alive)(void *data, uint64_t worker), void *data);
void table_close(void *table, table_key_t key, uint64_t worker);

#endif
