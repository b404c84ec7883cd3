/*
 * record.c - see record.h. The write path of the log: no allocation, no
 * printf, no JSON tree; a record costs two SHA-256 and some copying.
 */
#define OPENSSL_SUPPRESS_DEPRECATED /* EVP looks the digest up each time */
#include "audit/record.h"

#include <openssl/sha.h>
#include <time.h>

static const char record_digits[] = "0123456789abcdef";

/* What a byte needs. In a hashed field nothing needs a JSON escape, because
 * whatever would is percent-encoded: its value and its JSON are the same. */
enum { RECORD_PLAIN, RECORD_ESCAPE, RECORD_HIGH };

static int
record_kind(unsigned char c)
{
    if (c >= 0x80) {
        return RECORD_HIGH;
    }

    return c < 0x20 || c == '"' || c == '\\' || c == 0x7f ? RECORD_ESCAPE
                                                          : RECORD_PLAIN;
}

/* 0 if all eight bytes are plain and none is one of two more. A difference
 * borrows from the next byte only at a byte that counts itself, so that the
 * lowest of those is always seen, and nothing is where there is none. */
static uint64_t
record_word(uint64_t w, unsigned char also, unsigned char other)
{
    const uint64_t ones = 0x0101010101010101u;
    const uint64_t tops = ones << 7;
    uint64_t quote = w ^ ones * '"';
    uint64_t slash = w ^ ones * '\\';
    uint64_t del = w ^ ones * 0x7f;
    uint64_t one = w ^ ones * also;
    uint64_t two = w ^ ones * other;

    return (w | (w - ones * 0x20) | (quote - ones) | (slash - ones) |
            (del - ones) | (one - ones) | (two - ones)) &
           tops;
}

/* How many bytes at the start of s surely are plain, and not one of those. */
static size_t
record_run(kars_str_t s, unsigned char also, unsigned char other)
{
    size_t i = 0;
    uint64_t w;

    for (; i + sizeof(w) <= s.len; i += sizeof(w)) {
        memcpy(&w, s.data + i, sizeof(w));
        if (record_word(w, also, other) != 0) {
            return i;
        }
    }
    for (; i < s.len; i++) {
        unsigned char c = (unsigned char) s.data[i];

        if (record_kind(c) != RECORD_PLAIN || c == also || c == other) {
            break;
        }
    }

    return i;
}

size_t
audit_utf8(const unsigned char *s, size_t len)
{
    unsigned char low = 0x80;
    unsigned char high = 0xbf;
    size_t n;

    if (len == 0) {
        return 0;
    }
    if (s[0] < 0x80) {
        return 1;
    }
    if (s[0] < 0xc2 || s[0] > 0xf4) {
        return 0;
    }

    n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : low;
    high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : high;
    if (len < n || s[1] < low || s[1] > high) {
        return 0;
    }

    for (size_t i = 2; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
    }

    return n;
}

static char *
record_put(char *p, const void *bytes, size_t n)
{
    if (n > 0) {
        memcpy(p, bytes, n);
    }
    return p + n;
}

#define RECORD_LIT(p, lit) record_put(p, lit, sizeof(lit) - 1)

/* One byte that JSON cannot hold as it is. At most 6 bytes. */
static size_t
record_escape(unsigned char c, char out[6])
{
    static const char from[] = "\"\\\n\r\t\b\f";
    static const char to[] = "\"\\nrtbf";
    const char *at = c == '\0' ? NULL : strchr(from, c);

    out[0] = '\\';
    if (at != NULL) {
        out[1] = to[at - from];
        return 2;
    }

    memcpy(out + 1, "u00", 3);
    out[4] = record_digits[c >> 4];
    out[5] = record_digits[c & 15];
    return 6;
}

/* s as the inside of a JSON string, cut to max bytes at a character. */
static char *
record_json(char *p, kars_str_t s, size_t max)
{
    const unsigned char *in = (const unsigned char *) s.data;
    const char *end = p + max;
    size_t i = s.len <= max ? record_run(s, '"', '"') : 0; /* all, mostly */

    p = record_put(p, s.data, i);
    while (i < s.len) {
        char tmp[6];
        const void *from = in + i;
        size_t n = 1;
        size_t used = 1;

        switch (record_kind(in[i])) {
        case RECORD_ESCAPE:
            n = record_escape(in[i], tmp);
            from = tmp;
            break;
        case RECORD_HIGH:
            n = audit_utf8(in + i, s.len - i);
            used = n;
            if (n == 0) {
                from = "\xef\xbf\xbd";
                n = 3;
                used = 1;
            }
            break;
        }

        if (n > (size_t) (end - p)) {
            break;
        }
        p = record_put(p, from, n);
        i += used;
    }

    return p;
}

