/*
 * test_identity.c - modules/identity/identity.c, its hooks called as the
 * router would. Callers come over a UNIX socket, whose user needs no kernel,
 * or from an address that this host does not have.
 */
#undef KARS_CORE /* a module, not the core */
#define KARS_BUILTIN identity
#include "kars_module.h"

extern const kars_module_t kars_module_identity;

#include "identity/identity.c"

#include "t.h"

enum { FAKE_POOL = 8192 };

static struct {
    char pool[FAKE_POOL];
    size_t used;
    kars_peer_t peer;
    const char *method, *route, *authorization;
    kars_str_t klass, principal;
    kars_denial_t denial;
    char err[240];
    identity_conn_t conn;
} fake;

static identity_conf_t conf;
static kars_req_t *const req = (kars_req_t *) &fake;

static void *
fake_palloc(kars_pool_t *pool, size_t size)
{
    size_t at = fake.used;

    if (size > FAKE_POOL - at) {
        return NULL;
    }
    fake.used += (size + 15) & ~(size_t) 15;
    memset(fake.pool + at, 0, size);
    return fake.pool + at;
}

static void *
fake_pcalloc(kars_pool_t *pool, size_t n, size_t size)
{
    return fake_palloc(pool, n * size);
}

static kars_pool_t *
fake_pool(kars_req_t *r)
{
    return NULL;
}

static kars_cycle_t *
fake_cycle(kars_req_t *r)
{
    return NULL;
}

static kars_str_t
fake_sandbox(kars_cycle_t *cycle)
{
    return KARS_STR("demo");
}

static int
fake_err(kars_err_t *err, int errnum, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void) vsnprintf(fake.err, sizeof(fake.err), fmt, ap);
    va_end(ap);
    return KARS_ERROR;
}

static int
fake_parse(const kars_setting_t *s, uint32_t type, kars_str_t in, void *ret,
           kars_err_t *err)
{
    *(const char **) ret = in.data; /* the secret is its own name */
    return type == KARS_T_SECRET ? KARS_OK : KARS_ERROR;
}

static kars_str_t
fake_secret(const kars_secret_t *secret)
{
    return t_str((const char *) secret);
}

static int
fake_peer(kars_req_t *r, kars_peer_t *ret)
{
    *ret = fake.peer;
    return KARS_OK;
}

static void *
fake_conn(kars_req_t *r, const kars_module_t *self)
{
    return &fake.conn;
}

static kars_str_t
fake_method(kars_req_t *r)
{
    return t_str(fake.method);
}

static kars_str_t
fake_route(kars_req_t *r)
{
    return t_str(fake.route);
}

static kars_str_t
fake_class(kars_req_t *r)
{
    return fake.klass;
}

static kars_str_t
fake_principal(kars_req_t *r)
{
    return fake.principal;
}

static kars_str_t
fake_header(kars_req_t *r, uint32_t dir, kars_str_t name)
{
    return t_str(fake.authorization);
}

static int
fake_grant(kars_req_t *r, kars_str_t klass, kars_str_t principal)
{
    fake.klass = klass;
    fake.principal = principal;
    return KARS_OK;
}

static int
fake_deny(kars_req_t *r, const kars_denial_t *d)
{
    fake.denial = *d;
    return KARS_DONE;
}

static int
fake_var_set(kars_req_t *r, kars_str_t name, kars_str_t value)
{
    CU_ASSERT(kars_str_eq(name, KARS_STR("access")));
    CU_ASSERT(kars_str_eq(value, KARS_STR("open")));
    return KARS_OK;
}

static const kars_api_t fake_api = {
    .var_set = fake_var_set,
    .size = sizeof(kars_api_t),
    .palloc = fake_palloc,
    .pcalloc = fake_pcalloc,
    .err = fake_err,
    .parse = fake_parse,
    .cycle_sandbox = fake_sandbox,
    .secret = fake_secret,
    .req_pool = fake_pool,
    .req_cycle = fake_cycle,
    .req_peer = fake_peer,
    .req_conn_ctx = fake_conn,
    .req_method = fake_method,
    .req_route = fake_route,
    .req_class = fake_class,
    .req_principal = fake_principal,
    .header = fake_header,
    .grant = fake_grant,
    .deny = fake_deny,
};

/* Gives the directive to its setter: "caller_uid agent 1000". */
static int
set(const char *line)
{
    static char text[8][64];
    static size_t at;
    kars_str_t argv[8];
    kars_setting_t s = { .size = sizeof(s), .argv = argv };
    char *p = text[at++ % 8];

    (void) snprintf(p, sizeof(text[0]), "%s", line);
    while (*p != '\0') {
        size_t len = strcspn(p, " ");
        char *word = p;

        p += len + (p[len] == ' ');
        word[len] = '\0';
        argv[s.argc++] = (kars_str_t){ word, len };
    }

    const kars_directive_t *d = identity_directives;

    while (!kars_str_eq(t_str(d->name), argv[0])) {
        d++;
    }
    return d->set(&s, &conf, NULL);
}

