/*
 * access.c - the classes of callers, and which routes each may call.
 */
#include "access.h"

#include <stdio.h>

/* Short names, for the table alone. */
enum {
    A = ACCESS_AGENT,
    O = ACCESS_OPERATOR,
    C = ACCESS_CONTROLLER,
    P = ACCESS_PEER,
    ALL = ACCESS_OPEN,
    NOBODY = 0,

    GET = ACCESS_GET,
    POST = ACCESS_POST,
    PUT = ACCESS_PUT,
    PATCH = ACCESS_PATCH,
    DEL = ACCESS_DELETE,
    ANY = ACCESS_ANY,
    GP = GET | POST,
    GPD = GP | DEL
};

/*
 * docs/compat.md 7. One rule is not in the rows: an operator may read (GET) all
 * that an agent may. Finer rules are the handlers' own: an agent's POST
 * /agt/trust is for other ids, its /sandbox/{name} for its own children.
 */
/* clang-format off */
const access_row_t access_table[] = {
    /* open */
    { "/healthz", GET, ALL },
    { "/readyz", GET, ALL },
    { "/metrics", GET, ALL },

    /* not served */
    { "/internal/observations/*", ANY, NOBODY },
    { "/telemetry/*", ANY, NOBODY },
    { "/git/*", ANY, NOBODY },
    { "/gh-api/*", ANY, NOBODY },
    { "/v1/github/*", ANY, NOBODY },
    { "/v1/github-token", ANY, NOBODY },

    /* agent: inference, access requests, and the providers' families */
    { "/v1/*", ANY, A },
    { "/anthropic/v1/messages", POST, A },
    { "/openai/deployments/{deployment}/images/generations", POST, A },
    { "/agents", GP, A },                { "/agents/*", GPD, A },
    { "/memory_stores", GP, A },         { "/memory_stores/*", GPD, A },
    { "/knowledgebases", GP, A },        { "/knowledgebases/*", GP, A },
    { "/evaluations", GP, A },           { "/evaluations/*", GP, A },
    { "/evaluators", GP, A },            { "/evaluators/*", GPD, A },
    { "/evaluationrules", GP, A },       { "/evaluationrules/*", GPD, A },
    { "/indexes", GET, A },              { "/indexes/*", GPD | PATCH, A },
    { "/connections", GP, A },           { "/connections/*", GP, A },
    { "/deployments", GET, A },          { "/deployments/*", GET, A },
    { "/datasets", GET, A },             { "/datasets/*", GPD | PATCH, A },
    { "/insights", GP, A },              { "/insights/*", GET, A },
    { "/openai/conversations", GP, A },  { "/openai/conversations/*", GPD, A },
    { "/openai/responses", GP, A },      { "/openai/responses/*", GPD, A },
    { "/openai/evals", GP, A },          { "/openai/evals/*", GPD, A },
    { "/openai/vector_stores", GP, A },  { "/openai/vector_stores/*", GPD, A },
    { "/openai/files", GP, A },          { "/openai/files/*", GPD, A },
    { "/openai/containers", GP, A },     { "/openai/containers/*", GPD, A },
    { "/openai/fine-tuning/*", GP, A },
    { "/redTeams/runs", GP, A },         { "/redTeams/runs/*", GET, A },
    { "/schedules", GET, A },            { "/schedules/*", GET | PUT | DEL, A },
    { "/evaluationtaxonomies", GP, A },
    { "/evaluationtaxonomies/*", GET | PUT | DEL | PATCH, A },

    /* agent: tools and egress */
    { "/mcp", GPD, A },
    { "/platform/mcp", GPD, A },
    { "/egress/fetch", POST, A },
    { "/egress/allowlist", GET, A },
    { "/blocklist/*", GP, A },

    /* agent: governance, mesh, children */
    { "/agt/evaluate", POST, A },
    { "/agt/trust", GET, A },
    { "/agt/trust", POST, A | O },
    { "/agt/trust/{agent_id}", GET, A },
    { "/agt/trust/{agent_id}", DEL, O },
    { "/agt/signing-counter", POST, A },
    { "/agt/status", GET, A },
    { "/agt/reputation", GET, A },
    { "/agt/mesh/inbox", GET, A },
    { "/agt/relay", GET, A },
    { "/agt/relay/*", GET, A },
    { "/agt/registry/*", GPD | PUT, A },
    { "/sandbox/spawn", POST, A },
    { "/sandbox/list", GET, A },
    { "/sandbox/{name}/status", GET, A },
    { "/sandbox/{name}", DEL, A },

    /* operator */
    { "/admin/*", ANY, O },
    { "/egress/learn", GP, O },
    { "/egress/learn/*", ANY, O },
    { "/egress/learned", GET, O },
    { "/egress/learned/*", GP, O },
    { "/agt/rate-limit", GET | PUT, O },
    { "/agt/audit", GET, O },
    { "/agt/audit/*", GET, O },

    /* approvals and reads; the rest of /internal is the controller's alone */
    { "/internal/access-requests/decision", POST, O | C },
    { "/internal/access-requests/reset", POST, O | C },
    { "/internal/*", GET, O | C },
    { "/internal/*", ANY, C },
    { "/agt/handoff/*", GP, O | C },

    /* other sandboxes */
    { "/a2a", POST, P },
    { "/.well-known/*", GET, A | P },
    { 0 },
};

