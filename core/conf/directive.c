/*
 * directive.c - directives applied to conf structs, level by level.
 *
 * The words of a directive are given to the rows of its name: `key=value` to
 * the row of that key, the others to the rows without a key in their order.
 */
#include "conf/directive.h"

#include "base/str.h"
#include "conf/directive_value.h"

#include <stdio.h>

/* One directive being applied. */
typedef struct {
    const kars__conf_node_t *node;
    const kars_directive_t *rows; /* of its name */
    size_t nrows;
    kars__prov_t *prov; /* of these rows */
    char *conf;
    kars__value_t value;
    uint64_t seen;    /* a bit for each row that a word was given to */
    kars_list_t list; /* of the LIST row without a key */
    int again;        /* REPEAT: not the first at this level */
} apply_t;

static kars_setting_t
directive_setting(kars_pool_t *pool, const kars__conf_node_t *node)
{
    return (kars_setting_t){
        .size = sizeof(kars_setting_t),
        .pool = pool,
        .argv = node->argv,
        .argc = node->argc,
        .file = node->file,
        .line = node->line,
        .column = node->column,
        .node = node,
    };
}

/* A setter's word for what it did not like may be missing. */
static int
directive_call(const kars_directive_t *d, const kars_setting_t *s, void *conf,
               kars_err_t *err)
{
    kars_err_t why = KARS_ERR_INIT;

    if (d->set(s, conf, &why) == KARS_OK) {
        return KARS_OK;
    }

    why.text[sizeof(why.text) - 1] = '\0';
    return kars__err(err, 0, "%s",
                     why.text[0] != '\0' ? why.text : "refused by its module");
}

/* The default of a CUSTOM row: as if an operator had written these words. */
static int
directive_call_default(const kars_directive_t *d, void *conf,
                       const kars__value_t *v, kars_err_t *err)
{
    kars_list_t words;

    if (kars__value_list(v, kars__strz(d->dflt), ' ', &words, err) != KARS_OK) {
        return KARS_ERROR;
    }

    kars_setting_t s = {
        .size = sizeof(s),
        .pool = v->pool,
        .argc = words.n + 1,
        .file = "default",
    };
    kars_str_t *argv = kars__pnewn(v->pool, kars_str_t, s.argc);

    if (argv == NULL) {
        return kars__err(err, 0, "out of memory");
    }

    argv[0] = kars__strz(d->name);
    if (words.n != 0) {
        memcpy(argv + 1, words.v, words.n * sizeof(words.v[0]));
    }
    s.argv = argv;
    return directive_call(d, &s, conf, err);
}

/* An empty default of what is a word or a handle is none: zero. */
static int
directive_dflt_is_zero(const kars_directive_t *d)
{
    if (d->dflt == NULL) {
        return 1;
    }
    switch (d->type) {
    case KARS_T_STR:
    case KARS_T_LIST:
    case KARS_T_PATH:
    case KARS_T_HOSTPORT:
    case KARS_T_UPSTREAM:
    case KARS_T_ZONE:
    case KARS_T_SECRET:
    case KARS_T_LOG:
        return *d->dflt == '\0';
    default:
        return 0;
    }
}

static int
directive_default(const kars_directive_t *d, char *conf, const kars__value_t *v,
                  kars_err_t *err)
{
    kars__value_t own = { .pool = v->pool, .resolve = v->resolve };
    void *field = conf + d->offset;
    kars_str_t text = kars__strz(d->dflt);

    memset(field, 0, kars__value_size(d->type));
    if (directive_dflt_is_zero(d)) {
        return KARS_OK;
    }

    int rc =
        d->type == KARS_T_CUSTOM ? directive_call_default(d, conf, v, err)
        : d->type == KARS_T_LIST && d->key == NULL
            ? kars__value_list(&own, text, ' ', field, err)
            : kars__value_parse(&own, d->type, text, d->values, field, err);

    if (rc != KARS_OK) {
        return kars__err_prefix(err, "the default of \"%s\"", d->name);
    }
    return KARS_OK;
}

int
kars__directive_defaults(const kars__dtable_t *t, void *conf, kars_pool_t *pool,
                         const kars__dresolve_t *resolve, kars_err_t *err)
{
    kars__value_t v = { .pool = pool, .resolve = resolve };

    for (size_t i = 0; i < t->nrows; i++) {
        if (directive_default(&t->rows[i], conf, &v, err) != KARS_OK) {
            return kars__err_prefix(err, "%s", t->owner);
        }
    }
    return KARS_OK;
}

