/* load_tree.c - servers, their listeners and routes, upstreams. */
#include "http/stream.h"
#include "net/tls.h"
#include "proc/cycle.h"
#include "proc/load.h"
#include "proc/place.h"

#include <errno.h>

static int
tree_is(const kars__conf_node_t *node, const char *name)
{
    return kars_str_eq(node->argv[0], kars__strz(name));
}

static int
tree_block(const kars__conf_node_t *node, size_t argc, const char *form,
           kars_err_t *err)
{
    if (!node->has_block || node->argc != argc) {
        return kars__conf_err(err, node, 0, "expected `%s { … }`", form);
    }
    return KARS_OK;
}

/* Listeners: asked for before modules run, given to their servers after. */

static int
tree_is_class(kars_str_t s)
{
    static const char *const classes[] = { "agent", "operator", "controller",
                                           "peer", "open" };

    for (size_t i = 0; i < KARS_NELTS(classes); i++) {
        if (kars_str_eq(s, kars__strz(classes[i]))) {
            return 1;
        }
    }
    return 0;
}

/* The sockets of one address: this worker's own, and those that are left over
 * from more workers than there are now. */
static int
tree_open_listener(kars__load_t *l, const kars__conf_node_t *node,
                   const kars_listener_t *like, kars_err_t *err)
{
    uint64_t mode = like->klass.len != 0 ? 0600 : 0666;
    uint64_t more = 1;
    kars_str_t what = like->datagram
                          ? kars__pprintf(l->cycle->pool, "udp:%.*s",
                                          KARS_STR_ARG(like->address))
                          : like->address;

    for (uint64_t index = 0; more != 0; index++) {
        kars_listener_t *li = kars__pnew(l->cycle->pool, kars_listener_t);
        kars_err_t why = KARS_ERR_INIT;

        if (li == NULL || what.data == NULL) {
            return kars__err(err, ENOMEM, "a listener");
        }
        *li = *like;
        more = 0;
        if (l->mode == KARS__CYCLE_SERVE &&
            kars__ask(l->channel, KARS__ASK_LISTEN, what, mode | index << 16,
                      &li->fd, &more, &why) != KARS_OK) {
            return kars__conf_err(err, node, 1, "%s", why.text);
        }
        if (li->addr.u.sa.sa_family == AF_UNSPEC && li->fd != -1) {
            li->addr.len = sizeof(li->addr.u);
            if (getsockname(li->fd, &li->addr.u.sa, &li->addr.len) == -1) {
                return kars__conf_err(err, node, 1, "%s", strerror(errno));
            }
        }
        li->next = l->cycle->listeners;
        l->cycle->listeners = li;
    }
    return KARS_OK;
}

/* One word behind the address. */
static int
tree_listen_option(kars_listener_t *li, const kars__conf_node_t *node, size_t i,
                   kars_err_t *err)
{
    kars_str_t klass = KARS_STR("class="), module = KARS_STR("module=");
    kars_str_t word = node->argv[i];

    if (kars_str_starts(word, klass) && word.len > klass.len &&
        li->klass.len == 0) {
        li->klass = (kars_str_t){ word.data + klass.len, word.len - klass.len };
        return tree_is_class(li->klass)
                   ? KARS_OK
                   : kars__conf_err(err, node, i,
                                    "expected agent, operator, controller, "
                                    "peer or open, got \"%.*s\"",
                                    KARS_STR_ARG(li->klass));
    }
    if (kars_str_starts(word, module) && word.len > module.len &&
        li->module.len == 0) {
        li->module =
            (kars_str_t){ word.data + module.len, word.len - module.len };
        return KARS_OK;
    }
    if (kars_str_eq(word, KARS_STR("udp")) && !li->datagram) {
        li->datagram = 1;
        return KARS_OK;
    }
    if (kars_str_eq(word, KARS_STR("tls")) && !li->tls) {
        li->tls = 1;
        return KARS_OK;
    }
    return kars__conf_err(err, node, i,
                          "expected class=CLASS, tls, module=NAME or udp, got "
                          "\"%.*s\"",
                          KARS_STR_ARG(word));
}

