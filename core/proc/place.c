/* place.c - what a module may ask while its configuration is checked. */
#include "proc/place.h"

#include <stdarg.h>
#include <stdio.h>

int
kars__place_watch(const kars_place_t *place, const kars_json_watch_t *row)
{
    kars__place_t *p = (kars__place_t *) (uintptr_t) place;

    if (p->watches == NULL || row->value == NULL || row->path == NULL ||
        (row->dir != KARS_REQUEST && row->dir != KARS_RESPONSE)) {
        return KARS_ERROR;
    }
    if (!place->active) {
        return KARS_OK; /* as rows of the table: where the module takes part */
    }

    kars__place_watch_t *w = kars__pnew(place->pool, kars__place_watch_t);
    kars_str_t path = kars__pdup(place->pool, kars__strz(row->path));

    if (w == NULL || path.data == NULL) {
        return KARS_ERROR;
    }
    w->row = *row;
    w->row.path = path.data;
    w->mod = p->mod->index;
    *p->watches = w;
    p->watches = &w->next;
    return KARS_OK;
}

int
kars__place_err(const kars_place_t *place, const void *field, kars_err_t *err,
                const char *fmt, ...)
{
    kars__place_t *p = (kars__place_t *) (uintptr_t) place;
    char text[sizeof(err->text)];
    size_t row = 0;
    va_list ap;

    va_start(ap, fmt);
    (void) vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);

    const kars_directive_t *d =
        p->mod->table.rows != NULL
            ? kars__directive_of(&p->mod->table, p->conf, field, &row)
            : NULL;

    if (d == NULL) {
        return kars__err(err, 0, "%s", text);
    }
    if (p->prov[row].file == NULL) {
        return kars__err(err, 0, "%s (default): %s", d->name, text);
    }
    p->said = 1;
    return kars__err(err, 0, "%s:%u: module %s: %s: %s", p->prov[row].file,
                     p->prov[row].line, p->mod->def.name, d->name, text);
}
