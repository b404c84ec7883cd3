/*
 * json_prog.c - compiles watched JSON paths to a trie and looks names up.
 *
 * Everything is allocated from the caller's pool and never changes again.
 */
#include "http/json_prog.h"

#include <errno.h>

/* One path on its way into the trie. */
typedef struct {
    kars_str_t rest;
    uint32_t node; /* where it has come to; 0: nowhere any more */
} prog_cursor_t;

typedef struct {
    kars__json_prog_t *prog;
    prog_cursor_t *cursors;
    size_t ncursors;
    kars_err_t *err;
} prog_build_t;

/*
 * Takes the first step off a path: its name, or an empty one for `[*]`.
 * KARS_ERROR: malformed.
 */
static int
prog_step(kars_str_t *path, int first, kars_str_t *ret)
{
    kars_str_t p = *path;
    size_t n = 0;

    if (kars_str_starts(p, KARS_STR("[*]"))) {
        *path = (kars_str_t){ p.data + 3, p.len - 3 };
        *ret = (kars_str_t){ p.data, 0 };
        return KARS_OK;
    }

    if (!first) {
        if (p.data[0] != '.') {
            return KARS_ERROR;
        }
        p = (kars_str_t){ p.data + 1, p.len - 1 };
    }

    while (n < p.len && memchr(".[]", p.data[n], 3) == NULL) {
        n++;
    }
    if (n == 0) {
        return KARS_ERROR;
    }

    *path = (kars_str_t){ p.data + n, p.len - n };
    *ret = (kars_str_t){ p.data, n };
    return KARS_OK;
}

/*
 * Code points beyond ASCII that parsers which ignore case take for a letter:
 * long s, the Kelvin sign and the Turkish i's.
 */
static const struct {
    char utf8[4];
    size_t size;
    char letter;
} prog_wide[] = {
    { "\xc5\xbf", 2, 's' },
    { "\xe2\x84\xaa", 3, 'k' },
    { "\xc4\xb0", 2, 'i' },
    { "\xc4\xb1", 2, 'i' },
};

/* The letter that one of them stands for and its size in bytes, or 0. */
static char
prog_fold_wide(const char *p, size_t n, size_t *ret_size)
{
    for (size_t i = 0; i < KARS_NELTS(prog_wide); i++) {
        size_t size = prog_wide[i].size;

        if (n >= size && memcmp(p, prog_wide[i].utf8, size) == 0) {
            *ret_size = size;
            return prog_wide[i].letter;
        }
    }

    return 0;
}

/* Writes s without its case to out, which holds as many bytes. */
static size_t
prog_fold(kars_str_t s, char *out)
{
    size_t n = 0;

    for (size_t i = 0; i < s.len; n++) {
        size_t size = 1;
        char c = s.data[i];

        if (c >= 'A' && c <= 'Z') {
            c = (char) (c + 'a' - 'A');
        } else if ((unsigned char) c >= 0x80) {
            char letter = prog_fold_wide(s.data + i, s.len - i, &size);

            c = letter != 0 ? letter : c;
        }
        out[n] = c;
        i += size;
    }

    return n;
}

/* How long a key can be that differs from the name only in case. */
static size_t
prog_twin_size(kars_str_t fold)
{
    size_t n = 0;

    for (size_t i = 0; i < fold.len; i++) {
        char c = fold.data[i];

        n += c == 'k' ? 3 : c == 's' || c == 'i' ? 2 : 1;
    }

    return n;
}

/* Bits beyond the last stand for all that is longer. */
static uint64_t
prog_length_bit(size_t len)
{
    return (uint64_t) 1 << (len < 63 ? len : 63);
}

static uint64_t
prog_first_bit(char c)
{
    return (uint64_t) 1 << ((unsigned char) c & 63);
}

/* Notes which keys the member may be meant by: what folds to its name has one
 * of these lengths, and one of these first bytes. */
static void
prog_expect(kars__json_node_t *parent, kars_str_t fold)
{
    char c = fold.data[0];

    for (size_t n = fold.len; n <= prog_twin_size(fold); n++) {
        parent->lengths |= prog_length_bit(n);
    }

    parent->firsts |= prog_first_bit(c);
    if (c >= 'a' && c <= 'z') {
        parent->firsts |= prog_first_bit((char) (c - 'a' + 'A'));
    }
    for (size_t i = 0; i < KARS_NELTS(prog_wide); i++) {
        if (prog_wide[i].letter == c) {
            parent->firsts |= prog_first_bit(prog_wide[i].utf8[0]);
        }
    }
}

