/* phase.c - the engine: hooks in their order, waits, decisions. */
#include "http/connect.h"
#include "http/request.h"

#define PHASE_READMITS 4
#define PHASE_REROUTES 4

static void
phase_take_route(kars_req_t *r, const kars__route_t *route)
{
    r->route = route;
    r->gated = route->gated || r->body != NULL; /* what is held stays held */
    r->phase = KARS_PHASE_ACCESS;
    r->hook = 0;
    if (r->conn != NULL && r->conn->connect != NULL) {
        kars__connect_inherit(r);
    }
    kars__pool_cap(r->pool, (size_t) route->core->memory);
}

/* No route, or none that can be taken: a refusal. */
static int
phase_no_route(kars_req_t *r, const kars__route_t *found)
{
    return found == NULL
               ? kars__req_refuse(r, 404, "invalid_request_error",
                                  "no_such_route",
                                  "no route of this router takes this method "
                                  "and path")
               : kars__req_refuse(r, 503, "server_error", "overloaded",
                                  "no memory for the request");
}

void
kars__req_start(kars_req_t *r)
{
    const kars__route_t *route = kars__route_find(r);

    if (route == NULL || route == r->server->none) {
        (void) phase_no_route(r, route);
        kars__req_send_answer(r);
        return;
    }
    phase_take_route(r, route);
    kars__req_run(r);
}

static int
phase_failed(kars_req_t *r, const kars__mod_t *by, const char *what)
{
    kars__log(KARS_LOG_ERR, "router: %s module=%s route=%.*s", what,
              by != NULL ? by->def.name : "core", KARS_STR_ARG(r->route->path));
    return kars__req_refuse(r, 500, "server_error", "internal_error",
                            "the router failed; its log says more");
}

/* What a hook, or its continuation, returned. AGAIN: stop here. */
static int
phase_result(kars_req_t *r, uint32_t mod, int rc)
{
    const kars__mod_t *by = r->cycle->mods[mod];

    switch (rc) {
    case KARS_OK:
        r->hook++;
        return KARS_OK;
    case KARS_DECLINED:
        r->declined[mod] = 1;
        r->hook++;
        return KARS_OK;
    case KARS_AGAIN:
        if (r->suspended || r->answer == KARS__ANSWER_GROWS) {
            return KARS_AGAIN;
        }
        if (r->answer == KARS__ANSWER_TAKEN) {
            return KARS_OK;
        }
        (void) phase_failed(r, by,
                            "a hook returned AGAIN and waits for "
                            "nothing");
        return KARS_OK;
    case KARS_DONE:
        if (r->answer != KARS__ANSWER_NONE) {
            return KARS_OK;
        }
        (void) phase_failed(r, by, "a hook returned DONE without an answer");
        return KARS_OK;
    default:
        if (r->answer == KARS__ANSWER_GROWS) { /* nothing of it has left */
            kars__grow_drop(r);
            r->answer = KARS__ANSWER_NONE;
        }
        (void) phase_failed(r, by, "a hook failed");
        return KARS_OK;
    }
}

static int
phase_wait_body(kars_req_t *r)
{
    if (r->body_state == KARS__BODY_WHOLE) {
        return KARS_OK;
    }
    if (r->body_state == KARS__BODY_NONE) {
        r->body_state = KARS__BODY_READING;
        r->proto->read_body(r, 1);
    }
    return r->body_state == KARS__BODY_WHOLE || r->answer != KARS__ANSWER_NONE
               ? KARS_OK
               : KARS_AGAIN;
}

static int
phase_hook(kars_req_t *r, const kars__hook_t *h)
{
    if (!kars__req_listens(r, h->mod)) {
        r->hook++;
        return KARS_OK;
    }
    if (h->flags & KARS_NEEDS_BODY) {
        if (phase_wait_body(r) == KARS_AGAIN) {
            return KARS_AGAIN;
        }
        if (r->answer != KARS__ANSWER_NONE) {
            return KARS_OK; /* the body was refused */
        }
    }

    void *ctx = kars__req_ctx(r, h->mod);

    if (ctx == NULL) {
        (void) phase_failed(r, r->cycle->mods[h->mod], "no memory for a hook");
        return KARS_OK;
    }
    kars__mod_now = r->cycle->mods[h->mod];
    int rc = h->run(r, kars__req_conf(r, h->mod), ctx);
    kars__mod_now = NULL;
    return phase_result(r, h->mod, rc);
}

/* Nobody answered: what the route itself says. */
static int
phase_content(kars_req_t *r)
{
    const kars__core_conf_t *core = r->route->core;

    if (core->pass != NULL) {
        kars_pass_t pass = { .size = sizeof(pass) };

        return kars__req_pass(r, &pass);
    }
    if (core->respond_status != 0) {
        return kars__req_respond(r, (uint32_t) core->respond_status,
                                 KARS_STR("text/plain; charset=utf-8"),
                                 core->respond_text);
    }
    return kars__req_refuse(r, 404, "invalid_request_error", "no_such_route",
                            "the route has neither `pass` nor `respond`");
}

