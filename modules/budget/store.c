/*
 * store.c - the journal's files.
 */
#include "store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "journal.h"
#include "kars_module.h"

#define STORE_FILE_MAX   160
#define STORE_SEGMENTS   64           /* left behind, at most, in one start */
#define STORE_REPLAY_MAX (256u << 20) /* bytes of one segment */

static void
store_file(char *buf, const char *name, uint64_t segment)
{
    (void) snprintf(buf, STORE_FILE_MAX, "%s.%" PRIu64 ".journal", name,
                    segment);
}

int
store_init(store_t *st, const char *path, size_t path_len, const char *name,
           size_t name_len)
{
    memset(st, 0, sizeof(*st));
    st->dir = -1;
    st->fd = -1;
    if (path_len == 0 || path_len >= sizeof(st->path) || name_len == 0 ||
        name_len >= sizeof(st->name) || name[0] == '.' ||
        memchr(name, '/', name_len) != NULL) {
        return EINVAL;
    }

    memcpy(st->path, path, path_len);
    memcpy(st->name, name, name_len);
    return 0;
}

static void
store_close_fd(int *fd)
{
    if (*fd != -1) {
        (void) close(*fd);
        *fd = -1;
    }
}

void
store_close(store_t *st)
{
    store_close_fd(&st->fd);
    store_close_fd(&st->dir);
}

int
store_reopen(store_t *st)
{
    store_close(st);
    if (mkdir(st->path, 0700) == -1 && errno != EEXIST) {
        return errno;
    }

    st->dir = open(st->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return st->dir == -1 ? errno : 0;
}

/* The number in "NAME.<number>.journal"; 0 for any other file. */
static uint64_t
store_number(const char *name, const char *file)
{
    size_t n = strlen(name);
    uint64_t segment = 0;

    if (strncmp(file, name, n) != 0 || file[n] != '.') {
        return 0;
    }

    const char *p = file + n + 1;

    for (; *p >= '0' && *p <= '9' && segment < UINT64_MAX / 100; p++) {
        segment = segment * 10 + (uint64_t) (*p - '0');
    }
    return strcmp(p, ".journal") == 0 ? segment : 0;
}

/* Lists the segments in ascending order, the youngest if there are many. */
static int
store_list(int dir, const char *name, uint64_t *ret, size_t *ret_n)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd == -1 ? NULL : fdopendir(fd);
    size_t n = 0;

    if (d == NULL) {
        int err = errno;

        store_close_fd(&fd);
        return err;
    }

    for (const struct dirent *e; (e = readdir(d)) != NULL;) {
        uint64_t segment = store_number(name, e->d_name);
        size_t at = n;

        if (segment == 0) {
            continue;
        }
        while (at > 0 && ret[at - 1] > segment) {
            at--;
        }
        if (n == STORE_SEGMENTS) { /* the oldest gives way */
            if (at == 0) {
                continue;
            }
            at--;
            memmove(ret, ret + 1, at * sizeof(*ret));
        } else {
            memmove(ret + at + 1, ret + at, (n - at) * sizeof(*ret));
            n++;
        }
        ret[at] = segment;
    }

    (void) closedir(d);
    *ret_n = n;
    return 0;
}

static int
store_replay_one(store_t *st, uint64_t segment, ledger_t *l)
{
    char file[STORE_FILE_MAX];
    struct stat sb;
    int err = 0;

    store_file(file, st->name, segment);

    int fd = openat(st->dir, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

    if (fd == -1) {
        return errno;
    }

    if (fstat(fd, &sb) == -1) {
        err = errno;
    } else if (sb.st_size > STORE_REPLAY_MAX) {
        err = EFBIG;
    } else if (sb.st_size > 0) {
        size_t len = (size_t) sb.st_size;
        char *p = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);

        if (p == MAP_FAILED) {
            err = errno;
        } else {
            journal_replay(l, p, len);
            (void) munmap(p, len);
        }
    }

    (void) close(fd);
    return err;
}

/* Writes all of it, or cuts the file back to where it was. */
static int
store_write(int fd, const char *bytes, size_t len, int *ret_torn)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = write(fd, bytes + done, len - done);

        if (n == -1 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            int err = n == 0 ? EIO : errno;
            off_t end = lseek(fd, 0, SEEK_END);

            if (done > 0 && (end == -1 || end < (off_t) done ||
                             ftruncate(fd, end - (off_t) done) == -1)) {
                *ret_torn = 1;
            }
            return err;
        }
        done += (size_t) n;
    }

    return 0;
}

/* Writes the base and the open reservations into a fresh segment. */
static int
store_write_base(int fd, const ledger_t *l, uint64_t *ret_size)
{
    char buf[64 * JOURNAL_LINE];
    uint64_t nopen = 0;
    uint64_t size = 0;
    int torn = 0;
    int err = 0;

    for (size_t i = 0; i < LEDGER_SLOTS; i++) {
        nopen += l->slots[i].state == LEDGER_OPEN;
    }

    size_t n = journal_base(buf, l, nopen);

    for (size_t i = 0; i < LEDGER_SLOTS && err == 0; i++) {
        const ledger_slot_t *s = &l->slots[i];

        if (s->state != LEDGER_OPEN) {
            continue;
        }
        if (n + JOURNAL_LINE > sizeof(buf)) {
            err = store_write(fd, buf, n, &torn);
            size += n;
            n = 0;
        }
        n += journal_reserve(buf + n, s->id, s->day, s->tokens);
    }

    if (err == 0) {
        err = store_write(fd, buf, n, &torn);
    }
    *ret_size = size + n;
    return err;
}

