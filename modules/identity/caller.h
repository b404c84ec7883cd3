/*
 * caller.h - which class a user id, a certificate or a token belongs to.
 *
 * The lists are filled at load and only read afterwards. Pure.
 */
#ifndef IDENTITY_CALLER_H
#define IDENTITY_CALLER_H

#include "kars_module.h"

typedef struct caller_uid_s {
    struct caller_uid_s *next;
    uint32_t uid;
    uint32_t klass; /* ACCESS_* */
} caller_uid_t;

typedef struct caller_token_s {
    struct caller_token_s *next;
    kars_secret_t *secret;
    uint32_t klass;
} caller_token_t;

typedef struct caller_name_s {
    struct caller_name_s *next;
    kars_str_t name; /* an alternative name: DNS, or a URI */
    uint32_t klass;
} caller_name_t;

/* A user id as decimal digits; ERROR for anything else. The largest number is
 * "no user" to the kernel, and none here. */
int caller_parse_uid(kars_str_t text, uint32_t *ret);

/* The class of a user, or 0. */
uint32_t caller_class_of_uid(const caller_uid_t *list, uint32_t uid);

/* The class of a certificate with these alternative names, by the last row of
 * the list that has one of them; or 0. DNS names have no case. */
uint32_t caller_class_of_names(const caller_name_t *list, kars_list_t names);

/* The token in "Bearer <token>"; empty when it is not of that form. */
kars_str_t caller_bearer(kars_str_t authorization);

/* Are both the same? The time it takes tells nothing about either: their
 * digests are compared, which are equally long. An empty secret equals none. */
int caller_same_token(kars_str_t token, kars_str_t secret);

#endif
