/*
 * abi_later.h - the functions of kars_module.h that run something later; all as
 * they are described there.
 */
#ifndef KARS_PROC_ABI_LATER_H
#define KARS_PROC_ABI_LATER_H

#include "kars_module.h"

int kars__abi_offload(kars_req_t *r, void (*work)(void *ctx), kars_wake_pt fn);
kars_timer_t *kars__abi_timer(kars_cycle_t *c, uint32_t after_ms,
                              void (*fn)(kars_cycle_t *cycle, void *data),
                              void *data);
void kars__abi_timer_cancel(kars_timer_t *t);
int kars__abi_task(kars_cycle_t *c, int (*work)(void *data),
                   void (*done)(kars_cycle_t *cycle, int error, void *data),
                   void *data);
int kars__abi_turn_end(kars_cycle_t *c,
                       void (*fn)(kars_cycle_t *cycle, void *data), void *data);

#endif
