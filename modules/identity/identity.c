/*
 * identity.c - who calls, and may that class call this route?
 *
 * The class comes from the listener; else from the user id that the kernel
 * knows for the connection (loopback is not an identity); else from a verified
 * client certificate; else from a token. Whoever none of these tells is class
 * `open`. Then the route's `access` line, or the table in access.c, decides.
 */
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <errno.h>
#include <sodium.h>

#include "access.h"
#include "caller.h"
#include "kars_module.h"
#include "sockdiag.h"

enum { IDENTITY_METHODS = 6 };

typedef struct {
    caller_uid_t *uids;
    caller_token_t *tokens;
    caller_name_t *names; /* last line first */
    kars_list_t access;
    /* What check() made of `access` or of the table: classes by method bit. */
    uint32_t classes[IDENTITY_METHODS];
} identity_conf_t;

/* What the kernel said about a connection, so that it is asked once. */
typedef struct {
    uint32_t result; /* SOCKDIAG_*; 0: not asked yet */
    uint32_t uid;
} identity_conn_t;

/* A caller, as far as it is known. */
typedef struct {
    uint32_t klass;
    int bad_token; /* it showed one, and it is nobody's */
    int untold;    /* the kernel should know it and did not say */
    kars_str_t principal;
    kars_str_t how; /* for the refusal: "uid 1000" */
} identity_caller_t;

/* Of this process; the cycle's pool closes the descriptor. */
static struct {
    int fd;
    uint32_t seq;
} identity_kernel = { .fd = -1 };

static kars_str_t __attribute__((format(printf, 2, 3)))
identity_text(kars_req_t *r, const char *fmt, ...)
{
    enum { CAP = 256 };
    char *p = kars_palloc(kars_req_pool(r), CAP);
    va_list ap;

    if (p == NULL) {
        return KARS_STR("-");
    }

    va_start(ap, fmt);
    int n = vsnprintf(p, CAP, fmt, ap);
    va_end(ap);
    return (kars_str_t){ p, n < CAP ? (size_t) n : CAP - 1 };
}

static int
identity_set_class(const kars_setting_t *s, uint32_t *ret, kars_err_t *err)
{
    *ret = s->argc >= 2 ? access_class(s->argv[1]) : 0;
    if (*ret == 0 || *ret == ACCESS_OPEN) {
        return kars_err(err, 0,
                        "%.*s: the first word is a class: agent, operator, "
                        "controller or peer",
                        KARS_STR_ARG(s->argv[0]));
    }

    return KARS_OK;
}

