/*
 * load.c - the configuration's text becomes a cycle: what the master must
 * open, privileges dropped, modules, directives, routes.
 */
#include "proc/load.h"
#include "base/parse.h"
#include "conf/conf_image.h"
#include "kars_config.h"
#include "proc/crash.h"
#include "proc/cycle.h"
#include "proc/harden.h"
#include "proc/logs.h"
#include "proc/module.h"
#include "proc/privileges.h"
#include "proc/tls_set.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define M(f)      offsetof(kars__main_conf_t, f)
#define C(f)      offsetof(kars__core_conf_t, f)
#define AT_MAIN   KARS_AT_MAIN
#define AT_ALL    (KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE)
#define AT_SERVER (KARS_AT_MAIN | KARS_AT_SERVER)

/* clang-format off */
const kars_directive_t kars__main_directives[] = {
    { .name = "user", .at = AT_MAIN, .type = KARS_T_STR, .offset = M(user),
      .doc = "the account that workers run as, when started by root" },
    { .name = "hardening", .at = AT_MAIN, .type = KARS_T_ENUM,
      .offset = M(hardening), .dflt = "strict", .values = "off strict require",
      .doc = "filters of system calls, files and ports around workers: strict: "
             "what the kernel has; require: no start without; off: none, for "
             "debuggers" },
    { .name = "workers", .at = AT_MAIN, .type = KARS_T_STR,
      .offset = M(workers), .dflt = "1",
      .doc = "worker processes: 1 to 64, or auto: one for each processor" },
    { .name = "load_module", .at = AT_MAIN, .type = KARS_T_LIST,
      .flags = KARS_D_REPEAT, .offset = M(modules),
      .doc = "a module; hooks run in the order of these lines, response "
             "filters and LOG in reverse" },
    { .name = "module_path", .at = AT_MAIN, .type = KARS_T_PATH,
      .offset = M(module_path),
      .doc = "the folder of the modules' files" },
    { .name = "sandbox", .at = AT_MAIN, .type = KARS_T_STR,
      .offset = M(sandbox),
      .doc = "whose router this is: key of budgets, subject of audit" },
    { .name = "log", .at = AT_MAIN, .type = KARS_T_LOG,
      .offset = M(log), .dflt = "stderr",
      .doc = "stderr, stdout, syslog:server=ADDRESS,facility=NAME,tag=WORD, or "
             "the path of a file" },
    { .name = "log", .key = "level", .at = AT_MAIN, .type = KARS_T_ENUM,
      .offset = M(log_level), .dflt = "notice",
      .values = "error warn notice info debug",
      .doc = "how much is logged" },
    { .name = "log", .key = "format", .at = AT_MAIN, .type = KARS_T_ENUM,
      .offset = M(log_format), .dflt = "text", .values = "text json",
      .doc = "how a line is written" },
    { .name = "pid", .at = AT_MAIN, .type = KARS_T_PATH, .offset = M(pid),
      .doc = "a file for the master's process id, written once it serves" },
    { .name = "zone", .at = AT_MAIN, .type = KARS_T_STR, .offset = M(zone),
      .dflt = "state", .doc = "the memory that workers share: state SIZE" },
    { .name = "zone", .at = AT_MAIN, .type = KARS_T_SIZE,
      .offset = M(zone_size), .dflt = "4m", .doc = "its size" },
    { .name = "drain_timeout", .at = AT_MAIN, .type = KARS_T_MSEC,
      .offset = M(drain_timeout_ms), .dflt = "30s",
      .doc = "how long old workers may finish their requests" },
    { .name = "drain_timeout", .key = "delay", .at = AT_MAIN,
      .type = KARS_T_MSEC, .offset = M(drain_delay_ms), .dflt = "0s",
      .doc = "on QUIT, how long connections are still taken while readyz "
             "already fails, so that balancers notice" },
    { .name = "body_memory", .at = AT_MAIN, .type = KARS_T_SIZE,
      .offset = M(body_memory), .dflt = "64m",
      .doc = "held request bodies of one worker; above it reading pauses" },
    { .name = "body_memory", .key = "wait", .at = AT_MAIN, .type = KARS_T_MSEC,
      .offset = M(body_wait_ms), .dflt = "10s",
      .doc = "how long a request waits for such memory before 503" },
    { 0 },
};

