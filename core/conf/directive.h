/*
 * directive.h - tables of directives: what they take, where they may stand,
 * where their values came from.
 */
#ifndef KARS_CONF_DIRECTIVE_H
#define KARS_CONF_DIRECTIVE_H

#include "conf/conf.h"

/*
 * Where the value of one row came from; an array of these beside each conf.
 * `set` is the same for all rows of a name; `file` (borrowed from the node)
 * stands in the first of them, and in each row that a word of its own set.
 */
typedef struct {
    const char *file; /* NULL: the default */
    uint32_t line;
    uint32_t set; /* KARS__SET_* */
} kars__prov_t;

enum { KARS__SET_HERE = 1, KARS__SET_OUTER = 2 };

/* One owner's table, copied to our own row size. */
typedef struct {
    const char *owner; /* module name, or "core" */
    kars_directive_t *rows;
    size_t nrows;
    size_t conf_size;
} kars__dtable_t;

/* How names become handles; a NULL function refuses that type. */
typedef struct {
    void *data;
    kars_upstream_t *(*upstream)(void *data, kars_str_t name);
    kars_zone_t *(*zone)(void *data, kars_str_t name);
    /* ref is "file:PATH" or "env:NAME" */
    kars_secret_t *(*secret)(void *data, kars_str_t ref, kars_err_t *err);
    /* word is a target other than off; a path in it is absolute */
    kars_log_t *(*log)(void *data, kars_str_t word, kars_err_t *err);
} kars__dresolve_t;

/*
 * Copies rows (stride bytes apart, ended by a NULL name) and checks them: known
 * type, field inside conf_size, a doc line, rows of a name together. A CUSTOM
 * or REPEAT row is the only one of its name, a LIST row the last without a
 * key. `at` 0 and PASSIVE are taken from the first row of the name.
 */
int kars__dtable_init(kars__dtable_t *t, kars_pool_t *pool, const char *owner,
                      const void *rows, size_t stride, size_t conf_size,
                      kars_err_t *err);

/* First row of that name, or NULL. */
const kars_directive_t *kars__dtable_find(const kars__dtable_t *t,
                                          kars_str_t name);

/* The name in any of n tables nearest to this one, or NULL if none is near. */
const char *kars__dtable_nearest(const kars__dtable_t *const *tables, size_t n,
                                 kars_str_t name);

/* Writes every default into a zeroed conf. */
int kars__directive_defaults(const kars__dtable_t *t, void *conf,
                             kars_pool_t *pool, const kars__dresolve_t *resolve,
                             kars_err_t *err);

/*
 * Applies one directive to conf. An inner level's conf and prov begin as a
 * copy made with kars__directive_inner(); the first time a name stands at a
 * level it replaces what came from outside (lists too, unless the first word
 * is `inherit`, and its keyed rows go back to their defaults), a second time
 * is an error ("duplicate ... first in FILE:LINE") unless KARS_D_REPEAT.
 */
int kars__directive_set(const kars__dtable_t *t, const kars__conf_node_t *node,
                        uint32_t at, void *conf, kars__prov_t *prov,
                        kars_pool_t *pool, const kars__dresolve_t *resolve,
                        kars_err_t *err);

/* A copy of the outer level for an inner one: what was set counts as outer. */
int kars__directive_inner(const kars__dtable_t *t, const void *conf,
                          const kars__prov_t *prov, kars_pool_t *pool,
                          void **ret_conf, kars__prov_t **ret_prov);

/* Is a row that may stand in a route, and is not passive, set here or outside?
 */
int kars__directive_active(const kars__dtable_t *t, const kars__prov_t *prov);

/* The row whose field is at this address inside conf, or NULL. */
const kars_directive_t *kars__directive_of(const kars__dtable_t *t,
                                           const void *conf, const void *field,
                                           size_t *ret_row);

/*
 * One word as a KARS_T_*, into its C type; see kars_parse() of the header. A
 * LIST is split at its commas. Strings are copied into the pool and terminated
 * by a NUL that does not count. `file` is what a relative PATH stands beside.
 */
int kars__directive_parse(uint32_t type, kars_str_t word, const char *values,
                          void *ret, kars_pool_t *pool, const char *file,
                          const kars__dresolve_t *resolve, kars_err_t *err);

/* The children of a directive's block, for kars_block_each(). */
int kars__directive_block_each(const kars_setting_t *s,
                               int (*fn)(const kars_setting_t *child,
                                         void *data, kars_err_t *err),
                               void *data, kars_err_t *err);

#endif
