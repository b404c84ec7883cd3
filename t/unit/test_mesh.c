/*
 * test_mesh.c - links between workers: several of them in this process, on one
 * loop and real sockets.
 */
#include "base/log.h"
#include "net/mesh.h"
#include "t.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    kars__mesh_t *mesh;
    uint64_t worker;
    int messages;
    int gone;
    size_t last_len;
    char last[64];
    kars__link_t *from;
} mesh_end_t;

typedef struct {
    int fd;
    kars_zone_t *zone;
    kars__loop_t *loop;
    mesh_end_t a, b;
} mesh_test_t;

static void
mesh_message(kars__link_t *l, kars_str_t bytes, void *data)
{
    mesh_end_t *e = data;

    e->messages++;
    e->from = l;
    e->last_len = bytes.len;
    (void) snprintf(e->last, sizeof(e->last), "%.*s",
                    bytes.len < 60 ? (int) bytes.len : 60, bytes.data);
}

static void
mesh_gone(kars__link_t *l, void *data)
{
    ((mesh_end_t *) data)->gone++;
}

static const kars__mesh_handler_t mesh_handler = { mesh_message, mesh_gone };

static void
mesh_worker(mesh_test_t *t, mesh_end_t *e)
{
    kars_err_t err = KARS_ERR_INIT;

    memset(e, 0, sizeof(*e));
    e->worker = kars__zone_worker_new(t->zone);
    e->mesh =
        kars__mesh_create(t->loop, t->zone, e->worker, &mesh_handler, e, &err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(e->mesh);
    CU_ASSERT_EQUAL_FATAL(kars__mesh_listen(e->mesh, &err), KARS_OK);
    CU_ASSERT_EQUAL(kars__mesh_listen(e->mesh, &err), KARS_OK);
}

static void
mesh_begin(mesh_test_t *t)
{
    kars_err_t err = KARS_ERR_INIT;

    memset(t, 0, sizeof(*t));
    t->fd = kars__zone_make(KARS__ZONE_MIN, &err);
    t->zone = kars__zone_map(t->fd, &err);
    t->loop = kars__loop_create(KARS__LOOP_FAKE, &err);
    CU_ASSERT_FATAL(t->zone != NULL && t->loop != NULL);
    mesh_worker(t, &t->a);
    mesh_worker(t, &t->b);
}

static void
mesh_end(mesh_test_t *t)
{
    kars__mesh_destroy(t->a.mesh);
    kars__mesh_destroy(t->b.mesh);
    kars__loop_destroy(t->loop);
    kars__zone_unmap(t->zone);
    (void) close(t->fd);
}

/* Until it is so. */
static void
mesh_until(mesh_test_t *t, const int *what, int n)
{
    time_t end = time(NULL) + 20;

    while (*what < n && time(NULL) < end) {
        kars__loop_turn(t->loop, 0);
    }
    CU_ASSERT_EQUAL(*what, n);
}

static int
mesh_say(kars__link_t *l, const char *head, const char *body)
{
    return l == NULL ? -2 : kars__link_send(l, t_str(head), t_str(body));
}

static void
test_mesh_carries_messages_both_ways(void)
{
    mesh_test_t t;

    mesh_begin(&t);

    kars__link_t *l = kars__mesh_link(t.a.mesh, t.b.worker);

    CU_ASSERT_EQUAL(mesh_say(l, "one ", "message"), KARS_OK);
    CU_ASSERT_EQUAL(mesh_say(l, "two", ""), KARS_OK);
    CU_ASSERT_PTR_EQUAL(kars__mesh_link(t.a.mesh, t.b.worker), l);
    mesh_until(&t, &t.b.messages, 2);
    CU_ASSERT_STRING_EQUAL(t.b.last, "two");
    CU_ASSERT_EQUAL(mesh_say(t.b.from, "an answer", ""), KARS_OK);
    mesh_until(&t, &t.a.messages, 1);
    CU_ASSERT_STRING_EQUAL(t.a.last, "an answer");
    CU_ASSERT_PTR_EQUAL(t.a.from, l);
    mesh_end(&t);
}

static void
test_mesh_tells_that_a_worker_ended(void)
{
    mesh_test_t t;

    mesh_begin(&t);
    CU_ASSERT_EQUAL(mesh_say(kars__mesh_link(t.a.mesh, t.b.worker), "x", ""),
                    KARS_OK);
    mesh_until(&t, &t.b.messages, 1);
    kars__mesh_destroy(t.b.mesh);
    t.b.mesh = NULL;
    mesh_until(&t, &t.a.gone, 1);
    CU_ASSERT_PTR_NULL(kars__mesh_link(t.a.mesh, t.b.worker));
    CU_ASSERT_PTR_NULL(kars__mesh_link(t.a.mesh, 12345)); /* never was */
    CU_ASSERT_PTR_NULL(kars__mesh_link(t.a.mesh, 0));
    kars__zone_worker_gone(t.zone, t.b.worker);
    mesh_worker(&t, &t.b); /* another one in its row */
    CU_ASSERT_EQUAL(mesh_say(kars__mesh_link(t.a.mesh, t.b.worker), "y", ""),
                    KARS_OK);
    mesh_until(&t, &t.b.messages, 1);
    mesh_end(&t);
}

static void
test_mesh_queues_are_bounded(void)
{
    static char big[KARS__MESH_MESSAGE + 1];
    mesh_test_t t;
    int sent = 0;

    mesh_begin(&t);
    memset(big, 'b', sizeof(big));

    kars__link_t *l = kars__mesh_link(t.a.mesh, t.b.worker);

    CU_ASSERT_EQUAL(
        kars__link_send(l, (kars_str_t){ big, sizeof(big) }, KARS_STR("")),
        KARS_ERROR);
    while (sent < 1000 &&
           kars__link_send(l, KARS_STR("h"),
                           (kars_str_t){ big, sizeof(big) - 2 }) == KARS_OK) {
        sent++;
    }
    CU_ASSERT_TRUE(sent >= 30 && sent < 60); /* 4 MiB, and the socket's own */
    mesh_until(&t, &t.b.messages, sent);     /* none is lost, none cut */
    CU_ASSERT_EQUAL(t.b.last_len, KARS__MESH_MESSAGE);
    CU_ASSERT_EQUAL(mesh_say(l, "again", ""), KARS_OK);
    mesh_until(&t, &t.b.messages, sent + 1);
    CU_ASSERT_EQUAL(t.a.gone + t.b.gone, 0);
    mesh_end(&t);
}

/* The abstract names that this process listens on. */
static int
mesh_names(char names[8][108])
{
    FILE *f = fopen("/proc/net/unix", "re");
    char line[400];
    int n = 0;

    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    while (fgets(line, sizeof(line), f) != NULL && n < 8) {
        char *at = strstr(line, "@kars-");

        if (at != NULL) {
            (void) snprintf(names[n++], 108, "%.29s", at + 1);
        }
    }
    (void) fclose(f);
    return n;
}

static int
mesh_connect_to(const char *name)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    memcpy(addr.sun_path + 1, name, strlen(name));
    if (connect(fd, (struct sockaddr *) &addr,
                offsetof(struct sockaddr_un, sun_path) + 1 + 32) == -1) {
        (void) close(fd);
        return -1;
    }
    return fd;
}

