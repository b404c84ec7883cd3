/*
 * head_check.h - the second opinion: llhttp reads the same head.
 */
#ifndef KARS_HTTP_HEAD_CHECK_H
#define KARS_HTTP_HEAD_CHECK_H

#include "http/head.h"

/* OK when llhttp reads the same start line, headers and framing. target: as it
 * stood in the request line; empty for a response. */
int kars__head_check(const char *p, size_t n, const kars__head_t *head,
                     kars_str_t target);

#endif
