/* upstream.c - groups of servers. */
#include "http/upstream.h"
#include "base/parse.h"

#define UPSTREAM_FAILURES  3     /* in a row, within the window: unhealthy */
#define UPSTREAM_WINDOW_MS 60000 /* of failures in a row */
#define UPSTREAM_TTL_MAX_S 300   /* a name is asked for again after that */

#define U(f) offsetof(kars_upstream_t, f)

/* clang-format off */
const kars_directive_t kars__upstream_directives[] = {
    { .name = "server", .at = KARS_AT_UPSTREAM, .type = KARS_T_LIST,
      .flags = KARS_D_REPEAT, .offset = U(server_words),
      .doc = "HOST:PORT or unix:PATH of one server; may be repeated: they take "
             "turns" },
    { .name = "timeout", .key = "connect", .at = KARS_AT_UPSTREAM,
      .type = KARS_T_MSEC, .offset = U(connect_ms), .dflt = "10s",
      .doc = "until the connection stands: name, attempts and handshake" },
    { .name = "timeout", .key = "first_byte", .at = KARS_AT_UPSTREAM,
      .type = KARS_T_MSEC, .offset = U(first_byte_ms), .dflt = "600s",
      .doc = "from the whole request to the first byte of the reply" },
    { .name = "timeout", .key = "idle", .at = KARS_AT_UPSTREAM,
      .type = KARS_T_MSEC, .offset = U(idle_ms), .dflt = "120s",
      .doc = "between two bytes of the reply" },
    { .name = "timeout", .key = "total", .at = KARS_AT_UPSTREAM,
      .type = KARS_T_MSEC, .offset = U(total_ms), .dflt = "3600s",
      .doc = "for the whole exchange" },
    { .name = "retry", .at = KARS_AT_UPSTREAM, .type = KARS_T_COUNT,
      .offset = U(retries), .dflt = "1",
      .doc = "further attempts, on other servers where there are any" },
    { .name = "retry", .key = "on", .at = KARS_AT_UPSTREAM,
      .type = KARS_T_ENUM, .offset = U(retry_on), .dflt = "connect",
      .values = "connect never",
      .doc = "what is tried again: connections that did not come to stand" },
    { .name = "keepalive", .at = KARS_AT_UPSTREAM, .type = KARS_T_COUNT,
      .offset = U(keepalive), .dflt = "128",
      .doc = "idle connections kept to each server" },
    { .name = "keepalive", .key = "idle", .at = KARS_AT_UPSTREAM,
      .type = KARS_T_MSEC, .offset = U(keepalive_idle_ms), .dflt = "60s",
      .doc = "how long they are kept" },
    { .name = "max_connections", .at = KARS_AT_UPSTREAM,
      .type = KARS_T_COUNT, .offset = U(max_connections), .dflt = "0",
      .doc = "connections of each worker to each server for requests, idle "
             "ones included; 0: any number" },
    { .name = "queue", .at = KARS_AT_UPSTREAM, .type = KARS_T_COUNT,
      .offset = U(queue), .dflt = "128",
      .doc = "requests that may wait, in each worker for each server, in the "
             "order of their coming, while max_connections are busy; one more "
             "is 503" },
    { .name = "queue", .key = "timeout", .at = KARS_AT_UPSTREAM,
      .type = KARS_T_MSEC, .offset = U(queue_ms), .dflt = "10s",
      .doc = "how long they wait; then 503" },
    { .name = "tls", .at = KARS_AT_UPSTREAM, .type = KARS_T_FLAG,
      .offset = U(tls), .dflt = "off",
      .doc = "speak TLS 1.2 or 1.3; the server is always verified" },
    { .name = "tls_ca", .at = KARS_AT_UPSTREAM, .type = KARS_T_STR,
      .offset = U(tls_ca), .dflt = "",
      .doc = "PEM file of the authorities that may vouch for the servers; "
             "system (or none): those of this system" },
    { .name = "tls_server_name", .at = KARS_AT_UPSTREAM, .type = KARS_T_STR,
      .offset = U(tls_server_name), .dflt = "",
      .doc = "the name that certificates must be for, sent as SNI; without "
             "it the host of `server`" },
    { .name = "tls_certificate", .at = KARS_AT_UPSTREAM, .type = KARS_T_LIST,
      .offset = U(tls_certificate),
      .doc = "FILE KEYFILE: our certificate, with its chain, and its key, "
             "for servers that ask for one; PEM" },
    { 0 },
};
/* clang-format on */

