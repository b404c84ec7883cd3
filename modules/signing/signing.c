/*
 * signing.c - the module: Ed25519 with the router's own key, for others.
 *
 * Provides signing/1. The key is the file of `signing_key`; it stays in memory
 * that other code cannot reach by accident, and is never logged. Without the
 * directive there is no key, and sign() says so.
 */
#include "signing/keys.h"

#include <stdio.h>

typedef struct {
    kars_secret_t *key;
} signing_conf_t;

static signing_keys_t signing_keys; /* of the worker */

static int
signing_sign(kars_str_t bytes, unsigned char ret_sig[64])
{
    return signing_keys_sign(&signing_keys, bytes, ret_sig);
}

static int
signing_public_key(unsigned char ret_key[32])
{
    if (signing_keys.secret == NULL) {
        return KARS_ERROR;
    }

    memcpy(ret_key, signing_keys.public_key, 32);
    return KARS_OK;
}

static int
signing_worker_start(kars_cycle_t *cycle, kars_err_t *err)
{
    const signing_conf_t *sc = kars_cycle_conf(cycle);
    kars_err_t why = { .size = sizeof(why) };

    signing_keys_done(&signing_keys);
    if (sc->key == NULL) {
        return KARS_OK;
    }

    if (signing_keys_load(&signing_keys, kars_secret(sc->key), &why) !=
        KARS_OK) {
        return kars_err(err, 0, "signing_key: %s", why.text);
    }
    return KARS_OK;
}

static void
signing_worker_stop(kars_cycle_t *cycle)
{
    signing_keys_done(&signing_keys);
}

/* `signing keygen FILE`, `signing pub FILE` */
static int
signing_command(kars_cycle_t *cycle, int argc, char **argv)
{
    signing_keys_t keys;
    kars_err_t err = { .size = sizeof(err) };
    char hex[SIGNING_HEX];
    int rc;

    if (argc == 3 && strcmp(argv[1], "keygen") == 0) {
        rc = signing_keys_make(argv[2], &keys, &err);
    } else if (argc == 3 && strcmp(argv[1], "pub") == 0) {
        rc = signing_keys_read(argv[2], &keys, &err);
    } else {
        fprintf(stderr, "usage: kars-router signing keygen FILE | pub FILE\n");
        return 2;
    }

    if (rc != KARS_OK) {
        fprintf(stderr, "signing %s: %s\n", argv[1], err.text);
        return 1;
    }

    signing_keys_hex(&keys, hex);
    printf("%s\n", hex);
    signing_keys_done(&keys);
    return 0;
}

/* clang-format off */
static const kars_directive_t signing_directives[] = {
    { .name = "signing_key", .at = KARS_AT_MAIN, .type = KARS_T_SECRET,
      .offset = offsetof(signing_conf_t, key),
      .doc = "the router's Ed25519 seed: 64 hex digits or 32 bytes" },
    { 0 },
};

static const kars_signing_t signing_service = {
    .size = sizeof(kars_signing_t),
    .sign = signing_sign,
    .public_key = signing_public_key,
    .verify = signing_keys_verify,
};

static const kars_service_t signing_provides[] = {
    { "signing/1", &signing_service },
    { 0 },
};

static const kars_command_t signing_commands[] = {
    { "signing", signing_command,
      "keygen FILE: make a key pair; pub FILE: print the public key",
      KARS_CMD_NOCONF },
    { 0 },
};
/* clang-format on */

KARS_MODULE(signing) = {
    KARS_MODULE_HEAD,
    .name = "signing",
    .version = "1.0.0",
    .conf_size = sizeof(signing_conf_t),
    .directives = signing_directives,
    .provides = signing_provides,
    .commands = signing_commands,
    .worker_start = signing_worker_start,
    .worker_stop = signing_worker_stop,
};
