/*
 * kit.c - kars_test.h, over the loop in memory that our own unit tests use.
 * Owns the facts of the request that ended last.
 */
#include "kit/kars_test.h"
#include "loop.h"

#include "http/request.h"

typedef struct fact_s fact_t;
struct fact_s {
    fact_t *next;
    char *name;
    char *text; /* NULL: none */
    int64_t number;
};

struct kars_test_s {
    t_loop_t *loop;
    fact_t *facts;
    int ended;
    int *ends; /* of kars_test_connects(), as the loop wants them */
};

static kars_test_t *kit_now; /* for the hook below */
static int kit_failures;

void
kit_must(int ok, const char *what, const char *file, int line)
{
    if (!ok) {
        (void) fprintf(stderr, "kars_test: %s:%d: %s\n", file, line, what);
        abort();
    }
}

/* Facts are copied when the request ends: then it is gone. */

static const char *const kit_names[] = {
    "path",
    "class",
    "model",
    "query",
    "route",
    "access",
    "action",
    "method",
    "status",
    "sandbox",
    "attempts",
    "bytes_in",
    "decision",
    "trace_id",
    "upstream",
    "bytes_out",
    "deny_code",
    "deny_rule",
    "principal",
    "tokens_in",
    "tokens_out",
    "bytes_sent",
    "open_ended",
    "deny_module",
    "deny_reason",
    "duration_ms",
    "upstream_ms",
    "tokens_total",
    "upstream_host",
    "upstream_port",
    "tokens_charged",
    "tokens_estimated",
    "upstream_status",
};

_Static_assert(KARS_NELTS(kit_names) == KARS__VARS, "each name of var.c");

static char *
kit_copy(kars_str_t s)
{
    char *p = s.data != NULL ? strndup(s.data, s.len) : NULL;

    CU_ASSERT_FATAL(s.data == NULL || p != NULL);
    return p;
}

static void
kit_forget(kars_test_t *t)
{
    while (t->facts != NULL) {
        fact_t *f = t->facts;

        t->facts = f->next;
        free(f->name);
        free(f->text);
        free(f);
    }
}

static void
kit_remember(kars_test_t *t, kars_req_t *r, kars_str_t name)
{
    fact_t *f = calloc(1, sizeof(*f));

    CU_ASSERT_FATAL(f != NULL);
    f->name = kit_copy(name);
    f->text = kit_copy(kars__api.req_var(r, name));
    f->number = kars__api.req_number(r, name);
    f->next = t->facts;
    t->facts = f;
}

static int
kit_log(kars_req_t *r, const void *conf, void *ctx)
{
    if (kit_now == NULL) {
        return KARS_OK;
    }
    kit_forget(kit_now);
    for (size_t i = 0; i < KARS_NELTS(kit_names); i++) {
        kit_remember(kit_now, r, t_str(kit_names[i]));
    }
    for (const kars__var_t *v = r->vars; v != NULL; v = v->next) {
        kit_remember(kit_now, r, v->name);
    }
    kit_now->ended++;
    return KARS_OK;
}

static const kars_hook_t kit_hooks[] = {
    { .phase = KARS_PHASE_LOG, .run = kit_log },
    { 0 },
};

static const kars_module_t kit_module = {
    T_MODULE_HEAD,
    .name = "kars-test",
    .flags = KARS_ALWAYS,
    .hooks = kit_hooks,
};

static int
kit_open_access(kars_req_t *r, const void *conf, void *ctx)
{
    return kars__api.grant(r, KARS_STR("agent"), KARS_STR("someone"));
}

static const kars_hook_t kit_open_hooks[] = {
    { .phase = KARS_PHASE_ACCESS, .run = kit_open_access },
    { 0 },
};

const kars_module_t kars_test_open = {
    T_MODULE_HEAD,
    .name = "open",
    .flags = KARS_ALWAYS,
    .hooks = kit_open_hooks,
};

