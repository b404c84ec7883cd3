/* store.c - see store.h. Reading the tail is tail.c's. */
#include "audit/store.h"

#include "audit/tail.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define STORE_GROUP (1u << 20) /* bytes of one write */
#define STORE_STEP  (1u << 20) /* bytes that are reserved at a time */
#define STORE_SMALL (1u << 16) /* and when the disk is nearly full */
#define STORE_OUT   (AUDIT_TAIL_MAX + 2 * AUDIT_RECORD_MAX)

static int store_fail(kars_err_t *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static int
store_fail(kars_err_t *err, const char *fmt, ...)
{
    va_list args;

    if (err != NULL) {
        va_start(args, fmt);
        vsnprintf(err->text, sizeof(err->text), fmt, args);
        va_end(args);
    }
    return KARS_ERROR;
}

static void
store_checkpoint_draft(audit_store_t *st)
{
    audit_fields_t f = {
        .agent_id = st->subject,
        .action = KARS_STR("audit:checkpoint"),
        .decision = KARS_STR("success"),
        .is_checkpoint = 1,
    };

    (void) audit_draft(&f, st->checkpoint);
}

int
audit_store_open(audit_store_t *st, kars_str_t path, kars_str_t sandbox,
                 kars_err_t *err)
{
    char dir[4096];
    void *out;

    memset(st, 0, sizeof(*st));
    st->dirfd = -1;
    st->fd = -1;
    st->io = (audit_io_t){ write, ftruncate, fallocate };
    st->checkpoint_records = 1000;
    st->checkpoint_every_ms = 60000;
    st->sandbox = audit_sandbox(sandbox, st->sandbox_text);
    st->subject = sandbox.len > 0 ? sandbox : KARS_STR("-");
    if (st->subject.len > 200) {
        st->subject.len = 200; /* the checkpoint's draft has a fixed place */
    }
    store_checkpoint_draft(st);

    if (path.len == 0 || path.len >= sizeof(dir)) {
        return store_fail(err, "audit_dir: the path is empty or too long");
    }
    memcpy(dir, path.data, path.len);
    dir[path.len] = '\0';

    if (mkdir(dir, 0750) == -1 && errno != EEXIST) {
        return store_fail(err, "audit_dir \"%s\": cannot be made: %s", dir,
                          strerror(errno));
    }
    st->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (st->dirfd == -1) {
        return store_fail(err, "audit_dir \"%s\": %s", dir, strerror(errno));
    }

    out = mmap(NULL, STORE_OUT, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (out == MAP_FAILED) {
        (void) close(st->dirfd);
        st->dirfd = -1;
        return store_fail(err, "audit: no memory for the log's buffer");
    }

    st->out = out;
    return KARS_OK;
}

void
audit_store_close(audit_store_t *st)
{
    if (st->out != NULL) {
        (void) munmap(st->out, STORE_OUT);
        st->out = NULL;
    }
    if (st->fd != -1) {
        (void) close(st->fd);
        st->fd = -1;
    }
    if (st->dirfd != -1) {
        (void) close(st->dirfd);
        st->dirfd = -1;
    }
}

static void
store_name(const char *date, char ret[32])
{
    snprintf(ret, 32, "%.10s.jsonl", date);
}

/* Frees what was reserved beyond the end of the file. */
static void
store_give_back(audit_store_t *st)
{
    struct stat file;

    if (fstat(st->fd, &file) == 0) {
        (void) st->io.ftruncate(st->fd, file.st_size);
    }
}

/* Makes fd the file of the shared date. The old file is synced here: its last
 * records must not be less durable than those of the new one. Once a day. */
static int
store_switch(audit_store_t *st)
{
    char name[32];
    int fd;

    if (st->fd != -1 && memcmp(st->date, st->shared->date, AUDIT_DATE) == 0) {
        return 0;
    }

    store_name(st->shared->date, name);
    fd = openat(st->dirfd, name, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    if (fd == -1) {
        return errno;
    }

    (void) fsync(st->dirfd); /* a file without its name is not durable */
    if (st->fd != -1) {
        (void) fdatasync(st->fd);
        store_give_back(st);
        (void) close(st->fd);
    }
    st->fd = fd;
    memcpy(st->date, st->shared->date, sizeof(st->date));
    return 0;
}

/* One write that must be whole; what is not is taken back, or left for the
 * next recovery to close. *ret_done: bytes that stay in the file. */
static int
store_write(audit_store_t *st, size_t n, size_t *ret_done)
{
    ssize_t done;

    do {
        done = st->io.write(st->fd, st->out, n);
    } while (done == -1 && errno == EINTR);

    *ret_done = done > 0 ? (size_t) done : 0;
    if (done == (ssize_t) n) {
        return 0;
    }

    return done == -1 ? errno : ENOSPC;
}

/* Writes the record that closes a torn line, or says that records are
 * missing. st->out holds the torn bytes until they are hashed. */
static int
store_write_recovery(audit_store_t *st, const audit_tail_t *tail,
                     uint64_t missing, uint64_t wall_ms)
{
    uint64_t place[AUDIT_RECORD_MAX / 8];
    char reason[160];
    uint8_t sha[AUDIT_SHA];
    kars_str_t torn = tail->torn;
    int has_lf = torn.len > 0 && torn.data[torn.len - 1] == '\n';
    int has_torn = torn.len > 0;
    size_t n = 0;
    size_t done;

    torn.len -= (size_t) has_lf;
    audit_sha256(torn, sha);
    if (missing > 0) {
        snprintf(reason, sizeof(reason),
                 "%llu records before this one are missing from the file",
                 (unsigned long long) missing);
    } else {
        snprintf(reason, sizeof(reason),
                 "closes a torn line of %zu bytes before it", torn.len);
    }

    audit_fields_t f = {
        .agent_id = st->subject,
        .action = KARS_STR("audit:recovery"),
        .decision = missing > 0 ? KARS_STR("failure") : KARS_STR("success"),
        .code = missing > 0 ? KARS_STR("log_cut") : KARS_STR("torn_line"),
        .reason = { reason, strlen(reason) },
        .torn = has_torn ? sha : NULL,
        .torn_bytes = torn.len,
    };
    audit_chain_t next = st->shared->chain;

    (void) audit_draft(&f, place);
    if (has_torn && !has_lf) {
        st->out[n++] = '\n';
    }
    n += audit_seal(&next, st->sandbox, (const audit_draft_t *) place, wall_ms,
                    NULL, st->out + n);

    int rc = store_write(st, n, &done);

    if (rc != 0) {
        if (done > 0) { /* failing, the next recovery covers these bytes too */
            (void) st->io.ftruncate(st->fd, (off_t) st->shared->size);
        }
        return rc;
    }

    st->shared->chain = next;
    st->shared->size += n;
    st->shared->since_checkpoint++;
    return 0;
}

/* The end of the chain, from the files. */
static int
store_recover(audit_store_t *st, uint64_t wall_ms)
{
    audit_shared_t *sh = st->shared;
    audit_tail_t tail;
    uint64_t missing = 0;
    int rc = audit_tail_read(st->dirfd, st->fd, st->date, st->out, &tail);

    if (rc == 0 && tail.lacks_lf) {
        size_t done;

        st->out[0] = '\n';
        rc = store_write(st, 1, &done);
        tail.size++;
    }
    if (rc != 0) {
        return rc;
    }

    /* What was written is known better here than in a file that shrank. */
    if (sh->ready && tail.chain.seq < sh->chain.seq) {
        missing = sh->chain.seq - tail.chain.seq;
    } else {
        sh->chain = tail.chain;
    }

    sh->size = tail.size;
    sh->reserved = 0;
    if (tail.torn.len > 0 || missing > 0) {
        sh->ready = 0; /* until it is written, this is not done */
        rc = store_write_recovery(st, &tail, missing, wall_ms);
        if (rc != 0) {
            sh->ready = missing > 0; /* or a cut would be forgotten */
            sh->size = missing > 0 ? UINT64_MAX : sh->size;
            return rc;
        }
    }

    sh->ready = 1;
    return 0;
}

int
audit_store_ready(audit_store_t *st, uint64_t wall_ms, int died)
{
    audit_shared_t *sh = st->shared;
    char today[AUDIT_TS];
    struct stat file;
    int rc;

    audit_ts(wall_ms, today);
    if (!sh->ready && sh->date[0] == '\0') {
        rc = audit_tail_newest(st->dirfd, NULL, sh->date);
        if (rc != 0) {
            return rc;
        }
        if (sh->date[0] == '\0') {
            memcpy(sh->date, today, AUDIT_DATE);
        }
    }

    /* The old file first, then the new day's: twice at most. */
    for (;;) {
        rc = store_switch(st);
        if (rc == 0 && fstat(st->fd, &file) == -1) {
            rc = errno;
        }
        if (rc == 0 && file.st_nlink == 0) { /* someone took it away */
            (void) close(st->fd);
            st->fd = -1;
            rc = store_switch(st);
            died = 1;
        }
        if (rc == 0 &&
            (!sh->ready || died || (uint64_t) file.st_size != sh->size)) {
            rc = store_recover(st, wall_ms);
        }
        if (rc != 0 || memcmp(today, sh->date, AUDIT_DATE) <= 0) {
            return rc; /* a clock that went back does not reorder the log */
        }

        memcpy(sh->date, today, AUDIT_DATE);
        sh->size = 0;
        sh->reserved = 0;
        died = 0;
    }
}

static int
store_due(audit_store_t *st, uint64_t more, uint64_t wall_ms)
{
    audit_shared_t *sh = st->shared;
    uint64_t since = sh->since_checkpoint + more;

    if (sh->checkpoint_ms > wall_ms) {
        sh->checkpoint_ms = wall_ms; /* the clock went back */
    }

    return since > 0 &&
           (sh->checkpoint_ms == 0 || since >= st->checkpoint_records ||
            wall_ms - sh->checkpoint_ms >= st->checkpoint_every_ms);
}

/* Seals drafts from q + at into st->out, as many as make one group, and a
 * checkpoint behind them if told so. Stops before `limit` bytes. */
typedef struct {
    audit_chain_t chain;
    size_t bytes;     /* of lines */
    size_t queue;     /* bytes of the queue that they were made of */
    uint64_t records; /* without the checkpoint */
    int checkpoint;
} store_group_t;

static void
store_seal(audit_store_t *st, const audit_queue_t *q, size_t at,
           uint64_t wall_ms, store_group_t *g)
{
    memset(g, 0, sizeof(*g));
    g->chain = st->shared->chain;

    for (const audit_draft_t *d = audit_queue_at(q, at);
         d != NULL && g->bytes < STORE_GROUP;
         d = audit_queue_at(q, at + g->queue)) {
        g->bytes += audit_seal(&g->chain, st->sandbox, d, wall_ms, st->signing,
                               st->out + g->bytes);
        g->queue += d->size;
        g->records++;
    }

    if (store_due(st, g->records, wall_ms)) {
        g->checkpoint = 1;
        g->bytes += audit_seal(&g->chain, st->sandbox,
                               (const audit_draft_t *) st->checkpoint, wall_ms,
                               st->signing, st->out + g->bytes);
    }
}

static void
store_commit(audit_store_t *st, const store_group_t *g, uint64_t wall_ms)
{
    audit_shared_t *sh = st->shared;

    sh->chain = g->chain;
    __atomic_store_n(&sh->size, sh->size + g->bytes, __ATOMIC_RELAXED);
    sh->since_checkpoint += g->records;
    if (g->checkpoint) {
        sh->since_checkpoint = 0;
        sh->checkpoint_ms = wall_ms;
    }
}

/* A write came short: keeps the whole lines that reached the file, takes the
 * rest back. If that fails too, the size differs from now on, and the next
 * call closes the torn line by a recovery record. */
static void
store_partial(audit_store_t *st, const audit_queue_t *q, size_t at,
              uint64_t wall_ms, size_t reached, size_t *ret_queue)
{
    store_group_t g;
    char line[AUDIT_RECORD_MAX];

    size_t lacks_lf = 0;

    memset(&g, 0, sizeof(g));
    g.chain = st->shared->chain;
    for (const audit_draft_t *d = audit_queue_at(q, at); d != NULL;
         d = audit_queue_at(q, at + g.queue)) {
        audit_chain_t next = g.chain;
        size_t n =
            audit_seal(&next, st->sandbox, d, wall_ms, st->signing, line);

        if (g.bytes + n > reached) {
            lacks_lf = g.bytes + n - 1 == reached ? d->size : 0;
            break;
        }
        g.chain = next;
        g.bytes += n;
        g.queue += d->size;
        g.records++;
    }

    store_commit(st, &g, wall_ms);
    *ret_queue = g.queue;
    if (reached > g.bytes &&
        st->io.ftruncate(st->fd, (off_t) st->shared->size) == -1) {
        *ret_queue += lacks_lf; /* it is there: the next call ends its line */
    }
}

int
audit_store_append(audit_store_t *st, const audit_queue_t *q, uint64_t wall_ms,
                   int died, size_t *ret_done)
{
    int rc = audit_store_ready(st, wall_ms, died);

    *ret_done = 0;
    return rc != 0 ? rc : audit_store_write(st, q, wall_ms, ret_done);
}

int
audit_store_write(audit_store_t *st, const audit_queue_t *q, uint64_t wall_ms,
                  size_t *ret_done)
{
    store_group_t g;
    size_t at = 0;
    size_t reached;
    int rc = 0;

    *ret_done = 0;
    while (rc == 0) {
        store_seal(st, q, at, wall_ms, &g);
        if (g.bytes == 0) {
            break;
        }

        rc = store_write(st, g.bytes, &reached);
        if (rc == 0) {
            store_commit(st, &g, wall_ms);
        } else {
            store_partial(st, q, at, wall_ms, reached, &g.queue);
        }
        at += g.queue;
        *ret_done = at;
    }

    return rc;
}

int
audit_store_reserved(const audit_store_t *st, uint64_t n)
{
    uint64_t size = __atomic_load_n(&st->shared->size, __ATOMIC_RELAXED);
    uint64_t reserved =
        __atomic_load_n(&st->shared->reserved, __ATOMIC_RELAXED);

    return reserved >= size && reserved - size >= n;
}

static int
store_allocate(audit_store_t *st, uint64_t target)
{
    audit_shared_t *sh = st->shared;
    int rc;

    do {
        rc = st->io.fallocate(st->fd, FALLOC_FL_KEEP_SIZE, (off_t) sh->size,
                              (off_t) (target - sh->size));
    } while (rc == -1 && errno == EINTR);

    if (rc == -1 && (errno == EOPNOTSUPP || errno == ENOSYS)) {
        target = UINT64_MAX; /* it cannot be told before */
        rc = 0;
    }
    if (rc == -1) {
        return errno;
    }

    __atomic_store_n(&sh->reserved, target, __ATOMIC_RELAXED);
    return 0;
}

int
audit_store_reserve(audit_store_t *st, uint64_t n)
{
    const audit_shared_t *sh = st->shared;

    if (audit_store_reserved(st, n)) {
        return 0;
    }

    uint64_t want = sh->size + n;
    int rc = store_allocate(st, (want + STORE_STEP) / STORE_STEP * STORE_STEP);

    if (rc == ENOSPC || rc == EDQUOT || rc == EFBIG) {
        rc = store_allocate(st,
                            (want + STORE_SMALL) / STORE_SMALL * STORE_SMALL);
    }
    return rc;
}

int
audit_store_head(audit_store_t *st, uint64_t wall_ms, audit_head_t *ret)
{
    const audit_shared_t *sh = st->shared;

    if (!sh->ready || sh->chain.seq == 0 || sh->head_seq == sh->chain.seq) {
        return 0;
    }

    audit_head_make(&sh->chain, wall_ms, st->signing, ret);
    return 1;
}

int
audit_store_check_head(audit_store_t *st, uint64_t wall_ms, kars_err_t *err)
{
    audit_shared_t *sh = st->shared;
    audit_head_t head;
    uint8_t key[32];
    int rc;

    if (sh->head_checked) {
        return 0;
    }
    sh->head_checked = 1;

    /* A head that we did not sign says nothing: its file may be anyone's. */
    if (audit_head_read(st->dirfd, &head) != 0 || st->signing == NULL ||
        st->signing->public_key(key) != KARS_OK ||
        !audit_head_signed_by(&head, key)) {
        return 0;
    }

    int shorter = head.seq >= sh->chain.seq;
    int other = !shorter && head.seq + 1 == sh->chain.seq &&
                memcmp(head.digest, sh->chain.digest, AUDIT_SHA) != 0;

    if (!shorter && !other) {
        return 0;
    }

    audit_tail_t none = { .torn = { NULL, 0 } };
    uint64_t missing = shorter ? head.seq + 1 - sh->chain.seq : 1;

    (void) store_fail(err,
                      "the log ends at seq %lld, the signed head names seq "
                      "%llu: records were taken away",
                      (long long) sh->chain.seq - 1,
                      (unsigned long long) head.seq);
    rc = store_write_recovery(st, &none, missing, wall_ms);
    if (rc != 0) {
        sh->head_checked = 0;
    }
    return rc != 0 ? rc : EBADMSG;
}