const kars_directive_t kars__core_directives[] = {
    { .name = "body_limit", .at = AT_ALL, .type = KARS_T_SIZE,
      .offset = C(body_limit), .dflt = "8m",
      .doc = "bytes of one request's body; more is 413" },
    { .name = "header_limit", .at = AT_SERVER, .type = KARS_T_SIZE,
      .offset = C(header_limit), .dflt = "64k",
      .doc = "bytes of one request's head; more is 431" },
    { .name = "memory", .at = AT_ALL, .type = KARS_T_SIZE,
      .offset = C(memory), .dflt = "256k",
      .doc = "cap of a request's pool; held bodies count apart" },
    { .name = "event_limit", .at = AT_ALL, .type = KARS_T_SIZE,
      .offset = C(event_limit), .dflt = "256k",
      .doc = "bytes of one event of a stream that a module looks into; a "
             "larger one cuts the answer" },
    { .name = "timeout", .key = "header", .at = AT_SERVER,
      .type = KARS_T_MSEC, .offset = C(header_timeout_ms), .dflt = "10s",
      .doc = "until a request's head is complete" },
    { .name = "timeout", .key = "body", .at = AT_SERVER, .type = KARS_T_MSEC,
      .offset = C(body_timeout_ms), .dflt = "30s",
      .doc = "between two pieces of a request's body" },
    { .name = "timeout", .key = "idle", .at = AT_SERVER, .type = KARS_T_MSEC,
      .offset = C(idle_timeout_ms), .dflt = "75s",
      .doc = "between two requests of a connection" },
    { .name = "timeout", .key = "send", .at = AT_SERVER, .type = KARS_T_MSEC,
      .offset = C(send_timeout_ms), .dflt = "30s",
      .doc = "for a client that does not take its answer" },
    { .name = "timeout", .key = "half_closed", .at = AT_SERVER,
      .type = KARS_T_MSEC, .offset = C(half_timeout_ms), .dflt = "5s",
      .doc = "for the answer of a client that sends no more" },
    { .name = "tls_certificate", .at = KARS_AT_SERVER, .type = KARS_T_LIST,
      .flags = KARS_D_REPEAT, .offset = C(tls_certificate),
      .doc = "FILE KEYFILE: a certificate, with its chain, and its key, for "
             "`listen … tls`; PEM. The one whose alternative names have the "
             "name that a client asks for, else the first" },
    { .name = "tls_client_ca", .at = KARS_AT_SERVER, .type = KARS_T_STR,
      .offset = C(tls_client_ca), .dflt = "",
      .doc = "PEM file of the authorities of clients' certificates" },
    { .name = "tls_verify_client", .at = KARS_AT_SERVER, .type = KARS_T_ENUM,
      .offset = C(tls_verify_client), .dflt = "off",
      .values = "off optional require",
      .doc = "whether clients show a certificate; a bad one is always "
             "refused" },
    { .name = "tls_protocols", .at = KARS_AT_SERVER, .type = KARS_T_LIST,
      .offset = C(tls_protocols),
      .doc = "TLSv1.2, TLSv1.3, or both; without it both" },
    { .name = "tls_session_timeout", .at = KARS_AT_SERVER,
      .type = KARS_T_MSEC, .offset = C(tls_session_timeout_ms), .dflt = "1h",
      .doc = "how long a session is gone on with by its ticket, 1m to 1d; "
             "tickets' keys change as often" },
    { .name = "http2", .at = AT_SERVER, .type = KARS_T_FLAG,
      .offset = C(http2), .dflt = "on",
      .doc = "HTTP/2, for clients that begin with it" },
    { .name = "http2_streams", .at = AT_SERVER, .type = KARS_T_COUNT,
      .offset = C(http2_streams), .dflt = "100",
      .doc = "requests at once on a connection of HTTP/2" },
    { .name = "http2_window", .at = AT_SERVER, .type = KARS_T_SIZE,
      .offset = C(http2_window), .dflt = "64k",
      .doc = "bytes of a request's body that a client of HTTP/2 may send "
             "before somebody wants them" },
    { .name = "http2_limit", .key = "resets", .at = AT_SERVER,
      .type = KARS_T_COUNT, .offset = C(http2_limit[0]), .dflt = "200",
      .doc = "requests reset before their answer, on a connection of HTTP/2 "
             "within 10 s; more of it ends the connection" },
    { .name = "http2_limit", .key = "pings", .at = AT_SERVER,
      .type = KARS_T_COUNT, .offset = C(http2_limit[1]), .dflt = "200",
      .doc = "PING frames, likewise" },
    { .name = "http2_limit", .key = "settings", .at = AT_SERVER,
      .type = KARS_T_COUNT, .offset = C(http2_limit[2]), .dflt = "50",
      .doc = "SETTINGS frames, likewise" },
    { .name = "http2_limit", .key = "empty", .at = AT_SERVER,
      .type = KARS_T_COUNT, .offset = C(http2_limit[3]), .dflt = "200",
      .doc = "DATA frames without data, likewise" },
    { .name = "http2_limit", .key = "updates", .at = AT_SERVER,
      .type = KARS_T_COUNT, .offset = C(http2_limit[4]), .dflt = "2000",
      .doc = "WINDOW_UPDATE frames beyond four for each DATA frame sent, "
             "likewise" },
    { .name = "http2_limit", .key = "other", .at = AT_SERVER,
      .type = KARS_T_COUNT, .offset = C(http2_limit[5]), .dflt = "1000",
      .doc = "PRIORITY frames and others that are ignored, likewise" },
    { .name = "pass", .at = KARS_AT_ROUTE, .type = KARS_T_UPSTREAM,
      .offset = C(pass), .doc = "the upstream that answers" },
    { .name = "respond", .at = KARS_AT_ROUTE, .type = KARS_T_COUNT,
      .offset = C(respond_status), .doc = "answer with this status" },
    { .name = "respond", .at = KARS_AT_ROUTE, .type = KARS_T_STR,
      .offset = C(respond_text), .dflt = "", .doc = "and this text" },
    { 0 },
};
/* clang-format on */

