/*
 * keys.h - Ed25519 keys as files have them, and in guarded memory.
 *
 * A secret file holds a seed: 64 hex digits, or 32 raw bytes; one newline may
 * follow. Its public key stands in FILE.pub as 64 hex digits and a newline.
 */
#ifndef SIGNING_KEYS_H
#define SIGNING_KEYS_H

#include "kars_module.h"

#define SIGNING_HEX 65 /* a public key in hex, terminated */

/* One pair; the secret half lies in sodium_malloc() memory. */
typedef struct {
    unsigned char *secret; /* NULL: no key */
    unsigned char public_key[32];
} signing_keys_t;

/* From the bytes of a secret file. KARS_OK, or ERROR: they are not a seed. */
int signing_keys_load(signing_keys_t *keys, kars_str_t text, kars_err_t *err);

/* Zeroes and frees. */
void signing_keys_done(signing_keys_t *keys);

int signing_keys_sign(const signing_keys_t *keys, kars_str_t bytes,
                      unsigned char ret_sig[64]);
int signing_keys_verify(const unsigned char key[32], kars_str_t bytes,
                        const unsigned char sig[64]);
void signing_keys_hex(const signing_keys_t *keys, char ret[SIGNING_HEX]);

/* A new pair in `path` (0600) and `path`.pub. Never overwrites. */
int signing_keys_make(const char *path, signing_keys_t *ret, kars_err_t *err);

/* Reads the pair of a secret file. */
int signing_keys_read(const char *path, signing_keys_t *ret, kars_err_t *err);

#endif
