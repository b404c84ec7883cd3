/* connect.c - CONNECT: may this connection be? Asked once, before any byte of
 * it is read; what is granted here is inherited by its requests. */
#include "http/connect.h"
#include "http/request.h"

struct kars__connect_s {
    kars_conn_t *conn;
    size_t hook; /* the next one, or the one that waits */
    kars_token_t token;
    kars_conn_wake_pt wake;
    uint8_t suspended;
    uint8_t refused; /* and recorded */
    uint8_t running; /* a hook is on the stack */
    char *klass;     /* of a grant; the principal stands behind it */
    size_t klass_len;
    size_t principal_len;
};

typedef kars__connect_t connect_t;

static kars__mod_t *
connect_mod(const connect_t *k)
{
    const kars__server_t *server = k->conn->listener->server;

    return k->conn->cycle->mods[server->connects[k->hook].mod];
}

/* A connection that is refused still becomes a request, so that audit sees it:
 * on the pseudo-route. Nothing is sent. */
static int
connect_refuse(connect_t *k, const kars_denial_t *denial)
{
    kars_conn_t *c = k->conn;
    kars__head_t none = { .method = KARS_STR("-"), .content_length = -1 };
    kars__mod_t *by = connect_mod(k), *was = kars__mod_now;
    kars_req_t *r =
        kars__req_create(c->cycle, c->listener->server, &none, NULL);

    k->refused = 1;
    if (r == NULL) {
        kars__log(KARS_LOG_ERR,
                  "router: a refused connection is not recorded: no memory "
                  "by=%s",
                  by->def.name);
        return KARS_ERROR;
    }
    r->conn = c;
    r->path = KARS_STR("-");
    (void) kars__req_deny(r, denial, by);
    kars__req_done(r); /* LOG */
    kars__mod_now = was;
    return KARS_DONE;
}

static void
connect_free(connect_t *k)
{
    kars__free(k->klass);
    kars__free(k);
}

/* What a hook, or its continuation, returned. OK: on to the next; AGAIN: it
 * waits; ERROR: no. */
static int
connect_result(connect_t *k, int rc)
{
    kars_denial_t no = { .size = sizeof(no),
                         .status = 403,
                         .code = KARS_STR("connection_refused"),
                         .reason = KARS_STR("a module refused the "
                                            "connection") };

    if (rc == KARS_OK || rc == KARS_DECLINED) {
        k->hook++;
        return k->refused ? KARS_ERROR : KARS_OK;
    }
    if (rc == KARS_AGAIN && k->suspended) {
        return KARS_AGAIN;
    }
    if (rc != KARS_DONE) {
        kars__log(KARS_LOG_ERR, "router: a CONNECT hook failed module=%s",
                  connect_mod(k)->def.name);
        no.status = 500;
        no.code = KARS_STR("internal_error");
        no.reason = KARS_STR("the router failed; its log says more");
    }
    if (!k->refused) {
        (void) connect_refuse(k, &no);
    }
    return KARS_ERROR;
}

/* From k->hook on. OK: all agree. */
static int
connect_run(connect_t *k)
{
    kars_conn_t *c = k->conn;
    const kars__server_t *server = c->listener->server;
    int rc = KARS_OK;

    while (rc == KARS_OK && k->hook < server->nconnects) {
        const kars__hook_t *h = &server->connects[k->hook];
        kars__mod_t *m = c->cycle->mods[h->mod];

        kars__mod_now = m;
        k->running = 1;
        rc = h->connect(c, server->none->conf[h->mod], kars__conn_ctx(c, m));
        k->running = 0;
        kars__mod_now = NULL;
        rc = connect_result(k, rc);
    }
    return rc;
}

int
kars__connect(kars_conn_t *c)
{
    if (c->listener->server->nconnects == 0) {
        return KARS_OK;
    }
    c->connect = kars__alloc(sizeof(*c->connect));
    if (c->connect == NULL) {
        kars__log(KARS_LOG_ERR, "router: no memory to ask about a connection");
        return KARS_ERROR;
    }
    c->connect->conn = c;
    return connect_run(c->connect);
}

static void
connect_woken(void *owner, int error)
{
    connect_t *k = owner;
    kars_conn_t *c = k->conn;
    kars__mod_t *m = connect_mod(k);

    k->suspended = 0;
    kars__mod_now = m;
    k->running = 1;
    int rc = k->wake(c, error, c->listener->server->none->conf[m->index],
                     kars__conn_ctx(c, m));
    k->running = 0;
    kars__mod_now = NULL;
    rc = connect_result(k, rc);
    kars__conn_connected(c, rc == KARS_OK ? connect_run(k) : rc);
}

kars_token_t
kars__connect_suspend(kars_conn_t *c, uint32_t timeout_ms, kars_conn_wake_pt fn)
{
    connect_t *k = c->connect;

    if (k == NULL || !k->running || k->suspended) {
        return 0;
    }
    k->token = kars__wait_add(c->cycle->waits, timeout_ms, connect_woken, k);
    if (k->token != 0) {
        k->suspended = 1;
        k->wake = fn;
    }
    return k->token;
}

int
kars__connect_deny(kars_conn_t *c, const kars_denial_t *denial)
{
    connect_t *k = c->connect;

    if (k == NULL || !k->running || k->refused) {
        return KARS_ERROR;
    }
    return connect_refuse(k, denial);
}

int
kars__connect_grant(kars_conn_t *c, kars_str_t klass, kars_str_t principal)
{
    connect_t *k = c->connect;
    char *text;

    if (k == NULL || !k->running || k->refused) {
        return KARS_ERROR;
    }
    text = kars__alloc(klass.len + principal.len + 1);
    if (text == NULL) {
        return KARS_ERROR;
    }
    if (klass.len != 0) {
        memcpy(text, klass.data, klass.len);
    }
    if (principal.len != 0) {
        memcpy(text + klass.len, principal.data, principal.len);
    }
    kars__free(k->klass);
    k->klass = text;
    k->klass_len = klass.len;
    k->principal_len = principal.len;
    return KARS_OK;
}

void
kars__connect_inherit(kars_req_t *r)
{
    const connect_t *k = r->conn->connect;

    if (k->klass == NULL) {
        return;
    }

    kars_str_t klass =
        kars__pdup(r->pool, (kars_str_t){ k->klass, k->klass_len });
    kars_str_t principal = kars__pdup(
        r->pool, (kars_str_t){ k->klass + k->klass_len, k->principal_len });

    if (klass.data != NULL && principal.data != NULL) { /* else nobody is in */
        r->klass = klass;
        r->principal = principal;
        r->granted = 1;
    }
}

void
kars__connect_done(kars_conn_t *c)
{
    connect_t *k = c->connect;

    if (k == NULL) {
        return;
    }
    c->connect = NULL;
    if (k->suspended) {
        kars__wait_cancel(c->cycle->waits, k->token);
    }
    connect_free(k);
}