/* s as a hashed field: percent-encoded where it must be. Loses nothing but
 * what max cuts. */
static char *
record_percent(char *p, kars_str_t s, size_t max)
{
    const unsigned char *in = (const unsigned char *) s.data;
    const char *end = p + max;
    size_t i = s.len <= max ? record_run(s, '|', '%') : 0;

    p = record_put(p, s.data, i);
    while (i < s.len) {
        size_t n = in[i] < 0x80 ? 1 : audit_utf8(in + i, s.len - i);
        int plain = n > 0 && record_kind(in[i]) != RECORD_ESCAPE &&
                    in[i] != '|' && in[i] != '%';

        if ((plain ? n : 3) > (size_t) (end - p)) {
            break;
        }
        if (plain) {
            p = record_put(p, in + i, n);
            i += n;
        } else {
            *p++ = '%';
            *p++ = "0123456789ABCDEF"[in[i] >> 4];
            *p++ = "0123456789ABCDEF"[in[i] & 15];
            i++;
        }
    }

    return p;
}

char *
audit_uint(char *p, uint64_t n)
{
    char tmp[20];
    size_t i = sizeof(tmp);

    do {
        tmp[--i] = (char) ('0' + n % 10);
        n /= 10;
    } while (n > 0);

    return record_put(p, tmp + i, sizeof(tmp) - i);
}

/* Limits of the encoded values; with the fixed text they stay below
 * AUDIT_RECORD_MAX (a test fills them all). */
enum {
    RECORD_AGENT = 256,
    RECORD_ACTION = 512,
    RECORD_DECISION = 32,
    RECORD_WORD = 64,
    RECORD_TRACE = 128,
    RECORD_NAME = 192,
    RECORD_PATH = 512,
    RECORD_MODEL = 256,
    RECORD_REASON = 240
};

static char *
record_str(char *p, kars_str_t key, kars_str_t value, size_t max, int always)
{
    if (value.len == 0 && !always) {
        return p;
    }

    p = record_put(p, key.data, key.len);
    *p++ = '"';
    p = record_json(p, value, max);
    *p++ = '"';
    return p;
}

static char *
record_int(char *p, kars_str_t key, int64_t value, int always)
{
    if (value <= 0 && !always) {
        return p;
    }

    p = record_put(p, key.data, key.len);
    return audit_uint(p, value < 0 ? 0 : (uint64_t) value);
}

/* The members between time_ms and prev_digest, each with its comma. */
static char *
record_ext(char *p, const audit_fields_t *f)
{
    int all = f->request != 0;

    p = record_str(p, KARS_STR(",\"trace\":"), f->trace, RECORD_TRACE, all);
    p = record_str(p, KARS_STR(",\"class\":"), f->klass, RECORD_WORD, all);
    p = record_str(p, KARS_STR(",\"route\":"), f->route, RECORD_NAME, all);
    p = record_str(p, KARS_STR(",\"method\":"), f->method, RECORD_WORD, all);
    p = record_str(p, KARS_STR(",\"path\":"), f->path, RECORD_PATH, all);
    p = record_int(p, KARS_STR(",\"status\":"), f->status, all);
    p = record_str(p, KARS_STR(",\"module\":"), f->module, RECORD_WORD, 0);
    p = record_str(p, KARS_STR(",\"rule\":"), f->rule, RECORD_NAME, 0);
    p = record_str(p, KARS_STR(",\"code\":"), f->code, RECORD_WORD, 0);
    p = record_str(p, KARS_STR(",\"reason\":"), f->reason, RECORD_REASON, 0);
    p = record_str(p, KARS_STR(",\"model\":"), f->model, RECORD_MODEL, 0);
    p = record_int(p, KARS_STR(",\"tokens_in\":"), f->tokens_in, 0);
    p = record_int(p, KARS_STR(",\"tokens_out\":"), f->tokens_out, 0);
    p = record_int(p, KARS_STR(",\"tokens_total\":"), f->tokens_total, 0);
    p = record_int(p, KARS_STR(",\"tokens_charged\":"), f->tokens_charged, 0);
    p = record_str(p, KARS_STR(",\"upstream\":"), f->upstream, RECORD_WORD, 0);
    p = record_int(p, KARS_STR(",\"attempts\":"), f->attempts, 0);
    p = record_int(p, KARS_STR(",\"bytes_in\":"), f->bytes_in, 0);
    p = record_int(p, KARS_STR(",\"bytes_out\":"), f->bytes_out, 0);
    p = record_int(p, KARS_STR(",\"duration_ms\":"), f->duration_ms, 0);
    p = record_int(p, KARS_STR(",\"refused\":"), f->refused, 0);

    if (f->torn != NULL) {
        p = RECORD_LIT(p, ",\"torn_bytes\":");
        p = audit_uint(p, f->torn_bytes);
        p = RECORD_LIT(p, ",\"torn_sha256\":\"");
        audit_hex(f->torn, AUDIT_SHA, p);
        p += AUDIT_HEX;
        *p++ = '"';
    }

    return p;
}

