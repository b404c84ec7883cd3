/* effective.c - `kars-router -T`; see effective.h. */
#include "proc/effective.h"
#include "base/log_target.h"
#include "http/upstream.h"
#include "kars_config.h"
#include "proc/cycle.h"
#include "proc/effective_route.h"
#include "proc/load.h"
#include "proc/logs.h"
#include "proc/module.h"

#include <stdlib.h>

/* A level: its directives, and the levels outside of it. */
typedef struct scope_s scope_t;
struct scope_s {
    const scope_t *outer;
    const kars__conf_node_t *first;
    uint32_t at;
    int depth;
};

typedef struct {
    FILE *out;
    kars__load_t *load;
    const kars__dtable_t **tables; /* of main, server and route */
    size_t ntables;
    const kars__dtable_t *upstream;
} effective_t;

/* Words. */

static void
effective_indent(const effective_t *e, int depth)
{
    (void) fprintf(e->out, "%*s", depth * 4, "");
}

static void
effective_word(const effective_t *e, kars_str_t w)
{
    static const char special[] = " \t\n;{}#\"'\\";
    int plain = w.len != 0;

    for (size_t i = 0; i < w.len; i++) {
        plain = plain && strchr(special, w.data[i]) == NULL;
    }
    if (plain) {
        (void) fprintf(e->out, " %.*s", KARS_STR_ARG(w));
        return;
    }
    (void) fputs(" \"", e->out);
    for (size_t i = 0; i < w.len; i++) {
        char c = w.data[i];

        if (c == '"' || c == '\\') {
            (void) fputc('\\', e->out);
        }
        if (c == '\n' || c == '\t') {
            (void) fputs(c == '\n' ? "\\n" : "\\t", e->out);
        } else {
            (void) fputc(c, e->out);
        }
    }
    (void) fputc('"', e->out);
}

/* Rows of the name, from first. */
static size_t
effective_rows(const kars__dtable_t *t, const kars_directive_t *first)
{
    size_t n = 0;

    while (first + n < t->rows + t->nrows &&
           strcmp(first[n].name, first->name) == 0) {
        n++;
    }
    return n;
}

/* The row that word i of the node was given to, or NULL; *ret_seen gets its
 * bit. Words come in their order. */
