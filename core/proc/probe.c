/*
 * probe.c - a client of the router in the router's own binary. Its memory is a
 * bare cycle's pool: loop and HTTP client, no request and no modules.
 */
#include "proc/probe.h"
#include "http/client.h"
#include "kars_config.h"
#include "proc/cycle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    kars_str_t method;
    kars_str_t path;
    kars_str_t body;
    kars_cycle_t *cycle;
    kars__bufs_t bufs;
    kars__upserver_t server;
    kars_upstream_t upstream;
    const kars_secret_t *token; /* NULL: none */
    char where[KARS__ADDR_TEXT];
    uint32_t status;
    int error; /* an errno: no whole reply came */
} probe_t;

/* Arguments. */

static int
probe_path_ok(kars_str_t path)
{
    for (size_t i = 0; i < path.len; i++) {
        if (path.data[i] <= ' ' || path.data[i] > '~') {
            return 0; /* it would end the request line */
        }
    }
    return path.len != 0 && path.data[0] == '/';
}

/* GET without a method, POST where there is a body. */
static int
probe_args(probe_t *p, int argc, char **argv)
{
    int i = 1;

    if (i < argc &&
        (strcmp(argv[i], "GET") == 0 || strcmp(argv[i], "POST") == 0)) {
        p->method = kars__strz(argv[i++]);
    }
    p->path = i < argc ? kars__strz(argv[i++]) : KARS_STR("/healthz");
    p->body = i < argc ? kars__strz(argv[i++]) : KARS_STR("");
    if (p->method.len == 0) {
        p->method = p->body.len != 0 ? KARS_STR("POST") : KARS_STR("GET");
    }
    return i == argc && probe_path_ok(p->path) ? KARS_OK : KARS_ERROR;
}

/* Where to ask. */

static int
probe_is(const kars__conf_node_t *node, const char *name)
{
    return kars_str_eq(node->argv[0], kars__strz(name));
}

/* The kinds of TCP listeners that were found. */
enum { PROBE_PLAIN = 1, PROBE_TLS = 2 };

