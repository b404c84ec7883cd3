/*
 * audit.c - the module: one record per decision, written before the reply
 * ends.
 *
 * A request meets it three times. ADMIT lets it in only while its record can
 * be written; the last response filter queues the record and holds the end of
 * the reply until it is written (`interval`) or durable (`request`); LOG queues
 * it when the client left before that. An answer without an end of its own has
 * its record before its first byte, and at its end another that says that it
 * closed. The queue goes to disk once per loop
 * turn, in one write for all requests of the turn (sink.c, store.c).
 */
#include "audit/command.h"
#include "audit/sink.h"

#define AUDIT_WAIT_MS 30000 /* how long a reply waits for its record */

/* When a record is made. */
enum {
    AUDIT_AT_END, /* the answer's last byte is there */
    AUDIT_AT_LOG, /* it never came */
    AUDIT_AT_OPEN /* the first byte of an answer without an end */
};

typedef struct {
    uint8_t promised; /* ADMIT kept room for the record */
    uint8_t recorded; /* it is queued or written, or not wanted */
    uint8_t refused;  /* by ADMIT: its reply does not wait for a record */
    uint8_t open;     /* recorded before its end: one that it closed is owed */
    uint32_t flags;   /* of what waits for a record */
} audit_ctx_t;

/* Records of requests */

/* Is the route open to all callers? */
static int
audit_open(kars_req_t *r)
{
    return kars_str_eq(kars_req_var(r, KARS_STR("access")), KARS_STR("open"));
}

/* Does this request get a record? Open routes only when refused. */
static int
audit_wanted(kars_req_t *r)
{
    return !audit_open(r) ||
           kars_str_eq(kars_req_var(r, KARS_STR("decision")), KARS_STR("deny"));
}

static void
audit_identity(kars_req_t *r, audit_fields_t *f)
{
    f->request = 1;
    f->trace = kars_req_var(r, KARS_STR("trace_id"));
    f->klass = kars_req_class(r);
    f->route = kars_req_route(r);
    f->method = kars_req_method(r);
    f->path = kars_req_path(r);
    f->status = kars_req_number(r, KARS_STR("status"));
}

static void
audit_facts(kars_req_t *r, audit_fields_t *f)
{
    f->module = kars_req_var(r, KARS_STR("deny_module"));
    f->rule = kars_req_var(r, KARS_STR("deny_rule"));
    f->code = kars_req_var(r, KARS_STR("deny_code"));
    f->reason = kars_req_var(r, KARS_STR("deny_reason"));
    f->model = kars_req_var(r, KARS_STR("model"));
    f->tokens_in = kars_req_number(r, KARS_STR("tokens_in"));
    f->tokens_out = kars_req_number(r, KARS_STR("tokens_out"));
    f->tokens_total = kars_req_number(r, KARS_STR("tokens_total"));
    f->tokens_charged = kars_req_number(r, KARS_STR("tokens_charged"));
    f->upstream = kars_req_var(r, KARS_STR("upstream"));
    f->attempts = kars_req_number(r, KARS_STR("attempts"));
    f->bytes_in = kars_req_number(r, KARS_STR("bytes_in"));
    f->bytes_out = kars_req_number(r, KARS_STR("bytes_out"));
    f->duration_ms = kars_req_number(r, KARS_STR("duration_ms"));
}

static size_t
audit_append(char *to, size_t at, size_t cap, kars_str_t s)
{
    size_t n = s.len < cap - at ? s.len : cap - at;

    if (n > 0) {
        memcpy(to + at, s.data, n);
    }
    return at + n;
}

/* "http:POST /v1/chat/completions", when no module named the action. */
static kars_str_t
audit_action(kars_req_t *r, char *buf, size_t cap)
{
    kars_str_t named = kars_req_var(r, KARS_STR("action"));
    size_t n = 0;

    if (named.len > 0) {
        return named;
    }

    n = audit_append(buf, n, cap, KARS_STR("http:"));
    n = audit_append(buf, n, cap, kars_req_method(r));
    n = audit_append(buf, n, cap, KARS_STR(" "));
    n = audit_append(buf, n, cap, kars_req_route(r));
    return (kars_str_t){ buf, n };
}

