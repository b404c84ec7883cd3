/* harden.c - what a configuration needs of the system, and the start of a
 * worker that gets no more than that; see harden.h. */
#include "proc/harden.h"
#include "base/parse.h"
#include "http/snapshot.h"
#include "kars_config.h"
#include "proc/crash.h"
#include "proc/cycle.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HARDEN_DNS 53

/* Items: each once. */

static int
harden_push(kars__harden_plan_t *plan, kars__harden_item_t **list,
            const kars__harden_item_t *item, kars_err_t *err)
{
    for (kars__harden_item_t *i = *list; i != NULL; i = i->next) {
        if (i->number == item->number && i->is_write == item->is_write &&
            kars_str_eq(i->path, item->path)) {
            return KARS_OK;
        }
    }

    kars__harden_item_t *i = kars__pnew(plan->pool, kars__harden_item_t);

    if (i == NULL) {
        return kars__err(err, ENOMEM, "a rule");
    }
    *i = *item;
    i->next = *list;
    *list = i;
    return KARS_OK;
}

static int
harden_path(kars__harden_plan_t *plan, kars_str_t path, uint32_t is_write,
            uint32_t is_exact, kars_err_t *err)
{
    kars__harden_item_t item = { .is_write = is_write, .is_exact = is_exact };

    if (path.len == 0) {
        return KARS_OK; /* a directive that was not given */
    }
    item.path = kars__pdup(plan->pool, path);
    if (item.path.data == NULL) {
        return kars__err(err, ENOMEM, "a rule");
    }
    plan->writes |= is_write;
    return harden_push(plan, &plan->paths, &item, err);
}

static int
harden_port(kars__harden_plan_t *plan, uint32_t port, kars_err_t *err)
{
    kars__harden_item_t item = { .number = port };

    return port == 0 ? KARS_OK : harden_push(plan, &plan->ports, &item, err);
}

/* Names are resolved: resolvers over UDP and TCP, and the file that is read
 * for each question. That file alone: beside it stand keys. */
static int
harden_names(kars__harden_plan_t *plan, kars_err_t *err)
{
    plan->udp = 1;
    return harden_port(plan, HARDEN_DNS, err) == KARS_OK
               ? harden_path(plan, KARS_STR("/etc/hosts"), 0, 1, err)
               : KARS_ERROR;
}

static int
harden_hostport(kars__harden_plan_t *plan, const kars_hostport_t *at,
                kars_err_t *err)
{
    kars__addr_t literal;

    if (at->host.len != 0 &&
        kars__addr_literal(at->host, at->port, &literal) != KARS_OK &&
        harden_names(plan, err) != KARS_OK) {
        return KARS_ERROR;
    }
    return harden_port(plan, at->port, err);
}

static int
harden_upstreams(const kars_cycle_t *c, kars__harden_plan_t *plan,
                 kars_err_t *err)
{
    for (const kars_upstream_t *u = c->upstreams; u != NULL; u = u->next) {
        for (size_t i = 0; i < u->nservers; i++) {
            const kars__upserver_t *s = &u->servers[i];

            plan->unix_sockets |= s->at.host.len == 0;
            if (s->at.host.len != 0 &&
                harden_hostport(plan, &s->at, err) != KARS_OK) {
                return KARS_ERROR;
            }
        }
    }
    return KARS_OK;
}

/* What modules declare. */

/* The next row of that name and type after *at, which begins at 0. */
static const kars_directive_t *
harden_row(const kars__dtable_t *t, const char *name, uint32_t type, size_t *at)
{
    while (*at < t->nrows) {
        const kars_directive_t *row = &t->rows[(*at)++];

        if (row->type == type && strcmp(row->name, name) == 0) {
            return row;
        }
    }
    return NULL;
}

static int
harden_of_conf(kars__harden_plan_t *plan, const kars__mod_t *m,
               const kars_os_need_t *need, const char *conf, kars_err_t *err)
{
    const kars_directive_t *row;
    int rc = KARS_OK;
    size_t at = 0;
    uint32_t type =
        need->kind == KARS_OS_CONNECT ? KARS_T_HOSTPORT : KARS_T_PATH;

    while (rc == KARS_OK &&
           (row = harden_row(&m->table, need->what, type, &at)) != NULL) {
        const void *field = conf + row->offset;

        rc = type == KARS_T_PATH
                 ? harden_path(plan, *(const kars_str_t *) field,
                               need->kind == KARS_OS_WRITE, 0, err)
                 : harden_hostport(plan, field, err);
    }
    return rc;
}

/* The values that a directive has: of main, of each server, of each route. */
static int
harden_directive(const kars_cycle_t *c, kars__harden_plan_t *plan,
                 const kars__mod_t *m, const kars_os_need_t *need,
                 kars_err_t *err)
{
    int rc = harden_of_conf(plan, m, need, m->main_conf, err);

    for (const kars__server_t *s = c->servers; s != NULL; s = s->next) {
        if (rc == KARS_OK) {
            rc = harden_of_conf(plan, m, need, s->none->conf[m->index], err);
        }
        for (const kars__route_t *r = s->routes; r != NULL && rc == KARS_OK;
             r = r->next) {
            rc = harden_of_conf(plan, m, need, r->conf[m->index], err);
        }
    }
    return rc;
}

