/*
 * test_harden.c - what a configuration needs, and what a kernel of any age
 * holds a process to. What cannot be taken back is tried in children.
 */
#include "loop.h"
#include "proc/crash.h"
#include "proc/harden.h"
#include "t.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char harden_top[64]; /* a folder: in/, out/ */
static char harden_path[128];

static const char *
in_top(const char *name)
{
    (void) snprintf(harden_path, sizeof(harden_path), "%s/%s", harden_top,
                    name);
    return harden_path;
}

static void
make_top(void)
{
    static const char *const files[] = { "in/file", "out/file" };

    (void) snprintf(harden_top, sizeof(harden_top), "/tmp/kars-harden-XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(harden_top));
    CU_ASSERT_EQUAL(mkdir(in_top("in"), 0700), 0);
    CU_ASSERT_EQUAL(mkdir(in_top("out"), 0700), 0);
    for (size_t i = 0; i < KARS_NELTS(files); i++) {
        (void) close(open(in_top(files[i]), O_CREAT | O_WRONLY, 0600));
    }
}

static void
remove_top(void)
{
    (void) unlink(in_top("in/file"));
    (void) unlink(in_top("in/made"));
    (void) unlink(in_top("out/file"));
    (void) rmdir(in_top("in"));
    (void) rmdir(in_top("out"));
    (void) rmdir(harden_top);
}

static int
try_open(const char *name, int flags)
{
    int fd = open(in_top(name), flags | O_CLOEXEC, 0600);

    if (fd == -1) {
        return errno;
    }
    (void) close(fd);
    return 0;
}

static int
try_connect(void)
{
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_port = htons(1),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int rc = connect(fd, (struct sockaddr *) &to, sizeof(to)) == -1 ? errno : 0;

    (void) close(fd);
    return rc;
}

/* A child under Landlock of that version. Its exit code is the first claim that
 * does not hold; 100: the kernel has no Landlock. */
static int
landlock_child(int version)
{
    kars_err_t err = KARS_ERR_INIT;
    kars_pool_t *pool = kars__pool_create(0);
    kars__harden_item_t in = { .path = { in_top("in"), 0 }, .is_write = 1 };
    kars__harden_plan_t plan = { .pool = pool, .paths = &in };
    kars__harden_state_t state = { 0 };
    char name[sizeof(harden_path)];

    memcpy(name, harden_path, sizeof(name));
    in.path = t_str(name);
    (void) prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (kars__harden_landlock(&plan, version, &state, &err) != KARS_OK) {
        return 1;
    }
    kars__pool_destroy(pool);
    if (state.landlock == 0) {
        return 100;
    }

    struct {
        int got;
        int want;
    } claims[] = {
        { (int) state.landlock <= version, 1 },
        { (int) state.tcp, state.landlock >= 4 },
        { (int) state.scope, state.landlock >= 6 },
        { try_open("in/file", O_RDWR), 0 },
        { try_open("in/made", O_RDWR | O_CREAT), 0 },
        { try_open("out/file", O_RDONLY), EACCES },
        { try_open("out/file", O_WRONLY | O_TRUNC), EACCES },
        { try_open("in/../out/file", O_RDONLY), EACCES },
        { try_open("", O_RDONLY | O_DIRECTORY), EACCES },
        { try_connect(), state.landlock >= 4 ? EACCES : ECONNREFUSED },
    };

    for (size_t i = 0; i < KARS_NELTS(claims); i++) {
        if (claims[i].got != claims[i].want) {
            return (int) i + 2;
        }
    }
    return 0;
}

static int
in_child(int (*fn)(int), int arg)
{
    pid_t pid = fork();
    int status = -1;

    if (pid == 0) {
        _exit(fn(arg));
    }
    (void) waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

/* Debian 12's kernel has version 2. One without says so, and holds nothing. */
static void
test_harden_landlock_of_every_version(void)
{
    make_top();
    for (int version = 1; version <= KARS__LANDLOCK_NEWEST; version++) {
        int rc = in_child(landlock_child, version);

        CU_ASSERT(rc == 0 || rc == 100);
        if (rc != 0 && rc != 100) {
            (void) fprintf(stderr, "landlock %d: claim %d\n", version, rc - 2);
        }
    }
    remove_top();
}

/* The whole file system is nobody's folder. */
static int
landlock_root(int arg)
{
    kars_err_t err = KARS_ERR_INIT;
    kars__harden_item_t root = { .path = KARS_STR("/kars-nothing") };
    kars__harden_plan_t plan = { .paths = &root };
    kars__harden_state_t state = { 0 };

    (void) prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (kars__harden_landlock(&plan, 1, &state, &err) == KARS_OK) {
        return state.landlock == 0 ? 0 : 1;
    }
    return strstr(err.text, "the whole file system") != NULL ? 0 : 2;
}

static void
test_harden_opens_no_root(void)
{
    CU_ASSERT_EQUAL(in_child(landlock_root, 0), 0);
}

/* A filter of its own for each plan: bit 0 UDP, 1 UNIX, 2 files are written. */
static int
seccomp_child(int bits)
{
    kars_err_t err = KARS_ERR_INIT;
    kars__harden_plan_t plan = { .udp = bits & 1,
                                 .unix_sockets = bits >> 1 & 1,
                                 .writes = bits >> 2 & 1 };
    kars__harden_state_t state = { 0 };
    kars__log_conf_t quiet = { .target = { .kind = KARS__LOG_OFF } };
    char *const argv[] = { "true", NULL };

    kars__log_setup(&quiet); /* refusals are said */
    if (kars__crash_start(&err) != KARS_OK ||
        kars__harden_seccomp(&plan, &state, &err) != KARS_OK ||
        !state.seccomp) {
        return 1;
    }
    if (execve("/bin/true", argv, argv) != -1 || errno != EPERM) {
        return 2;
    }
    if (fork() != -1 || errno != EPERM) {
        return 3;
    }
    if (mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
             0) != MAP_FAILED ||
        errno != EPERM) {
        return 4;
    }
    if ((socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) == -1) == (bits & 1)) {
        return 5;
    }
    if ((socket(AF_UNIX, SOCK_STREAM, 0) == -1) == (bits >> 1 & 1)) {
        return 6;
    }
    if ((fsync(-1) == -1 && errno == EPERM) == (bits >> 2 & 1)) {
        return 7;
    }
    return kill(getppid(), 0) == -1 && kill(getpid(), 0) == 0 ? 0 : 8;
}

