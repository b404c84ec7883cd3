/*
 * pool.h - memory with one owner and one end.
 *
 * A pool hands out memory by moving a pointer and gives all of it back at
 * once. It has a cap: an allocation beyond it is NULL, which every caller
 * treats as an ordinary refusal. Standard blocks are recycled through a small
 * per-process list, so that a request costs no call of malloc.
 */
#ifndef KARS_BASE_POOL_H
#define KARS_BASE_POOL_H

#include "kars_module.h"

/* A pool that hands out at most cap bytes (0: no limit). NULL: no memory. */
kars_pool_t *kars__pool_create(size_t cap);

/* Runs what kars__pown() registered, last first, then frees everything. */
void kars__pool_destroy(kars_pool_t *pool);

/* Aligned to 16 bytes; NULL at the cap. size 0 gives a unique pointer. */
void *kars__palloc(kars_pool_t *pool, size_t size);

/* n * size zeroed bytes; NULL at the cap or when the product overflows. */
void *kars__pcalloc(kars_pool_t *pool, size_t n, size_t size);

/* Zeroed; release(data) runs when the pool goes. The owner of a resource is
 * made before the resource is taken. */
void *kars__pown(kars_pool_t *pool, size_t size, void (*release)(void *data));

/* A copy, terminated by a NUL that does not count. data NULL: no memory. */
kars_str_t kars__pdup(kars_pool_t *pool, kars_str_t s);

/* printf into pool memory. data NULL: no memory. */
kars_str_t kars__pprintf(kars_pool_t *pool, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Another cap from now on; what was handed out stays. */
void kars__pool_cap(kars_pool_t *pool, size_t cap);

/* Bytes handed out so far. */
size_t kars__pool_used(const kars_pool_t *pool);

/* Tests: the nth allocation from now on fails, of all pools; 0: none. */
void kars__pool_fail_at(uint64_t n);
/* Allocations until that one; 0: it has failed, or there is none. */
uint64_t kars__pool_fail_left(void);

#define kars__pnew(pool, type) ((type *) kars__pcalloc(pool, 1, sizeof(type)))
#define kars__pnewn(pool, type, n) \
    ((type *) kars__pcalloc(pool, n, sizeof(type)))

/* Memory outside pools, for what grows and shrinks. The only door to malloc:
 * kars__alloc() is zeroed; NULL: no memory. */
void *kars__alloc(size_t size);
void *kars__realloc(void *p, size_t size);
void kars__free(void *p);

#endif
