/*
 * harden.h - what a worker can still do once it serves: the system calls, files
 * and ports that its configuration needs, and no others.
 *
 * harden.c says what is needed, harden_seccomp.c and harden_landlock.c have the
 * kernel hold the worker to it. Both hold for the thread that asks and for
 * those it starts later; nothing takes them back.
 */
#ifndef KARS_PROC_HARDEN_H
#define KARS_PROC_HARDEN_H

#include "http/upstream.h"

/* The values of `hardening`. */
enum {
    KARS__HARDEN_OFF = 0, /* for debuggers */
    KARS__HARDEN_STRICT,  /* what the kernel has; what it lacks is said */
    KARS__HARDEN_REQUIRE  /* no start without both filters */
};

/* One thing that is needed. */
typedef struct kars__harden_item_s kars__harden_item_t;
struct kars__harden_item_s {
    kars__harden_item_t *next;
    kars_str_t path;   /* NUL-terminated */
    uint32_t number;   /* of a port or a system call */
    uint32_t is_write; /* of a path */
    uint32_t is_exact; /* this file alone, not the folder it stands in */
};

typedef struct {
    kars_pool_t *pool;
    kars__harden_item_t *paths;
    kars__harden_item_t *ports; /* TCP, to connect to */
    kars__harden_item_t *calls; /* that modules declared */
    uint32_t udp;               /* sockets of these kinds may be made */
    uint32_t unix_sockets;
    uint32_t netlink; /* NETLINK_SOCK_DIAG alone */
    uint32_t writes;  /* some path is written */
    uint32_t mesh;    /* links to the router's other workers: owned keys */
} kars__harden_plan_t;

/* What came to hold. */
typedef struct {
    uint32_t seccomp;
    uint32_t landlock; /* the version of its ABI; 0: the kernel has none */
    uint32_t tcp;      /* ports, since version 4 */
    uint32_t scope;    /* abstract UNIX sockets, signals, since version 6 */
} kars__harden_state_t;

/*
 * Starts the cycle (kars__cycle_start) and then confines the process as its
 * configuration says. Jobs for threads wait until it is done. KARS_ERROR: the
 * worker must not serve.
 */
int kars__harden_start(kars_cycle_t *cycle, kars_err_t *err);

/* Do the module's os_needs name what there is? A directive with a path, a
 * system call that the router grants, a port. Its directives are known. */
int kars__harden_check(const kars__mod_t *mod, kars_err_t *err);

/* All that the configuration needs; memory is of the cycle's pool. */
int kars__harden_plan(const kars_cycle_t *cycle, kars__harden_plan_t *ret,
                      kars_err_t *err);

/* harden_landlock.c: files and ports, with what the kernel has of versions up
 * to `newest`. Leaves *ret as it is where it has none. The process has
 * no_new_privs. */
enum { KARS__LANDLOCK_NEWEST = 6 };
int kars__harden_landlock(const kars__harden_plan_t *plan, int newest,
                          kars__harden_state_t *ret, kars_err_t *err);

/* harden_seccomp.c: system calls. Likewise. */
int kars__harden_seccomp(const kars__harden_plan_t *plan,
                         kars__harden_state_t *ret, kars_err_t *err);

/* The number of a system call here, negative when this processor has none of
 * that name but others do; KARS__CALL_UNKNOWN, KARS__CALL_NEVER: no module gets
 * it. */
enum { KARS__CALL_UNKNOWN = -100001, KARS__CALL_NEVER = -100002 };
int kars__harden_call(const char *name);

/* The name of one that is often refused, else NULL. For signal handlers. */
const char *kars__harden_call_name(int nr);

#endif
