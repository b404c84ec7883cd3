/* test_audit_store.c - the files: crashes, full disks, days, several workers.
 */
#include "audit/store.h"
#include "audit/verify.h"
#include "t.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define DAY1  1767225600000 /* 2026-01-01T00:00:00Z */
#define DAY   86400000
#define FILE1 "2026-01-01.jsonl"
#define FILE2 "2026-01-02.jsonl"

typedef struct {
    char dir[64];
    audit_shared_t shared;
    audit_store_t st;
    audit_queue_t q;
} site_t;

static void
site_open_store(site_t *s)
{
    kars_err_t err = { .size = sizeof(err) };

    CU_ASSERT_EQUAL_FATAL(
        audit_store_open(&s->st, t_str(s->dir), t_str("demo"), &err), KARS_OK);
    s->st.shared = &s->shared;
    s->st.checkpoint_records = 1000000;
}

static void
site_init(site_t *s)
{
    memset(s, 0, sizeof(*s));
    snprintf(s->dir, sizeof(s->dir), "/tmp/kars-audit-XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(s->dir));
    CU_ASSERT_EQUAL_FATAL(audit_queue_init(&s->q, 1 << 20), 0);
    site_open_store(s);
}

static void
site_done(site_t *s)
{
    DIR *dir = opendir(s->dir);
    const struct dirent *e;

    while (dir != NULL && (e = readdir(dir)) != NULL) {
        (void) unlinkat(dirfd(dir), e->d_name, 0);
    }
    if (dir != NULL) {
        (void) closedir(dir);
    }
    (void) rmdir(s->dir);
    audit_store_close(&s->st);
    audit_queue_done(&s->q);
}

/* The router ends and starts: what is shared is new, files stay. */
static void
site_restart(site_t *s)
{
    audit_store_close(&s->st);
    memset(&s->shared, 0, sizeof(s->shared));
    site_open_store(s);
}

static void
site_push(site_t *s, int n)
{
    for (int i = 0; i < n; i++) {
        audit_fields_t f = { .agent_id = t_str("agent-1"),
                             .action = t_str("data.read"),
                             .decision = t_str("allow"),
                             .path = t_str("/v1/chat/completions") };

        CU_ASSERT_PTR_NOT_NULL(audit_queue_push(&s->q, &f));
    }
}

static int
site_append(site_t *s, int n, uint64_t ms)
{
    size_t done;

    site_push(s, n);
    int rc = audit_store_append(&s->st, &s->q, ms, 0, &done);

    audit_queue_drop(&s->q, done);
    return rc;
}

/* The file's bytes; n is at most 1 MiB. */
static kars_str_t
site_read(site_t *s, const char *name)
{
    static char bytes[1 << 20];
    int fd = openat(s->st.dirfd, name, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd == -1 ? 0 : read(fd, bytes, sizeof(bytes));

    (void) close(fd);
    return (kars_str_t){ bytes, n > 0 ? (size_t) n : 0 };
}

static void
site_write(site_t *s, const char *name, const char *bytes, size_t n)
{
    int fd = openat(s->st.dirfd, name,
                    O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);

    CU_ASSERT_EQUAL(write(fd, bytes, n), (ssize_t) n);
    (void) close(fd);
}

/* All files, in order; returns the number of records, or -1: they do not
 * verify.
 */
static long
site_verify(site_t *s, uint64_t *ret_recoveries)
{
    audit_verify_t v = { 0 };
    audit_fault_t fault;
    static const char *const names[] = { FILE1, FILE2, "2026-01-03.jsonl" };

    for (size_t i = 0; i < KARS_NELTS(names); i++) {
        if (!audit_verify_file(&v, site_read(s, names[i]), &fault)) {
            return -1;
        }
    }
    if (ret_recoveries != NULL) {
        *ret_recoveries = v.recoveries;
    }
    return (long) v.records;
}

static void
test_audit_store_goes_on_after_a_restart(void)
{
    site_t s;

    site_init(&s);
    CU_ASSERT_EQUAL(site_append(&s, 3, DAY1), 0);
    /* Three and the first checkpoint. */
    CU_ASSERT_EQUAL(site_verify(&s, NULL), 4);
    CU_ASSERT_EQUAL(s.shared.chain.seq, 4);
    site_restart(&s);
    CU_ASSERT_EQUAL(site_append(&s, 3, DAY1 + 1000), 0);
    CU_ASSERT_EQUAL(s.shared.chain.seq, 8);
    CU_ASSERT_EQUAL(site_verify(&s, NULL), 8);
    site_done(&s);
}

static void
test_audit_store_closes_a_line_torn_anywhere(void)
{
    site_t s;
    kars_str_t whole;
    char copy[8192];
    uint64_t recoveries;

    site_init(&s);
    CU_ASSERT_EQUAL(site_append(&s, 1, DAY1), 0);
    CU_ASSERT_EQUAL(site_append(&s, 1, DAY1), 0);
    whole = site_read(&s, FILE1);
    CU_ASSERT_FATAL(whole.len < sizeof(copy));
    memcpy(copy, whole.data, whole.len);
    whole.data = copy;

    for (size_t n = 0; n <= whole.len; n++) {
        size_t lines = 0;

        for (size_t i = 0; i < n; i++) {
            lines += copy[i] == '\n';
        }
        (void) unlinkat(s.st.dirfd, FILE1, 0);
        site_write(&s, FILE1, copy, n);
        site_restart(&s);

        int torn = n > 0 && copy[n - 1] != '\n' && copy[n] != '\n';

        lines += n < whole.len && copy[n] == '\n'; /* only the LF is lost */

        CU_ASSERT_EQUAL(audit_store_ready(&s.st, DAY1, 0), 0);
        CU_ASSERT_EQUAL(site_append(&s, 1, DAY1), 0);
        CU_ASSERT_EQUAL(site_verify(&s, &recoveries), (long) lines + torn + 2);
        CU_ASSERT_EQUAL(recoveries, (uint64_t) torn);
        CU_ASSERT_EQUAL(memcmp(site_read(&s, FILE1).data, copy, n), 0);
    }
    site_done(&s);
}

static void
test_audit_store_goes_over_midnight_and_not_back(void)
{
    site_t s;

    site_init(&s);
    CU_ASSERT_EQUAL(site_append(&s, 2, DAY1), 0);
    CU_ASSERT_EQUAL(site_append(&s, 2, DAY1 + DAY), 0);
    CU_ASSERT_EQUAL(site_append(&s, 2, DAY1), 0); /* the clock went back */
    CU_ASSERT_EQUAL(site_verify(&s, NULL), 8);

    size_t n = site_read(&s, FILE1).len;

    site_restart(&s);
    CU_ASSERT_EQUAL(site_append(&s, 2, DAY1), 0);
    CU_ASSERT_EQUAL(site_read(&s, FILE1).len, n);
    CU_ASSERT_EQUAL(site_verify(&s, NULL), 11);

    /* Torn at the day's end: closed in the old file, then the new day. */
    site_write(&s, FILE2, "{\"sand", 7);
    site_restart(&s);
    CU_ASSERT_EQUAL(site_append(&s, 2, DAY1 + 2 * DAY), 0);
    CU_ASSERT_EQUAL(site_verify(&s, NULL), 15);

    /* The first line of a day torn. */
    (void) unlinkat(s.st.dirfd, "2026-01-03.jsonl", 0);
    site_write(&s, "2026-01-03.jsonl", "{\"s", 3);
    site_restart(&s);
    CU_ASSERT_EQUAL(site_append(&s, 1, DAY1 + 2 * DAY), 0);
    CU_ASSERT_EQUAL(site_verify(&s, NULL), 15);
    site_done(&s);
}

static ssize_t fault_limit; /* bytes that a write may still have */
static int fault_truncate;  /* errno of ftruncate(), or 0 */

static ssize_t
fault_write(int fd, const void *bytes, size_t n)
{
    if (fault_limit == 0) {
        errno = ENOSPC;
        return -1;
    }
    if ((ssize_t) n > fault_limit) {
        n = (size_t) fault_limit;
    }
    fault_limit -= (ssize_t) n;
    return write(fd, bytes, n);
}

static int
fault_ftruncate(int fd, off_t size)
{
    if (fault_truncate != 0) {
        errno = fault_truncate;
        return -1;
    }
    return ftruncate(fd, size);
}

static void
test_audit_store_loses_nothing_on_a_full_disk(void)
{
    for (int can_truncate = 0; can_truncate < 2; can_truncate++) {
        for (ssize_t limit = 0; limit < 2600; limit += 7) {
            site_t s;
            uint64_t recoveries;

            site_init(&s);
            s.st.io.write = fault_write;
            s.st.io.ftruncate = fault_ftruncate;
            fault_truncate = can_truncate ? 0 : EIO;
            fault_limit = limit;
            CU_ASSERT_EQUAL(site_append(&s, 5, DAY1), ENOSPC);
            fault_limit = 3; /* again, and the recovery is torn too */
            CU_ASSERT_EQUAL(site_append(&s, 1, DAY1), ENOSPC);
            fault_limit = 1 << 20;
            CU_ASSERT_EQUAL(site_append(&s, 1, DAY1), 0);
            CU_ASSERT_EQUAL(s.q.used, 0);

            long n = site_verify(&s, &recoveries);

            /* 7, a checkpoint, and what closes torn lines. */
            CU_ASSERT(n == 8 + (long) recoveries);
            CU_ASSERT(recoveries <= (can_truncate ? 0u : 2u));
            site_done(&s);
        }
    }
}

static void
test_audit_store_workers_share_a_chain(void)
{
    site_t a;
    site_t b;

    site_init(&a);
    CU_ASSERT_EQUAL(site_append(&a, 2, DAY1), 0);
    b = a;
    CU_ASSERT_EQUAL_FATAL(audit_queue_init(&b.q, 1 << 20), 0);
    site_open_store(&b);
    b.st.shared = &a.shared;
    CU_ASSERT_EQUAL(site_append(&b, 2, DAY1), 0);
    CU_ASSERT_EQUAL(site_append(&a, 2, DAY1 + DAY), 0);
    CU_ASSERT_EQUAL(site_append(&b, 2, DAY1 + DAY), 0);
    CU_ASSERT_EQUAL(site_verify(&a, NULL), 10);

    /* One dies after its write, before it said so. */
    audit_shared_t before = a.shared;
    size_t done;

    CU_ASSERT_EQUAL(site_append(&b, 1, DAY1 + DAY), 0);
    a.shared = before;
    site_push(&a, 1);
    CU_ASSERT_EQUAL(audit_store_append(&a.st, &a.q, DAY1 + DAY, 1, &done), 0);
    CU_ASSERT_EQUAL(site_verify(&a, NULL), 12);

    audit_store_close(&b.st);
    audit_queue_done(&b.q);
    site_done(&a);
}

static void
test_audit_store_says_when_records_vanish_under_it(void)
{
    site_t s;
    kars_str_t log;

    site_init(&s);
    CU_ASSERT_EQUAL(site_append(&s, 2, DAY1), 0);

    size_t keep = site_read(&s, FILE1).len;

    CU_ASSERT_EQUAL(site_append(&s, 2, DAY1), 0);
    CU_ASSERT_EQUAL(ftruncate(s.st.fd, (off_t) keep), 0);
    CU_ASSERT_EQUAL(site_append(&s, 1, DAY1), 0);
    log = site_read(&s, FILE1);
    CU_ASSERT_PTR_NOT_NULL(
        memmem(log.data, log.len, "\"code\":\"log_cut\"", 16));
    CU_ASSERT_EQUAL(s.shared.chain.seq, 7);
    CU_ASSERT_EQUAL(site_verify(&s, NULL), -1);

    /* The whole file. */
    CU_ASSERT_EQUAL(unlinkat(s.st.dirfd, FILE1, 0), 0);
    CU_ASSERT_EQUAL(site_append(&s, 1, DAY1), 0);
    CU_ASSERT_EQUAL(s.shared.chain.seq, 9);
    site_done(&s);
}

static int
test_sign(kars_str_t bytes, unsigned char ret_sig[64])
{
    memset(ret_sig, 0, 64);
    return KARS_ERROR;
}

static int
test_no_key(unsigned char ret_key[32])
{
    return KARS_ERROR;
}

static void
test_audit_store_checkpoints_when_due(void)
{
    static const kars_signing_t none = { sizeof(none), test_sign, test_no_key,
                                         NULL };
    site_t s;

    site_init(&s);
    s.st.signing = &none;
    s.st.checkpoint_records = 3;
    s.st.checkpoint_every_ms = 60000;
    CU_ASSERT_EQUAL(site_append(&s, 1, DAY1), 0); /* the first, at once */
    CU_ASSERT_EQUAL(s.shared.chain.seq, 2);
    CU_ASSERT_EQUAL(site_append(&s, 2, DAY1), 0);
    CU_ASSERT_EQUAL(s.shared.chain.seq, 4);
    CU_ASSERT_EQUAL(site_append(&s, 1, DAY1), 0); /* by number */
    CU_ASSERT_EQUAL(s.shared.chain.seq, 6);
    CU_ASSERT_EQUAL(site_append(&s, 0, DAY1 + 70000), 0); /* nothing new */
    CU_ASSERT_EQUAL(s.shared.chain.seq, 6);
    CU_ASSERT_EQUAL(site_append(&s, 1, DAY1 + 70000), 0); /* by time */
    CU_ASSERT_EQUAL(s.shared.chain.seq, 8);
    CU_ASSERT_EQUAL(site_verify(&s, NULL), 8);
    site_done(&s);
}

static unsigned char store_secret[64];
static uint8_t store_public[32];

static int
store_sign(kars_str_t bytes, unsigned char ret_sig[64])
{
    return crypto_sign_detached(ret_sig, NULL, (const void *) bytes.data,
                                bytes.len, store_secret) == 0
               ? KARS_OK
               : KARS_ERROR;
}

static int
store_public_key(unsigned char ret_key[32])
{
    memcpy(ret_key, store_public, 32);
    return KARS_OK;
}

static void
test_audit_store_finds_a_log_cut_before_its_head(void)
{
    static const unsigned char seed[32] = { 1 };
    static const kars_signing_t signing = { sizeof(signing), store_sign,
                                            store_public_key, NULL };
    site_t s;
    audit_head_t head;
    kars_err_t err = { .size = sizeof(err) };

    (void) crypto_sign_seed_keypair(store_public, store_secret, seed);
    site_init(&s);
    s.st.signing = &signing;
    CU_ASSERT_EQUAL(site_append(&s, 1, DAY1), 0);

    size_t keep = site_read(&s, FILE1).len;

    CU_ASSERT_EQUAL(site_append(&s, 2, DAY1), 0);
    CU_ASSERT_EQUAL(audit_store_head(&s.st, DAY1, &head), 1);
    CU_ASSERT_EQUAL(audit_head_write(s.st.dirfd, &head), 0);

    /* Whole: nothing is said. */
    site_restart(&s);
    s.st.signing = &signing;
    CU_ASSERT_EQUAL(audit_store_ready(&s.st, DAY1, 0), 0);
    CU_ASSERT_EQUAL(audit_store_check_head(&s.st, DAY1, &err), 0);
    CU_ASSERT_EQUAL(s.shared.chain.seq, 4);

    /* Cut while the router was down: said in a record, once. */
    CU_ASSERT_EQUAL(ftruncate(s.st.fd, (off_t) keep), 0);
    site_restart(&s);
    s.st.signing = &signing;
    CU_ASSERT_EQUAL(audit_store_ready(&s.st, DAY1, 0), 0);
    CU_ASSERT_EQUAL(audit_store_check_head(&s.st, DAY1, &err), EBADMSG);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "seq 1, the signed head names"));
    CU_ASSERT_EQUAL(audit_store_check_head(&s.st, DAY1, &err), 0);
    CU_ASSERT_EQUAL(site_append(&s, 1, DAY1), 0);
    CU_ASSERT_EQUAL(site_verify(&s, NULL), -1);
    site_done(&s);
}

