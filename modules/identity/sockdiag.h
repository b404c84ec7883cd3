/*
 * sockdiag.h - whose socket is at the other end of a TCP connection?
 *
 * The kernel is asked for the client's own socket by its exact address pair.
 * An answer counts only if it is that very pair, connected, and still held by
 * a process: for a socket that its process has closed the kernel says user 0,
 * and where no connection fits it answers with a listener on that port. So
 * that nobody becomes root by hanging up early, those are "unknown".
 *
 * Encoding and reading are pure; sockdiag_ask() and sockdiag_is_local() do
 * I/O that does not wait.
 */
#ifndef IDENTITY_SOCKDIAG_H
#define IDENTITY_SOCKDIAG_H

#include "kars_module.h"

#define SOCKDIAG_REQUEST_MAX 128

/* FOUND: the user is known. ABSENT: the kernel has no such connection. UNKNOWN:
 * it could not be told; never a reason to let someone in. */
enum { SOCKDIAG_FOUND = 1, SOCKDIAG_ABSENT, SOCKDIAG_UNKNOWN };

/* The client's socket: src is the client. IPv4 is family AF_INET, 4 bytes,
 * also when it came to a socket of IPv6. */
typedef struct {
    uint32_t family;
    uint16_t sport; /* host order */
    uint16_t dport;
    uint8_t src[16];
    uint8_t dst[16];
} sockdiag_pair_t;

/* ERROR when the peer has no TCP addresses. */
int sockdiag_pair(const kars_peer_t *peer, sockdiag_pair_t *ret);

/* Writes the request; returns its length. buf: SOCKDIAG_REQUEST_MAX bytes. */
size_t sockdiag_encode(void *buf, uint32_t seq, const sockdiag_pair_t *pair);

/* Reads one datagram of the kernel. DECLINED: it answers something else;
 * OK: *ret is SOCKDIAG_*, and with FOUND *ret_uid is the owner. */
int sockdiag_decode(const void *bytes, size_t len, uint32_t seq,
                    const sockdiag_pair_t *pair, int *ret, uint32_t *ret_uid);

/* A netlink socket, or -1 and errno. */
int sockdiag_open(void);

/* Asks and reads the answer, which is there when the question was taken. */
int sockdiag_ask(int fd, uint32_t *seq, const sockdiag_pair_t *pair,
                 uint32_t *ret_uid);

/* Is the client's address one of this host's own? On doubt: yes. */
int sockdiag_is_local(const sockdiag_pair_t *pair);

#endif
