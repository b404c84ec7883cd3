/* test_audit_command.c - what `audit verify` says, and how it exits. */
#include "audit/command.h"
#include "audit/head.h"
#include "t.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static unsigned char command_secret[64];
static uint8_t command_public[32];

static int
command_sign(kars_str_t bytes, unsigned char ret_sig[64])
{
    return crypto_sign_detached(ret_sig, NULL, (const void *) bytes.data,
                                bytes.len, command_secret) == 0
               ? KARS_OK
               : KARS_ERROR;
}

static int
command_public_key(unsigned char ret_key[32])
{
    memcpy(ret_key, command_public, 32);
    return KARS_OK;
}

static const kars_signing_t command_signing = {
    .size = sizeof(kars_signing_t),
    .sign = command_sign,
    .public_key = command_public_key,
};

static char command_dir[64];
static char command_text[8192];

static void
command_file(const char *name, const char *text, size_t n)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", command_dir, name);
    FILE *f = fopen(path, "w");

    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    CU_ASSERT_EQUAL(fwrite(text, 1, n, f), n);
    (void) fclose(f);
}

static void
command_key(const char *name, unsigned char seed)
{
    unsigned char bytes[32];
    char hex[66];

    memset(bytes, seed, sizeof(bytes));
    (void) crypto_sign_seed_keypair(command_public, command_secret, bytes);
    (void) sodium_bin2hex(hex, sizeof(hex), command_public, 32);
    hex[64] = '\n';
    command_file(name, hex, 65);
}

/* Two days of three records, a checkpoint in each, and the head. */
static void
command_site(void)
{
    audit_chain_t chain = { 0 };
    audit_head_t head;
    char text[16384];

    snprintf(command_dir, sizeof(command_dir), "/tmp/kars-verify-XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(command_dir));
    command_key("other.pub", 2);
    command_key("key.pub", 1);

    for (int day = 1; day <= 2; day++) {
        size_t n = 0;
        char name[32];

        for (int i = 0; i < 3; i++) {
            uint64_t place[AUDIT_RECORD_MAX / 8];
            audit_fields_t f = { .agent_id = t_str("a"),
                                 .action = i == 1 ? t_str("audit:checkpoint")
                                                  : t_str("data.read"),
                                 .decision = t_str("allow"),
                                 .is_checkpoint = i == 1 };

            (void) audit_draft(&f, place);
            n += audit_seal(&chain, t_str("demo"), (void *) place,
                            1767225600000, &command_signing, text + n);
        }
        snprintf(name, sizeof(name), "2026-01-0%d.jsonl", day);
        command_file(name, text, n);
    }

    audit_head_make(&chain, 1767225600000, &command_signing, &head);
    command_file("head.json", text, audit_head_text(&head, text));
}

static void
command_done(void)
{
    static const char *const names[] = { "other.pub", "key.pub", "head.json",
                                         "2026-01-01.jsonl",
                                         "2026-01-02.jsonl" };
    char path[128];

    for (size_t i = 0; i < KARS_NELTS(names); i++) {
        snprintf(path, sizeof(path), "%s/%s", command_dir, names[i]);
        (void) unlink(path);
    }
    CU_ASSERT_EQUAL(rmdir(command_dir), 0);
}

/* Runs it in command_dir; words are separated by blanks. */
static int
command_run(const char *words)
{
    char copy[512];
    char *argv[16];
    int argc = 0;
    char *save = NULL;
    char here[4096];

    snprintf(copy, sizeof(copy), "audit %s", words);
    for (char *w = strtok_r(copy, " ", &save); w != NULL && argc < 16;
         w = strtok_r(NULL, " ", &save)) {
        argv[argc++] = w;
    }

    memset(command_text, 0, sizeof(command_text));
    FILE *f = fmemopen(command_text, sizeof(command_text) - 1, "w");

    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    CU_ASSERT_PTR_NOT_NULL_FATAL(getcwd(here, sizeof(here)));
    CU_ASSERT_EQUAL(chdir(command_dir), 0);
    int rc = audit_command_run(argc, argv, f, f);

    CU_ASSERT_EQUAL(chdir(here), 0);
    (void) fclose(f);
    return rc;
}

#define F1 "2026-01-01.jsonl"
#define F2 "2026-01-02.jsonl"

/* clang-format off */
static const struct { const char *words; int rc; const char *says; } commands[] = {
    { "verify " F1 " " F2, 0, "ok, 6 records, seq 0 to 5; signatures not checked; end checked (head.json, seq 5)" },
    { "verify " F1 " " F2 " --key key.pub", 0, "signed up to seq 5; end checked" },
    { "verify --key key.pub " F2, 1, "the records before it are missing" },
    { "verify --key key.pub --start trust " F2, 0, "start not checked; signed up to seq 5" },
    { "verify --start 2:0000000000000000000000000000000000000000000000000000000000000000 " F2, 1, "does not follow the record that --start names" },
    { "verify --start 2 " F2, 2, "not SEQ:DIGEST" },
    { "verify " F1, 1, "cut" },
    { "verify " F2 " " F1, 1, F2 ":1: seq 3: the records before it are missing" },
    { "verify --start trust " F2 " " F1, 1, F1 ":1: seq 0: seq 6 was expected" },
    { "verify " F1 " " F2 " --key other.pub", 1, "another key" },
    { "verify " F1 " " F2 " --head 9:0000000000000000000000000000000000000000000000000000000000000000", 1, "cut" },
    { "verify " F1 " " F2 " --head 2:0000000000000000000000000000000000000000000000000000000000000000", 1, F1 ":3: seq 2: is not the record that the head names" },
    { "verify", 2, "usage" },
    { "", 2, "usage" },
    { "check " F1, 2, "usage" },
    { "verify " F1 " --key", 2, "usage" },
    { "verify " F1 " --what", 2, "usage" },
    { "verify " F1 " --key none.pub", 2, "none.pub" },
    { "verify " F1 " --key " F1, 2, "64 hex digits" },
    { "verify " F1 " --head 5", 2, "SEQ:DIGEST" },
    { "verify none.jsonl", 2, "none.jsonl" },
    { "verify .", 2, "directory" },
};
/* clang-format on */

static void
test_audit_command_says_what_it_checked(void)
{
    command_site();
    for (size_t i = 0; i < KARS_NELTS(commands); i++) {
        T_CASE(commands[i].words);
        CU_ASSERT_EQUAL(command_run(commands[i].words), commands[i].rc);
        CU_ASSERT_PTR_NOT_NULL(strstr(command_text, commands[i].says));
    }
    command_done();
}

static void
test_audit_command_without_a_head_says_so(void)
{
    char path[128];

    command_site();
    snprintf(path, sizeof(path), "%s/head.json", command_dir);
    CU_ASSERT_EQUAL(unlink(path), 0);
    CU_ASSERT_EQUAL(command_run("verify " F1 " " F2 " --key key.pub"), 0);
    CU_ASSERT_PTR_NOT_NULL(
        strstr(command_text, "signed up to seq 3; end not checked"));
    CU_ASSERT_EQUAL(command_run("verify " F1), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(command_text, "end not checked"));

    command_file("head.json", "{}\n", 3);
    CU_ASSERT_EQUAL(command_run("verify " F1 " " F2), 1);
    CU_ASSERT_PTR_NOT_NULL(strstr(command_text, "not a head"));
    command_done();
}

void
suite_audit_command(void)
{
    T_SUITE(audit_command);
    T_TEST(audit_command, test_audit_command_says_what_it_checked);
    T_TEST(audit_command, test_audit_command_without_a_head_says_so);
}
