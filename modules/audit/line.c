/* line.c - see line.h. */
#include "audit/line.h"

/* Which members are kept, in audit_line_t. */
enum {
    LINE_CODE = 1,
    LINE_REASON,
    LINE_TORN_BYTES,
    LINE_TORN,
    LINE_KEY,
    LINE_SIG,
    LINE_PREV
};

/* The members of version 1 after time_ms, in their order: name, its length,
 * s string or n number, what it is kept as. */
/* clang-format off */
static const struct { const char *name; size_t len; char type; int keep; } line_members[] = {
    { "trace", 5, 's', 0 },
    { "class", 5, 's', 0 },
    { "route", 5, 's', 0 },
    { "method", 6, 's', 0 },
    { "path", 4, 's', 0 },
    { "status", 6, 'n', 0 },
    { "module", 6, 's', 0 },
    { "rule", 4, 's', 0 },
    { "code", 4, 's', LINE_CODE },
    { "reason", 6, 's', LINE_REASON },
    { "model", 5, 's', 0 },
    { "tokens_in", 9, 'n', 0 },
    { "tokens_out", 10, 'n', 0 },
    { "tokens_total", 12, 'n', 0 },
    { "tokens_charged", 14, 'n', 0 },
    { "upstream", 8, 's', 0 },
    { "attempts", 8, 'n', 0 },
    { "bytes_in", 8, 'n', 0 },
    { "bytes_out", 9, 'n', 0 },
    { "duration_ms", 11, 'n', 0 },
    { "refused", 7, 'n', 0 },
    { "torn_bytes", 10, 'n', LINE_TORN_BYTES },
    { "torn_sha256", 11, 's', LINE_TORN },
    { "key", 3, 's', LINE_KEY },
    { "sig", 3, 's', LINE_SIG },
    { "prev_digest", 11, 's', LINE_PREV },
};
/* clang-format on */

int
audit_scan_lit(audit_scan_t *s, const char *lit)
{
    size_t n = strlen(lit);

    if ((size_t) (s->end - s->p) < n || memcmp(s->p, lit, n) != 0) {
        return 0;
    }

    s->p += n;
    return 1;
}

int
audit_scan_uint(audit_scan_t *s, uint64_t *ret)
{
    const char *start = s->p;
    uint64_t n = 0;

    while (s->p < s->end && *s->p >= '0' && *s->p <= '9') {
        uint64_t d = (uint64_t) (*s->p - '0');

        if (n > (UINT64_MAX - d) / 10) {
            return 0;
        }
        n = n * 10 + d;
        s->p++;
    }

    if (s->p == start || (*start == '0' && s->p - start > 1)) {
        return 0;
    }

    *ret = n;
    return 1;
}

static int
line_hex4(const char *p)
{
    for (int i = 0; i < 4; i++) {
        char c = (char) (p[i] | 0x20);

        if (!((p[i] >= '0' && p[i] <= '9') || (c >= 'a' && c <= 'f'))) {
            return 0;
        }
    }

    return 1;
}

/* Bytes of the escape at p, which is a backslash; 0: none that JSON knows. */
static size_t
line_escape(const char *p, const char *end)
{
    if (end - p < 2) {
        return 0;
    }
    if (p[1] == 'u') {
        return end - p >= 6 && line_hex4(p + 2) ? 6 : 0;
    }

    return p[1] != '\0' && strchr("\"\\/bfnrt", p[1]) != NULL ? 2 : 0;
}

int
audit_scan_str(audit_scan_t *s, kars_str_t *ret)
{
    if (!audit_scan_lit(s, "\"")) {
        return 0;
    }

    const char *start = s->p;
    const char *p = start;

    while (p < s->end && *p != '"') {
        unsigned char c = (unsigned char) *p;
        size_t n = 1;

        if (c >= 0x20 && c < 0x80 && c != '\\') {
            p++;
            continue;
        }
        if (c >= 0x80) {
            n = audit_utf8((const unsigned char *) p, (size_t) (s->end - p));
        } else if (c == '\\') {
            n = line_escape(p, s->end);
        } else if (c < 0x20) {
            n = 0;
        }
        if (n == 0) {
            return 0;
        }
        p += n;
    }

    if (p >= s->end) {
        return 0;
    }

    *ret = (kars_str_t){ start, (size_t) (p - start) };
    s->p = p + 1;
    return 1;
}

