/*
 * rule.c - which line of the configuration decided: "body_limit FILE:12",
 * "body_limit (default)". A refusal always has one, since whoever reads a log
 * wants to know what to change; what no directive decides says so.
 */
#include "http/request.h"
#include "http/upstream.h"

/* What decides where core refuses in these words. */
static const struct {
    const char *code;
    const char *rule; /* a directive with its key, or a place: see rule_core */
} rule_codes[] = {
    { "body_too_large", "body_limit" },
    { "headers_too_large", "header_limit" },
    { "request_timeout", "timeout body" },
    { "overloaded", "memory" },
    { "no_such_route", "server" },
    { "no_identity", "route" },
    { "unsupported_encoding", "route" },
    { "invalid_json", "route" },
    { "bad_gateway", "upstream" },
    { "upstream_timeout", "upstream" },
};

static kars_str_t
rule_at(kars_req_t *r, const char *what, const char *key, const char *file,
        uint32_t line)
{
    const char *space = key != NULL ? " " : "";
    const char *equals = key != NULL ? "=" : "";

    key = key != NULL ? key : "";
    return file == NULL ? kars__pprintf(r->pool, "%s%s%s%s (default)", what,
                                        space, key, equals)
                        : kars__pprintf(r->pool, "%s%s%s%s %s:%u", what, space,
                                        key, equals, file, line);
}

static kars_str_t
rule_row(kars_req_t *r, const kars__dtable_t *t, const kars__prov_t *prov,
         size_t row)
{
    return rule_at(r, t->rows[row].name, NULL, prov[row].file, prov[row].line);
}

/* "NAME" or "NAME KEY" in a table of core's; data NULL: it is not there. */
static kars_str_t
rule_find(kars_req_t *r, const kars__dtable_t *t, const kars__prov_t *prov,
          kars_str_t rule)
{
    const char *space = memchr(rule.data, ' ', rule.len);
    kars_str_t name = { rule.data, space != NULL ? (size_t) (space - rule.data)
                                                 : rule.len };
    kars_str_t key = { name.data + name.len + 1, rule.len - name.len - 1 };

    for (size_t i = 0; t != NULL && prov != NULL && i < t->nrows; i++) {
        const kars_directive_t *d = &t->rows[i];

        if (kars_str_eq(kars__strz(d->name), name) &&
            (space == NULL ||
             (d->key != NULL && kars_str_eq(kars__strz(d->key), key)))) {
            return rule_at(r, d->name, space != NULL ? d->key : NULL,
                           prov[i].file, prov[i].line);
        }
    }
    return (kars_str_t){ NULL, 0 };
}

/* The places that are no directive of a table. */
static kars_str_t
rule_place(kars_req_t *r, kars_str_t rule)
{
    kars_str_t name = kars__req_var(r, KARS_STR("upstream"));

    if (kars_str_eq(rule, KARS_STR("route")) && r->route->line != 0) {
        return rule_at(r, "route", NULL, r->route->file, r->route->line);
    }
    if (kars_str_eq(rule, KARS_STR("server")) && r->route->line != 0) {
        return rule_at(r, "route", NULL, r->route->file, r->route->line);
    }
    if (kars_str_eq(rule, KARS_STR("server")) && r->server->file != NULL) {
        return rule_at(r, "server", NULL, r->server->file, r->server->line);
    }
    for (const kars_upstream_t *u = r->cycle->upstreams; u != NULL;
         u = u->next) {
        if (kars_str_eq(rule, KARS_STR("queue")) &&
            kars_str_eq(u->name, name)) {
            return rule_find(r, u->table, u->prov, rule);
        }
        if (kars_str_eq(rule, KARS_STR("upstream")) &&
            kars_str_eq(u->name, name)) {
            return kars__pprintf(r->pool, "upstream %.*s %s:%u",
                                 KARS_STR_ARG(u->name), u->file, u->line);
        }
    }
    return (kars_str_t){ NULL, 0 };
}

static kars_str_t
rule_core(kars_req_t *r, kars_str_t code, const char *said)
{
    const kars_cycle_t *c = r->cycle;
    kars_str_t rule = said != NULL ? kars__strz(said) : code;
    kars_str_t found;

    for (size_t i = 0; said == NULL && i < KARS_NELTS(rule_codes); i++) {
        if (kars_str_eq(kars__strz(rule_codes[i].code), code)) {
            rule = kars__strz(rule_codes[i].rule);
        }
    }
    found = rule_place(r, rule);
    if (found.data == NULL) {
        found = rule_find(r, c->core_table, r->route->core_prov, rule);
    }
    if (found.data == NULL) {
        found = rule_find(r, c->main_table, c->main_prov, rule);
    }
    return found.data != NULL
               ? found
               : kars__pprintf(r->pool, "%.*s (built in)", KARS_STR_ARG(rule));
}

/* The module names no field: what made it take part in this route. */
static kars_str_t
rule_module(kars_req_t *r, const kars__mod_t *by)
{
    const kars__dtable_t *t = &by->table;
    const kars__prov_t *prov = r->route->prov[by->index];
    size_t best = t->nrows;

    for (size_t i = 0; i < t->nrows; i++) {
        int here = (t->rows[i].at & KARS_AT_ROUTE) != 0 &&
                   (t->rows[i].flags & KARS_D_PASSIVE) == 0;

        if (prov[i].set != 0 && prov[i].file != NULL &&
            (best == t->nrows || here)) {
            best = i;
            if (here) {
                break;
            }
        }
    }
    return best != t->nrows
               ? rule_row(r, t, prov, best)
               : kars__pprintf(r->pool, "module %s (default)", by->def.name);
}

kars_str_t
kars__rule_of(kars_req_t *r, const kars_denial_t *d, const kars__mod_t *by,
              const char *said)
{
    size_t row = 0;

    if (d->rule_text.len != 0) {
        return d->rule_text;
    }
    if (by == NULL) {
        return rule_core(r, d->code, said);
    }

    const kars_directive_t *dir = kars__directive_of(
        &by->table, kars__req_conf(r, by->index), d->rule, &row);

    return dir != NULL ? rule_row(r, &by->table, r->route->prov[by->index], row)
                       : rule_module(r, by);
}