static void
probe_loopback(kars__addr_t *a)
{
    if (a->u.sa.sa_family == AF_INET && a->u.in.sin_addr.s_addr == INADDR_ANY) {
        a->u.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else if (a->u.sa.sa_family == AF_INET6 &&
               IN6_IS_ADDR_UNSPECIFIED(&a->u.in6.sin6_addr)) {
        a->u.in6.sin6_addr = in6addr_loopback;
    }
}

static int
probe_has(const kars__conf_node_t *n, kars_str_t word)
{
    for (size_t i = 2; i < n->argc; i++) {
        if (kars_str_eq(n->argv[i], word)) {
            return 1;
        }
    }
    return 0;
}

/* DONE: no listener is better. One that speaks TLS is none for us: which
 * certificate it should have, the configuration does not say. */
static int
probe_listener(const kars__conf_node_t *n, int *found, kars__addr_t *ret,
               kars_err_t *err)
{
    kars__addr_t a;
    int is_operator = probe_has(n, KARS_STR("class=operator"));

    if (n->argc < 2) {
        return kars__conf_err(err, n, 0, "expected `listen ADDRESS`");
    }
    if (kars__listen_addr(n->argv[1], &a, err) != KARS_OK) {
        return kars__conf_err_at(err, n, 1);
    }
    if (probe_has(n, KARS_STR("tls"))) {
        *found |= PROBE_TLS;
    } else if (a.u.sa.sa_family == AF_UNIX) {
        if (is_operator) {
            *ret = a;
            return KARS_DONE;
        }
    } else if (!(*found & PROBE_PLAIN) &&
               a.u.sa.sa_family != AF_UNSPEC) { /* not fd:NAME */
        probe_loopback(&a);
        *ret = a;
        *found |= PROBE_PLAIN;
    }
    return KARS_OK;
}

int
kars__probe_where(const kars__conf_node_t *root, kars__addr_t *ret,
                  kars_err_t *err)
{
    const kars__conf_node_t *s = root != NULL ? root->child : NULL;
    kars__addr_t a;
    int found = 0;

    if (kars__addr_literal(KARS_STR("127.0.0.1"), 8443, &a) != KARS_OK) {
        return kars__err(err, 0, "127.0.0.1:8443 is no address");
    }
    for (; s != NULL; s = s->next) {
        const kars__conf_node_t *n = probe_is(s, "server") ? s->child : NULL;

        for (; n != NULL; n = n->next) {
            int rc = probe_is(n, "listen") ? probe_listener(n, &found, &a, err)
                                           : KARS_OK;

            if (rc == KARS_ERROR) {
                return KARS_ERROR;
            }
            if (rc == KARS_DONE) {
                *ret = a;
                return KARS_OK;
            }
        }
    }
    if (found == PROBE_TLS) {
        return kars__err(err, 0,
                         "every listener speaks TLS: give the probe one of "
                         "its own, `listen unix:PATH class=operator;`");
    }
    *ret = a;
    return KARS_OK;
}

static int
probe_conf(probe_t *p, const char *conf, kars_err_t *err)
{
    kars__conf_node_t *root = NULL;

    if (conf == NULL && access(KARS_CONF_PATH, F_OK) == 0) {
        conf = KARS_CONF_PATH;
    }
    if (conf != NULL &&
        kars__conf_parse(p->cycle->pool, conf, &root, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (kars__probe_where(root, &p->server.addrs[0], err) != KARS_OK) {
        return KARS_ERROR;
    }
    p->server.naddrs = 1;
    p->server.health = &p->server.own;
    p->server.fresh_until_ms = UINT64_MAX;
    (void) kars__addr_text(&p->server.addrs[0], p->where);
    return KARS_OK;
}

/* The token, from where the router has it: files before the environment. A file
 * that we may not read is none of ours: the router will say whether it matters.
 */
static int
probe_token(probe_t *p, kars_err_t *err)
{
    static const char *const files[] = { "/etc/kars/secrets/admin-token",
                                         "/run/secrets/admin-token" };
    const char *env = getenv("ADMIN_TOKEN");

    for (size_t i = 0; p->token == NULL && i < KARS_NELTS(files); i++) {
        int fd = open(files[i], O_RDONLY | O_CLOEXEC | O_NONBLOCK);

        if (fd == -1) {
            continue;
        }
        p->token = kars__secret_read(p->cycle->pool, fd, files[i], err);
        (void) close(fd);
        if (p->token == NULL) {
            return KARS_ERROR;
        }
    }
    if (p->token == NULL && env != NULL && env[0] != '\0') {
        p->token = kars__secret_create(p->cycle->pool, env, strlen(env), err);
        if (p->token == NULL) {
            return kars__err_prefix(err, "ADMIN_TOKEN");
        }
    }
    if (p->token != NULL && !kars__head_value_ok(kars__secret_str(p->token))) {
        return kars__err(err, 0, "the admin token holds control characters");
    }
    return KARS_OK;
}

/* The exchange. */

static void
probe_head(kars__xch_t *x, const kars__head_t *head, void *data)
{
    probe_t *p = data;

    p->status = head->status;
}

/* Printing may block: nobody else waits on this loop. */
static void
probe_body(kars__xch_t *x, kars_buf_t *in, uint32_t flags, void *data)
{
    probe_t *p = data;

    for (const kars_buf_t *b = in; b != NULL; b = b->next) {
        (void) fwrite(b->data, 1, b->len, stdout);
    }
    kars__chain_free(in);
    if (flags & KARS_LAST) {
        kars__loop_stop(p->cycle->loop);
    }
}

static void
probe_fail(kars__xch_t *x, int error, int reached, void *data)
{
    probe_t *p = data;

    p->error = error;
    kars__loop_stop(p->cycle->loop);
}

static const kars__xch_handler_t probe_handler = {
    .head = probe_head,
    .body = probe_body,
    .fail = probe_fail,
};

/* The request as a chain, its token a view: it is copied nowhere. */
static kars_buf_t *
probe_out(probe_t *p)
{
    kars_str_t head = kars__pprintf(
        p->cycle->pool,
        "%.*s %.*s HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n%s",
        KARS_STR_ARG(p->method), KARS_STR_ARG(p->path),
        p->server.addrs[0].u.sa.sa_family == AF_UNIX ? "localhost" : p->where,
        p->token != NULL ? "authorization: Bearer " : "");
    kars_str_t rest = kars__pprintf(
        p->cycle->pool, "%s%scontent-length: %zu\r\n\r\n",
        p->token != NULL ? "\r\n" : "",
        p->body.len != 0 ? "content-type: application/json\r\n" : "",
        p->body.len);
    kars_str_t token =
        p->token != NULL ? kars__secret_str(p->token) : KARS_STR("");
    const kars_str_t parts[] = { head, token, rest, p->body };
    kars_buf_t *out = NULL;

    if (head.data == NULL || rest.data == NULL) {
        return NULL;
    }
    for (size_t i = KARS_NELTS(parts); i-- > 0;) {
        if (parts[i].len == 0) {
            continue;
        }

        kars_buf_t *b =
            kars__buf_view(&p->bufs, NULL, parts[i].data, parts[i].len);

        if (b == NULL) {
            return NULL;
        }
        b->next = out;
        out = b;
    }
    return out;
}

static int
probe_exchange(probe_t *p, kars_err_t *err)
{
    kars_upstream_t *u = &p->upstream;

    u->name = KARS_STR("probe");
    u->health = &u->own;
    u->servers = &p->server;
    u->nservers = 1;
    u->connect_ms = u->first_byte_ms = KARS__PROBE_MS;
    u->idle_ms = u->total_ms = KARS__PROBE_MS;

    kars__xch_conf_t conf = {
        .upstream = u,
        .server = &p->server,
        .bufs = &p->bufs,
        .pool = p->cycle->pool,
        .handler = &probe_handler,
        .data = p,
        .out = probe_out(p),
        .last = 1,
        .fresh = 1,
    };

    if (conf.out == NULL || kars__xch_start(p->cycle, &conf) == NULL) {
        return kars__err(err, ENOMEM, "a request");
    }
    kars__loop_run(p->cycle->loop);
    return KARS_OK;
}

/* What came of it, in one line; OK for a 2xx whose body was printed. */
static int
probe_verdict(const probe_t *p, kars_err_t *err)
{
    if (p->error == ETIMEDOUT) {
        (void) kars__err(err, 0, "no answer within %d ms", KARS__PROBE_MS);
    } else if (p->error == EPROTO) {
        (void) kars__err(err, 0, "what answered does not speak HTTP/1.1");
    } else if (p->error != 0) {
        (void) kars__err(err, p->error, "no answer");
    } else if (p->status < 200 || p->status > 299) {
        (void) kars__err(err, 0, "status %u%s", p->status,
                         p->status == 401 && p->token == NULL
                             ? ", and there is no admin token to send"
                             : "");
    } else {
        return fflush(stdout) != 0 || ferror(stdout)
                   ? kars__err(err, EIO, "write the body")
                   : KARS_OK;
    }
    (void) fflush(stdout); /* the body before the line */
    return kars__err_prefix(err, "%.*s %.*s at %s", KARS_STR_ARG(p->method),
                            p->path.len > 100 ? 100 : (int) p->path.len,
                            p->path.data, p->where);
}

int
kars__probe_run(const char *conf, int argc, char **argv)
{
    kars_err_t err = KARS_ERR_INIT;
    probe_t p = { 0 };
    kars__log_conf_t quiet = {
        .target = { .kind = KARS__LOG_STDERR, .fd = STDERR_FILENO },
        .level = KARS_LOG_ERR,
    };

    kars__log_setup(&quiet); /* our own line says it */
    if (probe_args(&p, argc, argv) != KARS_OK) {
        (void) fputs("kars-router: probe: expected probe [GET|POST] /PATH "
                     "[JSON-BODY]\n",
                     stderr);
        return 2;
    }
    p.cycle = kars__cycle_bare(&err);

    int ok = p.cycle != NULL && probe_conf(&p, conf, &err) == KARS_OK &&
             probe_token(&p, &err) == KARS_OK &&
             probe_exchange(&p, &err) == KARS_OK &&
             probe_verdict(&p, &err) == KARS_OK;

    if (!ok) {
        (void) fprintf(stderr, "kars-router: probe: %s\n", err.text);
    }
    kars__bufs_done(&p.bufs);
    if (p.cycle != NULL) {
        kars__cycle_destroy(p.cycle);
    }
    return ok ? 0 : 1;
}