static int fault_space; /* errno of fallocate(), or 0 */

static int
fault_fallocate(int fd, int mode, off_t at, off_t n)
{
    errno = fault_space;
    return fault_space == 0 ? 0 : -1;
}

static void
test_audit_store_reserves_ahead(void)
{
    site_t s;

    site_init(&s);
    s.st.io.fallocate = fault_fallocate;
    CU_ASSERT_EQUAL(audit_store_ready(&s.st, DAY1, 0), 0);
    CU_ASSERT_EQUAL(audit_store_reserved(&s.st, 1), 0);
    fault_space = ENOSPC;
    CU_ASSERT_EQUAL(audit_store_reserve(&s.st, 4096), ENOSPC);
    CU_ASSERT_EQUAL(audit_store_reserved(&s.st, 1), 0);
    fault_space = 0;
    CU_ASSERT_EQUAL(audit_store_reserve(&s.st, 4096), 0);
    CU_ASSERT_EQUAL(audit_store_reserved(&s.st, 4096), 1);
    CU_ASSERT_EQUAL(s.shared.reserved, 1 << 20);
    fault_space = EOPNOTSUPP; /* it cannot be known before */
    CU_ASSERT_EQUAL(audit_store_reserve(&s.st, 4 << 20), 0);
    CU_ASSERT_EQUAL(audit_store_reserved(&s.st, 4 << 20), 1);
    fault_space = 0;
    site_done(&s);
}