/* caller_uid CLASS UID…; */
static int
identity_set_uid(const kars_setting_t *s, void *conf, kars_err_t *err)
{
    identity_conf_t *ic = conf;
    uint32_t klass;

    if (identity_set_class(s, &klass, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (s->argc < 3) {
        return kars_err(err, 0, "caller_uid: name at least one user id");
    }

    for (size_t i = 2; i < s->argc; i++) {
        caller_uid_t *u = kars_pnew(s->pool, caller_uid_t);

        if (u == NULL) {
            return kars_err(err, ENOMEM, "caller_uid");
        }
        if (caller_parse_uid(s->argv[i], &u->uid) != KARS_OK) {
            return kars_err(err, 0, "caller_uid: \"%.*s\" is not a user id",
                            KARS_STR_ARG(s->argv[i]));
        }
        if (caller_class_of_uid(ic->uids, u->uid) != 0) {
            return kars_err(err, 0, "caller_uid: %u has a class already",
                            u->uid);
        }
        u->klass = klass;
        u->next = ic->uids;
        ic->uids = u;
    }

    return KARS_OK;
}

/* caller_token CLASS SECRET; */
static int
identity_set_token(const kars_setting_t *s, void *conf, kars_err_t *err)
{
    identity_conf_t *ic = conf;
    caller_token_t *t = kars_pnew(s->pool, caller_token_t);

    if (t == NULL) {
        return kars_err(err, ENOMEM, "caller_token");
    }
    if (identity_set_class(s, &t->klass, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (t->klass == ACCESS_AGENT) {
        return kars_err(err, 0,
                        "caller_token: an agent is known by its user id or "
                        "listener, not by a token");
    }
    if (s->argc != 3) {
        return kars_err(err, 0,
                        "caller_token: takes a class and one secret, file:PATH "
                        "or env:NAME");
    }
    if (kars_parse(s, KARS_T_SECRET, s->argv[2], &t->secret, err) != KARS_OK) {
        return KARS_ERROR;
    }

    t->next = ic->tokens;
    ic->tokens = t;
    return KARS_OK;
}

/* caller_certificate CLASS NAME…; */
static int
identity_set_certificate(const kars_setting_t *s, void *conf, kars_err_t *err)
{
    identity_conf_t *ic = conf;
    uint32_t klass;

    if (identity_set_class(s, &klass, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (klass == ACCESS_AGENT) {
        return kars_err(err, 0,
                        "caller_certificate: an agent is known by its user id "
                        "or listener, not by a certificate");
    }
    if (s->argc < 3) {
        return kars_err(err, 0,
                        "caller_certificate: name at least one alternative "
                        "name, such as gateway.example or spiffe://example/gw");
    }

    for (size_t i = 2; i < s->argc; i++) {
        caller_name_t *n = kars_pnew(s->pool, caller_name_t);

        if (n == NULL) {
            return kars_err(err, ENOMEM, "caller_certificate");
        }
        n->name = s->argv[i];
        n->klass = klass;
        n->next = ic->names;
        ic->names = n;
    }

    return KARS_OK;
}

/* clang-format off */
static const kars_directive_t identity_directives[] = {
    { .name = "caller_uid", .at = KARS_AT_MAIN, .type = KARS_T_CUSTOM,
      .flags = KARS_D_REPEAT | KARS_D_PASSIVE,
      .offset = offsetof(identity_conf_t, uids), .set = identity_set_uid,
      .doc = "CLASS UID…: local callers by the user that owns the connection" },
    { .name = "caller_token", .at = KARS_AT_MAIN, .type = KARS_T_CUSTOM,
      .flags = KARS_D_REPEAT | KARS_D_PASSIVE,
      .offset = offsetof(identity_conf_t, tokens), .set = identity_set_token,
      .doc = "CLASS SECRET: callers that no user id decides, by bearer token" },
    { .name = "caller_certificate", .at = KARS_AT_MAIN,
      .type = KARS_T_CUSTOM, .flags = KARS_D_REPEAT | KARS_D_PASSIVE,
      .offset = offsetof(identity_conf_t, names),
      .set = identity_set_certificate,
      .doc = "CLASS NAME…: callers that no user id decides, by a DNS or URI "
             "alternative name of their verified certificate; the first line "
             "that fits. Without any such line every verified certificate is "
             "class peer" },
    { .name = "access", .at = KARS_AT_ROUTE, .type = KARS_T_LIST,
      .flags = KARS_D_PASSIVE, .offset = offsetof(identity_conf_t, access),
      .doc = "classes that may call the route: agent operator controller peer "
             "open; without it the built-in table decides" },
    { 0 },
};
/* clang-format on */

/* The classes of an `access` line. */
static int
identity_access_classes(const kars_list_t *list, uint32_t *ret, kars_err_t *err)
{
    *ret = 0;
    for (size_t i = 0; i < list->n; i++) {
        uint32_t one = access_class(list->v[i]);

        if (one == 0) {
            return kars_err(err, 0,
                            "access: \"%.*s\" is not a class: agent, operator, "
                            "controller, peer or open",
                            KARS_STR_ARG(list->v[i]));
        }
        *ret |= one;
    }

    return KARS_OK;
}

/* Settles for each method of a route who may call it; nobody is an error. */
static int
identity_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    identity_conf_t *ic = conf;
    uint32_t methods = access_methods(place->route_methods);
    uint32_t named;
    uint32_t all = 0;

    if (place->at != KARS_AT_ROUTE) {
        return KARS_OK;
    }
    if (identity_access_classes(&ic->access, &named, err) != KARS_OK) {
        return KARS_ERROR;
    }

    for (uint32_t i = 0; i < IDENTITY_METHODS; i++) {
        uint32_t bit = 1u << i;

        ic->classes[i] = !(methods & bit) ? 0
                         : named != 0     ? named
                                      : access_lookup(bit, place->route_path);
        all |= ic->classes[i];
        if ((methods & bit) && ic->classes[i] == 0 && methods != ACCESS_ANY) {
            all = 0;
            break;
        }
    }

    if (all == 0) {
        return kars_err(err, 0,
                        "route %.*s %.*s: no class may call it: add `access "
                        "CLASS…;`",
                        KARS_STR_ARG(place->route_methods),
                        KARS_STR_ARG(place->route_path));
    }

    return KARS_OK;
}

static void
identity_close(void *data)
{
    (void) close(*(int *) data);
    identity_kernel.fd = -1;
}

static int
identity_worker_start(kars_cycle_t *cycle, kars_err_t *err)
{
    if (sodium_init() < 0) {
        return kars_err(err, 0, "identity: libsodium does not start");
    }

    int fd = sockdiag_open();

    if (fd == -1) {
        kars_cycle_log(cycle, KARS_LOG_WARN,
                       "identity: no netlink, local callers stay unknown "
                       "errno=%d",
                       errno);
        return KARS_OK;
    }

    int *owned =
        kars_pown(kars_cycle_pool(cycle), sizeof(*owned), identity_close);

    if (owned == NULL) {
        (void) close(fd);
        return kars_err(err, ENOMEM, "identity: netlink socket");
    }

    *owned = fd;
    identity_kernel.fd = fd;
    return KARS_OK;
}

/* Asks the kernel, once more if the first answer is none. */
static int
identity_ask(const kars_peer_t *peer, uint32_t *ret_uid)
{
    sockdiag_pair_t pair;

    if (sockdiag_pair(peer, &pair) != KARS_OK) {
        return SOCKDIAG_UNKNOWN;
    }

    int result = SOCKDIAG_UNKNOWN;

    for (int i = 0; i < 2 && result == SOCKDIAG_UNKNOWN; i++) {
        result = sockdiag_ask(identity_kernel.fd, &identity_kernel.seq, &pair,
                              ret_uid);
    }

    /* Who comes from elsewhere is no local user, whatever the kernel says; a
     * local caller whose socket is gone already is not a remote one. */
    if (result == SOCKDIAG_FOUND) {
        return result;
    }
    return sockdiag_is_local(&pair) ? SOCKDIAG_UNKNOWN : SOCKDIAG_ABSENT;
}

/* The user at the other end, from the connection's memory if it is there. */
static int
identity_uid(kars_req_t *r, const kars_peer_t *peer, uint32_t *ret_uid)
{
    identity_conn_t *known = kars_req_conn_ctx(r);

    if (peer->family == AF_UNIX) {
        *ret_uid = peer->uid;
        return peer->uid != UINT32_MAX ? SOCKDIAG_FOUND : SOCKDIAG_UNKNOWN;
    }
    if (known != NULL && known->result != 0) {
        *ret_uid = known->uid;
        return (int) known->result;
    }

    int result = identity_ask(peer, ret_uid);

    if (known != NULL && result != SOCKDIAG_UNKNOWN) {
        known->uid = result == SOCKDIAG_FOUND ? *ret_uid : UINT32_MAX;
        known->result = (uint32_t) result;
    }
    return result;
}

static kars_str_t
identity_agent_name(kars_req_t *r)
{
    kars_str_t sandbox = kars_cycle_sandbox(kars_req_cycle(r));

    return sandbox.len > 0 ? sandbox : KARS_STR("agent");
}

static void
identity_by_listener(kars_req_t *r, const kars_peer_t *peer,
                     identity_caller_t *ret)
{
    ret->klass = access_class(peer->listener_class);
    if (ret->klass == 0) {
        ret->klass = ACCESS_OPEN;
    }
    ret->how = KARS_STR("by the listener");
    ret->principal = ret->klass == ACCESS_AGENT ? identity_agent_name(r)
                     : ret->klass == ACCESS_OPEN
                         ? KARS_STR("anonymous")
                         : identity_text(r, "listener:%.*s",
                                         KARS_STR_ARG(peer->listener_class));
}

static void
identity_by_uid(kars_req_t *r, uint32_t uid, uint32_t klass,
                identity_caller_t *ret)
{
    ret->klass = klass;
    ret->how = identity_text(r, "uid %u", uid);
    ret->principal = klass == ACCESS_AGENT ? identity_agent_name(r)
                                           : identity_text(r, "uid:%u", uid);
}

/* OK: it is one of ours; DECLINED: it says nothing about the class. */
static int
identity_by_certificate(kars_req_t *r, const identity_conf_t *ic,
                        const kars_peer_t *peer, identity_caller_t *ret)
{
    kars_str_t name = peer->tls_peer_names.n > 0 ? peer->tls_peer_names.v[0]
                                                 : peer->tls_peer_subject;
    uint32_t klass =
        ic->names != NULL
            ? caller_class_of_names(ic->names, peer->tls_peer_names)
            : ACCESS_PEER;

    if (name.len == 0 || klass == 0) {
        return KARS_DECLINED;
    }
    ret->klass = klass;
    ret->how = KARS_STR("by certificate");
    ret->principal = identity_text(r, "cert:%.*s", KARS_STR_ARG(name));
    return KARS_OK;
}

/* Compares with every token, so that the time does not tell which fits. */
static void
identity_by_token(kars_req_t *r, const identity_conf_t *ic,
                  identity_caller_t *ret)
{
    kars_str_t shown =
        caller_bearer(kars_header(r, KARS_REQUEST, KARS_STR("authorization")));
    uint32_t klass = 0;

    if (shown.len == 0) {
        return;
    }

    for (const caller_token_t *t = ic->tokens; t != NULL; t = t->next) {
        if (caller_same_token(shown, kars_secret(t->secret))) {
            klass = t->klass;
        }
    }

    if (klass == 0) {
        ret->bad_token = 1;
        return;
    }

    ret->klass = klass;
    ret->how = KARS_STR("by token");
    ret->principal =
        identity_text(r, "token:%.*s", KARS_STR_ARG(access_class_name(klass)));
}

static void
identity_caller(kars_req_t *r, const identity_conf_t *ic,
                identity_caller_t *ret)
{
    kars_peer_t peer = { .size = sizeof(peer) };
    uint32_t uid = UINT32_MAX;

    *ret = (identity_caller_t){
        .klass = ACCESS_OPEN,
        .principal = KARS_STR("anonymous"),
        .how = KARS_STR("not known"),
    };
    if (kars_req_peer(r, &peer) != KARS_OK) {
        return;
    }
    if (peer.listener_class.len > 0) {
        identity_by_listener(r, &peer, ret);
        return;
    }

    int result = identity_uid(r, &peer, &uid);
    uint32_t klass =
        result == SOCKDIAG_FOUND ? caller_class_of_uid(ic->uids, uid) : 0;

    if (klass != 0) {
        identity_by_uid(r, uid, klass, ret);
    } else if (result == SOCKDIAG_UNKNOWN) {
        ret->untold = 1; /* it may be the agent: no token lifts it */
    } else if (identity_by_certificate(r, ic, &peer, ret) != KARS_OK) {
        identity_by_token(r, ic, ret);
    }
}

static int
identity_refuse(kars_req_t *r, const identity_conf_t *ic,
                const identity_caller_t *who, uint32_t classes)
{
    char buf[96];
    kars_str_t names = access_class_names(classes, buf, sizeof(buf));
    kars_str_t klass = access_class_name(who->klass);
    kars_denial_t d = {
        .size = sizeof(d),
        .status = who->bad_token ? 401 : 403,
        .code = who->bad_token ? KARS_STR("invalid_token")
                               : KARS_STR("access_denied"),
        .rule = &ic->access, /* or the table, its default */
    };

    if (who->bad_token) {
        d.reason = KARS_STR("the bearer token is not one of this router's");
    } else if (who->klass == ACCESS_OPEN) {
        d.reason = identity_text(
            r, "no identity: route %.*s %.*s is for %.*s; %s",
            KARS_STR_ARG(kars_req_method(r)), KARS_STR_ARG(kars_req_route(r)),
            KARS_STR_ARG(names),
            who->untold ? "the kernel did not say who you are"
                        : "no user, certificate or token of yours is known");
    } else {
        d.reason = identity_text(
            r, "route %.*s %.*s is for %.*s; you are %.*s (%.*s)",
            KARS_STR_ARG(kars_req_method(r)), KARS_STR_ARG(kars_req_route(r)),
            KARS_STR_ARG(names), KARS_STR_ARG(klass), KARS_STR_ARG(who->how));
    }

    return kars_deny(r, &d);
}

/* The bit's place in conf->classes. */
static uint32_t
identity_classes(kars_req_t *r, const identity_conf_t *ic)
{
    uint32_t bit = access_method(kars_req_method(r));
    uint32_t i = 0;

    while (i < IDENTITY_METHODS - 1 && !(bit & (1u << i))) {
        i++;
    }
    return ic->classes[i];
}

static int
identity_access(kars_req_t *r, const void *conf, void *ctx)
{
    const identity_conf_t *ic = conf;
    uint32_t classes = identity_classes(r, ic);
    uint32_t granted = access_class(kars_req_class(r));
    identity_caller_t who;

    identity_caller(r, ic, &who);

    /* Open to all: audit keeps a record only of what is refused there. */
    if ((classes & ACCESS_OPEN) != 0 &&
        kars_var_set(r, KARS_STR("access"), KARS_STR("open")) != KARS_OK) {
        return KARS_ERROR;
    }

    /* What another module verified (a peer's signature) beats not knowing. */
    if (who.klass == ACCESS_OPEN && granted != 0 && granted != ACCESS_OPEN) {
        return access_allows(classes, granted)
                   ? KARS_OK
                   : identity_refuse(
                         r, ic,
                         &(identity_caller_t){ .klass = granted,
                                               .how = kars_req_principal(r) },
                         classes);
    }

    /* Granted before it is judged: a refusal's record names the caller. */
    if (kars_grant(r, access_class_name(who.klass), who.principal) != KARS_OK) {
        return KARS_ERROR;
    }
    if (kars_str_eq(kars_req_route(r), KARS_STR("-")) ||
        access_allows(classes, who.klass)) {
        return KARS_OK;
    }

    return identity_refuse(r, ic, &who, classes);
}

static const kars_hook_t identity_hooks[] = {
    { .phase = KARS_PHASE_ACCESS, .run = identity_access },
    { 0 },
};

static const kars_os_need_t identity_os_needs[] = {
    { KARS_OS_CONNECT, "netlink", "asks the kernel which user is calling" },
    { KARS_OS_CONNECT, "udp", "to find out which addresses are our own" },
    { KARS_OS_SYSCALL, "bind", "to find out which addresses are our own" },
    { 0 },
};

KARS_MODULE(identity) = {
    KARS_MODULE_HEAD,
    .name = "identity",
    .version = "1.0.0",
    .flags = KARS_ALWAYS,
    .conf_size = sizeof(identity_conf_t),
    .conn_ctx_size = sizeof(identity_conn_t),
    .directives = identity_directives,
    .hooks = identity_hooks,
    .os_needs = identity_os_needs,
    .check = identity_check,
    .worker_start = identity_worker_start,
};
