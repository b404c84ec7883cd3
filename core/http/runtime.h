/*
 * runtime.h - one loaded configuration as the request path sees it: modules,
 * servers, routes and their compiled hooks. Filled by core/proc, read-only
 * afterwards, shared by all requests of the worker.
 */
#ifndef KARS_HTTP_RUNTIME_H
#define KARS_HTTP_RUNTIME_H

#include "base/buf.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/secret.h"
#include "base/shm.h"
#include "base/str.h"
#include "conf/directive.h"
#include "event/offload.h"
#include "event/reactor.h"
#include "event/resolve.h"
#include "http/json_scan.h"
#include "net/relay.h"

/* A loaded module: its descriptor copied to our own size. */
typedef struct {
    kars_module_t def;
    const kars_module_t
        *self; /* the module's own constant: how it names itself */
    uint32_t index;
    kars__dtable_t table;
    void *main_conf; /* merged, of the main level */
    kars__prov_t *main_prov;
    size_t conn_ctx_offset;
} kars__mod_t;

/* Core's own directives of main, server and route. */
typedef struct {
    uint64_t body_limit;
    uint64_t header_limit;
    uint64_t memory;
    uint64_t header_timeout_ms;
    uint64_t body_timeout_ms;
    uint64_t idle_timeout_ms;
    uint64_t send_timeout_ms;
    uint64_t half_timeout_ms;
    uint64_t event_limit;
    kars_list_t tls_certificate;
    kars_str_t tls_client_ca; /* as written */
    int32_t tls_verify_client;
    kars_list_t tls_protocols;
    uint64_t tls_session_timeout_ms;
    int32_t http2;
    uint64_t http2_streams;
    uint64_t http2_window;
    uint64_t http2_limit[6]; /* by KARS__HTTP2_RESETS and on */
    kars_upstream_t *pass;
    uint64_t respond_status;
    kars_str_t respond_text;
} kars__core_conf_t;

typedef struct {
    kars_hook_pt run;
    kars_conn_hook_pt connect;
    uint32_t phase;
    uint32_t flags;
    uint32_t mod;
} kars__hook_t;

typedef struct {
    kars_filter_def_t def;
    uint32_t mod;
} kars__filter_slot_t;

typedef struct {
    int (*value)(kars_req_t *r, kars_str_t text, uint32_t index, uint32_t flags,
                 const void *conf, void *ctx);
    uint32_t mod;
} kars__watch_slot_t;

/* The JSON members that the modules of a route watch in one direction. */
typedef struct {
    const kars__json_prog_t *prog; /* NULL: none */
    kars__watch_slot_t *slots;
} kars__watches_t;

typedef struct {
    kars_str_t text; /* of "{name}": the name */
    uint32_t kind;   /* KARS__SEG_* */
} kars__segment_t;
enum { KARS__SEG_TEXT = 0, KARS__SEG_NAME = 1, KARS__SEG_REST = 2 };

typedef struct kars__connect_s kars__connect_t;
typedef struct kars__server_s kars__server_t;
typedef struct kars__route_s kars__route_t;

struct kars__route_s {
    kars__route_t *next;
    kars__server_t *server;
    kars_str_t methods; /* "GET,PUT" or "*", as written */
    kars_str_t path;    /* as written */
    const char *file;
    uint32_t line;
    uint32_t column;
    kars__segment_t *segs;
    size_t nsegs;
    kars__core_conf_t *core;
    kars__prov_t *core_prov;
    void **conf;         /* by module index */
    kars__prov_t **prov; /* likewise */
    uint8_t *active;     /* likewise */
    kars__hook_t *hooks; /* phase by phase, load order; then LOG, reversed */
    size_t nhooks;
    kars__filter_slot_t *filters; /* of responses, reversed */
    size_t nfilters;
    kars__filter_slot_t *in_filters; /* of request bodies, in load order */
    size_t nin_filters;
    kars__watches_t watch[2]; /* of requests, of responses */
    uint8_t gated; /* a REWRITE or ADMIT hook waits for the whole body */
};

