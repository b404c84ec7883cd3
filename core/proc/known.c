/* known.c - paths by load. */
#include "proc/known.h"
#include "base/pool.h"

#include <stdio.h>

#define KNOWN_MAX 4096 /* paths of all loads that are remembered */

struct kars__known_s {
    kars__known_t *next;
    uint32_t load;
    char path[512];
};

int
kars__known_has(const kars__known_t *list, uint32_t load, const char *path)
{
    while (list != NULL &&
           (list->load != load || strcmp(list->path, path) != 0)) {
        list = list->next;
    }
    return list != NULL;
}

int
kars__known_add(kars__known_t **list, uint32_t load, const char *path)
{
    kars__known_t *k;
    size_t n = 0;

    if (kars__known_has(*list, load, path)) {
        return KARS_OK;
    }
    for (k = *list; k != NULL; k = k->next) {
        n++;
    }
    k = n < KNOWN_MAX && strlen(path) < sizeof(k->path)
            ? kars__alloc(sizeof(*k))
            : NULL;
    if (k == NULL) {
        return KARS_ERROR;
    }
    k->load = load;
    (void) snprintf(k->path, sizeof(k->path), "%s", path);
    k->next = *list;
    *list = k;
    return KARS_OK;
}

static void
known_remove(kars__known_t **list, uint32_t load, int others)
{
    while (*list != NULL) {
        kars__known_t *k = *list;

        if ((k->load == load) == !others) {
            *list = k->next;
            kars__free(k);
        } else {
            list = &k->next;
        }
    }
}

void
kars__known_keep(kars__known_t **list, uint32_t load)
{
    known_remove(list, load, 1);
}

void
kars__known_drop(kars__known_t **list, uint32_t load)
{
    known_remove(list, load, 0);
}
