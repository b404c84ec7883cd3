/* load_tls.c - what a configuration says about TLS. */
#include "proc/load.h"
#include "proc/tls_set.h"

#include <errno.h>

static int
ltls_is(const kars__conf_node_t *node, const char *name)
{
    return kars_str_eq(node->argv[0], kars__strz(name));
}

/* The file that word i of a directive names: absolute, or beside the file that
 * says so; data NULL: no memory, or there is none (err says which). */
static kars_str_t
ltls_path(kars__load_t *l, const kars__conf_node_t *node, size_t i,
          kars_err_t *err)
{
    kars_str_t word = node->argv[i];
    kars_str_t path;

    if (ltls_is(node, "tls_ca") && kars_str_eq(word, KARS_STR("system"))) {
        const char *system = kars__tls_system_ca();

        if (system == NULL) {
            (void) kars__conf_err(err, node, i,
                                  "this system has no file of authorities: "
                                  "install ca-certificates or name a file");
            return (kars_str_t){ NULL, 0 };
        }
        return kars__strz(system);
    }
    path = kars__conf_path(l->cycle->pool, node->file, word);
    if (path.data == NULL) {
        (void) kars__err(err, ENOMEM, "a path");
    }
    return path;
}

/* Opens what a directive names, or finds what was opened. */
static kars__tls_file_t *
ltls_file(kars__load_t *l, const kars__conf_node_t *node, size_t i,
          kars_err_t *err)
{
    kars__tls_set_t *set = kars__tls_set(l->cycle, l->channel);
    kars_err_t why = KARS_ERR_INIT;
    kars__tls_file_t *f;
    kars_str_t path;

    if (set == NULL) {
        (void) kars__err(err, ENOMEM, "TLS");
        return NULL;
    }
    path = ltls_path(l, node, i, err);
    if (path.data == NULL) {
        return NULL;
    }
    f = kars__tls_set_file(set, path, &why);
    if (f == NULL) {
        (void) kars__conf_err(err, node, i, "%s", why.text);
    }
    return f;
}

/* One file of authorities, or a certificate and its key. */
static int
ltls_argc(const kars__conf_node_t *n, kars_err_t *err)
{
    int pair = ltls_is(n, "tls_certificate");

    return n->argc == (pair ? 3 : 2)
               ? KARS_OK
               : kars__conf_err(err, n, 0, "expected `%s %s;`", n->argv[0].data,
                                pair ? "FILE KEYFILE" : "FILE");
}

static int
ltls_names_files(const kars__conf_node_t *n)
{
    return ltls_is(n, "tls_certificate") || ltls_is(n, "tls_ca") ||
           ltls_is(n, "tls_client_ca");
}

/* An upstream that says nothing about authorities has the system's. */
static kars__tls_file_t *
ltls_system(kars__load_t *l, const kars__conf_node_t *on, kars_err_t *err)
{
    kars_str_t words[] = { KARS_STR("tls_ca"), KARS_STR("system") };
    kars__conf_node_t n = *on;

    n.argv = words;
    return ltls_file(l, &n, 1, err);
}

/* `tls on;` of an upstream, or NULL. */
static const kars__conf_node_t *
ltls_on(const kars__conf_node_t *block)
{
    const kars__conf_node_t *n = block->child;

    while (n != NULL && !(ltls_is(n, "tls") && n->argc == 2 &&
                          kars_str_eq(n->argv[1], KARS_STR("on")))) {
        n = n->next;
    }
    return n;
}

static int
ltls_ask_block(kars__load_t *l, const kars__conf_node_t *block, kars_err_t *err)
{
    const kars__conf_node_t *on = ltls_on(block);
    int has_ca = 0;

    for (const kars__conf_node_t *n = block->child; n != NULL; n = n->next) {
        if (!ltls_names_files(n)) {
            continue;
        }
        if (ltls_argc(n, err) != KARS_OK) {
            return KARS_ERROR;
        }
        for (size_t i = 1; i < n->argc; i++) {
            if (ltls_file(l, n, i, err) == NULL) {
                return KARS_ERROR;
            }
        }
        has_ca |= ltls_is(n, "tls_ca");
    }
    return on == NULL || has_ca || ltls_system(l, on, err) != NULL ? KARS_OK
                                                                   : KARS_ERROR;
}