static kars_str_t
audit_decision(kars_req_t *r, const audit_fields_t *f)
{
    kars_str_t said = kars_req_var(r, KARS_STR("decision"));

    if (said.len > 0) {
        return said;
    }

    /* Nobody decided: what nobody let in was not allowed. */
    return f->code.len > 0 || f->agent_id.len == 0 ? KARS_STR("deny")
                                                   : KARS_STR("allow");
}

/* What a record that an answer closed says of how it ended. */
static void
audit_closed(audit_fields_t *f, int when)
{
    int whole = when == AUDIT_AT_END;

    f->action = KARS_STR("audit:close");
    f->decision = KARS_STR("failure");
    if (f->code.len == 0) {
        f->code = whole ? KARS_STR("ended") : KARS_STR("client_gone");
        f->decision = whole ? KARS_STR("success") : f->decision;
    }
}

static void
audit_redeem(audit_worker_t *w, audit_ctx_t *ax)
{
    if (ax->promised) {
        ax->promised = 0;
        audit_queue_redeem(&w->queue);
    }
}

/* Queues the record of the request, or, when that was done as it opened, one
 * that it closed. NULL: there is no room for it, which happens only to a
 * refusal while the log cannot be written. */
static audit_draft_t *
audit_record(audit_worker_t *w, kars_req_t *r, audit_ctx_t *ax, int when)
{
    char action[512];
    audit_fields_t f = { .agent_id = kars_req_principal(r) };
    audit_draft_t *d = NULL;

    audit_identity(r, &f);
    audit_facts(r, &f);
    f.action = audit_action(r, action, sizeof(action));
    f.decision = audit_decision(r, &f);
    if (ax->open) {
        audit_closed(&f, when);
    } else if (when == AUDIT_AT_OPEN) {
        f.code = KARS_STR("open");
    }
    if (f.agent_id.len == 0) {
        f.agent_id = w->store.subject;
    }

    if (ax->promised || w->failed == 0 || w->queue.used < AUDIT_UNPROMISED) {
        audit_redeem(w, ax);
        d = audit_queue_push(&w->queue, &f);
    }
    if (d != NULL) {
        ax->recorded = 1;
        ax->open = 0;
        audit_sink_schedule(w);
    }
    return d;
}

/* Hooks */

static const kars_denial_t *
audit_denial(kars_denial_t *d)
{
    memset(d, 0, sizeof(*d));
    d->size = sizeof(*d);
    d->status = 503;
    d->retry_after_ms = 1000;
    d->type = KARS_STR("server_error");
    d->code = KARS_STR("audit_unavailable");
    d->reason = KARS_STR("the audit log cannot be written; nothing is served "
                         "unrecorded");
    return d;
}

/* Would the disk take the records of all that are under way? Looked at
 * without the lock; 1 KiB is what a record takes, with room to spare. */
static int
audit_has_room(audit_worker_t *w)
{
    uint64_t need = AUDIT_RESERVE + w->queue.used + w->queue.promised * 1024;

    if (audit_store_reserved(&w->store, need)) {
        return 1;
    }

    return audit_sink_flush(w, need) == 0;
}

static int
audit_admit(kars_req_t *r, const void *conf, void *ctx)
{
    audit_worker_t *w = &audit_w;
    audit_ctx_t *ax = ctx;
    kars_denial_t denial;

    if (ax->promised || ax->recorded || audit_open(r)) {
        return KARS_OK;
    }

    if (!w->started || w->failed != 0 || !audit_has_room(w) ||
        !audit_queue_promise(&w->queue)) {
        ax->refused = 1;
        return kars_deny(r, audit_denial(&denial));
    }

    ax->promised = 1;
    return KARS_OK;
}

static int
audit_wake(kars_filter_t *f, int error, const void *conf, void *ctx)
{
    kars_denial_t denial;

    if (error == 0) {
        return kars_filter_release(f, ((const audit_ctx_t *) ctx)->flags);
    }

    /* ERROR when the head has left: the connection is cut, so that a reply
     * without a record never looks whole. */
    return kars_filter_deny(f, audit_denial(&denial));
}

/* The record of an answer without an end is due with its first byte. A second
 * promise keeps room for the one that it closed. */