/* Checks a path; *ret_steps is how many steps it has. */
static int
prog_check(kars_str_t path, size_t *ret_steps, kars_err_t *err)
{
    kars_str_t rest = path;
    size_t n = 0;

    while (rest.len > 0) {
        kars_str_t name;

        if (prog_step(&rest, n == 0, &name) != KARS_OK) {
            return kars__err(err, 0, "json path \"%.*s\": malformed",
                             KARS_STR_ARG(path));
        }
        if (name.len > KARS__JSON_KEY) {
            return kars__err(err, 0,
                             "json path: a name of %zu bytes, %d is"
                             " the limit",
                             name.len, KARS__JSON_KEY);
        }
        if (++n > KARS__JSON_STEPS) {
            return kars__err(err, 0, "json path \"%.*s\": more than %d steps",
                             KARS_STR_ARG(path), KARS__JSON_STEPS);
        }
    }

    *ret_steps = n;
    return KARS_OK;
}

static kars__json_node_t *
prog_node(kars__json_prog_t *prog, uint32_t *ret)
{
    kars__json_node_t *node = &prog->nodes[prog->nnodes];

    node->range = KARS__JSON_NO_RANGE;
    *ret = prog->nnodes++;
    return node;
}

/* Gives the node a place for its range. */
static int
prog_range(prog_build_t *b, kars__json_node_t *node)
{
    if (b->prog->nranges == KARS__JSON_RANGES) {
        return kars__err(b->err, 0,
                         "json paths: more than %d members outside of arrays",
                         KARS__JSON_RANGES);
    }

    node->range = (uint8_t) b->prog->nranges++;
    return KARS_OK;
}

/* Adds a member to a node, the newest in the program. */
static int
prog_add_name(prog_build_t *b, kars_pool_t *pool, uint32_t at, kars_str_t name,
              uint32_t *ret)
{
    kars__json_node_t *parent = &b->prog->nodes[at];
    char *text = kars__pcalloc(pool, 2, name.len);
    uint32_t twin = 0;

    if (text == NULL) {
        return kars__err(b->err, ENOMEM, "json paths");
    }
    memcpy(text, name.data, name.len);

    kars_str_t copy = { text, name.len };
    kars_str_t fold = { text + name.len, prog_fold(copy, text + name.len) };

    if (prog_twin_size(fold) > KARS__JSON_KEY) {
        return kars__err(b->err, 0, "json path: name \"%.*s\" is too long",
                         KARS_STR_ARG(name));
    }
    (void) kars__json_child(b->prog, at, copy, &twin);
    if (twin != 0) {
        return kars__err(
            b->err, 0, "json paths: \"%.*s\" and \"%.*s\" differ only in case",
            KARS_STR_ARG(b->prog->nodes[twin].name), KARS_STR_ARG(name));
    }
    if (parent->nchildren == KARS__JSON_NAMES) {
        return kars__err(b->err, 0,
                         "json paths: more than %d members in one"
                         " object",
                         KARS__JSON_NAMES);
    }

    kars__json_node_t *node = prog_node(b->prog, ret);

    node->name = copy;
    node->fold = fold;
    prog_expect(parent, fold);
    if (parent->nchildren++ == 0) {
        parent->child = *ret;
    }

    return parent->range != KARS__JSON_NO_RANGE ? prog_range(b, node) : KARS_OK;
}

/*
 * Moves the paths that stand at a node by one step, those with a name first
 * and then those with `[*]`: so the node's members stand together.
 */
static int
prog_grow(prog_build_t *b, kars_pool_t *pool, uint32_t at, int elems)
{
    for (size_t i = 0; i < b->ncursors; i++) {
        prog_cursor_t *c = &b->cursors[i];
        kars_str_t rest = c->rest;
        kars_str_t name;
        uint32_t twin;

        if (c->node != at || rest.len == 0) {
            continue;
        }
        (void) prog_step(&rest, at == KARS__JSON_ROOT, &name);
        if ((name.len == 0) != elems) {
            continue;
        }

        uint32_t to = elems ? b->prog->nodes[at].elem
                            : kars__json_child(b->prog, at, name, &twin);

        if (to == 0 && elems) {
            (void) prog_node(b->prog, &to);
            b->prog->nodes[at].elem = to;
        } else if (to == 0 &&
                   prog_add_name(b, pool, at, name, &to) != KARS_OK) {
            return KARS_ERROR;
        }
        c->rest = rest;
        c->node = to;
    }

    return KARS_OK;
}

