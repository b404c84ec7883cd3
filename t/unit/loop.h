/*
 * loop.h - requests through the whole router without a socket, on a clock that
 * stands still until a test moves it.
 *
 *     t_loop_t *t = t_loop("route GET / { respond 200 hello; }", &some_module);
 *
 *     t_request(t, "GET / HTTP/1.1\r\nhost: x\r\n\r\n");
 *     CU_ASSERT_EQUAL(t_status(t), 200);
 *     t_loop_destroy(t);
 *
 * The configuration is what stands inside `server { }`; text that has a
 * `server {` of its own is taken as it is. Modules are constants of the test,
 * or come by a `load_module` line from the build's own folder. Upstreams are
 * answered by the test: every connection is a pair of queues in memory, taken
 * in the order in which the router made them.
 *
 * Everything that these functions return belongs to the loop.
 */
#ifndef KARS_T_LOOP_H
#define KARS_T_LOOP_H

#include "http/conn.h"
#include "http/upstream.h"
#include "proc/cycle.h"
#include "proc/module.h"
#include "t.h"

#include <stdio.h>
#include <stdlib.h>

/* Head of a module that a test defines; it calls kars__api.FUNCTION. */
#define T_MODULE_HEAD                                                         \
    .magic = KARS_MODULE_MAGIC, .abi_major = KARS_ABI_MAJOR,                  \
    .abi_minor = KARS_ABI_MINOR, .size = sizeof(kars_module_t),               \
    .api_size = sizeof(kars_api_t),                                           \
    .directive_size = sizeof(kars_directive_t),                               \
    .hook_size = sizeof(kars_hook_t),                                         \
    .filter_size = sizeof(kars_filter_def_t),                                 \
    .json_size = sizeof(kars_json_watch_t),                                   \
    .service_size = sizeof(kars_service_t), .need_size = sizeof(kars_need_t), \
    .os_need_size = sizeof(kars_os_need_t),                                   \
    .command_size = sizeof(kars_command_t), .version = "0"

/* A module that is active everywhere and lets everybody in. */
extern const kars_module_t t_open;

/* The end of a growing text, NUL-terminated. */
typedef struct {
    char *data;
    size_t len;
    size_t cap;
} t_bytes_t;

/* One connection; its router's side ends when the router closes it. */
typedef struct t_end_s t_end_t;
struct t_end_s {
    t_end_t *next;
    kars__sock_t *sock; /* NULL: closed by the router */
    kars_conn_t *conn;  /* a client's */
    t_bytes_t in;       /* for the router to read */
    size_t in_at;       /* what it has read */
    t_bytes_t out;      /* what it sent */
    size_t recv_max;    /* bytes of one recv; 0: no limit */
    size_t room;        /* bytes that it may still send; SIZE_MAX: any */
    int eof;            /* after `in` the peer says no more */
    int error;          /* after `in`: this errno, both ways */
    int connect_error;  /* of an upstream: how the connection ends */
    int hangs;          /* it never does */
    int shut;           /* the router said that it sends no more */
    int fd;             /* a number for the router to hold */
    kars__addr_t addr;  /* of an upstream: where the router went */
};

typedef struct t_loop_s t_loop_t;
struct t_loop_s {
    kars_cycle_t *cycle;
    t_end_t *clients; /* in the order of their making */
    t_end_t *ups;
    t_end_t *client; /* whom t_request() uses */
    int log_fd;
    t_bytes_t log;
    t_bytes_t body;
    t_bytes_t value;
    const int *connects; /* how the next connections end, see t_connects() */
    size_t nconnects;
};

/* t_loop("…", &one, &other): modules in the order of loading. */
#define t_loop(conf, ...) \
    t_loop_create(        \
        conf, (const kars_module_t *const[]){ NULL, ##__VA_ARGS__, NULL } + 1)
t_loop_t *t_loop_create(const char *conf, const kars_module_t *const *mods);
void t_loop_destroy(t_loop_t *t);

/* The text of the error that a configuration deserves; "" when it loads. The
 * result lives until the next call. */
const char *t_load_error(const char *conf, const kars_module_t *const *mods);

/* Runs until nothing moves any more at this instant. */
void t_run(t_loop_t *t);
/* Moves the clock, running all that becomes due. */
void t_advance_ms(t_loop_t *t, uint64_t ms);
/* Runs, with real threads at work, until *what is not 0. */
void t_run_until(t_loop_t *t, const int *what);

/* The client. A request on a connection that was closed opens another. */
t_end_t *t_client(t_loop_t *t); /* another one; becomes t->client */
t_end_t *t_client_at(t_loop_t *t, kars_listener_t *l); /* at that listener */
void t_request(t_loop_t *t, const char *raw);
void t_send(t_loop_t *t, t_end_t *e, const char *bytes, size_t n); /* runs */
void t_client_gone(t_loop_t *t); /* the last one breaks its connection */
void t_client_half(t_loop_t *t); /* it says that it sends no more */
int t_is_open(const t_end_t *e); /* by the router */

/* The answers on a client's connection: how many are complete, and of the
 * last one that has a head (0: none): status, decoded body, a header. */
int t_answers(t_loop_t *t);
int t_status(t_loop_t *t);
int t_status_at(t_loop_t *t, int i); /* from 0; 0: there is none */
const char *t_body(t_loop_t *t);
const char *t_header(t_loop_t *t, const char *name); /* NULL: not there */
const char *t_raw(t_loop_t *t);                      /* all that was sent */

/* Upstreams. i counts connections from 0. */
int t_upstreams(const t_loop_t *t);
t_end_t *t_upstream(t_loop_t *t, int i);
const char *t_upstream_got(t_loop_t *t, int i);      /* what the router sent */
const char *t_upstream_body(t_loop_t *t, int i);     /* after its last head */
void t_upstream_reply(t_loop_t *t, const char *raw); /* on the newest; runs */
void t_upstream_gone(t_loop_t *t, int i);            /* closes its side; runs */

/* How the next connections end: 0 they stand, -1 they hang, -ERRNO - 1000:
 * connect itself fails, else the errno that comes later. Borrowed. */
#define T_CONNECT_HANGS      -1
#define T_CONNECT_FAILS(err) (-(err) -1000)
void t_connects(t_loop_t *t, const int *ends, size_t n);

/* What was logged since the loop began. */
const char *t_log(t_loop_t *t);

/* Nothing of any request is left: no connection, no held body. */
int t_is_empty(const t_loop_t *t);

void t_append(t_bytes_t *b, const char *p, size_t n);

#endif
