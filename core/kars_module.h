/*
 * kars_module.h - the only header a module needs.
 *
 * A module is a shared object that exports one constant, `kars_module`. The
 * router reads its head from the file, checks it, and only then runs any code
 * of the module. No router structure is laid open here: you hold handles and
 * call functions, so a new router release does not break a module that was
 * built before it.
 *
 * How this file grows: every struct that crosses the border carries its size;
 * fields and functions are added at the end and nowhere else; adding raises
 * KARS_ABI_MINOR; anything that cannot be done by adding raises
 * KARS_ABI_MAJOR. Until 1.0 is frozen (see docs/architecture.md) the minor
 * number stays 0 and this file may still change.
 *
 * Order of the file: values, strings, handles; what a module fills (calls,
 * denials, tables, the descriptor); what it may call (struct kars_api_s);
 * short names for that; the standard services.
 */
#ifndef KARS_MODULE_H
#define KARS_MODULE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KARS_MODULE_MAGIC 0x4b415253u /* "KARS" */
#define KARS_ABI_MAJOR    1
#define KARS_ABI_MINOR    0

/* What every hook, filter and continuation returns. HTTP statuses never do. */
#define KARS_OK       0  /* my part is done, go on */
#define KARS_DECLINED 1  /* leave me out of this request from here on */
#define KARS_AGAIN    2  /* suspended: exactly one continuation is pending */
#define KARS_DONE     3  /* the response is set, skip to filters and log */
#define KARS_ERROR    -1 /* failed: the router answers 500 and logs it */

/*
 * Constants are enums here, fields that hold them are uint32_t: the size of an
 * enum is not promised across compilers.
 */
enum {
    KARS_PHASE_END = 0, /* gaps: phases may be added between */
    KARS_PHASE_CONNECT = 100,
    KARS_PHASE_ACCESS = 200,
    KARS_PHASE_REWRITE = 300,
    KARS_PHASE_ADMIT = 400, /* body complete, watched members known */
    KARS_PHASE_CONTENT = 500,
    KARS_PHASE_UPSTREAM = 550, /* one attempt leaves: its server is known */
    KARS_PHASE_LOG = 600
};

/* Flags of a hook. */
enum {
    KARS_NEEDS_BODY = 1 << 0 /* REWRITE, ADMIT, CONTENT: run when the body is
                              * whole; nothing goes upstream before */
};

/* Flags of a module. */
enum {
    KARS_ALWAYS = 1 << 0 /* active on every route, not only where a directive */
};

enum {
    KARS_LOG_ERR = 1,
    KARS_LOG_WARN,
    KARS_LOG_NOTICE,
    KARS_LOG_INFO,
    KARS_LOG_DEBUG
};

enum { KARS_REQUEST = 1, KARS_RESPONSE = 2 };

/* Flags of body chunks and of JSON values. */
enum {
    KARS_FLUSH = 1 << 0,
    KARS_LAST = 1 << 1,
    KARS_FIRST = 1 << 2,
    KARS_JSON_STRING = 1 << 8,
    KARS_JSON_NUMBER = 1 << 9,
    KARS_JSON_TRUE = 1 << 10,
    KARS_JSON_FALSE = 1 << 11,
    KARS_JSON_NULL = 1 << 12,
    KARS_JSON_OBJECT = 1 << 13,
    KARS_JSON_ARRAY = 1 << 14
};

/* Where a directive may stand. */
enum {
    KARS_AT_MAIN = 1 << 0,
    KARS_AT_SERVER = 1 << 1,
    KARS_AT_ROUTE = 1 << 2,
    KARS_AT_UPSTREAM = 1 << 3,
    KARS_AT_LISTEN = 1 << 4
};

/* What its value is, and the C type of the field that takes it. */
enum {
    KARS_T_STR = 1,       /* kars_str_t */
    KARS_T_FLAG = 2,      /* int32_t: on 1, off 0 */
    KARS_T_ENUM = 3,      /* int32_t: index into `values` */
    KARS_T_LIST = 4,      /* kars_list_t: one or more words */
    KARS_T_SIZE = 5,      /* uint64_t: 64k is 65,536 */
    KARS_T_COUNT = 6,     /* uint64_t: 200k is 200,000 */
    KARS_T_MSEC = 7,      /* uint64_t: 30s is 30,000 */
    KARS_T_RATE = 8,      /* kars_rate_t: 100/60s */
    KARS_T_PATH = 9,      /* kars_str_t: absolute, or beside the file */
    KARS_T_HOSTPORT = 10, /* kars_hostport_t */
    KARS_T_UPSTREAM = 11, /* kars_upstream_t *: the name of an upstream block */
    KARS_T_ZONE = 12,     /* kars_zone_t *: the name of a zone */
    KARS_T_SECRET = 13,   /* kars_secret_t *: file:PATH or env:NAME */
    KARS_T_CUSTOM = 14,   /* whatever `set` makes of it: an inner level
                           * begins as a copy of the outer one */
    KARS_T_LOG = 15 /* kars_log_t *: stderr, stdout, syslog:…, a path; off
                     * is NULL. The first word of a directive whose name
                     * ends in `_log`: the master opens it */
};

/* Flags of a directive row. */
enum {
    KARS_D_BLOCK = 1 << 0,  /* takes a { block }: `set` reads it */
    KARS_D_REPEAT = 1 << 1, /* may stand more than once; LIST and CUSTOM */
    KARS_D_REQUIRED =
        1 << 2,             /* of a keyed row: must stand when the name does */
    KARS_D_PASSIVE = 1 << 3 /* does not make the module active on a route */
};

typedef struct kars_pool_s kars_pool_t;
typedef struct kars_req_s kars_req_t;
typedef struct kars_conn_s kars_conn_t;
typedef struct kars_buf_s kars_buf_t;
typedef struct kars_filter_s kars_filter_t;
typedef struct kars_event_s kars_event_t; /* one SSE event */
typedef struct kars_zone_s kars_zone_t;
typedef struct kars_area_s kars_area_t;
typedef struct kars_cycle_s kars_cycle_t;
typedef struct kars_upstream_s kars_upstream_t;
typedef struct kars_secret_s kars_secret_t;
typedef struct kars_metric_s kars_metric_t;
typedef struct kars_series_s kars_series_t;
typedef struct kars_timer_s kars_timer_t;
typedef struct kars_exchange_s kars_exchange_t; /* a streaming call */
typedef struct kars_listener_s kars_listener_t;
typedef struct kars_stream_s kars_stream_t; /* bytes of one's own protocol */
typedef struct kars_ws_s kars_ws_t;         /* a WebSocket */
typedef struct kars_snapshot_s kars_snapshot_t; /* of a watched file */
typedef struct kars_map_s kars_map_t;           /* a store that workers share */
typedef struct kars_log_s kars_log_t;           /* of KARS_T_LOG */
typedef uint64_t kars_token_t; /* names a suspension; stale ones are harmless */

/* Bytes with a length; not terminated. Borrowed unless the comment says so. */
typedef struct {
    const char *data;
    size_t len;
} kars_str_t;

typedef struct {
    kars_str_t *v;
    size_t n;
} kars_list_t;

typedef struct {
    uint64_t count;
    uint64_t per_ms;
} kars_rate_t;

typedef struct {
    kars_str_t host;
    uint32_t port;
} kars_hostport_t;

#define KARS_STR(lit)   ((kars_str_t){ "" lit, sizeof(lit) - 1 })
#define KARS_STR_ARG(s) (int) (s).len, (s).data
#define KARS_NELTS(a)   (sizeof(a) / sizeof((a)[0]))
/* Is this newer field there, in a struct that the other side filled? */
#define KARS_HAS(p, fld) (offsetof(__typeof__(*(p)), fld) < (p)->size)

typedef struct {
    size_t size; /* of this struct, as the filler knew it */
    char text[240];
} kars_err_t;

