/*
 * recheck.h - requests that last: asked again whenever a policy is published.
 *
 * Whatever makes a request long-lived (an event stream, an answer without an
 * end, a tunnel, a WebSocket) adds it here when its decision is made and its
 * head is out. After every publication, once for those of one turn, the
 * `recheck` hooks of the modules that are active on its route run, in load
 * order: OK, or a refusal that ends it. A hook does not wait, and it decides by
 * kars_snapshot_now(): the request itself keeps what it began with.
 */
#ifndef KARS_HTTP_RECHECK_H
#define KARS_HTTP_RECHECK_H

#include "http/runtime.h"

/*
 * From now on the request is rechecked, until it is done. end(r, denial) ends
 * it after a refusal whose facts (for log and audit) are set already; it may
 * free this request, and no other. NULL: its upstream is cancelled; an event
 * stream between two events ends with an error event and [DONE]
 * (docs/compat.md), anything else is cut.
 */
void kars__lasting_add(kars_req_t *r,
                       void (*end)(kars_req_t *r, const kars_denial_t *denial));
void kars__lasting_del(kars_req_t *r); /* harmless when it was not added */

/* Something was published: all of them, later in this turn. */
void kars__recheck_soon(kars_cycle_t *c);

#endif
