/*
 * outward.c - a module from outside the tree that reaches out in every way
 * there is: answers that grow from two upstreams, passes with a second choice,
 * upstreams from URLs, a judge behind a filter, calls without a request, a
 * command that waits. test_outward.py builds it.
 */
#include "kars_module.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    kars_upstream_t *beat; /* main */
    kars_secret_t *key;
    kars_upstream_t *fan;
    kars_upstream_t *first;
    kars_upstream_t *second;
    kars_upstream_t *judge;
    int32_t fetch;
} out_conf_t;

enum { OUT_FANS = 2 };

typedef struct {
    kars_req_t *r;
    kars_exchange_t *x[OUT_FANS];
    int open;
    int error;
    uint32_t flags; /* of what waits for the judge */
} out_ctx_t;

/* Two streams, one answer. */

static void
out_pause(out_ctx_t *oc, int on)
{
    for (size_t i = 0; i < OUT_FANS; i++) {
        if (oc->x[i] != NULL) {
            kars_exchange_pause(oc->x[i], on);
        }
    }
}

static int
out_event(kars_exchange_t *x, const kars_event_t *ev, void *data)
{
    out_ctx_t *oc = data;
    kars_str_t parts[] = { KARS_STR("data: "), kars_event_data(ev),
                           KARS_STR("\n\n") };
    int rc = KARS_OK;

    for (size_t i = 0; i < KARS_NELTS(parts) && rc != KARS_ERROR; i++) {
        rc = kars_answer_write(oc->r, parts[i], i == 2 ? KARS_FLUSH : 0);
    }
    if (rc == KARS_AGAIN) {
        out_pause(oc, 1);
    }
    return rc == KARS_ERROR ? rc : KARS_OK;
}

static void
out_done(kars_exchange_t *x, int error, void *data)
{
    out_ctx_t *oc = data;

    for (size_t i = 0; i < OUT_FANS; i++) {
        if (oc->x[i] == x) {
            oc->x[i] = NULL;
        }
    }
    oc->error = error != 0 ? error : oc->error;
    if (--oc->open == 0 && oc->r != NULL) {
        (void) kars_answer_end(oc->r, oc->error);
    }
}

static const kars_exchange_handler_t out_handler = {
    .size = sizeof(kars_exchange_handler_t),
    .event = out_event,
    .done = out_done,
};

static void
out_room(kars_req_t *r, void *data)
{
    kars_log(r, KARS_LOG_NOTICE, "outward: room");
    out_pause(data, 0);
}

static void
out_gone(kars_req_t *r, void *data)
{
    out_ctx_t *oc = data;

    kars_log(r, KARS_LOG_NOTICE, "outward: gone");
    oc->r = NULL;
    for (size_t i = 0; i < OUT_FANS; i++) {
        if (oc->x[i] != NULL) {
            kars_exchange_cancel(oc->x[i]);
        }
    }
}

static int
out_fan(kars_req_t *r, const out_conf_t *cf, out_ctx_t *oc)
{
    kars_answer_t answer = { .size = sizeof(answer),
                             .status = 200,
                             .flags = KARS_OPEN_ENDED,
                             .content_type = KARS_STR("text/event-stream"),
                             .room = out_room,
                             .gone = out_gone,
                             .data = oc };
    const out_conf_t *main = kars_cycle_conf(kars_req_cycle(r));
    kars_call_t call = { .size = sizeof(call),
                         .upstream = cf->fan,
                         .method = KARS_STR("GET"),
                         .path = kars_req_path(r),
                         .secret_name = KARS_STR("x-key"),
                         .secret_prefix = KARS_STR("Bearer "),
                         .secret = main->key };

    oc->r = r;
    if (kars_answer_begin(r, &answer) != KARS_AGAIN) {
        return KARS_ERROR;
    }
    for (size_t i = 0; i < OUT_FANS; i++) {
        oc->x[i] = kars_exchange(kars_req_cycle(r), &call, &out_handler, oc);
        oc->open += oc->x[i] != NULL;
    }
    return oc->open == OUT_FANS ? KARS_AGAIN : KARS_ERROR;
}

/* A second choice. */

static int
out_retry(kars_req_t *r, const kars_reply_t *reply, uint32_t attempt,
          kars_upstream_t **next, void *data)
{
    const out_conf_t *cf = data;

    *next = cf->second;
    return attempt == 1 && (reply->error != 0 || reply->status >= 400)
               ? KARS_DONE
               : KARS_OK;
}

