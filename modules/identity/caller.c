/*
 * caller.c - which class a user id, a certificate or a token belongs to.
 */
#include "caller.h"

#include <sodium.h>
#include <strings.h>

int
caller_parse_uid(kars_str_t text, uint32_t *ret)
{
    uint64_t n = 0;

    if (text.len == 0 || text.len > 10) {
        return KARS_ERROR;
    }
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') {
            return KARS_ERROR;
        }
        n = n * 10 + (uint64_t) (text.data[i] - '0');
    }
    if (n >= UINT32_MAX) {
        return KARS_ERROR;
    }

    *ret = (uint32_t) n;
    return KARS_OK;
}

uint32_t
caller_class_of_uid(const caller_uid_t *list, uint32_t uid)
{
    for (; list != NULL; list = list->next) {
        if (list->uid == uid) {
            return list->klass;
        }
    }

    return 0;
}

static int
caller_same_name(kars_str_t a, kars_str_t b)
{
    if (memchr(a.data, ':', a.len) != NULL) { /* a URI: no DNS name has one */
        return kars_str_eq(a, b);
    }
    return a.len == b.len && strncasecmp(a.data, b.data, a.len) == 0;
}

uint32_t
caller_class_of_names(const caller_name_t *list, kars_list_t names)
{
    uint32_t klass = 0;

    for (; list != NULL; list = list->next) {
        for (size_t i = 0; i < names.n; i++) {
            if (caller_same_name(list->name, names.v[i])) {
                klass = list->klass;
            }
        }
    }

    return klass;
}

kars_str_t
caller_bearer(kars_str_t authorization)
{
    const kars_str_t scheme = KARS_STR("Bearer ");
    kars_str_t s = authorization;

    if (s.len <= scheme.len ||
        strncasecmp(s.data, scheme.data, scheme.len) != 0) {
        return KARS_STR("");
    }

    s = (kars_str_t){ s.data + scheme.len, s.len - scheme.len };
    while (s.len > 0 && s.data[0] == ' ') {
        s = (kars_str_t){ s.data + 1, s.len - 1 };
    }
    while (s.len > 0 && s.data[s.len - 1] == ' ') {
        s.len--;
    }
    return s;
}

int
caller_same_token(kars_str_t token, kars_str_t secret)
{
    unsigned char a[crypto_hash_sha256_BYTES];
    unsigned char b[crypto_hash_sha256_BYTES];

    if (secret.len == 0) {
        return 0;
    }

    (void) crypto_hash_sha256(a, (const unsigned char *) token.data, token.len);
    (void) crypto_hash_sha256(b, (const unsigned char *) secret.data,
                              secret.len);

    int same = sodium_memcmp(a, b, sizeof(a)) == 0;

    sodium_memzero(a, sizeof(a));
    sodium_memzero(b, sizeof(b));
    return same;
}
