/* load_route.c - what a route runs: hooks in their order, filters, watches. */
#include "proc/load.h"
#include "proc/place.h"

#include <errno.h>

/* Modules that take part: one of their directives applies, or always. */
static int
route_active(kars__load_t *l, const kars__level_t *level, kars__route_t *route,
             int pseudo)
{
    kars_cycle_t *c = l->cycle;

    route->active = kars__pnewn(c->pool, uint8_t, c->nmods + 1);
    if (route->active == NULL) {
        return KARS_ERROR;
    }
    for (size_t i = 0; i < c->nmods; i++) {
        const kars__mod_t *m = c->mods[i];

        route->active[i] = (m->def.flags & KARS_ALWAYS) != 0 ||
                           (!pseudo && m->table.rows != NULL &&
                            kars__directive_active(&m->table, level->prov[i]));
    }
    return KARS_OK;
}

static int
route_check(kars__load_t *l, const kars__level_t *level, kars__route_t *route,
            kars__place_watch_t **watches, kars_err_t *err)
{
    kars_cycle_t *c = l->cycle;

    for (size_t i = 0; i < c->nmods; i++) {
        kars__place_t p = {
            .place = {
                .size = sizeof(p.place),
                .cycle = c,
                .pool = c->pool,
                .at = KARS_AT_ROUTE,
                .active = route->active[i],
                .route_methods = route->methods,
                .route_path = route->path,
                .route_upstream = level->core->pass,
            },
            .mod = c->mods[i],
            .conf = level->conf[i],
            .prov = level->prov[i],
            .watches = watches,
        };

        if (c->mods[i]->def.check == NULL) {
            continue;
        }
        kars__mod_now = c->mods[i];
        int rc = c->mods[i]->def.check(&p.place, level->conf[i], err);
        kars__mod_now = NULL;

        if (rc != KARS_OK) {
            return p.said
                       ? KARS_ERROR
                       : kars__err_prefix(err, "%s:%u:%u: module %s",
                                          route->file, route->line,
                                          route->column, c->mods[i]->def.name);
        }
        watches = p.watches;
    }
    return KARS_OK;
}

/* Appends the hooks of one phase, of one module. */
static void
route_take_hooks(kars__route_t *route, const kars__mod_t *m, uint32_t phase)
{
    for (const kars_hook_t *h = m->def.hooks; h != NULL && h->phase != 0; h++) {
        if (h->phase != phase) {
            continue;
        }
        route->hooks[route->nhooks++] = (kars__hook_t){
            .run = h->run,
            .phase = phase,
            .flags = h->flags,
            .mod = m->index,
        };
        if ((h->flags & KARS_NEEDS_BODY) && phase != KARS_PHASE_LOG) {
            route->gated = 1;
        }
    }
}

static int
route_hooks(kars__load_t *l, kars__route_t *route)
{
    static const uint32_t phases[] = { KARS_PHASE_ACCESS, KARS_PHASE_REWRITE,
                                       KARS_PHASE_ADMIT, KARS_PHASE_CONTENT,
                                       KARS_PHASE_UPSTREAM };
    kars_cycle_t *c = l->cycle;
    size_t n = 0;

    for (size_t i = 0; i < c->nmods; i++) {
        const kars_hook_t *h = c->mods[i]->def.hooks;

        for (; h != NULL && h->phase != 0; h++) {
            n++;
        }
    }
    route->hooks = kars__pnewn(c->pool, kars__hook_t, n + 1);
    if (route->hooks == NULL) {
        return KARS_ERROR;
    }
    for (size_t p = 0; p < KARS_NELTS(phases); p++) {
        for (size_t i = 0; i < c->nmods; i++) {
            if (route->active[i]) {
                route_take_hooks(route, c->mods[i], phases[p]);
            }
        }
    }
    for (size_t i = c->nmods; i-- > 0;) { /* LOG in reverse */
        if (route->active[i]) {
            route_take_hooks(route, c->mods[i], KARS_PHASE_LOG);
        }
    }
    return KARS_OK;
}