static int
harden_port_number(const char *what, uint64_t *ret)
{
    return kars__parse_uint(kars__strz(what), 65535, ret) == KARS_OK &&
                   *ret != 0
               ? KARS_OK
               : KARS_ERROR;
}

static int
harden_need(const kars_cycle_t *c, kars__harden_plan_t *plan,
            const kars__mod_t *m, const kars_os_need_t *need, kars_err_t *err)
{
    kars__harden_item_t call = { .number = 0 };
    uint64_t port;

    if (need->kind == KARS_OS_SYSCALL) {
        call.number = (uint32_t) kars__harden_call(need->what);
        return harden_push(plan, &plan->calls, &call, err);
    }
    if (need->kind != KARS_OS_CONNECT) {
        return need->what[0] == '/'
                   ? harden_path(plan, kars__strz(need->what),
                                 need->kind == KARS_OS_WRITE, 0, err)
                   : harden_directive(c, plan, m, need, err);
    }
    if (strcmp(need->what, "netlink") == 0) {
        plan->netlink = 1;
        return KARS_OK;
    }
    if (strcmp(need->what, "udp") == 0) {
        plan->udp = 1;
        return KARS_OK;
    }
    return harden_port_number(need->what, &port) == KARS_OK
               ? harden_port(plan, (uint32_t) port, err)
               : harden_directive(c, plan, m, need, err);
}

static int
harden_check_need(const kars__mod_t *m, const kars_os_need_t *need,
                  kars_err_t *err)
{
    uint64_t port;
    size_t at = 0;
    const char *what = need->what != NULL ? need->what : "";

    switch (need->kind) {
    case KARS_OS_READ:
    case KARS_OS_WRITE:
        if (what[0] != '/' &&
            harden_row(&m->table, what, KARS_T_PATH, &at) == NULL) {
            return kars__err(err, 0,
                             "os_needs: \"%s\" is neither an absolute path nor "
                             "a directive of the module that takes a path",
                             what);
        }
        return KARS_OK;
    case KARS_OS_SYSCALL:
        switch (kars__harden_call(what)) {
        case KARS__CALL_UNKNOWN:
            return kars__err(err, 0, "os_needs: no system call is named \"%s\"",
                             what);
        case KARS__CALL_NEVER:
            return kars__err(err, 0,
                             "os_needs: the router grants the system call "
                             "\"%s\" to no module",
                             what);
        default:
            return KARS_OK;
        }
    case KARS_OS_CONNECT:
        if (strcmp(what, "netlink") != 0 && strcmp(what, "udp") != 0 &&
            harden_port_number(what, &port) != KARS_OK &&
            harden_row(&m->table, what, KARS_T_HOSTPORT, &at) == NULL) {
            return kars__err(err, 0,
                             "os_needs: to connect to \"%s\": expected a TCP "
                             "port, netlink, udp or a directive of the module "
                             "that takes HOST:PORT",
                             what);
        }
        return KARS_OK;
    default:
        return kars__err(err, 0, "os_needs: unknown kind %u", need->kind);
    }
}

