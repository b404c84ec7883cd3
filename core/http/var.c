/*
 * var.c - facts about a request by name.
 *
 * Names that the core and our modules use have a place of their own in the
 * request; others, of which a request has few, are in a list.
 */
#include "http/request.h"

/* The names by length, as in var_names. */
enum {
    VAR_PATH,
    VAR_CLASS,
    VAR_MODEL,
    VAR_QUERY,
    VAR_ROUTE,
    VAR_ACCESS,
    VAR_ACTION,
    VAR_METHOD,
    VAR_STATUS,
    VAR_SANDBOX,
    VAR_ATTEMPTS,
    VAR_BYTES_IN,
    VAR_DECISION,
    VAR_TRACE_ID,
    VAR_UPSTREAM,
    VAR_BYTES_OUT,
    VAR_DENY_CODE,
    VAR_DENY_RULE,
    VAR_PRINCIPAL,
    VAR_TOKENS_IN,
    VAR_TOKENS_OUT,
    VAR_BYTES_SENT,
    VAR_OPEN_ENDED,
    VAR_DENY_MODULE,
    VAR_DENY_REASON,
    VAR_DURATION_MS,
    VAR_UPSTREAM_MS,
    VAR_TOKENS_TOTAL,
    VAR_UPSTREAM_HOST,
    VAR_UPSTREAM_PORT,
    VAR_TOKENS_CHARGED,
    VAR_UPSTREAM_STATUS,
    VAR_TOKENS_ESTIMATED,
    VAR_OTHER
};

_Static_assert(VAR_OTHER == KARS__VARS, "a place in the request for each");

static const kars_str_t var_names[] = {
    [VAR_PATH] = KARS_STR("path"),
    [VAR_CLASS] = KARS_STR("class"),
    [VAR_MODEL] = KARS_STR("model"),
    [VAR_QUERY] = KARS_STR("query"),
    [VAR_ROUTE] = KARS_STR("route"),
    [VAR_ACCESS] = KARS_STR("access"),
    [VAR_ACTION] = KARS_STR("action"),
    [VAR_METHOD] = KARS_STR("method"),
    [VAR_STATUS] = KARS_STR("status"),
    [VAR_SANDBOX] = KARS_STR("sandbox"),
    [VAR_ATTEMPTS] = KARS_STR("attempts"),
    [VAR_BYTES_IN] = KARS_STR("bytes_in"),
    [VAR_DECISION] = KARS_STR("decision"),
    [VAR_TRACE_ID] = KARS_STR("trace_id"),
    [VAR_UPSTREAM] = KARS_STR("upstream"),
    [VAR_BYTES_OUT] = KARS_STR("bytes_out"),
    [VAR_DENY_CODE] = KARS_STR("deny_code"),
    [VAR_DENY_RULE] = KARS_STR("deny_rule"),
    [VAR_PRINCIPAL] = KARS_STR("principal"),
    [VAR_TOKENS_IN] = KARS_STR("tokens_in"),
    [VAR_TOKENS_OUT] = KARS_STR("tokens_out"),
    [VAR_BYTES_SENT] = KARS_STR("bytes_sent"),
    [VAR_OPEN_ENDED] = KARS_STR("open_ended"),
    [VAR_DENY_MODULE] = KARS_STR("deny_module"),
    [VAR_DENY_REASON] = KARS_STR("deny_reason"),
    [VAR_DURATION_MS] = KARS_STR("duration_ms"),
    [VAR_UPSTREAM_MS] = KARS_STR("upstream_ms"),
    [VAR_TOKENS_TOTAL] = KARS_STR("tokens_total"),
    [VAR_UPSTREAM_HOST] = KARS_STR("upstream_host"),
    [VAR_UPSTREAM_PORT] = KARS_STR("upstream_port"),
    [VAR_TOKENS_CHARGED] = KARS_STR("tokens_charged"),
    [VAR_UPSTREAM_STATUS] = KARS_STR("upstream_status"),
    [VAR_TOKENS_ESTIMATED] = KARS_STR("tokens_estimated"),
};

