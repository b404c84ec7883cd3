/*
 * api.c - the function table as a module's sources see it in tests.
 *
 * Tests and fuzzers link the pure sources of modules (module_unit_srcs in
 * modules/NAME/build) without the module's own definition, which would define
 * this pointer. Pure sources do not use it, unless a test sets it first.
 */
#include "kars_module.h"

extern const kars_api_t *kars_api __attribute__((visibility("hidden")));
const kars_api_t *kars_api;
