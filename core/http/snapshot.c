/* snapshot.c - values of watched files: made, published, kept, told about. */
#include "http/snapshot.h"
#include "event/watch.h"
#include "http/recheck.h"
#include "http/request.h"
#include "http/snapshot_zone.h"

#include <errno.h>
#include <limits.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/stat.h>

/* What parse made, with its pool. Counted by the sets that hold it. */
typedef struct {
    uint32_t refs;
    kars_pool_t *pool;
    void *data;
} snap_value_t;

struct kars__snapset_s {
    uint32_t refs;
    size_t n;
    snap_value_t *v[]; /* by index of the snapshot; NULL: none yet */
};

struct kars_snapshot_s {
    kars_snapshot_t *next;
    kars_cycle_t *cycle;
    kars__mod_t *mod;
    kars_watch_t watch; /* path and kind are ours */
    size_t index;
    unsigned char id[KARS__SNAP_ID];
    unsigned char stamp[KARS__WATCH_DIGEST];
    unsigned char digest[KARS__WATCH_DIGEST]; /* of the value */
    unsigned char seen[KARS__WATCH_DIGEST];   /* of what was read last */
    uint64_t loaded_at_ms;                    /* 0: no value */
    kars_err_t error;                         /* of what was read last */
};

struct kars__snapshots_s {
    kars__watcher_t *watcher;
    kars_snapshot_t *list;
    size_t n;
    kars__snapset_t *set;
    kars_area_t *rows;
    uint32_t started;
    uint32_t full; /* was said: no row for us */
};

/* Sets. */

static void
snap_value_unref(snap_value_t *v)
{
    if (v != NULL && --v->refs == 0) {
        kars__pool_destroy(v->pool);
        kars__free(v);
    }
}

kars__snapset_t *
kars__snapset_ref(kars_cycle_t *c)
{
    kars__snapset_t *set = c->snapshots != NULL ? c->snapshots->set : NULL;

    if (set != NULL) {
        set->refs++;
    }
    return set;
}

void
kars__snapset_unref(kars__snapset_t *set)
{
    if (set == NULL || --set->refs != 0) {
        return;
    }
    for (size_t i = 0; i < set->n; i++) {
        snap_value_unref(set->v[i]);
    }
    kars__free(set);
}

/* The set that now is, with room for all snapshots, and value (NULL: none) in
 * the place of that one's. */
static kars__snapset_t *
snap_set_with(const kars__snapshots_t *all, size_t index, snap_value_t *value)
{
    kars__snapset_t *set =
        kars__alloc(sizeof(*set) + all->n * sizeof(set->v[0]));

    if (set == NULL) {
        return NULL;
    }
    set->refs = 1;
    set->n = all->n;
    for (size_t i = 0; i < set->n; i++) {
        set->v[i] = all->set != NULL && i < all->set->n ? all->set->v[i] : NULL;
        if (i == index && value != NULL) {
            set->v[i] = value;
        }
        if (set->v[i] != NULL) {
            set->v[i]->refs++;
        }
    }
    return set;
}

static int
snap_publish(kars_snapshot_t *s, snap_value_t *value, kars_err_t *err)
{
    kars__snapshots_t *all = s->cycle->snapshots;
    kars__snapset_t *set = snap_set_with(all, s->index, value);

    if (set == NULL) {
        return kars__err(err, ENOMEM, "publish");
    }
    kars__snapset_unref(all->set);
    all->set = set;
    return KARS_OK;
}

static const void *
snap_in(const kars__snapset_t *set, const kars_snapshot_t *s)
{
    return set != NULL && s->index < set->n && set->v[s->index] != NULL
               ? set->v[s->index]->data
               : NULL;
}

const void *
kars__snapshot_of(kars_req_t *r, const kars_snapshot_t *s)
{
    return snap_in(r->snapset, s);
}

const void *
kars__snapshot_now(const kars_snapshot_t *s)
{
    return snap_in(s->cycle->snapshots->set, s);
}

/* Values. */

static int
snap_parse(kars_snapshot_t *s, const kars__read_t *read, snap_value_t *v,
           kars_err_t *err)
{
    kars__mod_t *was = kars__mod_now;
    const kars_watch_t *w = &s->watch;
    int rc;

    if (w->parse_all == NULL && read->is_folder) {
        return kars__err(err, 0, "is a folder, where a file is read");
    }
    kars__mod_now = s->mod;
    rc = w->parse_all != NULL ? w->parse_all(v->pool, read->files, read->n,
                                             w->data, &v->data, err)
                              : w->parse(v->pool, read->files[0].name,
                                         read->files[0].bytes, &v->data, err);
    kars__mod_now = was;
    if (rc != KARS_OK && err->text[0] == '\0') {
        return kars__err(err, 0, "refused, without a word why");
    }
    return rc == KARS_OK ? KARS_OK : KARS_ERROR;
}

