/* keys.c - see keys.h. Owns what is secret for as long as it is in use. */
#include "signing/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define KEYS_TEXT 68 /* more than any secret file has */

static int keys_fail(kars_err_t *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static int
keys_fail(kars_err_t *err, const char *fmt, ...)
{
    va_list args;

    if (err != NULL) {
        va_start(args, fmt);
        vsnprintf(err->text, sizeof(err->text), fmt, args);
        va_end(args);
    }
    return KARS_ERROR;
}

/* The seed in either form. 1: it is one. */
static int
keys_seed(kars_str_t text, unsigned char seed[32])
{
    size_t n;

    if (text.len == 32 || (text.len == 33 && text.data[32] == '\n')) {
        memcpy(seed, text.data, 32);
        return 1;
    }

    while (
        text.len > 64 && text.len <= 66 &&
        (text.data[text.len - 1] == '\n' || text.data[text.len - 1] == '\r')) {
        text.len--;
    }

    return text.len == 64 &&
           sodium_hex2bin(seed, 32, text.data, 64, NULL, &n, NULL) == 0 &&
           n == 32;
}

static int
keys_from_seed(signing_keys_t *keys, const unsigned char *seed, kars_err_t *err)
{
    keys->secret = sodium_malloc(crypto_sign_SECRETKEYBYTES);
    if (keys->secret == NULL) {
        return keys_fail(err, "signing: no guarded memory");
    }

    (void) crypto_sign_seed_keypair(keys->public_key, keys->secret, seed);
    (void) sodium_mprotect_readonly(keys->secret);
    return KARS_OK;
}

int
signing_keys_load(signing_keys_t *keys, kars_str_t text, kars_err_t *err)
{
    unsigned char *seed;
    int rc;

    memset(keys, 0, sizeof(*keys));
    if (sodium_init() == -1) {
        return keys_fail(err, "signing: libsodium does not start");
    }
    seed = sodium_malloc(32);
    if (seed == NULL) {
        return keys_fail(err, "signing: no guarded memory");
    }

    rc = keys_seed(text, seed)
             ? keys_from_seed(keys, seed, err)
             : keys_fail(err, "the key is not 64 hex digits or 32 bytes "
                              "(kars-router signing keygen FILE makes one)");
    sodium_free(seed); /* zeroes it */
    return rc;
}

void
signing_keys_done(signing_keys_t *keys)
{
    sodium_free(keys->secret);
    memset(keys, 0, sizeof(*keys));
}

int
signing_keys_sign(const signing_keys_t *keys, kars_str_t bytes,
                  unsigned char ret_sig[64])
{
    if (keys->secret == NULL) {
        return KARS_ERROR;
    }

    return crypto_sign_detached(ret_sig, NULL,
                                (const unsigned char *) bytes.data, bytes.len,
                                keys->secret) == 0
               ? KARS_OK
               : KARS_ERROR;
}

int
signing_keys_verify(const unsigned char key[32], kars_str_t bytes,
                    const unsigned char sig[64])
{
    return crypto_sign_verify_detached(sig, (const unsigned char *) bytes.data,
                                       bytes.len, key) == 0
               ? KARS_OK
               : KARS_ERROR;
}

void
signing_keys_hex(const signing_keys_t *keys, char ret[SIGNING_HEX])
{
    (void) sodium_bin2hex(ret, SIGNING_HEX, keys->public_key, 32);
}

/* A new file with these bytes; what cannot be written whole is removed. */
static int
keys_create(const char *path, mode_t mode, const char *text, size_t n,
            kars_err_t *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);

    if (fd == -1) {
        return errno == EEXIST
                   ? keys_fail(err,
                               "\"%s\" is there already; a key is "
                               "never overwritten",
                               path)
                   : keys_fail(err, "\"%s\": %s", path, strerror(errno));
    }

    ssize_t done = write(fd, text, n);
    int errnum = done == (ssize_t) n ? 0 : done == -1 ? errno : ENOSPC;

    if (errnum == 0 && fsync(fd) == -1) {
        errnum = errno;
    }
    (void) close(fd);
    if (errnum != 0) {
        (void) unlink(path);
        return keys_fail(err, "\"%s\": %s", path, strerror(errnum));
    }

    return KARS_OK;
}

/* Writes both files; the public one first, since it can be made again. */
static int
keys_save(const char *path, const unsigned char *seed,
          const signing_keys_t *keys, char *text, kars_err_t *err)
{
    char public_path[4096];

    if (snprintf(public_path, sizeof(public_path), "%s.pub", path) >=
        (int) sizeof(public_path)) {
        return keys_fail(err, "the path is too long");
    }
    if (access(path, F_OK) == 0) {
        return keys_fail(
            err, "\"%s\" is there already; a key is never overwritten", path);
    }

    signing_keys_hex(keys, text);
    text[64] = '\n';
    if (keys_create(public_path, 0644, text, 65, err) != KARS_OK) {
        return KARS_ERROR;
    }

    (void) sodium_bin2hex(text, SIGNING_HEX, seed, 32);
    text[64] = '\n';
    if (keys_create(path, 0600, text, 65, err) != KARS_OK) {
        (void) unlink(public_path);
        return KARS_ERROR;
    }

    return KARS_OK;
}

int
signing_keys_make(const char *path, signing_keys_t *ret, kars_err_t *err)
{
    unsigned char *seed;
    char *text;
    int rc = KARS_ERROR;

    memset(ret, 0, sizeof(*ret));
    if (sodium_init() == -1) {
        return keys_fail(err, "signing: libsodium does not start");
    }

    seed = sodium_malloc(32);
    text = sodium_malloc(KEYS_TEXT);
    if (seed == NULL || text == NULL) {
        (void) keys_fail(err, "signing: no guarded memory");
    } else {
        randombytes_buf(seed, 32);
        rc = keys_from_seed(ret, seed, err);
        if (rc == KARS_OK) {
            rc = keys_save(path, seed, ret, text, err);
        }
        if (rc != KARS_OK) {
            signing_keys_done(ret);
        }
    }

    sodium_free(text);
    sodium_free(seed);
    return rc;
}

int
signing_keys_read(const char *path, signing_keys_t *ret, kars_err_t *err)
{
    char *text;
    int fd;
    ssize_t n;
    int rc;

    memset(ret, 0, sizeof(*ret));
    if (sodium_init() == -1) {
        return keys_fail(err, "signing: libsodium does not start");
    }
    text = sodium_malloc(KEYS_TEXT);
    if (text == NULL) {
        return keys_fail(err, "signing: no guarded memory");
    }

    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd == -1 ? -1 : read(fd, text, KEYS_TEXT);
    if (n == -1) {
        rc = keys_fail(err, "\"%s\": %s", path, strerror(errno));
    } else {
        rc = signing_keys_load(ret, (kars_str_t){ text, (size_t) n }, err);
    }
    if (fd != -1) {
        (void) close(fd);
    }
    sodium_free(text);
    return rc;
}