/* "server or route" */
static void
directive_places(uint32_t at, char *ret, size_t size)
{
    static const struct {
        uint32_t at;
        const char *name;
    } places[] = {
        { KARS_AT_MAIN, "main" },     { KARS_AT_SERVER, "server" },
        { KARS_AT_ROUTE, "route" },   { KARS_AT_UPSTREAM, "upstream" },
        { KARS_AT_LISTEN, "listen" },
    };
    size_t n = 0;

    *ret = '\0';
    for (size_t i = 0; i < KARS_NELTS(places); i++) {
        if ((at & places[i].at) != 0 && n < size) {
            n += (size_t) snprintf(ret + n, size - n, "%s%s",
                                   n == 0 ? "" : " or ", places[i].name);
        }
    }
}

/* May it stand here, so, and once more? */
static int
apply_check(const apply_t *a, uint32_t at, kars_err_t *err)
{
    const kars_directive_t *d = a->rows;
    const kars__conf_node_t *node = a->node;
    char may[64];
    char is[64];

    if ((d->at & at) == 0) {
        directive_places(d->at, may, sizeof(may));
        directive_places(at, is, sizeof(is));
        return kars__conf_err(err, node, 0, "\"%s\" may stand in %s, not in %s",
                              d->name, may, is);
    }
    if ((d->flags & KARS_D_BLOCK) == 0 && node->has_block) {
        return kars__conf_err(err, node, 0,
                              "\"%s\" takes no block: end it "
                              "with a \";\"",
                              d->name);
    }
    if ((d->flags & KARS_D_BLOCK) != 0 && !node->has_block) {
        return kars__conf_err(err, node, 0, "\"%s\" takes a block: { ... }",
                              d->name);
    }
    if (a->again && (d->flags & KARS_D_REPEAT) == 0) {
        const char *file = a->prov->file == NULL ? "?" : a->prov->file;

        return kars__conf_err(err, node, 0, "duplicate \"%s\", first in %s:%u",
                              d->name, file, a->prov->line);
    }
    return KARS_OK;
}

/* Length of `ident` in a word `ident=…`, or 0. */
static size_t
apply_key_len(kars_str_t word)
{
    for (size_t i = 0; i < word.len; i++) {
        char c = word.data[i];

        if (c == '=') {
            return i;
        }
        if (c != '_' && c != '-' && !((c | 0x20) >= 'a' && (c | 0x20) <= 'z') &&
            !(c >= '0' && c <= '9' && i > 0)) {
            break;
        }
    }
    return 0;
}

/* The row of that key, or NULL; *ret_keys: how many have one. */
static const kars_directive_t *
apply_keyed(const apply_t *a, kars_str_t key, size_t *ret_keys)
{
    const kars_directive_t *found = NULL;

    *ret_keys = 0;
    for (size_t i = 0; i < a->nrows; i++) {
        const char *has = a->rows[i].key;

        *ret_keys += has != NULL;
        if (has != NULL && kars_str_eq(kars__strz(has), key)) {
            found = &a->rows[i];
        }
    }
    return found;
}

/* The first row without a key that has no word yet; a LIST has room forever. */
static const kars_directive_t *
apply_next(const apply_t *a)
{
    for (size_t i = 0; i < a->nrows; i++) {
        const kars_directive_t *d = &a->rows[i];

        if (d->key == NULL &&
            (d->type == KARS_T_LIST || (a->seen >> i & 1) == 0)) {
            return d;
        }
    }
    return NULL;
}

static int
apply_unknown_key(const apply_t *a, size_t i, kars_str_t key, kars_err_t *err)
{
    const char *keys[64];
    char known[96];
    size_t n = 0;
    size_t len = 0;

    known[0] = '\0';
    for (size_t j = 0; j < a->nrows && n < KARS_NELTS(keys); j++) {
        if (a->rows[j].key == NULL) {
            continue;
        }
        keys[n++] = a->rows[j].key;
        if (len < sizeof(known)) {
            len += (size_t) snprintf(known + len, sizeof(known) - len,
                                     " %s=", a->rows[j].key);
        }
    }
    if (a->value.quiet) {
        return kars__conf_err(err, a->node, i, "unknown key; known:%s", known);
    }

    const char *near = kars__nearest(key, keys, n);

    if (near != NULL) {
        return kars__conf_err(err, a->node, i,
                              "unknown key \"%s\", did you mean \"%s\"?",
                              kars__conf_shown(key).text, near);
    }
    return kars__conf_err(err, a->node, i, "unknown key \"%s\"; known:%s",
                          kars__conf_shown(key).text, known);
}