static const kars_directive_t *
effective_row(const kars_directive_t *rows, size_t n, kars_str_t word,
              uint64_t *seen)
{
    for (size_t i = 0; i < n; i++) {
        size_t len = rows[i].key != NULL ? strlen(rows[i].key) : 0;

        if (len != 0 && word.len > len && word.data[len] == '=' &&
            memcmp(word.data, rows[i].key, len) == 0) {
            *seen |= (uint64_t) 1 << i;
            return &rows[i];
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (rows[i].key == NULL &&
            ((*seen >> i & 1) == 0 || rows[i].type == KARS_T_LIST)) {
            *seen |= (uint64_t) 1 << i;
            return &rows[i];
        }
    }
    return NULL;
}

/* A path beside its file, made absolute: the text may be put elsewhere. */
static kars_str_t
effective_path(const effective_t *e, const kars__conf_node_t *n, kars_str_t w)
{
    kars_str_t path;
    kars_err_t err = KARS_ERR_INIT;

    return kars__directive_parse(KARS_T_PATH, w, NULL, &path,
                                 e->load->cycle->pool, n->file, NULL,
                                 &err) == KARS_OK
               ? path
               : w;
}

static void
effective_value(const effective_t *e, const kars__conf_node_t *n, size_t i,
                const kars_directive_t *row)
{
    kars_pool_t *pool = e->load->cycle->pool;
    kars_str_t w = n->argv[i];
    kars_str_t head = { w.data, row != NULL && row->key != NULL
                                    ? strlen(row->key) + 1
                                    : 0 };
    kars_str_t file = KARS_STR("file:");
    kars_str_t v = { w.data + head.len, w.len - head.len };

    if (row != NULL && row->type == KARS_T_PATH) {
        v = effective_path(e, n, v);
    } else if (i == 1 && kars__logs_is_named(n->argv[0]) &&
               kars__log_is_path(v)) {
        v = effective_path(e, n, v);
    } else if (kars_str_starts(v, file)) {
        v = effective_path(e, n,
                           (kars_str_t){ v.data + file.len, v.len - file.len });
        v = kars__pprintf(pool, "file:%.*s", KARS_STR_ARG(v));
    }
    effective_word(e, kars__pprintf(pool, "%.*s%.*s", KARS_STR_ARG(head),
                                    KARS_STR_ARG(v)));
}

/* Rows that no word was given to, as the words that they would have been. */
static void
effective_rest(const effective_t *e, const kars_directive_t *rows, size_t n,
               uint64_t seen)
{
    for (size_t i = 0; i < n; i++) {
        const kars_directive_t *d = &rows[i];

        if ((seen >> i & 1) != 0) {
            continue;
        }
        if (d->dflt == NULL || d->dflt[0] == '\0') {
            if (d->key == NULL) {
                return; /* a word after it would be taken for its own */
            }
            continue;
        }
        effective_word(e, kars__pprintf(e->load->cycle->pool, "%s%s%s",
                                        d->key != NULL ? d->key : "",
                                        d->key != NULL ? "=" : "", d->dflt));
    }
}

/* Keys whose values are defaults: "level= format=". */
static void
effective_defaults_of(const effective_t *e, const kars_directive_t *rows,
                      size_t n, uint64_t seen)
{
    const char *before = ", default:";

    for (size_t i = 0; i < n; i++) {
        if ((seen >> i & 1) == 0 && rows[i].dflt != NULL &&
            rows[i].dflt[0] != '\0') {
            (void) fprintf(e->out, "%s %s%s", before,
                           rows[i].key != NULL ? rows[i].key : rows[i].dflt,
                           rows[i].key != NULL ? "=" : "");
            before = "";
        }
    }
}

/* What `inherit` stands for. */
static void
effective_inherited(const effective_t *e, const scope_t *s, kars_str_t name)
{
    int found = 0;

    for (; s != NULL && !found; s = s->outer) {
        for (const kars__conf_node_t *n = s->first; n != NULL; n = n->next) {
            if (!kars_str_eq(n->argv[0], name)) {
                continue;
            }
            for (size_t i = 1; i < n->argc; i++) {
                if (i == 1 && !found &&
                    kars_str_eq(n->argv[1], KARS_STR("inherit"))) {
                    effective_inherited(e, s->outer, name);
                } else {
                    effective_value(e, n, i, NULL);
                }
            }
            found = 1;
        }
    }
}

static const kars_directive_t *
effective_find(const effective_t *e, const scope_t *s, kars_str_t name,
               size_t *ret_n)
{
    const kars_directive_t *rows;

    *ret_n = 0;
    if (s->at == KARS_AT_UPSTREAM) {
        rows = kars__dtable_find(e->upstream, name);
        *ret_n = rows != NULL ? effective_rows(e->upstream, rows) : 0;
        return rows;
    }
    for (size_t i = 0; i < e->ntables; i++) {
        rows = kars__dtable_find(e->tables[i], name);
        if (rows != NULL && (rows->at & s->at) != 0) {
            *ret_n = effective_rows(e->tables[i], rows);
            return rows;
        }
    }
    return NULL;
}

static void effective_raw(const effective_t *e, const kars__conf_node_t *n,
                          int depth);

/* One directive. comment: it is not of this level. */
static void
effective_node(const effective_t *e, const scope_t *s,
               const kars__conf_node_t *n, int depth, const char *comment)
{
    size_t nrows;
    const kars_directive_t *rows = effective_find(e, s, n->argv[0], &nrows);
    int words = rows != NULL && rows->type != KARS_T_CUSTOM;
    uint64_t seen = 0;

    effective_indent(e, depth);
    (void) fprintf(e->out, "%s%.*s", comment, KARS_STR_ARG(n->argv[0]));
    for (size_t i = 1; i < n->argc; i++) {
        const kars_directive_t *row =
            words ? effective_row(rows, nrows, n->argv[i], &seen) : NULL;

        if (row != NULL && row->type == KARS_T_LIST && i == 1 &&
            kars_str_eq(n->argv[1], KARS_STR("inherit"))) {
            effective_inherited(e, s->outer, n->argv[0]);
        } else {
            effective_value(e, n, i, row);
        }
    }
    if (words) {
        effective_rest(e, rows, nrows, seen);
    }
    (void) fprintf(e->out, "%s  # %s:%u", n->has_block ? " {" : ";", n->file,
                   n->line);
    if (words) {
        effective_defaults_of(e, rows, nrows, seen);
    }
    (void) fputc('\n', e->out);
    if (n->has_block && comment[0] == '\0') {
        for (const kars__conf_node_t *k = n->child; k != NULL; k = k->next) {
            effective_raw(e, k, depth + 1);
        }
        effective_indent(e, depth);
        (void) fputs("}\n", e->out);
    }
}

/* Of a block that is a module's own business. */
static void
effective_raw(const effective_t *e, const kars__conf_node_t *n, int depth)
{
    scope_t none = { .at = 0 };

    effective_node(e, &none, n, depth, "");
}

static int
effective_stands(const scope_t *s, const char *name)
{
    for (const kars__conf_node_t *n = s->first; n != NULL; n = n->next) {
        if (kars_str_eq(n->argv[0], kars__strz(name))) {
            return 1;
        }
    }
    return 0;
}

/* The first level out of this one where it stands; its directives. */
static void
effective_outer(const effective_t *e, const scope_t *s, const char *name)
{
    const scope_t *o = s->outer;

    while (o != NULL && !effective_stands(o, name)) {
        o = o->outer;
    }
    for (const kars__conf_node_t *n = o != NULL ? o->first : NULL; n != NULL;
         n = n->next) {
        if (kars_str_eq(n->argv[0], kars__strz(name))) {
            effective_node(e, o, n, s->depth, "# ");
        }
    }
}

static int
effective_has_default(const kars_directive_t *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (rows[i].dflt != NULL && rows[i].dflt[0] != '\0') {
            return 1;
        }
    }
    return 0;
}

