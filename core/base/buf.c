/* buf.c - blocks, views and chains. */
#include "base/buf.h"
#include "base/pool.h"

#define BUF_KEEP   512u /* views kept for reuse */
#define BLOCK_KEEP 96u

#ifndef KARS_POOL_DEBUG
static kars__block_t *block_kept;
static unsigned block_nkept;
static kars_buf_t *buf_kept;
static unsigned buf_nkept;
#endif

kars__block_t *
kars__block_get(size_t size)
{
    kars__block_t *b;

    if (size == 0) {
        size = KARS__BLOCK_SIZE;
    }
#ifndef KARS_POOL_DEBUG
    if (size == KARS__BLOCK_SIZE && block_kept != NULL) {
        b = block_kept;
        block_kept = b->next;
        block_nkept--;
        b->refs = 1;
        return b;
    }
#endif
    b = size > UINT32_MAX ? NULL : kars__realloc(NULL, sizeof(*b) + size);
    if (b != NULL) {
        b->refs = 1;
        b->size = (uint32_t) size;
        b->next = NULL;
    }
    return b;
}

void
kars__block_ref(kars__block_t *b)
{
    b->refs++;
}

void
kars__block_unref(kars__block_t *b)
{
    if (b == NULL || --b->refs != 0) {
        return;
    }
#ifndef KARS_POOL_DEBUG
    if (b->size == KARS__BLOCK_SIZE && block_nkept < BLOCK_KEEP) {
        b->next = block_kept;
        block_kept = b;
        block_nkept++;
        return;
    }
#endif
    kars__free(b);
}

static kars_buf_t *
buf_get(void)
{
#ifndef KARS_POOL_DEBUG
    if (buf_kept != NULL) {
        kars_buf_t *b = buf_kept;

        buf_kept = b->next;
        buf_nkept--;
        return b;
    }
#endif
    return kars__realloc(NULL, sizeof(kars_buf_t));
}

kars_buf_t *
kars__buf_view(kars__bufs_t *owner, kars__block_t *block, const char *data,
               size_t len)
{
    kars_buf_t *b = buf_get();

    if (b == NULL) {
        return NULL;
    }

    b->next = NULL;
    b->data = data;
    b->len = len;
    b->block = block;
    if (block != NULL) {
        kars__block_ref(block);
    }
    b->owner = owner;
    b->own_prev = NULL;
    b->own_next = owner->first;
    if (owner->first != NULL) {
        owner->first->own_prev = b;
    }
    owner->first = b;
    return b;
}

kars_buf_t *
kars__buf_copy(kars__bufs_t *owner, kars_str_t bytes)
{
    kars__block_t *block = kars__block_get(bytes.len == 0 ? 1 : bytes.len);

    if (block == NULL) {
        return NULL;
    }
    if (bytes.len != 0) {
        memcpy(block->data, bytes.data, bytes.len);
    }

    kars_buf_t *b = kars__buf_view(owner, block, block->data, bytes.len);

    kars__block_unref(block); /* the view holds it now */
    return b;
}

void
kars__buf_free(kars_buf_t *b)
{
    if (b->own_prev != NULL) {
        b->own_prev->own_next = b->own_next;
    } else {
        b->owner->first = b->own_next;
    }
    if (b->own_next != NULL) {
        b->own_next->own_prev = b->own_prev;
    }
    kars__block_unref(b->block);
#ifndef KARS_POOL_DEBUG
    if (buf_nkept < BUF_KEEP) {
        b->next = buf_kept;
        buf_kept = b;
        buf_nkept++;
        return;
    }
#endif
    kars__free(b);
}

void
kars__bufs_done(kars__bufs_t *owner)
{
    while (owner->first != NULL) {
        kars__buf_free(owner->first);
    }
}

void
kars__chain_free(kars_buf_t *chain)
{
    while (chain != NULL) {
        kars_buf_t *next = chain->next;

        kars__buf_free(chain);
        chain = next;
    }
}

size_t
kars__chain_len(const kars_buf_t *chain)
{
    size_t n = 0;

    for (; chain != NULL; chain = chain->next) {
        n += chain->len;
    }
    return n;
}

kars_buf_t **
kars__chain_tail(kars_buf_t **chain)
{
    while (*chain != NULL) {
        chain = &(*chain)->next;
    }
    return chain;
}

kars_buf_t *
kars__chain_consume(kars_buf_t *chain, size_t n)
{
    while (chain != NULL && n >= chain->len) {
        kars_buf_t *next = chain->next;

        n -= chain->len;
        kars__buf_free(chain);
        chain = next;
    }
    if (chain != NULL) {
        chain->data += n;
        chain->len -= n;
    }
    return chain;
}
