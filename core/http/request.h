/*
 * request.h - a request from its head to its log record.
 *
 * Memory: everything hangs on the request's pool, which goes after LOG; bytes
 * on their way are counted views (base/buf.h) that belong to the request.
 *
 * Its way: proto (http1.c) -> start -> phase.c (hooks) -> respond or pass.c ->
 * filter.c -> proto -> done (LOG). Everything that decides lives in phase.c,
 * everything that shapes an answer in answer.c.
 */
#ifndef KARS_HTTP_REQUEST_H
#define KARS_HTTP_REQUEST_H

#include "http/head.h"
#include "http/runtime.h"
#include "http/sse.h"

/* What carries the request: the other side of it. */
typedef struct {
    /* Send the head (r->status, r->out), then what follows. Called once, at the
     * first output, so that it sees the whole body when that is all there is.
     */
    void (*output)(kars_req_t *r, kars_buf_t *chain, uint32_t flags);
    void (*read_body)(kars_req_t *r, int on); /* go on, or pause */
    void (*abort)(kars_req_t *r);             /* close without an end */
    size_t (*unsent)(const kars_req_t *r);    /* bytes not yet taken by it */
} kars__proto_t;

typedef struct {
    kars_header_t *v;
    size_t n;
    size_t cap;
} kars__headers_t;

#define KARS__VARS 33 /* facts that have a place of their own */

/* One fact about the request. name: of one in the list. */
typedef struct kars__var_s kars__var_t;
struct kars__var_s {
    kars__var_t *next;
    kars_str_t name;
    kars_str_t text;
    int64_t number;
};

typedef struct kars__call_s kars__call_t;     /* call.c */
typedef struct kars__events_s kars__events_t; /* event.c */

/* One filter at work on one request. */
struct kars_filter_s {
    kars_req_t *r;
    uint32_t index;     /* in the route's filters, or in_filters */
    uint32_t suspended; /* waits for its continuation */
    kars_buf_t *held;
    kars_buf_t *pending; /* came while it was suspended */
    uint32_t pending_flags;
    uint32_t has_pending;
    kars_token_t token;
    kars_filter_wake_pt wake;
    uint32_t request;       /* it is one of the request's body */
    kars__events_t *events; /* of a filter with event(), on an event stream */
    kars__call_t *call;
};

/* A header of what goes upstream whose value is nowhere but in the secret. */
typedef struct kars__header_secret_s kars__header_secret_t;
struct kars__header_secret_s {
    kars__header_secret_t *next;
    kars_str_t name;
    kars_str_t prefix;
    const kars_secret_t *secret;
};

/* Another path for the request, as the wire would bring it. */
typedef struct {
    kars_str_t target;
    kars_str_t path;
    kars_str_t query;
} kars__reroute_t;

/* A splice into the held body: at, remove cut bytes, put text there. */
typedef struct kars__edit_s kars__edit_t;
struct kars__edit_s {
    kars__edit_t *next; /* ascending, not overlapping */
    uint64_t at;
    uint64_t cut;
    kars_str_t text;
    kars_str_t path;    /* the outermost member that is written */
    kars__edit_t *kids; /* what was set in it: path, text */
    uint32_t insert;    /* KARS__INSERT_*: a member, text without its comma */
};
enum {
    KARS__INSERT_NONE = 0,
    KARS__INSERT_FIRST, /* into an object that has members */
    KARS__INSERT_ONLY   /* into an empty one */
};

enum {
    KARS__BODY_NONE = 0, /* not asked for yet */
    KARS__BODY_READING,
    KARS__BODY_WHOLE
};

enum {
    KARS__ANSWER_NONE = 0,
    KARS__ANSWER_LOCAL, /* respond or deny: answer_body is what there is */
    KARS__ANSWER_GROWS, /* a module's: answer_begin */
    KARS__ANSWER_PASS,  /* an upstream's */
    KARS__ANSWER_TAKEN  /* the connection is somebody else's */
};

/* Who takes a request's connection, or its place, over: a tunnel, a WebSocket,
 * the decision about a stream. */