/* The outermost level of those where it may stand. */
static uint32_t
effective_top(uint32_t at)
{
    return (at & KARS_AT_MAIN) != 0     ? (uint32_t) KARS_AT_MAIN
           : (at & KARS_AT_SERVER) != 0 ? (uint32_t) KARS_AT_SERVER
                                        : at;
}

/* What holds here and is not written here: from outside, or by default. */
static void
effective_unwritten(const effective_t *e, const scope_t *s,
                    const kars__dtable_t *t)
{
    for (size_t i = 0; i < t->nrows;) {
        const kars_directive_t *d = &t->rows[i];
        size_t n = effective_rows(t, d);

        i += n;
        if ((d->at & s->at) == 0 || effective_stands(s, d->name)) {
            continue;
        }
        if (effective_top(d->at) != s->at) {
            effective_outer(e, s, d->name);
        } else if (effective_has_default(d, n)) {
            effective_indent(e, s->depth);
            (void) fprintf(e->out, "# %s", d->name);
            effective_rest(e, d, n, 0);
            (void) fputs(";  # default\n", e->out);
        }
    }
}

static void
effective_all_unwritten(const effective_t *e, const scope_t *s)
{
    for (size_t i = 0; i < e->ntables; i++) {
        effective_unwritten(e, s, e->tables[i]);
    }
}

/* Blocks of core. */

static int
effective_is(const kars__conf_node_t *n, const char *name)
{
    return kars_str_eq(n->argv[0], kars__strz(name));
}

static void
effective_open(const effective_t *e, const kars__conf_node_t *n, int depth)
{
    effective_indent(e, depth);
    (void) fprintf(e->out, "%.*s", KARS_STR_ARG(n->argv[0]));
    for (size_t i = 1; i < n->argc; i++) {
        effective_word(e, n->argv[i]);
    }
    (void) fprintf(e->out, " {  # %s:%u\n", n->file, n->line);
}

static void
effective_close(const effective_t *e, int depth)
{
    effective_indent(e, depth);
    (void) fputs("}\n", e->out);
}

static void
effective_route(const effective_t *e, const scope_t *server,
                const kars__server_t *run, const kars__conf_node_t *node)
{
    scope_t s = { server, node->child, KARS_AT_ROUTE, server->depth + 1 };

    effective_open(e, node, server->depth);
    for (const kars__conf_node_t *n = node->child; n != NULL; n = n->next) {
        effective_node(e, &s, n, s.depth, "");
    }
    effective_all_unwritten(e, &s);
    for (const kars__route_t *r = run->routes; r != NULL; r = r->next) {
        if (r->line == node->line && r->column == node->column &&
            strcmp(r->file, node->file) == 0) {
            kars__effective_route(e->out, e->load->cycle, r, s.depth);
        }
    }
    effective_close(e, server->depth);
}

static void
effective_listen(const effective_t *e, const kars__conf_node_t *n, int depth)
{
    int has_class = 0;

    effective_indent(e, depth);
    (void) fputs("listen", e->out);
    for (size_t i = 1; i < n->argc; i++) {
        effective_word(e, n->argv[i]);
        has_class |= kars_str_starts(n->argv[i], KARS_STR("class="));
    }
    (void) fprintf(e->out, ";  # %s:%u%s\n", n->file, n->line,
                   has_class ? "" : ", no class=: who calls decides");
}