static void
test_harden_filter_of_calls(void)
{
    for (int bits = 0; bits < 8; bits++) {
        CU_ASSERT_EQUAL(in_child(seccomp_child, bits), 0);
    }
}

static void
test_harden_names_of_calls(void)
{
    CU_ASSERT(kars__harden_call("fdatasync") >= 0);
    CU_ASSERT_EQUAL(kars__harden_call("frobnicate"), KARS__CALL_UNKNOWN);
    CU_ASSERT_EQUAL(kars__harden_call(""), KARS__CALL_UNKNOWN);
    CU_ASSERT_EQUAL(kars__harden_call("execve"), KARS__CALL_NEVER);
    CU_ASSERT_EQUAL(kars__harden_call("ptrace"), KARS__CALL_NEVER);
    CU_ASSERT_STRING_EQUAL(kars__harden_call_name(kars__harden_call("socket")),
                           "socket");
    CU_ASSERT_PTR_NULL(kars__harden_call_name(1 << 20));
}

/* A plan from a configuration: each thing once, from every level. */

typedef struct {
    kars_str_t folder;
    kars_hostport_t peer;
} needy_conf_t;

/* clang-format off */
static const kars_directive_t needy_directives[] = {
    { .name = "needy_folder", .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_PATH, .offset = offsetof(needy_conf_t, folder),
      .doc = "a folder" },
    { .name = "needy_peer", .at = KARS_AT_ROUTE, .type = KARS_T_HOSTPORT,
      .offset = offsetof(needy_conf_t, peer), .doc = "a peer" },
    { 0 },
};
static const kars_os_need_t needy_needs[] = {
    { KARS_OS_WRITE, "needy_folder", "writes" },
    { KARS_OS_CONNECT, "needy_peer", "calls" },
    { KARS_OS_CONNECT, "4317", "tells" },
    { KARS_OS_SYSCALL, "memfd_create", "shares" },
    { KARS_OS_SYSCALL, "memfd_create", "shares more" },
    { 0 },
};
/* clang-format on */