/* Notes which paths end at a node. */
static void
prog_watch(prog_build_t *b, uint32_t at, uint32_t *nwatches)
{
    kars__json_node_t *node = &b->prog->nodes[at];

    node->watch = *nwatches;
    for (size_t i = 0; i < b->ncursors; i++) {
        if (b->cursors[i].node == at && b->cursors[i].rest.len == 0) {
            b->prog->watches[(*nwatches)++] = (uint32_t) i;
            node->nwatches++;
        }
    }
}

static int
prog_build(prog_build_t *b, kars_pool_t *pool)
{
    uint32_t nwatches = 0;
    uint32_t root;

    (void) prog_node(b->prog, &root); /* no node */
    if (prog_range(b, prog_node(b->prog, &root)) != KARS_OK) {
        return KARS_ERROR;
    }

    for (uint32_t at = KARS__JSON_ROOT; at < b->prog->nnodes; at++) {
        prog_watch(b, at, &nwatches);
        if (prog_grow(b, pool, at, 0) != KARS_OK ||
            prog_grow(b, pool, at, 1) != KARS_OK) {
            return KARS_ERROR;
        }
    }

    return KARS_OK;
}

int
kars__json_compile(kars_pool_t *pool, const kars_str_t *paths, size_t n,
                   kars__json_prog_t **ret, kars_err_t *err)
{
    size_t nnodes = 2;

    if (n > KARS__JSON_PATHS) {
        return kars__err(err, 0, "json paths: more than %d", KARS__JSON_PATHS);
    }
    for (size_t i = 0; i < n; i++) {
        size_t nsteps = 0;

        if (prog_check(paths[i], &nsteps, err) != KARS_OK) {
            return KARS_ERROR;
        }
        nnodes += nsteps;
    }

    kars__json_prog_t *prog = kars__pcalloc(pool, 1, sizeof(*prog));
    prog_cursor_t *cursors = kars__pcalloc(pool, n + 1, sizeof(*cursors));

    if (prog == NULL || cursors == NULL) {
        return kars__err(err, ENOMEM, "json paths");
    }
    prog->nodes = kars__pcalloc(pool, nnodes, sizeof(*prog->nodes));
    prog->watches = kars__pcalloc(pool, n + 1, sizeof(*prog->watches));
    if (prog->nodes == NULL || prog->watches == NULL) {
        return kars__err(err, ENOMEM, "json paths");
    }
    for (size_t i = 0; i < n; i++) {
        cursors[i] = (prog_cursor_t){ paths[i], KARS__JSON_ROOT };
    }

    prog_build_t b = { prog, cursors, n, err };

    if (prog_build(&b, pool) != KARS_OK) {
        return KARS_ERROR;
    }

    *ret = prog;
    return KARS_OK;
}

uint32_t
kars__json_child(const kars__json_prog_t *prog, uint32_t node, kars_str_t key,
                 uint32_t *ret_twin)
{
    const kars__json_node_t *parent = &prog->nodes[node];
    uint32_t first = parent->child;
    uint32_t end = first + parent->nchildren;
    char text[KARS__JSON_KEY];

    *ret_twin = 0;
    if (key.len > KARS__JSON_KEY || key.len == 0 ||
        (parent->lengths & prog_length_bit(key.len)) == 0 ||
        (parent->firsts & prog_first_bit(key.data[0])) == 0) {
        return 0; /* most keys are none of ours */
    }
    for (uint32_t i = first; i < end; i++) {
        const kars_str_t *name = &prog->nodes[i].name;

        if (name->len == key.len && name->data[0] == key.data[0] &&
            memcmp(name->data, key.data, key.len) == 0) {
            return i;
        }
    }

    kars_str_t fold = { text, prog_fold(key, text) };

    for (uint32_t i = first; i < end; i++) {
        const kars_str_t *name = &prog->nodes[i].fold;

        if (name->len == fold.len && name->data[0] == fold.data[0] &&
            memcmp(name->data, fold.data, fold.len) == 0) {
            *ret_twin = i;
            return 0;
        }
    }

    return 0;
}

uint32_t
kars__json_node(const kars__json_prog_t *prog, kars_str_t path)
{
    uint32_t node = KARS__JSON_ROOT;

    for (int first = 1; path.len > 0 && node != 0; first = 0) {
        kars_str_t name;
        uint32_t twin;

        if (prog_step(&path, first, &name) != KARS_OK) {
            return 0;
        }
        node = name.len == 0 ? prog->nodes[node].elem
                             : kars__json_child(prog, node, name, &twin);
    }

    return node;
}