/* Appends the filters of one direction, of one module. */
static void
route_take_filters(const kars__mod_t *m, uint32_t dir,
                   kars__filter_slot_t *slots, size_t *n)
{
    for (const kars_filter_def_t *f = m->def.filters; f != NULL && f->dir != 0;
         f++) {
        if (f->dir == dir) {
            slots[*n] = (kars__filter_slot_t){ .def = *f, .mod = m->index };
            (*n)++;
        }
    }
}

static int
route_filters(kars__load_t *l, kars__route_t *route)
{
    kars_cycle_t *c = l->cycle;
    size_t n = 0;

    for (size_t i = 0; i < c->nmods; i++) {
        const kars_filter_def_t *f = c->mods[i]->def.filters;

        for (; f != NULL && f->dir != 0; f++) {
            n++;
        }
    }
    route->filters = kars__pnewn(c->pool, kars__filter_slot_t, n + 1);
    route->in_filters = kars__pnewn(c->pool, kars__filter_slot_t, n + 1);
    if (route->filters == NULL || route->in_filters == NULL) {
        return KARS_ERROR;
    }
    for (size_t i = c->nmods; i-- > 0;) {
        if (route->active[i]) {
            route_take_filters(c->mods[i], KARS_RESPONSE, route->filters,
                               &route->nfilters);
        }
    }
    for (size_t i = 0; i < c->nmods; i++) {
        if (route->active[i]) {
            route_take_filters(c->mods[i], KARS_REQUEST, route->in_filters,
                               &route->nin_filters);
        }
    }
    return KARS_OK;
}

/* The watches of one direction, of modules in their order: rows of the table,
 * then what check() asked for. paths and slots may be NULL. Their number. */
static size_t
route_list_watches(const kars__load_t *l, const kars__route_t *route,
                   const kars__place_watch_t *asked, uint32_t dir,
                   kars_str_t *paths, kars__watch_slot_t *slots)
{
    size_t n = 0;

    for (size_t i = 0; i < l->cycle->nmods; i++) {
        const kars_json_watch_t *j = l->cycle->mods[i]->def.json;
        const kars__place_watch_t *w = asked;

        while (route->active[i]) {
            const kars_json_watch_t *row = NULL;

            if (j != NULL && j->dir != 0) {
                row = j++;
            } else if (w != NULL) {
                row = w->mod == i ? &w->row : NULL;
                w = w->next;
            } else {
                break;
            }
            if (row == NULL || row->dir != dir) {
                continue;
            }
            if (paths != NULL) {
                paths[n] = kars__strz(row->path);
                slots[n] = (kars__watch_slot_t){ row->value, (uint32_t) i };
            }
            n++;
        }
    }
    return n;
}

static int
route_watches(kars__load_t *l, kars__route_t *route,
              const kars__place_watch_t *asked, uint32_t dir, kars_err_t *err)
{
    kars_cycle_t *c = l->cycle;
    kars__watches_t *w = &route->watch[dir == KARS_REQUEST ? 0 : 1];
    size_t n = route_list_watches(l, route, asked, dir, NULL, NULL);
    kars_str_t *paths;
    kars__json_prog_t *prog;

    if (n == 0) {
        return KARS_OK;
    }
    paths = kars__pnewn(c->pool, kars_str_t, n);
    w->slots = kars__pnewn(c->pool, kars__watch_slot_t, n);
    if (paths == NULL || w->slots == NULL) {
        return kars__err(err, ENOMEM, "a route");
    }
    (void) route_list_watches(l, route, asked, dir, paths, w->slots);
    if (kars__json_compile(c->pool, paths, n, &prog, err) != KARS_OK) {
        return kars__err_prefix(err, "%s:%u:%u: JSON watches", route->file,
                                route->line, route->column);
    }
    w->prog = prog;
    return KARS_OK;
}