static size_t
phase_first(const kars_req_t *r, uint32_t phase)
{
    size_t i = 0;

    while (i < r->route->nhooks && r->route->hooks[i].phase < phase) {
        i++;
    }
    return i;
}

/* What is to be read must be readable. */
static int
phase_is_encoded(const kars_req_t *r)
{
    kars_str_t coding = kars__headers_get(&r->in, KARS_STR("content-encoding"));

    return r->gated && coding.len != 0 &&
           !kars__str_ieq(coding, KARS_STR("identity"));
}

/* All hooks of r->phase have run: on to the next. */
static int
phase_next(kars_req_t *r)
{
    switch (r->phase) {
    case KARS_PHASE_ACCESS:
        if (!r->granted) {
            return kars__req_refuse(r, 403, "policy_violation", "no_identity",
                                    "no module granted this caller anything");
        }
        if (r->head.content_length > (int64_t) r->route->core->body_limit) {
            return kars__req_refuse(r, 413, "invalid_request_error",
                                    "body_too_large",
                                    "the body is larger than body_limit");
        }
        if (phase_is_encoded(r)) {
            return kars__req_refuse(r, 415, "invalid_request_error",
                                    "unsupported_encoding",
                                    "a body with a content-encoding is not "
                                    "read here: send it as it is");
        }
        if (r->gated) {
            kars__headers_del(&r->in, KARS_STR("content-encoding"));
        }
        r->phase = KARS_PHASE_REWRITE;
        return KARS_OK;

    case KARS_PHASE_REWRITE:
        /* A watch may feed a decision that no hook's flag tells of. */
        if (r->gated && phase_wait_body(r) == KARS_AGAIN) {
            return KARS_AGAIN;
        }
        if (r->answer != KARS__ANSWER_NONE) {
            return KARS_OK;
        }
        r->phase = KARS_PHASE_ADMIT;
        r->again = 0;
        return KARS_OK;

    case KARS_PHASE_ADMIT:
        if (r->again) {
            if (r->readmits++ == PHASE_READMITS) {
                return phase_failed(r, NULL, "ADMIT does not come to rest");
            }
            r->again = 0;
            r->hook = phase_first(r, KARS_PHASE_ADMIT);
            return KARS_OK;
        }
        r->admitted = 1;
        r->phase = KARS_PHASE_CONTENT;
        if (r->decide_only) {
            r->answer = KARS__ANSWER_TAKEN;
        } else if (r->pass != NULL) { /* chosen before its body changed */
            r->answer = KARS__ANSWER_PASS;
        }
        return KARS_OK;

    default:
        return phase_content(r);
    }
}

void
kars__req_readmit(kars_req_t *r)
{
    if (r->readmits++ == PHASE_READMITS) {
        r->answer = KARS__ANSWER_NONE;
        (void) phase_failed(r, NULL, "ADMIT does not come to rest");
        kars__req_send_answer(r);
        return;
    }
    r->answer = KARS__ANSWER_NONE;
    r->admitted = 0;
    r->again = 0;
    r->phase = KARS_PHASE_ADMIT;
    r->hook = phase_first(r, KARS_PHASE_ADMIT);
}

int
kars__req_rewrite_path(kars_req_t *r, kars_str_t target)
{
    kars_str_t copy = kars__pdup(r->pool, target);
    char *path = kars__palloc(r->pool, target.len);
    kars__reroute_t *to = kars__pnew(r->pool, kars__reroute_t);

    if (r->phase != KARS_PHASE_REWRITE || r->answer != KARS__ANSWER_NONE ||
        copy.data == NULL || path == NULL || to == NULL) {
        return KARS_ERROR;
    }
    for (size_t i = 0; i < copy.len; i++) {
        unsigned char c = (unsigned char) copy.data[i];

        if (c <= 0x20 || c >= 0x7f || c == '#') {
            return KARS_ERROR; /* it would not be one target of a request */
        }
    }
    to->target = copy;
    if (copy.len == 0 || copy.data[0] != '/' ||
        kars__head_path(copy, path, &to->path, &to->query, NULL) != KARS_OK) {
        return KARS_ERROR;
    }
    r->reroute = to;
    return KARS_OK;
}

/* A hook gave the request another path: all that was decided about the one
 * before is void. */
