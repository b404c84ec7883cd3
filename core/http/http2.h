/*
 * http2.h - HTTP/2 towards clients (RFC 9113): many requests at once on a
 * connection. Frames and HPACK are nghttp2's; what a request is, what may be
 * held and how much of anything a client may do is ours.
 *
 * A connection begins as HTTP/1; the 24 bytes that no HTTP/1 request can be
 * make it HTTP/2 (prior knowledge), unless `http2 off`. There is no upgrade
 * from HTTP/1.1.
 */
#ifndef KARS_HTTP_HTTP2_H
#define KARS_HTTP_HTTP2_H

#include "http/conn.h"

#define KARS__HTTP2_PREFACE 24u /* bytes that a client begins with */

/* Can these be its first bytes? n is at least 1. */
int kars__http2_is_preface(const char *p, size_t n);

/* Takes the connection over, with the bytes of its h1 that are read and not
 * used: the preface and what follows. It may be closed afterwards. */
void kars__http2_begin(kars_conn_t *c);

#endif
