/*
 * text.h - what foundry-auth decides about words alone: which
 * headers are credentials, which hosts a credential is bound to, what of a
 * secret's file is the key. Nothing here allocates or keeps anything.
 */
#ifndef KARS_FOUNDRY_AUTH_TEXT_H
#define KARS_FOUNDRY_AUTH_TEXT_H

#include "kars_module.h"

/* Could this request header carry a credential, or pass for one? */
int fauth_is_credential(kars_str_t name);

/*
 * The next "host:port" or "[v6]:port" of a list with commas; *rest is what
 * follows it. OK; DECLINED at the end of the list; ERROR for anything else.
 * The host borrows from the list, brackets removed.
 */
int fauth_next_host(kars_str_t *rest, kars_hostport_t *ret);

/* Is host:port one of the list? Hosts compare without case. */
int fauth_bound(kars_str_t list, kars_str_t host, int64_t port);

/* The key: without one line end at its end. Borrowed. */
kars_str_t fauth_key(kars_str_t secret);

/* Why this cannot be a key, or NULL. Says nothing of what is in it. */
const char *fauth_key_fault(kars_str_t key);

#endif
