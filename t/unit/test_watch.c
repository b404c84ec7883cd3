/*
 * test_watch.c - paths that are read again: by events and by the poll.
 */
#include "base/log.h"
#include "base/pool.h"
#include "event/watch.h"
#include "t.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    char dir[64];
    char path[512];
    kars__loop_t *loop;
    kars__offload_t *offload;
    kars__watcher_t *watcher;
    int calls;
    int error;
    char text[64]; /* of the first file */
    size_t n;
} watch_test_t;

static void
watch_seen(void *data, int error, const kars__read_t *read,
           const kars_err_t *err)
{
    watch_test_t *t = data;

    t->calls++;
    t->error = error;
    t->n = read->n;
    (void) snprintf(t->text, sizeof(t->text), "%.*s",
                    read->n > 0 ? (int) read->files[0].bytes.len : 0,
                    read->n > 0 ? read->files[0].bytes.data : "");
    CU_ASSERT_EQUAL(error != 0, err->text[0] != '\0');
}

static void
watch_put(const watch_test_t *t, const char *name, const char *text)
{
    char path[600];

    (void) snprintf(path, sizeof(path), "%s/%s", t->dir, name);

    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

    CU_ASSERT_FATAL(fd != -1);
    CU_ASSERT_EQUAL(write(fd, text, strlen(text)), (ssize_t) strlen(text));
    (void) close(fd);
}

static void
watch_rename(const watch_test_t *t, const char *from, const char *to)
{
    char a[600], b[600];

    (void) snprintf(a, sizeof(a), "%s/%s", t->dir, from);
    (void) snprintf(b, sizeof(b), "%s/%s", t->dir, to);
    CU_ASSERT_EQUAL(rename(a, b), 0);
}

