/*
 * text.c - what foundry-auth decides about words alone.
 */
#include "text.h"

enum { FAUTH_MAX_NAME = 256 };

/* Lower case, and `-` for `_`: backends read both as the same header. */
static char
text_fold(char c)
{
    if (c >= 'A' && c <= 'Z') {
        return (char) (c | 0x20);
    }
    return c == '_' ? '-' : c;
}

int
fauth_is_credential(kars_str_t name)
{
    /* By length first: most names end here after a comparison of numbers. */
    static const kars_str_t names[] = {
        KARS_STR("cookie"),
        KARS_STR("cookie2"),
        KARS_STR("x-kars-admin"),
        KARS_STR("x-functions-key"),
        KARS_STR("ocp-apim-subscription-key"),
        KARS_STR("x-auth-key"),
        KARS_STR("editor-version"),
        KARS_STR("editor-plugin-version"),
        KARS_STR("copilot-integration-id"),
    };
    static const kars_str_t parts[] = {
        KARS_STR("authorization"), /* proxy-, x-authorization, ... */
        KARS_STR("api-key"),       /* x-api-key, x-goog-api-key, ... */
        KARS_STR("apikey"),
        KARS_STR("token"), /* x-auth-token, x-amz-security-token, ... */
        KARS_STR("secret"),
        KARS_STR("password"),
    };
    char folded[FAUTH_MAX_NAME];

    if (name.len > FAUTH_MAX_NAME) {
        return 1; /* nobody needs such a name: not looked at, not passed on */
    }

    for (size_t i = 0; i < name.len; i++) {
        folded[i] = text_fold(name.data[i]);
    }

    for (size_t i = 0; i < KARS_NELTS(names); i++) {
        if (name.len == names[i].len &&
            memcmp(folded, names[i].data, name.len) == 0) {
            return 1;
        }
    }

    for (size_t at = 0; at < name.len; at++) {
        if (folded[at] != 'a' && folded[at] != 't' && folded[at] != 's' &&
            folded[at] != 'p') {
            continue; /* no part begins so */
        }
        for (size_t i = 0; i < KARS_NELTS(parts); i++) {
            if (folded[at] == parts[i].data[0] &&
                name.len - at >= parts[i].len &&
                memcmp(folded + at, parts[i].data, parts[i].len) == 0) {
                return 1;
            }
        }
    }
    return 0;
}

static int
text_port(kars_str_t s, uint32_t *ret)
{
    uint32_t n = 0;

    if (s.len == 0 || s.len > 5) {
        return KARS_ERROR;
    }

    for (size_t i = 0; i < s.len; i++) {
        if (s.data[i] < '0' || s.data[i] > '9') {
            return KARS_ERROR;
        }
        n = n * 10 + (uint32_t) (s.data[i] - '0');
    }

    if (n == 0 || n > 65535) {
        return KARS_ERROR;
    }
    *ret = n;
    return KARS_OK;
}

/* Letters of names and addresses; a colon only between brackets. */
static int
text_host_ok(kars_str_t host, int v6)
{
    for (size_t i = 0; i < host.len; i++) {
        char c = text_fold(host.data[i]);

        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
            (v6 && c == ':') || (!v6 && c == '-')) {
            continue;
        }
        return 0;
    }
    return host.len > 0;
}

static int
text_hostport(kars_str_t s, kars_hostport_t *ret)
{
    size_t colon = s.len;
    kars_hostport_t at = { .port = 0 };

    for (size_t i = 0; i < s.len; i++) {
        colon = s.data[i] == ':' ? i : colon;
    }

    if (colon == s.len ||
        text_port((kars_str_t){ s.data + colon + 1, s.len - colon - 1 },
                  &at.port) != KARS_OK) {
        return KARS_ERROR;
    }

    int v6 = colon > 1 && s.data[0] == '[' && s.data[colon - 1] == ']';

    at.host = v6 ? (kars_str_t){ s.data + 1, colon - 2 }
                 : (kars_str_t){ s.data, colon };
    if (!text_host_ok(at.host, v6)) {
        return KARS_ERROR;
    }
    *ret = at;
    return KARS_OK;
}

int
fauth_next_host(kars_str_t *rest, kars_hostport_t *ret)
{
    size_t n = 0;

    if (rest->len == 0) {
        return KARS_DECLINED;
    }

    while (n < rest->len && rest->data[n] != ',') {
        n++;
    }

    if (text_hostport((kars_str_t){ rest->data, n }, ret) != KARS_OK ||
        n + 1 == rest->len) { /* a comma with nothing after it */
        return KARS_ERROR;
    }

    n += n < rest->len;
    *rest = (kars_str_t){ rest->data + n, rest->len - n };
    return KARS_OK;
}

static int
text_same_host(kars_str_t a, kars_str_t b)
{
    if (a.len != b.len) {
        return 0;
    }

    for (size_t i = 0; i < a.len; i++) {
        if (text_fold(a.data[i]) != text_fold(b.data[i])) {
            return 0;
        }
    }
    return 1;
}

int
fauth_bound(kars_str_t list, kars_str_t host, int64_t port)
{
    kars_hostport_t at;

    while (fauth_next_host(&list, &at) == KARS_OK) {
        if (at.port == port && text_same_host(at.host, host)) {
            return 1;
        }
    }
    return 0;
}

kars_str_t
fauth_key(kars_str_t secret)
{
    kars_str_t key = secret;

    if (key.len > 0 && key.data[key.len - 1] == '\n') {
        key.len--;
        if (key.len > 0 && key.data[key.len - 1] == '\r') {
            key.len--;
        }
    }
    return key;
}

const char *
fauth_key_fault(kars_str_t key)
{
    if (key.len == 0) {
        return "is empty";
    }

    for (size_t i = 0; i < key.len; i++) {
        unsigned char c = (unsigned char) key.data[i];

        if (c < 0x20 || c == 0x7f) {
            return "holds a line end or another control character";
        }
    }
    return NULL;
}
