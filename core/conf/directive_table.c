/* directive_table.c - tables of directives: what a good one is, and searches.
 */
#include "conf/directive_value.h"

#include "base/str.h"

#define TABLE_ROWS 1024 /* no table is as long: its end is missing */
#define TABLE_SAME 64   /* rows of one name */

static int
table_same(const kars_directive_t *a, const kars_directive_t *b)
{
    return strcmp(a->name, b->name) == 0;
}

static int
table_is_name(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_");

    return n != 0 && s[n] == '\0' && !(s[0] >= '0' && s[0] <= '9');
}

/* The master finds logs by the names of their directives. */
static int
table_log_named(const char *name)
{
    size_t n = strlen(name);

    return strcmp(name, "log") == 0 ||
           (n > 4 && strcmp(name + n - 4, "_log") == 0);
}

/* What is wrong with the row alone, or NULL. */
static const char *
table_row_fault(const kars_directive_t *d, size_t conf_size)
{
    size_t size = kars__value_size(d->type);

    if (!table_is_name(d->name)) {
        return "not a name";
    }
    if (d->key != NULL && !table_is_name(d->key)) {
        return "its key is not a name";
    }
    if (d->doc == NULL || *d->doc == '\0') {
        return "no doc line";
    }
    if (size == 0 && d->type != KARS_T_CUSTOM) {
        return "unknown type";
    }
    if (d->offset > conf_size || size > conf_size - d->offset) {
        return "its field is outside the conf struct";
    }
    if (size != 0 && d->offset % (size < 8 ? 4 : 8) != 0) {
        return "its field is not aligned";
    }
    if (d->type == KARS_T_ENUM && (d->values == NULL || *d->values == '\0')) {
        return "an ENUM without values";
    }
    if (d->type == KARS_T_LOG &&
        (d->key != NULL || !table_log_named(d->name))) {
        return "a LOG is the first word of a directive named log or …_log";
    }
    if (d->type == KARS_T_CUSTOM ? d->set == NULL || d->key != NULL
                                 : d->set != NULL) {
        return "a CUSTOM row, and no other, has a setter and no key";
    }
    if ((d->flags & KARS_D_BLOCK) != 0 && d->type != KARS_T_CUSTOM) {
        return "only CUSTOM rows take a block";
    }
    if ((d->flags & KARS_D_REPEAT) != 0 &&
        (d->key != NULL ||
         (d->type != KARS_T_CUSTOM && d->type != KARS_T_LIST))) {
        return "only LIST and CUSTOM rows repeat";
    }
    return d->at == 0 ? "it may stand nowhere" : NULL;
}

/* What is wrong with row i beside the row before it, of the same name. */
static const char *
table_next_fault(const kars_directive_t *first, const kars_directive_t *d)
{
    if (d->at != first->at) {
        return "its rows may stand in different places";
    }
    if (first->type == KARS_T_CUSTOM || d->type == KARS_T_CUSTOM ||
        ((first->flags | d->flags) & KARS_D_REPEAT) != 0) {
        return "a CUSTOM or repeated row is the only one of its name";
    }
    for (const kars_directive_t *o = first; o < d; o++) {
        if (d->key == NULL && o->key == NULL && o->type == KARS_T_LIST) {
            return "a LIST takes all words: it comes last";
        }
        if (d->key != NULL && o->key != NULL && strcmp(d->key, o->key) == 0) {
            return "the same key twice";
        }
    }
    return d - first >= TABLE_SAME ? "too many rows" : NULL;
}

/* Rows of a name share what the first of them says. */
static const char *
table_fault(kars_directive_t *rows, size_t i, size_t *first, size_t conf_size)
{
    kars_directive_t *d = &rows[i];

    if (i == 0 || !table_same(d, d - 1)) {
        for (size_t j = 0; j < i; j++) {
            if (table_same(&rows[j], d)) {
                return "its rows are not together";
            }
        }
        *first = i;
        return table_row_fault(d, conf_size);
    }

    d->at = d->at == 0 ? rows[*first].at : d->at;
    d->flags |= rows[*first].flags & KARS_D_PASSIVE;

    const char *fault = table_row_fault(d, conf_size);

    return fault != NULL ? fault : table_next_fault(&rows[*first], d);
}