int
store_rotate(store_t *st, ledger_t *l)
{
    char file[STORE_FILE_MAX];
    uint64_t size = 0;

    store_file(file, st->name, l->segment + 1);

    int fd = openat(
        st->dir, file,
        O_WRONLY | O_APPEND | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (fd == -1) {
        return errno;
    }

    int err = store_write_base(fd, l, &size);

    if (err != 0) {
        (void) close(fd);
        (void) unlinkat(st->dir, file, 0);
        return err;
    }

    store_close_fd(&st->fd);
    st->fd = fd;
    st->segment = l->segment + 1;
    l->segment_size = size;
    l->torn = 0;
    l->segment = st->segment; /* last: from here on the new one counts */
    return 0;
}

int
store_load(store_t *st, ledger_t *l)
{
    uint64_t segments[STORE_SEGMENTS];
    size_t n = 0;
    int err = store_reopen(st);

    if (err == 0) {
        err = store_list(st->dir, st->name, segments, &n);
    }

    ledger_init(l);
    for (size_t i = 0; i < n && err == 0; i++) {
        err = store_replay_one(st, segments[i], l);
    }
    if (err != 0) {
        return err;
    }

    ledger_charge_open(l);
    l->segment = n > 0 ? segments[n - 1] : 0;
    err = store_rotate(st, l);
    if (err != 0) {
        return err;
    }

    store_sync_t job;

    err = store_sync_begin(st, st->segment, &job);
    return err != 0 ? err : store_sync(&job);
}

/* Opens the segment that the ledger names, if another worker began it. */
static int
store_follow(store_t *st, const ledger_t *l)
{
    char file[STORE_FILE_MAX];

    if (st->fd != -1 && st->segment == l->segment) {
        return 0;
    }
    if (st->dir == -1) {
        int err = store_reopen(st);

        if (err != 0) {
            return err;
        }
    }

    store_close_fd(&st->fd);
    store_file(file, st->name, l->segment);
    st->fd =
        openat(st->dir, file, O_WRONLY | O_APPEND | O_NOFOLLOW | O_CLOEXEC);
    if (st->fd == -1) {
        return errno;
    }

    st->segment = l->segment;
    return 0;
}

int
store_append(store_t *st, ledger_t *l, const char *bytes, size_t len)
{
    int torn = 0;
    int err = store_follow(st, l);

    if (err != 0) {
        return err;
    }
    if (l->torn) { /* ends whatever half a line is there */
        err = store_write(st->fd, "\n", 1, &torn);
        if (err != 0) {
            return err;
        }
        l->torn = 0;
    }

    err = store_write(st->fd, bytes, len, &torn);
    if (err != 0) {
        l->torn |= (uint32_t) torn;
        return err;
    }

    l->segment_size += len;
    return 0;
}

void
store_repair(store_t *st, const ledger_t *l)
{
    char file[STORE_FILE_MAX];

    if (st->dir == -1 && store_reopen(st) != 0) {
        return;
    }

    store_file(file, st->name, l->segment + 1);
    (void) unlinkat(st->dir, file, 0);
}

int
store_linked(store_t *st, const ledger_t *l)
{
    struct stat sb;

    return store_follow(st, l) == 0 && fstat(st->fd, &sb) == 0 &&
           sb.st_nlink > 0;
}

int
store_sync_begin(store_t *st, uint64_t remove_before, store_sync_t *ret)
{
    ret->fd = fcntl(st->fd, F_DUPFD_CLOEXEC, 0);
    ret->dir = fcntl(st->dir, F_DUPFD_CLOEXEC, 0);
    ret->remove_before = remove_before;
    memcpy(ret->name, st->name, sizeof(ret->name));
    if (ret->fd == -1 || ret->dir == -1) {
        int err = errno;

        store_close_fd(&ret->fd);
        store_close_fd(&ret->dir);
        return err;
    }

    return 0;
}

static int
store_remove(const store_sync_t *job)
{
    uint64_t segments[STORE_SEGMENTS];
    char file[STORE_FILE_MAX];
    size_t n = 0;

    if (fsync(job->dir) == -1) {
        return errno;
    }

    int err = store_list(job->dir, job->name, segments, &n);

    for (size_t i = 0; i < n && segments[i] < job->remove_before; i++) {
        store_file(file, job->name, segments[i]);
        (void) unlinkat(job->dir, file, 0);
    }
    return err;
}

void
store_sync_cancel(store_sync_t *job)
{
    store_close_fd(&job->fd);
    store_close_fd(&job->dir);
}

int
store_sync(store_sync_t *job)
{
    int err = fdatasync(job->fd) == -1 ? errno : 0;

    if (err == 0 && job->remove_before != 0) {
        err = store_remove(job);
    }

    store_sync_cancel(job);
    return err;
}
