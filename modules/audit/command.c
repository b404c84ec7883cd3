/* command.c - see command.h. Owns the mappings of the files while it reads. */
#include "audit/command.h"

#include "audit/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { COMMAND_GOOD, COMMAND_BAD, COMMAND_USAGE };

static const char command_usage[] =
    "usage: kars-router audit verify FILE... [--key PUBFILE] "
    "[--head SEQ:DIGEST] [--start SEQ:DIGEST|trust]\n";

typedef struct {
    audit_verify_t v;
    uint8_t key[32];
    const char *head_from; /* "head.json", "--head"; NULL: none */
    char **files;          /* argv, packed */
    int nfiles;
} command_t;

static int
command_read_key(const char *path, uint8_t ret[32], FILE *err)
{
    char text[80];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd == -1 ? -1 : read(fd, text, sizeof(text));

    if (n == -1) {
        fprintf(err, "audit verify: key \"%s\": %s\n", path, strerror(errno));
    }
    if (fd != -1) {
        (void) close(fd);
    }
    if (n == -1) {
        return 0;
    }

    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r')) {
        n--;
    }
    if (!audit_unhex((kars_str_t){ text, (size_t) n }, ret, 32)) {
        fprintf(err,
                "audit verify: key \"%s\": not 64 hex digits (the .pub file "
                "of signing keygen)\n",
                path);
        return 0;
    }

    return 1;
}

static int
command_read_place(const char *option, const char *text, uint64_t *ret_seq,
                   uint8_t *ret_digest, FILE *err)
{
    audit_scan_t s = { text, text + strlen(text) };

    if (!audit_scan_uint(&s, ret_seq) || !audit_scan_lit(&s, ":") ||
        !audit_unhex((kars_str_t){ s.p, (size_t) (s.end - s.p) }, ret_digest,
                     AUDIT_SHA)) {
        fprintf(err, "audit verify: %s \"%s\": not SEQ:DIGEST\n", option, text);
        return 0;
    }
    return 1;
}

/* One option with its value. */
static int
command_option(command_t *c, const char *option, const char *value, FILE *err)
{
    if (strcmp(option, "--key") == 0) {
        c->v.key = c->key;
        return command_read_key(value, c->key, err);
    }
    if (strcmp(option, "--head") == 0) {
        c->v.has_head = 1;
        c->head_from = "--head";
        return command_read_place(option, value, &c->v.head_seq,
                                  c->v.head_digest, err);
    }
    if (strcmp(value, "trust") == 0) {
        c->v.trust_start = 1;
        return 1;
    }
    c->v.has_start = 1;
    return command_read_place(option, value, &c->v.start_seq, c->v.start_digest,
                              err);
}

static int
command_args(command_t *c, int argc, char **argv, FILE *err)
{
    if (argc < 3 || strcmp(argv[1], "verify") != 0) {
        fputs(command_usage, err);
        return 0;
    }

    c->files = argv;
    for (int i = 2; i < argc; i++) {
        int is_option = strcmp(argv[i], "--key") == 0 ||
                        strcmp(argv[i], "--head") == 0 ||
                        strcmp(argv[i], "--start") == 0;

        if (!is_option && strncmp(argv[i], "--", 2) != 0) {
            c->files[c->nfiles++] = argv[i];
            continue;
        }
        if (!is_option || i + 1 == argc) {
            fputs(command_usage, err);
            return 0;
        }
        if (!command_option(c, argv[i], argv[i + 1], err)) {
            return 0;
        }
        i++;
    }

    if (c->nfiles == 0) {
        fputs(command_usage, err);
        return 0;
    }
    return 1;
}

/* head.json beside the last file, unless --head said where the end is. */
static int
command_find_head(command_t *c, FILE *out, FILE *err)
{
    const char *last = c->files[c->nfiles - 1];
    const char *slash = strrchr(last, '/');
    char dir[4096];
    audit_head_t head;

    snprintf(dir, sizeof(dir), "%.*s",
             slash == NULL ? 1 : (int) (slash - last) + 1,
             slash == NULL ? "." : last);

    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd == -1 ? errno : audit_head_read(fd, &head);

    if (fd != -1) {
        (void) close(fd);
    }
    if (rc == ENOENT) {
        return COMMAND_GOOD;
    }
    if (rc == EINVAL) {
        fprintf(out, "%s%s: is not a head: edited\n", slash == NULL ? "" : dir,
                AUDIT_HEAD_FILE);
        return COMMAND_BAD;
    }
    if (rc != 0) {
        fprintf(err, "audit verify: \"%s%s\": %s\n", slash == NULL ? "" : dir,
                AUDIT_HEAD_FILE, strerror(rc));
        return COMMAND_USAGE;
    }

    if (c->v.key != NULL && !audit_head_signed_by(&head, c->key)) {
        fprintf(out, "%s%s: %s\n", slash == NULL ? "" : dir, AUDIT_HEAD_FILE,
                head.is_signed ? "bad signature, or signed with another key"
                               : "is not signed");
        return COMMAND_BAD;
    }

    if (!c->v.has_head) {
        c->head_from = AUDIT_HEAD_FILE;
        c->v.has_head = 1;
        c->v.head_is_signed = c->v.key != NULL;
        c->v.head_seq = head.seq;
        memcpy(c->v.head_digest, head.digest, AUDIT_SHA);
    }
    return COMMAND_GOOD;
}

