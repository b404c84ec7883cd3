/*
 * parse.h - words to values. All of the input, or nothing: on KARS_ERROR the
 * output keeps what it had.
 */
#ifndef KARS_BASE_PARSE_H
#define KARS_BASE_PARSE_H

#include "kars_module.h"

int kars__parse_uint(kars_str_t s, uint64_t max, uint64_t *ret);
int kars__parse_hex(kars_str_t s, uint64_t max, uint64_t *ret);

/* 64k, 8m, 1g: binary units, bytes. */
int kars__parse_size(kars_str_t s, uint64_t *ret);

/* 200k, 4m, 1g: decimal units. */
int kars__parse_count(kars_str_t s, uint64_t *ret);

/* 250ms, 30s, 5m, 2h, 7d; a bare number is refused: units are written out. */
int kars__parse_msec(kars_str_t s, uint64_t *ret);

/* 100/60s, 5/m: count per time. */
int kars__parse_rate(kars_str_t s, kars_rate_t *ret);

/* host:port, [v6]:port; host borrowed from s, brackets removed. */
int kars__parse_hostport(kars_str_t s, kars_hostport_t *ret);

/* "on" or "off". */
int kars__parse_flag(kars_str_t s, int32_t *ret);

#endif