/* Who is at the other end of a connection. Filled by the router. */
typedef struct {
    size_t size;
    uint32_t family; /* AF_INET, AF_INET6 or AF_UNIX */
    uint32_t uid;    /* AF_UNIX: of the peer (SO_PEERCRED); else UINT32_MAX */
    uint32_t pid;    /* likewise; else 0 */
    uint16_t port;
    uint16_t local_port;
    uint8_t addr[16]; /* network order; 4 bytes are used for AF_INET */
    uint8_t local_addr[16];
    kars_str_t text;             /* "127.0.0.1:4242", "unix:" */
    kars_str_t listener;         /* the address as the configuration wrote it */
    kars_str_t listener_class;   /* of `listen … class=`, or empty */
    kars_str_t tls_version;      /* "TLSv1.3"; empty without TLS */
    kars_str_t tls_server_name;  /* SNI */
    kars_str_t tls_peer_subject; /* of a verified client certificate */
    kars_str_t tls_peer_sha256;  /* its digest, 32 bytes */
    kars_list_t tls_peer_names;  /* its DNS and URI alternative names */
    uint16_t orig_port;          /* where it was bound for before a redirect */
    uint16_t orig_family;        /* AF_INET, AF_INET6; 0: not redirected */
    uint8_t orig_addr[16];       /* network order, as addr */
} kars_peer_t;

/* One header field to send. */
typedef struct {
    kars_str_t name;
    kars_str_t value;
} kars_header_t;

/* One request to an upstream. Filled by the module; copied by the router. */
typedef struct {
    size_t size;
    kars_upstream_t *upstream;
    kars_str_t method;
    kars_str_t path;
    const kars_buf_t *body; /* of the held request, or NULL */
    kars_str_t bytes;       /* the body, when `body` is NULL */
    const kars_header_t *headers;
    size_t nheaders;
    uint32_t timeout_ms; /* for the whole call; 0: the upstream's own */
    uint32_t max_body;   /* reply bytes to buffer, of an exchange: bytes of an
                          * event; more is EMSGSIZE. 0: 65,536 */
    uint32_t idle_ms;    /* without a byte: ETIMEDOUT; 0: the upstream's own */
    uint32_t unused;     /* zero */
    /* A header whose value is written on the wire and nowhere else. No copy is
     * made of the secret: it must live until the call has ended. */
    kars_str_t secret_name;   /* "authorization"; empty: none */
    kars_str_t secret_prefix; /* "Bearer " */
    const kars_secret_t *secret;
    /* Connections are reused only between calls of one scope (whose credential
     * it is, say). Empty: the upstream's own. */
    kars_str_t pool_scope;
} kars_call_t;

/* Its outcome. Filled by the router, valid until the continuation returns. */
typedef struct {
    size_t size;
    int32_t error; /* 0, or ETIMEDOUT, ECONNRESET, EMSGSIZE, EPROTO, EBUSY (no
                    * turn at the server within `queue`), ... */
    int32_t status;
    kars_str_t body;
    kars_str_t content_type;
    const void *handle; /* for kars_reply_header() */
} kars_reply_t;

/*
 * A call whose reply is taken as it comes. Every function may be NULL; head,
 * body and event return OK, or anything else to cancel it. Strings are borrowed
 * until they return. event: of a text/event-stream, instead of body. done: 0,
 * or the error; ECANCELED when it was cancelled, from inside the call that did
 * it.
 */
typedef struct {
    size_t size;
    int (*head)(kars_exchange_t *x, const kars_reply_t *reply, void *data);
    int (*body)(kars_exchange_t *x, kars_str_t bytes, void *data);
    int (*event)(kars_exchange_t *x, const kars_event_t *ev, void *data);
    void (*done)(kars_exchange_t *x, int error, void *data); /* once, always */
} kars_exchange_handler_t;

/*
 * A refusal. Filled by the module; the router gives it the shape that the
 * caller's API expects, and adds the module and the deciding file and line to
 * log and audit. Zero fields get defaults.
 */
typedef struct {
    size_t size;
    int32_t status;          /* HTTP status */
    uint32_t retry_after_ms; /* 0: no Retry-After */
    kars_str_t code;         /* stable machine word: "budget_exceeded" */
    kars_str_t type;         /* the API's error type; empty: from the code */
    kars_str_t reason;       /* one line a person can act on; no secrets */
    const void *rule;     /* the conf field that decided: its file and line */
    kars_str_t rule_text; /* or, where a policy file decided, that place */
    const kars_header_t
        *members; /* further members of the error object: JSON */
    size_t nmembers;
} kars_denial_t;

/* Flags of a pass. */
enum {
    KARS_RETRY_UNSAFE = 1 << 0 /* retry may send again what the upstream may
                                * have acted on, whatever the method */
};

/* How the route's request goes on to an upstream. Zero fields: as it came. */
typedef struct {
    size_t size;
    kars_upstream_t *upstream;
    kars_str_t path;     /* with query */
    uint32_t timeout_ms; /* of each attempt, in place of the upstream's total */
    /*
     * Asked when an attempt failed (reply->error) and before a reply's head
     * goes on, whatever its status; attempt counts from 1. DONE: try again,
     * at *next, which is the same upstream unless it writes another; anything
     * else: that is the outcome. reply->body is empty. Asked only where the
     * request can be sent again as it was, 7 times at most: no byte of a
     * streaming body was sent, and the upstream cannot have acted on it (it
     * was not reached, or said 421, 425, 429 or 503), or the method is
     * idempotent, or KARS_RETRY_UNSAFE is set.
     */
    int (*retry)(kars_req_t *r, const kars_reply_t *reply, uint32_t attempt,
                 kars_upstream_t **next, void *data);
    void *data;
    kars_str_t pool_scope; /* as in kars_call_t */
    uint32_t flags;        /* KARS_RETRY_UNSAFE */
    uint32_t unused;       /* zero */
} kars_pass_t;

typedef int (*kars_hook_pt)(kars_req_t *r, const void *conf, void *ctx);
typedef int (*kars_conn_hook_pt)(kars_conn_t *c, const void *conf,
                                 void *conn_ctx);

/* Of a CONNECT hook: returns what that would have returned. */
typedef int (*kars_conn_wake_pt)(kars_conn_t *c, int error, const void *conf,
                                 void *conn_ctx);

/* Continuations. They return what the suspended hook would have returned. */
typedef int (*kars_reply_pt)(kars_req_t *r, const kars_reply_t *reply,
                             const void *conf, void *ctx);
typedef int (*kars_wake_pt)(kars_req_t *r, int error, const void *conf,
                            void *ctx);
typedef int (*kars_filter_reply_pt)(kars_filter_t *f, const kars_reply_t *reply,
                                    const void *conf, void *ctx);
typedef int (*kars_filter_wake_pt)(kars_filter_t *f, int error,
                                   const void *conf, void *ctx);

/* One directive as the operator wrote it. */
typedef struct {
    size_t size;
    kars_pool_t *pool;      /* lives as long as the configuration */
    const kars_str_t *argv; /* argv[0] is the name */
    size_t argc;
    const char *file;
    uint32_t line;
    uint32_t column;
    const void *node; /* for kars_block_each() */
} kars_setting_t;

typedef int (*kars_set_pt)(const kars_setting_t *s, void *conf,
                           kars_err_t *err);

/*
 * A row of the directive table. Rows of one name follow each other: those
 * without `key` take the words in their order, those with one take `key=value`.
 */
typedef struct {
    const char *name;
    const char *key;
    uint32_t at;        /* KARS_AT_* it may stand in */
    uint32_t type;      /* KARS_T_* */
    uint32_t flags;     /* KARS_D_* */
    size_t offset;      /* of the field in the module's conf struct */
    const char *dflt;   /* as an operator would write it; NULL: zero */
    const char *values; /* ENUM: "low medium high" */
    const char *doc;    /* one line, for `--directives` and the manual */
    kars_set_pt set;    /* CUSTOM only */
} kars_directive_t;

/* The level whose merged values are being checked. */
typedef struct {
    size_t size;
    kars_cycle_t *cycle;
    kars_pool_t *pool;
    uint32_t at;     /* KARS_AT_MAIN once, then KARS_AT_ROUTE for each route */
    uint32_t active; /* one of the module's directives applies here */
    kars_str_t route_methods; /* "GET,PUT" as written */
    kars_str_t route_path;
    kars_upstream_t *route_upstream; /* of `pass`, or NULL */
    /* Classes of the listeners through which the route is reached, one for
     * each; an empty word for a listener without `class=`. */
    kars_list_t listen_classes;
} kars_place_t;

typedef struct {
    uint32_t phase; /* 0 ends the table */
    kars_hook_pt run;
    uint32_t flags;            /* KARS_NEEDS_BODY */
    kars_conn_hook_pt connect; /* CONNECT: instead of run */
} kars_hook_t;