/* Says something and waits for the end: 0 when it was hung up on. */
static int
mesh_stranger(uid_t uid, char names[8][108], int n, const char *bytes,
              size_t len)
{
    char c;
    int cut = 0;

    if (uid != 0 && setuid(uid) == -1) {
        return 9;
    }
    for (int i = 0; i < n; i++) {
        int fd = mesh_connect_to(names[i]);

        if (fd == -1) {
            continue;
        }
        (void) send(fd, bytes, len, MSG_NOSIGNAL);
        cut += recv(fd, &c, 1, 0) <= 0;
        (void) close(fd);
    }
    return cut >= 2 ? 0 : 1; /* ours, and whose else's is as it likes */
}

static void
mesh_strangers(mesh_test_t *t, uid_t uid, const char *bytes, size_t len)
{
    char names[8][108];
    int n = mesh_names(names), status = 0;
    time_t end = time(NULL) + 20;
    pid_t pid, got = 0;

    CU_ASSERT_TRUE(n >= 2);
    pid = fork();
    if (pid == 0) {
        _exit(mesh_stranger(uid, names, n, bytes, len));
    }
    while ((got = waitpid(pid, &status, WNOHANG)) == 0 && time(NULL) < end) {
        kars__loop_turn(t->loop, 0);
    }
    CU_ASSERT_EQUAL(got, pid);
    CU_ASSERT_EQUAL(status, 0);
    for (int i = 0; i < 20; i++) {
        kars__loop_turn(t->loop, 0);
    }
    CU_ASSERT_EQUAL(t->a.messages + t->b.messages, 0);
}

static void
test_mesh_hangs_up_on_strangers(void)
{
    mesh_test_t t;
    char hello[48] = "";
    int log = memfd_create("log", 0);
    char said[2000] = "";

    mesh_begin(&t);
    kars__log_setup(
        &(kars__log_conf_t){ .target = { .kind = KARS__LOG_FILE, .fd = log },
                             .level = KARS_LOG_DEBUG });
    mesh_strangers(&t, 0, "what is this", 12);
    mesh_strangers(&t, 0, hello, sizeof(hello)); /* of the right length */
    if (geteuid() == 0) {
        mesh_strangers(&t, 54321, "x", 1);
    }
    kars__log_setup(
        &(kars__log_conf_t){ .target = { .kind = KARS__LOG_STDERR, .fd = 2 },
                             .level = KARS_LOG_NOTICE });
    CU_ASSERT_TRUE(pread(log, said, sizeof(said) - 1, 0) > 0);

    const char *first = strstr(said, "mesh: hung up on one that is no worker");

    CU_ASSERT_PTR_NOT_NULL_FATAL(first);
    first = strstr(first + 1, "mesh:"); /* one line for each worker */
    CU_ASSERT_PTR_NOT_NULL_FATAL(first);
    CU_ASSERT_PTR_NULL(strstr(first + 1, "mesh:"));
    (void) close(log);

    CU_ASSERT_EQUAL(mesh_say(kars__mesh_link(t.a.mesh, t.b.worker), "x", ""),
                    KARS_OK); /* and it still works */
    mesh_until(&t, &t.b.messages, 1);
    mesh_end(&t);
}

void
suite_mesh(void)
{
    T_SUITE(mesh);
    T_TEST(mesh, test_mesh_carries_messages_both_ways);
    T_TEST(mesh, test_mesh_tells_that_a_worker_ended);
    T_TEST(mesh, test_mesh_queues_are_bounded);
    T_TEST(mesh, test_mesh_hangs_up_on_strangers);
}
