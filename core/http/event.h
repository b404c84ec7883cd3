/*
 * event.h - events of a stream for the filters that ask for them: one at a
 * time, whole, whatever the pieces that its bytes came in.
 *
 * Bytes of an event wait, as views, until its filter has seen it (at most
 * event_limit of them); then they go on as they came, or not at all, or others
 * in their place. Comments, and blocks without data, pass unseen.
 */
#ifndef KARS_HTTP_EVENT_H
#define KARS_HTTP_EVENT_H

#include "http/request.h"

struct kars_event_s {
    kars_str_t name;
    kars_str_t data; /* in the buffer of its filter's state */
    kars_req_t *r;   /* NULL: it cannot be replaced */
    kars_buf_t *out; /* what takes its place; NULL: nothing does */
};

kars_str_t kars__event_name(const kars_event_t *ev);
kars_str_t kars__event_data(const kars_event_t *ev);
/* OK; ERROR: a line end in the name, no memory, or not a filter's event. */
int kars__event_replace(kars_event_t *ev, kars_str_t name, kars_str_t data);

/* The body() of a filter with event(): what that returned, or ERROR for an
 * event that is too large; AGAIN: the rest of `in` is pending. */
int kars__events_body(kars_filter_t *f, const kars__filter_slot_t *slot,
                      kars_buf_t *in, uint32_t flags);
/* The continuation of an event ended with rc: as kars__events_body. */
int kars__events_woken(kars_filter_t *f, int rc);
/* What is ready to go on, before `in`. */
kars_buf_t *kars__events_before(kars_filter_t *f, kars_buf_t *in);
/* Nothing of this stream goes on any more. */
void kars__events_forget(kars_filter_t *f);

#endif
