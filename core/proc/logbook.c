/* logbook.c - the master's list of logs; see logbook.h. */
#include "proc/logbook.h"
#include "base/log.h"
#include "proc/plan.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

int
kars__logbook_add(kars__logbook_t *b, const char *path, uint32_t load)
{
    size_t at = KARS__LOGBOOK_MAX;

    for (size_t i = 0; i < KARS__LOGBOOK_MAX; i++) {
        if (strcmp(b->files[i].path, path) == 0) {
            at = i;
            break;
        }
        if (at == KARS__LOGBOOK_MAX && b->files[i].path[0] == '\0') {
            at = i;
        }
    }
    if (at == KARS__LOGBOOK_MAX || strlen(path) >= sizeof(b->files[at].path)) {
        return KARS_ERROR;
    }
    memcpy(b->files[at].path, path, strlen(path) + 1);
    b->files[at].load = load;
    return KARS_OK;
}

void
kars__logbook_send(const kars__logbook_t *b, int channel)
{
    for (size_t i = 0; i < KARS__LOGBOOK_MAX; i++) {
        const char *path = b->files[i].path;
        kars__ask_t m = { .kind = KARS__ASK_LOG };

        if (path[0] == '\0') {
            continue;
        }

        int fd = kars__open_log(path);

        if (fd == -1) {
            kars__log(KARS_LOG_ERR,
                      "master: open log \"%s\": %s; the file "
                      "before stays",
                      path, strerror(errno));
            continue;
        }
        memcpy(m.text, path, strlen(path) + 1);
        if (kars__ask_send(channel, &m, fd) != KARS_OK) {
            kars__log(KARS_LOG_ERR, "master: a worker does not take log \"%s\"",
                      path);
        }
        (void) close(fd);
    }
}

void
kars__logbook_prune(kars__logbook_t *b, uint32_t oldest)
{
    for (size_t i = 0; i < KARS__LOGBOOK_MAX; i++) {
        if (b->files[i].load < oldest) {
            b->files[i].path[0] = '\0';
        }
    }
}