size_t
audit_draft(const audit_fields_t *f, void *at)
{
    audit_draft_t *d = at;
    char *start = d->text;
    char *p = record_percent(start, f->agent_id, RECORD_AGENT);

    d->agent_len = (uint16_t) (p - start);
    start = p;
    p = record_percent(p, f->action, RECORD_ACTION);
    d->action_len = (uint16_t) (p - start);
    start = p;
    p = record_percent(p, f->decision, RECORD_DECISION);
    d->decision_len = (uint16_t) (p - start);
    start = p;
    p = record_ext(p, f);
    d->ext_len = (uint16_t) (p - start);

    d->is_checkpoint = f->is_checkpoint;
    d->token = 0;

    size_t size = offsetof(audit_draft_t, text) + (size_t) (p - d->text);

    d->size = (uint32_t) ((size + 7) & ~(size_t) 7);
    return d->size;
}

kars_str_t
audit_sandbox(kars_str_t name, char *out)
{
    char *end = record_json(out, name, AUDIT_SANDBOX_MAX);

    return (kars_str_t){ out, (size_t) (end - out) };
}

size_t
audit_signed(const char *domain, uint64_t seq, const uint8_t digest[AUDIT_SHA],
             char *out)
{
    char *p = record_put(out, domain, strlen(domain));

    p = audit_uint(p, seq);
    *p++ = '\n';
    audit_hex(digest, AUDIT_SHA, p);
    return (size_t) (p + AUDIT_HEX - out);
}

/* The signature covers the digest before the checkpoint, and so all that went
 * before. Without a key the record stays a plain one. */
static char *
record_sign(char *p, const audit_chain_t *chain, const kars_signing_t *signing)
{
    char text[AUDIT_SIGNED_MAX];
    uint8_t key[32];
    uint8_t sig[64];
    size_t n =
        audit_signed(AUDIT_CHECKPOINT_DOMAIN, chain->seq, chain->digest, text);

    if (signing == NULL || signing->public_key(key) != KARS_OK ||
        signing->sign((kars_str_t){ text, n }, sig) != KARS_OK) {
        return p;
    }

    p = RECORD_LIT(p, ",\"key\":\"");
    audit_hex(key, sizeof(key), p);
    p = RECORD_LIT(p + 2 * sizeof(key), "\",\"sig\":\"");
    audit_hex(sig, sizeof(sig), p);
    p += 2 * sizeof(sig);
    *p++ = '"';
    return p;
}

size_t
audit_seal(audit_chain_t *chain, kars_str_t sandbox, const audit_draft_t *draft,
           uint64_t wall_ms, const kars_signing_t *signing, char *out)
{
    kars_str_t agent = { draft->text, draft->agent_len };
    kars_str_t action = { agent.data + agent.len, draft->action_len };
    kars_str_t decision = { action.data + action.len, draft->decision_len };
    kars_str_t ext = { decision.data + decision.len, draft->ext_len };
    kars_str_t prev = { chain->hash, chain->has_hash ? AUDIT_HEX : 0 };
    char *p = RECORD_LIT(out, "{\"sandbox\":\"");

    p = record_put(p, sandbox.data, sandbox.len);
    p = RECORD_LIT(p, "\",\"seq\":");
    p = audit_uint(p, chain->seq);
    p = RECORD_LIT(p, ",\"ts\":\"");

    kars_str_t ts = { p, AUDIT_TS };

    audit_ts(wall_ms, p);
    p = RECORD_LIT(p + AUDIT_TS, "\",\"agent_id\":\"");
    p = record_put(p, agent.data, agent.len);
    p = RECORD_LIT(p, "\",\"action\":\"");
    p = record_put(p, action.data, action.len);
    p = RECORD_LIT(p, "\",\"decision\":\"");
    p = record_put(p, decision.data, decision.len);
    p = RECORD_LIT(p, "\",\"prev_hash\":\"");
    p = record_put(p, prev.data, prev.len);
    p = RECORD_LIT(p, "\",\"hash\":\"");

    char hash[AUDIT_HEX];

    audit_hash(chain->seq, ts, agent, action, decision, prev, hash);
    p = record_put(p, hash, AUDIT_HEX);
    p = RECORD_LIT(p, "\",\"v\":1,\"time_ms\":");
    p = audit_uint(p, wall_ms);
    p = record_put(p, ext.data, ext.len);
    if (draft->is_checkpoint) {
        p = record_sign(p, chain, signing);
    }
    p = RECORD_LIT(p, ",\"prev_digest\":\"");
    audit_hex(chain->digest, AUDIT_SHA, p);
    p += AUDIT_HEX;
    *p++ = '"';

    audit_digest(chain->digest, (kars_str_t){ out, (size_t) (p - out) },
                 chain->digest);
    memcpy(chain->hash, hash, AUDIT_HEX);
    chain->has_hash = 1;
    chain->seq++;

    p = RECORD_LIT(p, ",\"digest\":\"");
    audit_hex(chain->digest, AUDIT_SHA, p);
    p = RECORD_LIT(p + AUDIT_HEX, "\"}\n");
    return (size_t) (p - out);
}

