/*
 * load.h - the state of a load, for the files that make up one.
 */
#ifndef KARS_PROC_LOAD_H
#define KARS_PROC_LOAD_H

#include "http/upstream.h"
#include "proc/plan.h"

/* Core's main directives. */
typedef struct {
    kars_str_t user;
    int32_t hardening; /* KARS__HARDEN_* */
    kars_str_t workers;
    kars_list_t modules;
    kars_str_t module_path;
    kars_str_t sandbox;
    kars_log_t *log;
    int32_t log_level;
    int32_t log_format;
    kars_str_t pid;
    kars_str_t zone;
    uint64_t zone_size;
    uint64_t drain_timeout_ms;
    uint64_t drain_delay_ms;
    uint64_t body_memory;
    uint64_t body_wait_ms;
} kars__main_conf_t;

typedef struct kars__secret_ref_s kars__secret_ref_t;
struct kars__secret_ref_s {
    kars__secret_ref_t *next;
    kars_str_t ref; /* "file:/absolute/path" */
    int fd;
    char error[240];
};

/* The values of one level, main, server or route: core's and each module's. */
typedef struct {
    uint32_t at;
    kars__core_conf_t *core;
    kars__prov_t *core_prov;
    void **conf;
    kars__prov_t **prov;
} kars__level_t;

typedef struct {
    uint32_t mode;
    int channel;
    kars_cycle_t *cycle;
    kars__conf_node_t *root;
    kars__main_conf_t main;
    uint64_t nworkers;
    kars__dtable_t main_table;
    kars__dtable_t core_table;
    kars__dresolve_t resolve;
    kars__secret_ref_t *secrets;
    int logs_asked; /* all logs that the text names are known */
    kars__level_t top;
} kars__load_t;

/* load.c */
/* All of a load but what only the process needs; mode and channel are set. On
 * failure nothing is left. */
int kars__load_run(kars__load_t *l, const char *path, kars_err_t *err);
extern const kars_directive_t kars__main_directives[];
extern const kars_directive_t kars__core_directives[];
int kars__load_unknown(kars__load_t *l, const kars__conf_node_t *node,
                       kars_err_t *err);
int kars__load_directive(kars__load_t *l, const kars__conf_node_t *node,
                         kars__level_t *level, kars_err_t *err);
int kars__load_level(kars__load_t *l, const kars__level_t *outer, uint32_t at,
                     kars__level_t *ret, kars_err_t *err);

/* load_tree.c: servers, listeners, upstreams, routes. */
int kars__load_ask_listeners(kars__load_t *l, kars_err_t *err);
int kars__load_tree(kars__load_t *l, kars_err_t *err);

/* load_tls.c: certificates, keys and authorities. First all files are asked
 * for, while the master still opens what is named. */
int kars__load_ask_tls(kars__load_t *l, kars_err_t *err);
int kars__load_tls_upstream(kars__load_t *l, const kars__conf_node_t *node,
                            kars_upstream_t *u, kars_err_t *err);
int kars__load_tls_server(kars__load_t *l, const kars__conf_node_t *node,
                          kars__server_t *server, kars_err_t *err);

/* load_route.c: what a route runs. */
int kars__load_route(kars__load_t *l, kars__level_t *level,
                     kars__route_t *route, kars_err_t *err);
int kars__load_pseudo_route(kars__load_t *l, kars__level_t *level,
                            kars__server_t *server, kars_err_t *err);

#endif