static int
line_named_str(audit_scan_t *s, const char *lit, kars_str_t *ret)
{
    return audit_scan_lit(s, lit) && audit_scan_str(s, ret);
}

/* The eight keys that upstream's lines have, from the brace to hash. */
static int
line_common(audit_scan_t *s, audit_line_t *ret)
{
    uint8_t hash[AUDIT_SHA];

    return line_named_str(s, "{\"sandbox\":", &ret->sandbox) &&
           audit_scan_lit(s, ",\"seq\":") && audit_scan_uint(s, &ret->seq) &&
           line_named_str(s, ",\"ts\":", &ret->ts) &&
           line_named_str(s, ",\"agent_id\":", &ret->agent_id) &&
           line_named_str(s, ",\"action\":", &ret->action) &&
           line_named_str(s, ",\"decision\":", &ret->decision) &&
           line_named_str(s, ",\"prev_hash\":", &ret->prev_hash) &&
           line_named_str(s, ",\"hash\":", &ret->hash) &&
           (ret->prev_hash.len == 0 ||
            audit_unhex(ret->prev_hash, hash, AUDIT_SHA)) &&
           audit_unhex(ret->hash, hash, AUDIT_SHA);
}

static int
line_keep(audit_line_t *ret, int keep, kars_str_t str, uint64_t number)
{
    switch (keep) {
    case LINE_CODE:
        ret->code = str;
        break;
    case LINE_REASON:
        ret->reason = str;
        break;
    case LINE_TORN_BYTES:
        ret->torn_bytes = number;
        break;
    case LINE_TORN:
        ret->has_torn = 1;
        return audit_unhex(str, ret->torn, AUDIT_SHA);
    case LINE_KEY:
        ret->key = str;
        break;
    case LINE_SIG:
        ret->sig = str;
        break;
    case LINE_PREV:
        return audit_unhex(str, ret->prev_digest, AUDIT_SHA);
    }

    return 1;
}

/* One of the members from *at on. Moves *at behind it. */
static int
line_member(audit_scan_t *s, audit_line_t *ret, size_t *at)
{
    kars_str_t name;
    kars_str_t str = { NULL, 0 };
    uint64_t number = 0;

    if (!audit_scan_lit(s, ",") || !audit_scan_str(s, &name) ||
        !audit_scan_lit(s, ":")) {
        return 0;
    }

    for (size_t i = *at; i < KARS_NELTS(line_members); i++) {
        if (line_members[i].len != name.len ||
            memcmp(line_members[i].name, name.data, name.len) != 0) {
            continue;
        }

        *at = i + 1;
        return (line_members[i].type == 's' ? audit_scan_str(s, &str)
                                            : audit_scan_uint(s, &number)) &&
               line_keep(ret, line_members[i].keep, str, number);
    }

    return 0; /* unknown, repeated, or not in its place */
}

/* Ours: from v to digest. */
static int
line_full(audit_scan_t *s, const char *start, audit_line_t *ret)
{
    uint64_t time_ms;
    kars_str_t digest;
    size_t at = 0;

    if (!audit_scan_lit(s, ",\"v\":1,\"time_ms\":") ||
        !audit_scan_uint(s, &time_ms)) {
        return 0;
    }

    while (at < KARS_NELTS(line_members)) {
        if (!line_member(s, ret, &at)) {
            return 0;
        }
    }

    ret->full = 1;
    ret->covered = (kars_str_t){ start, (size_t) (s->p - start) };
    return line_named_str(s, ",\"digest\":", &digest) &&
           audit_unhex(digest, ret->digest, AUDIT_SHA);
}

