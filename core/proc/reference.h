/*
 * reference.h - every directive there is, as the manual prints it.
 */
#ifndef KARS_PROC_REFERENCE_H
#define KARS_PROC_REFERENCE_H

#include "base/err.h"

/* Prints the tables of core and of each module in dir to standard output, in
 * Markdown: the generated part of docs/directives.md. */
int kars__reference_print(const char *dir, kars_err_t *err);

#endif
