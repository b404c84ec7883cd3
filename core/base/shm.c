/* shm.c - shared zones and their areas. */
#include "base/shm.h"
#include "base/pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define ZONE_MAGIC   0x6b617273u
#define ZONE_VERSION 2u
#define ZONE_AREAS   64u
#define ZONE_NAME    32u
#define ZONE_ALIVE   (2 * KARS__ZONE_WORKERS) /* those that drain too */

typedef struct {
    char name[ZONE_NAME];
    uint32_t version;
    uint32_t used;
    uint64_t offset;
    uint64_t size;
    pthread_mutex_t lock;
} zone_entry_t;

typedef struct {
    uint32_t magic;
    uint32_t version;
    uint64_t size;
    uint64_t next_offset;
    _Atomic uint64_t next_worker;
    _Atomic uint64_t workers[ZONE_ALIVE]; /* ids; 0: free */
    pthread_mutex_t lock;
    zone_entry_t areas[ZONE_AREAS];
} zone_head_t;

struct kars_area_s {
    zone_entry_t *entry;
    void *data;
};

struct kars_zone_s {
    zone_head_t *head;
    size_t size;
    kars_area_t handles[ZONE_AREAS];
};

static int
zone_lock_init(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attr;
    int rc = pthread_mutexattr_init(&attr);

    if (rc == 0) {
        (void) pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
        (void) pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
        rc = pthread_mutex_init(lock, &attr);
        (void) pthread_mutexattr_destroy(&attr);
    }
    return rc;
}

static int
zone_lock(pthread_mutex_t *lock)
{
    if (pthread_mutex_lock(lock) == EOWNERDEAD) {
        (void) pthread_mutex_consistent(lock);
        return KARS_DONE;
    }
    return KARS_OK;
}

static uint64_t
zone_round(uint64_t n)
{
    return (n + 4095) & ~(uint64_t) 4095; /* pages: areas share no line */
}

int
kars__zone_make(size_t size, kars_err_t *err)
{
    size = size < KARS__ZONE_MIN ? KARS__ZONE_MIN : zone_round(size);

    int fd = memfd_create("kars-zone", MFD_CLOEXEC);

    if (fd == -1 || ftruncate(fd, (off_t) size) == -1) {
        (void) kars__err(err, errno, "a zone of %zu bytes", size);
        if (fd != -1) {
            (void) close(fd);
        }
        return -1;
    }

    zone_head_t *h =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (h == MAP_FAILED) {
        (void) kars__err(err, errno, "map a zone of %zu bytes", size);
        (void) close(fd);
        return -1;
    }

    h->version = ZONE_VERSION;
    h->size = size;
    h->next_offset = zone_round(sizeof(*h));
    h->next_worker = 1;
    int rc = zone_lock_init(&h->lock);
    h->magic = ZONE_MAGIC;
    (void) munmap(h, size);
    if (rc != 0) {
        (void) kars__err(err, rc, "the lock of a zone");
        (void) close(fd);
        return -1;
    }
    return fd;
}

kars_zone_t *
kars__zone_map(int fd, kars_err_t *err)
{
    struct stat st;

    if (fstat(fd, &st) == -1 || st.st_size < (off_t) sizeof(zone_head_t)) {
        (void) kars__err(err, errno, "a zone that is none");
        return NULL;
    }

    size_t size = (size_t) st.st_size;
    zone_head_t *h =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (h == MAP_FAILED) {
        (void) kars__err(err, errno, "map a zone of %zu bytes", size);
        return NULL;
    }

    kars_zone_t *zone = kars__alloc(sizeof(*zone));

    if (zone == NULL || h->magic != ZONE_MAGIC || h->version != ZONE_VERSION ||
        h->size != size) {
        (void) kars__err(err, 0, "a zone of another version");
        (void) munmap(h, size);
        kars__free(zone);
        return NULL;
    }
    zone->head = h;
    zone->size = size;
    return zone;
}