typedef struct {
    uint32_t dir; /* KARS_REQUEST or KARS_RESPONSE; 0 ends the table */
    int (*head)(kars_filter_t *f, const void *conf, void *ctx);
    int (*body)(kars_filter_t *f, kars_buf_t *in, uint32_t flags,
                const void *conf, void *ctx);
    /* Of an event stream, instead of body, RESPONSE only: OK passes the event
     * on as it is, DONE drops it; kars_event_replace() changes it. AGAIN: after
     * filter_suspend(), whose continuation returns one of these. */
    int (*event)(kars_filter_t *f, kars_event_t *ev, const void *conf,
                 void *ctx);
} kars_filter_def_t;

/* A JSON member that the module wants to see as the bytes pass; no tree. */
typedef struct {
    uint32_t dir;     /* KARS_REQUEST or KARS_RESPONSE; 0 ends the table */
    const char *path; /* "model", "messages[*].content" */
    /* text: decoded UTF-8 in fragments, FIRST and LAST in flags, which name
     * the type too; index: of the array element. For an object or array: one
     * call at its opening, without text. ERROR refuses the document. */
    int (*value)(kars_req_t *r, kars_str_t text, uint32_t index, uint32_t flags,
                 const void *conf, void *ctx);
} kars_json_watch_t;

/* A function table offered to other modules, found by name and version. */
typedef struct {
    const char *name;   /* "audit.sink/1"; NULL ends the table */
    const void *vtable; /* its first member is its size_t size */
} kars_service_t;

/* One that this module calls; the router fills *slot before any hook runs. */
typedef struct {
    const char *name; /* NULL ends the table */
    const void **slot;
    size_t min_size;
    uint32_t optional; /* 0: a missing service is a load error */
} kars_need_t;

/* What the module asks of the operating system beyond the router's own. */
enum { KARS_OS_READ = 1, KARS_OS_WRITE, KARS_OS_SYSCALL, KARS_OS_CONNECT };
typedef struct {
    uint32_t kind; /* KARS_OS_*; 0 ends the table */
    /* READ, WRITE: a directive that takes a path, or an absolute path; the
     * folder that it is or stands in. SYSCALL: a name; with all arguments.
     * CONNECT: "netlink" (sock_diag), "udp", a TCP port, or a directive that
     * takes HOST:PORT. What configured upstreams need is open already. */
    const char *what;
    const char *reason; /* one line, shown at start */
} kars_os_need_t;

/* A command of the router's command line: `kars-router [-c FILE] NAME …`. */
enum { KARS_CMD_NOCONF = 1 << 0 /* needs no configuration */ };
typedef struct {
    const char *name; /* NULL ends the table */
    /* argv[0] is NAME; returns the exit code */
    int (*run)(kars_cycle_t *cycle, int argc, char **argv);
    const char *doc;
    uint32_t flags;
} kars_command_t;

typedef struct kars_api_s kars_api_t;

typedef struct {
    /* The head: these first fields never move, in any major version. */
    uint32_t magic;
    uint16_t abi_major;
    uint16_t abi_minor;
    uint32_t size;           /* sizeof(kars_module_t) when it was built */
    uint32_t api_size;       /* sizeof(kars_api_t) when it was built */
    uint32_t directive_size; /* strides of the tables below */
    uint32_t hook_size;
    uint32_t filter_size;
    uint32_t json_size;
    uint32_t service_size;
    uint32_t need_size;
    uint32_t os_need_size;
    uint32_t command_size;
    const kars_api_t **api; /* the router stores its function table here */

    const char *name;
    const char *version;
    uint32_t flags;  /* KARS_ALWAYS */
    uint32_t unused; /* zero */
    size_t conf_size;
    size_t ctx_size;      /* per request, zeroed, in the request's pool */
    size_t conn_ctx_size; /* per connection, zeroed */
    const kars_directive_t *directives;
    const kars_hook_t *hooks;
    const kars_filter_def_t *filters;
    const kars_json_watch_t *json;
    const kars_service_t *provides;
    const kars_need_t *needs;
    const kars_os_need_t *os_needs;
    const kars_command_t *commands;
    const char *after;  /* modules that must be loaded earlier: "a b" */
    const char *before; /* and those that must be loaded later; "*": all */
    /* After values are merged; may change conf. */
    int (*check)(const kars_place_t *place, void *conf, kars_err_t *err);
    int (*worker_start)(kars_cycle_t *cycle, kars_err_t *err);
    void (*worker_stop)(kars_cycle_t *cycle);
    /* A policy was published: may this long-lived request (an event stream, an
     * answer without an end) go on? OK, or an own kars_deny(), which ends it.
     * Runs where the module is active, does not wait, and decides by
     * kars_snapshot_now(); anything else than these two ends it as failed. */
    kars_hook_pt recheck;
} kars_module_t;

/* Kinds and shape of a metric; label values are given in the order of names. */
enum { KARS_COUNTER = 1, KARS_GAUGE, KARS_HISTOGRAM };
typedef struct {
    size_t size;
    const char *name;
    const char *help;
    uint32_t kind;
    uint32_t max_series;   /* more label sets than this count as "other" */
    const char *labels;    /* "sandbox model", or NULL */
    const double *buckets; /* HISTOGRAM: upper bounds, ascending */
    size_t nbuckets;
} kars_metric_def_t;

/* What somebody decided. Its strings live as long as the request does. */
enum { KARS_ALLOW = 1, KARS_DENY, KARS_NEEDS_APPROVAL, KARS_RATE_LIMITED };
typedef struct {
    size_t size;
    uint32_t decision; /* KARS_ALLOW, ... */
    uint32_t retry_after_ms;
    kars_str_t rule; /* file:line of the policy */
    kars_str_t reason;
} kars_verdict_t;

/*
 * An answer that grows. Filled by the module; the router copies it. Both
 * functions may be NULL; neither returns anything: they cannot fail. gone: the
 * client left, or a filter refused or cut the answer; nothing can be written
 * any more, and the request ends after it.
 */
enum {
    KARS_OPEN_ENDED = 1 << 0 /* no end of its own (a subscription): audited when
                              * it opens and when it closes, and rechecked */
};
typedef struct {
    size_t size;
    uint32_t status;
    uint32_t flags; /* KARS_OPEN_ENDED */
    kars_str_t content_type;
    void (*room)(kars_req_t *r, void *data); /* after AGAIN: write again */
    void (*gone)(kars_req_t *r, void *data); /* stop; once; not after end */
    void *data;
} kars_answer_t;

/*
 * Bytes of a protocol of one's own: a listener hands each new one to accept.
 * Every function may be NULL; ERROR closes the stream. What they ask for
 * happens when they have returned, so the stream outlives each call.
 */
typedef struct {
    size_t size;
    /* ERROR: not wanted; closed() is not called for it. */
    int (*accept)(kars_stream_t *s, const kars_peer_t *peer, void *data);
    /* New bytes: take some with kars_stream_take(), the rest stays, 64 KiB at
     * most. Called again when there are more, and while some are taken; not
     * while more was written than the peer takes. */
    int (*readable)(kars_stream_t *s, kars_str_t bytes, void *data);
    int (*datagram)(kars_stream_t *s, const kars_peer_t *from, kars_str_t bytes,
                    void *data);
    void (*closed)(kars_stream_t *s, int error, void *data); /* once, always */
    void (*connected)(kars_stream_t *s, void *data); /* of stream_open() */
    void (*room)(kars_stream_t *s, void *data); /* after AGAIN: write again */
    /* The peer says no more, but may still read. NULL: closed when what was
     * written is out. */
    void (*ended)(kars_stream_t *s, void *data);
} kars_stream_handler_t;

/*
 * A WebSocket (RFC 6455). Every function may be NULL; ERROR closes it with
 * 1011. What they ask for happens when they have returned. Control frames are
 * the router's business.
 */
typedef struct {
    size_t size;
    int (*open)(kars_ws_t *ws, void *data);
    /* A whole frame, text 1 or binary 2: of the message, also when it goes on.
     * Text is UTF-8, but a frame may end inside a character. */
    int (*frame)(kars_ws_t *ws, uint32_t opcode, kars_str_t payload,
                 uint32_t flags, void *data); /* FIRST, LAST: of a message */
    void (*room)(kars_ws_t *ws, void *data);  /* after AGAIN: write again */
    /* Once, always: 0 (both sides said so), EPROTO, EILSEQ (text that was
     * none), EMSGSIZE, ETIMEDOUT, ECONNRESET, ECANCELED (the worker ends), ...
     */
    void (*closed)(kars_ws_t *ws, int error, void *data);
    /* Limits; 0: the router's own. */
    uint32_t max_frame;   /* bytes; a larger one closes with 1009 */
    uint32_t max_message; /* bytes of its frames together; likewise */
    uint32_t max_unsent;  /* bytes that may wait here; ws_write() is ERROR */
    uint32_t ping_ms;     /* silence after which the peer is pinged */
    uint32_t pong_ms;     /* and then closed with ETIMEDOUT */
    uint32_t unused;      /* zero */
} kars_ws_handler_t;