int
kars__dtable_init(kars__dtable_t *t, kars_pool_t *pool, const char *owner,
                  const void *rows, size_t stride, size_t conf_size,
                  kars_err_t *err)
{
    const char *from = rows;
    size_t size =
        stride < sizeof(kars_directive_t) ? stride : sizeof(kars_directive_t);
    size_t n = 0;
    size_t first = 0;
    const char *name;

    if (stride < sizeof(name)) {
        return kars__err(err, 0, "%s: rows of %zu bytes", owner, stride);
    }
    for (; from != NULL && n <= TABLE_ROWS; n++) {
        memcpy(&name, from + n * stride, sizeof(name));
        if (name == NULL) {
            break;
        }
    }
    if (n > TABLE_ROWS) {
        return kars__err(err, 0, "%s: the table of directives has no end",
                         owner);
    }

    kars_directive_t *copy = kars__pnewn(pool, kars_directive_t, n);

    if (copy == NULL) {
        return kars__err(err, 0, "%s: out of memory", owner);
    }
    for (size_t i = 0; i < n; i++) {
        memcpy(&copy[i], from + i * stride, size);

        const char *fault = table_fault(copy, i, &first, conf_size);

        if (fault != NULL) {
            return kars__err(err, 0, "%s: directive \"%s\"%s%s: %s", owner,
                             copy[i].name, copy[i].key == NULL ? "" : " ",
                             copy[i].key == NULL ? "" : copy[i].key, fault);
        }
    }

    *t = (kars__dtable_t){
        .owner = owner,
        .rows = copy,
        .nrows = n,
        .conf_size = conf_size,
    };
    return KARS_OK;
}

const kars_directive_t *
kars__dtable_find(const kars__dtable_t *t, kars_str_t name)
{
    for (size_t i = 0; i < t->nrows; i++) {
        if (kars_str_eq(kars__strz(t->rows[i].name), name)) {
            return &t->rows[i];
        }
    }
    return NULL;
}

const char *
kars__dtable_nearest(const kars__dtable_t *const *tables, size_t n,
                     kars_str_t name)
{
    const char *two[2];
    const char *best = NULL;

    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < tables[i]->nrows; j++) {
            two[0] = best;
            two[1] = tables[i]->rows[j].name;
            best = best == NULL ? kars__nearest(name, two + 1, 1)
                                : kars__nearest(name, two, 2);
        }
    }
    return best;
}

int
kars__directive_active(const kars__dtable_t *t, const kars__prov_t *prov)
{
    for (size_t i = 0; i < t->nrows; i++) {
        if (prov[i].set != 0 && (t->rows[i].at & KARS_AT_ROUTE) != 0 &&
            (t->rows[i].flags & KARS_D_PASSIVE) == 0) {
            return 1;
        }
    }
    return 0;
}

const kars_directive_t *
kars__directive_of(const kars__dtable_t *t, const void *conf, const void *field,
                   size_t *ret_row)
{
    uintptr_t begin = (uintptr_t) conf;
    uintptr_t at = (uintptr_t) field;

    if (field == NULL || conf == NULL || at < begin ||
        at - begin >= t->conf_size) {
        return NULL;
    }

    const kars_directive_t *inside = NULL;

    /* The field itself, or else a member of it. */
    for (size_t i = 0; i < t->nrows; i++) {
        const kars_directive_t *d = &t->rows[i];
        size_t off = at - begin;

        if (off == d->offset) {
            *ret_row = i;
            return d;
        }
        if (inside == NULL && off > d->offset &&
            off - d->offset < kars__value_size(d->type)) {
            *ret_row = i;
            inside = d;
        }
    }
    return inside;
}
