/* watch.c - inotify, and a poll behind it. */
#include "event/watch.h"
#include "base/log.h"
#include "base/pool.h"

#include <errno.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

/* What may change a file that is reached through a folder. Reading makes none
 * of these. */
#define WATCH_MASK                                                     \
    (IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_MOVED_FROM | IN_MODIFY | \
     IN_CLOSE_WRITE | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)
#define WATCH_READS 16 /* read(2) calls for one readiness */

typedef struct watched_s watched_t;
struct watched_s {
    watched_t *next;
    kars__watcher_t *all;
    const char *path;
    const char *base; /* its last part */
    char *folder;     /* the part before */
    unsigned char stamp[KARS__WATCH_DIGEST];
    int wd_folder; /* -1: none */
    int wd_self;   /* where the path is a folder itself */
    uint32_t busy; /* a thread reads it */
    uint32_t again;
    uint64_t event_ms; /* of the first event that was not yet followed; 0 */
    kars__timer_t quiet;
    void (*fn)(void *data, int error, const kars__read_t *read,
               const kars_err_t *err);
    void *data;
};

struct kars__watcher_s {
    kars__loop_t *loop;
    kars__offload_t *offload;
    watched_t *list;
    int fd; /* of inotify; -1: none */
    kars__io_t io;
    kars__timer_t poll;
    uint32_t stopped;
};

typedef struct {
    watched_t *of;
    int fd;
    uint32_t always; /* whatever the stamp says */
    int wd_folder;
    int wd_self;
    kars__read_t read;
    kars_err_t err;
} watch_job_t;

static void watch_look(watched_t *p, int always);

kars__watcher_t *
kars__watcher_create(kars__loop_t *loop, kars__offload_t *offload)
{
    kars__watcher_t *w = kars__alloc(sizeof(*w));

    if (w != NULL) {
        w->loop = loop;
        w->offload = offload;
        w->fd = -1;
    }
    return w;
}

/* On a thread: the watch first, so that nothing is missed between. */
static int
watch_work(void *data)
{
    watch_job_t *job = data;
    watched_t *p = job->of;

    job->wd_folder = job->wd_self = -1;
    if (job->fd != -1) {
        job->wd_folder = inotify_add_watch(job->fd, p->folder, WATCH_MASK);
        job->wd_self = inotify_add_watch(job->fd, p->path, WATCH_MASK);
    }
    return kars__read_path(p->path, job->always ? NULL : p->stamp, &job->read,
                           &job->err);
}

static void
watch_quiet(kars__timer_t *t)
{
    watched_t *p = (watched_t *) ((char *) t - offsetof(watched_t, quiet));

    p->event_ms = 0;
    watch_look(p, 1);
}

/* Something happened to it: it is read when nothing more does. */
static void
watch_touched(watched_t *p)
{
    uint64_t now = kars__loop_now(p->all->loop);
    uint64_t wait = KARS__WATCH_QUIET_MS;

    if (p->event_ms == 0) {
        p->event_ms = now;
    }

    uint64_t end = p->event_ms + KARS__WATCH_QUIET_MAX_MS;

    if (now + wait > end) {
        wait = end > now ? end - now : 0;
    }
    kars__timer_start(p->all->loop, &p->quiet, wait);
}

static void
watch_done(int error, void *data)
{
    watch_job_t *job = data;
    watched_t *p = job->of;

    p->busy = 0;
    if (!p->all->stopped) {
        p->wd_folder = job->wd_folder;
        p->wd_self = job->wd_self;
        if (error == EAGAIN || p->again) {
            watch_touched(p);
        }
        p->again = 0;
        if (error == 0) {
            memcpy(p->stamp, job->read.stamp, sizeof(p->stamp));
        } else if (error > 0) {
            memset(p->stamp, 0, sizeof(p->stamp)); /* whatever comes is new */
        }
        if (error != -1 && error != EAGAIN) {
            p->fn(p->data, error, &job->read, &job->err);
        }
    }
    kars__read_free(&job->read);
    kars__free(job);
}

/* Has a thread look at it. What cannot be begun now is left to the poll. */
static void
watch_look(watched_t *p, int always)
{
    if (p->busy) {
        p->again |= always != 0;
        return;
    }

    watch_job_t *job = kars__alloc(sizeof(*job));

    if (job == NULL) {
        return;
    }
    *job = (watch_job_t){
        .of = p, .fd = p->all->fd, .always = always != 0, .err = KARS_ERR_INIT
    };
    if (kars__offload(p->all->offload, watch_work, watch_done, job) !=
        KARS_OK) {
        kars__free(job);
        return;
    }
    p->busy = 1;
}

