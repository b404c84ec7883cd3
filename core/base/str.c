/* str.c - string helpers. */
#include "base/str.h"

static unsigned char
str_lower(char c)
{
    return (unsigned char) (c >= 'A' && c <= 'Z' ? c | 0x20 : c);
}

int
kars__str_istarts(kars_str_t s, kars_str_t prefix)
{
    if (s.len < prefix.len) {
        return 0;
    }
    for (size_t i = 0; i < prefix.len; i++) {
        if (str_lower(s.data[i]) != str_lower(prefix.data[i])) {
            return 0;
        }
    }
    return 1;
}

kars_str_t
kars__strz(const char *z)
{
    return (kars_str_t){ z, z == NULL ? 0 : strlen(z) };
}

kars_str_t
kars__str_trim(kars_str_t s)
{
    while (s.len > 0 && (s.data[0] == ' ' || s.data[0] == '\t')) {
        s.data++;
        s.len--;
    }
    while (s.len > 0 &&
           (s.data[s.len - 1] == ' ' || s.data[s.len - 1] == '\t')) {
        s.len--;
    }
    return s;
}

int
kars__str_has_token(kars_str_t list, kars_str_t token)
{
    while (list.len > 0) {
        const char *comma = memchr(list.data, ',', list.len);
        size_t n = comma != NULL ? (size_t) (comma - list.data) : list.len;

        if (kars__str_ieq(kars__str_trim((kars_str_t){ list.data, n }),
                          token)) {
            return 1;
        }
        if (comma == NULL) {
            break;
        }
        list.data += n + 1;
        list.len -= n + 1;
    }
    return 0;
}

size_t
kars__u64_to_dec(uint64_t n, char *p)
{
    char tmp[20];
    size_t len = 0;

    do {
        tmp[len++] = (char) ('0' + n % 10);
        n /= 10;
    } while (n != 0);

    for (size_t i = 0; i < len; i++) {
        p[i] = tmp[len - 1 - i];
    }
    return len;
}

void
kars__to_hex(const unsigned char *in, size_t n, char *ret)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < n; i++) {
        ret[2 * i] = digits[in[i] >> 4];
        ret[2 * i + 1] = digits[in[i] & 15];
    }
}

/* Levenshtein, two rows; names are short. */
static size_t
str_distance(kars_str_t a, kars_str_t b)
{
    size_t row[65];

    if (a.len > 64 || b.len > 64) {
        return 65;
    }
    for (size_t j = 0; j <= b.len; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= a.len; i++) {
        size_t diag = row[0];

        row[0] = i;
        for (size_t j = 1; j <= b.len; j++) {
            size_t best = diag + (a.data[i - 1] != b.data[j - 1]);

            if (row[j] + 1 < best) {
                best = row[j] + 1;
            }
            if (row[j - 1] + 1 < best) {
                best = row[j - 1] + 1;
            }
            diag = row[j];
            row[j] = best;
        }
    }
    return row[b.len];
}

const char *
kars__nearest(kars_str_t s, const char *const *names, size_t n)
{
    const char *best = NULL;
    size_t best_d = s.len / 3 + 2; /* farther than this is no help */

    for (size_t i = 0; i < n; i++) {
        size_t d = str_distance(s, kars__strz(names[i]));

        if (d < best_d) {
            best_d = d;
            best = names[i];
        }
    }
    return best;
}
