/* test_audit_verify.c - what the verifier finds: every edit, drop, cut. */
#include "audit/verify.h"
#include "t.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define NOW 1767225600000

static unsigned char test_secret[64];
static uint8_t test_public[32];

static int
test_sign(kars_str_t bytes, unsigned char ret_sig[64])
{
    return crypto_sign_detached(ret_sig, NULL, (const void *) bytes.data,
                                bytes.len, test_secret) == 0
               ? KARS_OK
               : KARS_ERROR;
}

static int
test_public_key(unsigned char ret_key[32])
{
    memcpy(ret_key, test_public, 32);
    return KARS_OK;
}

static const kars_signing_t test_signing = {
    .size = sizeof(kars_signing_t),
    .sign = test_sign,
    .public_key = test_public_key,
};

static void
use_key(unsigned char seed)
{
    unsigned char bytes[32];

    memset(bytes, seed, sizeof(bytes));
    (void) crypto_sign_seed_keypair(test_public, test_secret, bytes);
}

/* A log in memory, with where its lines begin. */
typedef struct {
    char bytes[16384];
    size_t n;
    size_t line[16];
    size_t nlines;
    audit_chain_t chain;
} log_t;

static void
log_fields(log_t *log, const audit_fields_t *f)
{
    uint64_t place[AUDIT_RECORD_MAX / 8];

    (void) audit_draft(f, place);
    log->line[log->nlines++] = log->n;
    log->n += audit_seal(&log->chain, t_str("demo"), (void *) place,
                         NOW + log->chain.seq * 1000, &test_signing,
                         log->bytes + log->n);
}

static void
log_add(log_t *log, const char *action)
{
    audit_fields_t f = {
        .agent_id = t_str("agent-1"),
        .action = t_str(action),
        .decision = t_str("allow"),
        .is_checkpoint = strcmp(action, "audit:checkpoint") == 0,
        .request = strcmp(action, "audit:checkpoint") != 0,
        .trace = t_str("0af7651916cd43dd8448eb211c80319c"),
        .path = t_str("/v1/chat/completions"),
        .model = t_str("m \"1\""),
        .status = 200,
    };

    log_fields(log, &f);
}

/* Six records; the fourth is a signed checkpoint. */
static void
log_six(log_t *log)
{
    memset(log, 0, sizeof(*log));
    for (int i = 0; i < 6; i++) {
        log_add(log, i == 3 ? "audit:checkpoint" : "data.read");
    }
    log->line[log->nlines] = log->n;
}

static kars_str_t
log_str(const log_t *log)
{
    return (kars_str_t){ log->bytes, log->n };
}

/* The log with what the head says of `whole`. 1: good. */
static int
verify_as(const log_t *whole, kars_str_t bytes, const uint8_t *key,
          audit_fault_t *fault)
{
    audit_verify_t v = { .key = key };
    audit_fault_t unused;

    fault = fault == NULL ? &unused : fault;
    if (whole != NULL) {
        v.has_head = 1;
        v.head_seq = whole->chain.seq - 1;
        memcpy(v.head_digest, whole->chain.digest, AUDIT_SHA);
    }

    /* Memory of the exact size, so that ASan sees a read behind it. */
    char *copy = malloc(bytes.len + 1);

    memcpy(copy, bytes.data, bytes.len);
    copy = realloc(copy, bytes.len > 0 ? bytes.len : 1);
    bytes.data = copy;

    int rc = audit_verify_file(&v, bytes, fault) && audit_verify_end(&v, fault);

    free(copy);
    return rc;
}

static void
test_audit_verify_accepts_a_log(void)
{
    log_t log;
    audit_fault_t fault = { 0 };

    use_key(1);
    log_six(&log);
    CU_ASSERT_EQUAL(verify_as(&log, log_str(&log), test_public, &fault), 1);
    CU_ASSERT_EQUAL(verify_as(NULL, log_str(&log), NULL, &fault), 1);
    CU_ASSERT_EQUAL(verify_as(NULL, t_str(""), NULL, &fault), 1);
}

static void
test_audit_verify_finds_every_flipped_bit(void)
{
    log_t log;
    size_t missed = 0;

    use_key(1);
    log_six(&log);
    for (size_t i = 0; i < log.n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            log.bytes[i] ^= (char) (1 << bit);
            missed += (size_t) verify_as(NULL, log_str(&log), NULL, NULL);
            log.bytes[i] ^= (char) (1 << bit);
        }
    }
    CU_ASSERT_EQUAL(missed, 0);
}