/* Watches `name` of a new folder; "": the folder itself. */
static void
watch_begin(watch_test_t *t, const char *name, const char *text)
{
    kars_err_t err = KARS_ERR_INIT;
    kars__read_t read;

    memset(t, 0, sizeof(*t));
    (void) snprintf(t->dir, sizeof(t->dir), "/tmp/kars-watch-XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(t->dir));
    (void) snprintf(t->path, sizeof(t->path), "%s%s%s", t->dir,
                    name[0] != '\0' ? "/" : "", name);
    if (text != NULL) {
        watch_put(t, name, text);
    }
    t->loop = kars__loop_create(KARS__LOOP_FAKE, &err);
    t->offload = kars__offload_create(t->loop, &err);
    t->watcher = kars__watcher_create(t->loop, t->offload);
    (void) kars__read_path(t->path, NULL, &read, &err);
    CU_ASSERT_EQUAL_FATAL(
        kars__watcher_add(t->watcher, t->path, read.stamp, watch_seen, t),
        KARS_OK);
    kars__read_free(&read);
}

static void
watch_end(watch_test_t *t)
{
    char command[128];

    kars__watcher_stop(t->watcher);
    kars__offload_destroy(t->offload);
    kars__watcher_destroy(t->watcher);
    kars__loop_destroy(t->loop);
    (void) snprintf(command, sizeof(command), "rm -rf %s", t->dir);

    FILE *f = popen(command, "r");

    CU_ASSERT_EQUAL(pclose(f), 0);
}

/* Real threads and a real inotify, on a clock that moves 5 ms a turn while
 * something is still to come: until fn was called that often. */
static int
watch_until(watch_test_t *t, int calls)
{
    time_t end = time(NULL) + 20;

    while (t->calls < calls && time(NULL) < end) {
        kars__loop_turn(t->loop, 0);
        kars__loop_advance(t->loop, 5);
        (void) usleep(500);
    }
    return t->calls;
}

/* Nothing is heard for so long, by the fake clock. */
static void
watch_silent(watch_test_t *t, uint64_t ms)
{
    int calls = t->calls;

    for (uint64_t i = 0; i < ms; i += 5) {
        kars__loop_turn(t->loop, 0);
        kars__loop_advance(t->loop, 5);
        (void) usleep(200);
    }
    CU_ASSERT_EQUAL(t->calls, calls);
}

static void
watch_start(watch_test_t *t)
{
    kars__watcher_start(t->watcher);
    watch_silent(t, 300); /* nothing changed since the stamp */
}

static void
test_watch_hears_of_a_replaced_file(void)
{
    watch_test_t t;

    watch_begin(&t, "policy", "one");
    watch_start(&t);
    watch_put(&t, "new", "two");
    watch_silent(&t, 200); /* another name is nobody's business */
    watch_rename(&t, "new", "policy");
    CU_ASSERT_EQUAL(watch_until(&t, 1), 1);
    CU_ASSERT_STRING_EQUAL(t.text, "two");
    watch_silent(&t, 300);
    watch_put(&t, "policy", "three"); /* and of one written in its place */
    (void) watch_until(&t, 2);
    CU_ASSERT_STRING_EQUAL(t.text, "three");
    watch_end(&t);
}

static void
test_watch_waits_for_a_writer(void)
{
    watch_test_t t;
    char text[40] = "";

    watch_begin(&t, "policy", "whole");
    watch_start(&t);
    for (int i = 0; i < 8; i++) { /* piece after piece, 25 ms apart */
        (void) snprintf(text + i, sizeof(text) - i, "%d", i);
        watch_put(&t, "policy", text);
        watch_silent(&t, 25);
    }
    CU_ASSERT_EQUAL(watch_until(&t, 1), 1);
    CU_ASSERT_STRING_EQUAL(t.text, "01234567");
    watch_end(&t);
}

static void
test_watch_does_not_wait_for_ever(void)
{
    watch_test_t t;

    watch_begin(&t, "policy", "0");
    watch_start(&t);
    for (int i = 0; i < 80 && t.calls == 0; i++) { /* one that never rests */
        watch_put(&t, "policy", i % 2 ? "1" : "2");
        for (int k = 0; k < 4; k++) {
            kars__loop_turn(t.loop, 0);
            kars__loop_advance(t.loop, 5);
            (void) usleep(500);
        }
    }
    CU_ASSERT_NOT_EQUAL(t.calls, 0);
    watch_end(&t);
}

static void
test_watch_says_that_it_went_and_came(void)
{
    watch_test_t t;

    watch_begin(&t, "policy", "one");
    watch_start(&t);
    CU_ASSERT_EQUAL(unlink(t.path), 0);
    CU_ASSERT_EQUAL(watch_until(&t, 1), 1);
    CU_ASSERT_EQUAL(t.error, ENOENT);
    watch_put(&t, "policy", "back");
    (void) watch_until(&t, 2);
    CU_ASSERT_EQUAL(t.error, 0);
    CU_ASSERT_STRING_EQUAL(t.text, "back");
    watch_end(&t);
}

static void
test_watch_of_a_folder_and_its_swap(void)
{
    watch_test_t t;
    char a[600], b[600];

    watch_begin(&t, "", NULL);
    (void) snprintf(a, sizeof(a), "%s/..g1", t.dir);
    CU_ASSERT_EQUAL(mkdir(a, 0755), 0);
    watch_start(&t);
    watch_put(&t, "..new", "plain"); /* never seen half written */
    watch_rename(&t, "..new", "file");
    CU_ASSERT_EQUAL(watch_until(&t, 1), 1);
    CU_ASSERT_STRING_EQUAL(t.text, "plain");
    watch_silent(&t, 200);
    watch_put(&t, "..g1/file", "swapped");
    (void) snprintf(b, sizeof(b), "%s/..data_tmp", t.dir);
    CU_ASSERT_EQUAL(symlink("..g1", b), 0);
    watch_rename(&t, "..data_tmp", "..data");
    (void) watch_until(&t, 2);
    CU_ASSERT_STRING_EQUAL(t.text, "swapped");
    watch_end(&t);
}

/* Changes that no event tells of: the folder itself is replaced. */
static void
test_watch_polls_behind_events(void)
{
    watch_test_t t;
    char a[200], b[200];

    watch_begin(&t, "sub", NULL);
    (void) snprintf(a, sizeof(a), "%s/real1", t.dir);
    CU_ASSERT_EQUAL(mkdir(a, 0755), 0);
    (void) snprintf(a, sizeof(a), "%s/real2", t.dir);
    CU_ASSERT_EQUAL(mkdir(a, 0755), 0);
    watch_put(&t, "real1/policy", "one");
    watch_put(&t, "real2/policy", "two");
    (void) snprintf(a, sizeof(a), "%s/outer", t.dir);
    CU_ASSERT_EQUAL(symlink("real1", a), 0);
    (void) snprintf(b, sizeof(b), "%s/outer/policy", t.dir);
    CU_ASSERT_EQUAL(kars__watcher_add(t.watcher, b,
                                      (const unsigned char[32]){ 0 },
                                      watch_seen, &t),
                    KARS_OK);
    kars__watcher_start(t.watcher);
    CU_ASSERT_EQUAL(watch_until(&t, 1), 1);
    CU_ASSERT_STRING_EQUAL(t.text, "one");
    CU_ASSERT_EQUAL(unlink(a), 0);
    CU_ASSERT_EQUAL(symlink("real2", a), 0);
    (void) watch_until(&t, 2);
    CU_ASSERT_STRING_EQUAL(t.text, "two");
    watch_end(&t);
}

/* Without inotify: it says so, and the poll does it alone. */
static void
test_watch_polls_without_inotify(void)
{
    watch_test_t t;
    struct rlimit was, none;
    int log = memfd_create("log", 0);
    char said[512] = "";

    watch_begin(&t, "policy", "one");
    kars__log_setup(
        &(kars__log_conf_t){ .target = { .kind = KARS__LOG_FILE, .fd = log },
                             .level = KARS_LOG_DEBUG });
    CU_ASSERT_EQUAL(getrlimit(RLIMIT_NOFILE, &was), 0);
    none = was;
    none.rlim_cur = 3;
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_NOFILE, &none), 0);
    kars__watcher_start(t.watcher);
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_NOFILE, &was), 0);
    kars__log_setup(
        &(kars__log_conf_t){ .target = { .kind = KARS__LOG_STDERR, .fd = 2 },
                             .level = KARS_LOG_NOTICE });
    CU_ASSERT_TRUE(pread(log, said, sizeof(said) - 1, 0) > 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(said, "no inotify"));
    (void) close(log);

    watch_silent(&t, 500);
    watch_put(&t, "policy", "two");
    watch_silent(&t, 5000);
    (void) watch_until(&t, 1);
    CU_ASSERT_STRING_EQUAL(t.text, "two");
    watch_end(&t);
}

void
suite_watch(void)
{
    T_SUITE(watch);
    T_TEST(watch, test_watch_hears_of_a_replaced_file);
    T_TEST(watch, test_watch_waits_for_a_writer);
    T_TEST(watch, test_watch_does_not_wait_for_ever);
    T_TEST(watch, test_watch_says_that_it_went_and_came);
    T_TEST(watch, test_watch_of_a_folder_and_its_swap);
    T_TEST(watch, test_watch_polls_behind_events);
    T_TEST(watch, test_watch_polls_without_inotify);
}