typedef struct {
    /* All that decides has allowed it. Ends in kars__req_open(), or in another
     * answer. */
    void (*begin)(kars_req_t *r, void *data);
    /* The answer's head is out (its record is written): the connection's
     * operations may be replaced. */
    void (*taken)(kars_req_t *r, void *data);
    void (*gone)(kars_req_t *r, void *data); /* it ends, before LOG; once */
    /* A recheck refused what goes on: see kars__lasting_add(). */
    void (*end)(kars_req_t *r, const kars_denial_t *denial);
} kars__taker_t;

typedef struct kars__pass_s kars__pass_t; /* pass.c */
typedef struct kars__grow_s kars__grow_t; /* grow.c */

struct kars_req_s {
    kars_pool_t *pool;
    kars_cycle_t *cycle;
    kars_conn_t *conn;
    const kars__proto_t *proto;
    struct kars__http2_stream_s *stream; /* of HTTP/2 */
    const kars__server_t *server;
    const kars__route_t *route;
    kars__bufs_t bufs;
    kars__block_t *head_block; /* counted: strings of the head live there */

    kars__head_t head;
    kars_str_t path;  /* decoded */
    kars_str_t query; /* raw */
    kars__headers_t in;
    kars__headers_t out;
    kars__header_secret_t *secrets; /* they are not in `in` */
    kars_header_t *segments;        /* of {name} */
    size_t nsegments;
    kars_str_t trace;
    kars_str_t klass;
    kars_str_t principal;
    kars__var_t *known[KARS__VARS]; /* var.c says which */
    kars__var_t *vars;              /* the others */
    void **ctx;        /* by module index; made when first asked for */
    uint8_t *declined; /* likewise */

    /* phases */
    size_t hook; /* the next one of route->hooks */
    uint32_t phase;
    uint8_t granted;
    uint8_t admitted;
    uint8_t running;   /* the engine is on the stack */
    uint8_t suspended; /* a hook waits */
    uint8_t again;     /* ADMIT must run again */
    uint8_t readmits;
    uint8_t rewrites;
    uint8_t finished;         /* LOG has run or runs */
    uint8_t gone;             /* the client left */
    kars__reroute_t *reroute; /* a path that a hook gave it */
    uint32_t holds;           /* threads that use pool and ctx */
    kars_token_t token;
    uint32_t wait_mod;
    kars_wake_pt wake;

    /* request body */
    kars_buf_t *body;
    kars_buf_t *body_last;
    kars__block_t *gather; /* of body_last, where small pieces are put */
    uint64_t body_size;    /* bytes that came */
    uint64_t body_held;    /* bytes that count against body_memory */
    uint64_t body_final;   /* after edits */
    kars__edit_t *edits;
    kars__json_scan_t *scan;
    kars_filter_t *in_filters; /* reqfilter.c */
    kars_buf_t *in_out;        /* of a held body: what is through them */
    uint64_t in_out_len;
    uint8_t in_state;
    uint8_t in_last;  /* its end is through, too */
    uint8_t reframed; /* they may change its length */
    kars_buf_t *flat; /* the body in one piece, when that was asked for */
    uint8_t gated; /* it is held to its end: so says a route of the request */
    uint8_t body_state;
    uint8_t body_paused; /* over body_memory: in the cycle's list */
    uint8_t scan_failed;
    kars__timer_t body_timer;
    kars_req_t *wait_prev; /* of those that wait for body_memory */
    kars_req_t *wait_next;

    /* response */
    uint32_t status;
    uint8_t answer;
    uint8_t denied;
    uint8_t head_filtered; /* head filters have run */
    uint8_t head_sent;     /* the proto has it */
    uint8_t last_in;       /* LAST entered the filters */
    uint8_t last_out;      /* and left them */
    uint8_t event_stream;
    kars_str_t answer_body;
    uint64_t answer_bytes; /* body bytes that entered the filters */
    uint64_t sent_bytes;   /* given to the connection: head, body, framing */
    kars_filter_t *filters;
    kars__json_scan_t *out_scan;
    kars__sse_t *out_sse;
    uint8_t out_scan_state;
    kars__pass_t *pass;
    kars__call_t *call;
    kars__grow_t *grow;
    const kars__taker_t *taker;
    void *taker_data;
    uint8_t decide_only; /* no CONTENT: its end is the taker's begin() */
    uint8_t open_ended;  /* an answer without an end of its own */