static audit_draft_t *
audit_record_open(audit_worker_t *w, kars_req_t *r, audit_ctx_t *ax)
{
    if (!w->started || !audit_queue_promise(&w->queue)) {
        return NULL;
    }

    audit_draft_t *d = audit_record(w, r, ax, AUDIT_AT_OPEN);

    if (d == NULL) {
        audit_queue_redeem(&w->queue);
        return NULL;
    }
    ax->promised = 1;
    ax->open = 1;
    return d;
}

static int
audit_is_open_ended(kars_req_t *r)
{
    return kars_req_number(r, KARS_STR("open_ended")) != 0 &&
           kars_str_eq(kars_req_var(r, KARS_STR("decision")),
                       KARS_STR("allow"));
}

static int
audit_body(kars_filter_t *f, kars_buf_t *in, uint32_t flags, const void *conf,
           void *ctx)
{
    audit_worker_t *w = &audit_w;
    audit_ctx_t *ax = ctx;
    kars_req_t *r = kars_filter_req(f);
    kars_denial_t denial;
    audit_draft_t *d = NULL;
    int last = (flags & KARS_LAST) != 0;
    int opens = !last && !ax->recorded && audit_is_open_ended(r);

    if (!opens && (!last || (ax->recorded && !ax->open))) {
        return kars_filter_next(f, in, flags);
    }
    if (!ax->open && !audit_wanted(r)) {
        ax->recorded = 1;
        audit_redeem(w, ax);
        return kars_filter_next(f, in, flags);
    }
    if (opens) {
        d = audit_record_open(w, r, ax);
    } else if (w->started) {
        d = audit_record(w, r, ax, AUDIT_AT_END);
    }

    if (ax->refused) { /* it says so itself */
        return kars_filter_next(f, in, flags);
    }
    if (d == NULL || w->failed != 0) {
        return kars_filter_deny(f, audit_denial(&denial));
    }

    if (in != NULL && kars_filter_hold(f, in) != KARS_OK) {
        return KARS_ERROR;
    }
    ax->flags = flags;
    d->token = kars_filter_suspend(f, AUDIT_WAIT_MS, audit_wake);
    return d->token != 0 ? KARS_AGAIN : KARS_ERROR;
}

static int
audit_log(kars_req_t *r, const void *conf, void *ctx)
{
    audit_worker_t *w = &audit_w;
    audit_ctx_t *ax = ctx;

    if (w->started && (ax->open || (!ax->recorded && audit_wanted(r))) &&
        audit_record(w, r, ax, AUDIT_AT_LOG) == NULL) {
        w->refused++;
    }
    audit_redeem(w, ax);
    return KARS_OK;
}

/* audit.sink/1 */

static int
audit_emit(kars_cycle_t *cycle, kars_req_t *r, kars_str_t agent_id,
           kars_str_t action, kars_str_t decision)
{
    audit_worker_t *w = &audit_w;
    audit_fields_t f = { .agent_id = agent_id,
                         .action = action,
                         .decision = decision };

    if (!w->started) {
        return KARS_ERROR;
    }
    if (agent_id.len == 0) {
        f.agent_id = w->store.subject;
    }
    if (r != NULL) {
        audit_identity(r, &f);
    }
    if (audit_queue_push(&w->queue, &f) == NULL) {
        return KARS_ERROR;
    }

    audit_sink_schedule(w);
    return KARS_OK;
}

static int
audit_healthy(kars_cycle_t *cycle)
{
    return audit_w.started && audit_w.failed == 0;
}

/* Process */

static int
audit_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    const audit_conf_t *ac = conf;

    if (place->at != KARS_AT_MAIN) {
        return KARS_OK;
    }
    if (ac->dir.len == 0) {
        return kars_err(err, 0,
                        "module audit is loaded and there is no audit_dir: "
                        "nothing is served unrecorded");
    }
    if (ac->interval_ms < 1 || ac->interval_ms > 60000) {
        return kars_err(err, 0, "audit_sync: the interval is 1ms to 60s");
    }
    if (ac->checkpoint_records < 1 || ac->checkpoint_every_ms < 1000) {
        return kars_err(err, 0,
                        "audit_checkpoint: records is at least 1, every at "
                        "least 1s");
    }

    return KARS_OK;
}