/* One of the files that belong together. Grows never. */
typedef struct {
    kars_str_t name; /* without its folder */
    kars_str_t bytes;
} kars_file_t;

/*
 * A file that the router watches: parse makes a value or refuses it, which
 * keeps the one before. *ret lives in pool, which goes when the last request
 * that uses it has ended. Names and bytes are gone when parse returns. It runs
 * on the loop: what takes long belongs elsewhere.
 *
 * Of a folder: its regular files, without subfolders, without names that begin
 * with "." or end in "~"; through `..data` where there is one (Kubernetes). 16
 * MiB and 4096 files at most. What is not there at start is no value (NULL)
 * until it comes; what cannot be read or is refused at start is an error.
 */
typedef struct {
    size_t size;
    kars_str_t path; /* a file, or a folder whose files belong together */
    kars_str_t kind; /* for policy-status: "EgressAllowlist" */
    int (*parse)(kars_pool_t *pool, kars_str_t name, kars_str_t bytes,
                 void **ret, kars_err_t *err);
    /* Instead of parse: all files of the folder, in the order of their names.
     */
    int (*parse_all)(kars_pool_t *pool, const kars_file_t *files, size_t n,
                     void *data, void **ret, kars_err_t *err);
    /* A value is new since the start; on the loop, may be NULL. */
    void (*published)(kars_cycle_t *cycle, const void *value, void *data);
    void *data;
} kars_watch_t;

/*
 * How a watched path stands, for kars_watch_each(): digest and time of the
 * oldest value that a live worker still decides by, a draining one too. The
 * digest is SHA-256 over, for each file in the order of names, its name and its
 * bytes, each after its length as 8 bytes, most significant first.
 */
typedef struct {
    size_t size;
    kars_str_t kind;
    kars_str_t path;
    kars_str_t digest;     /* 32 bytes; empty: a worker has none yet */
    kars_str_t error;      /* why the newest was refused; empty: it was not */
    uint64_t loaded_at_ms; /* Unix milliseconds; 0: never */
} kars_watch_state_t;

/* A keyed store in the zone. Its memory is taken at once and for good: entries
 * times (max_key + max_value + about 50) bytes. */
typedef struct {
    size_t size;
    kars_str_t name;      /* "forward-proxy.approvals": 29 bytes at most */
    uint32_t version;     /* of keys and values; another one begins empty */
    uint32_t max_entries; /* 1 to 2^20 */
    uint32_t max_key;     /* bytes, 1 to 2^20 */
    uint32_t max_value;   /* bytes, at most 2^20 */
} kars_map_def_t;

enum { KARS_NEW_ONLY = 1 << 0 };

/* How an upstream fares, for kars_upstream_each(). Times: Unix milliseconds. */
typedef struct {
    size_t size;
    kars_str_t name;
    uint32_t healthy;
    uint32_t failure_streak;
    uint64_t first_failure_at_ms; /* 0: none */
    uint64_t last_success_at_ms;  /* 0: none */
} kars_upstream_state_t;

/*
 * What a module may call. All of it on the worker's thread, except resume().
 * A function that this release does not have yet is NULL: KARS_API_HAS().
 */
struct kars_api_s {
    size_t size;
    uint16_t abi_major;
    uint16_t abi_minor;
    uint32_t unused;

    /* Memory. NULL when the pool's cap is reached: an ordinary day. */
    void *(*palloc)(kars_pool_t *pool, size_t size);
    void *(*pcalloc)(kars_pool_t *pool, size_t n, size_t size);
    /* Zeroed memory whose release() runs when the pool goes. */
    void *(*pown)(kars_pool_t *pool, size_t size, void (*release)(void *data));