    /* long-lived requests: recheck.h */
    struct kars__snapset_s *snapset; /* what it began with; NULL: nothing */
    kars_req_t *lasting_next;
    kars_req_t *lasting_prev;
    void (*lasting_end)(kars_req_t *r, const kars_denial_t *denial);
    kars_denial_t *late; /* what a recheck hook refused with */
    uint8_t lasting;
    uint8_t rechecking;
    uint32_t tail; /* the last four bytes that entered the filters */

    uint64_t start_ms;
    uint64_t start_wall_ms;
};

/* request.c: made from a parsed head; NULL: no memory. The head's strings must
 * stay valid through head_block. */
kars_req_t *kars__req_create(kars_cycle_t *cycle, kars__server_t *server,
                             const kars__head_t *head, kars__block_t *block);
/* One of a head that cannot be read, so that audit sees it: on the
 * pseudo-route, to be refused. NULL: no memory. */
kars_req_t *kars__req_create_bad(kars_cycle_t *cycle, kars__server_t *server,
                                 kars__block_t *block);
/* Ends it: LOG hooks, then memory (when no thread holds it). Once. */
void kars__req_done(kars_req_t *r);
/* The client left, or the connection broke: what waits is cancelled. */
void kars__req_gone(kars_req_t *r);
void kars__req_unhold(kars_req_t *r);

void *kars__req_ctx(kars_req_t *r, uint32_t mod); /* NULL: no memory */
const void *kars__req_conf(const kars_req_t *r, uint32_t mod);
int kars__req_listens(const kars_req_t *r, uint32_t mod); /* not declined */

/* Tells a watcher a value. OK: go on; ERROR: it refused the document, maybe in
 * its own words (then there is an answer). */
int kars__req_watch(kars_req_t *r, const kars__watch_slot_t *s, kars_str_t text,
                    uint32_t index, uint32_t flags);

int kars__headers_add(kars_pool_t *pool, kars__headers_t *h, kars_str_t name,
                      kars_str_t value);
/* In the place of the first of that name, of which it becomes the only one. */
int kars__headers_set(kars_pool_t *pool, kars__headers_t *h, kars_str_t name,
                      kars_str_t value);
kars_str_t kars__headers_get(const kars__headers_t *h, kars_str_t name);
void kars__headers_del(kars__headers_t *h, kars_str_t name);

/* As kars_api_s says; the secret gets the request as one more owner. */
int kars__header_secret(kars_req_t *r, kars_str_t name, kars_str_t prefix,
                        const kars_secret_t *secret);
int kars__header_secret_has(const kars_req_t *r, kars_str_t name);
void kars__header_secret_del(kars_req_t *r, kars_str_t name);

/* var.c: a fact; make: NULL only for want of memory. */
kars__var_t *kars__var(kars_req_t *r, kars_str_t name, int make);
kars_str_t kars__req_var(kars_req_t *r, kars_str_t name);
int64_t kars__req_number(kars_req_t *r, kars_str_t name);

/* route.c */
const kars__route_t *kars__route_find(kars_req_t *r);
int kars__route_compile(kars_pool_t *pool, kars__route_t *route,
                        kars_err_t *err);
/* Keeps routes most specific first; ERROR for two that match alike. */
int kars__route_insert(kars__server_t *server, kars__route_t *route,
                       kars_err_t *err);

/* phase.c */
void kars__req_start(kars_req_t *r);
void kars__req_run(kars_req_t *r);   /* from where it stands */
void kars__req_go_on(kars_req_t *r); /* its request filters are through */
/* Back to ADMIT; then on to the upstream that is chosen already. */
void kars__req_readmit(kars_req_t *r);
/* As kars_api_s says. */
int kars__req_rewrite_path(kars_req_t *r, kars_str_t target);
kars_token_t kars__req_suspend(kars_req_t *r, uint32_t timeout_ms,
                               kars_wake_pt fn);
kars_token_t kars__req_token(kars_req_t *r);
int kars__req_await(kars_req_t *r, kars_token_t token, uint32_t timeout_ms,
                    kars_wake_pt fn);
/* A continuation ended with rc: go on with it. */
void kars__req_continue(kars_req_t *r, int rc);

