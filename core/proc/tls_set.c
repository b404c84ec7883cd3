/* tls_set.c - files of TLS; see tls_set.h. */
#include "proc/tls_set.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#define TLS_FILE_MAX  (4u << 20) /* bytes of one file */
#define TLS_SETTLE_MS 100        /* from an event to a look */

struct kars__tls_file_s {
    kars__tls_file_t *next;
    kars_str_t path;   /* absolute; ends in a NUL that does not count */
    int fd;            /* -1: not open now */
    X509_STORE *store; /* of its text, while it is being loaded */
    char error[200];   /* why it is not open */
};

/* What of a file tells that it is another one now. */
typedef struct {
    uint64_t dev, ino, size;
    int64_t mtime_s, mtime_ns, ctime_s, ctime_ns;
} tls_state_t;

struct kars__tls_set_s {
    kars_cycle_t *cycle;
    int channel;
    kars__tls_file_t *files;
    kars__tls_use_t *uses;
    kars__tls_file_t *asking; /* the master is being asked for it */
    int inotify;
    kars__io_t io;
    kars__timer_t poll;
    kars__timer_t settle;
};

/* Bytes of a file, for a moment; a key's are not left behind. */
typedef struct {
    char *p;
    size_t n;
} tls_text_t;

static void
text_done(tls_text_t *t)
{
    if (t->p != NULL) {
        OPENSSL_cleanse(t->p, t->n);
    }
    kars__free(t->p);
    memset(t, 0, sizeof(*t));
}

static kars_str_t
text_str(const tls_text_t *t)
{
    return (kars_str_t){ t->p, t->n };
}

static int
text_read(tls_text_t *t, const kars__tls_file_t *f, kars_err_t *err)
{
    struct stat st;
    size_t at = 0;

    if (f->fd == -1 || fstat(f->fd, &st) == -1) {
        return kars__err(err, 0, "%s",
                         f->error[0] != '\0' ? f->error : "it is not open");
    }
    if (!S_ISREG(st.st_mode) || st.st_size <= 0 ||
        st.st_size > (off_t) TLS_FILE_MAX) {
        return kars__err(err, 0, "\"%s\" is no file of 1 to %u bytes",
                         f->path.data, TLS_FILE_MAX);
    }
    t->n = (size_t) st.st_size;
    t->p = kars__alloc(t->n);
    if (t->p == NULL) {
        return kars__err(err, ENOMEM, "\"%s\"", f->path.data);
    }
    while (at < t->n) {
        ssize_t got = pread(f->fd, t->p + at, t->n - at, (off_t) at);

        if (got <= 0) {
            int e = got == 0 ? EIO : errno; /* cut while we read it */

            text_done(t);
            return kars__err(err, e, "read \"%s\"", f->path.data);
        }
        at += (size_t) got;
    }
    return KARS_OK;
}

/* Files. */

static void
file_close(kars__tls_file_t *f)
{
    if (f->fd != -1) {
        (void) close(f->fd);
        f->fd = -1;
    }
}

static void
set_close_files(kars__tls_set_t *set)
{
    for (kars__tls_file_t *f = set->files; f != NULL; f = f->next) {
        file_close(f);
        X509_STORE_free(f->store);
        f->store = NULL;
    }
}

static void
set_release(void *data)
{
    set_close_files(data);
}

kars__tls_set_t *
kars__tls_set(kars_cycle_t *cycle, int channel)
{
    if (cycle->tls == NULL) {
        cycle->tls = kars__pown(cycle->pool, sizeof(*cycle->tls), set_release);
        if (cycle->tls != NULL) {
            cycle->tls->cycle = cycle;
            cycle->tls->channel = channel;
            cycle->tls->inotify = -1;
        }
    }
    return cycle->tls;
}

kars__tls_file_t *
kars__tls_set_find(const kars__tls_set_t *set, kars_str_t path)
{
    kars__tls_file_t *f = set->files;

    while (f != NULL && !kars_str_eq(f->path, path)) {
        f = f->next;
    }
    return f;
}

