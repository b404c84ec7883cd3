/* secret.c - guarded memory for credentials. */
#include "base/secret.h"

#include <errno.h>
#include <sodium.h>
#include <unistd.h>

struct kars_secret_s {
    char *data; /* of sodium_malloc() */
    size_t len;
    size_t owners; /* pools; one thread uses them all */
};

static void
secret_release(void *data)
{
    kars_secret_t *s = *(kars_secret_t **) data;

    if (s != NULL && --s->owners == 0) {
        sodium_free(s->data); /* zeroes */
        kars__free(s);
    }
}

kars_secret_t *
kars__secret_share(kars_pool_t *pool, kars_secret_t *secret)
{
    kars_secret_t **own = kars__pown(pool, sizeof(*own), secret_release);

    if (own == NULL) {
        return NULL;
    }
    secret->owners++;
    *own = secret;
    return secret;
}

kars_secret_t *
kars__secret_copy(kars_pool_t *pool, kars_str_t bytes, kars_err_t *err)
{
    if (bytes.len == 0) {
        (void) kars__err(err, 0, "the secret is empty");
        return NULL;
    }
    if (sodium_init() < 0) {
        (void) kars__err(err, 0, "libsodium does not start");
        return NULL;
    }

    kars_secret_t *s = kars__alloc(sizeof(*s));

    if (s == NULL || (s->data = sodium_malloc(bytes.len)) == NULL ||
        kars__secret_share(pool, s) == NULL) {
        if (s != NULL) {
            sodium_free(s->data); /* NULL is harmless */
        }
        kars__free(s);
        (void) kars__err(err, ENOMEM, "a secret of %zu bytes", bytes.len);
        return NULL;
    }
    memcpy(s->data, bytes.data, bytes.len);
    s->len = bytes.len;
    (void) sodium_mprotect_readonly(s->data);
    return s;
}

kars_secret_t *
kars__secret_create(kars_pool_t *pool, const void *bytes, size_t n,
                    kars_err_t *err)
{
    const char *p = bytes;

    if (n > 0 && p[n - 1] == '\n') {
        n--;
    }
    if (n > 0 && p[n - 1] == '\r') {
        n--;
    }
    return kars__secret_copy(pool, (kars_str_t){ p, n }, err);
}

kars_secret_t *
kars__secret_read(kars_pool_t *pool, int fd, const char *name, kars_err_t *err)
{
    char buf[4096];
    kars_secret_t *s = NULL;
    ssize_t n = pread(fd, buf, sizeof(buf), 0);

    if (n < 0) {
        (void) kars__err(err, errno, "read \"%s\"", name);
    } else if ((size_t) n == sizeof(buf)) {
        (void) kars__err(err, 0, "\"%s\" is longer than 4095 bytes", name);
    } else {
        s = kars__secret_create(pool, buf, (size_t) n, err);
        if (s == NULL) {
            (void) kars__err_prefix(err, "\"%s\"", name);
        }
    }
    sodium_memzero(buf, sizeof(buf));
    return s;
}

kars_str_t
kars__secret_str(const kars_secret_t *secret)
{
    return (kars_str_t){ secret->data, secret->len };
}