/* wait.c: tokens. kind tells what owner is. */
typedef struct kars__waits_s kars__waits_t;
kars__waits_t *kars__waits_create(kars_cycle_t *cycle, kars_err_t *err);
void kars__waits_destroy(kars__waits_t *w);
kars_token_t kars__wait_add(kars__waits_t *w, uint32_t timeout_ms,
                            void (*fn)(void *owner, int error), void *owner);
void kars__wait_cancel(kars__waits_t *w, kars_token_t token);
int kars__wait_end(kars_token_t token, int error); /* any thread */
/* One for whoever will wait for it (r); it dies with the turn if nobody does.
 * 0: no memory, or the request is over. */
kars_token_t kars__wait_make(kars__waits_t *w, const kars_req_t *r);
/* Waits for one that was made for r. ERROR: there is none, or somebody does. */
int kars__wait_take(kars__waits_t *w, kars_token_t token, uint32_t timeout_ms,
                    const kars_req_t *r, void (*fn)(void *owner, int error),
                    void *owner);
int kars__wait_waits(kars_token_t token); /* loop only; 1: still wanted */

/* body.c */
int kars__req_body_in(kars_req_t *r, kars__block_t *block, const char *p,
                      size_t n); /* KARS_ERROR: refused, denied already */
void kars__req_body_end(kars_req_t *r);
int kars__req_json_set(kars_req_t *r, kars_str_t path, kars_str_t json);
/* The held body with its edits, as a new chain to send. *ret_len: its bytes. */
int kars__req_body_send(kars_req_t *r, kars_buf_t **ret, uint64_t *ret_len);
/* Another body takes the place of the held one, edits and all; its watched
 * members are told. NULL: the same one, edits made. ERROR: one was refused, or
 * it is no JSON where that is needed: maybe answered, never sent. */
int kars__req_body_replace(kars_req_t *r, kars_buf_t *body);
/* Another route took the request: its limit, and its watches, hold for what
 * came. ERROR: not even a refusal could be made. */
int kars__req_body_reroute(kars_req_t *r);
/* It in one piece, edits made; lives as long as the request. data NULL: it is
 * not held, or not whole yet, or there is no body_memory for a copy. */
kars_str_t kars__req_body_flat(kars_req_t *r);
void kars__req_body_release(kars_req_t *r);
/* Bytes held elsewhere that count against body_memory come, or go. */
void kars__body_memory_take(kars_cycle_t *cycle, size_t n);
void kars__body_memory_give(kars_cycle_t *cycle, size_t n);
/* It waits for body memory no more. */
void kars__req_body_unpause(kars_req_t *r);

/* answer.c */
int kars__req_deny(kars_req_t *r, const kars_denial_t *denial,
                   const kars__mod_t *by);
/* The same for the router's own refusals. */
int kars__req_refuse(kars_req_t *r, int status, const char *type,
                     const char *code, const char *reason);
/* rule: the directive that decided ("body_memory wait"), where the code alone
 * does not tell. */
int kars__req_refuse_by(kars_req_t *r, int status, const char *type,
                        const char *code, const char *reason, const char *rule);
int kars__req_respond(kars_req_t *r, uint32_t status, kars_str_t type,
                      kars_str_t body);
/* Sends what respond or deny set, through the filters. */
void kars__req_send_answer(kars_req_t *r);
/* The answer fails after its head: an event stream that stands between two
 * events says so in band, anything else is cut. */
void kars__req_fail_late(kars_req_t *r, int status, const char *type,
                         const char *code, const char *reason);
/* The same for a refusal whose facts are there already. */
void kars__req_end_late(kars_req_t *r, const kars_denial_t *denial);

/* rule.c: where it was decided, never empty but for want of memory. by NULL:
 * core, which may say which directive it was. */
kars_str_t kars__rule_of(kars_req_t *r, const kars_denial_t *d,
                         const kars__mod_t *by, const char *said);

