/* pool.c - pools; see pool.h for what they promise. */
#include "base/pool.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define POOL_ALIGN 16u
#define POOL_BLOCK 4096u /* of a standard block, header included */
#define POOL_KEEP  192u  /* standard blocks kept for the next pool */

typedef struct pool_block_s pool_block_t;
struct pool_block_s {
    pool_block_t *next;
    size_t size; /* usable bytes after this header */
};

typedef struct pool_own_s pool_own_t;
struct pool_own_s {
    pool_own_t *next;
    void (*release)(void *data);
};

struct kars_pool_s {
    pool_block_t *blocks; /* newest first; the oldest holds this struct */
    char *at;
    char *end;
    pool_own_t *owned;
    size_t cap;
    size_t used;
};

#ifndef KARS_POOL_DEBUG
static pool_block_t *pool_kept;
static unsigned pool_nkept;
#endif
static uint64_t pool_fail_in;

static size_t
pool_round(size_t n)
{
    return (n + POOL_ALIGN - 1) & ~(size_t) (POOL_ALIGN - 1);
}

#define POOL_HEAD (sizeof(pool_block_t)) /* 16: keeps the alignment */

static pool_block_t *
pool_block_get(size_t usable)
{
    pool_block_t *b;

#ifndef KARS_POOL_DEBUG
    if (usable <= POOL_BLOCK - POOL_HEAD && pool_kept != NULL) {
        b = pool_kept;
        pool_kept = b->next;
        pool_nkept--;
        return b;
    }
    if (usable < POOL_BLOCK - POOL_HEAD) {
        usable = POOL_BLOCK - POOL_HEAD;
    }
#endif
    b = malloc(POOL_HEAD + usable);
    if (b != NULL) {
        b->size = usable;
    }
    return b;
}

static void
pool_block_put(pool_block_t *b)
{
#ifndef KARS_POOL_DEBUG
    if (b->size == POOL_BLOCK - POOL_HEAD && pool_nkept < POOL_KEEP) {
        b->next = pool_kept;
        pool_kept = b;
        pool_nkept++;
        return;
    }
#endif
    free(b);
}

kars_pool_t *
kars__pool_create(size_t cap)
{
    size_t head = pool_round(sizeof(kars_pool_t));
    pool_block_t *b = pool_block_get(head);

    if (b == NULL) {
        return NULL;
    }

    kars_pool_t *pool = (kars_pool_t *) (b + 1);

    b->next = NULL;
    pool->blocks = b;
    pool->at = (char *) (b + 1) + head;
    pool->end = (char *) (b + 1) + b->size;
    pool->owned = NULL;
    pool->cap = cap;
    pool->used = 0;
    return pool;
}

void
kars__pool_destroy(kars_pool_t *pool)
{
    if (pool == NULL) {
        return;
    }

    for (pool_own_t *o = pool->owned; o != NULL; o = o->next) {
        o->release((char *) o + pool_round(sizeof(*o)));
    }

    pool_block_t *b = pool->blocks;

    while (b != NULL) {
        pool_block_t *next = b->next;

        pool_block_put(b);
        b = next;
    }
}

static void *
pool_alloc_slow(kars_pool_t *pool, size_t size)
{
    pool_block_t *b = pool_block_get(size);

    if (b == NULL) {
        return NULL;
    }

    char *data = (char *) (b + 1);

    /* The block that can still give more stays the current one. */
    if ((size_t) (pool->end - pool->at) > b->size - size) {
        b->next = pool->blocks->next;
        pool->blocks->next = b;
        return data;
    }

    b->next = pool->blocks;
    pool->blocks = b;
    pool->at = data + size;
    pool->end = data + b->size;
    return data;
}

void *
kars__palloc(kars_pool_t *pool, size_t size)
{
    if (pool_fail_in != 0 && --pool_fail_in == 0) {
        return NULL;
    }
    if (size > SIZE_MAX / 2) {
        return NULL;
    }

    size = size == 0 ? POOL_ALIGN : pool_round(size);
    if (pool->cap != 0 &&
        (pool->used >= pool->cap || size > pool->cap - pool->used)) {
        return NULL;
    }

    void *p;

    if (size <= (size_t) (pool->end - pool->at)) {
        p = pool->at;
        pool->at += size;
    } else {
        p = pool_alloc_slow(pool, size);
    }
    if (p != NULL) {
        pool->used += size;
    }
    return p;
}

void *
kars__pcalloc(kars_pool_t *pool, size_t n, size_t size)
{
    size_t total;

    if (__builtin_mul_overflow(n, size, &total)) {
        return NULL;
    }

    void *p = kars__palloc(pool, total);

    if (p != NULL) {
        memset(p, 0, total);
    }
    return p;
}

void *
kars__pown(kars_pool_t *pool, size_t size, void (*release)(void *data))
{
    size_t head = pool_round(sizeof(pool_own_t));

    if (size > SIZE_MAX / 2) {
        return NULL;
    }

    pool_own_t *o = kars__pcalloc(pool, 1, head + size);

    if (o == NULL) {
        return NULL;
    }

    o->release = release;
    o->next = pool->owned;
    pool->owned = o;
    return (char *) o + head;
}

kars_str_t
kars__pdup(kars_pool_t *pool, kars_str_t s)
{
    char *p = kars__palloc(pool, s.len + 1);

    if (p == NULL) {
        return (kars_str_t){ NULL, 0 };
    }
    if (s.len != 0) {
        memcpy(p, s.data, s.len);
    }
    p[s.len] = '\0';
    return (kars_str_t){ p, s.len };
}

kars_str_t
kars__pprintf(kars_pool_t *pool, const char *fmt, ...)
{
    char stack[512];
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(stack, sizeof(stack), fmt, ap);
    va_end(ap);

    if (n < 0) {
        return (kars_str_t){ NULL, 0 };
    }
    if ((size_t) n < sizeof(stack)) {
        return kars__pdup(pool, (kars_str_t){ stack, (size_t) n });
    }

    char *p = kars__palloc(pool, (size_t) n + 1);

    if (p == NULL) {
        return (kars_str_t){ NULL, 0 };
    }
    va_start(ap, fmt);
    (void) vsnprintf(p, (size_t) n + 1, fmt, ap);
    va_end(ap);
    return (kars_str_t){ p, (size_t) n };
}

void
kars__pool_cap(kars_pool_t *pool, size_t cap)
{
    pool->cap = cap;
}

size_t
kars__pool_used(const kars_pool_t *pool)
{
    return pool->used;
}

void
kars__pool_fail_at(uint64_t n)
{
    pool_fail_in = n;
}

uint64_t
kars__pool_fail_left(void)
{
    return pool_fail_in;
}

void *
kars__alloc(size_t size)
{
    /* glibc's calloc() passes by the cache that its malloc() keeps for small
     * sizes; large ones may come zeroed from the kernel. */
    if (size > 1024) {
        return calloc(1, size);
    }

    void *p = malloc(size);

    if (p != NULL) {
        memset(p, 0, size);
    }
    return p;
}

void *
kars__realloc(void *p, size_t size)
{
    return realloc(p, size);
}

void
kars__free(void *p)
{
    free(p);
}