/* One word to one row's field. */
static int
apply_value(apply_t *a, const kars_directive_t *d, size_t i, kars_str_t text,
            kars_err_t *err)
{
    size_t row = (size_t) (d - a->rows);

    if ((a->seen >> row & 1) != 0) {
        return kars__conf_err(err, a->node, i, "\"%s=\" stands twice", d->key);
    }
    if (kars__value_parse(&a->value, d->type, text, d->values,
                          a->conf + d->offset, err) != KARS_OK) {
        return kars__conf_err_at(err, a->node, i);
    }

    a->seen |= (uint64_t) 1 << row;
    a->prov[row].file = a->node->file;
    a->prov[row].line = a->node->line;
    return KARS_OK;
}

/* One word more of the LIST; *ret_words counts those without a key. */
static int
apply_list(apply_t *a, const kars_directive_t *d, size_t i, kars_err_t *err)
{
    size_t row = (size_t) (d - a->rows);
    int first = (a->seen >> row & 1) == 0;
    kars_str_t word = a->node->argv[i];
    kars_list_t *list = &a->list;

    a->seen |= (uint64_t) 1 << row;
    a->prov[row].file = a->node->file;
    a->prov[row].line = a->node->line;

    if (first && kars_str_eq(word, KARS_STR("inherit"))) {
        return a->again
                   ? kars__conf_err(err, a->node, i,
                                    "\"inherit\" belongs into the first \"%s\" "
                                    "of a level",
                                    d->name)
                   : KARS_OK;
    }
    if (first && !a->again) {
        list->n = 0; /* what came from outside is replaced */
    }
    if (kars__value_parse(&a->value, KARS_T_STR, word, NULL, &list->v[list->n],
                          err) != KARS_OK) {
        return kars__conf_err_at(err, a->node, i);
    }
    list->n++;
    return KARS_OK;
}

static int
apply_word(apply_t *a, size_t i, kars_err_t *err)
{
    kars_str_t word = a->node->argv[i];
    kars_str_t key = { word.data, apply_key_len(word) };
    const kars_directive_t *next = apply_next(a);
    size_t nkeys;
    const kars_directive_t *keyed = apply_keyed(a, key, &nkeys);

    if (key.len != 0 && keyed != NULL) {
        kars_str_t text = { word.data + key.len + 1, word.len - key.len - 1 };

        return apply_value(a, keyed, i, text, err);
    }
    if (key.len != 0 && nkeys != 0 &&
        (next == NULL || next->type != KARS_T_SECRET)) {
        return apply_unknown_key(a, i, key, err);
    }
    if (next == NULL && nkeys == a->nrows) {
        return kars__conf_err(err, a->node, i,
                              "\"%s\" takes only key=value words",
                              a->rows->name);
    }
    if (next == NULL) {
        return kars__conf_err(
            err, a->node, i, "\"%s\" takes no more than %zu word%s",
            a->rows->name, a->nrows - nkeys, a->nrows - nkeys == 1 ? "" : "s");
    }
    return next->type == KARS_T_LIST ? apply_list(a, next, i, err)
                                     : apply_value(a, next, i, word, err);
}

/* Rows that no word was given to, and that cannot be without. */
static int
apply_missing(const apply_t *a, kars_err_t *err)
{
    size_t need = 0;
    int missing = 0;

    for (size_t i = 0; i < a->nrows; i++) {
        const kars_directive_t *d = &a->rows[i];
        int seen = (a->seen >> i & 1) != 0;

        if (d->key != NULL && !seen && (d->flags & KARS_D_REQUIRED) != 0) {
            return kars__conf_err(err, a->node, 0, "\"%s\" needs %s=", d->name,
                                  d->key);
        }
        if (d->key == NULL && d->dflt == NULL) {
            need++;
            missing |= !seen;
        }
    }
    if (missing) {
        return kars__conf_err(err, a->node, 0, "\"%s\" needs %zu word%s",
                              a->rows->name, need, need == 1 ? "" : "s");
    }
    return KARS_OK;
}

/* What came from outside goes back to its default; a LIST is kept aside, for
 * `inherit`, with room for all words of this directive. */
static int
apply_begin(apply_t *a, kars_err_t *err)
{
    for (size_t i = 0; i < a->nrows; i++) {
        const kars_directive_t *d = &a->rows[i];
        int is_list = d->type == KARS_T_LIST && d->key == NULL;

        if (is_list) {
            const kars_list_t *was = (void *) (a->conf + d->offset);

            a->list.v =
                kars__pnewn(a->value.pool, kars_str_t, was->n + a->node->argc);
            if (a->list.v == NULL) {
                return kars__err(err, 0, "out of memory");
            }
            if (was->n != 0) {
                memcpy(a->list.v, was->v, was->n * sizeof(was->v[0]));
            }
            a->list.n = was->n;
        }
        if (a->prov[i].set == KARS__SET_OUTER &&
            directive_default(d, a->conf, &a->value, err) != KARS_OK) {
            return KARS_ERROR;
        }
        if (!a->again) {
            a->prov[i] = (kars__prov_t){ .set = KARS__SET_HERE };
        }
        a->value.quiet |= d->type == KARS_T_SECRET;
    }

    if (!a->again) {
        a->prov[0].file = a->node->file;
        a->prov[0].line = a->node->line;
    }
    return KARS_OK;
}