kars__tls_file_t *
kars__tls_set_file(kars__tls_set_t *set, kars_str_t path, kars_err_t *err)
{
    kars__tls_file_t *f = kars__tls_set_find(set, path);

    if (f != NULL) {
        return f;
    }
    f = kars__pnew(set->cycle->pool, kars__tls_file_t);
    if (f != NULL) {
        f->fd = -1;
        f->path = kars__pdup(set->cycle->pool, path);
    }
    if (f == NULL || f->path.data == NULL) {
        (void) kars__err(err, ENOMEM, "a file of TLS");
        return NULL;
    }
    if (kars__ask(set->channel, KARS__ASK_SECRET, f->path, 0, &f->fd, NULL,
                  err) != KARS_OK) {
        return NULL;
    }
    f->next = set->files;
    set->files = f;
    return f;
}

const char *
kars__tls_system_ca(void)
{
    const char *const places[] = {
        getenv(X509_get_default_cert_file_env()),
        X509_get_default_cert_file(),
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
    };

    for (size_t i = 0; i < KARS_NELTS(places); i++) {
        if (places[i] != NULL && places[i][0] == '/' &&
            access(places[i], R_OK) == 0) {
            return places[i];
        }
    }
    return NULL;
}

/* Loading. */

static void
use_state_of(const kars__tls_file_t *f, EVP_MD_CTX *md)
{
    tls_state_t s;
    struct stat st;

    memset(&s, 0, sizeof(s));
    if (f != NULL && f->fd != -1 && fstat(f->fd, &st) == 0) {
        s.dev = st.st_dev;
        s.ino = st.st_ino;
        s.size = (uint64_t) st.st_size;
        s.mtime_s = st.st_mtim.tv_sec;
        s.mtime_ns = st.st_mtim.tv_nsec;
        s.ctime_s = st.st_ctim.tv_sec;
        s.ctime_ns = st.st_ctim.tv_nsec;
    }
    (void) EVP_DigestUpdate(md, &s, sizeof(s));
}

/* A digest over the state of all files of a user. */
static void
use_state(const kars__tls_use_t *use, uint8_t ret[32])
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();

    memset(ret, 0, 32);
    if (md == NULL || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(md);
        return;
    }
    use_state_of(use->ca, md);
    for (size_t i = 0; i < use->npairs; i++) {
        use_state_of(use->pairs[i].chain, md);
        use_state_of(use->pairs[i].key, md);
    }
    (void) EVP_DigestFinal_ex(md, ret, NULL);
    EVP_MD_CTX_free(md);
}

/* The authorities of a file: read once, however many use them. digest takes
 * EVP_MAX_MD_SIZE bytes. */
static int
use_store(const kars__tls_use_t *use, const tls_text_t *ca,
          unsigned char *digest, X509_STORE **ret, kars_str_t *ret_digest,
          kars_err_t *err)
{
    unsigned int n = 0;

    if (use->ca == NULL) {
        return KARS_OK;
    }
    if (use->ca->store == NULL) {
        use->ca->store = kars__tls_store(text_str(ca), err);
        if (use->ca->store == NULL) {
            return kars__err_prefix(err, "\"%s\"", use->ca->path.data);
        }
    }
    if (EVP_Digest(ca->p, ca->n, digest, &n, EVP_sha256(), NULL) != 1) {
        return kars__err(err, ENOMEM, "a digest");
    }
    *ret = use->ca->store;
    *ret_digest = (kars_str_t){ (const char *) digest, n };
    return KARS_OK;
}

static int
use_texts(const kars__tls_use_t *use, const tls_text_t *ca,
          const kars__tls_pair_t *pairs, kars_err_t *err)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    kars__tls_server_conf_t server = use->server_conf;
    kars__tls_client_conf_t client = { .alpn = KARS__TLS_ALPN_HTTP1,
                                       .pair = pairs[0] };

    if (use->upstream != NULL) {
        client.server_name = use->upstream->tls_server_name;
        return use_store(use, ca, digest, &client.store, &client.ca, err) ==
                       KARS_OK
                   ? kars__tls_client_load(use->upstream->tls_client, &client,
                                           err)
                   : KARS_ERROR;
    }
    server.pairs = pairs;
    server.npairs = use->npairs;
    return use_store(use, ca, digest, &server.store, &server.ca, err) == KARS_OK
               ? kars__tls_server_load(use->server, &server, err)
               : KARS_ERROR;
}

