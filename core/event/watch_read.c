/* watch_read.c - reading a watched path. */
#include "event/watch_read.h"
#include "base/pool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_TRIES 5
#define READ_FLAGS (O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)

typedef struct {
    kars_file_t *files; /* each one's name and bytes are one allocation */
    size_t n;
    size_t cap;
    size_t bytes;
    const char *path;
    kars_err_t *err;
} read_list_t;

static int
read_err(read_list_t *l, int error, const char *what, const char *name)
{
    const char *slash = name != NULL ? "/" : "";

    if (name == NULL) {
        name = "";
    }
    if (error == EACCES) {
        (void) kars__err(l->err, 0,
                         "%s \"%s%s%s\": Permission denied: the account of the "
                         "workers must be able to read it",
                         what, l->path, slash, name);
    } else {
        (void) kars__err(l->err, error == EFBIG ? 0 : error, "%s \"%s%s%s\"",
                         what, l->path, slash, name);
    }
    return error;
}

static void
read_list_free(read_list_t *l)
{
    for (size_t i = 0; i < l->n; i++) {
        kars__free((void *) (uintptr_t) l->files[i].name.data);
    }
    kars__free(l->files);
    l->files = NULL;
    l->n = l->cap = l->bytes = 0;
}

void
kars__read_free(kars__read_t *r)
{
    read_list_t l = { .files = r->files, .n = r->n };

    read_list_free(&l);
    r->files = NULL;
    r->n = 0;
}

/* Adds a file: its name, and room for its bytes. */
static int
read_add(read_list_t *l, const char *name, size_t bytes, char **ret)
{
    size_t len = strlen(name);

    if (l->n == KARS__WATCH_FILES) {
        return read_err(l, EFBIG, "too many files in", NULL);
    }
    if (bytes > KARS__WATCH_BYTES - l->bytes) {
        return read_err(l, EFBIG, "more than 16 MiB in", NULL);
    }
    if (l->n == l->cap) {
        size_t cap = l->cap == 0 ? 16 : l->cap * 2;
        kars_file_t *files = kars__realloc(l->files, cap * sizeof(*files));

        if (files == NULL) {
            return read_err(l, ENOMEM, "read", NULL);
        }
        l->files = files;
        l->cap = cap;
    }

    char *p = kars__alloc(len + bytes + 1);

    if (p == NULL) {
        return read_err(l, ENOMEM, "read", NULL);
    }
    memcpy(p, name, len);
    l->files[l->n++] = (kars_file_t){ { p, len }, { p + len, bytes } };
    l->bytes += bytes;
    *ret = p + len;
    return 0;
}

/* The bytes of one regular file. EAGAIN: it changed, or went. */
static int
read_file(read_list_t *l, int fd, const char *name, const char *said)
{
    struct stat st;
    char *p;

    if (fstat(fd, &st) == -1) {
        return read_err(l, errno, "stat", said);
    }
    if (!S_ISREG(st.st_mode)) {
        return said != NULL ? 0 : read_err(l, EINVAL, "read", NULL);
    }

    size_t size = st.st_size < 0 ? 0 : (size_t) st.st_size, have = 0;
    int rc = read_add(l, name, size, &p);

    while (rc == 0 && have < size) {
        ssize_t n = read(fd, p + have, size - have);

        if (n == -1 && errno != EINTR) {
            return read_err(l, errno, "read", said);
        }
        if (n == 0) {
            return read_err(l, EAGAIN, "read", said);
        }
        have += n > 0 ? (size_t) n : 0;
    }
    return rc;
}

static int
read_is_ours(const char *name)
{
    size_t len = strlen(name);

    return len > 0 && name[0] != '.' && name[len - 1] != '~';
}

static int
read_entry(read_list_t *l, int dir, const char *name)
{
    int fd = openat(dir, name, READ_FLAGS);

    if (fd == -1) { /* a socket says ENXIO; what just went is no error yet */
        return errno == ENXIO    ? 0
               : errno == ENOENT ? EAGAIN
                                 : read_err(l, errno, "open", name);
    }

    int rc = read_file(l, fd, name, name);

    (void) close(fd);
    return rc;
}

static int
read_by_name(const void *a, const void *b)
{
    kars_str_t x = ((const kars_file_t *) a)->name;
    kars_str_t y = ((const kars_file_t *) b)->name;
    int rc = memcmp(x.data, y.data, x.len < y.len ? x.len : y.len);

    return rc != 0 ? rc : (x.len > y.len) - (x.len < y.len);
}

/* What `..data` points to, where there is one; else the folder itself. Takes
 * the descriptor. */
static DIR *
read_open_folder(int fd)
{
    int data = openat(fd, "..data", READ_FLAGS | O_DIRECTORY);

    if (data != -1) {
        (void) close(fd);
        fd = data;
    }

    DIR *d = fdopendir(fd);

    if (d == NULL) {
        (void) close(fd);
    }
    return d;
}