/* What was read becomes the value, or *err says why not. */
static int
snap_take(kars_snapshot_t *s, const kars__read_t *read, kars_err_t *err)
{
    snap_value_t *v = kars__alloc(sizeof(*v));

    if (v == NULL || (v->pool = kars__pool_create(0)) == NULL) {
        kars__free(v);
        return kars__err(err, ENOMEM, "parse");
    }
    v->refs = 1; /* ours, until the set has its own */

    int rc = snap_parse(s, read, v, err);

    if (rc == KARS_OK) {
        rc = snap_publish(s, v, err);
    }
    snap_value_unref(v);
    if (rc == KARS_OK) {
        memcpy(s->digest, read->digest, sizeof(s->digest));
        s->loaded_at_ms = kars__loop_wall(s->cycle->loop);
    }
    return rc;
}

static void
snap_tell(kars_snapshot_t *s)
{
    kars__snapshots_t *all = s->cycle->snapshots;
    kars__snap_row_t row = { .loaded_at_ms = s->loaded_at_ms,
                             .failed = s->error.text[0] != '\0' };

    memcpy(row.digest, s->digest, sizeof(row.digest));
    if (all->rows == NULL ||
        kars__snap_row_set(all->rows, s->cycle->zone, s->cycle->worker_id,
                           s->id, &row) == KARS_OK ||
        all->full) {
        return;
    }
    all->full = 1;
    kars__log(KARS_LOG_WARN, "watch: too many watched paths and workers: "
                             "policy-status tells of some of them only");
}

static void
snap_refused(kars_snapshot_t *s, uint32_t level, const kars_err_t *err)
{
    if (strcmp(s->error.text, err->text) == 0) {
        return; /* was said */
    }
    s->error = *err;
    kars__log(level,
              "watch: refused kind=%.*s path=\"%.*s\" module=%s error=\"%s\"%s",
              KARS_STR_ARG(s->watch.kind), KARS_STR_ARG(s->watch.path),
              s->mod != NULL ? s->mod->def.name : "core", err->text,
              s->loaded_at_ms != 0 ? ": the one before stays" : "");
    snap_tell(s);
}

static void
snap_published(kars_snapshot_t *s)
{
    char hex[2 * KARS__WATCH_DIGEST];

    kars__to_hex(s->digest, sizeof(s->digest), hex);
    kars__log(KARS_LOG_NOTICE,
              "watch: published kind=%.*s path=\"%.*s\" digest=sha256:%.*s",
              KARS_STR_ARG(s->watch.kind), KARS_STR_ARG(s->watch.path),
              (int) sizeof(hex), hex);
    snap_tell(s);
    if (s->watch.published != NULL) {
        kars__mod_t *was = kars__mod_now;

        kars__mod_now = s->mod;
        s->watch.published(s->cycle, kars__snapshot_now(s), s->watch.data);
        kars__mod_now = was;
    }
    kars__recheck_soon(s->cycle);
}

/* What was read again. */
static void
snap_changed(void *data, int error, const kars__read_t *read,
             const kars_err_t *read_err)
{
    kars_snapshot_t *s = data;
    kars_err_t err = *read_err;

    if (error != 0) {
        memset(s->seen, 0, sizeof(s->seen));
        snap_refused(s, KARS_LOG_ERR, &err);
        return;
    }
    if (memcmp(s->seen, read->digest, sizeof(s->seen)) == 0) {
        return; /* the same, good or bad, as before */
    }
    memcpy(s->seen, read->digest, sizeof(s->seen));
    if (s->loaded_at_ms != 0 &&
        memcmp(s->digest, read->digest, sizeof(s->digest)) == 0) {
        s->error.text[0] = '\0'; /* back to what is published */
        snap_tell(s);
        return;
    }
    err.text[0] = '\0';
    if (snap_take(s, read, &err) != KARS_OK) {
        snap_refused(s, KARS_LOG_ERR, &err);
        return;
    }
    s->error.text[0] = '\0';
    snap_published(s);
}

