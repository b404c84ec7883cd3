/* tail.c - see tail.h. */
#include "audit/tail.h"

#include "audit/line.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define TAIL_DATE 10

static int
tail_is_log(const char *name)
{
    static const char form[] = "dddd-dd-dd.jsonl";

    if (strlen(name) != sizeof(form) - 1) {
        return 0;
    }

    for (size_t i = 0; form[i] != '\0'; i++) {
        if (form[i] == 'd' && i < TAIL_DATE) {
            if (name[i] < '0' || name[i] > '9') {
                return 0;
            }
        } else if (name[i] != form[i]) {
            return 0;
        }
    }

    return 1;
}

int
audit_tail_newest(int dirfd, const char *before, char ret_date[16])
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd == -1 ? NULL : fdopendir(fd);
    char best[TAIL_DATE] = "";
    const struct dirent *entry;

    if (dir == NULL) {
        int rc = errno;

        if (fd != -1) {
            (void) close(fd);
        }
        return rc;
    }

    while ((entry = readdir(dir)) != NULL) {
        if (tail_is_log(entry->d_name) &&
            (before == NULL || memcmp(entry->d_name, before, TAIL_DATE) < 0) &&
            memcmp(entry->d_name, best, TAIL_DATE) > 0) {
            memcpy(best, entry->d_name, TAIL_DATE);
        }
    }

    (void) closedir(dir);
    memset(ret_date, 0, 16);
    memcpy(ret_date, best, TAIL_DATE);
    return 0;
}

/* The last max bytes of the file. *ret_from: where they begin. */
static int
tail_load(int fd, char *buf, uint64_t *ret_size, kars_str_t *ret)
{
    struct stat st;
    size_t n = 0;

    if (fstat(fd, &st) == -1) {
        return errno;
    }

    uint64_t size = (uint64_t) st.st_size;
    size_t want = size < AUDIT_TAIL_MAX ? (size_t) size : AUDIT_TAIL_MAX;

    while (n < want) {
        ssize_t done = pread(fd, buf + n, want - n, (off_t) (size - want + n));

        if (done == -1 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return done == -1 ? errno : EIO;
        }
        n += (size_t) done;
    }

    *ret_size = size;
    *ret = (kars_str_t){ buf, want };
    return 0;
}

static int
tail_good(kars_str_t text, audit_chain_t *ret)
{
    audit_line_t line;
    const char *why;

    if (!audit_line(text, &line, &why) || !audit_line_intact(&line, &why)) {
        return 0;
    }

    memset(ret, 0, sizeof(*ret));
    ret->seq = line.seq + 1;
    ret->has_hash = 1;
    memcpy(ret->hash, line.hash.data, AUDIT_HEX);
    memcpy(ret->digest, line.digest, AUDIT_SHA);
    return 1;
}

/* The last good line of `text`, from its end back. *ret_end: behind its LF.
 * Lines that are not good are few: only a crash makes them. */
static int
tail_last(kars_str_t text, audit_chain_t *ret, size_t *ret_end)
{
    const char *lf = memrchr(text.data, '\n', text.len);

    while (lf != NULL) {
        size_t end = (size_t) (lf - text.data);
        const char *before = memrchr(text.data, '\n', end);
        size_t start = before == NULL ? 0 : (size_t) (before - text.data) + 1;

        if (tail_good((kars_str_t){ text.data + start, end - start }, ret)) {
            *ret_end = end + 1;
            return 1;
        }
        lf = before;
    }

    return 0;
}

/* The end of an older file, whose own tail is not ours to close any more. */
static int
tail_older(int dirfd, const char *date, char *buf, size_t room,
           audit_chain_t *ret, int *ret_found)
{
    char older[16];
    char name[32];
    kars_str_t text;
    uint64_t size;
    size_t end;
    int rc = audit_tail_newest(dirfd, date, older);

    *ret_found = 0;
    while (rc == 0 && older[0] != '\0' && !*ret_found) {
        snprintf(name, sizeof(name), "%.10s.jsonl", older);

        int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);

        if (fd == -1) {
            return errno;
        }
        rc = tail_load(fd, buf, &size, &text);
        (void) close(fd);
        if (rc == 0 && tail_last(text, ret, &end)) {
            *ret_found = 1;
        } else if (rc == 0 && size > AUDIT_TAIL_MAX) {
            return EBADMSG;
        }

        char next[16];

        if (rc == 0 && !*ret_found) {
            rc = audit_tail_newest(dirfd, older, next);
            memcpy(older, next, sizeof(older));
        }
    }

    return rc;
}

int
audit_tail_read(int dirfd, int fd, const char *date, char *buf,
                audit_tail_t *ret)
{
    kars_str_t text;
    size_t end = 0;
    int found = 0;
    int rc;

    memset(ret, 0, sizeof(*ret));
    rc = tail_load(fd, buf, &ret->size, &text);
    if (rc != 0) {
        return rc;
    }

    if (!tail_last(text, &ret->chain, &end)) {
        if (ret->size > text.len) {
            return EBADMSG;
        }

        /* Nothing but a torn line, or nothing: the chain is in older files.
         * They are read into the same buffer, and this one again after. */
        rc = tail_older(dirfd, date, buf, AUDIT_TAIL_MAX, &ret->chain, &found);
        if (rc == 0) {
            rc = tail_load(fd, buf, &ret->size, &text);
        }
        if (!found) {
            memset(&ret->chain, 0, sizeof(ret->chain));
        }
    }

    ret->torn = (kars_str_t){ text.data + end, text.len - end };
    if (rc == 0 && tail_good(ret->torn, &ret->chain)) {
        ret->lacks_lf = 1;
        ret->torn.len = 0;
    }
    return rc;
}
