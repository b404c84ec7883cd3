/* notify.c - datagrams to the service manager. */
#include "proc/notify.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

void
kars__notify(const char *text)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    const char *path = getenv("NOTIFY_SOCKET");
    size_t n = path != NULL ? strlen(path) : 0;

    if (n < 2 || n >= sizeof(to.sun_path) ||
        (path[0] != '/' && path[0] != '@')) {
        return;
    }
    memcpy(to.sun_path, path, n + 1);
    if (path[0] == '@') {
        to.sun_path[0] = '\0'; /* an abstract name */
    }

    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd != -1) {
        (void) sendto(fd, text, strlen(text), MSG_NOSIGNAL,
                      (const struct sockaddr *) &to,
                      (socklen_t) (offsetof(struct sockaddr_un, sun_path) + n));
        (void) close(fd);
    }
}

void
kars__notify_reloading(void)
{
    char text[64];
    struct timespec ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);
    (void) snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%lld",
                    (long long) ts.tv_sec * 1000000 + ts.tv_nsec / 1000);
    kars__notify(text);
}
