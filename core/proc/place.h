/*
 * place.h - the level of the configuration that a module's check() looks at:
 * what kars_place_t shows of it, and what functions that take one need.
 */
#ifndef KARS_PROC_PLACE_H
#define KARS_PROC_PLACE_H

#include "http/runtime.h"

/* A member that check() asked to watch. */
typedef struct kars__place_watch_s kars__place_watch_t;
struct kars__place_watch_s {
    kars__place_watch_t *next; /* in the order of asking */
    kars_json_watch_t row;
    uint32_t mod;
};

typedef struct {
    kars_place_t place; /* first: modules hold a pointer to it */
    const kars__mod_t *mod;
    const void *conf; /* what is being checked, and where it came from */
    const kars__prov_t *prov;
    kars__place_watch_t **watches; /* the end of the route's; NULL: no route */
    int said;                      /* the error names its file and line */
} kars__place_t;

/* As kars_api_s says of json_watch and check_err. */
int kars__place_watch(const kars_place_t *place, const kars_json_watch_t *row);
int kars__place_err(const kars_place_t *place, const void *field,
                    kars_err_t *err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