int
audit_line(kars_str_t line, audit_line_t *ret, const char **ret_why)
{
    audit_scan_t s = { line.data, line.data + line.len };
    const kars_str_t *hashed[] = { &ret->agent_id, &ret->action,
                                   &ret->decision };

    memset(ret, 0, sizeof(*ret));
    *ret_why = "is not a record";
    if (line.len == 0 || line.len > AUDIT_LINE_MAX || !line_common(&s, ret)) {
        return 0;
    }

    if (s.end - s.p > 1 && !line_full(&s, line.data, ret)) {
        *ret_why = "is not in the form of a version 1 record";
        return 0;
    }
    if (!audit_scan_lit(&s, "}") || s.p != s.end) {
        *ret_why = "does not end where a record does";
        return 0;
    }

    for (size_t i = 0; ret->full && i < KARS_NELTS(hashed); i++) {
        if (hashed[i]->len > 0 &&
            memchr(hashed[i]->data, '\\', hashed[i]->len) != NULL) {
            *ret_why = "has an escape in a hashed field";
            return 0;
        }
    }

    return 1;
}

static unsigned int
line_code(const char *hex)
{
    unsigned int n = 0;

    for (int i = 0; i < 4; i++) {
        unsigned int c = (unsigned char) hex[i];

        n = n << 4 | (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }

    return n;
}

/* A code point as UTF-8. */
static char *
line_utf8(char *p, unsigned int c)
{
    if (c < 0x80) {
        *p++ = (char) c;
        return p;
    }

    if (c < 0x800) {
        *p++ = (char) (0xc0 | c >> 6);
    } else {
        if (c < 0x10000) {
            *p++ = (char) (0xe0 | c >> 12);
        } else {
            *p++ = (char) (0xf0 | c >> 18);
            *p++ = (char) (0x80 | (c >> 12 & 0x3f));
        }
        *p++ = (char) (0x80 | (c >> 6 & 0x3f));
    }
    *p++ = (char) (0x80 | (c & 0x3f));
    return p;
}

/* The value of an escaped string; `out` has room for s.len bytes. A lone
 * surrogate becomes U+FFFD, as upstream's own reader would refuse it. */
static kars_str_t
line_unescape(kars_str_t s, char *out)
{
    static const char from[] = "\"\\/bfnrt";
    static const char to[] = "\"\\/\b\f\n\r\t";
    char *p = out;

    for (size_t i = 0; i < s.len; i++) {
        if (s.data[i] != '\\') {
            *p++ = s.data[i];
            continue;
        }

        i++;
        if (s.data[i] != 'u') {
            *p++ = to[strchr(from, s.data[i]) - from];
            continue;
        }

        unsigned int c = line_code(s.data + i + 1);

        i += 4;
        if (c >= 0xd800 && c < 0xdc00 && s.len - i > 6 &&
            s.data[i + 1] == '\\' && s.data[i + 2] == 'u') {
            unsigned int low = line_code(s.data + i + 3);

            if (low >= 0xdc00 && low < 0xe000) {
                c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
                i += 6;
            }
        }
        p = line_utf8(p, c >= 0xd800 && c < 0xe000 ? 0xfffd : c);
    }

    return (kars_str_t){ out, (size_t) (p - out) };
}

int
audit_line_intact(const audit_line_t *line, const char **ret_why)
{
    char scratch[AUDIT_LINE_MAX];
    kars_str_t v[] = { line->ts, line->agent_id, line->action, line->decision };
    size_t used = 0;
    char hash[AUDIT_HEX];
    uint8_t digest[AUDIT_SHA];

    for (size_t i = 0; i < KARS_NELTS(v); i++) {
        if (v[i].len > 0 && memchr(v[i].data, '\\', v[i].len) != NULL) {
            v[i] = line_unescape(v[i], scratch + used);
            used += v[i].len;
        }
    }

    audit_hash(line->seq, v[0], v[1], v[2], v[3], line->prev_hash, hash);
    if (memcmp(hash, line->hash.data, AUDIT_HEX) != 0) {
        *ret_why = "was edited: its hash does not fit its contents";
        return 0;
    }
    if (!line->full) {
        return 1;
    }

    audit_digest(line->prev_digest, line->covered, digest);
    if (memcmp(digest, line->digest, AUDIT_SHA) != 0) {
        *ret_why = "was edited: its digest does not fit its contents";
        return 0;
    }

    return 1;
}