int
kars__harden_check(const kars__mod_t *mod, kars_err_t *err)
{
    for (const kars_os_need_t *need = mod->def.os_needs;
         need != NULL && need->kind != 0; need++) {
        if (harden_check_need(mod, need, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    return KARS_OK;
}

#ifdef __SANITIZE_ADDRESS__
/* Reports look at the process and name lines of its program. */
static int
harden_sanitizer(kars__harden_plan_t *plan, kars_err_t *err)
{
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe));

    if (n <= 0 || (size_t) n == sizeof(exe)) {
        return kars__err(err, errno, "read /proc/self/exe");
    }
    return harden_path(plan, KARS_STR("/proc"), 0, 0, err) == KARS_OK
               ? harden_path(plan, (kars_str_t){ exe, (size_t) n }, 0, 0, err)
               : KARS_ERROR;
}
#endif

/* What is watched is read again, from folders that may be replaced. */
typedef struct {
    kars__harden_plan_t *plan;
    kars_err_t *err;
    int rc;
} harden_watch_t;

static void
harden_watched(const char *dir, void *data)
{
    harden_watch_t *w = data;

    if (w->rc == KARS_OK) {
        w->rc = harden_path(w->plan, kars__strz(dir), 0, 0, w->err);
    }
}

static int
harden_core(const kars_cycle_t *c, kars__harden_plan_t *plan, kars_err_t *err)
{
    harden_watch_t watch = { .plan = plan, .err = err, .rc = KARS_OK };

    plan->mesh = c->owners != NULL;
    kars__snapshot_folders(c, harden_watched, &watch);
    return watch.rc == KARS_OK ? harden_upstreams(c, plan, err) : KARS_ERROR;
}

int
kars__harden_plan(const kars_cycle_t *cycle, kars__harden_plan_t *ret,
                  kars_err_t *err)
{
    *ret = (kars__harden_plan_t){ .pool = cycle->pool };
    if (harden_core(cycle, ret, err) != KARS_OK) {
        return KARS_ERROR;
    }
    for (size_t i = 0; i < cycle->nmods; i++) {
        const kars__mod_t *m = cycle->mods[i];

        for (const kars_os_need_t *need = m->def.os_needs;
             need != NULL && need->kind != 0; need++) {
            if (harden_need(cycle, ret, m, need, err) != KARS_OK) {
                return KARS_ERROR;
            }
        }
    }
#ifdef __SANITIZE_ADDRESS__
    return harden_sanitizer(ret, err);
#else
    return KARS_OK;
#endif
}

/* What is said at start. */

static void
harden_say_needs(const kars__mod_t *m)
{
    static const char *const kinds[] = { "", "read", "write", "call",
                                         "connect to" };
    char text[900];
    size_t n = 0;

    for (const kars_os_need_t *need = m->def.os_needs;
         need != NULL && need->kind != 0 && n < sizeof(text); need++) {
        n +=
            (size_t) snprintf(text + n, sizeof(text) - n, "%s%s %s (%s)",
                              n != 0 ? ", " : "", kinds[need->kind], need->what,
                              need->reason != NULL ? need->reason : "-");
    }
    if (n != 0) {
        kars__log(KARS_LOG_NOTICE, "worker: module %s may %s", m->def.name,
                  text);
    }
}

static void
harden_say(const kars__harden_plan_t *plan, const kars__harden_state_t *state)
{
    char open[128];
    int all = state->seccomp && state->landlock != 0 && state->tcp;

    (void) snprintf(
        open, sizeof(open), "%s%s%s%s%s", state->seccomp ? "" : " system-calls",
        state->landlock != 0 ? "" : " files", state->tcp ? "" : " tcp-ports",
        plan->udp || !state->seccomp ? " udp" : "",
        plan->unix_sockets || !state->seccomp ? " unix-sockets" : "");
    kars__log(all ? KARS_LOG_NOTICE : KARS_LOG_WARN,
              "worker: confined seccomp=%s landlock=%u tcp-ports=%s "
              "not-held=%s%s",
              state->seccomp ? "on" : "no", state->landlock,
              state->tcp ? "on" : "no", open[0] != '\0' ? open + 1 : "none",
#ifdef __SANITIZE_ADDRESS__
              " (with what a sanitizer needs)"
#else
              ""
#endif
    );
}

/* Threads that are there already would stay outside. */
static int
harden_alone(kars_err_t *err)
{
    struct stat st;

    if (stat("/proc/self/task", &st) == -1) {
        return kars__err(err, errno, "count threads in /proc/self/task");
    }
    return st.st_nlink == 3
               ? KARS_OK
               : kars__err(err, 0,
                           "a module started a thread in worker_start: it "
                           "would not be confined; use kars_task()");
}

static int
harden_confine(kars_cycle_t *c, kars_err_t *err)
{
    kars__harden_plan_t plan;
    kars__harden_state_t state = { 0 };

    if (harden_alone(err) != KARS_OK ||
        kars__harden_plan(c, &plan, err) != KARS_OK) {
        return KARS_ERROR;
    }
    for (size_t i = 0; i < c->nmods; i++) {
        harden_say_needs(c->mods[i]);
    }
    tzset(); /* reads /etc/localtime, for whoever asks later */
    if (kars__harden_landlock(&plan, KARS__LANDLOCK_NEWEST, &state, err) !=
            KARS_OK ||
        kars__harden_seccomp(&plan, &state, err) != KARS_OK) {
        return KARS_ERROR;
    }
    harden_say(&plan, &state);
    if (c->hardening == KARS__HARDEN_REQUIRE &&
        (!state.seccomp || state.landlock == 0)) {
        return kars__err(err, 0,
                         "hardening require: this kernel has no %s: use a "
                         "newer one, or `hardening strict`",
                         state.seccomp ? "Landlock" : "seccomp filter");
    }
    return KARS_OK;
}

int
kars__harden_start(kars_cycle_t *cycle, kars_err_t *err)
{
    kars__crash_modules(cycle->mods, cycle->nmods);
    kars__offload_hold(cycle->offload);
    if (kars__cycle_start(cycle, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (cycle->hardening == KARS__HARDEN_OFF) {
        kars__log(KARS_LOG_WARN,
                  "worker: NOT CONFINED: `hardening off` leaves every system "
                  "call, file and port open to modules");
    } else if (harden_confine(cycle, err) != KARS_OK) {
        return KARS_ERROR;
    }
    return kars__offload_release(cycle->offload) == KARS_OK
               ? KARS_OK
               : kars__err(err, 0, "a worker's threads do not start");
}
