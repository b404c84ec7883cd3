/*
 * answer.h - small helpers for texts of answers.
 */
#ifndef KARS_HTTP_ANSWER_H
#define KARS_HTTP_ANSWER_H

#include "base/pool.h"

/* A JSON string with its quotes. Bytes from 0x80 pass. data NULL: no memory. */
kars_str_t kars__json_quote(kars_pool_t *pool, kars_str_t s);

/* The value of a Date header, now (RFC 9110 6.6.1); until the next call. */
kars_str_t kars__answer_date(kars_cycle_t *cycle);

#endif