/* Words of core's own grammar that no table has: blocks and listeners. */
static const char *const load_words[] = { "upstream", "server", "route",
                                          "listen", "include" };

/* A secret that the master opened, by the word that named it. */
static kars__secret_ref_t *
load_find_secret(kars__load_t *l, kars_str_t ref)
{
    for (kars__secret_ref_t *s = l->secrets; s != NULL; s = s->next) {
        if (kars_str_eq(s->ref, ref)) {
            return s;
        }
    }
    return NULL;
}

static kars_upstream_t *
load_upstream(void *data, kars_str_t name)
{
    kars__load_t *l = data;

    for (kars_upstream_t *u = l->cycle->upstreams; u != NULL; u = u->next) {
        if (kars_str_eq(u->name, name)) {
            return u;
        }
    }
    return NULL;
}

static kars_secret_t *
load_env_secret(kars__load_t *l, kars_str_t ref, kars_err_t *err)
{
    const char *value = getenv(ref.data + 4);
    kars_secret_t *s = NULL;

    if (value == NULL) {
        (void) kars__err(err, 0, "the environment has no %s", ref.data + 4);
        return NULL;
    }
    s = kars__secret_create(l->cycle->pool, value, strlen(value), err);
    return s;
}

static kars_secret_t *
load_secret(void *data, kars_str_t ref, kars_err_t *err)
{
    kars__load_t *l = data;

    if (kars_str_starts(ref, KARS_STR("env:"))) {
        kars_str_t z = kars__pdup(l->cycle->pool, ref);

        return z.data != NULL ? load_env_secret(l, z, err) : NULL;
    }

    kars__secret_ref_t *s = load_find_secret(l, ref);

    if (s == NULL) {
        (void) kars__err(err, 0, "the file was not announced");
        return NULL;
    }
    if (s->error[0] != '\0') {
        (void) kars__err(err, 0, "%s", s->error);
        return NULL;
    }
    return kars__secret_read(l->cycle->pool, s->fd, ref.data, err);
}

