/* sketch: governance - the provider of policy.decision/1, which may have to
 * ask elsewhere, and a consumer that asks it on every request. */
#include "kars_module.h"

/* The provider. Here: an OPA server decides. */
typedef int (*gov_verdict_pt)(kars_req_t *r, const kars_verdict_t *verdict,
                              const void *conf, void *ctx);

typedef struct {
    kars_upstream_t *opa;
} gov_conf_t;

typedef struct {
    kars_verdict_t verdict;
    gov_verdict_pt fn; /* the consumer's */
} gov_ctx_t;

/* conf and ctx are whose? The consumer's fn needs the consumer's own. */
static int
gov_reply(kars_req_t *r, const kars_reply_t *reply, const void *conf, void *ctx)
{
    gov_ctx_t *gc = ctx;
    int ok = reply->error == 0 && kars_str_eq(reply->body, KARS_STR("true"));

    gc->verdict.size = sizeof(gc->verdict);
    gc->verdict.decision = ok ? KARS_ALLOW : KARS_DENY;
    return gc->fn(r, &gc->verdict, conf, ctx);
}

static int
gov_decide(kars_req_t *r, const kars_question_t *question, kars_verdict_t *ret,
           gov_verdict_pt fn)
{
    /* Of the route, not of main, would be right: see the gaps. */
    const gov_conf_t *gc = kars_cycle_conf(kars_req_cycle(r));
    kars_call_t call = { .size = sizeof(call),
                         .upstream = gc->opa,
                         .method = KARS_STR("POST"),
                         .path = KARS_STR("/v1/data/kars/allow"),
                         .bytes = question->context,
                         .max_body = 4096 };

    return kars_call(r, &call, gov_reply);
}

static const kars_policy_t gov_policy = { sizeof(gov_policy), gov_decide };
static const kars_service_t gov_provides[] = {
    { "policy.decision/1", &gov_policy },
    { 0 },
};

/* The consumer: another module's ADMIT hook. */
static const kars_policy_t *ask_policy;

static int
ask_verdict(kars_req_t *r, const kars_verdict_t *verdict, const void *conf,
            void *ctx)
{
    kars_denial_t no = { .size = sizeof(no),
                         .status = 403,
                         .code = KARS_STR("policy_denied"),
                         .reason = verdict->reason,
                         .retry_after_ms = verdict->retry_after_ms,
                         .rule_text = verdict->rule };

    return verdict->decision == KARS_ALLOW ? KARS_OK : kars_deny(r, &no);
}

static int
ask_admit(kars_req_t *r, const void *conf, void *ctx)
{
    kars_verdict_t verdict = { .size = sizeof(verdict) };
    kars_question_t question = { .size = sizeof(question),
                                 .subject = kars_req_principal(r),
                                 .action =
                                     kars_req_var(r, KARS_STR("action")) };
    int rc = ask_policy->decide(r, &question, &verdict, ask_verdict);

    return rc == KARS_OK ? ask_verdict(r, &verdict, conf, ctx) : rc;
}

static const kars_hook_t ask_hooks[] = {
    { KARS_PHASE_ADMIT, ask_admit, KARS_NEEDS_BODY, NULL },
    { 0 },
};
static const kars_need_t ask_needs[] = {
    { "policy.decision/1", (const void **) &ask_policy, sizeof(kars_policy_t),
      0 },
    { 0 },
};

KARS_MODULE(governance) = {
    KARS_MODULE_HEAD,
    .name = "governance",
    .version = "1.0.0",
    .flags = KARS_ALWAYS,
    .conf_size = sizeof(gov_conf_t),
    .ctx_size = sizeof(gov_ctx_t),
    .hooks = ask_hooks,
    .provides = gov_provides,
    .needs = ask_needs,
};