static int
check(const char *methods, const char *path)
{
    kars_place_t place = {
        .size = sizeof(place),
        .at = KARS_AT_ROUTE,
        .route_methods = t_str(methods),
        .route_path = t_str(path),
    };

    return identity_check(&place, &conf, NULL);
}

static void
begin(void)
{
    memset(&fake, 0, sizeof(fake));
    memset(&conf, 0, sizeof(conf));
    kars_api = &fake_api;
    CU_ASSERT_EQUAL(set("caller_uid agent 1000 1002"), KARS_OK);
    CU_ASSERT_EQUAL(set("caller_uid operator 0"), KARS_OK);
    CU_ASSERT_EQUAL(set("caller_token operator s3cret"), KARS_OK);
    CU_ASSERT_EQUAL(set("caller_token controller c0ntrol"), KARS_OK);
}

/* One request over a UNIX socket of this user; UINT32_MAX: from elsewhere. */
static int
request(const char *method, const char *route, uint32_t uid, const char *auth)
{
    fake.peer.size = sizeof(fake.peer);
    fake.peer.family = uid == UINT32_MAX ? AF_INET : AF_UNIX;
    fake.peer.uid = uid;
    memcpy(fake.peer.addr, ((const uint8_t[]){ 192, 0, 2, 77 }), 4);
    fake.method = method;
    fake.route = route;
    fake.authorization = auth;
    fake.klass = KARS_STR("");
    memset(&fake.denial, 0, sizeof(fake.denial));
    CU_ASSERT_EQUAL(check(method, route), KARS_OK);
    return identity_access(req, &conf, NULL);
}

static int
is(const char *klass, const char *principal)
{
    return kars_str_eq(fake.klass, t_str(klass)) &&
           kars_str_eq(fake.principal, t_str(principal));
}

static int
denied(int status, const char *code, const char *reason)
{
    return fake.denial.status == status &&
           kars_str_eq(fake.denial.code, t_str(code)) &&
           kars_str_eq(fake.denial.reason, t_str(reason));
}

static void
test_identity_knows_a_caller_by_its_user(void)
{
    begin();
    CU_ASSERT_EQUAL(request("POST", "/v1/x", 1000, ""), KARS_OK);
    CU_ASSERT_TRUE(is("agent", "demo"));
    CU_ASSERT_EQUAL(request("PUT", "/admin/model", 0, ""), KARS_OK);
    CU_ASSERT_TRUE(is("operator", "uid:0"));
}

static void
test_identity_keeps_an_agent_an_agent_whatever_it_shows(void)
{
    begin();
    CU_ASSERT_EQUAL(request("POST", "/admin/model", 1002, "Bearer s3cret"),
                    KARS_DONE);
    CU_ASSERT_TRUE(denied(403, "access_denied",
                          "route POST /admin/model is for operator; you are "
                          "agent (uid 1002)"));
    CU_ASSERT_TRUE(is("agent", "demo")); /* what the audit will say */
    CU_ASSERT_EQUAL(request("POST", "/v1/x", 1000, "Bearer any"), KARS_OK);
}

static void
test_identity_knows_a_remote_caller_by_its_token(void)
{
    begin();
    CU_ASSERT_EQUAL(request("PUT", "/admin/model", UINT32_MAX, "Bearer s3cret"),
                    KARS_OK);
    CU_ASSERT_TRUE(is("operator", "token:operator"));
    CU_ASSERT_EQUAL(request("PUT", "/internal/x", UINT32_MAX, "Bearer c0ntrol"),
                    KARS_OK);
    CU_ASSERT_TRUE(is("controller", "token:controller"));
    CU_ASSERT_EQUAL(request("PUT", "/admin/model", UINT32_MAX, "Bearer s3cre"),
                    KARS_DONE);
    CU_ASSERT_EQUAL(fake.denial.status, 401);
    CU_ASSERT_EQUAL(request("GET", "/healthz", UINT32_MAX, "Bearer s3cre"),
                    KARS_OK);
    CU_ASSERT_TRUE(is("open", "anonymous"));
    CU_ASSERT_EQUAL(request("PUT", "/admin/model", UINT32_MAX, ""), KARS_DONE);
    CU_ASSERT_TRUE(denied(403, "access_denied",
                          "no identity: route PUT /admin/model is for "
                          "operator; no user, certificate or token of yours "
                          "is known"));
}

/* The kernel cannot be asked here: at an own address that lifts nobody. */
static void
test_identity_trusts_no_token_when_the_user_is_untold(void)
{
    begin();
    fake.peer.family = AF_INET;
    fake.peer.size = sizeof(fake.peer);
    memcpy(fake.peer.addr, ((const uint8_t[]){ 127, 0, 0, 1 }), 4);
    fake.method = "PUT";
    fake.route = "/admin/model";
    fake.authorization = "Bearer s3cret";
    CU_ASSERT_EQUAL(check("PUT", "/admin/model"), KARS_OK);
    CU_ASSERT_EQUAL(identity_access(req, &conf, NULL), KARS_DONE);
    CU_ASSERT_EQUAL(fake.denial.status, 403);
    CU_ASSERT_TRUE(is("open", "anonymous"));
    CU_ASSERT_EQUAL(fake.conn.result, 0); /* asked again next time */
}

