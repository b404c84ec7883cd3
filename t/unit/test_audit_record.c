/* test_audit_record.c - the bytes of a record. */
#include "audit/record.h"
#include "t.h"

#include <stdio.h>

#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"

/* docs/audit-format.md */
static void
test_audit_hash_is_the_agt_profile(void)
{
    static const char first[] =
        "d49ff76bc66c02e0332515df3e83e34b6784e592e5369c0331176d9a12aea204";
    static const char second[] =
        "94c4c65df7146e1f2d4f467f0e851691a282a82499cbaf2844c69120fb84ac12";
    char hash[AUDIT_HEX];

    audit_hash(0, t_str("2026-01-01T00:00:00Z"), t_str("agent-1"),
               t_str("data.read"), t_str("allow"), t_str(""), hash);
    CU_ASSERT_EQUAL(memcmp(hash, first, AUDIT_HEX), 0);
    audit_hash(1, t_str("2026-01-01T00:00:01Z"), t_str("agent-1"),
               t_str("shell:rm"), t_str("deny"),
               (kars_str_t){ hash, AUDIT_HEX }, hash);
    CU_ASSERT_EQUAL(memcmp(hash, second, AUDIT_HEX), 0);
}

/* Seals one record and returns the line, terminated. */
static const char *
seal(const audit_fields_t *f, audit_chain_t *chain)
{
    static char line[AUDIT_RECORD_MAX + 1];
    uint64_t place[AUDIT_RECORD_MAX / 8];
    size_t size = audit_draft(f, place);

    CU_ASSERT(size <= sizeof(place));
    size_t n = audit_seal(chain, t_str("demo"), (void *) place, 1767225600123,
                          NULL, line);

    CU_ASSERT(n <= AUDIT_RECORD_MAX);
    line[n] = '\0';
    return line;
}

static void
test_audit_record_has_its_keys_in_their_order(void)
{
    audit_chain_t chain = { 0 };
    audit_fields_t f = {
        .agent_id = t_str("agent-1"),
        .action = t_str("data.read"),
        .decision = t_str("allow"),
        .request = 1,
        .trace = t_str("t1"),
        .klass = t_str("agent"),
        .route = t_str("/v1/x"),
        .method = t_str("GET"),
        .path = t_str("/v1/x"),
        .status = 200,
        .tokens_in = 7,
        .duration_ms = 12,
    };
    const char *line = seal(&f, &chain);
    const char want[] =
        "{\"sandbox\":\"demo\",\"seq\":0,\"ts\":\"2026-01-01T00:00:00Z\","
        "\"agent_id\":\"agent-1\",\"action\":\"data.read\","
        "\"decision\":\"allow\",\"prev_hash\":\"\",\"hash\":"
        "\"d49ff76bc66c02e0332515df3e83e34b6784e592e5369c0331176d9a12aea204\","
        "\"v\":1,\"time_ms\":1767225600123,\"trace\":\"t1\",\"class\":"
        "\"agent\",\"route\":\"/v1/x\",\"method\":\"GET\",\"path\":\"/v1/x\","
        "\"status\":200,\"tokens_in\":7,\"duration_ms\":12,\"prev_digest\":"
        "\"" ZEROS "\",\"digest\":\"";

    CU_ASSERT_EQUAL(strncmp(line, want, sizeof(want) - 1), 0);
    CU_ASSERT_EQUAL(strlen(line), sizeof(want) - 1 + AUDIT_HEX + 3);
    CU_ASSERT_STRING_EQUAL(line + strlen(line) - 3, "\"}\n");
    CU_ASSERT_EQUAL(chain.seq, 1);
    CU_ASSERT_EQUAL(chain.has_hash, 1);
}

