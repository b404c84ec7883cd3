/* master_ask.c - what a worker asks the master for. */
#include "base/str.h"
#include "proc/master_state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static uint32_t
master_slots(const kars__master_t *m, const kars__master_worker_t *w)
{
    return w->load == m->starting ? m->new_slots : m->keep.nslots;
}

static int
master_listener(kars__master_t *m, kars__master_worker_t *w, kars__ask_t *ask)
{
    kars_err_t err = KARS_ERR_INIT;
    int more = 0;
    int fd = kars__listeners_get(
        &m->keep.listeners, ask->text, w->slot, master_slots(m, w),
        (uint32_t) (ask->number >> 16), (uint32_t) (ask->number & 0xffff),
        w->load, &more, &err);

    if (fd == -1) {
        ask->error = EADDRNOTAVAIL;
        memcpy(ask->text, err.text, sizeof(err.text));
    }
    ask->number = (uint64_t) more;
    return fd;
}

static int
master_zone(kars__master_t *m, kars__master_worker_t *w, kars__ask_t *ask)
{
    kars_err_t err = KARS_ERR_INIT;

    if (m->keep.zone_fd != -1 && m->keep.zone_size != ask->number) {
        kars__log(KARS_LOG_WARN,
                  "master: the zone keeps its %llu bytes until a restart",
                  (unsigned long long) m->keep.zone_size);
    }
    if (m->keep.zone_fd == -1) {
        m->keep.zone_fd = kars__zone_make((size_t) ask->number, &err);
        m->zone = m->keep.zone_fd != -1 ? kars__zone_map(m->keep.zone_fd, &err)
                                        : NULL;
        m->keep.zone_size = ask->number;
    }
    if (m->zone == NULL) {
        ask->error = ENOMEM;
        memcpy(ask->text, err.text, sizeof(err.text));
        return -1;
    }
    w->id = kars__zone_worker_new(m->zone);
    ask->number = w->id;
    return m->keep.zone_fd;
}

static int
master_open(kars__master_t *m, const kars__master_worker_t *w, kars__ask_t *ask)
{
    char path[sizeof(ask->text)];
    int fd = ask->kind == KARS__ASK_LOG
                 ? kars__open_log(ask->text)
                 : open(ask->text, O_RDONLY | O_CLOEXEC | O_NOCTTY);

    if (fd == -1) {
        ask->error = errno;
        memcpy(path, ask->text, sizeof(path));
        (void) snprintf(ask->text, sizeof(ask->text), "open \"%.300s\": %s",
                        path, strerror(ask->error));
    } else if (ask->kind == KARS__ASK_LOG &&
               kars__logbook_add(&m->keep.logbook, ask->text, w->load) !=
                   KARS_OK) {
        (void) close(fd);
        fd = -1;
        ask->error = ENOSPC;
        (void) snprintf(ask->text, sizeof(ask->text),
                        "more than %d files of logs", KARS__LOGBOOK_MAX);
    }
    return fd;
}

/* The image of the load that the worker belongs to. */
static int
master_image(const kars__master_t *m, const kars__master_worker_t *w)
{
    return w->load == m->starting ? m->new_image_fd : m->keep.image_fd;
}

/* The first worker of a load made the image, before any module was opened. */
static void
master_take_image(kars__master_t *m, const kars__master_worker_t *w,
                  kars__ask_t *ask, int given)
{
    if (w->load != m->starting || w->slot != 0 || m->new_image_fd != -1 ||
        given == -1) {
        ask->error = EINVAL;
        return;
    }
    m->new_image_fd = fcntl(given, F_DUPFD_CLOEXEC, 0);
    if (m->new_image_fd == -1) {
        ask->error = errno;
    }
}

void
kars__master_answer(kars__master_t *m, kars__master_worker_t *w,
                    kars__ask_t *ask, int given)
{
    int fd = -1;
    int ours = 0; /* the fd goes after it was passed */

    ask->error = 0;
    switch (ask->kind) {
    case KARS__ASK_LISTEN:
        fd = master_listener(m, w, ask);
        break;
    case KARS__ASK_ZONE:
        fd = master_zone(m, w, ask);
        break;
    case KARS__ASK_SECRET:
        if (kars__known_add(&m->known, w->load, ask->text) != KARS_OK) {
            ask->error = ENOMEM;
            break;
        }
        fd = master_open(m, w, ask);
        ours = 1;
        break;
    case KARS__ASK_LOG:
        fd = master_open(m, w, ask);
        ours = 1;
        break;
    case KARS__ASK_PID:
        if (w->load == m->starting) {
            memcpy(m->new_pid_path, ask->text, sizeof(m->new_pid_path));
        }
        break;
    case KARS__ASK_WORKERS:
        if (w->load == m->starting && w->slot == 0) {
            m->new_slots = (uint32_t) ask->number;
        }
        ask->number = w->load == m->starting;
        break;
    case KARS__ASK_CONF:
        fd = master_image(m, w);
        break;
    case KARS__ASK_IMAGE:
        master_take_image(m, w, ask, given);
        break;
    case KARS__ASK_SEAL:
        w->sealed = 1;
        break;
    default:
        ask->error = EINVAL;
        break;
    }
    (void) kars__ask_send(w->channel, ask, fd);
    if (ours && fd != -1) {
        (void) close(fd);
    }
}

void
kars__master_answer_sealed(kars__master_t *m, kars__master_worker_t *w,
                           kars__ask_t *ask)
{
    if (ask->kind == KARS__ASK_SECRET &&
        kars__known_has(m->known, w->load, ask->text)) {
        kars__master_answer(m, w, ask, -1);
        return;
    }
    ask->error = EPERM;
    (void) kars__ask_send(w->channel, ask, -1);
}