static int
use_load(kars__tls_use_t *use, kars_err_t *err)
{
    kars__tls_pair_t pairs[KARS__TLS_CERTS] = { 0 };
    tls_text_t texts[2 * KARS__TLS_CERTS + 1] = { 0 };
    tls_text_t *ca = &texts[2 * KARS__TLS_CERTS];
    int rc = use->ca != NULL ? text_read(ca, use->ca, err) : KARS_OK;

    use_state(use, use->tried);
    for (size_t i = 0; rc == KARS_OK && i < use->npairs; i++) {
        rc = text_read(&texts[2 * i], use->pairs[i].chain, err);
        if (rc == KARS_OK) {
            rc = text_read(&texts[2 * i + 1], use->pairs[i].key, err);
        }
        pairs[i].chain = text_str(&texts[2 * i]);
        pairs[i].key = text_str(&texts[2 * i + 1]);
    }
    if (rc == KARS_OK) {
        rc = use_texts(use, ca, pairs, err);
    }
    for (size_t i = 0; i < KARS_NELTS(texts); i++) {
        text_done(&texts[i]);
    }
    return rc;
}

int
kars__tls_set_use(kars__tls_set_t *set, kars__tls_use_t *use, kars_err_t *err)
{
    if (use_load(use, err) != KARS_OK) {
        return KARS_ERROR;
    }
    use->next = set->uses;
    set->uses = use;
    return KARS_OK;
}

void
kars__tls_set_loaded(kars_cycle_t *cycle)
{
    if (cycle->tls != NULL) {
        set_close_files(cycle->tls);
    }
}

/* Watching: a look at all files, one question after another. */

/* All files are open, or it is known why not. */
static void
set_look_done(kars__tls_set_t *set)
{
    for (kars__tls_use_t *u = set->uses; u != NULL; u = u->next) {
        kars_err_t err = KARS_ERR_INIT;
        uint8_t now[32];

        use_state(u, now);
        if (memcmp(now, u->tried, sizeof(now)) == 0) {
            continue;
        }
        if (use_load(u, &err) == KARS_OK) {
            kars__log(KARS_LOG_NOTICE, "tls: files loaded again for=\"%.*s\"",
                      KARS_STR_ARG(u->name));
        } else {
            kars__log(KARS_LOG_ERR,
                      "tls: changed files do not load, the old ones stay "
                      "for=\"%.*s\" error=\"%s\"",
                      KARS_STR_ARG(u->name), err.text);
        }
    }
    set_close_files(set);
}

static void
set_ask(kars__tls_set_t *set, kars__tls_file_t *f)
{
    for (; f != NULL; f = f->next) {
        kars__ask_t m = { .kind = KARS__ASK_SECRET };
        kars_err_t err = KARS_ERR_INIT;

        if (set->channel == -1) {
            if (kars__ask(-1, KARS__ASK_SECRET, f->path, 0, &f->fd, NULL,
                          &err) != KARS_OK) {
                memcpy(f->error, err.text, sizeof(f->error) - 1);
            }
            continue;
        }
        memcpy(m.text, f->path.data,
               f->path.len < sizeof(m.text) ? f->path.len : 0);
        set->asking = f;
        if (kars__ask_send(set->channel, &m, -1) != KARS_OK) {
            set->asking = NULL; /* another time */
            set_close_files(set);
        }
        return;
    }
    set->asking = NULL;
    set_look_done(set);
}