static void
watch_poll(kars__timer_t *t)
{
    kars__watcher_t *w =
        (kars__watcher_t *) ((char *) t - offsetof(kars__watcher_t, poll));

    for (watched_t *p = w->list; p != NULL; p = p->next) {
        watch_look(p, 0);
    }
    kars__timer_start(w->loop, &w->poll, KARS__WATCH_POLL_MS);
}

/* Events. */

static int
watch_concerns(const watched_t *p, const struct inotify_event *e)
{
    const char *name = e->len > 0 ? e->name : "";
    int swap = strncmp(name, "..data", 6) == 0;

    if (e->mask & IN_Q_OVERFLOW) {
        return 1;
    }
    if (e->wd == p->wd_self) {
        return swap || name[0] != '.';
    }
    if (e->wd == p->wd_folder) {
        return swap || name[0] == '\0' || strcmp(name, p->base) == 0;
    }
    return p->busy; /* its watch may be this one, and not yet known */
}

static void
watch_event(kars__watcher_t *w, const struct inotify_event *e)
{
    if (e->mask & IN_IGNORED) {
        return; /* the folder went; the poll finds it again */
    }
    for (watched_t *p = w->list; p != NULL; p = p->next) {
        if (watch_concerns(p, e)) {
            watch_touched(p);
        }
    }
}

static void
watch_readable(kars__io_t *io, uint32_t events)
{
    kars__watcher_t *w =
        (kars__watcher_t *) ((char *) io - offsetof(kars__watcher_t, io));
    union {
        struct inotify_event align;
        char bytes[8192];
    } buf;

    for (int i = 0; i < WATCH_READS; i++) {
        ssize_t n = read(w->fd, buf.bytes, sizeof(buf.bytes));
        size_t at = 0;

        if (n <= 0) {
            return;
        }
        while (at + sizeof(buf.align) <= (size_t) n) {
            const struct inotify_event *e = (const void *) (buf.bytes + at);

            watch_event(w, e);
            at += sizeof(*e) + e->len;
        }
    }
}

int
kars__watcher_add(kars__watcher_t *w, const char *path,
                  const unsigned char stamp[KARS__WATCH_DIGEST],
                  void (*fn)(void *data, int error, const kars__read_t *read,
                             const kars_err_t *err),
                  void *data)
{
    const char *slash = strrchr(path, '/');
    size_t len = slash != NULL ? (size_t) (slash - path) : 0;
    watched_t *p = kars__alloc(sizeof(*p) + len + 2);

    if (p == NULL) {
        return KARS_ERROR;
    }
    p->folder = (char *) (p + 1); /* zeroed: terminated */
    memcpy(p->folder, len != 0 ? path : "/", len != 0 ? len : 1);
    p->all = w;
    p->path = path;
    p->base = slash != NULL ? slash + 1 : path;
    p->wd_folder = p->wd_self = -1;
    p->quiet.fn = watch_quiet;
    p->fn = fn;
    p->data = data;
    memcpy(p->stamp, stamp, sizeof(p->stamp));
    p->next = w->list;
    w->list = p;
    return KARS_OK;
}

void
kars__watcher_start(kars__watcher_t *w)
{
    if (w->list == NULL) {
        return;
    }
    w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (w->fd == -1) {
        kars__log(KARS_LOG_WARN,
                  "watch: no inotify error=\"%s\": watched files are looked at "
                  "every %u s",
                  strerror(errno), KARS__WATCH_POLL_MS / 1000);
    } else {
        kars__io_init(&w->io, w->loop, w->fd, watch_readable);
        kars__io_want(&w->io, KARS__READ);
    }
    w->poll.fn = watch_poll;
    watch_poll(&w->poll); /* begins the watches, too */
}

void
kars__watcher_stop(kars__watcher_t *w)
{
    if (w->stopped) {
        return;
    }
    w->stopped = 1;
    kars__timer_stop(w->loop, &w->poll);
    for (watched_t *p = w->list; p != NULL; p = p->next) {
        kars__timer_stop(w->loop, &p->quiet);
    }
    if (w->fd != -1) {
        kars__io_want(&w->io, 0);
    }
}

void
kars__watcher_destroy(kars__watcher_t *w)
{
    watched_t *next;

    if (w == NULL) {
        return;
    }
    kars__watcher_stop(w);
    if (w->fd != -1) {
        (void) close(w->fd);
    }
    for (watched_t *p = w->list; p != NULL; p = next) {
        next = p->next;
        kars__free(p);
    }
    kars__free(w);
}
