/* listeners.c - the master's sockets. */
#include "proc/listeners.h"
#include "base/str.h"
#include "proc/plan.h"

#include <errno.h>
#include <unistd.h>

static void
listener_close(kars__listen_fd_t *l, int unlink_file)
{
    kars__addr_t addr;

    (void) close(l->fd);
    if (unlink_file &&
        kars__addr_unix(kars__strz(l->address), &addr) == KARS_OK) {
        (void) unlink(addr.u.un.sun_path);
    }
    l->address[0] = '\0';
}

static int
listener_make(kars__listeners_t *t, const char *address, uint32_t slot,
              uint32_t mode, uint32_t load, int is_first, kars_err_t *err)
{
    size_t i = 0;

    while (i < KARS__LISTENERS && t->all[i].address[0] != '\0') {
        i++;
    }
    if (i == KARS__LISTENERS || strlen(address) >= sizeof(t->all[i].address)) {
        (void) kars__err(err, ENOSPC, "listen on %s", address);
        return -1;
    }

    int fd = kars__open_listener(kars__strz(address), mode, is_first, err);

    if (fd != -1) {
        kars__listen_fd_t *l = &t->all[i];

        memcpy(l->address, address, strlen(address) + 1);
        l->fd = fd;
        l->slot = slot;
        l->made = load;
        l->wanted = load;
    }
    return fd;
}

int
kars__listeners_get(kars__listeners_t *t, const char *address, uint32_t slot,
                    uint32_t nslots, uint32_t index, uint32_t mode,
                    uint32_t load, int *ret_more, kars_err_t *err)
{
    int shared = strncmp(address, "unix:", 5) == 0;
    uint32_t nth = 0;
    int own = -1, found = -1, any = 0;

    *ret_more = 0;
    for (size_t i = 0; i < KARS__LISTENERS; i++) {
        kars__listen_fd_t *l = &t->all[i];

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

void
kars__listeners_keep(kars__listeners_t *t, uint32_t load)
{
    for (size_t i = 0; i < KARS__LISTENERS; i++) {
        if (t->all[i].address[0] != '\0' && t->all[i].wanted != load) {
            listener_close(&t->all[i], 1);
        }
    }
}

void
kars__listeners_drop(kars__listeners_t *t, uint32_t load)
{
    for (size_t i = 0; i < KARS__LISTENERS; i++) {
        if (t->all[i].address[0] != '\0' && t->all[i].made == load) {
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