static int
tree_listen_options(kars_listener_t *li, const kars__conf_node_t *node,
                    kars_err_t *err)
{
    for (size_t i = 2; i < node->argc; i++) {
        if (tree_listen_option(li, node, i, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    if (li->datagram && li->tls) {
        return kars__conf_err(err, node, 0, "`udp` carries no TLS");
    }
    if (li->datagram && li->module.len == 0) {
        return kars__conf_err(err, node, 0,
                              "`udp` needs module=NAME: datagrams are a "
                              "module's business");
    }
    if (li->datagram && li->addr.u.sa.sa_family != AF_INET &&
        li->addr.u.sa.sa_family != AF_INET6) {
        return kars__conf_err(err, node, 1, "`udp` needs an IP address");
    }
    return KARS_OK;
}

static int
tree_listener(kars__load_t *l, const kars__conf_node_t *node, kars_err_t *err)
{
    kars_listener_t *li = kars__pnew(l->cycle->pool, kars_listener_t);
    kars_err_t why = KARS_ERR_INIT;

    if (node->has_block || node->argc < 2) {
        return kars__conf_err(err, node, 0,
                              "expected `listen ADDRESS [class=CLASS] [tls] "
                              "[udp] [module=NAME];`");
    }
    if (li == NULL) {
        return kars__err(err, ENOMEM, "a listener");
    }
    li->address = node->argv[1];
    li->cycle = l->cycle;
    li->fd = -1;
    if (kars__listen_addr(li->address, &li->addr, &why) != KARS_OK) {
        return kars__conf_err(err, node, 1, "%s", why.text);
    }
    if (tree_listen_options(li, node, err) != KARS_OK) {
        return KARS_ERROR;
    }
    for (const kars_listener_t *o = l->cycle->listeners; o != NULL;
         o = o->next) {
        if (kars_str_eq(o->address, li->address) &&
            o->datagram == li->datagram) {
            return kars__conf_err(err, node, 1, "two listeners for \"%.*s\"",
                                  KARS_STR_ARG(li->address));
        }
    }
    return tree_open_listener(l, node, li, err);
}

int
kars__load_ask_listeners(kars__load_t *l, kars_err_t *err)
{
    for (const kars__conf_node_t *s = l->root->child; s != NULL; s = s->next) {
        if (!tree_is(s, "server")) {
            continue;
        }
        for (const kars__conf_node_t *n = s->child; n != NULL; n = n->next) {
            if (tree_is(n, "listen") && tree_listener(l, n, err) != KARS_OK) {
                return KARS_ERROR;
            }
        }
    }
    return KARS_OK;
}

static void
tree_give_listener(kars__load_t *l, kars__server_t *server,
                   const kars__conf_node_t *node)
{
    int datagram = 0;

    for (size_t i = 2; i < node->argc; i++) {
        datagram |= kars_str_eq(node->argv[i], KARS_STR("udp"));
    }
    for (kars_listener_t *li = l->cycle->listeners; li != NULL; li = li->next) {
        if (kars_str_eq(li->address, node->argv[1]) &&
            li->datagram == datagram) {
            li->server = server;
        }
    }
}

/* Upstreams. */

static int
tree_upstream(kars__load_t *l, const kars__conf_node_t *node, kars_err_t *err)
{
    kars_cycle_t *c = l->cycle;
    kars__dtable_t *table = kars__pnew(c->pool, kars__dtable_t);
    kars_upstream_t *u;

    if (table == NULL) {
        return kars__err(err, ENOMEM, "an upstream");
    }
    if (tree_block(node, 2, "upstream NAME", err) != KARS_OK ||
        kars__dtable_init(table, c->pool, "core", kars__upstream_directives,
                          sizeof(kars_directive_t), sizeof(*u),
                          err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (l->resolve.upstream(l, node->argv[1]) != NULL) {
        return kars__conf_err(err, node, 1, "two upstreams named \"%.*s\"",
                              KARS_STR_ARG(node->argv[1]));
    }
    u = kars__pnew(c->pool, kars_upstream_t);
    if (u == NULL || (u->prov = kars__pnewn(c->pool, kars__prov_t,
                                            table->nrows + 1)) == NULL) {
        return kars__err(err, ENOMEM, "an upstream");
    }
    u->table = table;
    if (kars__directive_defaults(table, u, c->pool, &l->resolve, err) !=
        KARS_OK) {
        return KARS_ERROR;
    }
    u->name = node->argv[1];
    u->file = node->file;
    u->line = node->line;
    for (const kars__conf_node_t *n = node->child; n != NULL; n = n->next) {
        const kars__dtable_t *one = table;

        if (kars__dtable_find(table, n->argv[0]) == NULL) {
            const char *near = kars__dtable_nearest(&one, 1, n->argv[0]);

            return kars__conf_err(
                err, n, 0, "\"%.*s\" does not stand in upstream%s%s%s",
                KARS_STR_ARG(n->argv[0]),
                near != NULL ? ", did you mean \"" : "",
                near != NULL ? near : "", near != NULL ? "\"?" : "");
        }
        if (kars__directive_set(table, n, KARS_AT_UPSTREAM, u, u->prov, c->pool,
                                &l->resolve, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    if (kars__upstream_init(u, c->pool, err) != KARS_OK ||
        kars__load_tls_upstream(l, node, u, err) != KARS_OK) {
        return KARS_ERROR;
    }
    u->next = c->upstreams;
    c->upstreams = u;
    return KARS_OK;
}

/* Routes. */

static int
tree_methods_ok(kars_str_t methods)
{
    if (kars_str_eq(methods, KARS_STR("*"))) {
        return 1;
    }
    for (size_t i = 0; i < methods.len; i++) {
        char c = methods.data[i];

        if (!((c >= 'A' && c <= 'Z') ||
              (c == ',' && i > 0 && i + 1 < methods.len &&
               methods.data[i - 1] != ','))) {
            return 0;
        }
    }
    return methods.len != 0;
}

static int
tree_route(kars__load_t *l, const kars__level_t *outer, kars__server_t *server,
           const kars__conf_node_t *node, kars_err_t *err)
{
    kars__route_t *route = kars__pnew(l->cycle->pool, kars__route_t);
    kars__level_t level;
    kars_err_t why = KARS_ERR_INIT;

    if (tree_block(node, 3, "route METHOD[,METHOD] PATH", err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (route == NULL) {
        return kars__err(err, ENOMEM, "a route");
    }
    route->methods = node->argv[1];
    route->path = node->argv[2];
    route->file = node->file;
    route->line = node->line;
    route->column = node->column;
    if (!tree_methods_ok(route->methods)) {
        return kars__conf_err(err, node, 1,
                              "expected methods such as GET,PUT or *, got "
                              "\"%.*s\"",
                              KARS_STR_ARG(route->methods));
    }
    if (kars__route_compile(l->cycle->pool, route, &why) != KARS_OK) {
        return kars__conf_err(err, node, 2, "%s", why.text);
    }
    if (kars__load_level(l, outer, KARS_AT_ROUTE, &level, err) != KARS_OK) {
        return KARS_ERROR;
    }
    for (const kars__conf_node_t *n = node->child; n != NULL; n = n->next) {
        if (kars__load_directive(l, n, &level, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    if (kars__load_route(l, &level, route, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (kars__route_insert(server, route, &why) != KARS_OK) {
        return kars__conf_err(err, node, 0, "%s", why.text);
    }
    return KARS_OK;
}

static int
tree_server(kars__load_t *l, const kars__conf_node_t *node, kars_err_t *err)
{
    kars__server_t *server = kars__pnew(l->cycle->pool, kars__server_t);
    kars__level_t level;
    size_t nlisten = 0;

    if (tree_block(node, 1, "server", err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (server == NULL ||
        kars__load_level(l, &l->top, KARS_AT_SERVER, &level, err) != KARS_OK) {
        return kars__err(err, ENOMEM, "a server");
    }
    server->core = level.core;
    server->file = node->file;
    server->line = node->line;
    for (const kars__conf_node_t *n = node->child; n != NULL; n = n->next) {
        if (tree_is(n, "listen")) {
            tree_give_listener(l, server, n);
            nlisten++;
        } else if (!tree_is(n, "route") &&
                   kars__load_directive(l, n, &level, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    if (nlisten == 0) {
        return kars__conf_err(err, node, 0, "the server has no `listen`");
    }
    if (kars__load_tls_server(l, node, server, err) != KARS_OK ||
        kars__load_pseudo_route(l, &level, server, err) != KARS_OK) {
        return KARS_ERROR;
    }
    for (const kars__conf_node_t *n = node->child; n != NULL; n = n->next) {
        if (tree_is(n, "route") &&
            tree_route(l, &level, server, n, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    server->next = l->cycle->servers;
    l->cycle->servers = server;
    return KARS_OK;
}

static int
tree_check_main(kars__load_t *l, kars_err_t *err)
{
    kars_cycle_t *c = l->cycle;

    for (size_t i = 0; i < c->nmods; i++) {
        const kars__mod_t *m = c->mods[i];
        kars__place_t p = {
            .place = {
                .size = sizeof(p.place),
                .cycle = c,
                .pool = c->pool,
                .at = KARS_AT_MAIN,
            },
            .mod = m,
            .conf = l->top.conf[i],
            .prov = l->top.prov[i],
        };

        if (m->def.check == NULL) {
            continue;
        }
        kars__mod_now = c->mods[i];
        int rc = m->def.check(&p.place, l->top.conf[i], err);
        kars__mod_now = NULL;

        if (rc != KARS_OK) {
            return p.said ? KARS_ERROR
                          : kars__err_prefix(err, "module %s", m->def.name);
        }
    }
    return KARS_OK;
}

int
kars__load_tree(kars__load_t *l, kars_err_t *err)
{
    for (const kars__conf_node_t *n = l->root->child; n != NULL; n = n->next) {
        if (tree_is(n, "upstream") && tree_upstream(l, n, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    for (const kars__conf_node_t *n = l->root->child; n != NULL; n = n->next) {
        if (!tree_is(n, "upstream") && !tree_is(n, "server") &&
            kars__load_directive(l, n, &l->top, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    if (tree_check_main(l, err) != KARS_OK ||
        kars__stream_check_ports(l->cycle, err) != KARS_OK) {
        return KARS_ERROR;
    }
    for (const kars__conf_node_t *n = l->root->child; n != NULL; n = n->next) {
        if (tree_is(n, "server") && tree_server(l, n, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    return l->cycle->servers != NULL || l->mode == KARS__CYCLE_COMMAND
               ? KARS_OK
               : kars__err(err, 0, "the configuration has no `server { … }`");
}