static int
command_map(const char *path, kars_str_t *ret, FILE *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *p = NULL;
    int ok = fd != -1 && fstat(fd, &st) == 0;

    if (ok && !S_ISREG(st.st_mode)) {
        errno = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
        ok = 0;
    }
    if (ok && st.st_size > 0) {
        p = mmap(NULL, (size_t) st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        ok = p != MAP_FAILED;
    }
    if (!ok) {
        fprintf(err, "audit verify: \"%s\": %s\n", path, strerror(errno));
    } else {
        *ret = (kars_str_t){ p, (size_t) st.st_size };
    }

    if (fd != -1) {
        (void) close(fd);
    }
    return ok;
}

static int
command_file(command_t *c, const char *path, FILE *out, FILE *err)
{
    kars_str_t bytes;
    audit_fault_t fault;
    uint64_t before = c->v.records;

    if (!command_map(path, &bytes, err)) {
        return COMMAND_USAGE;
    }

    int ok = audit_verify_file(&c->v, bytes, &fault);

    if (bytes.len > 0) {
        (void) munmap((void *) (uintptr_t) bytes.data, bytes.len);
    }
    if (!ok) {
        fprintf(out, "%s:%llu: seq %llu: %s\n", path,
                (unsigned long long) fault.line, (unsigned long long) fault.seq,
                fault.text);
        return COMMAND_BAD;
    }

    fprintf(out, "%s: %llu records good", path,
            (unsigned long long) (c->v.records - before));
    if (c->v.records > before) {
        fprintf(out, ", up to seq %llu", (unsigned long long) c->v.last_seq);
    }
    fprintf(out, "\n");
    return COMMAND_GOOD;
}

/* What was checked, and what was not. */
static void
command_summary(const command_t *c, FILE *out)
{
    const audit_verify_t *v = &c->v;

    fprintf(out, "audit verify: ok, %llu record%s",
            (unsigned long long) v->records, v->records == 1 ? "" : "s");
    if (v->records > 0) {
        fprintf(out, ", seq %llu to %llu", (unsigned long long) v->first_seq,
                (unsigned long long) v->last_seq);
    }
    if (v->legacy > 0) {
        fprintf(out, ", %llu without a digest", (unsigned long long) v->legacy);
    }
    if (v->recoveries > 0) {
        fprintf(out, ", %llu torn line%s closed",
                (unsigned long long) v->recoveries,
                v->recoveries == 1 ? "" : "s");
    }
    if (v->start_unchecked) {
        fprintf(out, "; start not checked");
    }
    if (v->key == NULL) {
        fprintf(out, "; signatures not checked");
    } else if (v->has_signed) {
        fprintf(out, "; signed up to seq %llu",
                (unsigned long long) v->signed_seq);
    }
    if (v->head_seen) {
        fprintf(out, "; end checked (%s, seq %llu)\n", c->head_from,
                (unsigned long long) v->head_seq);
    } else {
        fprintf(out, "; end not checked\n");
    }
}

int
audit_command_run(int argc, char **argv, FILE *out, FILE *err)
{
    command_t c;
    audit_fault_t fault;

    memset(&c, 0, sizeof(c));
    if (sodium_init() == -1) {
        fprintf(err, "audit verify: libsodium does not start\n");
        return COMMAND_USAGE;
    }
    if (!command_args(&c, argc, argv, err)) {
        return COMMAND_USAGE;
    }

    int rc = command_find_head(&c, out, err);

    for (int i = 0; rc == COMMAND_GOOD && i < c.nfiles; i++) {
        rc = command_file(&c, c.files[i], out, err);
    }
    if (rc == COMMAND_GOOD && !audit_verify_end(&c.v, &fault)) {
        fprintf(out, "%s: end: seq %llu: %s\n", c.files[c.nfiles - 1],
                (unsigned long long) fault.seq, fault.text);
        rc = COMMAND_BAD;
    }

    if (rc == COMMAND_GOOD) {
        command_summary(&c, out);
    } else if (rc == COMMAND_BAD) {
        fprintf(out, "audit verify: FAILED\n");
    }
    return rc;
}