static int
upstream_server(kars__upserver_t *s, kars_str_t text, kars_err_t *err)
{
    s->text = text;
    s->health = &s->own;
    if (kars_str_starts(text, KARS_STR("unix:"))) {
        if (kars__addr_unix(text, &s->addrs[0]) != KARS_OK) {
            return kars__err(err, 0, "\"%.*s\" is no UNIX socket address",
                             KARS_STR_ARG(text));
        }
        s->naddrs = 1;
        s->fresh_until_ms = UINT64_MAX;
        return KARS_OK;
    }
    if (kars__parse_hostport(text, &s->at) != KARS_OK) {
        return kars__err(err, 0,
                         "expected a server such as model.example:443 or "
                         "unix:/run/model.sock, got \"%.*s\"",
                         KARS_STR_ARG(text));
    }
    if (kars__addr_literal(s->at.host, s->at.port, &s->addrs[0]) == KARS_OK) {
        s->naddrs = 1;
        s->fresh_until_ms = UINT64_MAX;
    }
    return KARS_OK;
}

int
kars__upstream_init(kars_upstream_t *u, kars_pool_t *pool, kars_err_t *err)
{
    if (u->server_words.n == 0 || u->server_words.n > KARS__UPSTREAM_SERVERS) {
        return kars__err(
            err, 0, "%s:%u: upstream \"%.*s\" needs 1 to %u `server`s", u->file,
            u->line, KARS_STR_ARG(u->name), KARS__UPSTREAM_SERVERS);
    }
    u->health = &u->own;
    u->nservers = u->server_words.n;
    u->servers = kars__pnewn(pool, kars__upserver_t, u->nservers);
    if (u->servers == NULL) {
        return kars__err(err, 0, "no memory for an upstream");
    }
    for (size_t i = 0; i < u->nservers; i++) {
        if (upstream_server(&u->servers[i], u->server_words.v[i], err) !=
            KARS_OK) {
            return kars__err_prefix(err, "%s:%u: upstream \"%.*s\"", u->file,
                                    u->line, KARS_STR_ARG(u->name));
        }
    }
    return KARS_OK;
}

void
kars__upserver_addrs(kars__upserver_t *s, const kars__addr_t *addrs, size_t n,
                     uint32_t ttl_s, uint64_t now_ms)
{
    uint64_t ttl = ttl_s < 1                    ? 1
                   : ttl_s > UPSTREAM_TTL_MAX_S ? UPSTREAM_TTL_MAX_S
                                                : ttl_s;
    size_t same = 0, other = 0;

    for (size_t i = 0; i < n; i++) {
        sa_family_t first = addrs[0].u.sa.sa_family;

        while (same < n && addrs[same].u.sa.sa_family != first) {
            same++;
        }
        while (other < n && addrs[other].u.sa.sa_family == first) {
            other++;
        }

        int turn = same == n || (other < n && i % 2 == 1);

        s->addrs[i] = addrs[turn ? other++ : same++];
    }
    s->naddrs = n;
    s->fresh_until_ms = now_ms + ttl * 1000;
}

int
kars__upstream_key(const kars_upstream_t *u, kars_str_t scope,
                   uint8_t ret[KARS__TLS_KEY])
{
    EVP_MD_CTX *md;
    int ok;

    if (u->tls_client != NULL) {
        memcpy(ret, kars__tls_client_key(u->tls_client), KARS__TLS_KEY);
    } else {
        memset(ret, 0, KARS__TLS_KEY);
    }
    if (scope.len == 0) {
        return KARS_OK;
    }
    md = EVP_MD_CTX_new();
    ok = md != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
         EVP_DigestUpdate(md, ret, KARS__TLS_KEY) == 1 &&
         EVP_DigestUpdate(md, scope.data, scope.len) == 1 &&
         EVP_DigestFinal_ex(md, ret, NULL) == 1;
    EVP_MD_CTX_free(md);
    return ok ? KARS_OK : KARS_ERROR;
}

