/* reference.c - `kars-router --directives`. */
#include "proc/reference.h"
#include "base/pool.h"
#include "http/upstream.h"
#include "proc/cycle.h"
#include "proc/load.h"

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

static int
reference_is_module(const struct dirent *e)
{
    size_t n = strlen(e->d_name);

    return n > 3 && strcmp(e->d_name + n - 3, ".so") == 0;
}

int
kars__reference_print(const char *dir, kars_err_t *err)
{
    kars_cycle_t *c = kars__cycle_bare(err);
    struct dirent **names = NULL;
    int n =
        c != NULL ? scandir(dir, &names, reference_is_module, alphasort) : -1;
    int rc = KARS_OK;

    if (n < 0) {
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
        kars_str_t name = { names[i]->d_name, strlen(names[i]->d_name) - 3 };
        char title[128];

        if (rc == KARS_OK) {
            rc = kars__cycle_add_module(c, dir, name, err);
        }
        if (rc == KARS_OK && c->mods[c->nmods - 1]->table.nrows != 0) {
            const kars__mod_t *m = c->mods[c->nmods - 1];

            (void) snprintf(title, sizeof(title), "Module %s", m->def.name);
            reference_table(title, m->table.rows, m->table.nrows);
        }
        kars__free(names[i]);
    }
    kars__free(names);
    kars__cycle_destroy(c);
    return rc;
}
