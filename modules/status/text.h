/*
 * text.h - entries of policy-status as JSON. Owns nothing.
 */
#ifndef KARS_STATUS_TEXT_H
#define KARS_STATUS_TEXT_H

#include "kars_module.h"

/* No entry for a name of n bytes is longer, whatever its state. */
#define STATUS_HEALTH_MAX(n) (6 * (n) + 200)

/* Writes one object of deployment_health; returns its length, or 0 if cap is
 * too small. */
size_t status_health(const kars_upstream_state_t *s, char *ret, size_t cap);

/* No entry for a kind and a path of n bytes together is longer. */
#define STATUS_ERROR_MAX      512
#define STATUS_WATCHED_MAX(n) (6 * ((n) + STATUS_ERROR_MAX) + 240)

/* Writes one object of entries: kind, digest ("sha256:..." or null),
 * source_path, loaded_at (RFC 3339 in UTC with milliseconds, or null),
 * last_error (null, or its first 512 bytes). Returns as above. */
size_t status_watched(const kars_watch_state_t *s, char *ret, size_t cap);

#endif