static int
out_fetch(kars_req_t *r)
{
    kars_str_t url = kars_header(r, KARS_REQUEST, KARS_STR("x-url"));
    kars_err_t err = { .size = sizeof(err) };
    kars_upstream_t *u = kars_upstream_from_url(kars_req_cycle(r), url, &err);
    kars_pass_t pass = { .size = sizeof(pass), .upstream = u };

    if (u == NULL) {
        return kars_reject(r, 403, KARS_STR("egress_denied"),
                           (kars_str_t){ err.text, strlen(err.text) });
    }

    int rc = kars_pass(r, &pass);

    kars_upstream_unref(u);
    return rc;
}

static int
out_content(kars_req_t *r, const void *conf, void *ctx)
{
    const out_conf_t *cf = conf;
    kars_pass_t pass = { .size = sizeof(pass),
                         .upstream = cf->first,
                         .retry = out_retry,
                         .data = (void *) cf };

    if (cf->fan != NULL) {
        return out_fan(r, cf, ctx);
    }
    if (cf->first != NULL) {
        return kars_pass(r, &pass);
    }
    return cf->fetch ? out_fetch(r) : KARS_OK;
}

/* The answer waits for a judge. */

static int
out_judged(kars_filter_t *f, const kars_reply_t *reply, const void *conf,
           void *ctx)
{
    kars_denial_t no = { .size = sizeof(no),
                         .status = 403,
                         .code = KARS_STR("content_filter"),
                         .reason = KARS_STR("the judge said no") };

    return reply->error == 0 && reply->status == 200
               ? kars_filter_release(f, ((out_ctx_t *) ctx)->flags)
               : kars_filter_deny(f, &no);
}

static int
out_body(kars_filter_t *f, kars_buf_t *in, uint32_t flags, const void *conf,
         void *ctx)
{
    const out_conf_t *cf = conf;
    out_ctx_t *oc = ctx;

    if (cf->judge == NULL) {
        return kars_filter_next(f, in, flags);
    }
    if (kars_filter_hold(f, in) != KARS_OK || !(flags & KARS_LAST)) {
        return KARS_OK;
    }

    kars_call_t call = { .size = sizeof(call),
                         .upstream = cf->judge,
                         .method = KARS_STR("POST"),
                         .path = KARS_STR("/judge"),
                         .body = kars_filter_held(f),
                         .timeout_ms = 5000 };

    oc->flags = flags;
    return kars_filter_call(f, &call, out_judged);
}

/* Without a request. */

static int
out_beat_head(kars_exchange_t *x, const kars_reply_t *reply, void *data)
{
    kars_cycle_log(data, KARS_LOG_NOTICE, "outward: beat status=%d",
                   reply->status);
    return KARS_OK;
}

static const kars_exchange_handler_t out_beat_handler = {
    .size = sizeof(kars_exchange_handler_t),
    .head = out_beat_head,
};

static kars_timer_t *out_timer;

static void
out_beat(kars_cycle_t *cycle, void *data)
{
    const out_conf_t *cf = kars_cycle_conf(cycle);
    kars_call_t call = { .size = sizeof(call),
                         .upstream = cf->beat,
                         .method = KARS_STR("GET"),
                         .path = KARS_STR("/beat"),
                         .timeout_ms = 5000 };

    (void) kars_exchange(cycle, &call, &out_beat_handler, cycle);
    out_timer = kars_timer(cycle, 100, out_beat, NULL);
}

static int
out_start(kars_cycle_t *cycle, kars_err_t *err)
{
    const out_conf_t *cf = kars_cycle_conf(cycle);

    if (cf->beat != NULL) {
        out_timer = kars_timer(cycle, 10, out_beat, NULL);
    }
    return KARS_OK;
}

static void
out_stop(kars_cycle_t *cycle)
{
    kars_timer_cancel(out_timer);
}

/* A command that waits. */

typedef struct {
    kars_cycle_t *cycle;
    int status;
    int error;
} out_reach_t;

static int
out_reach_head(kars_exchange_t *x, const kars_reply_t *reply, void *data)
{
    ((out_reach_t *) data)->status = reply->status;
    return KARS_OK;
}

