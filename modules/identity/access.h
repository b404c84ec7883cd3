/*
 * access.h - the classes of callers, and which routes each may call.
 *
 * The table is data: rows are read from the top, and the first whose path and
 * methods fit decides. What no row names, nobody may call. Pure.
 */
#ifndef IDENTITY_ACCESS_H
#define IDENTITY_ACCESS_H

#include "kars_module.h"

/* Classes are bits, so that a route's callers are one number. */
enum {
    ACCESS_AGENT = 1 << 0,
    ACCESS_OPERATOR = 1 << 1,
    ACCESS_CONTROLLER = 1 << 2,
    ACCESS_PEER = 1 << 3,
    ACCESS_OPEN = 1 << 4 /* whoever it is, known or not */
};

/* Methods are bits too; HEAD counts as GET. */
enum {
    ACCESS_GET = 1 << 0,
    ACCESS_POST = 1 << 1,
    ACCESS_PUT = 1 << 2,
    ACCESS_PATCH = 1 << 3,
    ACCESS_DELETE = 1 << 4,
    ACCESS_OTHER = 1 << 5,
    ACCESS_ANY = (1 << 6) - 1
};

typedef struct {
    const char *path; /* literal, `{seg}`: one segment, a last `*`: the rest */
    uint32_t methods;
    uint32_t classes; /* 0: not served, whatever the rows below say */
} access_row_t;

/* The table itself, for the tests and the manual; ends with a NULL path. */
extern const access_row_t access_table[];

/* The class of this name, or 0. */
uint32_t access_class(kars_str_t name);

/* The name of one class; of several: "agent or operator", into buf. */
kars_str_t access_class_name(uint32_t one);
kars_str_t access_class_names(uint32_t classes, char *buf, size_t cap);

/* The bits of one method, and of a route's list: "GET,PUT" or "*". */
uint32_t access_method(kars_str_t method);
uint32_t access_methods(kars_str_t list);

/* Does a route's pattern lie wholly within a row's path? A route's `{seg}` is
 * covered by a `{seg}` or `*` only, its `{rest...}` by `*` only. */
int access_path_fits(const char *path, kars_str_t route);

/* Which classes the table lets call this route with this one method. */
uint32_t access_lookup(uint32_t method, kars_str_t route);

/* May this class, given who may? */
int access_allows(uint32_t classes, uint32_t one);

#endif