/* Ours is the first, so that its LOG hook is the last; unless another must
 * stand before all. Freed by the caller. */
static const kars_module_t **
kit_modules(const kars_module_t *const *modules)
{
    size_t n = 0, last = 0;

    for (; modules != NULL && modules[n] != NULL; n++) {
        last |= modules[n]->before != NULL &&
                strchr(modules[n]->before, '*') != NULL;
    }

    const kars_module_t **all = calloc(n + 2, sizeof(const kars_module_t *));

    CU_ASSERT_FATAL(all != NULL);
    all[last ? n : 0] = &kit_module;
    for (size_t i = 0; i < n; i++) {
        all[last ? i : i + 1] = modules[i];
    }
    return all;
}

kars_test_t *
kars_test_create(const char *conf, const kars_module_t *const *modules)
{
    const kars_module_t **all = kit_modules(modules);
    kars_test_t *t = calloc(1, sizeof(*t));

    CU_ASSERT_FATAL(t != NULL);
    t->loop = t_loop_create(conf, all);
    free(all);
    kit_now = t;
    return t;
}

void
kars_test_destroy(kars_test_t *t)
{
    kars__pool_fail_at(0);
    t_loop_destroy(t->loop);
    kit_now = NULL;
    kit_forget(t);
    free(t->ends);
    free(t);
}

const char *
kars_test_load_error(const char *conf, const kars_module_t *const *modules)
{
    return t_load_error(conf, modules);
}

void
kars_test_run(kars_test_t *t)
{
    t_run(t->loop);
}

void
kars_test_advance_ms(kars_test_t *t, uint64_t ms)
{
    t_advance_ms(t->loop, ms);
}

void
kars_test_until(kars_test_t *t, const int *what)
{
    t_run_until(t->loop, what);
}

/* The client. */

void
kars_test_request(kars_test_t *t, const char *raw)
{
    if (t->loop->client != NULL && t->loop->client->shut) {
        (void) t_client(t->loop); /* the router waits for its end only */
    }
    t_request(t->loop, raw);
}

void
kars_test_ask(kars_test_t *t, const char *method, const char *target,
              const char *headers, const char *body)
{
    const char *type = "content-type: application/json\r\n";
    char *raw = NULL;
    int n;

    headers = headers != NULL ? headers : "";
    if (strcasestr(headers, "content-type:") != NULL) {
        type = "";
    }
    n = body == NULL
            ? asprintf(&raw, "%s %s HTTP/1.1\r\nhost: test\r\n%s\r\n", method,
                       target, headers)
            : asprintf(&raw,
                       "%s %s HTTP/1.1\r\nhost: test\r\n%s%s"
                       "content-length: %zu\r\n\r\n%s",
                       method, target, headers, type, strlen(body), body);
    CU_ASSERT_FATAL(n > 0);
    kars_test_request(t, raw);
    free(raw);
}

static t_end_t *
kit_client(const kars_test_t *t)
{
    CU_ASSERT_FATAL(t->loop->client != NULL); /* nobody has connected yet */
    return t->loop->client;
}

void
kars_test_send(kars_test_t *t, const char *bytes, size_t n)
{
    if (t->loop->client == NULL) {
        (void) t_client(t->loop);
    }
    t_send(t->loop, t->loop->client, bytes, n);
}

void
kars_test_client(kars_test_t *t)
{
    (void) t_client(t->loop);
}

void
kars_test_client_gone(kars_test_t *t)
{
    (void) kit_client(t);
    t_client_gone(t->loop);
}

void
kars_test_client_half(kars_test_t *t)
{
    (void) kit_client(t);
    t_client_half(t->loop);
}

int
kars_test_client_is_open(const kars_test_t *t)
{
    return t_is_open(kit_client(t));
}

void
kars_test_client_room(kars_test_t *t, size_t n)
{
    kit_client(t)->room = n;
    t_run(t->loop);
}

/* Answers. */

int
kars_test_answers(kars_test_t *t)
{
    return t_answers(t->loop);
}

