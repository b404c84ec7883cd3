/*
 * known.h - what the master remembers of the paths that a load asked for while
 * it started. A worker that serves, and runs code of modules, may have these
 * opened again, and nothing else.
 */
#ifndef KARS_PROC_KNOWN_H
#define KARS_PROC_KNOWN_H

#include "base/err.h"

typedef struct kars__known_s kars__known_t; /* a list; NULL: empty */

/* KARS_ERROR: no memory, or more than any configuration names. */
int kars__known_add(kars__known_t **list, uint32_t load, const char *path);
int kars__known_has(const kars__known_t *list, uint32_t load, const char *path);

/* Forgets all loads but this one (0: all), or this one. */
void kars__known_keep(kars__known_t **list, uint32_t load);
void kars__known_drop(kars__known_t **list, uint32_t load);

#endif