static int
audit_command(kars_cycle_t *cycle, int argc, char **argv)
{
    return audit_command_run(argc, argv, stdout, stderr);
}

/* clang-format off */
static const kars_directive_t audit_directives[] = {
    { .name = "audit_dir", .at = KARS_AT_MAIN, .type = KARS_T_PATH,
      .offset = offsetof(audit_conf_t, dir),
      .doc = "folder of the audit log; must be given" },
    { .name = "audit_sync", .at = KARS_AT_MAIN, .type = KARS_T_ENUM,
      .offset = offsetof(audit_conf_t, sync), .dflt = "request",
      .values = "request interval",
      .doc = "request: on disk before a reply ends; interval: written before, on disk soon after" },
    { .name = "audit_sync", .at = KARS_AT_MAIN, .type = KARS_T_MSEC,
      .offset = offsetof(audit_conf_t, interval_ms), .dflt = "200ms",
      .doc = "with interval: the longest time between written and on disk" },
    { .name = "audit_checkpoint", .key = "records", .at = KARS_AT_MAIN,
      .type = KARS_T_COUNT,
      .offset = offsetof(audit_conf_t, checkpoint_records), .dflt = "1000",
      .doc = "records after which the chain is signed" },
    { .name = "audit_checkpoint", .key = "every", .at = KARS_AT_MAIN,
      .type = KARS_T_MSEC,
      .offset = offsetof(audit_conf_t, checkpoint_every_ms), .dflt = "60s",
      .doc = "time after which it is signed if there is a new record" },
    { 0 },
};

static const kars_hook_t audit_hooks[] = {
    { .phase = KARS_PHASE_ADMIT, .run = audit_admit },
    { .phase = KARS_PHASE_LOG, .run = audit_log },
    { 0 },
};

static const kars_filter_def_t audit_filters[] = {
    { .dir = KARS_RESPONSE, .body = audit_body },
    { 0 },
};

static const kars_audit_sink_t audit_sink = {
    .size = sizeof(kars_audit_sink_t),
    .emit = audit_emit,
    .healthy = audit_healthy,
};

static const kars_service_t audit_provides[] = {
    { "audit.sink/1", &audit_sink },
    { 0 },
};

static const kars_need_t audit_needs[] = {
    { "signing/1", (const void **) &audit_signing, sizeof(kars_signing_t), 1 },
    { 0 },
};

static const kars_os_need_t audit_os_needs[] = {
    { KARS_OS_WRITE, "audit_dir", "the audit log and its head" },
    { KARS_OS_SYSCALL, "fallocate", "keeps room for records" },
    { KARS_OS_SYSCALL, "fdatasync", "makes records durable" },
    { KARS_OS_SYSCALL, "fsync", "makes head.json durable" },
    { KARS_OS_SYSCALL, "ftruncate", "takes back a write that came short" },
    { KARS_OS_SYSCALL, "getdents64", "finds the newest file" },
    { KARS_OS_SYSCALL, "mkdir", "makes audit_dir" },
    { KARS_OS_SYSCALL, "renameat", "replaces head.json" },
    { KARS_OS_SYSCALL, "unlinkat", "removes a head.json that failed" },
    { 0 },
};

static const kars_command_t audit_commands[] = {
    { "audit", audit_command,
      "verify FILE... [--key PUBFILE] [--head SEQ:DIGEST]: check audit logs",
      KARS_CMD_NOCONF },
    { 0 },
};
/* clang-format on */

KARS_MODULE(audit) = {
    KARS_MODULE_HEAD,
    .name = "audit",
    .version = "1.0.0",
    .flags = KARS_ALWAYS,
    .before = "*", /* its filter and its LOG must be the last */
    .conf_size = sizeof(audit_conf_t),
    .ctx_size = sizeof(audit_ctx_t),
    .directives = audit_directives,
    .hooks = audit_hooks,
    .filters = audit_filters,
    .provides = audit_provides,
    .needs = audit_needs,
    .os_needs = audit_os_needs,
    .commands = audit_commands,
    .check = audit_check,
    .worker_start = audit_sink_start,
    .worker_stop = audit_sink_stop,
};