static void
test_audit_verify_finds_every_cut(void)
{
    log_t log;
    size_t missed = 0;

    use_key(1);
    log_six(&log);
    for (size_t n = 0; n < log.n; n++) {
        missed +=
            (size_t) verify_as(&log, (kars_str_t){ log.bytes, n }, NULL, NULL);
    }
    CU_ASSERT_EQUAL(missed, 0);
}

static void
log_append_line(log_t *to, const log_t *from, size_t i)
{
    size_t n = from->line[i + 1] - from->line[i];

    memcpy(to->bytes + to->n, from->bytes + from->line[i], n);
    to->n += n;
}

static void
test_audit_verify_finds_drop_repeat_and_swap(void)
{
    log_t log;
    log_t other;
    audit_fault_t fault;

    use_key(1);
    log_six(&log);
    for (size_t at = 0; at < 6; at++) {
        for (int how = 0; how < 3; how++) {
            other.n = 0;
            for (size_t i = 0; i < 6; i++) {
                if (how == 0 && i == at) {
                    continue; /* dropped */
                }
                size_t from = how < 2 || at == 5 ? i
                              : i == at          ? at + 1
                              : i == at + 1      ? at
                                                 : i;

                log_append_line(&other, &log, from);
                if (how == 1 && i == at) {
                    log_append_line(&other, &log, i); /* repeated */
                }
            }
            if (how == 2 && at == 5) {
                continue;
            }
            if (how == 0 && at == 0) {
                continue; /* a log may begin within its chain: said, not bad */
            }
            CU_ASSERT_EQUAL(verify_as(&log, log_str(&other), NULL, &fault), 0);
            if (how == 0 && at < 5) {
                CU_ASSERT_EQUAL(fault.line, at + 1);
                CU_ASSERT_EQUAL(fault.seq, at + 1);
                CU_ASSERT_PTR_NOT_NULL(strstr(fault.text, "dropped"));
            }
            if (how == 1) {
                CU_ASSERT_EQUAL(fault.line, at + 2);
                CU_ASSERT_PTR_NOT_NULL(strstr(fault.text, "repeated"));
            }
        }
    }
}

static void
test_audit_verify_wants_the_start(void)
{
    log_t log;
    audit_verify_t none = { 0 };
    audit_verify_t trust = { .trust_start = 1 };
    audit_verify_t named = { .has_start = 1, .start_seq = 1 };
    audit_fault_t fault;

    use_key(1);
    log_six(&log);

    kars_str_t rest = { log.bytes + log.line[2], log.n - log.line[2] };

    CU_ASSERT_EQUAL(audit_verify_file(&none, rest, &fault), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(fault.text, "before it are missing"));

    CU_ASSERT_EQUAL(audit_verify_file(&trust, rest, &fault), 1);
    CU_ASSERT_EQUAL(trust.start_unchecked, 1);
    CU_ASSERT_EQUAL(trust.first_seq, 2);
    CU_ASSERT_EQUAL(trust.records, 4);

    CU_ASSERT_EQUAL(audit_verify_file(&named, rest, &fault), 0); /* not that */

    audit_verify_t first = { 0 };
    kars_str_t before = { log.bytes, log.line[2] };

    CU_ASSERT_EQUAL(audit_verify_file(&first, before, &fault), 1);
    named = (audit_verify_t){ .has_start = 1, .start_seq = 1 };
    memcpy(named.start_digest, first.chain.digest, AUDIT_SHA);
    CU_ASSERT_EQUAL(audit_verify_file(&named, rest, &fault), 1);
    CU_ASSERT_EQUAL(named.start_unchecked, 0);
}

static void
test_audit_verify_goes_over_files(void)
{
    log_t log;
    audit_fault_t fault;

    use_key(1);
    log_six(&log);
    for (size_t i = 0; i <= 6; i++) {
        audit_verify_t v = { .key = test_public };
        kars_str_t a = { log.bytes, log.line[i] };
        kars_str_t b = { log.bytes + log.line[i], log.n - log.line[i] };

        CU_ASSERT(audit_verify_file(&v, a, &fault));
        CU_ASSERT(audit_verify_file(&v, b, &fault));
        CU_ASSERT(audit_verify_end(&v, &fault));
        CU_ASSERT_EQUAL(v.records, 6);
    }

    audit_verify_t v = { 0 };

    CU_ASSERT(
        audit_verify_file(&v, (kars_str_t){ log.bytes, log.line[2] }, &fault));
    CU_ASSERT(!audit_verify_file(
        &v, (kars_str_t){ log.bytes + log.line[3], log.n - log.line[3] },
        &fault));
    CU_ASSERT_EQUAL(fault.line, 1);
}