static void
test_audit_store_refuses_a_folder_it_cannot_use(void)
{
    audit_store_t st;
    kars_err_t err = { .size = sizeof(err) };

    CU_ASSERT_EQUAL(audit_store_open(&st, t_str("/nowhere/else/audit"),
                                     t_str("demo"), &err),
                    KARS_ERROR);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "/nowhere/else/audit"));
    CU_ASSERT_EQUAL(
        audit_store_open(&st, t_str("/dev/null"), t_str("demo"), &err),
        KARS_ERROR);
}

void
suite_audit_store(void)
{
    T_SUITE(audit_store);
    T_TEST(audit_store, test_audit_store_goes_on_after_a_restart);
    T_TEST(audit_store, test_audit_store_closes_a_line_torn_anywhere);
    T_TEST(audit_store, test_audit_store_goes_over_midnight_and_not_back);
    T_TEST(audit_store, test_audit_store_loses_nothing_on_a_full_disk);
    T_TEST(audit_store, test_audit_store_workers_share_a_chain);
    T_TEST(audit_store, test_audit_store_says_when_records_vanish_under_it);
    T_TEST(audit_store, test_audit_store_finds_a_log_cut_before_its_head);
    T_TEST(audit_store, test_audit_store_checkpoints_when_due);
    T_TEST(audit_store, test_audit_store_reserves_ahead);
    T_TEST(audit_store, test_audit_store_refuses_a_folder_it_cannot_use);
}