static const struct { const char *name; uint32_t bit; } access_classes[] = {
    { "agent", A }, { "operator", O }, { "controller", C }, { "peer", P },
    { "open", ALL },
};

static const struct { const char *name; uint32_t bit; } access_verbs[] = {
    { "GET", GET }, { "HEAD", GET }, { "POST", POST }, { "PUT", PUT },
    { "PATCH", PATCH }, { "DELETE", DEL },
};
/* clang-format on */

static int
access_is(kars_str_t s, const char *name)
{
    return s.len == strlen(name) && memcmp(s.data, name, s.len) == 0;
}

uint32_t
access_class(kars_str_t name)
{
    for (size_t i = 0; i < KARS_NELTS(access_classes); i++) {
        if (access_is(name, access_classes[i].name)) {
            return access_classes[i].bit;
        }
    }

    return 0;
}

kars_str_t
access_class_name(uint32_t one)
{
    for (size_t i = 0; i < KARS_NELTS(access_classes); i++) {
        if (one == access_classes[i].bit) {
            const char *name = access_classes[i].name;

            return (kars_str_t){ name, strlen(name) };
        }
    }

    return KARS_STR("nobody");
}

kars_str_t
access_class_names(uint32_t classes, char *buf, size_t cap)
{
    size_t len = 0;

    for (size_t i = 0; i < KARS_NELTS(access_classes); i++) {
        if (!(classes & access_classes[i].bit)) {
            continue;
        }

        int n = snprintf(buf + len, cap - len, "%s%s", len > 0 ? " or " : "",
                         access_classes[i].name);

        if (n < 0 || (size_t) n >= cap - len) {
            break;
        }
        len += (size_t) n;
    }

    return len == 0 ? KARS_STR("nobody") : (kars_str_t){ buf, len };
}

uint32_t
access_method(kars_str_t method)
{
    for (size_t i = 0; i < KARS_NELTS(access_verbs); i++) {
        if (access_is(method, access_verbs[i].name)) {
            return access_verbs[i].bit;
        }
    }

    return ACCESS_OTHER;
}

uint32_t
access_methods(kars_str_t list)
{
    uint32_t methods = 0;

    if (access_is(list, "*")) {
        return ACCESS_ANY;
    }

    for (size_t from = 0; from < list.len;) {
        const char *p = list.data + from;
        const char *comma = memchr(p, ',', list.len - from);
        size_t n = comma != NULL ? (size_t) (comma - p) : list.len - from;

        if (n > 0) {
            methods |= access_method((kars_str_t){ p, n });
        }
        from += n + 1;
    }

    return methods;
}

/* The segment that begins at s.data: its bytes up to the next "/". */
static kars_str_t
access_segment(kars_str_t s)
{
    const char *slash = s.len == 0 ? NULL : memchr(s.data, '/', s.len);

    return (kars_str_t){ s.data,
                         slash != NULL ? (size_t) (slash - s.data) : s.len };
}

static int
access_is_variable(kars_str_t segment)
{
    return segment.len >= 2 && segment.data[0] == '{' &&
           segment.data[segment.len - 1] == '}';
}

static int
access_is_rest(kars_str_t segment)
{
    return access_is_variable(segment) && segment.len >= 5 &&
           memcmp(segment.data + segment.len - 4, "...}", 4) == 0;
}

static int
access_segment_fits(kars_str_t want, kars_str_t have)
{
    if (access_is_variable(want)) {
        return have.len > 0 && !access_is_rest(have);
    }

    /* A route's variable could be anything, a literal is one thing. */
    return !access_is_variable(have) && kars_str_eq(want, have);
}

int
access_path_fits(const char *path, kars_str_t route)
{
    kars_str_t want = { path, strlen(path) };
    kars_str_t have = route;

    /* Each turn takes "/" and a segment from both. */
    while (want.len > 0 && have.len > 0) {
        if (want.data[0] != '/' || have.data[0] != '/') {
            return 0;
        }
        want = (kars_str_t){ want.data + 1, want.len - 1 };
        have = (kars_str_t){ have.data + 1, have.len - 1 };
        if (access_is(want, "*")) {
            return have.len > 0;
        }

        kars_str_t w = access_segment(want);
        kars_str_t h = access_segment(have);

        if (!access_segment_fits(w, h)) {
            return 0;
        }
        want = (kars_str_t){ want.data + w.len, want.len - w.len };
        have = (kars_str_t){ have.data + h.len, have.len - h.len };
    }

    return want.len == 0 && have.len == 0;
}

uint32_t
access_lookup(uint32_t method, kars_str_t route)
{
    for (const access_row_t *row = access_table; row->path != NULL; row++) {
        if (!(row->methods & method) || !access_path_fits(row->path, route)) {
            continue;
        }

        uint32_t classes = row->classes;

        if (classes & ACCESS_AGENT && method == ACCESS_GET) {
            classes |= ACCESS_OPERATOR;
        }
        return classes;
    }

    return 0;
}

int
access_allows(uint32_t classes, uint32_t one)
{
    return (classes & (one | ACCESS_OPEN)) != 0;
}