void
kars__zone_unmap(kars_zone_t *zone)
{
    if (zone != NULL) {
        (void) munmap(zone->head, zone->size);
        kars__free(zone);
    }
}

static int
zone_add(zone_head_t *h, kars_str_t name, size_t size, uint32_t version,
         zone_entry_t **ret, kars_err_t *err)
{
    size_t i = 0;

    while (i < ZONE_AREAS && h->areas[i].used) {
        i++;
    }
    /* First the size itself: rounding a huge one up would make it small. */
    if (i == ZONE_AREAS || size > h->size ||
        zone_round(size) > h->size - h->next_offset) {
        return kars__err(err, 0,
                         "area \"%.*s\" of %zu bytes does not fit into the "
                         "zone: enlarge `zone state`",
                         KARS_STR_ARG(name), size);
    }

    zone_entry_t *e = &h->areas[i];

    memset(e, 0, sizeof(*e));
    memcpy(e->name, name.data, name.len);
    e->version = version;
    e->size = size;
    e->offset = h->next_offset;
    if (zone_lock_init(&e->lock) != 0) {
        return kars__err(err, 0, "the lock of area \"%.*s\"",
                         KARS_STR_ARG(name));
    }
    h->next_offset += zone_round(size);
    e->used = 1; /* last: a maker that died before this made nothing */
    *ret = e;
    return KARS_OK;
}

kars_area_t *
kars__zone_area(kars_zone_t *zone, kars_str_t name, size_t size,
                uint32_t version, kars_err_t *err)
{
    zone_head_t *h = zone->head;
    zone_entry_t *e = NULL;
    int rc = KARS_OK;

    if (name.len == 0 || name.len >= ZONE_NAME || size == 0) {
        (void) kars__err(err, 0, "an area needs a name of 1 to 31 bytes");
        return NULL;
    }

    (void) zone_lock(&h->lock);
    for (size_t i = 0; i < ZONE_AREAS && h->areas[i].used; i++) {
        zone_entry_t *c = &h->areas[i];

        if (c->version == version && c->size == size &&
            c->name[name.len] == '\0' &&
            memcmp(c->name, name.data, name.len) == 0) {
            e = c;
            break;
        }
    }
    if (e == NULL) {
        rc = zone_add(h, name, size, version, &e, err);
    }
    (void) pthread_mutex_unlock(&h->lock);
    if (rc != KARS_OK) {
        return NULL;
    }

    kars_area_t *area = &zone->handles[e - h->areas];

    area->entry = e;
    area->data = (char *) h + e->offset;
    return area;
}

void *
kars__area_data(kars_area_t *area)
{
    return area->data;
}

int
kars__area_lock(kars_area_t *area)
{
    return zone_lock(&area->entry->lock);
}

void
kars__area_unlock(kars_area_t *area)
{
    (void) pthread_mutex_unlock(&area->entry->lock);
}

uint64_t
kars__zone_worker_new(kars_zone_t *zone)
{
    uint64_t id = atomic_fetch_add(&zone->head->next_worker, 1);

    for (size_t i = 0; i < ZONE_ALIVE; i++) {
        uint64_t free_slot = 0;

        if (atomic_compare_exchange_strong(&zone->head->workers[i], &free_slot,
                                           id)) {
            return id;
        }
    }
    return 0; /* too many at once */
}

void
kars__zone_worker_gone(kars_zone_t *zone, uint64_t id)
{
    for (size_t i = 0; i < ZONE_ALIVE; i++) {
        uint64_t was = id;

        if (atomic_compare_exchange_strong(&zone->head->workers[i], &was, 0)) {
            return;
        }
    }
}

int
kars__zone_worker_alive(const kars_zone_t *zone, uint64_t id)
{
    for (size_t i = 0; i < ZONE_ALIVE; i++) {
        if (id != 0 && atomic_load(&zone->head->workers[i]) == id) {
            return 1;
        }
    }
    return 0;
}