static int
phase_reroute(kars_req_t *r)
{
    kars__reroute_t to = *r->reroute;
    const kars__route_t *route;

    r->reroute = NULL;
    if (r->rewrites++ == PHASE_REROUTES) {
        return phase_failed(r, NULL, "the path does not come to rest");
    }
    kars__log(KARS_LOG_INFO,
              "router: path rewritten from=\"%.*s\" to=\"%.*s\" trace=%.*s",
              KARS_STR_ARG(r->path), KARS_STR_ARG(to.path),
              KARS_STR_ARG(r->trace));
    r->head.target = to.target;
    r->path = to.path;
    r->query = to.query;
    r->granted = 0;
    r->klass = r->principal = (kars_str_t){ NULL, 0 };
    r->again = 0;
    if (r->declined != NULL) {
        memset(r->declined, 0, r->cycle->nmods);
    }
    route = kars__route_find(r);
    if (route == NULL || route == r->server->none) {
        r->route = r->server->none;
        return phase_no_route(r, route);
    }
    phase_take_route(r, route);
    return kars__req_body_reroute(r);
}

/* The next hook, or what comes after the last of a phase. */
static int
phase_step(kars_req_t *r)
{
    const kars__hook_t *h =
        r->hook < r->route->nhooks ? &r->route->hooks[r->hook] : NULL;

    if (r->reroute != NULL) {
        return phase_reroute(r);
    }
    return h != NULL && h->phase == r->phase ? phase_hook(r, h) : phase_next(r);
}

/* The answer is chosen. DONE: it is not any more, or it has been sent. */
static int
phase_answer(kars_req_t *r)
{
    if (r->answer == KARS__ANSWER_LOCAL) {
        kars__req_send_answer(r);
        return KARS_OK;
    }
    if (r->answer == KARS__ANSWER_TAKEN) {
        r->taker->begin(r, r->taker_data);
    }
    if (r->answer != KARS__ANSWER_PASS) {
        return KARS_OK;
    }
    if (r->again) { /* CONTENT wrote what ADMIT has decided about */
        kars__req_readmit(r);
        return r->answer == KARS__ANSWER_NONE ? KARS_DONE : KARS_OK;
    }

    int rc = r->route->nin_filters != 0 ? kars__reqfilters_start(r) : KARS_OK;

    if (rc == KARS_OK) {
        kars__pass_start(r);
    }
    return rc == KARS_DONE && r->answer == KARS__ANSWER_NONE ? KARS_DONE
                                                             : KARS_OK;
}

static void
req_loop(kars_req_t *r)
{
    do {
        while (r->answer == KARS__ANSWER_NONE) {
            int rc = phase_step(r);

            if (rc == KARS_AGAIN) {
                return;
            }
            if (rc == KARS_ERROR) { /* not even a refusal could be made */
                r->proto->abort(r);
                return;
            }
        }
    } while (phase_answer(r) == KARS_DONE);
}

void
kars__req_go_on(kars_req_t *r)
{
    if (!r->running && !r->finished) {
        r->running = 1;
        req_loop(r);
        r->running = 0;
    }
}

void
kars__req_run(kars_req_t *r)
{
    if (r->running || r->suspended || r->finished ||
        r->answer != KARS__ANSWER_NONE) {
        return;
    }
    r->running = 1;
    req_loop(r);
    r->running = 0;
}

/* Suspension. */

void
kars__req_continue(kars_req_t *r, int rc)
{
    if (r->answer == KARS__ANSWER_PASS && r->phase == KARS_PHASE_UPSTREAM) {
        kars__pass_continue(r, rc);
        return;
    }
    if (phase_result(r, r->wait_mod, rc) == KARS_AGAIN) {
        return;
    }
    r->running = 1;
    req_loop(r);
    r->running = 0;
}

static void
phase_woken(void *owner, int error)
{
    kars_req_t *r = owner;

    r->suspended = 0;
    kars__mod_now = r->cycle->mods[r->wait_mod];
    int rc = r->wake(r, error, kars__req_conf(r, r->wait_mod),
                     kars__req_ctx(r, r->wait_mod));
    kars__mod_now = NULL;
    kars__req_continue(r, rc);
}

kars_token_t
kars__req_token(kars_req_t *r)
{
    return kars__wait_make(r->cycle->waits, r);
}

int
kars__req_await(kars_req_t *r, kars_token_t token, uint32_t timeout_ms,
                kars_wake_pt fn)
{
    if (r->suspended || r->finished || r->rechecking || kars__mod_now == NULL ||
        r->answer == KARS__ANSWER_GROWS ||
        kars__wait_take(r->cycle->waits, token, timeout_ms, r, phase_woken,
                        r) != KARS_OK) {
        return KARS_ERROR;
    }
    r->token = token;
    r->suspended = 1;
    r->wait_mod = kars__mod_now->index;
    r->wake = fn;
    return KARS_AGAIN;
}

kars_token_t
kars__req_suspend(kars_req_t *r, uint32_t timeout_ms, kars_wake_pt fn)
{
    if (r->suspended || r->rechecking || kars__mod_now == NULL ||
        r->answer == KARS__ANSWER_GROWS) {
        return 0;
    }
    r->token = kars__wait_add(r->cycle->waits, timeout_ms, phase_woken, r);
    if (r->token != 0) {
        r->suspended = 1;
        r->wait_mod = kars__mod_now->index;
        r->wake = fn;
    }
    return r->token;
}