/* Load. */

static kars_snapshot_t *
snap_find(const kars__snapshots_t *all, const kars_watch_t *w)
{
    for (kars_snapshot_t *s = all->list; s != NULL; s = s->next) {
        if (s->mod == kars__mod_now && kars_str_eq(s->watch.path, w->path) &&
            kars_str_eq(s->watch.kind, w->kind) && s->watch.parse == w->parse &&
            s->watch.parse_all == w->parse_all &&
            s->watch.published == w->published && s->watch.data == w->data) {
            return s;
        }
    }
    return NULL;
}

/* Two workers mean the same path by it. */
static void
snap_identify(kars_snapshot_t *s)
{
    const char *mod = s->mod != NULL ? s->mod->def.name : "";
    crypto_generichash_state hash;

    (void) crypto_generichash_init(&hash, NULL, 0, sizeof(s->id));
    (void) crypto_generichash_update(&hash, (const unsigned char *) mod,
                                     strlen(mod) + 1);
    (void) crypto_generichash_update(&hash,
                                     (const unsigned char *) s->watch.kind.data,
                                     s->watch.kind.len + 1);
    (void) crypto_generichash_update(
        &hash, (const unsigned char *) s->watch.path.data, s->watch.path.len);
    (void) crypto_generichash_final(&hash, s->id, sizeof(s->id));
}

/* What is there at load. Nothing: no value yet. What cannot be read or is
 * refused: an error, unless this worker takes the place of one that died: the
 * others serve, so it does, without a value. */
static int
snap_first(kars_snapshot_t *s, kars_err_t *err)
{
    kars__read_t read;
    kars_err_t why = KARS_ERR_INIT;
    int rc = kars__read_path(s->watch.path.data, NULL, &read, &why);

    memcpy(s->stamp, read.stamp, sizeof(s->stamp));
    if (rc == 0) {
        memcpy(s->seen, read.digest, sizeof(s->seen));
        rc = snap_take(s, &read, &why) == KARS_OK ? 0 : EINVAL;
        kars__read_free(&read);
    }
    if (rc == 0) {
        return KARS_OK;
    }
    if (rc != ENOENT && !s->cycle->replaces) {
        return kars__err(err, 0, "%.*s \"%.*s\": %s",
                         KARS_STR_ARG(s->watch.kind),
                         KARS_STR_ARG(s->watch.path), why.text);
    }
    snap_refused(s, rc == ENOENT ? KARS_LOG_WARN : KARS_LOG_ERR, &why);
    return KARS_OK;
}

static int
snap_begin(kars_cycle_t *c, kars_err_t *err)
{
    if (c->snapshots != NULL) {
        return KARS_OK;
    }

    kars__snapshots_t *all = kars__pnew(c->pool, kars__snapshots_t);

    if (all == NULL ||
        (all->watcher = kars__watcher_create(c->loop, c->offload)) == NULL) {
        return kars__err(err, ENOMEM, "watched files");
    }
    c->snapshots = all;
    return KARS_OK;
}

static int
snap_add(kars_cycle_t *c, const kars_watch_t *w, kars_snapshot_t **ret,
         kars_err_t *err)
{
    kars__snapshots_t *all = c->snapshots;
    kars_snapshot_t *s = kars__pnew(c->pool, kars_snapshot_t);

    if (s == NULL) {
        return kars__err(err, ENOMEM, "a watched file");
    }
    s->cycle = c;
    s->mod = kars__mod_now;
    s->watch = *w;
    s->watch.path = kars__pdup(c->pool, w->path);
    s->watch.kind = kars__pdup(c->pool, w->kind);
    s->error = (kars_err_t) KARS_ERR_INIT;
    s->index = all->n;
    if (s->watch.path.data == NULL || s->watch.kind.data == NULL) {
        return kars__err(err, ENOMEM, "a watched file");
    }
    snap_identify(s);
    all->n++;
    if (snap_first(s, err) != KARS_OK ||
        kars__watcher_add(all->watcher, s->watch.path.data, s->stamp,
                          snap_changed, s) != KARS_OK) {
        all->n--;
        return err->text[0] != '\0' ? KARS_ERROR
                                    : kars__err(err, ENOMEM, "a watched file");
    }
    s->next = all->list;
    all->list = s;
    *ret = s;
    return KARS_OK;
}