/* filter.c */
int kars__filters_head(kars_req_t *r); /* OK; DONE: replaced by a denial */
int kars__filters_body(kars_req_t *r, kars_buf_t *in, uint32_t flags);
int kars__filter_next(kars_filter_t *f, kars_buf_t *in, uint32_t flags);
/* Waits behind what the filter waits for. */
void kars__filter_pend(kars_filter_t *f, kars_buf_t *in, uint32_t flags);
int kars__filter_hold(kars_filter_t *f, kars_buf_t *in);
int kars__filter_release(kars_filter_t *f, uint32_t flags);
/* A continuation ended with rc: what had to wait for it goes on. */
void kars__filter_continue(kars_filter_t *f, int rc);
kars_token_t kars__filter_suspend(kars_filter_t *f, uint32_t timeout_ms,
                                  kars_filter_wake_pt fn);
int kars__filter_await(kars_filter_t *f, kars_token_t token,
                       uint32_t timeout_ms, kars_filter_wake_pt fn);
int kars__filter_deny(kars_filter_t *f, const kars_denial_t *denial);
/* What follows is no reply of an upstream: its members are nobody's facts. */
void kars__filters_no_scan(kars_req_t *r);
int kars__filters_busy(const kars_req_t *r); /* one is suspended */
void kars__filters_cancel(kars_req_t *r);

/* reqfilter.c, for routes that have such filters. start: OK, go on to the
 * upstream; AGAIN: one waits; DONE: the request is refused, or ADMIT must run
 * again. */
int kars__reqfilters_start(kars_req_t *r);
void kars__reqfilters_body(kars_req_t *r, kars_buf_t *in, uint32_t flags);
int kars__reqfilters_busy(const kars_req_t *r);
int kars__reqfilter_next(kars_filter_t *f, kars_buf_t *in, uint32_t flags);
int kars__reqfilter_deny(kars_filter_t *f, const kars_denial_t *denial);
void kars__reqfilter_woken(kars_filter_t *f, int rc);

/* take.c: this answer has no end of its own: the head with this status, and
 * when it is out the taker has the connection. */
void kars__req_open(kars_req_t *r, uint32_t status);
/* And this is how it ended, with the bytes that were carried. error 0: its last
 * byte goes through the filters; else the caller ends the request. */
void kars__req_over(kars_req_t *r, int error, uint64_t bytes_in,
                    uint64_t bytes_out);
/* CONTENT: an upstream and the client's connection are joined. DONE, ERROR. */
int kars__req_tunnel(kars_req_t *r, kars_upstream_t *to);
struct kars__tunnel_s;
void kars__req_tunnel_facts(kars_req_t *r, const struct kars__tunnel_s *t);

/* pass.c */
int kars__req_pass(kars_req_t *r, const kars_pass_t *pass);
/* pass_headers.c: takes out what must not go upstream; takes over what a reply
 * says (ERROR: no memory). */
void kars__pass_clean_request(kars_req_t *r);
int kars__pass_copy_headers(kars_req_t *r, const kars__head_t *head);
void kars__pass_start(kars_req_t *r);
void kars__pass_body(kars_req_t *r, kars_buf_t *in, uint32_t flags);
void kars__pass_stream(kars_req_t *r, kars_buf_t *in, uint32_t flags);
void kars__pass_room(kars_req_t *r); /* the client took bytes: go on */
/* Whatever the answer comes from, an upstream or a module: no more of it. */
void kars__pass_cancel(kars_req_t *r);
void kars__pass_continue(kars_req_t *r, int rc); /* an UPSTREAM hook ended */

/* grow.c: as kars_api_s says. */
int kars__answer_begin(kars_req_t *r, const kars_answer_t *answer);
int kars__answer_write(kars_req_t *r, kars_str_t bytes, uint32_t flags);
int kars__answer_end(kars_req_t *r, int error);
void kars__grow_room(kars_req_t *r); /* the client took bytes: go on */
/* Nobody takes it any more: the module hears it, once, unless it has ended. */
void kars__grow_gone(kars_req_t *r);
void kars__grow_drop(kars_req_t *r); /* the same without a word */

/* call.c */
int kars__req_call(kars_req_t *r, const kars_call_t *call, kars_reply_pt fn);
int kars__filter_call(kars_filter_t *f, const kars_call_t *call,
                      kars_filter_reply_pt fn);
/* Its continuation will not run. *at becomes NULL. */
void kars__call_cancel(kars__call_t **at);

#endif
