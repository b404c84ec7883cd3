/*
 * effective_route.h - what a route runs, as comments for `kars-router -T`.
 */
#ifndef KARS_PROC_EFFECTIVE_ROUTE_H
#define KARS_PROC_EFFECTIVE_ROUTE_H

#include "http/runtime.h"

#include <stdio.h>

/* Hooks by phase, filters, watches, and whether and why the body is held. */
void kars__effective_route(FILE *out, const kars_cycle_t *c,
                           const kars__route_t *r, int depth);

#endif
