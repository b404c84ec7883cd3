/*
 * module.h - modules: found, checked, opened.
 */
#ifndef KARS_PROC_MODULE_H
#define KARS_PROC_MODULE_H

#include "http/runtime.h"

/* The function table that every module gets (abi.c). */
extern const kars_api_t kars__api;

/* What names mean while a configuration is being read; else NULL. */
extern const kars__dresolve_t *kars__abi_resolve;

/* Modules that are part of the program, found by name before any file; ends
 * with NULL. NULL: none. main() puts kars__builtins here, the unit tests
 * theirs. */
extern const kars_module_t *const *kars__module_builtins;

/* What configure was told to build in; ends with NULL. Written by the build,
 * next to core/main.c. */
extern const kars_module_t *const kars__builtins[];

/*
 * Opens DIR/NAME.so (or NAME itself when it holds a slash), reads its head
 * from the file, refuses what does not fit, and only then lets it run. The
 * result lives in pool; the module stays loaded until the process ends.
 */
int kars__module_open(kars_pool_t *pool, const char *dir, kars_str_t name,
                      kars__mod_t **ret, kars_err_t *err);

/* Does the order of the load_module lines keep every `after` and `before`? */
int kars__modules_order(kars__mod_t *const *mods, size_t n, kars_err_t *err);

/* Services: binds needs to what is provided. */
int kars__modules_link(kars__mod_t *const *mods, size_t n, kars_err_t *err);

/* The order in which modules start: load order, but who provides a service
 * starts before who needs it (and so stops after it). ret has room for n. */
void kars__modules_start_order(kars__mod_t *const *mods, size_t n,
                               kars__mod_t **ret);

#endif
