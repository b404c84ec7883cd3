/* test_signing_keys.c - seeds, files, signatures. */
#include "signing/keys.h"
#include "t.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* RFC 8032, test 1. */
#define SEED "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
#define PUB  "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"

/* clang-format off */
static const struct { const char *label; const char *text; size_t len; int rc; } seeds[] = {
    { "hex",            SEED,        64, KARS_OK },
    { "hex, LF",        SEED "\n",   65, KARS_OK },
    { "hex, CR LF",     SEED "\r\n", 66, KARS_OK },
    { "raw",            "0123456789abcdef0123456789abcdef", 32, KARS_OK },
    { "raw, LF",        "0123456789abcdef0123456789abcdef\n", 33, KARS_OK },
    { "empty",          "", 0, KARS_ERROR },
    { "short",          SEED, 63, KARS_ERROR },
    { "two LF too many", SEED "\n\n\n", 67, KARS_ERROR },
    { "not hex",        "zz61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", 64, KARS_ERROR },
};
/* clang-format on */

static void
test_signing_keys_load(void)
{
    for (size_t i = 0; i < KARS_NELTS(seeds); i++) {
        signing_keys_t keys;
        kars_err_t err = { .size = sizeof(err) };

        T_CASE(seeds[i].label);
        CU_ASSERT_EQUAL(
            signing_keys_load(
                &keys, (kars_str_t){ seeds[i].text, seeds[i].len }, &err),
            seeds[i].rc);
        CU_ASSERT_EQUAL(keys.secret != NULL, seeds[i].rc == KARS_OK);
        CU_ASSERT_PTR_NULL(strstr(err.text, "9d61")); /* no secret is told */
        signing_keys_done(&keys);
    }
}

static void
test_signing_keys_agree_with_rfc_8032(void)
{
    static const unsigned char want[] = { 0xe5, 0x56, 0x43, 0x00,
                                          0xc3, 0x60, 0xac, 0x72 };
    signing_keys_t keys;
    unsigned char sig[64];
    char hex[SIGNING_HEX];

    CU_ASSERT_EQUAL(signing_keys_load(&keys, t_str(SEED), NULL), KARS_OK);
    signing_keys_hex(&keys, hex);
    CU_ASSERT_STRING_EQUAL(hex, PUB);
    CU_ASSERT_EQUAL(signing_keys_sign(&keys, t_str(""), sig), KARS_OK);
    CU_ASSERT_EQUAL(memcmp(sig, want, sizeof(want)), 0);
    CU_ASSERT_EQUAL(signing_keys_verify(keys.public_key, t_str(""), sig),
                    KARS_OK);
    CU_ASSERT_EQUAL(signing_keys_verify(keys.public_key, t_str("x"), sig),
                    KARS_ERROR);
    signing_keys_done(&keys);
    CU_ASSERT_EQUAL(signing_keys_sign(&keys, t_str(""), sig), KARS_ERROR);
}

static void
test_signing_keys_make_never_overwrites(void)
{
    char dir[] = "/tmp/kars-signing-XXXXXX";
    char path[64];
    char pub[64];
    signing_keys_t made;
    signing_keys_t read;
    struct stat st;
    kars_err_t err = { .size = sizeof(err) };

    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/k", dir);
    snprintf(pub, sizeof(pub), "%s/k.pub", dir);
    CU_ASSERT_EQUAL(signing_keys_make(path, &made, &err), KARS_OK);
    CU_ASSERT_EQUAL(stat(path, &st), 0);
    CU_ASSERT_EQUAL(st.st_mode & 07777, 0600);
    CU_ASSERT_EQUAL(stat(pub, &st), 0);
    CU_ASSERT_EQUAL(st.st_size, 65);
    CU_ASSERT_EQUAL(signing_keys_read(path, &read, &err), KARS_OK);
    CU_ASSERT_EQUAL(memcmp(made.public_key, read.public_key, 32), 0);
    signing_keys_done(&made);
    signing_keys_done(&read);

    CU_ASSERT_EQUAL(signing_keys_make(path, &made, &err), KARS_ERROR);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "never overwritten"));
    CU_ASSERT_EQUAL(unlink(path), 0);
    CU_ASSERT_EQUAL(signing_keys_make(path, &made, &err), KARS_ERROR);
    CU_ASSERT_EQUAL(access(path, F_OK), -1); /* the .pub was there */
    CU_ASSERT_EQUAL(signing_keys_read(path, &read, &err), KARS_ERROR);

    (void) unlink(pub);
    (void) rmdir(dir);
}

void
suite_signing_keys(void)
{
    T_SUITE(signing_keys);
    T_TEST(signing_keys, test_signing_keys_load);
    T_TEST(signing_keys, test_signing_keys_agree_with_rfc_8032);
    T_TEST(signing_keys, test_signing_keys_make_never_overwrites);
}
