/*
 * head.h - HTTP/1 message heads and chunked bodies, read strictly.
 *
 * RFC 9112 with nothing lenient: our own pass over the raw head decides, then
 * llhttp reads the same bytes, and where the two disagree the message is
 * refused (llhttp alone lets obs-fold, bare LF, duplicate Host and more pass).
 */
#ifndef KARS_HTTP_HEAD_H
#define KARS_HTTP_HEAD_H

#include "base/err.h"

#define KARS__HEADERS_MAX 100u

typedef struct {
    kars_str_t method; /* of a request */
    kars_str_t target; /* as it came: origin form, "*", CONNECT's host:port */
    kars_str_t host;   /* of Host, or of an absolute-form target */
    uint32_t status;   /* of a response; of a refused request: the answer */
    uint32_t minor;    /* HTTP/1.minor */
    int64_t content_length; /* -1: not said */
    uint8_t chunked;
    uint8_t keep_alive; /* what this head allows */
    uint8_t expect_continue;
    uint8_t upgrade;
    kars_header_t *headers; /* the caller's array */
    size_t nheaders;
} kars__head_t;

/* Length of the head with its empty line, or 0 when it is not complete in
 * n bytes. from: bytes that an earlier call has looked at. */
size_t kars__head_end(const char *p, size_t n, size_t from);

/*
 * Reads a complete head of n bytes; all strings are views into it. headers has
 * room for KARS__HEADERS_MAX. On KARS_ERROR, ret->status is the answer that a
 * request deserves (400, 417, 431, 501, 505) and *err says why.
 */
int kars__head_request(const char *p, size_t n, kars_header_t *headers,
                       kars__head_t *ret, kars_err_t *err);
/*
 * The same for a request that came as fields (HTTP/2): method, target, host (of
 * :authority, or empty), headers and nheaders are set, the rest is found out.
 * What could not be written into an HTTP/1 request as it is, is refused: then
 * there is nothing to smuggle (RFC 9113 8.2, 8.3, 10.3).
 */
int kars__head_fields(kars__head_t *h, kars_err_t *err);
int kars__head_response(const char *p, size_t n, kars_header_t *headers,
                        kars__head_t *ret, kars_err_t *err);

/* First header of that name; data NULL when there is none. */
kars_str_t kars__head_get(const kars_header_t *headers, size_t n,
                          kars_str_t name);

/*
 * The path of an origin-form target, percent-decoded once into buf (as long as
 * the target), and its raw query. Refuses bad escapes, control bytes, encoded
 * slashes and backslashes, and dot segments: what was matched must be what an
 * upstream reads.
 */
int kars__head_path(kars_str_t target, char *buf, kars_str_t *ret_path,
                    kars_str_t *ret_query, kars_err_t *err);

/* A field name, and a field value, that may be sent. */
int kars__head_name_ok(kars_str_t name);
int kars__head_value_ok(kars_str_t value);

/* A chunked body, in pieces. Zeroed to begin. */
typedef struct {
    uint64_t left;    /* of the current chunk */
    uint32_t state;   /* private */
    uint32_t counted; /* digits, extension or trailer bytes so far */
} kars__chunked_t;

/*
 * Takes bytes from [*p, end) and moves *p. OK: *ret is a piece of data (a view,
 * maybe followed by more); AGAIN: all was taken, more is needed; DONE: the body
 * is complete, *p is at what follows; ERROR.
 */
int kars__chunked_next(kars__chunked_t *c, const char **p, const char *end,
                       kars_str_t *ret, kars_err_t *err);

#endif