    /* Log and errors. err() fills *err (may be NULL) and returns ERROR. */
    void (*log)(kars_req_t *r, uint32_t level, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));
    void (*cycle_log)(kars_cycle_t *cycle, uint32_t level, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));
    int (*err)(kars_err_t *err, int errnum, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

    /* Configuration. parse() reads one word as KARS_T_*, into its C type. */
    int (*parse)(const kars_setting_t *s, uint32_t type, kars_str_t in,
                 void *ret, kars_err_t *err);
    int (*block_each)(const kars_setting_t *s,
                      int (*fn)(const kars_setting_t *child, void *data,
                                kars_err_t *err),
                      void *data, kars_err_t *err);
    /* One's own, of the main level. self: KARS_SELF, filled in by the macro */
    const void *(*cycle_conf)(kars_cycle_t *cycle, const kars_module_t *self);
    kars_pool_t *(*cycle_pool)(kars_cycle_t *cycle);
    kars_str_t (*cycle_sandbox)(kars_cycle_t *cycle);  /* `sandbox NAME;` */
    kars_str_t (*secret)(const kars_secret_t *secret); /* never log it */
    kars_str_t (*upstream_name)(const kars_upstream_t *upstream);
    /* Does one of its servers have this host and port? */
    int (*upstream_serves)(const kars_upstream_t *upstream, kars_hostport_t at);
    void (*upstream_each)(kars_cycle_t *cycle,
                          void (*fn)(const kars_upstream_state_t *s,
                                     void *data),
                          void *data);

    /* The request. Strings live as long as it does. */
    kars_pool_t *(*req_pool)(kars_req_t *r);
    kars_cycle_t *(*req_cycle)(kars_req_t *r);
    int (*req_peer)(kars_req_t *r, kars_peer_t *ret);
    /* One's own: of the connection; conf and ctx for a service that another
     * module calls, where no hook hands them over. */
    void *(*req_conn_ctx)(kars_req_t *r, const kars_module_t *self);
    const void *(*req_conf)(kars_req_t *r, const kars_module_t *self);
    void *(*req_ctx)(kars_req_t *r, const kars_module_t *self); /* or NULL */
    int (*conn_peer)(kars_conn_t *c, kars_peer_t *ret);
    kars_cycle_t *(*conn_cycle)(kars_conn_t *c);
    kars_str_t (*req_method)(kars_req_t *r);
    kars_str_t (*req_path)(kars_req_t *r);  /* decoded once, no query */
    kars_str_t (*req_query)(kars_req_t *r); /* raw, without "?" */
    kars_str_t (*req_route)(kars_req_t *r); /* its pattern; "-" before one */
    kars_str_t (*req_segment)(kars_req_t *r, kars_str_t name); /* of {name} */
    kars_str_t (*req_class)(kars_req_t *r);     /* empty before a grant */
    kars_str_t (*req_principal)(kars_req_t *r); /* likewise */
    /* dir: KARS_REQUEST (what came, and what goes upstream) or RESPONSE.
     * Names compare without case. set replaces all of that name; an empty
     * value (data NULL) removes. Changes after the head left are ERROR. */
    kars_str_t (*header)(kars_req_t *r, uint32_t dir, kars_str_t name);
    int (*header_set)(kars_req_t *r, uint32_t dir, kars_str_t name,
                      kars_str_t value);
    int (*header_add)(kars_req_t *r, uint32_t dir, kars_str_t name,
                      kars_str_t value);
    /* Calls fn for each; fn returns KARS_DECLINED to remove that one. */
    int (*header_each)(kars_req_t *r, uint32_t dir,
                       int (*fn)(kars_str_t name, kars_str_t value, void *data),
                       void *data);
    /* Facts about the request by name: the router's (docs/modules.md lists
     * them) and what modules set; logs and audit read them. */
    kars_str_t (*req_var)(kars_req_t *r, kars_str_t name);
    int (*var_set)(kars_req_t *r, kars_str_t name, kars_str_t value);
    int64_t (*req_number)(kars_req_t *r, kars_str_t name); /* 0: absent */
    int (*number_set)(kars_req_t *r, kars_str_t name, int64_t value);
    const kars_buf_t *(*req_body)(kars_req_t *r); /* the held chain */
    uint64_t (*req_body_size)(kars_req_t *r);
    /* Writes a member of the held JSON body; `json` is a JSON text. What is
     * there is replaced, what is not is added. Its watchers see the new value;
     * from ADMIT on, ADMIT runs again. The path must be watched by someone. */
    int (*json_set)(kars_req_t *r, kars_str_t path, kars_str_t json);
    /* From REWRITE: another target, as on the wire ("/a%20b?c=d"), with its
     * own query or none. When the hook says OK: back to ACCESS, with nothing
     * granted, of the route that takes it; 4 times at most. OK, ERROR. */
    int (*rewrite_path)(kars_req_t *r, kars_str_t path);

    /* Decisions and answers. */
    int (*grant)(kars_req_t *r, kars_str_t klass, kars_str_t principal);
    int (*conn_grant)(kars_conn_t *c, kars_str_t klass, kars_str_t principal);
    int (*deny)(kars_req_t *r, const kars_denial_t *denial); /* DONE, ERROR */
    int (*respond)(kars_req_t *r, int status, kars_str_t content_type,
                   kars_str_t body); /* DONE, ERROR; the bytes are copied */
    /* DONE, ERROR. A CONNECT becomes a tunnel to the upstream. */
    int (*pass)(kars_req_t *r, const kars_pass_t *pass);
    /* The reply that an upstream is about to give is replaced by a denial:
     * from a response filter, before the head has left. */
    int (*filter_deny)(kars_filter_t *f, const kars_denial_t *denial);

    /* Waiting. */
    int (*call)(kars_req_t *r, const kars_call_t *call, kars_reply_pt fn);
    kars_token_t (*suspend)(kars_req_t *r, uint32_t timeout_ms,
                            kars_wake_pt fn);
    int (*resume)(kars_token_t token, int error); /* any thread */
    int (*offload)(kars_req_t *r, void (*work)(void *ctx), kars_wake_pt fn);
    /* Without a request: owned by the worker. */
    kars_timer_t *(*timer)(kars_cycle_t *cycle, uint32_t after_ms,
                           void (*fn)(kars_cycle_t *cycle, void *data),
                           void *data); /* once; freed after fn or by cancel */
    void (*timer_cancel)(kars_timer_t *timer);
    /* work runs on a thread, done on the loop: 0, or the error */
    int (*task)(kars_cycle_t *cycle, int (*work)(void *data),
                void (*done)(kars_cycle_t *cycle, int error, void *data),
                void *data);
    /* fn runs once, at the end of this loop turn, before output is written */
    int (*turn_end)(kars_cycle_t *cycle,
                    void (*fn)(kars_cycle_t *cycle, void *data), void *data);
    uint64_t (*now_ms)(kars_cycle_t *cycle);  /* monotonic */
    uint64_t (*wall_ms)(kars_cycle_t *cycle); /* Unix time */

    /* Buffers and filters. */
    kars_str_t (*buf_str)(const kars_buf_t *b);
    kars_buf_t *(*buf_next)(const kars_buf_t *b);
    kars_buf_t *(*buf_copy)(kars_req_t *r, kars_str_t bytes);
    kars_req_t *(*filter_req)(kars_filter_t *f);
    int (*filter_next)(kars_filter_t *f, kars_buf_t *in, uint32_t flags);
    int (*filter_hold)(kars_filter_t *f, kars_buf_t *in);
    const kars_buf_t *(*filter_held)(kars_filter_t *f);
    int (*filter_release)(kars_filter_t *f, uint32_t flags);
    kars_token_t (*filter_suspend)(kars_filter_t *f, uint32_t timeout_ms,
                                   kars_filter_wake_pt fn);

    /* State shared by workers that survives reloads: a named area of the
     * zone. NULL when it does not fit. lock: OK, or DONE when its last holder
     * died inside (repair, then go on). */
    kars_area_t *(*area)(kars_cycle_t *cycle, kars_str_t name, size_t size,
                         uint32_t version, kars_err_t *err);
    void *(*area_data)(kars_area_t *area); /* zeroed when new */
    int (*area_lock)(kars_area_t *area);
    void (*area_unlock)(kars_area_t *area);
    /* A number that no other worker of this router ever had, and whether the
     * worker with that number still runs. */
    uint64_t (*worker_id)(kars_cycle_t *cycle);
    int (*worker_alive)(kars_cycle_t *cycle, uint64_t id);

    /* Metrics. NULL series are harmless. */
    kars_metric_t *(*metric)(kars_cycle_t *cycle, const kars_metric_def_t *def);
    kars_series_t *(*series)(kars_metric_t *metric, const kars_str_t *labels);
    void (*series_add)(kars_series_t *series, double value); /* or observe */
    void (*series_set)(kars_series_t *series, double value);
    kars_str_t (*metrics_text)(kars_req_t *r); /* Prometheus 0.0.4 */

    /* Answers that grow; see answer_begin(). */
    int (*answer_write)(kars_req_t *r, kars_str_t bytes, uint32_t flags);
    int (*answer_end)(kars_req_t *r, int error);

    /* Calls beside the request: several at once, streaming, or with none.
     * NULL: no memory, or it cannot be written as a request (a method, path or
     * header that HTTP does not know). pause: nothing more is told from now on,
     * and the upstream feels it; or again. cancel: done() runs before it
     * returns. filter_call: as call(), from a body filter. */
    kars_exchange_t *(*exchange)(kars_cycle_t *cycle, const kars_call_t *call,
                                 const kars_exchange_handler_t *handler,
                                 void *data);
    void (*exchange_pause)(kars_exchange_t *x, int on);
    void (*exchange_cancel)(kars_exchange_t *x);
    kars_str_t (*reply_header)(const kars_reply_t *reply, kars_str_t name);
    int (*filter_call)(kars_filter_t *f, const kars_call_t *call,
                       kars_filter_reply_pt fn);
    /* For http://HOST[:PORT]; a path in it is not looked at. Each time, the
     * service egress.decision/1 is asked; where no module provides it the
     * answer is no. NULL: *err says why. The caller's reference is given back
     * with unref; calls and passes that use it hold their own. */
    kars_upstream_t *(*upstream_from_url)(kars_cycle_t *cycle, kars_str_t url,
                                          kars_err_t *err);
    void (*upstream_unref)(kars_upstream_t *upstream);

    /* Events of a stream. Name (its first 64 bytes) and data live until the
     * function that got the event returns, or the filter that waits for it.
     * replace: data NULL keeps the name, or the data, that is there; other
     * fields go. OK, ERROR (a line end in the name, no memory). */
    kars_str_t (*event_name)(const kars_event_t *ev);
    kars_str_t (*event_data)(const kars_event_t *ev);
    int (*event_replace)(kars_event_t *ev, kars_str_t name, kars_str_t data);

    /* Listeners, tunnels and WebSockets of one's own. listen: in check, of the
     * main level: takes what the configuration gives this module by `listen
     * ADDRESS [udp] module=NAME;`: that address, or, empty, all that are not
     * taken yet. ERROR: there is none. */
    int (*listen)(kars_cycle_t *cycle, kars_str_t address, uint32_t datagram,
                  const kars_stream_handler_t *handler, void *data,
                  kars_err_t *err);
    int (*stream_take)(kars_stream_t *s, size_t n); /* n bytes are consumed */
    /* OK; AGAIN: taken, and room() will tell; ERROR: not taken. Copied. */
    int (*stream_write)(kars_stream_t *s, kars_str_t bytes);
    /* A datagram to where one came from; AGAIN: no room now, it is lost. */
    int (*stream_reply)(kars_stream_t *s, const kars_peer_t *to,
                        kars_str_t bytes);
    /* Joins to an upstream by splice(2), after stream_decide() has said ALLOW;
     * what was not taken goes first. Of the handler only closed() is called
     * from then on. */
    int (*stream_tunnel)(kars_stream_t *s, kars_upstream_t *to);
    /* The pseudo-request of stream_decide(); NULL: there is none. */
    kars_req_t *(*stream_req)(kars_stream_t *s);
    /* error 0: when what was written is out; else at once. */
    void (*stream_close)(kars_stream_t *s, int error);
    /* From CONTENT, whose hook then returns AGAIN; NULL: refused, or no memory:
     * it returns DONE. The response header sec-websocket-protocol is the
     * choice among what was offered. ws_write: one message (1 text, 2 binary)
     * or a ping (9); OK; AGAIN: taken, and room() will tell; ERROR: not taken.
     * Copied. ws_close: closed() follows, when the peer has answered. */
    kars_ws_t *(*ws_accept)(kars_req_t *r, const kars_ws_handler_t *handler,
                            void *data);
    int (*ws_write)(kars_ws_t *ws, uint32_t opcode, kars_str_t payload);
    void (*ws_close)(kars_ws_t *ws, uint32_t code, kars_str_t reason);

    /* Watched files. watch: in check and worker_start; the same watch again
     * (inherited by a route, say) gives the same handle. snapshot: what this
     * request started with, until it ends; snapshot_now: what is published,
     * until you return. NULL: there is none yet, so decide for no. */
    int (*watch)(kars_cycle_t *cycle, const kars_watch_t *watch,
                 kars_snapshot_t **ret, kars_err_t *err);
    const void *(*snapshot)(kars_req_t *r, const kars_snapshot_t *s);
    const void *(*snapshot_now)(const kars_snapshot_t *s);
    /* JSON paths that come from configuration: from check(), for a route. The
     * row is copied. OK, also without effect where the module is not active;
     * ERROR: no route, no function, no memory. */
    int (*json_watch)(const kars_place_t *place, const kars_json_watch_t *row);
    /* One key, one value, kept by the worker that owns the session; others
     * reach the owner over an internal socket. */
    int (*owner_claim)(kars_cycle_t *cycle, kars_str_t key, uint32_t lease_ms);
    int (*owner_send)(kars_cycle_t *cycle, kars_str_t key, kars_str_t message);
    int (*owner_receive)(kars_cycle_t *cycle,
                         int (*fn)(kars_cycle_t *cycle, kars_str_t key,
                                   kars_str_t message, void *data),
                         void *data);

    /*
     * Waiting for what another module finds out. A provider makes a token,
     * starts its work and returns AGAIN; the consumer waits for the token with
     * a continuation of its own:
     *
     *     rc = policy->decide(r, &question, &ctx->verdict, &token);
     *     return rc == KARS_AGAIN ? kars_await(r, token, 2000, asked) : ...
     *
     * The provider writes where it was told, if token_waits() says 1, and then
     * calls resume(). The request's end and the time-out kill the token; one
     * that nobody waits for dies when the hook returns.
     */
    kars_token_t (*token_make)(kars_req_t *r); /* 0: no memory */
    int (*token_waits)(kars_token_t token);    /* loop only; 1: still wanted */
    /* AGAIN, or ERROR. fn's error: 0, what resume() said, or ETIMEDOUT. */
    int (*await)(kars_req_t *r, kars_token_t token, uint32_t timeout_ms,
                 kars_wake_pt fn);
    int (*filter_await)(kars_filter_t *f, kars_token_t token,
                        uint32_t timeout_ms, kars_filter_wake_pt fn);

    /* Memory for what outlives a request: sessions, streams. cap in bytes, 0:
     * none. NULL: no memory. What it owns is released by destroy, at the
     * latest when the worker ends. */
    kars_pool_t *(*pool_create)(kars_cycle_t *cycle, size_t cap);
    void (*pool_destroy)(kars_pool_t *pool); /* NULL is harmless */

    /*
     * A store that all workers share and reloads keep. get copies the value
     * into pool: OK, DECLINED (absent, or over), ERROR (no memory). put: OK,
     * DECLINED (NEW_ONLY, and it is there), ERROR (full, or too large); ttl_ms
     * 0: for good. delete: OK, DECLINED. each: fn sees a copy of each entry
     * that is not over, returns DECLINED to delete it and DONE to stop; an
     * entry that another worker writes meanwhile may be seen as it was, as it
     * is, both, or not. A worker that is killed in a put leaves the old value
     * or the new one.
     */
    kars_map_t *(*map)(kars_cycle_t *cycle, const kars_map_def_t *def,
                       kars_err_t *err); /* worker_start and later */
    int (*map_get)(kars_map_t *map, kars_str_t key, kars_pool_t *pool,
                   kars_str_t *ret);
    int (*map_put)(kars_map_t *map, kars_str_t key, kars_str_t value,
                   uint64_t ttl_ms, uint32_t flags);
    int (*map_delete)(kars_map_t *map, kars_str_t key);
    void (*map_each)(kars_map_t *map,
                     int (*fn)(kars_str_t key, kars_str_t value, void *data),
                     void *data);

    /* Streams: the data that the handler gets from now on (accept got that of
     * listen()), memory that goes after closed(), milliseconds without a byte
     * after which it is closed with ETIMEDOUT (0: never). */
    void (*stream_data_set)(kars_stream_t *s, void *data);
    kars_pool_t *(*stream_pool)(kars_stream_t *s);
    void (*stream_timeout)(kars_stream_t *s, uint32_t idle_ms);
    /* May this be? ACCESS and ADMIT of the route that takes method and path
     * run for the stream's pseudo-request ("host:port" is the path
     * "/host:port"). A refusal is recorded, the opening is recorded before fn
     * runs, and the close when the stream closes. fn runs from the loop, once,
     * unless it closed before; ERROR closes it. readable() is not called
     * meanwhile. AGAIN, or ERROR. */
    int (*stream_decide)(kars_stream_t *s, kars_str_t method, kars_str_t path,
                         int (*fn)(kars_stream_t *s,
                                   const kars_verdict_t *verdict, void *data));
    /* It is HTTP after all: what was not taken, and all that follows, goes to
     * the server that has this `listen` address. The handler is called no
     * more, closed() too. OK, or ERROR: there is no such listener. */
    int (*stream_http)(kars_stream_t *s, kars_str_t listener);
    /* One that goes out: connected() or closed() follows. NULL: no memory. */
    kars_stream_t *(*stream_open)(kars_cycle_t *cycle, kars_upstream_t *to,
                                  const kars_stream_handler_t *handler,
                                  void *data);

    /*
     * From CONTENT: begins an answer that grows and returns AGAIN, which the
     * hook returns; the request then goes on until answer_end(), or until the
     * client left (gone); a hook that returns ERROR instead has answered with
     * 500. The head leaves with the first bytes; of an event stream, and of
     * what is OPEN_ENDED, at once. answer_write() copies the bytes and is OK;
     * AGAIN: taken, and room will tell when more is welcome; ERROR: not taken.
     * Who writes on after AGAIN without end is cut. answer_end(): 0, it is
     * whole; else an errno, and the client sees that it is not (502, 504, an
     * error event, a cut connection). The request may end in any of both: do
     * not use it after answer_end() or gone.
     */
    int (*answer_begin)(kars_req_t *r, const kars_answer_t *answer);

    /*
     * The worker that owns a key: owner_claim() is OK (it is ours for lease_ms
     * more), DECLINED (another's) or ERROR. Keys are the module's own, of 128
     * bytes at most; those of a worker that died are free, a draining one keeps
     * its own until it ends. A question to the owner: fn runs once, from the
     * loop, with error ENOENT (nobody's), ETIMEDOUT (timeout_ms, 0: 30 s),
     * ECONNRESET (it died, it would not answer) or 0; ERROR: not asked, fn does
     * not run. Message and reply are copied, of 128 KiB at most; 1024 calls may
     * wait. send: OK, it is on its way, without a word whether it arrives;
     * ERROR: nobody's, or the queue is full. serve: fn gets what others ask and
     * send; `call` is 0 for a message that wants no reply, and is answered now
     * or later; ERROR: it will not be. receive: fn gets messages where there is
     * no serve. Both belong to worker_start.
     */
    int (*owner_call)(kars_cycle_t *cycle, kars_str_t key, kars_str_t message,
                      uint32_t timeout_ms,
                      void (*fn)(kars_cycle_t *cycle, int error,
                                 kars_str_t reply, void *data),
                      void *data);
    int (*owner_serve)(kars_cycle_t *cycle,
                       int (*fn)(kars_cycle_t *cycle, kars_str_t key,
                                 kars_str_t message, kars_token_t call,
                                 void *data),
                       void *data);
    int (*owner_reply)(kars_cycle_t *cycle, kars_token_t call,
                       kars_str_t reply); /* a late one is harmless */
    void (*owner_release)(kars_cycle_t *cycle, kars_str_t key);

    /* Secrets. header_secret: `prefix` and the secret are the value of a header
     * of what goes upstream, put there as the head is written: no other
     * function shows it, a filter does not see it. Replaces all of that name.
     * secret_create copies bytes into guarded memory, zeroed with the pool;
     * secret_share gives it one more owner and returns it. NULL: no memory. */
    int (*header_secret)(kars_req_t *r, kars_str_t name, kars_str_t prefix,
                         const kars_secret_t *secret);
    kars_secret_t *(*secret_create)(kars_pool_t *pool, kars_str_t bytes,
                                    kars_err_t *err);
    kars_secret_t *(*secret_share)(kars_pool_t *pool, kars_secret_t *secret);

    /* Every watched path of the router, whoever watches it. */
    void (*watch_each)(kars_cycle_t *cycle,
                       void (*fn)(const kars_watch_state_t *s, void *data),
                       void *data);

    /* A WebSocket that goes out: method, body and max_body of call are not
     * used. open() or closed() follows. NULL: no memory. pause: no frames from
     * now on, or again. */
    kars_ws_t *(*ws_connect)(kars_cycle_t *cycle, const kars_call_t *call,
                             const kars_ws_handler_t *handler, void *data);
    void (*ws_pause)(kars_ws_t *ws, int on);

    /* For a command that has to wait: turns the loop until loop_stop(), which
     * may have been called before. OK; ERROR: this is no command, or timeout_ms
     * went by (0: no limit), then what it had under way was cancelled. */
    int (*loop_run)(kars_cycle_t *cycle, uint32_t timeout_ms);
    void (*loop_stop)(kars_cycle_t *cycle);

    /* As err(), and says the file and line of the directive that set `field`
     * of the conf that is being checked. */
    int (*check_err)(const kars_place_t *place, const void *field,
                     kars_err_t *err, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));

    /* The held body in one piece, with what json_set() changed; copied if it
     * was in several. data NULL: no memory (of body_memory). */
    kars_str_t (*req_body_flat)(kars_req_t *r);
    int (*random)(void *ret, size_t n); /* for keys and nonces; OK, ERROR */
    int (*cycle_ending)(kars_cycle_t *cycle); /* 1: the router stops */

    /* One line, without its end, for a log of the configuration (NULL: none).
     * Lines of a turn are written at its end, whole; of several workers they
     * never mix; more than 4095 bytes are cut with a mark. Escaping is yours:
     * a line end inside is ERROR. What a full disk does not take is counted
     * in kars_log_lines_lost_total and fails nothing. */
    int (*log_line)(kars_log_t *log, kars_str_t line);
    /*
     * From a CONNECT hook. suspend: as for requests; 0: no. The connection's
     * own time-out (timeout header=) goes on. deny: DONE, which the hook
     * returns; log and audit get code, reason and rule, the peer gets nothing
     * but the end of its connection.
     */
    kars_token_t (*conn_suspend)(kars_conn_t *c, uint32_t timeout_ms,
                                 kars_conn_wake_pt fn);
    int (*conn_deny)(kars_conn_t *c, const kars_denial_t *denial);
};

