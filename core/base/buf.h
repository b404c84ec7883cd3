/*
 * buf.h - bytes on their way: chains of views into counted blocks.
 *
 * A block is what read(2) fills; a buffer is a view into one. Handing bytes on
 * costs a view, never a copy. Every buffer belongs to a list of its owner (a
 * request, an exchange), so that what a module forgot is freed with the owner.
 */
#ifndef KARS_BASE_BUF_H
#define KARS_BASE_BUF_H

#include "kars_module.h"

#define KARS__BLOCK_SIZE 16384u /* usable bytes of a standard block */

typedef struct kars__block_s kars__block_t;
struct kars__block_s {
    uint32_t refs;
    uint32_t size;       /* usable bytes */
    kars__block_t *next; /* in the free list */
    char data[];
};

/* One reference is the caller's. NULL: no memory. size 0: the standard one. */
kars__block_t *kars__block_get(size_t size);
void kars__block_ref(kars__block_t *b);
void kars__block_unref(kars__block_t *b); /* NULL is harmless */

typedef struct {
    kars_buf_t *first; /* all live buffers of this owner */
} kars__bufs_t;

struct kars_buf_s {
    kars_buf_t *next; /* of the chain it travels in */
    const char *data;
    size_t len;
    kars__block_t *block; /* counted; NULL: memory of the owner's pool */
    kars__bufs_t *owner;
    kars_buf_t *own_prev;
    kars_buf_t *own_next;
};

/* A view; takes its own reference on block. NULL: no memory. */
kars_buf_t *kars__buf_view(kars__bufs_t *owner, kars__block_t *block,
                           const char *data, size_t len);
kars_buf_t *kars__buf_copy(kars__bufs_t *owner, kars_str_t bytes);
void kars__buf_free(kars_buf_t *b);
void kars__bufs_done(kars__bufs_t *owner); /* frees what is left */

/* Frees every buffer of a chain. */
void kars__chain_free(kars_buf_t *chain);
size_t kars__chain_len(const kars_buf_t *chain);
kars_buf_t **kars__chain_tail(kars_buf_t **chain);

/* The buffers of a chain that are left after n bytes were taken; what is used
 * up is freed, a partly used one is shortened. */
kars_buf_t *kars__chain_consume(kars_buf_t *chain, size_t n);

#endif
