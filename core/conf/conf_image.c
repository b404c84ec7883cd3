/* conf_image.c - a tree of directives to bytes and back. */
#include "conf/conf_image.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMAGE_MAGIC 0x6b636f6e66303031u /* "kconf001" */
#define IMAGE_SEALS (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)

/* Out. The buffer is freed by image_write() or on failure. */
typedef struct {
    char *data;
    size_t len;
    size_t cap;
    int failed;
} image_out_t;

static void
image_put(image_out_t *o, const void *p, size_t n)
{
    if (o->failed) {
        return;
    }
    if (n > o->cap - o->len) {
        size_t cap = (o->cap + n) * 2;
        char *data = kars__realloc(o->data, cap);

        if (data == NULL) {
            o->failed = 1;
            return;
        }
        o->data = data;
        o->cap = cap;
    }
    memcpy(o->data + o->len, p, n);
    o->len += n;
}

static void
image_put_number(image_out_t *o, size_t n)
{
    uint32_t number = (uint32_t) n;

    image_put(o, &number, sizeof(number));
}

static void
image_put_str(image_out_t *o, kars_str_t s)
{
    image_put_number(o, s.len);
    image_put(o, s.data, s.len);
}

/* The node, then its children behind their number. */
static void
image_put_node(image_out_t *o, const kars__conf_node_t *node)
{
    size_t n = 0;

    image_put_str(o, kars__strz(node->file));
    image_put_number(o, node->line);
    image_put_number(o, node->column);
    image_put_number(o, node->has_block);
    image_put_number(o, node->argc);
    for (size_t i = 0; i < node->argc; i++) {
        image_put_str(o, node->argv[i]);
        image_put_number(o, node->lines[i]);
        image_put_number(o, node->columns[i]);
    }
    for (const kars__conf_node_t *c = node->child; c != NULL; c = c->next) {
        n++;
    }
    image_put_number(o, n);
    for (const kars__conf_node_t *c = node->child; c != NULL; c = c->next) {
        image_put_node(o, c);
    }
}

static int
image_write(int fd, const image_out_t *o)
{
    size_t at = 0;

    while (at < o->len) {
        ssize_t n = write(fd, o->data + at, o->len - at);

        if (n == -1 && errno != EINTR) {
            return -1;
        }
        at += n > 0 ? (size_t) n : 0;
    }
    return fcntl(fd, F_ADD_SEALS, IMAGE_SEALS);
}

int
kars__conf_image_make(const kars__conf_node_t *root, kars_err_t *err)
{
    image_out_t o = { 0 };
    uint64_t magic = IMAGE_MAGIC;
    int fd = -1;

    image_put(&o, &magic, sizeof(magic));
    image_put_node(&o, root);
    if (o.failed) {
        (void) kars__err(err, ENOMEM, "the image of the configuration");
    } else {
        fd = memfd_create("kars-conf", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd == -1 || image_write(fd, &o) == -1) {
            (void) kars__err(err, errno, "the image of the configuration");
            if (fd != -1) {
                (void) close(fd);
            }
            fd = -1;
        }
    }
    kars__free(o.data);
    return fd;
}

/* In. */
typedef struct {
    kars_pool_t *pool;
    const char *at;
    const char *end;
    const char *file; /* of the node before: most share one */
} image_in_t;

static int
image_get(image_in_t *in, void *p, size_t n)
{
    if (n > (size_t) (in->end - in->at)) {
        return KARS_ERROR;
    }
    memcpy(p, in->at, n);
    in->at += n;
    return KARS_OK;
}

static int
image_get_number(image_in_t *in, uint32_t *ret)
{
    return image_get(in, ret, sizeof(*ret));
}

static int
image_get_str(image_in_t *in, kars_str_t *ret)
{
    uint32_t n;

    if (image_get_number(in, &n) != KARS_OK ||
        n > (size_t) (in->end - in->at)) {
        return KARS_ERROR;
    }
    *ret = kars__pdup(in->pool, (kars_str_t){ in->at, n });
    in->at += n;
    return ret->data != NULL ? KARS_OK : KARS_ERROR;
}

static int
image_get_file(image_in_t *in, const char **ret)
{
    kars_str_t before = kars__strz(in->file);
    const char *at = in->at;
    uint32_t n;
    kars_str_t name;

    if (image_get_number(in, &n) != KARS_OK ||
        n > (size_t) (in->end - in->at)) {
        return KARS_ERROR;
    }
    if (kars_str_eq(before, (kars_str_t){ in->at, n })) {
        in->at += n;
    } else {
        in->at = at;
        if (image_get_str(in, &name) != KARS_OK) {
            return KARS_ERROR;
        }
        in->file = name.data;
    }
    *ret = in->file;
    return KARS_OK;
}

static int
image_get_words(image_in_t *in, kars__conf_node_t *node)
{
    node->argv = kars__pnewn(in->pool, kars_str_t, node->argc);
    node->lines = kars__pnewn(in->pool, uint32_t, node->argc);
    node->columns = kars__pnewn(in->pool, uint32_t, node->argc);
    if (node->argv == NULL || node->lines == NULL || node->columns == NULL) {
        return KARS_ERROR;
    }
    for (size_t i = 0; i < node->argc; i++) {
        if (image_get_str(in, &node->argv[i]) != KARS_OK ||
            image_get_number(in, &node->lines[i]) != KARS_OK ||
            image_get_number(in, &node->columns[i]) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    return KARS_OK;
}

static int
image_get_node(image_in_t *in, size_t depth, kars__conf_node_t **ret)
{
    kars__conf_node_t *node = kars__pnew(in->pool, kars__conf_node_t);
    uint32_t argc, nchildren;

    if (node == NULL || depth > KARS__CONF_DEPTH + 1 ||
        image_get_file(in, &node->file) != KARS_OK ||
        image_get_number(in, &node->line) != KARS_OK ||
        image_get_number(in, &node->column) != KARS_OK ||
        image_get_number(in, &node->has_block) != KARS_OK ||
        image_get_number(in, &argc) != KARS_OK || argc > KARS__CONF_WORDS) {
        return KARS_ERROR;
    }
    node->argc = argc;
    if (image_get_words(in, node) != KARS_OK ||
        image_get_number(in, &nchildren) != KARS_OK) {
        return KARS_ERROR;
    }

    kars__conf_node_t **tail = &node->child;

    for (uint32_t i = 0; i < nchildren; i++) {
        if (image_get_node(in, depth + 1, tail) != KARS_OK) {
            return KARS_ERROR;
        }
        tail = &(*tail)->next;
    }
    *ret = node;
    return KARS_OK;
}

int
kars__conf_image_read(kars_pool_t *pool, int fd, kars__conf_node_t **ret_root,
                      kars_err_t *err)
{
    struct stat st;
    uint64_t magic;
    void *map = MAP_FAILED;

    if (fstat(fd, &st) == 0 && st.st_size > 0) {
        map = mmap(NULL, (size_t) st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    }
    if (map == MAP_FAILED) {
        return kars__err(err, errno, "map the image of the configuration");
    }

    image_in_t in = {
        .pool = pool,
        .at = map,
        .end = (const char *) map + st.st_size,
        .file = "",
    };
    int rc = KARS_ERROR;

    if (image_get(&in, &magic, sizeof(magic)) == KARS_OK &&
        magic == IMAGE_MAGIC && image_get_node(&in, 0, ret_root) == KARS_OK &&
        in.at == in.end) {
        rc = KARS_OK;
    }
    (void) munmap(map, (size_t) st.st_size);
    return rc == KARS_OK
               ? rc
               : kars__err(err, 0, "the image of the configuration is broken");
}