int
kars__load_ask_tls(kars__load_t *l, kars_err_t *err)
{
    for (const kars__conf_node_t *n = l->root->child; n != NULL; n = n->next) {
        if ((ltls_is(n, "upstream") || ltls_is(n, "server")) &&
            ltls_ask_block(l, n, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    return KARS_OK;
}

/* Every directive of a block that names files, as what the block uses. */
static int
ltls_collect(kars__load_t *l, const kars__conf_node_t *block,
             kars__tls_use_t *use, kars_err_t *err)
{
    for (const kars__conf_node_t *n = block->child; n != NULL; n = n->next) {
        if (!ltls_names_files(n)) {
            continue;
        }
        if (!ltls_is(n, "tls_certificate")) {
            use->ca = ltls_file(l, n, 1, err);
            if (use->ca == NULL) {
                return KARS_ERROR;
            }
            continue;
        }
        if (use->npairs == KARS__TLS_CERTS) {
            return kars__conf_err(err, n, 0, "more than %u certificates",
                                  KARS__TLS_CERTS);
        }
        use->pairs[use->npairs].chain = ltls_file(l, n, 1, err);
        use->pairs[use->npairs].key = ltls_file(l, n, 2, err);
        if (use->pairs[use->npairs].chain == NULL ||
            use->pairs[use->npairs].key == NULL) {
            return KARS_ERROR;
        }
        use->npairs++;
    }
    return KARS_OK;
}

/* A UNIX socket has no host that a certificate could be for. */
static int
ltls_check_upstream(const kars_upstream_t *u, const kars__conf_node_t *on,
                    kars_err_t *err)
{
    for (size_t i = 0; i < u->nservers; i++) {
        if (u->servers[i].at.host.len == 0 && u->tls_server_name.len == 0) {
            return kars__conf_err(err, on, 0,
                                  "\"%.*s\" has no host: say whose "
                                  "certificate it must have with "
                                  "`tls_server_name NAME;`",
                                  KARS_STR_ARG(u->servers[i].text));
        }
    }
    return KARS_OK;
}

int
kars__load_tls_upstream(kars__load_t *l, const kars__conf_node_t *node,
                        kars_upstream_t *u, kars_err_t *err)
{
    const kars__conf_node_t *on = ltls_on(node);
    kars_pool_t *pool = l->cycle->pool;
    kars__tls_use_t *use;
    kars_err_t why = KARS_ERR_INIT;

    if (!u->tls || on == NULL) {
        return u->tls_ca.len == 0 && u->tls_server_name.len == 0 &&
                       u->tls_certificate.n == 0
                   ? KARS_OK
                   : kars__conf_err(err, node, 1,
                                    "it says how to speak TLS, but not `tls "
                                    "on;`");
    }
    use = kars__pnew(pool, kars__tls_use_t);
    u->tls_client = kars__tls_client_create(pool);
    if (use == NULL || u->tls_client == NULL) {
        return kars__err(err, ENOMEM, "TLS of an upstream");
    }
    use->name = kars__pprintf(pool, "upstream %.*s", KARS_STR_ARG(u->name));
    use->upstream = u;
    if (ltls_check_upstream(u, on, err) != KARS_OK ||
        ltls_collect(l, node, use, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (use->ca == NULL) {
        use->ca = ltls_system(l, on, err);
    }
    if (use->ca == NULL) {
        return KARS_ERROR;
    }
    return kars__tls_set_use(l->cycle->tls, use, &why) == KARS_OK
               ? KARS_OK
               : kars__conf_err(err, on, 0, "%s", why.text);
}

/* Servers. */

/* TLSv1.2, TLSv1.3 or both, as OpenSSL counts them. */
static int
ltls_protocols(const kars_list_t *list, int *ret_min, int *ret_max,
               kars_err_t *err)
{
    int old = list->n == 0, new = list->n == 0;

    for (size_t i = 0; i < list->n; i++) {
        if (kars_str_eq(list->v[i], KARS_STR("TLSv1.2"))) {
            old = 1;
        } else if (kars_str_eq(list->v[i], KARS_STR("TLSv1.3"))) {
            new = 1;
        } else {
            return kars__err(err, 0,
                             "tls_protocols: expected TLSv1.2 or TLSv1.3, got "
                             "\"%.*s\"",
                             KARS_STR_ARG(list->v[i]));
        }
    }
    *ret_min = old ? TLS1_2_VERSION : TLS1_3_VERSION;
    *ret_max = new ? TLS1_3_VERSION : TLS1_2_VERSION;
    return KARS_OK;
}

static int
ltls_server_conf(const kars__core_conf_t *core, kars__tls_server_conf_t *ret,
                 kars_err_t *err)
{
    if ((core->tls_verify_client != KARS__TLS_VERIFY_OFF) !=
        (core->tls_client_ca.len != 0)) {
        return kars__err(err, 0,
                         "tls_verify_client and tls_client_ca go together: "
                         "one says whether clients show a certificate, the "
                         "other whose");
    }
    if (core->tls_session_timeout_ms < 60000 ||
        core->tls_session_timeout_ms > 86400000) {
        return kars__err(err, 0, "tls_session_timeout: expected 1m to 1d");
    }
    ret->verify = (uint32_t) core->tls_verify_client;
    ret->session_ms = core->tls_session_timeout_ms;
    return ltls_protocols(&core->tls_protocols, &ret->min, &ret->max, err);
}

/* A listener of the server that speaks TLS, or NULL. */
static const kars_listener_t *
ltls_listener(const kars__load_t *l, const kars__server_t *server)
{
    const kars_listener_t *li = l->cycle->listeners;

    while (li != NULL && !(li->server == server && li->tls)) {
        li = li->next;
    }
    return li;
}

int
kars__load_tls_server(kars__load_t *l, const kars__conf_node_t *node,
                      kars__server_t *server, kars_err_t *err)
{
    const kars_listener_t *li = ltls_listener(l, server);
    const kars__core_conf_t *core = server->core;
    kars__tls_use_t *use;
    kars_err_t why = KARS_ERR_INIT;

    if (li == NULL || core->tls_certificate.n == 0) {
        return li == NULL && core->tls_certificate.n == 0 &&
                       core->tls_client_ca.len == 0
                   ? KARS_OK
                   : kars__conf_err(err, node, 0,
                                    "`listen … tls` and `tls_certificate FILE "
                                    "KEYFILE;` go together");
    }
    use = kars__pnew(l->cycle->pool, kars__tls_use_t);
    server->tls = kars__tls_server_create(l->cycle->pool, l->cycle->zone, &why);
    if (use == NULL || server->tls == NULL) {
        return kars__conf_err(err, node, 0, "%s",
                              use == NULL ? "no memory" : why.text);
    }
    use->name =
        kars__pprintf(l->cycle->pool, "listen %.*s", KARS_STR_ARG(li->address));
    use->server = server->tls;
    if (ltls_server_conf(core, &use->server_conf, &why) != KARS_OK) {
        return kars__conf_err(err, node, 0, "%s", why.text);
    }
    if (ltls_collect(l, node, use, err) != KARS_OK) {
        return KARS_ERROR;
    }
    return kars__tls_set_use(l->cycle->tls, use, &why) == KARS_OK
               ? KARS_OK
               : kars__conf_err(err, node, 0, "%s", why.text);
}