static const kars_module_t needy = {
    T_MODULE_HEAD,
    .name = "needy",
    .conf_size = sizeof(needy_conf_t),
    .directives = needy_directives,
    .os_needs = needy_needs,
};

static size_t
count(const kars__harden_item_t *i, const char *path, uint32_t number)
{
    size_t n = 0;

    for (; i != NULL; i = i->next) {
        n += path != NULL ? kars_str_eq(i->path, t_str(path))
                          : number == 0 || i->number == number;
    }
    return n;
}

static void
test_harden_plan_of_a_configuration(void)
{
    t_loop_t *t = t_loop(
        "needy_folder /a;\n"
        "upstream u { server 127.0.0.1:8001; server [::1]:8001; }\n"
        "upstream v { server unix:/run/v.sock; }\n"
        "server { listen 127.0.0.1:1; needy_folder /b;\n"
        "  route GET /x { respond 200 x; needy_folder /c; }\n"
        "  route GET /y { respond 200 y; needy_peer 127.0.0.1:8002; } }\n",
        &needy);
    kars__harden_plan_t plan;
    kars_err_t err = KARS_ERR_INIT;

    CU_ASSERT_EQUAL(kars__harden_plan(t->cycle, &plan, &err), KARS_OK);
    CU_ASSERT_EQUAL(count(plan.paths, "/a", 0), 1);
    CU_ASSERT_EQUAL(count(plan.paths, "/b", 0), 1);
    CU_ASSERT_EQUAL(count(plan.paths, "/c", 0), 1);
    CU_ASSERT_EQUAL(count(plan.ports, NULL, 0), 3);
    CU_ASSERT_EQUAL(count(plan.ports, NULL, 8001), 1);
    CU_ASSERT_EQUAL(count(plan.ports, NULL, 8002), 1);
    CU_ASSERT_EQUAL(count(plan.ports, NULL, 4317), 1);
    CU_ASSERT_EQUAL(count(plan.calls, NULL, 0), 1);
    CU_ASSERT(plan.writes && plan.unix_sockets && !plan.udp && !plan.netlink);
    t_loop_destroy(t);
}

static void
test_harden_plan_resolves_names_where_there_are_any(void)
{
    t_loop_t *t =
        t_loop("upstream u { server model.example:443; }\n"
               "server { listen 127.0.0.1:1; route GET / { pass u; } }\n",
               &needy);
    kars__harden_plan_t plan;
    kars_err_t err = KARS_ERR_INIT;

    CU_ASSERT_EQUAL(kars__harden_plan(t->cycle, &plan, &err), KARS_OK);
    CU_ASSERT_EQUAL(count(plan.ports, NULL, 53), 1);
    CU_ASSERT_EQUAL(count(plan.ports, NULL, 443), 1);
    CU_ASSERT_EQUAL(count(plan.paths, "/etc/hosts", 0), 1);
    CU_ASSERT(plan.udp && !plan.unix_sockets && !plan.writes);
    t_loop_destroy(t);
}

void
suite_harden(void)
{
    T_SUITE(harden);
    T_TEST(harden, test_harden_landlock_of_every_version);
    T_TEST(harden, test_harden_opens_no_root);
    T_TEST(harden, test_harden_filter_of_calls);
    T_TEST(harden, test_harden_names_of_calls);
    T_TEST(harden, test_harden_plan_of_a_configuration);
    T_TEST(harden, test_harden_plan_resolves_names_where_there_are_any);
}
