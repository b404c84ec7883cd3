/*
 * upstream.h - where requests go on to: named groups of servers, their idle
 * connections, their health.
 */
#ifndef KARS_HTTP_UPSTREAM_H
#define KARS_HTTP_UPSTREAM_H

#include "http/runtime.h"
#include "http/upstream_zone.h"
#include "net/tls_client.h"

#define KARS__UPSTREAM_SERVERS 32u

typedef struct kars__upconn_s kars__upconn_t; /* upconn.h */
typedef struct kars__upturn_s kars__upturn_t; /* upqueue.h */

typedef struct {
    kars_str_t text;    /* as written */
    kars_hostport_t at; /* host empty: a UNIX socket */
    kars__addr_t addrs[KARS__RESOLVE_MAX];
    size_t naddrs;
    uint64_t fresh_until_ms; /* of addrs; UINT64_MAX: an address as written */
    kars__upconn_t *idle;    /* newest first */
    uint32_t nidle;
    uint32_t busy;         /* exchanges under way */
    uint32_t nwaiting;     /* for a turn */
    kars__upturn_t *first; /* of these */
    kars__upturn_t *last;
    kars__health_t *health; /* in the zone, or own */
    kars__health_t own;
    kars__tls_slot_t tls;
} kars__upserver_t;

struct kars_upstream_s {
    kars_upstream_t *next;
    kars_str_t name;
    const char *file;
    uint32_t line;
    const kars__dtable_t *table; /* of its directives; NULL: from a URL */
    kars__prov_t *prov;
    kars__upserver_t *servers;
    size_t nservers;
    size_t turn; /* round robin */

    /* its block's directives */
    kars_list_t server_words;
    uint64_t connect_ms;
    uint64_t first_byte_ms;
    uint64_t idle_ms;
    uint64_t total_ms;
    uint64_t retries;
    int32_t retry_on;
    uint64_t keepalive;
    uint64_t keepalive_idle_ms;
    uint64_t max_connections; /* 0: any number */
    uint64_t queue;
    uint64_t queue_ms;
    int32_t tls;
    kars_str_t tls_ca; /* as written; empty: system */
    kars_str_t tls_server_name;
    kars_list_t tls_certificate;

    kars__tls_client_t *tls_client; /* NULL: without TLS */
    kars__health_t *health;         /* of all servers; in the zone, or own */
    kars__health_t own;

    /* Made from a URL: who uses it, and what it owns. */
    uint32_t refs; /* 0: of the configuration, lives as long as that */
    kars_pool_t *pool;
    kars_cycle_t *cycle; /* whose list it is in, by next */
};

/* The directives of `upstream NAME { … }`; conf is kars_upstream_t. */
extern const kars_directive_t kars__upstream_directives[];

/* After its directives were set: reads the servers. */
int kars__upstream_init(kars_upstream_t *u, kars_pool_t *pool, kars_err_t *err);

/*
 * What a resolver said: 1 to KARS__RESOLVE_MAX addresses, for as long as the
 * TTL says, within 1 and 300 s. They stay in its order, but families take
 * turns: one that leads nowhere costs one attempt, however many addresses it
 * has (RFC 8305, section 4).
 */
void kars__upserver_addrs(kars__upserver_t *s, const kars__addr_t *addrs,
                          size_t n, uint32_t ttl_s, uint64_t now_ms);

/* Shares the health of the configuration's upstreams with the other workers,
 * by the names of upstreams and servers. Where there is no zone, or no room in
 * it, each worker finds out for itself. */
int kars__upstreams_share(kars_cycle_t *cycle, kars_err_t *err);

/* What makes connections of an upstream unlike: TLS, and whose credential goes
 * over them. Kept ones are reused only where it is equal. */
int kars__upstream_key(const kars_upstream_t *u, kars_str_t scope,
                       uint8_t ret[KARS__TLS_KEY]);

/* Has it all the exchanges that it may have at once? */
int kars__upserver_full(const kars_upstream_t *u, const kars__upserver_t *s);

/* The next server to try, in turn: a healthy one that is not full, else the
 * healthy one for which fewest wait, else any; avoid may be NULL. */
kars__upserver_t *kars__upstream_pick(kars_cycle_t *cycle, kars_upstream_t *u,
                                      const kars__upserver_t *avoid);

/* What became of an attempt. */
void kars__upstream_result(kars_cycle_t *cycle, kars_upstream_t *u,
                           kars__upserver_t *s, int ok);
int kars__upstream_healthy(kars_cycle_t *cycle, const kars_upstream_t *u);

/*
 * upstream_url.c: an upstream made at run time from http://HOST[:PORT][/...],
 * or tcp://HOST:PORT for what is no HTTP (tunnels, streams); the path is not
 * kept. Asked first: the service egress.decision/1, without which there is
 * none. The same scheme, host and port give the same upstream. One reference is
 * the caller's. NULL: refused, or no memory; *err says it.
 */
kars_upstream_t *kars__upstream_from_url(kars_cycle_t *cycle, kars_str_t url,
                                         kars_err_t *err);
/* Of one of the configuration both do nothing. The last unref closes the idle
 * connections and frees it. */
void kars__upstream_ref(kars_upstream_t *u);
void kars__upstream_unref(kars_upstream_t *u);

#endif
