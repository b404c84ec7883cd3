/* test_takeover.c - what one binary hands the next, and what is no such thing.
 */
#include "base/pool.h"
#include "proc/takeover.h"
#include "t.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void
takeover_announce(int fd)
{
    char number[16];

    snprintf(number, sizeof(number), "%d", fd);
    setenv("KARS_TAKEOVER", number, 1);
}

static kars__keep_t *
takeover_keep(void)
{
    kars__keep_t *keep = kars__alloc(sizeof(*keep));

    CU_ASSERT_PTR_NOT_NULL_FATAL(keep);
    keep->zone_fd = -1;
    keep->image_fd = -1;
    return keep;
}

static void
test_takeover_hands_over_what_was_written(void)
{
    kars__keep_t *keep = takeover_keep(), *back = takeover_keep();
    kars_err_t err = KARS_ERR_INIT;
    int fd;

    keep->nslots = 3;
    keep->zone_fd = dup(0);
    snprintf(keep->listeners.all[7].address, 128, "127.0.0.1:1");
    keep->listeners.all[7].fd = dup(0);
    keep->workers[2].state = KARS__WORKER_READY;
    keep->workers[2].channel = dup(0);
    fd = kars__takeover_write(keep, &err);
    CU_ASSERT_NOT_EQUAL_FATAL(fd, -1);
    takeover_announce(fd);
    CU_ASSERT_EQUAL(kars__takeover_read(back, &err), KARS_OK);
    CU_ASSERT_EQUAL(memcmp(keep, back, sizeof(*keep)), 0);
    CU_ASSERT_EQUAL(fcntl(back->zone_fd, F_GETFD), FD_CLOEXEC);
    CU_ASSERT_EQUAL(fcntl(back->workers[2].channel, F_GETFD), FD_CLOEXEC);
    CU_ASSERT_EQUAL(fcntl(back->listeners.all[7].fd, F_GETFD), FD_CLOEXEC);
    CU_ASSERT_EQUAL(fcntl(fd, F_GETFD), -1);
    CU_ASSERT_PTR_NULL(getenv("KARS_TAKEOVER"));
    CU_ASSERT_EQUAL(kars__takeover_read(back, &err), KARS_DONE);
    close(keep->zone_fd);
    close(keep->workers[2].channel);
    close(keep->listeners.all[7].fd);
    kars__free(keep);
    kars__free(back);
}

static void
test_takeover_refuses_another_version(void)
{
    static const struct {
        const char *label;
        off_t at;
        size_t size;
    } cases[] = {
        { "magic", 0, sizeof(kars__keep_t) },
        { "version", offsetof(kars__keep_t, version), sizeof(kars__keep_t) },
        { "size", offsetof(kars__keep_t, size), sizeof(kars__keep_t) },
        { "cut", -1, sizeof(kars__keep_t) - 1 },
        { "nothing", -1, 0 },
    };

    for (size_t i = 0; i < KARS_NELTS(cases); i++) {
        kars__keep_t *keep = takeover_keep();
        kars_err_t err = KARS_ERR_INIT;
        int fd = kars__takeover_write(keep, &err);

        T_CASE(cases[i].label);
        if (cases[i].at != -1) {
            CU_ASSERT_EQUAL(pwrite(fd, "x", 1, cases[i].at), 1);
        }
        CU_ASSERT_EQUAL(ftruncate(fd, (off_t) cases[i].size), 0);
        takeover_announce(fd);
        CU_ASSERT_EQUAL(kars__takeover_read(keep, &err), KARS_ERROR);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "version"));
        kars__free(keep);
    }

    kars__keep_t *keep = takeover_keep();
    kars_err_t err = KARS_ERR_INIT;

    setenv("KARS_TAKEOVER", "x", 1);
    CU_ASSERT_EQUAL(kars__takeover_read(keep, &err), KARS_ERROR);
    unsetenv("KARS_TAKEOVER");
    kars__free(keep);
}

static void
test_takeover_finds_its_binary_again(void)
{
    char here[4096], got[8192], want[8192];

    CU_ASSERT_PTR_NOT_NULL_FATAL(getcwd(here, sizeof(here)));
    CU_ASSERT_EQUAL(kars__takeover_binary("/a/b", got, sizeof(got)), KARS_OK);
    CU_ASSERT_STRING_EQUAL(got, "/a/b");
    CU_ASSERT_EQUAL(kars__takeover_binary("a/b", got, sizeof(got)), KARS_OK);
    snprintf(want, sizeof(want), "%s/a/b", here);
    CU_ASSERT_STRING_EQUAL(got, want);
    CU_ASSERT_EQUAL(kars__takeover_binary("b", got, sizeof(got)), KARS_OK);
    CU_ASSERT_EQUAL(access(got, X_OK), 0);
    CU_ASSERT_EQUAL(kars__takeover_binary("/a/b", got, 4), KARS_ERROR);
}

void
suite_takeover(void)
{
    T_SUITE(takeover);
    T_TEST(takeover, test_takeover_hands_over_what_was_written);
    T_TEST(takeover, test_takeover_refuses_another_version);
    T_TEST(takeover, test_takeover_finds_its_binary_again);
}
