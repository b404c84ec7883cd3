/*
 * format.h - log formats: "$name" and "${name}" between literal bytes, "$$" for
 * a dollar. A text line is the pieces in a row; a JSON line is an object whose
 * members are the pieces `name=value`.
 *
 * Whatever the values are, a text line has no control byte, quote or backslash
 * of theirs unescaped, and a JSON line is valid JSON in valid UTF-8.
 */
#ifndef ACCESS_LOG_FORMAT_H
#define ACCESS_LOG_FORMAT_H

#include "kars_module.h"

#define FORMAT_LINE  4095u /* bytes of a line, without its end */
#define FORMAT_FIXED 1400u /* of those, what is not a value */
#define FORMAT_VARS  48u   /* values of a line */
#define FORMAT_VALUE \
    1024u /* bytes of a value, escaped; it is cut with a mark */

enum { FORMAT_LITERAL = 0, FORMAT_VAR, FORMAT_MEMBER };

typedef struct {
    uint32_t kind;
    uint32_t var;    /* VAR: which, as the resolver said */
    kars_str_t text; /* LITERAL: bytes; VAR: its name's rest; MEMBER: name */
} format_part_t;

typedef struct {
    kars_str_t name;
    uint32_t json;
    format_part_t *v;
    size_t n;
    size_t fixed; /* bytes, escaped */
    size_t nvars;
} format_t;

enum { FORMAT_ABSENT = 0, FORMAT_TEXT, FORMAT_NUMBER };

typedef struct {
    uint32_t kind; /* FORMAT_ABSENT, ... */
    kars_str_t text;
    char buf[64]; /* for text or number */
} format_value_t;

/* A name of a variable: its number and what of the name the getter needs.
 * ERROR: *err says what is wrong with it. */
typedef int (*format_resolve_pt)(kars_str_t name, uint32_t *ret_var,
                                 kars_str_t *ret_rest, kars_err_t *err);
typedef void (*format_get_pt)(void *data, const format_part_t *part,
                              format_value_t *ret);

/* One more piece; text borrowed. v has room for format_room() of all pieces. */
size_t format_room(kars_str_t piece);
int format_add(format_t *f, kars_str_t piece, format_resolve_pt resolve,
               kars_err_t *err);

/* A line into out, which has FORMAT_LINE bytes. Returns its length. */
size_t format_write(const format_t *f, format_get_pt get, void *data,
                    char *out);

#endif