static void
test_audit_verify_rewritten_log_fails_with_the_key(void)
{
    log_t log;
    log_t forged;
    uint8_t ours[32];
    audit_fault_t fault;

    use_key(1);
    log_six(&log);
    memcpy(ours, test_public, sizeof(ours));
    use_key(2);
    log_six(&forged);
    CU_ASSERT_EQUAL(verify_as(NULL, log_str(&forged), NULL, &fault), 1);
    CU_ASSERT_EQUAL(verify_as(NULL, log_str(&forged), ours, &fault), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(fault.text, "another key"));
    CU_ASSERT_EQUAL(fault.seq, 3);

    /* Another key's signature under our key's name. */
    memcpy(test_public, ours, sizeof(ours));
    log_six(&forged);
    CU_ASSERT_EQUAL(verify_as(NULL, log_str(&forged), ours, &fault), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(fault.text, "bad signature"));

    /* No signature at all. */
    memset(&forged, 0, sizeof(forged));
    log_add(&forged, "data.read");
    CU_ASSERT_EQUAL(verify_as(NULL, log_str(&forged), ours, &fault), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(fault.text, "nothing"));
    CU_ASSERT_EQUAL(verify_as(&log, log_str(&forged), NULL, &fault), 0);
}

/* A torn line, and the record that closes it. */
static void
log_torn(log_t *log, const char *torn, size_t n, const char *hashed,
         uint64_t torn_bytes)
{
    uint8_t sha[AUDIT_SHA];
    audit_fields_t f = {
        .agent_id = t_str("demo"),
        .action = t_str("audit:recovery"),
        .decision = t_str("success"),
        .torn = sha,
        .torn_bytes = torn_bytes,
    };

    audit_sha256((kars_str_t){ hashed, torn_bytes }, sha);
    memcpy(log->bytes + log->n, torn, n);
    log->n += n;
    log->bytes[log->n++] = '\n';
    log_fields(log, &f);
}

static void
test_audit_verify_accepts_a_torn_line_only_with_its_recovery(void)
{
    static const char line[] = "{\"sandbox\":\"demo\",\"seq\":6,\"t";
    size_t n = sizeof(line) - 1;
    log_t log;
    log_t other;
    audit_fault_t fault;

    use_key(1);
    log_six(&log);
    log_torn(&log, line, n, line, n);
    log_add(&log, "data.read");
    CU_ASSERT_EQUAL(verify_as(&log, log_str(&log), test_public, &fault), 1);

    /* Torn twice, torn at once, torn in its last byte. */
    log_six(&log);
    log_torn(&log, "a\n\nb", 4, "a\n\nb", 4);
    log_torn(&log, "", 0, "", 0);
    CU_ASSERT_EQUAL(verify_as(&log, log_str(&log), test_public, &fault), 1);

    /* Not the bytes that it names. */
    log_six(&log);
    log_torn(&log, line, n, "{\"sandbox\":\"demo\",\"seq\":7,\"t", n);
    CU_ASSERT_EQUAL(verify_as(NULL, log_str(&log), NULL, &fault), 0);
    CU_ASSERT_EQUAL(fault.line, 7);
    log_six(&log);
    log_torn(&log, line, n, line, n - 1);
    CU_ASSERT_EQUAL(verify_as(NULL, log_str(&log), NULL, &fault), 0);

    /* A whole record that was edited is no torn line, though the router
     * closed it as one. */
    log_six(&log);
    other = log;
    memset(&log, 0, sizeof(log));
    log_add(&log, "data.read");
    other.bytes[other.line[1] + 1] = 'x';
    log_torn(&log, other.bytes + other.line[1],
             other.line[2] - other.line[1] - 1, other.bytes + other.line[1],
             other.line[2] - other.line[1] - 1);
    CU_ASSERT_EQUAL(verify_as(NULL, log_str(&log), NULL, &fault), 0);
    CU_ASSERT_EQUAL(fault.line, 2);
}

static void
test_audit_verify_reports_what_the_router_found_cut(void)
{
    audit_fields_t f = {
        .agent_id = t_str("demo"),
        .action = t_str("audit:recovery"),
        .decision = t_str("failure"),
        .code = t_str("log_cut"),
        .reason = t_str("3 records before this one are missing"),
    };
    log_t log;
    audit_fault_t fault;

    use_key(1);
    log_six(&log);
    log_fields(&log, &f);
    CU_ASSERT_EQUAL(verify_as(NULL, log_str(&log), NULL, &fault), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(fault.text, "3 records"));
}