int
kars_test_status(kars_test_t *t)
{
    return t_status(t->loop);
}

int
kars_test_status_at(kars_test_t *t, int i)
{
    return t_status_at(t->loop, i);
}

const char *
kars_test_body(kars_test_t *t)
{
    return t_body(t->loop);
}

const char *
kars_test_header(kars_test_t *t, const char *name)
{
    return t_answers(t->loop) > 0 || t_status(t->loop) != 0
               ? t_header(t->loop, name)
               : NULL;
}

const char *
kars_test_raw(kars_test_t *t)
{
    (void) kit_client(t);
    return t_raw(t->loop);
}

/* Upstreams. */

int
kars_test_upstreams(const kars_test_t *t)
{
    return t_upstreams(t->loop);
}

const char *
kars_test_upstream_got(kars_test_t *t, int i)
{
    return t_upstream_got(t->loop, i);
}

const char *
kars_test_upstream_body(kars_test_t *t, int i)
{
    return t_upstream_body(t->loop, i);
}

int
kars_test_upstream_is_open(kars_test_t *t, int i)
{
    return t_is_open(t_upstream(t->loop, i));
}

void
kars_test_upstream_reply(kars_test_t *t, const char *raw)
{
    t_upstream_reply(t->loop, raw);
}

void
kars_test_upstream_send(kars_test_t *t, int i, const char *bytes, size_t n)
{
    t_send(t->loop, t_upstream(t->loop, i), bytes, n);
}

void
kars_test_upstream_gone(kars_test_t *t, int i)
{
    t_upstream_gone(t->loop, i);
}

void
kars_test_connects(kars_test_t *t, const int *ends, size_t n)
{
    free(t->ends);
    t->ends = calloc(n + 1, sizeof(int));
    CU_ASSERT_FATAL(t->ends != NULL);
    for (size_t i = 0; i < n; i++) {
        t->ends[i] = ends[i] == KARS_TEST_HANGS ? T_CONNECT_HANGS : ends[i];
    }
    t_connects(t->loop, t->ends, n);
}

/* What is left behind. */

const char *
kars_test_log(kars_test_t *t)
{
    return t_log(t->loop);
}

int
kars_test_ended(const kars_test_t *t)
{
    return t->ended;
}

static const fact_t *
kit_fact(const kars_test_t *t, const char *name)
{
    const fact_t *f = t->facts;

    while (f != NULL && strcmp(f->name, name) != 0) {
        f = f->next;
    }
    return f;
}

const char *
kars_test_fact(const kars_test_t *t, const char *name)
{
    const fact_t *f = kit_fact(t, name);

    return f != NULL ? f->text : NULL;
}

int64_t
kars_test_number(const kars_test_t *t, const char *name)
{
    const fact_t *f = kit_fact(t, name);

    return f != NULL ? f->number : 0;
}

int
kars_test_is_empty(const kars_test_t *t)
{
    return t_is_empty(t->loop);
}

void
kars_test_refuse_alloc(uint64_t n)
{
    kars__pool_fail_at(n);
}

int
kars_test_refused(void)
{
    return kars__pool_fail_left() == 0;
}

/* Checks. */

int
kars_test_check(int ok, const char *what, const char *file, int line)
{
    if (!ok) {
        (void) fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
        kit_failures++;
    }
    return ok;
}

int
kars_test_check_str(const char *got, const char *want, const char *what,
                    const char *file, int line)
{
    if (got != NULL && want != NULL && strcmp(got, want) == 0) {
        return 1;
    }
    if (got == want) {
        return 1; /* both NULL */
    }
    (void) fprintf(stderr, "%s:%d: %s is \"%s\", not \"%s\"\n", file, line,
                   what, got != NULL ? got : "(null)",
                   want != NULL ? want : "(null)");
    kit_failures++;
    return 0;
}

int
kars_test_failures(void)
{
    return kit_failures;
}