static void
test_identity_takes_the_listeners_word_as_final(void)
{
    begin();
    fake.peer.listener_class = KARS_STR("agent");
    CU_ASSERT_EQUAL(request("PUT", "/admin/model", 0, "Bearer s3cret"),
                    KARS_DONE);
    CU_ASSERT_TRUE(is("agent", "demo"));
    fake.peer.listener_class = KARS_STR("operator");
    CU_ASSERT_EQUAL(request("PUT", "/admin/model", 1000, ""), KARS_OK);
    CU_ASSERT_TRUE(is("operator", "listener:operator"));
    fake.peer.listener_class = KARS_STR("emperor");
    CU_ASSERT_EQUAL(request("PUT", "/admin/model", 0, ""), KARS_DONE);
    CU_ASSERT_TRUE(is("open", "anonymous"));
}

static void
test_identity_knows_a_peer_by_its_certificate(void)
{
    kars_str_t name = KARS_STR("spiffe://kars/bob");

    begin();
    fake.peer.tls_peer_names = (kars_list_t){ &name, 1 };
    CU_ASSERT_EQUAL(request("POST", "/a2a", UINT32_MAX, "Bearer s3cret"),
                    KARS_OK);
    CU_ASSERT_TRUE(is("peer", "cert:spiffe://kars/bob"));
}

static void
test_identity_access_replaces_the_table(void)
{
    kars_str_t classes[] = { KARS_STR("operator"), KARS_STR("peer") };
    kars_str_t open = KARS_STR("open");
    kars_str_t wrong = KARS_STR("root");

    begin();
    conf.access = (kars_list_t){ classes, 2 };
    CU_ASSERT_EQUAL(request("GET", "/v1/x", 1000, ""), KARS_DONE);
    CU_ASSERT_PTR_EQUAL(fake.denial.rule, &conf.access);
    CU_ASSERT_EQUAL(request("GET", "/my/own", 0, ""), KARS_OK);
    conf.access = (kars_list_t){ &open, 1 };
    CU_ASSERT_EQUAL(request("GET", "/my/own", 1000, ""), KARS_OK);
    CU_ASSERT_TRUE(is("agent", "demo"));
    CU_ASSERT_EQUAL(request("GET", "/my/own", UINT32_MAX, ""), KARS_OK);
    CU_ASSERT_TRUE(is("open", "anonymous"));
    conf.access = (kars_list_t){ &wrong, 1 };
    CU_ASSERT_EQUAL(check("GET", "/v1/x"), KARS_ERROR);
}

static void
test_identity_refuses_a_route_that_nobody_may_call(void)
{
    begin();
    CU_ASSERT_EQUAL(check("GET", "/x"), KARS_ERROR);
    CU_ASSERT_STRING_EQUAL(fake.err, "route GET /x: no class may call it: add "
                                     "`access CLASS…;`");
    CU_ASSERT_EQUAL(check("GET,POST", "/agt/status"), KARS_ERROR);
    CU_ASSERT_EQUAL(check("GET,POST", "/agt/trust"), KARS_OK);
    CU_ASSERT_EQUAL(check("*", "/agt/status"), KARS_OK); /* GET is for some */
    CU_ASSERT_EQUAL(check("*", "/nothing"), KARS_ERROR);
}

static void
test_identity_refuses_directives_that_mean_nothing(void)
{
    static const char *const bad[] = {
        "caller_uid",           "caller_uid agent",
        "caller_uid root 0",    "caller_uid open 7",
        "caller_uid agent x",   "caller_uid peer 1000",
        "caller_token",         "caller_token operator",
        "caller_token agent s", "caller_token operator a b",
    };

    begin();
    for (size_t i = 0; i < KARS_NELTS(bad); i++) {
        T_CASE(bad[i]);
        CU_ASSERT_EQUAL(set(bad[i]), KARS_ERROR);
    }
}

void
suite_identity(void)
{
    T_SUITE(identity);
    T_TEST(identity, test_identity_knows_a_caller_by_its_user);
    T_TEST(identity, test_identity_keeps_an_agent_an_agent_whatever_it_shows);
    T_TEST(identity, test_identity_knows_a_remote_caller_by_its_token);
    T_TEST(identity, test_identity_trusts_no_token_when_the_user_is_untold);
    T_TEST(identity, test_identity_takes_the_listeners_word_as_final);
    T_TEST(identity, test_identity_knows_a_peer_by_its_certificate);
    T_TEST(identity, test_identity_access_replaces_the_table);
    T_TEST(identity, test_identity_refuses_a_route_that_nobody_may_call);
    T_TEST(identity, test_identity_refuses_directives_that_mean_nothing);
}
