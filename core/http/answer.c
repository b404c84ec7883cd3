/* answer.c - what the router itself says: answers, refusals and their shapes
 * (docs/compat.md). */
#include "http/answer.h"
#include "http/request.h"

#include <stdio.h>
#include <time.h>

typedef struct {
    const char *code;
    const char *type;
} answer_type_t;

/* The error type that belongs to a code, where the denial names none. */
static const answer_type_t answer_types[] = {
    { "policy_denied", "policy_violation" },
    { "access_denied", "policy_violation" },
    { "no_identity", "policy_violation" },
    { "budget_exceeded", "token_budget_exceeded" },
    { "per_request_tokens_exceeded", "token_budget_exceeded" },
    { "inference_policy_content_safety_exceeded", "content_policy_violation" },
    { "inference_policy_prompt_shields_required", "content_policy_violation" },
    { "guardrail_blocked", "content_policy_violation" },
    { "content_filter", "content_policy_violation" },
    { "guardrail_misconfigured", "guardrail_error" },
    { "guardrail_unavailable", "guardrail_error" },
    { "provider_unimplemented", "provider_error" },
    { "provider_unconfigured", "provider_error" },
    { "audit_unavailable", "server_error" },
    { "overloaded", "server_error" },
};

static const answer_type_t answer_types_anthropic[] = {
    { "400", "invalid_request_error" }, { "401", "authentication_error" },
    { "403", "permission_error" },      { "404", "not_found_error" },
    { "413", "request_too_large" },     { "429", "rate_limit_error" },
};

static const char *
answer_type(const kars_denial_t *d)
{
    for (size_t i = 0; i < KARS_NELTS(answer_types); i++) {
        if (kars_str_eq(d->code, kars__strz(answer_types[i].code))) {
            return answer_types[i].type;
        }
    }
    switch (d->status) {
    case 401:
        return "authentication_error";
    case 403:
        return "policy_violation";
    case 429:
        return "rate_limit_error";
    case 502:
    case 504:
        return "proxy_error";
    default:
        return d->status >= 500 ? "server_error" : "invalid_request_error";
    }
}

static const char *
answer_type_anthropic(int status)
{
    char text[12];

    (void) snprintf(text, sizeof(text), "%d", status);
    for (size_t i = 0; i < KARS_NELTS(answer_types_anthropic); i++) {
        if (strcmp(answer_types_anthropic[i].code, text) == 0) {
            return answer_types_anthropic[i].type;
        }
    }
    return status >= 500 ? "api_error" : "invalid_request_error";
}

kars_str_t
kars__json_quote(kars_pool_t *pool, kars_str_t s)
{
    static const char hex[] = "0123456789abcdef";
    char *p = kars__palloc(pool, s.len * 6 + 2);
    size_t o = 0;

    if (p == NULL) {
        return (kars_str_t){ NULL, 0 };
    }
    p[o++] = '"';
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char) s.data[i];

        if (c == '"' || c == '\\') {
            p[o++] = '\\';
            p[o++] = (char) c;
        } else if (c < 0x20 || c == 0x7f) {
            memcpy(p + o, "\\u00", 4);
            p[o + 4] = hex[c >> 4];
            p[o + 5] = hex[c & 15];
            o += 6;
        } else {
            p[o++] = (char) c;
        }
    }
    p[o++] = '"';
    return (kars_str_t){ p, o };
}

static kars_str_t
answer_members(kars_req_t *r, const kars_denial_t *d)
{
    kars_str_t all = { "", 0 };

    for (size_t i = 0; i < d->nmembers; i++) {
        all = kars__pprintf(r->pool, "%.*s,\"%.*s\":%.*s", KARS_STR_ARG(all),
                            KARS_STR_ARG(d->members[i].name),
                            KARS_STR_ARG(d->members[i].value));
    }
    return all;
}

/* The error body in the shape of the caller's API (docs/compat.md 1). */
static kars_str_t
answer_error_body(kars_req_t *r, const kars_denial_t *d)
{
    kars_str_t message = kars__json_quote(r->pool, d->reason);
    kars_str_t more = answer_members(r, d);
    kars_str_t type = d->type.len != 0 ? d->type : kars__strz(answer_type(d));

    if (message.data == NULL) {
        return (kars_str_t){ NULL, 0 };
    }
    if (kars_str_starts(r->path, KARS_STR("/v1/messages")) ||
        kars_str_starts(r->path, KARS_STR("/anthropic/"))) {
        return kars__pprintf(r->pool,
                             "{\"type\":\"error\",\"error\":{\"type\":\"%s\","
                             "\"message\":%.*s%.*s}}",
                             answer_type_anthropic(d->status),
                             KARS_STR_ARG(message), KARS_STR_ARG(more));
    }
    if (kars_str_starts(r->path, KARS_STR("/v1/"))) {
        return kars__pprintf(r->pool,
                             "{\"error\":{\"message\":%.*s,\"type\":\"%.*s\","
                             "\"code\":\"%.*s\"%.*s}}",
                             KARS_STR_ARG(message), KARS_STR_ARG(type),
                             KARS_STR_ARG(d->code), KARS_STR_ARG(more));
    }
    return kars__pprintf(r->pool, "{\"error\":%.*s%.*s}", KARS_STR_ARG(message),
                         KARS_STR_ARG(more));
}