/* The list that was gathered, if any word was given to it. */
static void
apply_end(const apply_t *a)
{
    for (size_t i = 0; i < a->nrows; i++) {
        const kars_directive_t *d = &a->rows[i];

        if (d->type == KARS_T_LIST && d->key == NULL && (a->seen >> i & 1)) {
            memcpy(a->conf + d->offset, &a->list, sizeof(a->list));
        }
    }
}

static int
apply_custom(const apply_t *a, kars_err_t *err)
{
    kars_setting_t s = directive_setting(a->value.pool, a->node);

    if (directive_call(a->rows, &s, a->conf, err) != KARS_OK) {
        return kars__conf_err_at(err, a->node, 0);
    }

    if (!a->again) {
        *a->prov =
            (kars__prov_t){ a->node->file, a->node->line, KARS__SET_HERE };
    }
    return KARS_OK;
}

static int
apply_words(apply_t *a, kars_err_t *err)
{
    if (apply_begin(a, err) != KARS_OK) {
        return kars__conf_err_at(err, a->node, 0);
    }
    for (size_t i = 1; i < a->node->argc; i++) {
        if (apply_word(a, i, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    if (apply_missing(a, err) != KARS_OK) {
        return KARS_ERROR;
    }

    apply_end(a);
    return KARS_OK;
}

int
kars__directive_set(const kars__dtable_t *t, const kars__conf_node_t *node,
                    uint32_t at, void *conf, kars__prov_t *prov,
                    kars_pool_t *pool, const kars__dresolve_t *resolve,
                    kars_err_t *err)
{
    const kars_directive_t *first = kars__dtable_find(t, node->argv[0]);

    if (first == NULL) {
        return kars__conf_err(err, node, 0, "unknown directive \"%s\"",
                              kars__conf_shown(node->argv[0]).text);
    }

    size_t row = (size_t) (first - t->rows);
    apply_t a = {
        .node = node,
        .rows = first,
        .nrows = 1,
        .prov = prov + row,
        .conf = conf,
        .value = { .pool = pool, .file = node->file, .resolve = resolve },
        .again = prov[row].set == KARS__SET_HERE,
    };

    while (row + a.nrows < t->nrows &&
           strcmp(first[a.nrows].name, first->name) == 0) {
        a.nrows++;
    }
    if (apply_check(&a, at, err) != KARS_OK) {
        return KARS_ERROR;
    }
    return first->type == KARS_T_CUSTOM ? apply_custom(&a, err)
                                        : apply_words(&a, err);
}

int
kars__directive_inner(const kars__dtable_t *t, const void *conf,
                      const kars__prov_t *prov, kars_pool_t *pool,
                      void **ret_conf, kars__prov_t **ret_prov)
{
    void *c = kars__pcalloc(pool, 1, t->conf_size);
    kars__prov_t *p = kars__pnewn(pool, kars__prov_t, t->nrows);

    if (c == NULL || p == NULL) {
        return KARS_ERROR;
    }

    if (t->conf_size != 0) {
        memcpy(c, conf, t->conf_size);
    }
    for (size_t i = 0; i < t->nrows; i++) {
        p[i] = prov[i];
        p[i].set = prov[i].set != 0 ? KARS__SET_OUTER : 0;
    }

    *ret_conf = c;
    *ret_prov = p;
    return KARS_OK;
}

int
kars__directive_block_each(const kars_setting_t *s,
                           int (*fn)(const kars_setting_t *child, void *data,
                                     kars_err_t *err),
                           void *data, kars_err_t *err)
{
    const kars__conf_node_t *node = s->node;

    if (node == NULL) {
        return KARS_OK; /* a default has no block */
    }

    for (const kars__conf_node_t *n = node->child; n != NULL; n = n->next) {
        kars_setting_t child = directive_setting(s->pool, n);
        kars_err_t why = KARS_ERR_INIT;
        int rc = fn(&child, data, &why);

        if (rc != KARS_OK) {
            why.text[sizeof(why.text) - 1] = '\0';
            (void) kars__err(err, 0, "%s",
                             why.text[0] != '\0' ? why.text
                                                 : "refused by its module");
            return kars__conf_err_at(err, n, 0);
        }
    }
    return KARS_OK;
}
