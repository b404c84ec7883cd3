/*
 * plan.h - what a worker needs from the master, and how it gets it.
 *
 * A worker reads the configuration text with core's own grammar, before any
 * module is loaded, and asks for each thing that the text names: listeners,
 * the zone, the log, files of secrets. The master opens them and passes the
 * descriptors. So a module cannot make the master open anything that the
 * operator did not write, and the master parses nothing.
 */
#ifndef KARS_PROC_PLAN_H
#define KARS_PROC_PLAN_H

#include "conf/conf.h"
#include "event/resolve.h"

enum {
    KARS__ASK_LISTEN = 1, /* text: address, "udp:ADDRESS"; number: mode of a
                           * UNIX socket, and above 16 bits the index; reply: a
                           * listening fd, number: 1 when there is another */
    KARS__ASK_WORKERS, /* number: of worker processes; reply: 1 in a new load,
                        * 0 in the place of a worker that died */
    KARS__ASK_ZONE,    /* number: size; reply: fd, number: the worker's id */
    KARS__ASK_LOG,     /* text: path; reply: fd */
    KARS__ASK_SECRET,  /* text: path; reply: fd. Also after READY, for a path
                        * that its load asked for before */
    KARS__ASK_PID,     /* text: path; written once READY */
    KARS__ASK_CONF,    /* reply: the image of the load's configuration, or
                        * no fd: this is the worker that makes it */
    KARS__ASK_IMAGE,   /* with an fd: that image */
    KARS__ASK_SEAL,    /* modules come now: from here on nothing is opened but
                        * secrets that were asked for before */
    KARS__ASK_READY,   /* loaded and started: it could serve */

    /* From the master, without a reply. */
    KARS__TELL_SERVE, /* the whole load is ready: accept from now on */
    KARS__TELL_END,   /* no load comes after yours: drain, close what is idle */
};

/* One message, either way. */
typedef struct {
    uint32_t kind;
    int32_t error; /* reply: 0, or errno */
    uint64_t number;
    char text[512];
} kars__ask_t;

/* Sends one message with an fd (or -1). KARS_ERROR: the other side is gone. */
int kars__ask_send(int channel, const kars__ask_t *m, int fd);

/* Receives one; *ret_fd is -1 when none came. DONE: end of file; AGAIN: nothing
 * there (non-blocking channels). */
int kars__ask_recv(int channel, kars__ask_t *ret, int *ret_fd);

/*
 * Asks and waits. channel -1: there is no master (-t, commands), the thing is
 * opened here, listeners are not.
 */
int kars__ask(int channel, uint32_t kind, kars_str_t text, uint64_t number,
              int *ret_fd, uint64_t *ret_number, kars_err_t *err);

/* Hands the master a descriptor, which stays the caller's too. */
int kars__give(int channel, uint32_t kind, int fd, kars_err_t *err);

/* What the master does for one message. Shared with kars__ask() above. */
/* A bound socket that does not listen yet. is_first: nobody else may have this
 * TCP address (SO_REUSEPORT would share it without a word). */
int kars__open_listener(kars_str_t address, uint32_t mode, int is_first,
                        kars_err_t *err);
int kars__listen_on(int fd); /* connections queue from now on; -1 and errno */
int kars__open_log(const char *path);

/* Without "udp:": "127.0.0.1:8443", "[::1]:8443", "*:8443", "unix:/path".
 * "fd:NAME" is a socket that the master was started with; its family is known
 * when it is opened: AF_UNSPEC. */
int kars__listen_addr(kars_str_t address, kars__addr_t *ret, kars_err_t *err);

#endif
