/*
 * effective.h - `kars-router -T`: the whole configuration as it is in effect.
 */
#ifndef KARS_PROC_EFFECTIVE_H
#define KARS_PROC_EFFECTIVE_H

#include "base/err.h"

#include <stdio.h>

/*
 * Loads the configuration as -t does and writes it to out: includes resolved,
 * lists written out, paths absolute, each value with its file and line, values
 * that nobody wrote as comments; secrets as the references that they are. For
 * each route what runs, in its order. What is written can be loaded again and
 * means the same; all that cannot be written as a directive is a comment.
 */
int kars__effective_print(const char *path, FILE *out, kars_err_t *err);

#endif