static void
answer_fact(kars_req_t *r, const char *name, kars_str_t value)
{
    kars__var_t *v = kars__var(r, kars__strz(name), 1);

    if (v != NULL) {
        v->text = kars__pdup(r->pool, value);
    }
}

/* A header value: no line end may be in it. */
static kars_str_t
answer_header_text(kars_req_t *r, kars_str_t s)
{
    char *p = kars__palloc(r->pool, s.len);

    if (p == NULL) {
        return (kars_str_t){ "", 0 };
    }
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char) s.data[i];

        p[i] = c < 0x20 || c == 0x7f ? ' ' : (char) c;
    }
    return (kars_str_t){ p, s.len };
}

static int
answer_denial_headers(kars_req_t *r, const kars_denial_t *d,
                      const kars__mod_t *by)
{
    kars_str_t reason = answer_header_text(r, d->reason);
    kars_str_t who = kars_str_starts(r->path, KARS_STR("/v1/"))
                         ? KARS_STR("InferencePolicy")
                         : kars__strz(by != NULL ? by->def.name : "router");

    r->out.n = 0;
    if (kars__headers_add(r->pool, &r->out, KARS_STR("content-type"),
                          KARS_STR("application/json")) != KARS_OK) {
        return KARS_ERROR;
    }
    if (!r->admitted || by != NULL) { /* a decision, not a failed upstream */
        if (kars__headers_add(r->pool, &r->out, KARS_STR("x-kars-decision"),
                              KARS_STR("blocked")) != KARS_OK ||
            kars__headers_add(r->pool, &r->out, KARS_STR("x-kars-decision-by"),
                              who) != KARS_OK ||
            kars__headers_add(r->pool, &r->out,
                              KARS_STR("x-kars-decision-reason"),
                              reason) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    if (d->retry_after_ms != 0) {
        kars_str_t s = kars__pprintf(
            r->pool, "%llu",
            ((unsigned long long) d->retry_after_ms + 999) / 1000);

        return kars__headers_add(r->pool, &r->out, KARS_STR("retry-after"), s);
    }
    return KARS_OK;
}

/* What log and audit say of it. said: the directive that decided, where the
 * code alone does not tell. */
static void
answer_decided(kars_req_t *r, const kars_denial_t *d, const kars__mod_t *by,
               const char *said)
{
    kars_str_t rule = kars__rule_of(r, d, by, said);

    r->denied = !r->admitted || by != NULL; /* else the upstream failed */
    answer_fact(r, "deny_module",
                kars__strz(by != NULL ? by->def.name : "core"));
    answer_fact(r, "deny_code", d->code);
    answer_fact(r, "deny_reason", d->reason);
    answer_fact(r, "deny_rule", rule);
    kars__log(r->denied ? KARS_LOG_NOTICE : KARS_LOG_WARN,
              "router: refused status=%d code=%.*s by=%s rule=\"%.*s\" "
              "route=\"%.*s\" class=%.*s trace=%.*s reason=\"%.*s\"",
              d->status, KARS_STR_ARG(d->code),
              by != NULL ? by->def.name : "core", KARS_STR_ARG(rule),
              KARS_STR_ARG(r->route->path),
              r->klass.len != 0 ? (int) r->klass.len : 1,
              r->klass.len != 0 ? r->klass.data : "-", KARS_STR_ARG(r->trace),
              KARS_STR_ARG(d->reason));
}

/* A recheck hook's refusal: the answer has begun, recheck.c ends it. */
static int
answer_deny_late(kars_req_t *r, const kars_denial_t *d, const kars__mod_t *by)
{
    kars_denial_t *late = kars__pnew(r->pool, kars_denial_t);

    if (late == NULL) {
        return KARS_ERROR;
    }
    late->size = sizeof(*late);
    late->status = d->status;
    late->code = kars__pdup(r->pool, d->code);
    late->type = kars__pdup(
        r->pool, d->type.len != 0 ? d->type : kars__strz(answer_type(d)));
    late->reason = kars__pdup(r->pool, d->reason);
    if (late->code.data == NULL || late->type.data == NULL ||
        late->reason.data == NULL) {
        return KARS_ERROR;
    }
    answer_decided(r, d, by, NULL);
    r->denied = 1;
    r->late = late;
    return KARS_DONE;
}

static int
answer_deny(kars_req_t *r, const kars_denial_t *denial, const kars__mod_t *by,
            const char *said)
{
    kars_denial_t d = { 0 };

    memcpy(&d, denial, denial->size < sizeof(d) ? denial->size : sizeof(d));
    if (d.status < 400 || d.status > 599) {
        d.status = 403;
    }
    if (r->head_sent && !r->rechecking) {
        return KARS_ERROR;
    }
    kars__pool_cap(r->pool, 0); /* who used it up can still be told so */
    if (r->rechecking) {
        return answer_deny_late(r, &d, by);
    }
    r->status = (uint32_t) d.status;
    r->answer = KARS__ANSWER_LOCAL;
    r->answer_body = answer_error_body(r, &d);
    answer_decided(r, &d, by, said);
    if (r->answer_body.data == NULL ||
        answer_denial_headers(r, &d, by) != KARS_OK) {
        return KARS_ERROR;
    }
    return KARS_DONE;
}

int
kars__req_deny(kars_req_t *r, const kars_denial_t *denial,
               const kars__mod_t *by)
{
    return answer_deny(r, denial, by, NULL);
}

int
kars__req_refuse(kars_req_t *r, int status, const char *type, const char *code,
                 const char *reason)
{
    return kars__req_refuse_by(r, status, type, code, reason, NULL);
}

int
kars__req_refuse_by(kars_req_t *r, int status, const char *type,
                    const char *code, const char *reason, const char *rule)
{
    kars_denial_t d = {
        .size = sizeof(d),
        .status = status,
        .code = kars__strz(code),
        .type = kars__strz(type),
        .reason = kars__strz(reason),
    };

    return answer_deny(r, &d, NULL, rule);
}

int
kars__req_respond(kars_req_t *r, uint32_t status, kars_str_t type,
                  kars_str_t body)
{
    if (r->answer != KARS__ANSWER_NONE) {
        return KARS_ERROR;
    }

    kars_str_t copy = kars__pdup(r->pool, body);
    kars_str_t kind = kars__pdup(r->pool, type);

    if (copy.data == NULL || kind.data == NULL ||
        (kind.len != 0 &&
         kars__headers_add(r->pool, &r->out, KARS_STR("content-type"), kind) !=
             KARS_OK)) {
        return KARS_ERROR;
    }
    r->status = status;
    r->answer = KARS__ANSWER_LOCAL;
    r->answer_body = copy;
    return KARS_DONE;
}

void
kars__req_send_answer(kars_req_t *r)
{
    if (!r->head_filtered && kars__filters_head(r) == KARS_ERROR) {
        r->proto->abort(r);
        return;
    }

    kars_buf_t *b = NULL;

    if (r->answer_body.len != 0) {
        b = kars__buf_view(&r->bufs, NULL, r->answer_body.data,
                           r->answer_body.len);
        if (b == NULL) {
            r->proto->abort(r);
            return;
        }
    }
    (void) kars__filters_body(r, b, KARS_LAST);
}

/* Between two events (or before the first) a new one can be begun. */
static int
answer_at_event(const kars_req_t *r)
{
    return r->answer_bytes == 0 || (r->tail & 0xffff) == 0x0a0a ||
           r->tail == 0x0d0a0d0a || (r->tail & 0xffff) == 0x0d0d;
}

void
kars__req_end_late(kars_req_t *r, const kars_denial_t *d)
{
    kars_str_t reason = kars__json_quote(r->pool, d->reason);

    if (!r->event_stream || r->last_in || reason.data == NULL ||
        !answer_at_event(r)) {
        r->proto->abort(r);
        return;
    }

    kars_str_t text = kars__pprintf(
        r->pool,
        "data: {\"error\":{\"message\":%.*s,\"type\":\"%.*s\","
        "\"code\":\"%.*s\"}}\n\ndata: [DONE]\n\n",
        KARS_STR_ARG(reason), KARS_STR_ARG(d->type), KARS_STR_ARG(d->code));
    kars_buf_t *b = text.data != NULL
                        ? kars__buf_view(&r->bufs, NULL, text.data, text.len)
                        : NULL;

    if (b == NULL) {
        r->proto->abort(r);
        return;
    }
    (void) kars__filters_body(r, b, KARS_LAST);
}

void
kars__req_fail_late(kars_req_t *r, int status, const char *type,
                    const char *code, const char *reason)
{
    kars_denial_t d = {
        .size = sizeof(d),
        .status = status,
        .code = kars__strz(code),
        .type = kars__strz(type),
        .reason = kars__strz(reason),
    };

    kars_str_t rule = kars__rule_of(r, &d, NULL, NULL);

    kars__log(KARS_LOG_WARN,
              "router: answer failed after its head code=%s rule=\"%.*s\" "
              "trace=%.*s reason=\"%s\"",
              code, KARS_STR_ARG(rule), KARS_STR_ARG(r->trace), reason);
    answer_fact(r, "deny_rule", rule);
    answer_fact(r, "deny_code", d.code);
    answer_fact(r, "deny_reason", d.reason);
    kars__req_end_late(r, &d);
}

/* One text a second. */
kars_str_t
kars__answer_date(kars_cycle_t *cycle)
{
    static char text[32];
    static size_t len;
    static time_t of;
    time_t now = (time_t) (kars__loop_wall(cycle->loop) / 1000);
    struct tm tm;

    if (now != of || len == 0) {
        (void) gmtime_r(&now, &tm);
        len = strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &tm);
        of = now;
    }
    return (kars_str_t){ text, len };
}