void
audit_hash(uint64_t seq, kars_str_t ts, kars_str_t agent_id, kars_str_t action,
           kars_str_t decision, kars_str_t prev_hash, char ret[AUDIT_HEX])
{
    const kars_str_t fields[] = { ts, agent_id, action, decision, prev_hash };
    uint8_t md[AUDIT_SHA];
    char number[20];
    SHA256_CTX sha;

    SHA256_Init(&sha);
    SHA256_Update(&sha, number, (size_t) (audit_uint(number, seq) - number));
    for (size_t i = 0; i < KARS_NELTS(fields); i++) {
        SHA256_Update(&sha, "|", 1);
        SHA256_Update(&sha, fields[i].data, fields[i].len);
    }
    SHA256_Final(md, &sha);
    audit_hex(md, sizeof(md), ret);
}

void
audit_digest(const uint8_t prev[AUDIT_SHA], kars_str_t bytes,
             uint8_t ret[AUDIT_SHA])
{
    SHA256_CTX sha;

    SHA256_Init(&sha);
    SHA256_Update(&sha, AUDIT_DOMAIN, sizeof(AUDIT_DOMAIN) - 1);
    SHA256_Update(&sha, prev, AUDIT_SHA);
    SHA256_Update(&sha, bytes.data, bytes.len);
    SHA256_Final(ret, &sha);
}

void
audit_sha256(kars_str_t bytes, uint8_t ret[AUDIT_SHA])
{
    SHA256_CTX sha;

    SHA256_Init(&sha);
    SHA256_Update(&sha, bytes.data, bytes.len);
    SHA256_Final(ret, &sha);
}

void
audit_hex(const uint8_t *bytes, size_t n, char *ret)
{
    for (size_t i = 0; i < n; i++) {
        ret[2 * i] = record_digits[bytes[i] >> 4];
        ret[2 * i + 1] = record_digits[bytes[i] & 15];
    }
}

/* Value of a hex digit, plus 1. */
static const uint8_t record_values[256] = {
    ['0'] = 1,  ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,
    ['6'] = 7,  ['7'] = 8,  ['8'] = 9,  ['9'] = 10, ['a'] = 11, ['b'] = 12,
    ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
};

int
audit_unhex(kars_str_t hex, uint8_t *ret, size_t n)
{
    const unsigned char *p = (const unsigned char *) hex.data;

    if (hex.len != 2 * n) {
        return 0;
    }

    for (size_t i = 0; i < n; i++) {
        unsigned int high = record_values[p[2 * i]];
        unsigned int low = record_values[p[2 * i + 1]];

        if (high == 0 || low == 0) {
            return 0;
        }
        ret[i] = (uint8_t) ((high - 1) << 4 | (low - 1));
    }

    return 1;
}

static char *
record_two(char *p, int n, char after)
{
    p[0] = (char) ('0' + n / 10 % 10);
    p[1] = (char) ('0' + n % 10);
    p[2] = after;
    return p + 3;
}

void
audit_ts(uint64_t wall_ms, char ret[AUDIT_TS])
{
    time_t seconds = (time_t) (wall_ms / 1000);
    struct tm tm;
    char *p = ret;

    if (gmtime_r(&seconds, &tm) == NULL || tm.tm_year > 8099) {
        memcpy(ret, "9999-12-31T23:59:59Z", AUDIT_TS);
        return;
    }

    p = record_two(p, (tm.tm_year + 1900) / 100, 0) - 1;
    p = record_two(p, (tm.tm_year + 1900) % 100, '-');
    p = record_two(p, tm.tm_mon + 1, '-');
    p = record_two(p, tm.tm_mday, 'T');
    p = record_two(p, tm.tm_hour, ':');
    p = record_two(p, tm.tm_min, ':');
    record_two(p, tm.tm_sec, 'Z');
}