/* What the text names, before any module is there. */

static int
load_ask_secret(kars__load_t *l, const kars__conf_node_t *node, kars_str_t word,
                kars_err_t *err)
{
    kars_pool_t *pool = l->cycle->pool;
    kars_err_t open_err = KARS_ERR_INIT;
    kars_str_t path = kars__conf_path(
        pool, node->file, (kars_str_t){ word.data + 5, word.len - 5 });
    kars_str_t ref = kars__pprintf(pool, "file:%.*s", KARS_STR_ARG(path));
    kars__secret_ref_t *s = kars__pnew(pool, kars__secret_ref_t);

    if (s == NULL || path.data == NULL || ref.data == NULL) {
        return kars__err(err, ENOMEM, "a secret");
    }
    if (load_find_secret(l, ref) != NULL) {
        return KARS_OK;
    }
    s->ref = ref;
    s->fd = -1;
    if (kars__ask(l->channel, KARS__ASK_SECRET, path, 0, &s->fd, NULL,
                  &open_err) != KARS_OK) {
        memcpy(s->error, open_err.text, sizeof(s->error));
    }
    s->next = l->secrets;
    l->secrets = s;
    return KARS_OK;
}

/* Every word `file:PATH`, also as `key=file:PATH`, wherever it stands. */
static int
load_ask_secrets(kars__load_t *l, const kars__conf_node_t *node,
                 kars_err_t *err)
{
    for (; node != NULL; node = node->next) {
        for (size_t i = 1; i < node->argc; i++) {
            kars_str_t w = node->argv[i];
            const char *eq = memchr(w.data, '=', w.len);

            if (!kars_str_starts(w, KARS_STR("file:")) && eq != NULL) {
                w.len -= (size_t) (eq + 1 - w.data);
                w.data = eq + 1;
            }
            if (kars_str_starts(w, KARS_STR("file:")) &&
                load_ask_secret(l, node, w, err) != KARS_OK) {
                return KARS_ERROR;
            }
        }
        if (load_ask_secrets(l, node->child, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    return KARS_OK;
}

static void
load_close_secrets(kars__load_t *l)
{
    for (kars__secret_ref_t *s = l->secrets; s != NULL; s = s->next) {
        if (s->fd != -1) {
            (void) close(s->fd);
            s->fd = -1;
        }
    }
}

static kars_log_t *
load_find_log(void *data, kars_str_t word, kars_err_t *err)
{
    kars__load_t *l = data;
    kars_log_t *log = kars__logs_get(l->cycle, word, err);

    if (log != NULL && l->logs_asked && !log->announced &&
        log->target.kind == KARS__LOG_FILE) {
        (void) kars__err(err, 0,
                         "a file of a log is the first word of a directive "
                         "whose name ends in _log");
        return NULL;
    }
    return log;
}

static int
load_ask_log(kars__load_t *l, const kars__conf_node_t *node, kars_err_t *err)
{
    kars_str_t word = node->argv[1];
    kars_err_t why = KARS_ERR_INIT;
    kars_log_t *log = NULL;

    if (kars__directive_parse(KARS_T_LOG, word, NULL, &log, l->cycle->pool,
                              node->file, &l->resolve, &why) != KARS_OK) {
        return kars__conf_err(err, node, 1, "%s", why.text);
    }
    if (log == NULL) {
        return KARS_OK; /* off */
    }
    log->announced = 1;
    if (l->mode == KARS__CYCLE_SERVE &&
        kars__logs_open(log, l->channel, &why) != KARS_OK) {
        return kars__conf_err(err, node, 1, "%s", why.text);
    }
    return KARS_OK;
}

/* The first word of each directive that is named like a log. */
static int
load_ask_logs(kars__load_t *l, const kars__conf_node_t *node, kars_err_t *err)
{
    for (; node != NULL; node = node->next) {
        if (node->argc > 1 && kars__logs_is_named(node->argv[0]) &&
            load_ask_log(l, node, err) != KARS_OK) {
            return KARS_ERROR;
        }
        if (load_ask_logs(l, node->child, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    return KARS_OK;
}

static int
load_logs(kars__load_t *l, kars_err_t *err)
{
    kars__log_conf_t conf = {
        .target = { .kind = KARS__LOG_OFF, .fd = -1 },
        .level = (uint32_t) l->main.log_level + 1,
        .json = l->main.log_format == 1,
    };

    if (load_ask_logs(l, l->root->child, err) != KARS_OK) {
        return KARS_ERROR;
    }
    l->logs_asked = 1;
    if (l->mode != KARS__CYCLE_SERVE) {
        return KARS_OK;
    }
    if (l->main.log != NULL) { /* by default it stands nowhere in the text */
        if (kars__logs_open(l->main.log, l->channel, err) != KARS_OK) {
            return KARS_ERROR;
        }
        conf.target = l->main.log->target;
    }
    kars__log_setup(&conf);
    return KARS_OK;
}

/* The worker's account, from here on. Nothing of a module has run yet. */
static int
load_drop_privileges(kars__load_t *l, kars_err_t *err)
{
    if (l->mode != KARS__CYCLE_SERVE || l->channel == -1) {
        return KARS_OK;
    }
    return kars__crash_start(err) == KARS_OK
               ? kars__privileges_drop(
                     l->main.user, l->main.hardening == KARS__HARDEN_OFF, err)
               : KARS_ERROR;
}

static int
load_modules(kars__load_t *l, kars_err_t *err)
{
    const char *dir = l->main.module_path.len != 0 ? l->main.module_path.data
                                                   : kars__module_dir();

    for (const kars__conf_node_t *n = l->root->child; n != NULL; n = n->next) {
        kars_err_t why = KARS_ERR_INIT;

        if (!kars_str_eq(n->argv[0], KARS_STR("load_module"))) {
            continue;
        }
        for (size_t i = 1; i < n->argc; i++) {
            if (kars__cycle_add_module(l->cycle, dir, n->argv[i], &why) !=
                    KARS_OK ||
                kars__modules_order(l->cycle->mods, l->cycle->nmods, &why) !=
                    KARS_OK) {
                return kars__conf_err(err, n, i, "%s", why.text);
            }
        }
    }
    return kars__modules_link(l->cycle->mods, l->cycle->nmods, err);
}

static int
load_zone(kars__load_t *l, kars_err_t *err)
{
    int fd;

    if (l->mode != KARS__CYCLE_SERVE) {
        return KARS_OK;
    }
    if (!kars_str_eq(l->main.zone, KARS_STR("state"))) {
        return kars__err(err, 0, "zone: the only zone is `state`");
    }
    if (kars__ask(l->channel, KARS__ASK_ZONE, l->main.zone, l->main.zone_size,
                  &fd, &l->cycle->worker_id, err) != KARS_OK) {
        return KARS_ERROR;
    }
    l->cycle->zone = kars__zone_map(fd, err);
    (void) close(fd);
    return l->cycle->zone != NULL ? KARS_OK : KARS_ERROR;
}

/* Directives. */

/* The table that has a directive of this name, or NULL. */
static const kars__dtable_t *
load_owner(kars__load_t *l, kars_str_t name, size_t *ret_mod)
{
    *ret_mod = SIZE_MAX;
    if (kars__dtable_find(&l->core_table, name) != NULL) {
        return &l->core_table;
    }
    for (size_t i = 0; i < l->cycle->nmods; i++) {
        if (kars__dtable_find(&l->cycle->mods[i]->table, name) != NULL) {
            *ret_mod = i;
            return &l->cycle->mods[i]->table;
        }
    }
    return NULL;
}

int
kars__load_unknown(kars__load_t *l, const kars__conf_node_t *node,
                   kars_err_t *err)
{
    const kars__dtable_t **tables = kars__pnewn(
        l->cycle->pool, const kars__dtable_t *, l->cycle->nmods + 2);
    size_t n = 0;

    if (tables == NULL) {
        return kars__err(err, ENOMEM, "an error");
    }
    tables[n++] = &l->core_table;
    tables[n++] = &l->main_table;
    for (size_t i = 0; i < l->cycle->nmods; i++) {
        tables[n++] = &l->cycle->mods[i]->table;
    }

    const char *near = kars__dtable_nearest(tables, n, node->argv[0]);
    const char *word =
        kars__nearest(node->argv[0], load_words, KARS_NELTS(load_words));

    near = near != NULL ? near : word;
    return near != NULL
               ? kars__conf_err(err, node, 0,
                                "unknown directive \"%.*s\", did you mean "
                                "\"%s\"?",
                                KARS_STR_ARG(node->argv[0]), near)
               : kars__conf_err(err, node, 0, "unknown directive \"%.*s\"",
                                KARS_STR_ARG(node->argv[0]));
}

int
kars__load_directive(kars__load_t *l, const kars__conf_node_t *node,
                     kars__level_t *level, kars_err_t *err)
{
    kars_pool_t *pool = l->cycle->pool;
    size_t mod;

    if (level->at == KARS_AT_MAIN &&
        kars__dtable_find(&l->main_table, node->argv[0]) != NULL) {
        return KARS_OK; /* applied before the modules were opened */
    }

    const kars__dtable_t *t = load_owner(l, node->argv[0], &mod);

    if (t == NULL) {
        return kars__load_unknown(l, node, err);
    }
    return mod == SIZE_MAX
               ? kars__directive_set(t, node, level->at, level->core,
                                     level->core_prov, pool, &l->resolve, err)
               : kars__directive_set(t, node, level->at, level->conf[mod],
                                     level->prov[mod], pool, &l->resolve, err);
}

int
kars__load_level(kars__load_t *l, const kars__level_t *outer, uint32_t at,
                 kars__level_t *ret, kars_err_t *err)
{
    kars_cycle_t *c = l->cycle;
    void *core;

    ret->at = at;
    ret->conf = kars__pnewn(c->pool, void *, c->nmods + 1);
    ret->prov = kars__pnewn(c->pool, kars__prov_t *, c->nmods + 1);
    if (ret->conf == NULL || ret->prov == NULL ||
        kars__directive_inner(&l->core_table, outer->core, outer->core_prov,
                              c->pool, &core, &ret->core_prov) != KARS_OK) {
        return kars__err(err, ENOMEM, "a level of the configuration");
    }
    ret->core = core;
    for (size_t i = 0; i < c->nmods; i++) {
        if (kars__directive_inner(&c->mods[i]->table, outer->conf[i],
                                  outer->prov[i], c->pool, &ret->conf[i],
                                  &ret->prov[i]) != KARS_OK) {
            return kars__err(err, ENOMEM, "a level of the configuration");
        }
    }
    return KARS_OK;
}

/* The outermost level: defaults. */
static int
load_outermost(kars__load_t *l, kars_err_t *err)
{
    kars_cycle_t *c = l->cycle;
    kars__level_t *top = &l->top;

    top->at = KARS_AT_MAIN;
    top->core = kars__pnew(c->pool, kars__core_conf_t);
    top->core_prov =
        kars__pnewn(c->pool, kars__prov_t, l->core_table.nrows + 1);
    top->conf = kars__pnewn(c->pool, void *, c->nmods + 1);
    top->prov = kars__pnewn(c->pool, kars__prov_t *, c->nmods + 1);
    if (top->core == NULL || top->core_prov == NULL || top->conf == NULL ||
        top->prov == NULL) {
        return kars__err(err, ENOMEM, "the configuration");
    }
    if (kars__directive_defaults(&l->core_table, top->core, c->pool,
                                 &l->resolve, err) != KARS_OK) {
        return KARS_ERROR;
    }
    for (size_t i = 0; i < c->nmods; i++) {
        kars__mod_t *m = c->mods[i];

        top->conf[i] = kars__pcalloc(c->pool, 1, m->def.conf_size + 1);
        top->prov[i] = kars__pnewn(c->pool, kars__prov_t, m->table.nrows + 1);
        if (top->conf[i] == NULL || top->prov[i] == NULL) {
            return kars__err(err, ENOMEM, "the configuration");
        }
        if (m->table.rows != NULL &&
            kars__directive_defaults(&m->table, top->conf[i], c->pool,
                                     &l->resolve, err) != KARS_OK) {
            return kars__err_prefix(err, "module %s", m->def.name);
        }
        m->main_conf = top->conf[i];
        m->main_prov = top->prov[i];
    }
    return KARS_OK;
}

static int
load_workers(kars__load_t *l, kars_err_t *err)
{
    if (kars_str_eq(l->main.workers, KARS_STR("auto"))) {
        long n = sysconf(_SC_NPROCESSORS_ONLN);

        l->nworkers = n < 1 ? 1 : n > 64 ? 64 : (uint64_t) n;
        return KARS_OK;
    }
    if (kars__parse_uint(l->main.workers, KARS__ZONE_WORKERS, &l->nworkers) !=
            KARS_OK ||
        l->nworkers == 0) {
        return kars__err(err, 0,
                         "workers: expected 1 to 64 or auto, got \"%.*s\"",
                         KARS_STR_ARG(l->main.workers));
    }
    return KARS_OK;
}

/* Core's own main directives: they say which modules there are. */
static int
load_main(kars__load_t *l, kars_err_t *err)
{
    kars_pool_t *pool = l->cycle->pool;
    kars__dtable_t *tables;
    kars__prov_t *prov;

    if (kars__dtable_init(&l->main_table, pool, "core", kars__main_directives,
                          sizeof(kars_directive_t), sizeof(l->main),
                          err) != KARS_OK ||
        kars__dtable_init(&l->core_table, pool, "core", kars__core_directives,
                          sizeof(kars_directive_t), sizeof(kars__core_conf_t),
                          err) != KARS_OK ||
        kars__directive_defaults(&l->main_table, &l->main, pool, &l->resolve,
                                 err) != KARS_OK) {
        return KARS_ERROR;
    }
    prov = kars__pnewn(pool, kars__prov_t, l->main_table.nrows + 1);
    tables = kars__pnewn(pool, kars__dtable_t, 2);
    if (prov == NULL || tables == NULL) {
        return kars__err(err, ENOMEM, "the configuration");
    }
    tables[0] = l->main_table;
    tables[1] = l->core_table;
    l->cycle->main_table = &tables[0];
    l->cycle->core_table = &tables[1];
    l->cycle->main_prov = prov;
    for (const kars__conf_node_t *n = l->root->child; n != NULL; n = n->next) {
        if (kars__dtable_find(&l->main_table, n->argv[0]) != NULL &&
            kars__directive_set(&l->main_table, n, KARS_AT_MAIN, &l->main, prov,
                                pool, &l->resolve, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    return load_workers(l, err);
}

static int
load_asks(kars__load_t *l, kars_err_t *err)
{
    uint64_t is_new = 1;
    int fd;

    if (l->mode == KARS__CYCLE_SERVE &&
        kars__ask(l->channel, KARS__ASK_WORKERS, KARS_STR(""), l->nworkers, &fd,
                  &is_new, err) != KARS_OK) {
        return KARS_ERROR;
    }
    l->cycle->replaces = l->channel != -1 && !is_new;
    if (load_logs(l, err) != KARS_OK || load_zone(l, err) != KARS_OK ||
        load_ask_secrets(l, l->root->child, err) != KARS_OK ||
        kars__load_ask_tls(l, err) != KARS_OK ||
        kars__load_ask_listeners(l, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (l->mode == KARS__CYCLE_SERVE && l->main.pid.len != 0) {
        return kars__ask(l->channel, KARS__ASK_PID, l->main.pid, 0, &fd, NULL,
                         err);
    }
    return KARS_OK;
}

/* The directives: of the files, or of the image that the first worker of this
 * load made of them. */
static int
load_text(kars__load_t *l, const char *path, kars_err_t *err)
{
    kars_pool_t *pool = l->cycle->pool;
    int fd = -1, rc;

    if (l->channel != -1 && kars__ask(l->channel, KARS__ASK_CONF, KARS_STR(""),
                                      0, &fd, NULL, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (fd != -1) {
        rc = kars__conf_image_read(pool, fd, &l->root, err);
        (void) close(fd);
        return rc;
    }
    rc = kars__conf_parse(pool, path, &l->root, err);
    if (rc != KARS_OK || l->channel == -1) {
        return rc;
    }
    fd = kars__conf_image_make(l->root, err);
    if (fd == -1) {
        return KARS_ERROR;
    }
    rc = kars__give(l->channel, KARS__ASK_IMAGE, fd, err);
    (void) close(fd);
    return rc;
}

/* What foreign code could ask for the master refuses from here on. */
static int
load_seal(kars__load_t *l, kars_err_t *err)
{
    int fd;

    return l->channel == -1 ? KARS_OK
                            : kars__ask(l->channel, KARS__ASK_SEAL,
                                        KARS_STR(""), 0, &fd, NULL, err);
}

static int
load_all(kars__load_t *l, const char *path, kars_err_t *err)
{
    kars_cycle_t *c = l->cycle;

    if (load_text(l, path, err) != KARS_OK || load_main(l, err) != KARS_OK ||
        load_asks(l, err) != KARS_OK || load_seal(l, err) != KARS_OK ||
        load_drop_privileges(l, err) != KARS_OK ||
        load_modules(l, err) != KARS_OK || load_outermost(l, err) != KARS_OK) {
        return KARS_ERROR;
    }
    c->sandbox = l->main.sandbox;
    c->hardening = (uint32_t) l->main.hardening;
    c->body_memory = l->main.body_memory;
    c->body_wait_ms = l->main.body_wait_ms;
    c->drain_timeout_ms = l->main.drain_timeout_ms;
    c->drain_delay_ms = l->main.drain_delay_ms;
    if (kars__load_tree(l, err) != KARS_OK) {
        return KARS_ERROR;
    }
    load_close_secrets(l);
    kars__tls_set_loaded(c);
    return KARS_OK;
}

int
kars__load_run(kars__load_t *l, const char *path, kars_err_t *err)
{
    l->cycle = kars__cycle_bare(err);
    if (l->cycle == NULL) {
        return KARS_ERROR;
    }
    l->resolve.data = l;
    l->resolve.upstream = load_upstream;
    l->resolve.secret = load_secret;
    l->resolve.log = load_find_log;
    kars__abi_resolve = &l->resolve;
    int rc = load_all(l, path, err);
    kars__abi_resolve = NULL;
    if (rc != KARS_OK) {
        load_close_secrets(l);
        kars__cycle_destroy(l->cycle);
    }
    return rc;
}

kars_cycle_t *
kars__cycle_load(const char *path, uint32_t mode, int channel, kars_err_t *err)
{
    kars__load_t l = { .mode = mode, .channel = channel };

    return kars__load_run(&l, path, err) == KARS_OK ? l.cycle : NULL;
}
