/*
 * text.h - one entry of policy-status as JSON. Owns nothing.
 */
#ifndef KARS_STATUS_TEXT_H
#define KARS_STATUS_TEXT_H

#include "kars_module.h"

/* No entry for a name of n bytes is longer, whatever its state. */
#define STATUS_HEALTH_MAX(n) (6 * (n) + 200)

/* Writes one object of deployment_health; returns its length, or 0 if cap is
 * too small. */
size_t status_health(const kars_upstream_state_t *s, char *ret, size_t cap);

#endif
