/*
 * str.h - bytes with a length.
 */
#ifndef KARS_BASE_STR_H
#define KARS_BASE_STR_H

#include "kars_module.h"

/* ASCII only: what protocols compare without case. */
int kars__str_istarts(kars_str_t s, kars_str_t prefix);

/* Here, so that most comparisons end with that of the lengths. */
static inline int
kars__str_ieq(kars_str_t a, kars_str_t b)
{
    return a.len == b.len && kars__str_istarts(a, b);
}

kars_str_t kars__strz(const char *z);    /* NULL gives an empty string */
kars_str_t kars__str_trim(kars_str_t s); /* blanks and tabs at both ends */

/* Does a list like "gzip, chunked" hold the token, without case? */
int kars__str_has_token(kars_str_t list, kars_str_t token);

/* Decimal digits of n into p (20 bytes are enough); returns how many. */
size_t kars__u64_to_dec(uint64_t n, char *p);

/* Lower-case hex, 2 * n characters, no NUL. */
void kars__to_hex(const unsigned char *in, size_t n, char *ret);

/* The one of n names nearest to s by edit distance, or NULL if none is near. */
const char *kars__nearest(kars_str_t s, const char *const *names, size_t n);

#endif