static int
read_folder(read_list_t *l, int fd)
{
    DIR *d = read_open_folder(fd);
    struct dirent *e;
    int rc = 0;

    if (d == NULL) {
        return read_err(l, errno, "open", NULL);
    }
    while (rc == 0 && (e = readdir(d)) != NULL) {
        if (read_is_ours(e->d_name)) {
            rc = read_entry(l, dirfd(d), e->d_name);
        }
    }
    (void) closedir(d);
    if (l->n > 1) {
        qsort(l->files, l->n, sizeof(*l->files), read_by_name);
    }
    return rc;
}

/* The stamp: without reading a byte. */

static void
stamp_add(unsigned char sum[KARS__WATCH_DIGEST], const char *name,
          const struct stat *st)
{
    crypto_hash_sha256_state hash;
    unsigned char one[KARS__WATCH_DIGEST];
    uint64_t of[] = {
        st->st_dev,
        st->st_ino,
        (uint64_t) st->st_size,
        st->st_mode,
        (uint64_t) st->st_mtim.tv_sec,
        (uint64_t) st->st_mtim.tv_nsec,
        (uint64_t) st->st_ctim.tv_sec,
        (uint64_t) st->st_ctim.tv_nsec,
    };

    (void) crypto_hash_sha256_init(&hash);
    (void) crypto_hash_sha256_update(&hash, (const unsigned char *) of,
                                     sizeof(of));
    (void) crypto_hash_sha256_update(&hash, (const unsigned char *) name,
                                     strlen(name));
    (void) crypto_hash_sha256_final(&hash, one);
    for (size_t i = 0; i < sizeof(one); i++) { /* in whatever order they come */
        sum[i] = (unsigned char) (sum[i] ^ one[i]);
    }
}

static void
stamp_folder(unsigned char sum[KARS__WATCH_DIGEST], int fd)
{
    DIR *d = read_open_folder(fd);
    struct dirent *e;
    struct stat st;

    if (d == NULL) {
        return;
    }
    while ((e = readdir(d)) != NULL) {
        if (read_is_ours(e->d_name) &&
            fstatat(dirfd(d), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode)) {
            stamp_add(sum, e->d_name, &st);
        }
    }
    (void) closedir(d);
}

static void
read_stamp(const char *path, unsigned char ret[KARS__WATCH_DIGEST])
{
    struct stat st;
    int fd = open(path, READ_FLAGS);

    memset(ret, 0, KARS__WATCH_DIGEST);
    if (fd == -1) {
        return;
    }
    if (fstat(fd, &st) == -1) {
        (void) close(fd);
    } else if (S_ISDIR(st.st_mode)) {
        stamp_add(ret, "", &(struct stat){ .st_mode = S_IFDIR });
        stamp_folder(ret, fd); /* takes fd */
    } else {
        stamp_add(ret, "", &st);
        (void) close(fd);
    }
}

static void
digest_add(crypto_hash_sha256_state *hash, kars_str_t s)
{
    unsigned char len[8];

    for (int i = 0; i < 8; i++) {
        len[i] = (unsigned char) ((uint64_t) s.len >> (56 - 8 * i));
    }
    (void) crypto_hash_sha256_update(hash, len, sizeof(len));
    (void) crypto_hash_sha256_update(hash, (const unsigned char *) s.data,
                                     s.len);
}

static void
read_digest(kars__read_t *r)
{
    crypto_hash_sha256_state hash;

    (void) crypto_hash_sha256_init(&hash);
    for (size_t i = 0; i < r->n; i++) {
        digest_add(&hash, r->files[i].name);
        digest_add(&hash, r->files[i].bytes);
    }
    (void) crypto_hash_sha256_final(&hash, r->digest);
}

/* One try. */
static int
read_once(const char *path, kars__read_t *ret, kars_err_t *err)
{
    read_list_t l = { .path = path, .err = err };
    const char *slash = strrchr(path, '/');
    struct stat st;
    int fd = open(path, READ_FLAGS), rc;

    if (fd == -1) {
        return read_err(&l, errno, "open", NULL);
    }
    ret->is_folder = fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
    if (ret->is_folder) {
        rc = read_folder(&l, fd); /* takes fd */
    } else {
        rc = read_file(&l, fd, slash != NULL ? slash + 1 : path, NULL);
        (void) close(fd);
    }
    if (rc != 0) {
        read_list_free(&l);
        return rc;
    }
    ret->files = l.files;
    ret->n = l.n;
    return 0;
}

int
kars__read_path(const char *path, const unsigned char *stamp, kars__read_t *ret,
                kars_err_t *err)
{
    unsigned char after[KARS__WATCH_DIGEST];

    memset(ret, 0, sizeof(*ret));
    if (sodium_init() < 0) {
        (void) kars__err(err, 0, "libsodium does not start");
        return EINVAL;
    }
    for (int i = 0; i < READ_TRIES; i++) {
        read_stamp(path, ret->stamp);
        if (stamp != NULL && memcmp(stamp, ret->stamp, sizeof(after)) == 0) {
            return -1;
        }

        int rc = read_once(path, ret, err);

        if (rc != 0 && rc != EAGAIN) {
            return rc;
        }
        read_stamp(path, after);
        if (rc == 0 && memcmp(after, ret->stamp, sizeof(after)) == 0) {
            read_digest(ret);
            return 0;
        }
        kars__read_free(ret);
    }
    (void) kars__err(err, 0, "\"%s\" changes while it is read", path);
    return EAGAIN;
}
