/*
 * test_watch_read.c - reading a watched path: files, folders, what Kubernetes
 * makes of them, and what must be refused.
 */
#include "event/watch_read.h"
#include "t.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char read_dir[64];

static const char *
read_at(const char *name)
{
    static char path[2][512];
    static int turn;

    turn = !turn;
    (void) snprintf(path[turn], sizeof(path[turn]), "%s/%s", read_dir, name);
    return path[turn];
}

static void
read_put(const char *name, const char *text)
{
    int fd = open(read_at(name), O_WRONLY | O_CREAT | O_TRUNC, 0644);

    CU_ASSERT_FATAL(fd != -1);
    CU_ASSERT_EQUAL(write(fd, text, strlen(text)), (ssize_t) strlen(text));
    (void) close(fd);
}

static void
read_begin(void)
{
    (void) snprintf(read_dir, sizeof(read_dir), "/tmp/kars-read-XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(read_dir));
}

static void
read_end(void)
{
    char command[128];
    (void) snprintf(command, sizeof(command), "rm -rf %s", read_dir);
    FILE *f = popen(command, "r");

    CU_ASSERT_EQUAL(pclose(f), 0);
}

static int
read_is(const kars__read_t *r, size_t i, const char *name, const char *bytes)
{
    return i < r->n && kars_str_eq(r->files[i].name, t_str(name)) &&
           kars_str_eq(r->files[i].bytes, t_str(bytes));
}

static int
read_path(const char *path, kars__read_t *r, kars_err_t *err)
{
    *err = (kars_err_t) KARS_ERR_INIT;
    return kars__read_path(path, NULL, r, err);
}

static void
test_watch_read_of_a_file(void)
{
    kars__read_t r;
    kars_err_t err;
    unsigned char stamp[KARS__WATCH_DIGEST];
    char hex[65] = "";

    read_begin();
    read_put("policy.json", "{}");
    CU_ASSERT_EQUAL(read_path(read_at("policy.json"), &r, &err), 0);
    CU_ASSERT_FALSE(r.is_folder);
    CU_ASSERT_EQUAL(r.n, 1);
    CU_ASSERT_TRUE(read_is(&r, 0, "policy.json", "{}"));
    /* (printf '\0\0\0\0\0\0\0\013policy.json'; printf '\0\0\0\0\0\0\0\2{}') |
     * sha256sum */
    for (size_t i = 0; i < sizeof(r.digest); i++) {
        (void) snprintf(hex + 2 * i, 3, "%02x", r.digest[i]);
    }
    CU_ASSERT_STRING_EQUAL(
        hex,
        "6738648faa3d9f345458fbf60612df3facddc205cea43795fb2434c48b7da720");
    memcpy(stamp, r.stamp, sizeof(stamp));
    kars__read_free(&r);

    CU_ASSERT_EQUAL(kars__read_path(read_at("policy.json"), stamp, &r, &err),
                    -1);
    CU_ASSERT_EQUAL(r.n, 0);
    read_put("new", "{}"); /* the same bytes in another file are news */
    CU_ASSERT_EQUAL(rename(read_at("new"), read_at("policy.json")), 0);
    CU_ASSERT_EQUAL(kars__read_path(read_at("policy.json"), stamp, &r, &err),
                    0);
    kars__read_free(&r);
    read_end();
}

static void
test_watch_read_of_a_folder(void)
{
    kars__read_t r;
    kars_err_t err;

    read_begin();
    CU_ASSERT_EQUAL(read_path(read_dir, &r, &err), 0); /* empty: no files */
    CU_ASSERT_TRUE(r.is_folder && r.n == 0);
    kars__read_free(&r);
    read_put("b", "two");
    read_put("ab", "");
    read_put("a", "one");
    read_put(".hidden", "x");
    read_put("b~", "x");
    CU_ASSERT_EQUAL(mkdir(read_at("sub"), 0755), 0);
    CU_ASSERT_EQUAL(mkfifo(read_at("fifo"), 0644), 0);
    CU_ASSERT_EQUAL(read_path(read_dir, &r, &err), 0);
    CU_ASSERT_EQUAL(r.n, 3);
    CU_ASSERT_TRUE(read_is(&r, 0, "a", "one"));
    CU_ASSERT_TRUE(read_is(&r, 1, "ab", ""));
    CU_ASSERT_TRUE(read_is(&r, 2, "b", "two"));
    kars__read_free(&r);
    read_end();
}

/* One generation as kubelet makes it: a folder of its own, then the swap. */
static void
read_swap(int generation)
{
    char name[40], text[40];

    (void) snprintf(name, sizeof(name), "..g%d", generation);
    CU_ASSERT_EQUAL(mkdir(read_at(name), 0755), 0);
    (void) snprintf(text, sizeof(text), "%d", generation);
    for (int i = 0; i < 4; i++) {
        (void) snprintf(name, sizeof(name), "..g%d/file%d", generation, i);
        read_put(name, text);
    }
    (void) snprintf(name, sizeof(name), "..g%d", generation);
    CU_ASSERT_EQUAL(symlink(name, read_at("..data_tmp")), 0);
    CU_ASSERT_EQUAL(rename(read_at("..data_tmp"), read_at("..data")), 0);
    if (generation > 0) {
        for (int i = 0; i < 4; i++) {
            (void) snprintf(name, sizeof(name), "..g%d/file%d", generation - 1,
                            i);
            CU_ASSERT_EQUAL(unlink(read_at(name)), 0);
        }
        (void) snprintf(name, sizeof(name), "..g%d", generation - 1);
        CU_ASSERT_EQUAL(rmdir(read_at(name)), 0);
    }
}

static int read_stop;

static void *
read_swapper(void *arg)
{
    for (int g = 1; !__atomic_load_n(&read_stop, __ATOMIC_ACQUIRE); g++) {
        read_swap(g);
        (void) usleep(5000); /* the clock of file systems ticks every 4 ms */
    }
    return NULL;
}

/* While a swap follows the other, what is read is of one generation. */
static void
test_watch_read_is_of_one_moment(void)
{
    kars__read_t r;
    kars_err_t err;
    pthread_t thread;
    int good = 0;

    read_begin();
    read_swap(0);
    for (int i = 0; i < 4; i++) {
        char name[16], to[24];

        (void) snprintf(name, sizeof(name), "file%d", i);
        (void) snprintf(to, sizeof(to), "..data/file%d", i);
        CU_ASSERT_EQUAL(symlink(to, read_at(name)), 0);
    }
    read_stop = 0;
    CU_ASSERT_EQUAL(pthread_create(&thread, NULL, read_swapper, NULL), 0);
    for (int i = 0; i < 2000 && good < 300; i++) {
        char path[80];
        (void) snprintf(path, sizeof(path), "%s", read_dir);
        int rc = read_path(path, &r, &err);

        CU_ASSERT_TRUE(rc == 0 || rc == EAGAIN);
        if (rc == 0) {
            CU_ASSERT_EQUAL(r.n, 4);
            for (size_t k = 1; k < r.n; k++) {
                CU_ASSERT_TRUE(kars_str_eq(r.files[k].bytes, r.files[0].bytes));
            }
            good++;
            kars__read_free(&r);
        }
    }
    __atomic_store_n(&read_stop, 1, __ATOMIC_RELEASE);
    (void) pthread_join(thread, NULL);
    CU_ASSERT_TRUE(good > 0);
    read_end();
}

static void
test_watch_read_refuses_in_words(void)
{
    kars__read_t r;
    kars_err_t err;
    char name[16];

    read_begin();
    CU_ASSERT_EQUAL(read_path(read_at("none"), &r, &err), ENOENT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "/none\": No such file"));
    CU_ASSERT_EQUAL(mkfifo(read_at("fifo"), 0644), 0);
    CU_ASSERT_EQUAL(read_path(read_at("fifo"), &r, &err), EINVAL);
    CU_ASSERT_EQUAL(symlink("loop", read_at("loop")), 0);
    CU_ASSERT_EQUAL(read_path(read_at("loop"), &r, &err), ELOOP);

    read_put("big", "x");
    CU_ASSERT_EQUAL(truncate(read_at("big"), KARS__WATCH_BYTES), 0);
    CU_ASSERT_EQUAL(read_path(read_at("big"), &r, &err), 0);
    kars__read_free(&r);
    CU_ASSERT_EQUAL(truncate(read_at("big"), KARS__WATCH_BYTES + 1), 0);
    CU_ASSERT_EQUAL(read_path(read_at("big"), &r, &err), EFBIG);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "more than 16 MiB"));

    CU_ASSERT_EQUAL(mkdir(read_at("many"), 0755), 0);
    for (unsigned i = 0; i <= KARS__WATCH_FILES; i++) {
        (void) snprintf(name, sizeof(name), "many/%u", i);
        read_put(name, "");
    }
    CU_ASSERT_EQUAL(read_path(read_at("many"), &r, &err), EFBIG);
    CU_ASSERT_EQUAL(unlink(read_at("many/7")), 0);
    CU_ASSERT_EQUAL(read_path(read_at("many"), &r, &err), 0);
    CU_ASSERT_EQUAL(r.n, KARS__WATCH_FILES);
    kars__read_free(&r);
    read_end();
}

void
suite_watch_read(void)
{
    T_SUITE(watch_read);
    T_TEST(watch_read, test_watch_read_of_a_file);
    T_TEST(watch_read, test_watch_read_of_a_folder);
    T_TEST(watch_read, test_watch_read_is_of_one_moment);
    T_TEST(watch_read, test_watch_read_refuses_in_words);
}
