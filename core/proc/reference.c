/* reference.c - `kars-router --directives`. */
#include "proc/reference.h"
#include "base/pool.h"
#include "http/upstream.h"
#include "proc/cycle.h"
#include "proc/load.h"
#include "proc/module.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>

/* What stands for a value of each type; ENUM names its values instead. */
static const char *const reference_types[] = {
    "",     "TEXT", "on|off",    "",         "WORD…", "SIZE",   "COUNT", "TIME",
    "RATE", "PATH", "HOST:PORT", "UPSTREAM", "ZONE",  "SECRET", "…",     "LOG"
};

static void
reference_escaped(const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '|') {
            (void) putchar('\\');
        }
        (void) putchar(*text);
    }
}

static void
reference_value(const kars_directive_t *d)
{
    if (d->type == KARS_T_ENUM) {
        for (const char *v = d->values; *v != '\0'; v++) {
            (void) fputs(*v == ' ' ? "\\|" : (char[]){ *v, '\0' }, stdout);
        }
    } else if (d->type < KARS_NELTS(reference_types)) {
        reference_escaped(reference_types[d->type]);
    }
}

static void
reference_where(uint32_t at)
{
    static const char *const names[] = { "main", "server", "route", "upstream",
                                         "listen" };
    const char *sep = "";

    for (size_t i = 0; i < KARS_NELTS(names); i++) {
        if (at & (1u << i)) {
            (void) printf("%s%s", sep, names[i]);
            sep = ", ";
        }
    }
}

static void
reference_row(const kars_directive_t *d, uint32_t at)
{
    (void) printf("| `%s ", d->name);
    if (d->key != NULL) {
        (void) printf("%s=", d->key);
    }
    reference_value(d);
    (void) fputs("` | ", stdout);
    reference_where(at);
    (void) fputs(" | ", stdout);
    if (d->dflt != NULL && d->dflt[0] != '\0') {
        (void) printf("`%s`", d->dflt);
    }
    (void) fputs(" | ", stdout);
    reference_escaped(d->doc);
    if (d->flags & KARS_D_REPEAT) {
        (void) fputs("; may be repeated", stdout);
    }
    if (d->flags & KARS_D_REQUIRED) {
        (void) fputs("; must be given with the directive", stdout);
    }
    (void) fputs(" |\n", stdout);
}

static void
reference_table(const char *title, const kars_directive_t *rows, size_t n)
{
    uint32_t at = 0;

    (void) printf("\n## %s\n\n| directive | where | default | |\n"
                  "|---|---|---|---|\n",
                  title);
    for (size_t i = 0; i < n; i++) {
        at = rows[i].at != 0 ? rows[i].at : at; /* 0: as the row before */
        reference_row(&rows[i], at);
    }
}

static size_t
reference_count(const kars_directive_t *rows)
{
    size_t n = 0;

    while (rows[n].name != NULL) {
        n++;
    }
    return n;
}

/* The files that load_module would take: NAME.so, unless NAME is built in. */
static int
reference_is_module(const struct dirent *e)
{
    size_t n = strlen(e->d_name);

    if (n <= 3 || strcmp(e->d_name + n - 3, ".so") != 0) {
        return 0;
    }

    const kars_module_t *const *m = kars__module_builtins;

    while (m != NULL && *m != NULL &&
           !kars_str_eq(kars__strz((*m)->name),
                        (kars_str_t){ e->d_name, n - 3 })) {
        m++;
    }
    return m == NULL || *m == NULL;
}

static int
reference_module(kars_cycle_t *c, const char *dir, kars_str_t name,
                 kars_err_t *err)
{
    char title[128];

    if (kars__cycle_add_module(c, dir, name, err) != KARS_OK) {
        return KARS_ERROR;
    }

    const kars__mod_t *m = c->mods[c->nmods - 1];

    if (m->table.nrows != 0) {
        (void) snprintf(title, sizeof(title), "Module %s", m->def.name);
        reference_table(title, m->table.rows, m->table.nrows);
    }
    return KARS_OK;
}

/* The first built-in module after one name and before another, in the order of
 * names; NULL: none. before NULL: the end. */
static const char *
reference_builtin(const char *after, const char *before)
{
    const char *best = NULL;

    for (const kars_module_t *const *m = kars__module_builtins;
         m != NULL && *m != NULL; m++) {
        const char *name = (*m)->name;

        if (strcmp(name, after) > 0 &&
            (before == NULL || strcmp(name, before) < 0) &&
            (best == NULL || strcmp(name, best) < 0)) {
            best = name;
        }
    }
    return best;
}

/* The built-in modules before this name and after *last, which becomes the last
 * of them; then the one of that name, unless it is NULL. */
static int
reference_upto(kars_cycle_t *c, const char *dir, const char **last,
               const char *name, kars_err_t *err)
{
    const char *b;

    while ((b = reference_builtin(*last, name)) != NULL) {
        *last = b;
        if (reference_module(c, dir, kars__strz(b), err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    return name == NULL ? KARS_OK
                        : reference_module(c, dir, kars__strz(name), err);
}

int
kars__reference_print(const char *dir, kars_err_t *err)
{
    kars_cycle_t *c = kars__cycle_bare(err);
    struct dirent **names = NULL;
    int n =
        c != NULL ? scandir(dir, &names, reference_is_module, alphasort) : -1;
    const char *last = "";
    int rc = KARS_OK;

    if (n < 0 && (c == NULL || errno != ENOENT)) {
        return c != NULL ? kars__err(err, errno, "modules in \"%s\"", dir)
                         : KARS_ERROR;
    }
    reference_table("Core: the process", kars__main_directives,
                    reference_count(kars__main_directives));
    reference_table("Core: servers and routes", kars__core_directives,
                    reference_count(kars__core_directives));
    reference_table("Core: upstreams", kars__upstream_directives,
                    reference_count(kars__upstream_directives));
    for (int i = 0; i < n; i++) {
        names[i]->d_name[strlen(names[i]->d_name) - 3] = '\0'; /* ".so" */
        if (rc == KARS_OK) {
            rc = reference_upto(c, dir, &last, names[i]->d_name, err);
        }
        kars__free(names[i]);
    }
    if (rc == KARS_OK) {
        rc = reference_upto(c, dir, &last, NULL, err);
    }
    kars__free(names);
    kars__cycle_destroy(c);
    return rc;
}