static void
out_reach_done(kars_exchange_t *x, int error, void *data)
{
    out_reach_t *reach = data;

    reach->error = error;
    kars_loop_stop(reach->cycle);
}

static const kars_exchange_handler_t out_reach_handler = {
    .size = sizeof(kars_exchange_handler_t),
    .head = out_reach_head,
    .done = out_reach_done,
};

static int
out_reach(kars_cycle_t *cycle, int argc, char **argv)
{
    const out_conf_t *cf = kars_cycle_conf(cycle);
    out_reach_t reach = { .cycle = cycle };
    const char *path = argc > 1 ? argv[1] : "/beat";
    uint32_t ms = argc > 2 ? (uint32_t) strtoul(argv[2], NULL, 10) : 10000;
    kars_call_t call = { .size = sizeof(call),
                         .upstream = cf->beat,
                         .method = KARS_STR("GET"),
                         .path = { path, strlen(path) } };

    if (kars_exchange(cycle, &call, &out_reach_handler, &reach) == NULL) {
        return 3;
    }
    if (kars_loop_run(cycle, ms) != KARS_OK) {
        (void) printf("late\n");
        return 1;
    }
    (void) printf("status=%d error=%d\n", reach.status, reach.error);
    return 0;
}

/* What may be reached: this host. */
static int
out_decide(kars_cycle_t *cycle, kars_req_t *r, kars_hostport_t to,
           kars_verdict_t *ret)
{
    ret->decision =
        kars_str_eq(to.host, KARS_STR("127.0.0.1")) ? KARS_ALLOW : KARS_DENY;
    ret->reason = KARS_STR("only this host");
    return KARS_OK;
}

static const kars_egress_t out_egress = { sizeof(kars_egress_t), out_decide };

/* clang-format off */
static const kars_directive_t out_directives[] = {
    { .name = "outward_beat", .at = KARS_AT_MAIN, .type = KARS_T_UPSTREAM,
      .flags = KARS_D_PASSIVE, .offset = offsetof(out_conf_t, beat),
      .doc = "asked without any request" },
    { .name = "outward_key", .at = KARS_AT_MAIN, .type = KARS_T_SECRET,
      .flags = KARS_D_PASSIVE, .offset = offsetof(out_conf_t, key),
      .doc = "shown to the fan's upstreams" },
    { .name = "outward_fan", .at = KARS_AT_ROUTE, .type = KARS_T_UPSTREAM,
      .offset = offsetof(out_conf_t, fan),
      .doc = "streams two of its answers as one" },
    { .name = "outward_first", .at = KARS_AT_ROUTE, .type = KARS_T_UPSTREAM,
      .offset = offsetof(out_conf_t, first), .doc = "the first choice" },
    { .name = "outward_second", .at = KARS_AT_ROUTE, .type = KARS_T_UPSTREAM,
      .offset = offsetof(out_conf_t, second), .doc = "the second choice" },
    { .name = "outward_judge", .at = KARS_AT_ROUTE, .type = KARS_T_UPSTREAM,
      .offset = offsetof(out_conf_t, judge), .doc = "sees answers first" },
    { .name = "outward_fetch", .at = KARS_AT_ROUTE, .type = KARS_T_FLAG,
      .offset = offsetof(out_conf_t, fetch), .doc = "goes where x-url says" },
    { 0 },
};

static const kars_hook_t out_hooks[] = {
    { .phase = KARS_PHASE_CONTENT, .run = out_content,
      .flags = KARS_NEEDS_BODY },
    { 0 },
};

static const kars_filter_def_t out_filters[] = {
    { .dir = KARS_RESPONSE, .body = out_body },
    { 0 },
};

static const kars_service_t out_provides[] = {
    { "egress.decision/1", &out_egress },
    { 0 },
};

static const kars_command_t out_commands[] = {
    { "reach", out_reach, "asks whether the upstream answers", 0 },
    { 0 },
};
/* clang-format on */

KARS_MODULE(outward) = {
    KARS_MODULE_HEAD,
    .name = "outward",
    .version = "1.0.0",
    .conf_size = sizeof(out_conf_t),
    .ctx_size = sizeof(out_ctx_t),
    .directives = out_directives,
    .hooks = out_hooks,
    .filters = out_filters,
    .provides = out_provides,
    .commands = out_commands,
    .worker_start = out_start,
    .worker_stop = out_stop,
};
