/* parse.c - words to values. */
#include "base/parse.h"

int
kars__parse_uint(kars_str_t s, uint64_t max, uint64_t *ret)
{
    uint64_t n = 0;

    for (size_t i = 0; i < s.len; i++) {
        uint64_t d = (uint64_t) (unsigned char) s.data[i] - '0';

        if (d > 9 || d > max || n > (max - d) / 10) {
            return KARS_ERROR;
        }
        n = n * 10 + d;
    }
    if (s.len == 0) {
        return KARS_ERROR;
    }

    *ret = n;
    return KARS_OK;
}

int
kars__parse_hex(kars_str_t s, uint64_t max, uint64_t *ret)
{
    uint64_t n = 0;

    for (size_t i = 0; i < s.len; i++) {
        char c = (char) (s.data[i] | 0x20);
        uint64_t d;

        if (s.data[i] >= '0' && s.data[i] <= '9') {
            d = (uint64_t) (s.data[i] - '0');
        } else if (c >= 'a' && c <= 'f') {
            d = (uint64_t) (c - 'a') + 10;
        } else {
            return KARS_ERROR;
        }
        if (d > max || n > (max - d) / 16) {
            return KARS_ERROR;
        }
        n = n * 16 + d;
    }
    if (s.len == 0) {
        return KARS_ERROR;
    }

    *ret = n;
    return KARS_OK;
}

/* A number and one unit letter out of "kmg", each base times the last. */
static int
parse_scaled(kars_str_t s, uint64_t base, uint64_t *ret)
{
    uint64_t scale = 1;

    if (s.len > 0) {
        switch (s.data[s.len - 1] | 0x20) {
        case 'g':
            scale *= base;
            /* fall through */
        case 'm':
            scale *= base;
            /* fall through */
        case 'k':
            scale *= base;
            s.len--;
            break;
        default:
            break;
        }
    }

    uint64_t n;

    if (kars__parse_uint(s, INT64_MAX / scale, &n) != KARS_OK) {
        return KARS_ERROR;
    }

    *ret = n * scale;
    return KARS_OK;
}

int
kars__parse_size(kars_str_t s, uint64_t *ret)
{
    return parse_scaled(s, 1024, ret);
}

int
kars__parse_count(kars_str_t s, uint64_t *ret)
{
    return parse_scaled(s, 1000, ret);
}

static uint64_t
parse_time_unit(kars_str_t unit)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {
        { "ms", 1 },      { "s", 1000 },     { "m", 60000 },
        { "h", 3600000 }, { "d", 86400000 },
    };

    for (size_t i = 0; i < KARS_NELTS(units); i++) {
        if (unit.len == strlen(units[i].name) &&
            memcmp(unit.data, units[i].name, unit.len) == 0) {
            return units[i].ms;
        }
    }
    return 0;
}

int
kars__parse_msec(kars_str_t s, uint64_t *ret)
{
    size_t digits = 0;

    while (digits < s.len && s.data[digits] >= '0' && s.data[digits] <= '9') {
        digits++;
    }

    uint64_t ms =
        parse_time_unit((kars_str_t){ s.data + digits, s.len - digits });
    uint64_t n;

    if (ms == 0 || kars__parse_uint((kars_str_t){ s.data, digits },
                                    UINT32_MAX / ms, &n) != KARS_OK) {
        return KARS_ERROR;
    }

    *ret = n * ms;
    return KARS_OK;
}

int
kars__parse_rate(kars_str_t s, kars_rate_t *ret)
{
    const char *slash = s.len != 0 ? memchr(s.data, '/', s.len) : NULL;
    kars_rate_t rate;

    if (slash == NULL) {
        return KARS_ERROR;
    }

    kars_str_t count = { s.data, (size_t) (slash - s.data) };
    kars_str_t per = { slash + 1, s.len - count.len - 1 };

    if (kars__parse_count(count, &rate.count) != KARS_OK) {
        return KARS_ERROR;
    }

    rate.per_ms = parse_time_unit(per);
    if (rate.per_ms == 0 && kars__parse_msec(per, &rate.per_ms) != KARS_OK) {
        return KARS_ERROR;
    }
    if (rate.per_ms == 0) {
        return KARS_ERROR;
    }

    *ret = rate;
    return KARS_OK;
}

int
kars__parse_hostport(kars_str_t s, kars_hostport_t *ret)
{
    const char *colon = s.len != 0 ? memrchr(s.data, ':', s.len) : NULL;
    uint64_t port;

    if (colon == NULL) {
        return KARS_ERROR;
    }

    kars_str_t host = { s.data, (size_t) (colon - s.data) };
    kars_str_t digits = { colon + 1, s.len - host.len - 1 };

    if (host.len >= 2 && host.data[0] == '[' &&
        host.data[host.len - 1] == ']') {
        host.data++;
        host.len -= 2;
    } else if (host.len != 0 && memchr(host.data, ':', host.len) != NULL) {
        return KARS_ERROR; /* a bare IPv6 address: where does the port begin? */
    }
    if (host.len == 0 || host.len > 253 ||
        kars__parse_uint(digits, 65535, &port) != KARS_OK || port == 0) {
        return KARS_ERROR;
    }

    ret->host = host;
    ret->port = (uint32_t) port;
    return KARS_OK;
}

int
kars__parse_flag(kars_str_t s, int32_t *ret)
{
    if (kars_str_eq(s, KARS_STR("on"))) {
        *ret = 1;
        return KARS_OK;
    }
    if (kars_str_eq(s, KARS_STR("off"))) {
        *ret = 0;
        return KARS_OK;
    }
    return KARS_ERROR;
}
