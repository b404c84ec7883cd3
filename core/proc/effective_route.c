/* effective_route.c - what a route runs; see effective_route.h. */
#include "proc/effective_route.h"

static const struct {
    uint32_t phase;
    const char *name;
} route_phases[] = {
    { KARS_PHASE_CONNECT, "CONNECT" }, { KARS_PHASE_ACCESS, "ACCESS" },
    { KARS_PHASE_REWRITE, "REWRITE" }, { KARS_PHASE_ADMIT, "ADMIT" },
    { KARS_PHASE_CONTENT, "CONTENT" }, { KARS_PHASE_UPSTREAM, "UPSTREAM" },
    { KARS_PHASE_LOG, "LOG" },
};

static const char *
route_module(const kars_cycle_t *c, uint32_t mod)
{
    return c->mods[mod]->def.name;
}

static const char *
route_phase(uint32_t phase)
{
    for (size_t i = 0; i < KARS_NELTS(route_phases); i++) {
        if (route_phases[i].phase == phase) {
            return route_phases[i].name;
        }
    }
    return "?";
}

static void
route_hooks(FILE *out, const kars_cycle_t *c, const kars__route_t *r,
            uint32_t phase, int indent)
{
    int n = 0;

    for (size_t i = 0; i < r->nhooks; i++) {
        const kars__hook_t *h = &r->hooks[i];

        if (h->phase != phase) {
            continue;
        }
        if (n++ == 0) {
            (void) fprintf(out, "%*s# %s:", indent, "", route_phase(phase));
        }
        (void) fprintf(out, " %s%s", route_module(c, h->mod),
                       (h->flags & KARS_NEEDS_BODY) != 0 ? " (needs the body)"
                                                         : "");
    }
    if (n != 0) {
        (void) fputc('\n', out);
    }
}

static void
route_filters(FILE *out, const kars_cycle_t *c, const kars__route_t *r,
              int indent)
{
    for (size_t i = 0; i < r->nfilters; i++) {
        if (i == 0) {
            (void) fprintf(out, "%*s# response filters:", indent, "");
        }
        (void) fprintf(out, " %s%s", route_module(c, r->filters[i].mod),
                       i + 1 == r->nfilters ? "\n" : "");
    }
}

static void
route_watches(FILE *out, const kars_cycle_t *c, const kars__route_t *r,
              uint32_t dir, int indent)
{
    const char *before = dir == KARS_REQUEST ? "request" : "response";
    int n = 0;

    if (r->watch[dir == KARS_REQUEST ? 0 : 1].prog == NULL) {
        return;
    }
    for (size_t i = 0; i < c->nmods; i++) {
        const kars_json_watch_t *j = c->mods[i]->def.json;

        for (; r->active[i] && j != NULL && j->dir != 0; j++) {
            if (j->dir != dir) {
                continue;
            }
            if (n++ == 0) {
                (void) fprintf(out, "%*s# %s members:", indent, "", before);
            }
            (void) fprintf(out, " %s (%s)", j->path, c->mods[i]->def.name);
        }
    }
    if (n != 0) {
        (void) fputc('\n', out);
    }
}

/* Why not one byte of the body goes on before it is whole. */
static void
route_gate(FILE *out, const kars_cycle_t *c, const kars__route_t *r, int indent)
{
    if (!r->gated) {
        (void) fprintf(out, "%*s# body: streams, nobody needs it whole\n",
                       indent, "");
        return;
    }
    (void) fprintf(out, "%*s# body: held until decided:", indent, "");
    for (size_t i = 0; i < r->nhooks; i++) {
        const kars__hook_t *h = &r->hooks[i];

        if ((h->flags & KARS_NEEDS_BODY) != 0 && h->phase != KARS_PHASE_LOG) {
            (void) fprintf(out, " %s needs it in %s,", route_module(c, h->mod),
                           route_phase(h->phase));
        }
    }
    (void) fprintf(out, " members are %swatched\n",
                   r->watch[0].prog != NULL ? "" : "not ");
}

void
kars__effective_route(FILE *out, const kars_cycle_t *c, const kars__route_t *r,
                      int depth)
{
    int indent = depth * 4;

    for (size_t i = 0; i + 1 < KARS_NELTS(route_phases); i++) {
        route_hooks(out, c, r, route_phases[i].phase, indent);
    }
    route_filters(out, c, r, indent);
    route_hooks(out, c, r, KARS_PHASE_LOG, indent);
    route_watches(out, c, r, KARS_REQUEST, indent);
    route_watches(out, c, r, KARS_RESPONSE, indent);
    if (r->line != 0) {
        route_gate(out, c, r, indent);
    }
}