static int
route_build(kars__load_t *l, kars__level_t *level, kars__route_t *route,
            const kars__place_watch_t *asked, kars_err_t *err)
{
    route->core = level->core;
    route->core_prov = level->core_prov;
    route->conf = level->conf;
    route->prov = level->prov;
    if (route_hooks(l, route) != KARS_OK ||
        route_filters(l, route) != KARS_OK) {
        return kars__err(err, ENOMEM, "a route");
    }
    if (route_watches(l, route, asked, KARS_REQUEST, err) != KARS_OK ||
        route_watches(l, route, asked, KARS_RESPONSE, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (route->watch[0].prog != NULL) {
        route->gated = 1;
    }
    return KARS_OK;
}

int
kars__load_route(kars__load_t *l, kars__level_t *level, kars__route_t *route,
                 kars_err_t *err)
{
    const kars__core_conf_t *core = level->core;
    kars__place_watch_t *asked = NULL;

    if (core->respond_status != 0 &&
        (core->respond_status < 200 || core->respond_status > 599)) {
        return kars__err(err, 0,
                         "%s:%u:%u: `respond` takes a status from 200 to "
                         "599",
                         route->file, route->line, route->column);
    }
    if (core->respond_status != 0 && core->pass != NULL) {
        return kars__err(err, 0,
                         "%s:%u:%u: a route has `pass` or `respond`, not "
                         "both",
                         route->file, route->line, route->column);
    }
    if (route_active(l, level, route, 0) != KARS_OK) {
        return kars__err(err, ENOMEM, "a route");
    }
    return route_check(l, level, route, &asked, err) == KARS_OK
               ? route_build(l, level, route, asked, err)
               : KARS_ERROR;
}

/* Does one of its directives apply to the connections of a server? */
static int
server_asks(const kars__mod_t *m, const kars__prov_t *prov)
{
    for (size_t i = 0; i < m->table.nrows; i++) {
        if (prov[i].set != 0 && !(m->table.rows[i].flags & KARS_D_PASSIVE)) {
            return 1;
        }
    }
    return (m->def.flags & KARS_ALWAYS) != 0;
}

static int
server_connects(kars__load_t *l, const kars__level_t *level,
                kars__server_t *server)
{
    kars_cycle_t *c = l->cycle;

    for (int pass = 0; pass < 2; pass++) {
        size_t n = 0;

        for (size_t i = 0; i < c->nmods; i++) {
            const kars_hook_t *h = c->mods[i]->def.hooks;

            for (; h != NULL && h->phase != 0 &&
                   server_asks(c->mods[i], level->prov[i]);
                 h++) {
                if (h->phase != KARS_PHASE_CONNECT) {
                    continue;
                }
                if (pass == 1) {
                    server->connects[n] = (kars__hook_t){ .connect = h->connect,
                                                          .phase = h->phase,
                                                          .mod = (uint32_t) i };
                }
                n++;
            }
        }
        if (pass == 0 && n != 0) {
            server->connects = kars__pnewn(c->pool, kars__hook_t, n);
            if (server->connects == NULL) {
                return KARS_ERROR;
            }
        }
        server->nconnects = n;
    }
    return KARS_OK;
}

int
kars__load_pseudo_route(kars__load_t *l, kars__level_t *level,
                        kars__server_t *server, kars_err_t *err)
{
    kars__route_t *route = kars__pnew(l->cycle->pool, kars__route_t);

    if (route == NULL || route_active(l, level, route, 1) != KARS_OK ||
        server_connects(l, level, server) != KARS_OK) {
        return kars__err(err, ENOMEM, "a server");
    }
    route->server = server;
    route->methods = KARS_STR("*");
    route->path = KARS_STR("-");
    route->file = "";
    server->none = route;
    if (route_build(l, level, route, NULL, err) != KARS_OK) {
        return KARS_ERROR;
    }

    /* Nothing is asked here: its requests are refused already. */
    size_t n = 0;

    for (size_t i = 0; i < route->nhooks; i++) {
        if (route->hooks[i].phase == KARS_PHASE_LOG) {
            route->hooks[n++] = route->hooks[i];
        }
    }
    route->nhooks = n;
    route->gated = 0;
    route->watch[0].prog = NULL;
    route->watch[1].prog = NULL;
    return KARS_OK;
}