/* The first name of each length; its end is the first of the next. */
static const uint8_t var_first[] = {
    [4] = VAR_PATH,
    [5] = VAR_CLASS,
    [6] = VAR_ACCESS,
    [7] = VAR_SANDBOX,
    [8] = VAR_ATTEMPTS,
    [9] = VAR_BYTES_OUT,
    [10] = VAR_TOKENS_OUT,
    [11] = VAR_DENY_MODULE,
    [12] = VAR_TOKENS_TOTAL,
    [13] = VAR_UPSTREAM_HOST,
    [14] = VAR_TOKENS_CHARGED,
    [15] = VAR_UPSTREAM_STATUS,
    [16] = VAR_TOKENS_ESTIMATED,
    [17] = VAR_OTHER,
};

static unsigned
var_known(kars_str_t name)
{
    if (name.len + 1 >= KARS_NELTS(var_first)) {
        return VAR_OTHER;
    }

    for (unsigned i = var_first[name.len]; i < var_first[name.len + 1]; i++) {
        const char *known = var_names[i].data;

        /* The last but one tells most of them apart. */
        if (known[name.len - 2] == name.data[name.len - 2] &&
            memcmp(known, name.data, name.len) == 0) {
            return i;
        }
    }

    return VAR_OTHER;
}

static kars__var_t *
var_other(kars_req_t *r, kars_str_t name, int make)
{
    for (kars__var_t *v = r->vars; v != NULL; v = v->next) {
        if (kars_str_eq(v->name, name)) {
            return v;
        }
    }
    if (!make) {
        return NULL;
    }

    kars__var_t *v = kars__pnew(r->pool, kars__var_t);

    if (v != NULL) {
        v->name = kars__pdup(r->pool, name);
        v->next = r->vars;
        if (v->name.data == NULL) {
            return NULL;
        }
        r->vars = v;
    }
    return v;
}

static kars__var_t *
var_at(kars_req_t *r, unsigned known, kars_str_t name, int make)
{
    if (known == VAR_OTHER) {
        return var_other(r, name, make);
    }
    if (r->known[known] == NULL && make) {
        r->known[known] = kars__pnew(r->pool, kars__var_t);
    }
    return r->known[known];
}

kars__var_t *
kars__var(kars_req_t *r, kars_str_t name, int make)
{
    return var_at(r, var_known(name), name, make);
}

kars_str_t
kars__req_var(kars_req_t *r, kars_str_t name)
{
    unsigned known = var_known(name);

    switch (known) {
    case VAR_METHOD:
        return r->head.method;
    case VAR_PATH:
        return r->path;
    case VAR_QUERY:
        return r->query;
    case VAR_ROUTE:
        return r->route->path;
    case VAR_TRACE_ID:
        return r->trace;
    case VAR_CLASS:
        return r->klass;
    case VAR_PRINCIPAL:
        return r->principal;
    case VAR_SANDBOX:
        return r->cycle->sandbox;
    case VAR_DECISION:
        return r->denied || !r->admitted ? KARS_STR("deny") : KARS_STR("allow");
    }

    const kars__var_t *v = var_at(r, known, name, 0);

    return v != NULL ? v->text : (kars_str_t){ NULL, 0 };
}

int64_t
kars__req_number(kars_req_t *r, kars_str_t name)
{
    unsigned known = var_known(name);

    switch (known) {
    case VAR_STATUS:
        return r->status;
    case VAR_BYTES_IN:
        return (int64_t) r->body_size;
    case VAR_BYTES_OUT:
        return (int64_t) r->answer_bytes;
    case VAR_BYTES_SENT:
        return (int64_t) r->sent_bytes;
    case VAR_OPEN_ENDED:
        return r->open_ended;
    case VAR_DURATION_MS:
        return (int64_t) (kars__loop_now(r->cycle->loop) - r->start_ms);
    }

    const kars__var_t *v = var_at(r, known, name, 0);

    return v != NULL ? v->number : 0;
}
