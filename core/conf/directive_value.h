/*
 * directive_value.h - one word of a directive to the C value of its type.
 */
#ifndef KARS_CONF_DIRECTIVE_VALUE_H
#define KARS_CONF_DIRECTIVE_VALUE_H

#include "conf/directive.h"

/* What a value is made with, and may say about a word in an error. */
typedef struct {
    kars_pool_t *pool;
    const char *file; /* a relative path stands beside it; NULL: refused */
    const kars__dresolve_t *resolve; /* may be NULL */
    int quiet;                       /* errors do not show the word */
} kars__value_t;

/* Bytes of the field; 0: not a type, or CUSTOM, whose size nobody knows. */
size_t kars__value_size(uint32_t type);

/* *ret is written on success only. Errors say what was expected. */
int kars__value_parse(const kars__value_t *v, uint32_t type, kars_str_t word,
                      const char *values, void *ret, kars_err_t *err);

/* A LIST from a text; sep is ' ' (any number) or ',' (between items). */
int kars__value_list(const kars__value_t *v, kars_str_t text, char sep,
                     kars_list_t *ret, kars_err_t *err);

#endif