void
kars__tls_set_answer(kars_cycle_t *cycle, const kars__ask_t *answer, int fd)
{
    kars__tls_file_t *f = cycle->tls != NULL ? cycle->tls->asking : NULL;

    if (f == NULL) {
        if (fd != -1) {
            (void) close(fd);
        }
        return;
    }
    if (answer->error == EPERM) { /* another master, which never heard of it */
        cycle->tls->asking = NULL;
        set_close_files(cycle->tls);
        return;
    }
    file_close(f);
    f->fd = fd;
    memcpy(f->error, answer->text, sizeof(f->error) - 1);
    set_ask(cycle->tls, f->next);
}

static void
set_look(kars__tls_set_t *set)
{
    if (set->asking == NULL) {
        set_ask(set, set->files);
    }
}

static void
set_poll(kars__timer_t *t)
{
    kars__tls_set_t *set =
        (kars__tls_set_t *) ((char *) t - offsetof(kars__tls_set_t, poll));

    kars__timer_start(set->cycle->loop, &set->poll, KARS__TLS_POLL_MS);
    set_look(set);
}

static void
set_settled(kars__timer_t *t)
{
    set_look(
        (kars__tls_set_t *) ((char *) t - offsetof(kars__tls_set_t, settle)));
}

/* Is this one of our files, or the link that a mounted volume swaps? */
static int
set_is_ours(const kars__tls_set_t *set, const char *name)
{
    if (strcmp(name, "..data") == 0) {
        return 1;
    }
    for (const kars__tls_file_t *f = set->files; f != NULL; f = f->next) {
        const char *slash = strrchr(f->path.data, '/');

        if (strcmp(slash != NULL ? slash + 1 : f->path.data, name) == 0) {
            return 1;
        }
    }
    return 0;
}

static void
set_event(kars__io_t *io, uint32_t events)
{
    kars__tls_set_t *set =
        (kars__tls_set_t *) ((char *) io - offsetof(kars__tls_set_t, io));
    _Alignas(struct inotify_event) char buf[4096];
    ssize_t n = read(set->inotify, buf, sizeof(buf));
    int ours = 0;

    for (ssize_t at = 0; at < n;) {
        const struct inotify_event *e =
            (const struct inotify_event *) (const void *) (buf + at);

        ours |= e->len == 0 || set_is_ours(set, e->name);
        at += (ssize_t) (sizeof(*e) + e->len);
    }
    if (ours && set->settle.slot == 0) {
        kars__timer_start(set->cycle->loop, &set->settle, TLS_SETTLE_MS);
    }
}

static void
set_watch_folders(kars__tls_set_t *set)
{
    set->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (set->inotify == -1) {
        return; /* the poll goes on */
    }
    for (const kars__tls_file_t *f = set->files; f != NULL; f = f->next) {
        const char *slash = strrchr(f->path.data, '/');
        size_t n = slash != NULL ? (size_t) (slash + 1 - f->path.data) : 0;
        kars_str_t dir =
            kars__pdup(set->cycle->pool, (kars_str_t){ f->path.data, n });

        if (dir.data != NULL) {
            (void) inotify_add_watch(set->inotify, n != 0 ? dir.data : ".",
                                     IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE |
                                         IN_ATTRIB | IN_DELETE);
        }
    }
    kars__io_init(&set->io, set->cycle->loop, set->inotify, set_event);
    kars__io_want(&set->io, KARS__READ);
}

void
kars__tls_set_start(kars_cycle_t *cycle)
{
    kars__tls_set_t *set = cycle->tls;

    if (set == NULL || set->uses == NULL) {
        return;
    }
    set->poll.fn = set_poll;
    set->settle.fn = set_settled;
    set_watch_folders(set);
    kars__timer_start(cycle->loop, &set->poll, KARS__TLS_POLL_MS);
}

void
kars__tls_set_stop(kars_cycle_t *cycle)
{
    kars__tls_set_t *set = cycle->tls;

    if (set == NULL) {
        return;
    }
    kars__timer_stop(cycle->loop, &set->poll);
    kars__timer_stop(cycle->loop, &set->settle);
    if (set->inotify != -1) {
        kars__io_want(&set->io, 0);
        (void) close(set->inotify);
        set->inotify = -1;
    }
    set->asking = NULL;
}
