/*
 * err.h - what failed, said once, in words that the caller may add to.
 */
#ifndef KARS_BASE_ERR_H
#define KARS_BASE_ERR_H

#include "kars_module.h"

#define KARS_ERR_INIT              \
    {                              \
        .size = sizeof(kars_err_t) \
    }

/*
 * Writes "<what>: <strerror(errnum)>" (errnum 0: only what) into *err, which
 * may be NULL. Always returns KARS_ERROR, so that it can be returned.
 */
int kars__err(kars_err_t *err, int errnum, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "<prefix>: " before what *err already says. Returns KARS_ERROR. */
int kars__err_prefix(kars_err_t *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif
