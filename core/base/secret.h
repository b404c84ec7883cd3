/*
 * secret.h - bytes that never leave: guarded pages, locked where the system
 * allows it, left out of core dumps, zeroed at the end (libsodium).
 */
#ifndef KARS_BASE_SECRET_H
#define KARS_BASE_SECRET_H

#include "base/err.h"
#include "base/pool.h"

/* Copies n bytes, drops one trailing line end, and lets the pool own the
 * result. Refuses an empty secret. NULL and *err on failure. */
kars_secret_t *kars__secret_create(kars_pool_t *pool, const void *bytes,
                                   size_t n, kars_err_t *err);

/* The same of exactly these bytes. */
kars_secret_t *kars__secret_copy(kars_pool_t *pool, kars_str_t bytes,
                                 kars_err_t *err);

/* One more owner: it is zeroed with the last. Returns it; NULL: no memory. */
kars_secret_t *kars__secret_share(kars_pool_t *pool, kars_secret_t *secret);

/* Reads an open file from its start; `name` is for the error text. */
kars_secret_t *kars__secret_read(kars_pool_t *pool, int fd, const char *name,
                                 kars_err_t *err);

/* Borrowed, as long as one of its pools lives. */
kars_str_t kars__secret_str(const kars_secret_t *secret);

#endif
