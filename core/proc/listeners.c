/* listeners.c - the master's sockets. */
#include "proc/listeners.h"
#include "base/parse.h"
#include "base/str.h"
#include "proc/plan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LISTEN_FDS_START 3 /* sd_listen_fds(3) */

static void
listener_close(kars__listen_fd_t *l, int unlink_file)
{
    kars__addr_t addr;

    (void) close(l->fd);
    if (unlink_file && !(l->flags & KARS__LISTEN_PASSED) &&
        kars__addr_unix(kars__strz(l->address), &addr) == KARS_OK) {
        (void) unlink(addr.u.un.sun_path);
    }
    l->address[0] = '\0';
}

static kars__listen_fd_t *
listener_new(kars__listeners_t *t, const char *address, kars_err_t *err)
{
    size_t i = 0;

    while (i < KARS__LISTENERS && t->all[i].address[0] != '\0') {
        i++;
    }
    if (i == KARS__LISTENERS || strlen(address) >= sizeof(t->all[i].address)) {
        (void) kars__err(err, ENOSPC, "listen on %s", address);
        return NULL;
    }

    kars__listen_fd_t *l = &t->all[i];

    memset(l, 0, sizeof(*l));
    l->fd = -1;
    return l;
}

static int
listener_make(kars__listeners_t *t, const char *address, uint32_t slot,
              uint32_t mode, uint32_t load, int is_first, kars_err_t *err)
{
    kars__listen_fd_t *l = listener_new(t, address, err);

    if (l == NULL) {
        return -1;
    }
    if (strncmp(address, "fd:", 3) == 0) {
        (void) kars__err(err, 0,
                         "listen on %s: no socket of that name was passed to "
                         "the router (LISTEN_FDS, LISTEN_FDNAMES)",
                         address);
        return -1;
    }

    int fd = kars__open_listener(kars__strz(address), mode, is_first, err);

    if (fd != -1) {
        memcpy(l->address, address, strlen(address) + 1);
        l->fd = fd;
        l->flags = strncmp(address, "unix:", 5) == 0 ? KARS__LISTEN_SHARED : 0;
        l->slot = slot;
        l->made = load;
        l->wanted = load;
    }
    return fd;
}

/* The i-th of "a:b:c", or its number where there is none. */
static void
listener_name(const char *names, uint32_t i, char *ret, size_t size)
{
    for (uint32_t k = 0; names != NULL && k < i; k++) {
        names = strchr(names, ':');
        names = names != NULL ? names + 1 : NULL;
    }

    size_t n = names != NULL ? strcspn(names, ":") : 0;

    if (n == 0 || strncmp(names, "unknown", n) == 0) {
        (void) snprintf(ret, size, "fd:%u", (unsigned) i);
    } else {
        (void) snprintf(ret, size, "fd:%.*s", (int) n, names);
    }
}

int
kars__listeners_inherit(kars__listeners_t *t, kars_err_t *err)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    uint64_t n = 0, whose = 0;

    if (pid == NULL || count == NULL ||
        kars__parse_uint(kars__strz(pid), INT32_MAX, &whose) != KARS_OK ||
        whose != (uint64_t) getpid()) {
        return KARS_OK;
    }
    if (kars__parse_uint(kars__strz(count), KARS__LISTENERS, &n) != KARS_OK) {
        return kars__err(err, 0, "LISTEN_FDS: expected a number up to %u",
                         KARS__LISTENERS);
    }
    for (uint32_t i = 0; i < n; i++) {
        int fd = LISTEN_FDS_START + (int) i, on = 0;
        socklen_t len = sizeof(on);
        char name[sizeof(t->all[0].address)];

        listener_name(getenv("LISTEN_FDNAMES"), i, name, sizeof(name));
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) == -1 || !on ||
            fcntl(fd, F_SETFD, FD_CLOEXEC) == -1 ||
            fcntl(fd, F_SETFL, O_NONBLOCK) == -1) {
            return kars__err(err, errno, "%s (descriptor %d) does not listen",
                             name, fd);
        }

        kars__listen_fd_t *l = listener_new(t, name, err);

        if (l == NULL) {
            return KARS_ERROR;
        }
        memcpy(l->address, name, sizeof(name));
        l->fd = fd;
        l->flags = KARS__LISTEN_SHARED | KARS__LISTEN_PASSED | KARS__LISTEN_ON;
    }
    return KARS_OK;
}

int
kars__listeners_get(kars__listeners_t *t, const char *address, uint32_t slot,
                    uint32_t nslots, uint32_t index, uint32_t mode,
                    uint32_t load, int *ret_more, kars_err_t *err)
{
    uint32_t nth = 0;
    int own = -1, found = -1, any = 0;

    *ret_more = 0;
    for (size_t i = 0; i < KARS__LISTENERS; i++) {
        kars__listen_fd_t *l = &t->all[i];
        int shared = l->flags & KARS__LISTEN_SHARED;

        if (l->address[0] == '\0' || strcmp(l->address, address) != 0) {
            continue;
        }
        any = 1;
        if (!shared && l->slot % nslots != slot) {
            continue;
        }
        l->wanted = load;
        if (shared || l->slot == slot) {
            own = l->fd;
        } else if (++nth == index) {
            found = l->fd;
        } else {
            *ret_more |= nth > index;
        }
    }
    if (index != 0) {
        if (found == -1) {
            (void) kars__err(err, 0, "no such listener");
        }
        return found;
    }
    return own != -1 ? own
                     : listener_make(t, address, slot, mode, load, !any, err);
}

int
kars__listeners_on(kars__listeners_t *t, uint32_t load, kars_err_t *err)
{
    for (size_t i = 0; i < KARS__LISTENERS; i++) {
        kars__listen_fd_t *l = &t->all[i];

        if (l->address[0] == '\0' || l->made != load ||
            (l->flags & KARS__LISTEN_ON)) {
            continue;
        }
        if (kars__listen_on(l->fd) == -1) {
            return kars__err(err, errno, "listen on %s", l->address);
        }
        l->flags |= KARS__LISTEN_ON;
    }
    return KARS_OK;
}

void
kars__listeners_keep(kars__listeners_t *t, uint32_t load)
{
    for (size_t i = 0; i < KARS__LISTENERS; i++) {
        kars__listen_fd_t *l = &t->all[i];

        if (l->address[0] != '\0' && l->wanted != load &&
            !(l->flags & KARS__LISTEN_PASSED)) {
            listener_close(l, 1);
        }
    }
}

void
kars__listeners_drop(kars__listeners_t *t, uint32_t load)
{
    for (size_t i = 0; i < KARS__LISTENERS; i++) {
        if (t->all[i].address[0] != '\0' && t->all[i].made == load &&
            !(t->all[i].flags & KARS__LISTEN_PASSED)) {
            listener_close(&t->all[i], 1);
        }
    }
}

void
kars__listeners_close(kars__listeners_t *t, int unlink_files)
{
    for (size_t i = 0; i < KARS__LISTENERS; i++) {
        if (t->all[i].address[0] != '\0') {
            listener_close(&t->all[i], unlink_files);
        }
    }
}