#ifndef KARS_CORE
extern const kars_api_t *kars_api __attribute__((visibility("hidden")));
/* How a module names itself. Built in, its build says which it is. */
#ifdef KARS_BUILTIN /* the module's id: -DKARS_BUILTIN=id */
#define KARS_SELF_NAME_(id) kars_module_##id
#define KARS_SELF_NAME(id)  KARS_SELF_NAME_(id)
extern const kars_module_t KARS_SELF_NAME(KARS_BUILTIN);
#define KARS_SELF &KARS_SELF_NAME(KARS_BUILTIN)
#else
extern const kars_module_t kars_module;
#define KARS_SELF &kars_module
#endif
/* Is this function there, in the release that loaded us? */
#define KARS_API_HAS(fn)       (KARS_HAS(kars_api, fn) && kars_api->fn != NULL)
#define kars_palloc            kars_api->palloc
#define kars_pcalloc           kars_api->pcalloc
#define kars_pown              kars_api->pown
#define kars_log               kars_api->log
#define kars_cycle_log         kars_api->cycle_log
#define kars_err               kars_api->err
#define kars_parse             kars_api->parse
#define kars_block_each        kars_api->block_each
#define kars_cycle_conf(cycle) kars_api->cycle_conf(cycle, KARS_SELF)
#define kars_cycle_pool        kars_api->cycle_pool
#define kars_cycle_sandbox     kars_api->cycle_sandbox
#define kars_cycle_ending      kars_api->cycle_ending
#define kars_secret            kars_api->secret
#define kars_upstream_name     kars_api->upstream_name
#define kars_upstream_serves   kars_api->upstream_serves
#define kars_upstream_each     kars_api->upstream_each
#define kars_req_pool          kars_api->req_pool
#define kars_req_cycle         kars_api->req_cycle
#define kars_req_peer          kars_api->req_peer
#define kars_req_conn_ctx(r)   kars_api->req_conn_ctx(r, KARS_SELF)
#define kars_req_conf(r)       kars_api->req_conf(r, KARS_SELF)
#define kars_req_ctx(r)        kars_api->req_ctx(r, KARS_SELF)
#define kars_conn_peer         kars_api->conn_peer
#define kars_conn_cycle        kars_api->conn_cycle
#define kars_req_method        kars_api->req_method
#define kars_req_path          kars_api->req_path
#define kars_req_query         kars_api->req_query
#define kars_req_route         kars_api->req_route
#define kars_req_segment       kars_api->req_segment
#define kars_req_class         kars_api->req_class
#define kars_req_principal     kars_api->req_principal
#define kars_header            kars_api->header
#define kars_header_set        kars_api->header_set
#define kars_header_add        kars_api->header_add
#define kars_header_each       kars_api->header_each
#define kars_req_var           kars_api->req_var
#define kars_var_set           kars_api->var_set
#define kars_req_number        kars_api->req_number
#define kars_number_set        kars_api->number_set
#define kars_req_body          kars_api->req_body
#define kars_req_body_size     kars_api->req_body_size
#define kars_json_set          kars_api->json_set
#define kars_rewrite_path      kars_api->rewrite_path
#define kars_grant             kars_api->grant
#define kars_conn_grant        kars_api->conn_grant
#define kars_deny              kars_api->deny
#define kars_respond           kars_api->respond
#define kars_pass              kars_api->pass
#define kars_filter_deny       kars_api->filter_deny
#define kars_call              kars_api->call
#define kars_suspend           kars_api->suspend
#define kars_resume            kars_api->resume
#define kars_offload           kars_api->offload
#define kars_timer             kars_api->timer
#define kars_timer_cancel      kars_api->timer_cancel
#define kars_task              kars_api->task
#define kars_turn_end          kars_api->turn_end
#define kars_now_ms            kars_api->now_ms
#define kars_wall_ms           kars_api->wall_ms
#define kars_buf_str           kars_api->buf_str
#define kars_buf_next          kars_api->buf_next
#define kars_buf_copy          kars_api->buf_copy
#define kars_filter_req        kars_api->filter_req
#define kars_filter_next       kars_api->filter_next
#define kars_filter_hold       kars_api->filter_hold
#define kars_filter_held       kars_api->filter_held
#define kars_filter_release    kars_api->filter_release
#define kars_filter_suspend    kars_api->filter_suspend
#define kars_area              kars_api->area
#define kars_area_data         kars_api->area_data
#define kars_area_lock         kars_api->area_lock
#define kars_area_unlock       kars_api->area_unlock
#define kars_worker_id         kars_api->worker_id
#define kars_worker_alive      kars_api->worker_alive
#define kars_metric            kars_api->metric
#define kars_series            kars_api->series
#define kars_series_add        kars_api->series_add
#define kars_series_set        kars_api->series_set
#define kars_metrics_text      kars_api->metrics_text
#define kars_answer_write      kars_api->answer_write
#define kars_answer_end        kars_api->answer_end
#define kars_exchange          kars_api->exchange
#define kars_exchange_pause    kars_api->exchange_pause
#define kars_exchange_cancel   kars_api->exchange_cancel
#define kars_reply_header      kars_api->reply_header
#define kars_filter_call       kars_api->filter_call
#define kars_upstream_from_url kars_api->upstream_from_url
#define kars_upstream_unref    kars_api->upstream_unref
#define kars_event_name        kars_api->event_name
#define kars_event_data        kars_api->event_data
#define kars_event_replace     kars_api->event_replace
#define kars_listen            kars_api->listen
#define kars_stream_take       kars_api->stream_take
#define kars_stream_write      kars_api->stream_write
#define kars_stream_reply      kars_api->stream_reply
#define kars_stream_tunnel     kars_api->stream_tunnel
#define kars_stream_req        kars_api->stream_req
#define kars_stream_close      kars_api->stream_close
#define kars_ws_accept         kars_api->ws_accept
#define kars_ws_write          kars_api->ws_write
#define kars_ws_close          kars_api->ws_close
#define kars_watch             kars_api->watch
#define kars_snapshot          kars_api->snapshot
#define kars_snapshot_now      kars_api->snapshot_now
#define kars_json_watch        kars_api->json_watch
#define kars_owner_claim       kars_api->owner_claim
#define kars_owner_send        kars_api->owner_send
#define kars_owner_receive     kars_api->owner_receive
#define kars_token_make        kars_api->token_make
#define kars_token_waits       kars_api->token_waits
#define kars_await             kars_api->await
#define kars_filter_await      kars_api->filter_await
#define kars_pool_create       kars_api->pool_create
#define kars_pool_destroy      kars_api->pool_destroy
#define kars_map               kars_api->map
#define kars_map_get           kars_api->map_get
#define kars_map_put           kars_api->map_put
#define kars_map_delete        kars_api->map_delete
#define kars_map_each          kars_api->map_each
#define kars_stream_data_set   kars_api->stream_data_set
#define kars_stream_pool       kars_api->stream_pool
#define kars_stream_timeout    kars_api->stream_timeout
#define kars_stream_decide     kars_api->stream_decide
#define kars_stream_http       kars_api->stream_http
#define kars_stream_open       kars_api->stream_open
#define kars_answer_begin      kars_api->answer_begin
#define kars_owner_call        kars_api->owner_call
#define kars_owner_serve       kars_api->owner_serve
#define kars_owner_reply       kars_api->owner_reply
#define kars_owner_release     kars_api->owner_release
#define kars_header_secret     kars_api->header_secret
#define kars_secret_create     kars_api->secret_create
#define kars_secret_share      kars_api->secret_share
#define kars_watch_each        kars_api->watch_each
#define kars_ws_connect        kars_api->ws_connect
#define kars_ws_pause          kars_api->ws_pause
#define kars_loop_run          kars_api->loop_run
#define kars_loop_stop         kars_api->loop_stop
#define kars_check_err         kars_api->check_err
#define kars_req_body_flat     kars_api->req_body_flat
#define kars_random            kars_api->random
#define kars_log_line          kars_api->log_line
#define kars_conn_suspend      kars_api->conn_suspend
#define kars_conn_deny         kars_api->conn_deny
#endif