struct kars__server_s {
    kars__server_t *next;
    kars__core_conf_t *core;
    kars__route_t *routes;  /* most specific first */
    kars__hook_t *connects; /* of CONNECT, in load order */
    size_t nconnects;
    kars__route_t *none; /* the pseudo-route of what found no other */
    const char *file;
    uint32_t line;
    struct kars__tls_server_s *tls; /* of its `listen … tls` */
};

typedef struct kars__port_s kars__port_t; /* stream.h */

struct kars_listener_s {
    kars_listener_t *next;
    kars_str_t address;       /* as written */
    kars_str_t klass;         /* of class=, or empty */
    kars_str_t module;        /* of module=: its bytes are that module's */
    const kars__port_t *port; /* what that module does with them */
    kars_stream_t *udp;       /* of datagrams */
    uint8_t datagram;
    uint8_t tls; /* it speaks TLS with server->tls */
    kars__server_t *server;
    kars__addr_t addr;
    int fd;
    kars__io_t io;
    kars__timer_t pause; /* out of descriptors */
    kars_cycle_t *cycle;
};

/* One configuration and all that lives exactly as long as it. */
struct kars_cycle_s {
    kars_pool_t *pool;
    kars__loop_t *loop;
    kars__offload_t *offload;
    kars__resolver_t *resolver;
    kars_zone_t *zone;
    kars__metrics_t *metrics;
    uint64_t worker_id;

    kars__mod_t **mods; /* in load order */
    size_t nmods;
    kars__mod_t **started; /* in the order of worker_start */
    size_t nstarted;       /* those of them that said OK */
    size_t conn_ctx_size;  /* of all modules together */
    kars__server_t *servers;
    kars_listener_t *listeners;
    kars_upstream_t *upstreams;
    kars_log_t *logs;
    const kars__dtable_t *main_table; /* of core's directives */
    const kars__dtable_t *core_table;
    kars__prov_t *main_prov;
    kars_upstream_t *url_upstreams; /* made at run time, while in use */
    kars_exchange_t *exchanges;     /* that have not ended */
    uint32_t closing;               /* none may begin */
    struct kars__tls_set_s *tls;    /* core/proc/tls_set.h */
    kars_str_t sandbox;
    uint32_t hardening; /* of the process: KARS__HARDEN_* (proc/harden.h) */
    struct kars__own_pool_s *pools; /* made by modules, not yet destroyed */

    uint64_t body_memory; /* held bodies of all requests: the cap, in bytes */
    uint64_t body_wait_ms;
    uint64_t body_held;     /* now */
    kars_req_t *body_first; /* those that wait for some of it, in order */
    kars_req_t *body_last;
    uint64_t drain_timeout_ms;
    uint64_t drain_delay_ms;

    kars_conn_t *conns; /* all open client connections */
    size_t nconns;
    int spare_fd; /* to refuse connections with, when there is no other */
    kars_stream_t *streams; /* opened by modules, not accepted */
    kars__pipes_t pipes;    /* of tunnels */
    kars_ws_t *sockets;     /* WebSockets that modules opened */
    uint32_t draining;
    uint32_t ending;    /* the router stops: it is not ready any more */
    uint32_t command;   /* it runs one, and nothing else */
    uint32_t run_state; /* of kars__cycle_run() */
    void (*drained)(kars_cycle_t *cycle); /* the last connection is gone */

    struct kars__waits_s *waits;         /* suspensions by token */
    struct kars__snapshots_s *snapshots; /* of watched files; NULL: none */
    struct kars__owners_s *owners; /* keys that workers own; NULL: unused */
    kars_req_t *lasting;           /* requests that are rechecked */
    kars__work_t recheck;
    uint32_t replaces; /* this worker takes the place of one that died */
    kars_metric_t *m_requests;
};

/* The module whose code runs now; core's is NULL. For log lines, for the name
 * in a denial, and for functions that work on "one's own". */
extern kars__mod_t *kars__mod_now;

#endif
