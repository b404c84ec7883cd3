/* test_audit_head.c - head.json: its text, its signature, its file. */
#include "audit/head.h"
#include "t.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static unsigned char head_secret[64];
static uint8_t head_public[32];

static int
head_sign(kars_str_t bytes, unsigned char ret_sig[64])
{
    return crypto_sign_detached(ret_sig, NULL, (const void *) bytes.data,
                                bytes.len, head_secret) == 0
               ? KARS_OK
               : KARS_ERROR;
}

static int
head_public_key(unsigned char ret_key[32])
{
    memcpy(ret_key, head_public, 32);
    return KARS_OK;
}

static const kars_signing_t head_signing = {
    .size = sizeof(kars_signing_t),
    .sign = head_sign,
    .public_key = head_public_key,
};

static void
head_make(audit_head_t *head, const kars_signing_t *signing)
{
    static const unsigned char seed[32] = { 1 };
    audit_chain_t chain = { .seq = 43, .has_hash = 1, .digest = { 0xab } };

    (void) crypto_sign_seed_keypair(head_public, head_secret, seed);
    audit_head_make(&chain, 1767225600000, signing, head);
}

static void
test_audit_head_reads_what_it_wrote(void)
{
    const kars_signing_t *signers[] = { NULL, &head_signing };

    for (size_t i = 0; i < KARS_NELTS(signers); i++) {
        audit_head_t head;
        audit_head_t back;
        char text[AUDIT_HEAD_MAX];

        head_make(&head, signers[i]);
        CU_ASSERT_EQUAL(head.seq, 42);
        size_t n = audit_head_text(&head, text);

        CU_ASSERT(audit_head_parse((kars_str_t){ text, n }, &back));
        CU_ASSERT_EQUAL(memcmp(&head, &back, sizeof(head)), 0);
        CU_ASSERT_EQUAL(audit_head_signed_by(&back, head_public), (int) i);
    }
}

static void
test_audit_head_notices_every_flipped_bit(void)
{
    audit_head_t head;
    char text[AUDIT_HEAD_MAX];
    size_t missed = 0;

    head_make(&head, &head_signing);
    size_t n = audit_head_text(&head, text);

    for (size_t i = 0; i < n; i++) {
        if (i >= 87 && i < 113) {
            continue; /* ts is told, not signed */
        }
        for (int bit = 0; bit < 8; bit++) {
            audit_head_t back;

            text[i] ^= (char) (1 << bit);
            missed += audit_head_parse((kars_str_t){ text, n }, &back) &&
                      audit_head_signed_by(&back, head_public);
            text[i] ^= (char) (1 << bit);
        }
    }
    CU_ASSERT_EQUAL(missed, 0);

    for (size_t cut = 0; cut < n; cut++) {
        audit_head_t back;

        CU_ASSERT(!audit_head_parse((kars_str_t){ text, cut }, &back));
    }
}

static void
test_audit_head_replaces_its_file(void)
{
    char dir[] = "/tmp/kars-head-XXXXXX";
    audit_head_t head;
    audit_head_t back;

    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    CU_ASSERT_EQUAL(audit_head_read(fd, &back), ENOENT);
    head_make(&head, &head_signing);
    CU_ASSERT_EQUAL(audit_head_write(fd, &head), 0);
    head.seq++;
    CU_ASSERT_EQUAL(audit_head_write(fd, &head), 0);
    CU_ASSERT_EQUAL(audit_head_read(fd, &back), 0);
    CU_ASSERT_EQUAL(back.seq, 43);
    CU_ASSERT(!audit_head_signed_by(&back, head_public)); /* of seq 42 */
    CU_ASSERT_EQUAL(unlinkat(fd, AUDIT_HEAD_FILE, 0), 0);
    (void) close(fd);
    CU_ASSERT_EQUAL(rmdir(dir), 0); /* nothing else was left */
}

void
suite_audit_head(void)
{
    T_SUITE(audit_head);
    T_TEST(audit_head, test_audit_head_reads_what_it_wrote);
    T_TEST(audit_head, test_audit_head_notices_every_flipped_bit);
    T_TEST(audit_head, test_audit_head_replaces_its_file);
}
