/*
 * text.h - what inference decides about words alone: media types,
 * header names, model names, paths. Nothing here allocates or keeps anything.
 */
#ifndef KARS_INFERENCE_TEXT_H
#define KARS_INFERENCE_TEXT_H

#include "kars_module.h"

enum { INFERENCE_MAX_MODEL = 256 };

/* ASCII without case, as header names and media types compare. */
int inference_ieq(kars_str_t a, kars_str_t b);

/* Is this media type, whatever its parameters, the wanted one? */
int inference_is_type(kars_str_t content_type, kars_str_t want);

/* Is this Content-Encoding none at all? */
int inference_is_identity(kars_str_t encoding);

/* May this header of an upstream's reply go to the client? */
int inference_header_passes(kars_str_t name, int event_stream);

/* Why this cannot be a model's name: a line for the caller, or NULL. */
const char *inference_model_fault(kars_str_t model);

/* Is the name one of the list's, exactly? */
int inference_listed(const kars_list_t *list, kars_str_t name);

/* Is this a base that paths can be put behind: "", "/v1", "/openai/v1"? */
int inference_base_ok(kars_str_t base);

/*
 * The path that goes upstream: base, then what follows "/v1" in path (or all
 * of `own`, where path does not begin so), escaped, then the query. Returns its
 * length, or 0 if a segment is "." or ".." or cap is too small;
 * base + 3 * longer of path and own + query + 1 is enough.
 */
size_t inference_path(kars_str_t base, kars_str_t path, kars_str_t own,
                      kars_str_t query, char *ret, size_t cap);

/* A JSON string of these bytes (UTF-8). 6 * len + 2 is enough; else 0. */
size_t inference_quote(kars_str_t s, char *ret, size_t cap);

/* One more fragment of a JSON number into *n; ERROR unless it is a count. */
int inference_digits(kars_str_t text, int64_t *n);

#endif
