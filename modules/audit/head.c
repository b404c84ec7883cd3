/* head.c - see head.h. */
#include "audit/head.h"

#include "audit/line.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <unistd.h>

void
audit_head_make(const audit_chain_t *chain, uint64_t wall_ms,
                const kars_signing_t *signing, audit_head_t *ret)
{
    char text[AUDIT_SIGNED_MAX];

    memset(ret, 0, sizeof(*ret));
    ret->seq = chain->seq - 1;
    memcpy(ret->digest, chain->digest, AUDIT_SHA);
    audit_ts(wall_ms, ret->ts);

    size_t n = audit_signed(AUDIT_HEAD_DOMAIN, ret->seq, ret->digest, text);

    ret->is_signed =
        signing != NULL && signing->public_key(ret->key) == KARS_OK &&
        signing->sign((kars_str_t){ text, n }, ret->sig) == KARS_OK;
}

size_t
audit_head_text(const audit_head_t *head, char *out)
{
    char digest[AUDIT_HEX];
    char key[64];
    char sig[128];
    int n;

    audit_hex(head->digest, AUDIT_SHA, digest);
    audit_hex(head->key, sizeof(head->key), key);
    audit_hex(head->sig, sizeof(head->sig), sig);
    n = snprintf(out, AUDIT_HEAD_MAX,
                 "{\"seq\":%llu,\"digest\":\"%.64s\",\"ts\":\"%.20s\"",
                 (unsigned long long) head->seq, digest, head->ts);
    if (head->is_signed) {
        n += snprintf(out + n, AUDIT_HEAD_MAX - (size_t) n,
                      ",\"key\":\"%.64s\",\"sig\":\"%.128s\"", key, sig);
    }
    n += snprintf(out + n, AUDIT_HEAD_MAX - (size_t) n, "}\n");
    return (size_t) n;
}

int
audit_head_parse(kars_str_t text, audit_head_t *ret)
{
    audit_scan_t s = { text.data, text.data + text.len };
    kars_str_t digest;
    kars_str_t ts;
    kars_str_t key;
    kars_str_t sig;

    memset(ret, 0, sizeof(*ret));
    if (text.len == 0 || !audit_scan_lit(&s, "{\"seq\":") ||
        !audit_scan_uint(&s, &ret->seq) ||
        !audit_scan_lit(&s, ",\"digest\":") || !audit_scan_str(&s, &digest) ||
        !audit_scan_lit(&s, ",\"ts\":") || !audit_scan_str(&s, &ts) ||
        ts.len != AUDIT_TS || !audit_unhex(digest, ret->digest, AUDIT_SHA)) {
        return 0;
    }
    memcpy(ret->ts, ts.data, AUDIT_TS);

    if (audit_scan_lit(&s, ",\"key\":")) {
        if (!audit_scan_str(&s, &key) || !audit_scan_lit(&s, ",\"sig\":") ||
            !audit_scan_str(&s, &sig) ||
            !audit_unhex(key, ret->key, sizeof(ret->key)) ||
            !audit_unhex(sig, ret->sig, sizeof(ret->sig))) {
            return 0;
        }
        ret->is_signed = 1;
    }

    return audit_scan_lit(&s, "}\n") && s.p == s.end;
}

int
audit_head_signed_by(const audit_head_t *head, const uint8_t key[32])
{
    char text[AUDIT_SIGNED_MAX];
    size_t n = audit_signed(AUDIT_HEAD_DOMAIN, head->seq, head->digest, text);

    return head->is_signed && memcmp(head->key, key, 32) == 0 &&
           crypto_sign_verify_detached(head->sig, (const unsigned char *) text,
                                       n, key) == 0;
}

static int
head_fill(int fd, const char *text, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, text, n);

        if (done == -1 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return done == -1 ? errno : EIO;
        }
        text += done;
        n -= (size_t) done;
    }

    return fsync(fd) == -1 ? errno : 0;
}

int
audit_head_write(int dirfd, const audit_head_t *head)
{
    char text[AUDIT_HEAD_MAX];
    char tmp[64];
    size_t n = audit_head_text(head, text);

    snprintf(tmp, sizeof(tmp), ".head.json.%ld", (long) getpid());

    int fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);

    if (fd == -1) {
        return errno;
    }

    int rc = head_fill(fd, text, n);

    (void) close(fd);
    if (rc == 0 && renameat(dirfd, tmp, dirfd, AUDIT_HEAD_FILE) == -1) {
        rc = errno;
    }
    if (rc != 0) {
        (void) unlinkat(dirfd, tmp, 0);
        return rc;
    }

    return fsync(dirfd) == -1 ? errno : 0;
}

int
audit_head_read(int dirfd, audit_head_t *ret)
{
    char text[AUDIT_HEAD_MAX];
    int fd = openat(dirfd, AUDIT_HEAD_FILE, O_RDONLY | O_CLOEXEC);

    if (fd == -1) {
        return errno;
    }

    ssize_t n = pread(fd, text, sizeof(text), 0);
    int rc = n == -1 ? errno : 0;

    (void) close(fd);
    if (rc != 0) {
        return rc;
    }

    return audit_head_parse((kars_str_t){ text, (size_t) n }, ret) ? 0 : EINVAL;
}