static kars__health_t *
upstream_row(kars_cycle_t *cycle, kars_area_t *area, const kars_upstream_t *u,
             kars_str_t server)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    int ok = md != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
             EVP_DigestUpdate(md, u->name.data, u->name.len) == 1 &&
             EVP_DigestUpdate(md, "", 1) == 1 &&
             EVP_DigestUpdate(md, server.data, server.len) == 1 &&
             EVP_DigestFinal_ex(md, digest, NULL) == 1;

    EVP_MD_CTX_free(md);
    return ok ? kars__health_row(area, digest, kars__loop_now(cycle->loop))
              : NULL;
}

int
kars__upstreams_share(kars_cycle_t *cycle, kars_err_t *err)
{
    kars_area_t *area = NULL;

    if (cycle->zone == NULL || cycle->upstreams == NULL) {
        return KARS_OK;
    }
    area = kars__health_area(cycle->zone, err);
    if (area == NULL) {
        return KARS_ERROR;
    }
    for (kars_upstream_t *u = cycle->upstreams; u != NULL; u = u->next) {
        kars__health_t *row = upstream_row(cycle, area, u, KARS_STR(""));

        u->health = row != NULL ? row : u->health;
        for (size_t i = 0; i < u->nservers; i++) {
            kars__upserver_t *s = &u->servers[i];

            row = upstream_row(cycle, area, u, s->text);
            s->health = row != NULL ? row : s->health;
        }
    }
    return KARS_OK;
}

static int
server_healthy(kars_cycle_t *cycle, const kars__upserver_t *s)
{
    return kars__health_get(&s->health->failures) < UPSTREAM_FAILURES ||
           kars__loop_now(cycle->loop) -
                   kars__health_get(&s->health->failed_at_ms) >
               UPSTREAM_WINDOW_MS;
}

int
kars__upserver_full(const kars_upstream_t *u, const kars__upserver_t *s)
{
    return u->max_connections != 0 && s->busy >= u->max_connections;
}

kars__upserver_t *
kars__upstream_pick(kars_cycle_t *cycle, kars_upstream_t *u,
                    const kars__upserver_t *avoid)
{
    kars__upserver_t *any = NULL, *full = NULL;

    for (size_t i = 0; i < u->nservers; i++) {
        size_t at = (u->turn + i) % u->nservers;
        kars__upserver_t *s = &u->servers[at];

        if (s == avoid) {
            continue;
        }
        if (!server_healthy(cycle, s)) {
            any = any != NULL ? any : s;
        } else if (!kars__upserver_full(u, s)) {
            u->turn = at + 1;
            return s;
        } else if (full == NULL || s->nwaiting < full->nwaiting) {
            full = s;
        }
    }
    if (full != NULL || any != NULL) {
        return full != NULL ? full : any; /* all unhealthy: tried anyway */
    }
    return &u->servers[u->turn % u->nservers];
}

void
kars__upstream_result(kars_cycle_t *cycle, kars_upstream_t *u,
                      kars__upserver_t *s, int ok)
{
    uint64_t wall = kars__loop_wall(cycle->loop);
    uint64_t now = kars__loop_now(cycle->loop);
    kars__health_t *h = s->health;
    uint64_t n = kars__health_get(&h->failures);

    if (ok) {
        kars__health_set(&h->failures, 0);
        kars__health_set(&u->health->failures, 0);
        kars__health_set(&u->health->first_failure_wall_ms, 0);
        kars__health_set(&u->health->last_success_wall_ms, wall);
        return;
    }
    if (n == 0 || n >= UPSTREAM_FAILURES ||
        now - kars__health_get(&h->failed_at_ms) > UPSTREAM_WINDOW_MS) {
        kars__health_set(&h->failed_at_ms, now);
        n = n >= UPSTREAM_FAILURES ? UPSTREAM_FAILURES - 1 : 0;
    }
    kars__health_set(&h->failures, n + 1);
    if (__atomic_fetch_add(&u->health->failures, 1, __ATOMIC_RELAXED) == 0) {
        kars__health_set(&u->health->first_failure_wall_ms, wall);
    }
}

int
kars__upstream_healthy(kars_cycle_t *cycle, const kars_upstream_t *u)
{
    for (size_t i = 0; i < u->nservers; i++) {
        if (server_healthy(cycle, &u->servers[i])) {
            return 1;
        }
    }
    return 0;
}