static void
effective_server(const effective_t *e, const scope_t *main,
                 const kars__conf_node_t *node)
{
    scope_t s = { main, node->child, KARS_AT_SERVER, 1 };
    const kars__server_t *run = NULL;

    for (const kars__server_t *r = e->load->cycle->servers; r != NULL;
         r = r->next) {
        if (r->line == node->line && strcmp(r->file, node->file) == 0) {
            run = r;
        }
    }
    effective_open(e, node, 0);
    for (const kars__conf_node_t *n = node->child; n != NULL; n = n->next) {
        if (effective_is(n, "listen") && !n->has_block) {
            effective_listen(e, n, 1);
        } else if (!effective_is(n, "route")) {
            effective_node(e, &s, n, 1, "");
        }
    }
    effective_all_unwritten(e, &s);
    effective_indent(e, 1);
    (void) fputs("# requests without a route:\n", e->out);
    kars__effective_route(e->out, e->load->cycle, run->none, 1);
    for (const kars__conf_node_t *n = node->child; n != NULL; n = n->next) {
        if (effective_is(n, "route")) {
            effective_route(e, &s, run, n);
        }
    }
    effective_close(e, 0);
}

static void
effective_upstream(const effective_t *e, const kars__conf_node_t *node)
{
    scope_t s = { NULL, node->child, KARS_AT_UPSTREAM, 1 };

    effective_open(e, node, 0);
    for (const kars__conf_node_t *n = node->child; n != NULL; n = n->next) {
        effective_node(e, &s, n, 1, "");
    }
    effective_unwritten(e, &s, e->upstream);
    effective_close(e, 0);
}

static void
effective_modules(const effective_t *e)
{
    const kars_cycle_t *c = e->load->cycle;

    for (size_t i = 0; i < c->nmods; i++) {
        (void) fprintf(e->out, "# module %s %s\n", c->mods[i]->def.name,
                       c->mods[i]->def.version != NULL ? c->mods[i]->def.version
                                                       : "-");
    }
}

static void
effective_main(const effective_t *e)
{
    scope_t s = { NULL, e->load->root->child, KARS_AT_MAIN, 0 };

    for (const kars__conf_node_t *n = s.first; n != NULL; n = n->next) {
        if (effective_is(n, "upstream") && n->has_block) {
            effective_upstream(e, n);
        } else if (effective_is(n, "server") && n->has_block) {
            effective_server(e, &s, n);
        } else {
            effective_node(e, &s, n, 0, "");
        }
    }
    effective_modules(e);
    effective_all_unwritten(e, &s);
}

static int
effective_tables(effective_t *e, kars_err_t *err)
{
    kars_cycle_t *c = e->load->cycle;
    kars__dtable_t *upstream = kars__pnew(c->pool, kars__dtable_t);

    e->tables = kars__pnewn(c->pool, const kars__dtable_t *, c->nmods + 2);
    if (upstream == NULL || e->tables == NULL ||
        kars__dtable_init(upstream, c->pool, "core", kars__upstream_directives,
                          sizeof(kars_directive_t), sizeof(kars_upstream_t),
                          err) != KARS_OK) {
        return kars__err_prefix(err, "the effective configuration");
    }
    e->upstream = upstream;
    e->tables[e->ntables++] = &e->load->main_table;
    e->tables[e->ntables++] = &e->load->core_table;
    for (size_t i = 0; i < c->nmods; i++) {
        e->tables[e->ntables++] = &c->mods[i]->table;
    }
    return KARS_OK;
}

int
kars__effective_print(const char *path, FILE *out, kars_err_t *err)
{
    kars__load_t l = { .mode = KARS__CYCLE_CHECK, .channel = -1 };
    effective_t e = { .out = out, .load = &l };

    if (kars__load_run(&l, path, err) != KARS_OK) {
        return KARS_ERROR;
    }

    int rc = effective_tables(&e, err);

    if (rc == KARS_OK) {
        (void) fprintf(out, "# kars-router %s -T -c %s\n", KARS_VERSION, path);
        effective_main(&e);
        rc = fflush(out) == 0 && !ferror(out)
                 ? KARS_OK
                 : kars__err(err, 0, "the configuration cannot be written");
    }
    kars__cycle_destroy(l.cycle);
    return rc;
}
