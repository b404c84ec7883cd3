/*
 * harden_landlock.c - the files and TCP ports of a worker that serves.
 *
 * By raw system calls, and with the numbers of the newest version that we know:
 * the headers of a build may be older than the kernel that runs it. Source of
 * the numbers: include/uapi/linux/landlock.h of Linux 6.12.
 */
#include "base/log.h"
#include "proc/harden.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LANDLOCK_VERSION = 1, LANDLOCK_PATH = 1, LANDLOCK_PORT = 2 };

#define FS_WRITE_FILE  (1ull << 1)
#define FS_READ_FILE   (1ull << 2)
#define FS_READ_DIR    (1ull << 3)
#define FS_REMOVE_DIR  (1ull << 4)
#define FS_REMOVE_FILE (1ull << 5)
#define FS_MAKE_DIR    (1ull << 7)
#define FS_MAKE_REG    (1ull << 8)
#define FS_ALL_1       ((1ull << 13) - 1)
#define FS_REFER       (1ull << 13) /* version 2: to another folder */
#define FS_TRUNCATE    (1ull << 14) /* version 3 */
#define FS_IOCTL_DEV   (1ull << 15) /* version 5 */
#define NET_BIND       (1ull << 0)  /* version 4, TCP */
#define NET_CONNECT    (1ull << 1)
#define SCOPE_ABSTRACT 1ull
#define SCOPE_ALL      3ull /* version 6: abstract UNIX sockets, signals */

#define FS_READ (FS_READ_FILE | FS_READ_DIR)
#define FS_WRITE                                                              \
    (FS_READ | FS_WRITE_FILE | FS_REMOVE_DIR | FS_REMOVE_FILE | FS_MAKE_DIR | \
     FS_MAKE_REG | FS_TRUNCATE)
#define FS_OF_FILE (FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE)

typedef struct {
    uint64_t fs;
    uint64_t net;
    uint64_t scope;
} landlock_ruleset_t;

typedef struct {
    uint64_t allowed;
    int32_t fd;
} __attribute__((packed)) landlock_path_t;

typedef struct {
    uint64_t allowed;
    uint64_t port;
} landlock_port_t;

static int
landlock_create(const landlock_ruleset_t *set, size_t size, uint32_t flags)
{
    return (int) syscall(SYS_landlock_create_ruleset, set, size, flags);
}

static int
landlock_add(int ruleset, int type, const void *rule)
{
    return (int) syscall(SYS_landlock_add_rule, ruleset, type, rule, 0);
}

static landlock_ruleset_t
landlock_handled(int version)
{
    landlock_ruleset_t set = { .fs = FS_ALL_1 };

    set.fs |= version >= 2 ? FS_REFER : 0;
    set.fs |= version >= 3 ? FS_TRUNCATE : 0;
    set.fs |= version >= 5 ? FS_IOCTL_DEV : 0;
    set.net = version >= 4 ? NET_BIND | NET_CONNECT : 0;
    set.scope = version >= 6 ? SCOPE_ALL : 0;
    return set;
}

static int
landlock_rule(int ruleset, const char *path, uint64_t rights, kars_err_t *err)
{
    struct stat st;
    landlock_path_t rule = {
        .allowed = rights,
        .fd = open(path, O_PATH | O_CLOEXEC),
    };

    if (rule.fd == -1) {
        kars__log(KARS_LOG_WARN,
                  "worker: stays closed until a reload path=%s error=\"%s\"",
                  path, strerror(errno));
        return KARS_OK;
    }

    int rc = fstat(rule.fd, &st);

    if (rc == 0 && !S_ISDIR(st.st_mode)) {
        rule.allowed &= FS_OF_FILE;
    }
    if (rc == 0) {
        rc = landlock_add(ruleset, LANDLOCK_PATH, &rule);
    }

    int e = errno;

    (void) close(rule.fd);
    return rc == 0 ? KARS_OK
                   : kars__err(err, e, "open \"%s\" to Landlock", path);
}

/* The folder that a file stands in: the file may be replaced by another. */
static int
landlock_folder(int ruleset, const char *path, uint64_t rights, kars_err_t *err)
{
    char folder[PATH_MAX];
    size_t n = strlen(path);
    struct stat st;

    if (n >= sizeof(folder)) {
        return kars__err(err, ENAMETOOLONG, "\"%s\"", path);
    }
    memcpy(folder, path, n + 1);
    if (stat(folder, &st) == -1 || !S_ISDIR(st.st_mode)) {
        char *slash = strrchr(folder, '/');

        if (slash == NULL) {
            return kars__err(err, 0, "\"%s\" is no absolute path", path);
        }
        slash[slash == folder] = '\0';
    }
    if (strcmp(folder, "/") == 0) {
        return kars__err(err, 0,
                         "\"%s\" would open the whole file system to the "
                         "workers: give it a folder of its own",
                         path);
    }
    return landlock_rule(ruleset, folder, rights, err);
}

/* As it is named, and where that leads: the operator wrote the link. */
static int
landlock_path(int ruleset, const kars__harden_item_t *item, uint64_t handled,
              kars_err_t *err)
{
    const char *path = item->path.data;
    uint64_t rights = (item->is_write ? FS_WRITE : FS_READ) & handled;
    char real[PATH_MAX];

    if (item->is_exact) {
        return access(path, F_OK) == 0
                   ? landlock_rule(ruleset, path, rights, err)
                   : KARS_OK;
    }
    if (landlock_folder(ruleset, path, rights, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (realpath(path, real) != NULL && strcmp(real, path) != 0) {
        return landlock_folder(ruleset, real, rights, err);
    }
    return KARS_OK;
}

static int
landlock_rules(int ruleset, const kars__harden_plan_t *plan,
               const landlock_ruleset_t *set, kars_err_t *err)
{
    for (const kars__harden_item_t *i = plan->paths; i != NULL; i = i->next) {
        if (landlock_path(ruleset, i, set->fs, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    for (const kars__harden_item_t *i = plan->ports; i != NULL && set->net != 0;
         i = i->next) {
        landlock_port_t rule = { NET_CONNECT, i->number };

        if (landlock_add(ruleset, LANDLOCK_PORT, &rule) == -1) {
            return kars__err(err, errno, "open port %u to Landlock", i->number);
        }
    }
    if (syscall(SYS_landlock_restrict_self, ruleset, 0) == -1) {
        return kars__err(err, errno, "Landlock");
    }
    return KARS_OK;
}

int
kars__harden_landlock(const kars__harden_plan_t *plan, int newest,
                      kars__harden_state_t *ret, kars_err_t *err)
{
    int version = landlock_create(NULL, 0, LANDLOCK_VERSION);

    if (version < 1) {
        return KARS_OK; /* not built in, or switched off */
    }
    version = version < newest ? version : newest;

    landlock_ruleset_t set = landlock_handled(version);

    if (plan->mesh) { /* workers meet at abstract names (net/mesh.h) */
        set.scope &= ~SCOPE_ABSTRACT;
    }

    size_t size = version >= 6   ? sizeof(set)
                  : version >= 4 ? offsetof(landlock_ruleset_t, scope)
                                 : offsetof(landlock_ruleset_t, net);
    int ruleset = landlock_create(&set, size, 0);

    if (ruleset == -1) {
        return kars__err(err, errno, "Landlock");
    }

    int rc = landlock_rules(ruleset, plan, &set, err);

    (void) close(ruleset);
    if (rc == KARS_OK) {
        ret->landlock = (uint32_t) version;
        ret->tcp = set.net != 0;
        ret->scope = set.scope != 0;
    }
    return rc;
}
