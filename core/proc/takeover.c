/* takeover.c - what one binary hands the next. */
#include "proc/takeover.h"
#include "base/parse.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEEP_MAGIC 0x6b6172736b656570u /* "karskeep" */
#define KEEP_ENV   "KARS_TAKEOVER"

int
kars__takeover_binary(const char *argv0, char *ret, size_t size)
{
    char dir[PATH_MAX];
    int n;

    if (strchr(argv0, '/') == NULL) {
        ssize_t got = readlink("/proc/self/exe", ret, size - 1);

        if (got <= 0) {
            return KARS_ERROR;
        }
        ret[got] = '\0';
        return KARS_OK;
    }
    if (argv0[0] == '/') {
        n = snprintf(ret, size, "%s", argv0);
    } else if (getcwd(dir, sizeof(dir)) != NULL) {
        n = snprintf(ret, size, "%s/%s", dir, argv0);
    } else {
        return KARS_ERROR;
    }
    return n > 0 && (size_t) n < size ? KARS_OK : KARS_ERROR;
}

int
kars__takeover_write(kars__keep_t *keep, kars_err_t *err)
{
    int fd = memfd_create("kars-takeover", MFD_CLOEXEC);

    keep->magic = KEEP_MAGIC;
    keep->version = KARS__KEEP_VERSION;
    keep->size = sizeof(*keep);
    if (fd == -1 || pwrite(fd, keep, sizeof(*keep), 0) != sizeof(*keep)) {
        (void) kars__err(err, errno, "the state for another binary");
        if (fd != -1) {
            (void) close(fd);
        }
        return -1;
    }
    return fd;
}

/* The flags of every descriptor that goes along. */
static void
keep_fd_flags(const kars__keep_t *keep, int flags)
{
    for (size_t i = 0; i < KARS__MASTER_WORKERS; i++) {
        if (keep->workers[i].state != KARS__WORKER_FREE) {
            (void) fcntl(keep->workers[i].channel, F_SETFD, flags);
        }
    }
    for (size_t i = 0; i < KARS__LISTENERS; i++) {
        if (keep->listeners.all[i].address[0] != '\0') {
            (void) fcntl(keep->listeners.all[i].fd, F_SETFD, flags);
        }
    }
    if (keep->zone_fd != -1) {
        (void) fcntl(keep->zone_fd, F_SETFD, flags);
    }
    if (keep->image_fd != -1) {
        (void) fcntl(keep->image_fd, F_SETFD, flags);
    }
}

int
kars__takeover_read(kars__keep_t *ret, kars_err_t *err)
{
    const char *text = getenv(KEEP_ENV);
    uint64_t number;

    if (text == NULL) {
        return KARS_DONE;
    }
    if (kars__parse_uint(kars__strz(text), INT32_MAX, &number) != KARS_OK) {
        return kars__err(err, 0, KEEP_ENV ": no descriptor");
    }

    int fd = (int) number;
    ssize_t n = pread(fd, ret, sizeof(*ret), 0);

    (void) unsetenv(KEEP_ENV);
    (void) close(fd);
    if (n != (ssize_t) sizeof(*ret) || ret->magic != KEEP_MAGIC ||
        ret->version != KARS__KEEP_VERSION || ret->size != sizeof(*ret)) {
        return kars__err(err, 0,
                         "what the running binary hands over is of another "
                         "version than %u: restart instead",
                         KARS__KEEP_VERSION);
    }
    keep_fd_flags(ret, FD_CLOEXEC);
    return KARS_OK;
}

static int
keep_announce(int fd)
{
    char number[16];

    (void) snprintf(number, sizeof(number), "%d", fd);
    return setenv(KEEP_ENV, number, 1);
}

pid_t
kars__takeover_check(const char *binary, int fd, kars_err_t *err)
{
    pid_t pid = fork();

    if (pid == -1) {
        (void) kars__err(err, errno, "fork");
        return -1;
    }
    if (pid == 0) {
        char *argv[] = { (char *) (uintptr_t) binary,
                         (char *) (uintptr_t) "--takeover-check", NULL };
        sigset_t none;

        (void) sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
        if (fcntl(fd, F_SETFD, 0) == 0 && keep_announce(fd) == 0) {
            (void) execv(binary, argv);
        }
        (void) fprintf(stderr, "kars-router: run %s: %s\n", binary,
                       strerror(errno));
        _exit(127);
    }
    return pid;
}

void
kars__takeover_exec(const char *binary, char **argv, const kars__keep_t *keep,
                    int fd, kars_err_t *err)
{
    keep_fd_flags(keep, 0);
    (void) fcntl(fd, F_SETFD, 0);
    if (keep_announce(fd) == 0) {
        (void) execv(binary, argv);
    }
    (void) kars__err(err, errno, "run %s", binary);
    (void) unsetenv(KEEP_ENV);
    (void) fcntl(fd, F_SETFD, FD_CLOEXEC);
    keep_fd_flags(keep, FD_CLOEXEC);
}