int
kars__snapshot_watch(kars_cycle_t *c, const kars_watch_t *watch,
                     kars_snapshot_t **ret, kars_err_t *err)
{
    kars_watch_t w = { 0 };
    kars_err_t unsaid = KARS_ERR_INIT;

    memcpy(&w, watch, watch->size < sizeof(w) ? watch->size : sizeof(w));
    if (err == NULL) {
        err = &unsaid;
    }
    if (w.path.len == 0 || w.path.data[0] != '/' || w.path.len >= PATH_MAX ||
        memchr(w.path.data, '\0', w.path.len) != NULL ||
        (w.parse == NULL) == (w.parse_all == NULL)) {
        return kars__err(err, 0,
                         "watch: an absolute path is wanted, and one of parse "
                         "and parse_all");
    }
    if (snap_begin(c, err) != KARS_OK) {
        return KARS_ERROR;
    }
    *ret = snap_find(c->snapshots, &w);
    if (*ret != NULL) {
        return KARS_OK;
    }
    if (c->snapshots->started) {
        return kars__err(err, 0, "watch: belongs to check and worker_start");
    }
    err->text[0] = '\0';
    return snap_add(c, &w, ret, err);
}

int
kars__snapshots_start(kars_cycle_t *c, kars_err_t *err)
{
    kars__snapshots_t *all = c->snapshots;

    if (all == NULL) {
        return KARS_OK;
    }
    all->started = 1;
    if (c->zone != NULL) {
        all->rows = kars__snap_rows(c->zone, err);
        if (all->rows == NULL) {
            return KARS_ERROR;
        }
    }
    for (kars_snapshot_t *s = all->list; s != NULL; s = s->next) {
        snap_tell(s);
    }
    kars__watcher_start(all->watcher);
    return KARS_OK;
}

void
kars__snapshots_stop(kars_cycle_t *c)
{
    if (c->snapshots != NULL) {
        kars__watcher_stop(c->snapshots->watcher);
    }
}

void
kars__snapshots_destroy(kars_cycle_t *c)
{
    if (c->snapshots != NULL) {
        kars__watcher_destroy(c->snapshots->watcher);
        kars__snapset_unref(c->snapshots->set);
        c->snapshots = NULL;
    }
}

/* What is told. */

void
kars__snapshot_each(kars_cycle_t *c,
                    void (*fn)(const kars_watch_state_t *s, void *data),
                    void *data)
{
    kars__snapshots_t *all = c->snapshots;

    for (kars_snapshot_t *s = all != NULL ? all->list : NULL; s != NULL;
         s = s->next) {
        kars__snap_row_t row = { .loaded_at_ms = s->loaded_at_ms };

        memcpy(row.digest, s->digest, sizeof(row.digest));
        if (all->rows != NULL) {
            (void) kars__snap_row_oldest(all->rows, c->zone, s->id, &row);
        }

        kars_watch_state_t state = {
            .size = sizeof(state),
            .kind = s->watch.kind,
            .path = s->watch.path,
            .digest = { (const char *) row.digest,
                        row.loaded_at_ms != 0 ? sizeof(row.digest) : 0 },
            .error = kars__strz(s->error.text),
            .loaded_at_ms = row.loaded_at_ms,
        };

        if (state.error.len == 0 && row.failed) {
            state.error = KARS_STR("refused by another worker: see the log");
        }
        fn(&state, data);
    }
}

/* The folder of the path, or of it the nearest one that is there. */
static void
snap_folder_of(char *path, void (*fn)(const char *dir, void *data), void *data)
{
    struct stat st;
    char *slash;

    while ((slash = strrchr(path, '/')) != NULL && slash != path) {
        *slash = '\0';
        if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
            fn(path, data);
            return;
        }
    }
    fn("/", data);
}

void
kars__snapshot_folders(const kars_cycle_t *c,
                       void (*fn)(const char *dir, void *data), void *data)
{
    const kars__snapshots_t *all = c->snapshots;

    for (const kars_snapshot_t *s = all != NULL ? all->list : NULL; s != NULL;
         s = s->next) {
        char path[PATH_MAX], real[PATH_MAX];
        struct stat st = { 0 };

        memcpy(path, s->watch.path.data, s->watch.path.len + 1);
        if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
            fn(path, data);
        }
        if (realpath(path, real) != NULL && strcmp(real, path) != 0) {
            if (S_ISDIR(st.st_mode)) {
                fn(real, data);
            }
            snap_folder_of(real, fn, data);
        }
        snap_folder_of(path, fn, data);
    }
}