/* Upstream's eight keys. */
static size_t
legacy_line(char *out, size_t cap, uint64_t seq, const char *json_agent,
            const char *agent, char hash[AUDIT_HEX + 1], const char *prev)
{
    audit_hash(seq, t_str("2026-01-01T00:00:00Z"), t_str(agent), t_str("a"),
               t_str("allow"), t_str(prev), hash);
    hash[AUDIT_HEX] = '\0';
    return (size_t) snprintf(
        out, cap,
        "{\"sandbox\":\"s\",\"seq\":%llu,\"ts\":\"2026-01-01T00:00:00Z\","
        "\"agent_id\":\"%s\",\"action\":\"a\",\"decision\":\"allow\","
        "\"prev_hash\":\"%s\",\"hash\":\"%s\"}\n",
        (unsigned long long) seq, json_agent, prev, hash);
}

static void
test_audit_verify_reads_upstreams_lines(void)
{
    char log[4096];
    char h[3][AUDIT_HEX + 1];
    size_t n = 0;
    audit_verify_t v = { 0 };
    audit_fault_t fault;

    n += legacy_line(log + n, sizeof(log) - n, 0, "x\\u00e9\\n\\ud83d\\ude00",
                     "x\xc3\xa9\n\xf0\x9f\x98\x80", h[0], "");
    n += legacy_line(log + n, sizeof(log) - n, 1, "b", "b", h[1], h[0]);
    /* It began anew. */
    n += legacy_line(log + n, sizeof(log) - n, 0, "c", "c", h[2], "");
    CU_ASSERT_EQUAL(audit_verify_file(&v, (kars_str_t){ log, n }, &fault), 1);
    CU_ASSERT_EQUAL(v.legacy, 3);

    /* Ours goes on from there; a line without a digest after it is bad. */
    log_t ours = { .chain = { .seq = 1, .has_hash = 1 } };

    memcpy(ours.chain.hash, h[2], AUDIT_HEX);
    log_add(&ours, "data.read");
    CU_ASSERT_EQUAL(audit_verify_file(&v, log_str(&ours), &fault), 1);
    n = legacy_line(log, sizeof(log), 0, "c", "c", h[2], "");
    CU_ASSERT_EQUAL(audit_verify_file(&v, (kars_str_t){ log, n }, &fault), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(fault.text, "no digest"));
}

static void
test_audit_verify_is_fast(void)
{
    size_t cap = 100000 * 900;
    char *log = malloc(cap);
    size_t n = 0;
    log_t one = { 0 };
    audit_verify_t v = { 0 };
    audit_fault_t fault;
    struct timespec a;
    struct timespec b;

    for (int i = 0; i < 100000 && n + AUDIT_RECORD_MAX < cap; i++) {
        one.n = one.nlines = 0;
        log_add(&one, "http:POST /v1/chat/completions");
        memcpy(log + n, one.bytes, one.n);
        n += one.n;
    }
    clock_gettime(CLOCK_MONOTONIC, &a);
    CU_ASSERT(audit_verify_file(&v, (kars_str_t){ log, n }, &fault));
    clock_gettime(CLOCK_MONOTONIC, &b);
    CU_ASSERT_EQUAL(v.records, 100000);
    if (getenv("AUDIT_BENCH") != NULL) {
        printf("verify: %.1f ms for 100000 records, %zu bytes\n",
               (double) (b.tv_sec - a.tv_sec) * 1e3 +
                   (double) (b.tv_nsec - a.tv_nsec) / 1e6,
               n);
    }
    free(log);
}

void
suite_audit_verify(void)
{
    T_SUITE(audit_verify);
    T_TEST(audit_verify, test_audit_verify_accepts_a_log);
    T_TEST(audit_verify, test_audit_verify_finds_every_flipped_bit);
    T_TEST(audit_verify, test_audit_verify_finds_every_cut);
    T_TEST(audit_verify, test_audit_verify_finds_drop_repeat_and_swap);
    T_TEST(audit_verify, test_audit_verify_wants_the_start);
    T_TEST(audit_verify, test_audit_verify_goes_over_files);
    T_TEST(audit_verify, test_audit_verify_rewritten_log_fails_with_the_key);
    T_TEST(audit_verify,
           test_audit_verify_accepts_a_torn_line_only_with_its_recovery);
    T_TEST(audit_verify, test_audit_verify_reports_what_the_router_found_cut);
    T_TEST(audit_verify, test_audit_verify_reads_upstreams_lines);
    T_TEST(audit_verify, test_audit_verify_is_fast);
}
