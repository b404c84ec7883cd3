/*
 * tls_set.h - the files of certificates, keys and authorities of one
 * configuration, and who uses them. They are opened by the master, and looked
 * at again while the worker serves: when something happens in their folders
 * (inotify), and every ten seconds whatever happens, since some mounts give no
 * events. What changed is loaded for new connections; what does not load is
 * told in one line, and the old goes on.
 */
#ifndef KARS_PROC_TLS_SET_H
#define KARS_PROC_TLS_SET_H

#include "http/upstream.h"
#include "net/tls_server.h"
#include "proc/plan.h"

#define KARS__TLS_POLL_MS 10000
typedef struct kars__tls_set_s kars__tls_set_t;
typedef struct kars__tls_file_s kars__tls_file_t;

/* Somebody who uses files. Filled by the configuration. */
typedef struct kars__tls_use_s kars__tls_use_t;
struct kars__tls_use_s {
    kars__tls_use_t *next;
    kars_str_t name;           /* for log lines: "upstream model" */
    kars_upstream_t *upstream; /* one of the two */
    kars__tls_server_t *server;
    kars__tls_server_conf_t server_conf; /* without what files hold */
    kars__tls_file_t *ca;                /* NULL: none */
    struct {
        kars__tls_file_t *chain;
        kars__tls_file_t *key;
    } pairs[KARS__TLS_CERTS];
    size_t npairs;
    uint8_t tried[32]; /* the state of its files when they were loaded last */
};

/* The cycle's; made when first asked for. channel: to the master, or -1. NULL:
 * no memory. */
kars__tls_set_t *kars__tls_set(kars_cycle_t *cycle, int channel);

/* A file by its absolute path, opened; the same path gives the same file. NULL
 * and *err when it cannot be opened. */
kars__tls_file_t *kars__tls_set_file(kars__tls_set_t *set, kars_str_t path,
                                     kars_err_t *err);

/* The file of that path that was opened before, or NULL. */
kars__tls_file_t *kars__tls_set_find(const kars__tls_set_t *set,
                                     kars_str_t path);

/* Loads the files for their user, and again when they change. */
int kars__tls_set_use(kars__tls_set_t *set, kars__tls_use_t *use,
                      kars_err_t *err);

/* The files are closed: everything that the configuration names is loaded. */
void kars__tls_set_loaded(kars_cycle_t *cycle);

/* Watching, from when the cycle serves to its end. */
void kars__tls_set_start(kars_cycle_t *cycle);
void kars__tls_set_stop(kars_cycle_t *cycle);

/* The master's answer to a question of ours; the fd is taken over. */
void kars__tls_set_answer(kars_cycle_t *cycle, const kars__ask_t *answer,
                          int fd);

/* The file of this system's authorities: $SSL_CERT_FILE, OpenSSL's own, or
 * where distributions have it. NULL: there is none. Static. */
const char *kars__tls_system_ca(void);

#endif
