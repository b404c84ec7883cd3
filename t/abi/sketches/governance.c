/* sketch: governance - the provider of policy.decision/1, which has to ask
 * elsewhere, and below it a consumer that asks on every request. */
#include "kars_module.h"

typedef struct {
    kars_upstream_t *opa;
} gov_conf_t;

/* A question under way. In a pool of its own: the request may end before. */
typedef struct {
    kars_pool_t *pool;
    kars_token_t token;
    kars_verdict_t *ret; /* the consumer's; only while the token waits */
    uint32_t decision;
} gov_ask_t;

static int
gov_body(kars_exchange_t *x, kars_str_t bytes, void *data)
{
    gov_ask_t *ask = data;

    ask->decision =
        kars_str_eq(bytes, KARS_STR("true")) ? KARS_ALLOW : KARS_DENY;
    return KARS_OK;
}

static void
gov_done(kars_exchange_t *x, int error, void *data)
{
    gov_ask_t *ask = data;

    if (kars_token_waits(ask->token)) {
        ask->ret->decision = ask->decision;
        (void) kars_resume(ask->token, error);
    }
    kars_pool_destroy(ask->pool);
}

/* clang-format off */
static const kars_exchange_handler_t gov_handler = {
    .size = sizeof(gov_handler), .body = gov_body, .done = gov_done
};
/* clang-format on */

static int
gov_decide(kars_req_t *r, const kars_question_t *question, kars_verdict_t *ret,
           kars_token_t *ret_token)
{
    const gov_conf_t *gc = kars_req_conf(r); /* of the request's route */
    kars_pool_t *pool = kars_pool_create(kars_req_cycle(r), 4096);
    gov_ask_t *ask = pool == NULL ? NULL : kars_pnew(pool, gov_ask_t);
    kars_call_t call = { .size = sizeof(call),
                         .upstream = gc->opa,
                         .method = KARS_STR("POST"),
                         .path = KARS_STR("/v1/data/kars/allow"),
                         .bytes = question->context };

    if (ask != NULL) {
        *ask = (gov_ask_t){ pool, kars_token_make(r), ret, KARS_DENY };
        if (kars_exchange(kars_req_cycle(r), &call, &gov_handler, ask)) {
            *ret_token = ask->token;
            return KARS_AGAIN;
        }
    }
    kars_pool_destroy(pool);
    return KARS_ERROR;
}

static const kars_policy_t gov_policy = { sizeof(gov_policy), gov_decide };

/* The consumer. */

static const kars_policy_t *ask_policy;

static int
ask_verdict(kars_req_t *r, int error, const void *conf, void *ctx)
{
    const kars_verdict_t *v = ctx;
    kars_denial_t no = { .size = sizeof(no),
                         .status = 403,
                         .code = KARS_STR("policy_denied"),
                         .reason = KARS_STR("no policy allows this"),
                         .rule_text = v->rule };

    return error == 0 && v->decision == KARS_ALLOW ? KARS_OK
                                                   : kars_deny(r, &no);
}

static int
ask_admit(kars_req_t *r, const void *conf, void *ctx)
{
    kars_verdict_t *v = ctx;
    kars_token_t token;
    kars_question_t question = { .size = sizeof(question),
                                 .subject = kars_req_principal(r),
                                 .action =
                                     kars_req_var(r, KARS_STR("action")) };

    v->size = sizeof(*v);
    switch (ask_policy->decide(r, &question, v, &token)) {
    case KARS_OK:
        return ask_verdict(r, 0, conf, ctx);
    case KARS_AGAIN:
        return kars_await(r, token, 2000, ask_verdict);
    default:
        return KARS_ERROR;
    }
}

/* clang-format off */
static const kars_directive_t gov_directives[] = {
    { .name = "opa", .at = KARS_AT_MAIN | KARS_AT_ROUTE,
      .type = KARS_T_UPSTREAM, .offset = offsetof(gov_conf_t, opa) },
    { 0 },
};
static const kars_service_t gov_provides[] = {
    { "policy.decision/1", &gov_policy },
    { 0 },
};
static const kars_hook_t ask_hooks[] = {
    { .phase = KARS_PHASE_ADMIT, .run = ask_admit, .flags = KARS_NEEDS_BODY },
    { 0 },
};
static const kars_need_t ask_needs[] = {
    { "policy.decision/1", (const void **) &ask_policy, sizeof(kars_policy_t),
      0 },
    { 0 },
};
/* clang-format on */

KARS_MODULE(governance) = {
    KARS_MODULE_HEAD,
    .name = "governance",
    .version = "1.0.0",
    .flags = KARS_ALWAYS,
    .conf_size = sizeof(gov_conf_t),
    .ctx_size = sizeof(kars_verdict_t),
    .directives = gov_directives,
    .hooks = ask_hooks,
    .provides = gov_provides,
    .needs = ask_needs,
};