/* clang-format off */
static const struct { const char *label; const char *in; size_t len; const char *out; } escapes[] = {
    { "plain",        "abc", 3,              "abc" },
    { "quote",        "a\"b\\c", 5,          "a\\\"b\\\\c" },
    { "short forms",  "\n\r\t\b\f", 5,       "\\n\\r\\t\\b\\f" },
    { "NUL",          "a\0b", 3,             "a\\u0000b" },
    { "control",      "\x1f\x7f", 2,         "\\u001f\\u007f" },
    { "UTF-8",        "\xc3\xa9\xf0\x9f\x98\x80", 6, "\xc3\xa9\xf0\x9f\x98\x80" },
    { "lone byte",    "a\xff" "b", 3,        "a\xef\xbf\xbd" "b" },
    { "cut sequence", "\xe2\x82", 2,         "\xef\xbf\xbd\xef\xbf\xbd" },
    { "overlong",     "\xc0\xaf", 2,         "\xef\xbf\xbd\xef\xbf\xbd" },
    { "surrogate",    "\xed\xa0\x80", 3,     "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
    { "beyond",       "\xf4\x90\x80\x80", 4, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
    { "separator",    "a|b%", 4,             "a|b%" },
};

static const struct { const char *label; const char *in; size_t len; const char *out; } percents[] = {
    { "plain",     "http:GET /x", 11, "http:GET /x" },
    { "separator", "a|b", 3,          "a%7Cb" },
    { "percent",   "100%", 4,         "100%25" },
    { "LF, NUL",   "\n\0", 2,         "%0A%00" },
    { "quote",     "\"\\\x7f", 3,     "%22%5C%7F" },
    { "UTF-8",     "\xc3\xa9", 2,     "\xc3\xa9" },
    { "not UTF-8", "\xff\xc3", 2,     "%FF%C3" },
};
/* clang-format on */

static void
test_audit_record_escapes(void)
{
    for (size_t i = 0; i < KARS_NELTS(escapes); i++) {
        char out[AUDIT_SANDBOX_MAX];
        kars_str_t s =
            audit_sandbox((kars_str_t){ escapes[i].in, escapes[i].len }, out);

        T_CASE(escapes[i].label);
        CU_ASSERT(kars_str_eq(s, t_str(escapes[i].out)));
    }
}

/* Each byte at each place of a text that is longer than a machine's word. */
static void
test_audit_record_escapes_every_byte_wherever_it_stands(void)
{
    for (unsigned c = 0; c < 0x80; c++) {
        int special = c < 0x20 || c == '"' || c == '\\' || c == 0x7f;
        int coded = special || c == '|' || c == '%';

        for (size_t at = 0; at < 20; at++) {
            uint64_t place[AUDIT_RECORD_MAX / 8];
            const audit_draft_t *d = (const audit_draft_t *) place;
            char in[20], out[AUDIT_SANDBOX_MAX], want[32], hex[4];
            audit_fields_t f = { .agent_id = { in, sizeof(in) } };

            memset(in, 'a', sizeof(in));
            in[at] = (char) c;
            if (!special) {
                kars_str_t s =
                    audit_sandbox((kars_str_t){ in, sizeof(in) }, out);

                CU_ASSERT_TRUE(s.len == sizeof(in) &&
                               memcmp(s.data, in, s.len) == 0);
            }

            (void) snprintf(hex, sizeof(hex), coded ? "%%%02X" : "%c", c);
            (void) snprintf(want, sizeof(want), "%.*s%s%.*s", (int) at, in, hex,
                            (int) (sizeof(in) - at - 1), in + at + 1);
            (void) audit_draft(&f, place);
            CU_ASSERT_TRUE(kars_str_eq((kars_str_t){ d->text, d->agent_len },
                                       t_str(want)));
            if (special) {
                kars_str_t s =
                    audit_sandbox((kars_str_t){ in, sizeof(in) }, out);

                CU_ASSERT_TRUE(s.len > sizeof(in) &&
                               memcmp(s.data, in, at) == 0 &&
                               s.data[at] == '\\');
                CU_ASSERT_TRUE(memcmp(s.data + s.len - (sizeof(in) - at - 1),
                                      in + at + 1, sizeof(in) - at - 1) == 0);
            }
        }
    }
}

static void
test_audit_record_percent_encodes_hashed_fields(void)
{
    for (size_t i = 0; i < KARS_NELTS(percents); i++) {
        audit_chain_t chain = { 0 };
        kars_str_t in = { percents[i].in, percents[i].len };
        audit_fields_t f = { .agent_id = in, .action = in, .decision = in };
        char want[200];

        snprintf(want, sizeof(want),
                 "\"agent_id\":\"%s\",\"action\":\"%s\",\"decision\":\"%s\",",
                 percents[i].out, percents[i].out, percents[i].out);
        T_CASE(percents[i].label);
        CU_ASSERT_PTR_NOT_NULL(strstr(seal(&f, &chain), want));
    }
}

static void
test_audit_record_never_outgrows_its_limit(void)
{
    static const char fill[] = { 'a', '"', '|', '\0', '\xff', '\x01' };
    static char big[70000];

    for (size_t i = 0; i < sizeof(fill); i++) {
        kars_str_t s = { big, sizeof(big) };
        audit_fields_t f = {
            .agent_id = s,
            .action = s,
            .decision = s,
            .request = 1,
            .trace = s,
            .klass = s,
            .route = s,
            .method = s,
            .path = s,
            .status = INT64_MAX,
            .module = s,
            .rule = s,
            .code = s,
            .reason = s,
            .model = s,
            .tokens_in = INT64_MAX,
            .tokens_out = INT64_MAX,
            .tokens_total = INT64_MAX,
            .tokens_charged = INT64_MAX,
            .upstream = s,
            .attempts = INT64_MAX,
            .bytes_in = INT64_MAX,
            .bytes_out = INT64_MAX,
            .duration_ms = INT64_MAX,
            .refused = INT64_MAX,
        };
        uint64_t place[AUDIT_RECORD_MAX / 8];
        char line[AUDIT_RECORD_MAX];
        char sandbox[AUDIT_SANDBOX_MAX];
        audit_chain_t chain = { .seq = UINT64_MAX - 1, .has_hash = 1 };

        memset(big, fill[i], sizeof(big));
        memset(chain.hash, '0', sizeof(chain.hash));
        CU_ASSERT(audit_draft(&f, place) <= AUDIT_RECORD_MAX - 512);
        CU_ASSERT(audit_seal(&chain, audit_sandbox(s, sandbox), (void *) place,
                             UINT64_MAX, NULL, line) <= AUDIT_RECORD_MAX);
    }
}

/* clang-format off */
static const struct { uint64_t ms; const char *ts; } times[] = {
    { 0, "1970-01-01T00:00:00Z" },
    { 1709164799999, "2024-02-28T23:59:59Z" },
    { 1709164800000, "2024-02-29T00:00:00Z" },
    { 1767225600123, "2026-01-01T00:00:00Z" },
    { UINT64_MAX, "9999-12-31T23:59:59Z" },
};
/* clang-format on */

static void
test_audit_ts_is_utc_in_whole_seconds(void)
{
    for (size_t i = 0; i < KARS_NELTS(times); i++) {
        char ts[AUDIT_TS];

        T_CASE(times[i].ts);
        audit_ts(times[i].ms, ts);
        CU_ASSERT_EQUAL(memcmp(ts, times[i].ts, AUDIT_TS), 0);
    }
}

static void
test_audit_unhex_takes_lower_case_only(void)
{
    uint8_t b[2];

    CU_ASSERT_EQUAL(audit_unhex(t_str("00ff"), b, 2), 1);
    CU_ASSERT_EQUAL(b[1], 0xff);
    CU_ASSERT_EQUAL(audit_unhex(t_str("00FF"), b, 2), 0);
    CU_ASSERT_EQUAL(audit_unhex(t_str("00f"), b, 2), 0);
    CU_ASSERT_EQUAL(audit_unhex(t_str("00fg"), b, 2), 0);
}

void
suite_audit_record(void)
{
    T_SUITE(audit_record);
    T_TEST(audit_record, test_audit_hash_is_the_agt_profile);
    T_TEST(audit_record, test_audit_record_has_its_keys_in_their_order);
    T_TEST(audit_record, test_audit_record_escapes);
    T_TEST(audit_record,
           test_audit_record_escapes_every_byte_wherever_it_stands);
    T_TEST(audit_record, test_audit_record_percent_encodes_hashed_fields);
    T_TEST(audit_record, test_audit_record_never_outgrows_its_limit);
    T_TEST(audit_record, test_audit_ts_is_utc_in_whole_seconds);
    T_TEST(audit_record, test_audit_unhex_takes_lower_case_only);
}