static inline int
kars_str_eq(kars_str_t a, kars_str_t b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static inline int
kars_str_starts(kars_str_t s, kars_str_t prefix)
{
    return s.len >= prefix.len &&
           (prefix.len == 0 || memcmp(s.data, prefix.data, prefix.len) == 0);
}

#ifndef KARS_CORE
/* The short form of kars_deny(). */
static inline int
kars_reject(kars_req_t *r, int status, kars_str_t code, kars_str_t reason)
{
    kars_denial_t denial;

    memset(&denial, 0, sizeof(denial));
    denial.size = sizeof(denial);
    denial.status = status;
    denial.code = code;
    denial.reason = reason;
    return kars_deny(r, &denial);
}
#endif

#define kars_pnew(pool, type)     ((type *) kars_pcalloc(pool, 1, sizeof(type)))
#define kars_pnewn(pool, type, n) ((type *) kars_pcalloc(pool, n, sizeof(type)))

/* Opens a module definition. Built in: one symbol per module name. */
#ifdef __cplusplus
#define KARS_EXTERN extern "C"
#else
#define KARS_EXTERN extern
#endif

/* The extern declaration keeps C++ from giving the constant internal linkage.
 */
#ifdef KARS_BUILTIN
#define KARS_MODULE(id)                               \
    KARS_EXTERN const kars_module_t kars_module_##id; \
    const kars_module_t kars_module_##id
#else
#define KARS_MODULE(id)                                \
    const kars_api_t *kars_api;                        \
    KARS_EXTERN __attribute__((visibility("default"))) \
    const kars_module_t kars_module;                   \
    const kars_module_t kars_module
#endif

#define KARS_MODULE_HEAD                                                      \
    .magic = KARS_MODULE_MAGIC, .abi_major = KARS_ABI_MAJOR,                  \
    .abi_minor = KARS_ABI_MINOR, .size = sizeof(kars_module_t),               \
    .api_size = sizeof(kars_api_t),                                           \
    .directive_size = sizeof(kars_directive_t),                               \
    .hook_size = sizeof(kars_hook_t),                                         \
    .filter_size = sizeof(kars_filter_def_t),                                 \
    .json_size = sizeof(kars_json_watch_t),                                   \
    .service_size = sizeof(kars_service_t), .need_size = sizeof(kars_need_t), \
    .os_need_size = sizeof(kars_os_need_t),                                   \
    .command_size = sizeof(kars_command_t), .api = &kars_api

/*
 * The standard services. A module that provides one of these can take the
 * place of ours. Every vtable begins with its size.
 */

/* "audit.sink/1": the tamper-evident log. */
typedef struct {
    size_t size;
    /* A record beside the request's own (r may be NULL): "trust_update:x",
     * "success". Written with the next group. */
    int (*emit)(kars_cycle_t *cycle, kars_req_t *r, kars_str_t agent_id,
                kars_str_t action, kars_str_t decision);
    int (*healthy)(kars_cycle_t *cycle); /* 1: records can be written */
} kars_audit_sink_t;

/* "signing/1": Ed25519 with the router's own key. */
typedef struct {
    size_t size;
    int (*sign)(kars_str_t bytes, unsigned char ret_sig[64]);
    int (*public_key)(unsigned char ret_key[32]);
    int (*verify)(const unsigned char key[32], kars_str_t bytes,
                  const unsigned char sig[64]); /* OK, or ERROR */
} kars_signing_t;

/* "jws/1": tokens and documents signed with that key. */
typedef struct {
    size_t size;
    kars_str_t (*kid)(void); /* names the key; lives as long as the worker */
    /* A JSON text as RFC 8785 writes it, in pool. ERROR: it is no JSON. */
    int (*canonical)(kars_pool_t *pool, kars_str_t json, kars_str_t *ret);
    /* A compact JWS (EdDSA, with kid) over payload, in pool. */
    int (*sign)(kars_pool_t *pool, kars_str_t payload, kars_str_t *ret);
} kars_jws_t;

/* "budget.ledger/1": what a sandbox used and may still use, in tokens. */
typedef struct {
    size_t size;
    int (*usage)(kars_cycle_t *cycle, kars_str_t sandbox, uint64_t *ret_day,
                 uint64_t *ret_month);
    /* More that this request used, learnt outside its usage member. */
    int (*charge)(kars_req_t *r, uint64_t tokens);
} kars_budget_ledger_t;

/*
 * "policy.decision/1": may this happen? OK: *ret is filled. AGAIN: it will be,
 * when *ret_token, which the caller awaits, is resumed without an error; so ret
 * is in the caller's ctx. ERROR: no verdict, which means no.
 */
typedef struct {
    size_t size;
    kars_str_t subject;
    kars_str_t action;  /* "tool:http_fetch" */
    kars_str_t context; /* a JSON object, or empty */
} kars_question_t;

typedef struct {
    size_t size;
    int (*decide)(kars_req_t *r, const kars_question_t *question,
                  kars_verdict_t *ret, kars_token_t *ret_token);
} kars_policy_t;

/* "egress.decision/1": may this host and port be reached? Never suspends. r
 * may be NULL: the router itself wants to. */
typedef struct {
    size_t size;
    int (*decide)(kars_cycle_t *cycle, kars_req_t *r, kars_hostport_t to,
                  kars_verdict_t *ret);
} kars_egress_t;

/* "credential.provider/1": a bearer for a scope, for kars_header_secret(); it
 * lives as long as the request. OK, AGAIN and ERROR as above. */
typedef struct {
    size_t size;
    int (*token)(kars_req_t *r, kars_str_t scope, kars_secret_t **ret,
                 kars_token_t *ret_token);
} kars_credential_t;

/* "trust.store/1": scores 0..1000. */
typedef struct {
    size_t size;
    int (*get)(kars_cycle_t *cycle, kars_str_t id, uint32_t *ret);
    int (*adjust)(kars_cycle_t *cycle, kars_str_t id, int32_t by,
                  kars_str_t why);
} kars_trust_t;

#ifdef __cplusplus
}
#endif

#endif
