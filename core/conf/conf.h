/*
 * conf.h - configuration text to a tree of directives that know where they
 * stand. Nothing here knows what a directive means, but for `include`.
 *
 * The grammar is nginx's: words, then `;` or a `{ block }`, `#` comments. A
 * quote opens at the begin of a word or after its `=`; in and outside quotes a
 * backslash is followed by one of \" \' \\ \n \t, outside also by what would
 * end the word. `{name}` and `{name...}` inside a word belong to it, as in
 * paths.
 */
#ifndef KARS_CONF_CONF_H
#define KARS_CONF_CONF_H

#include "base/err.h"
#include "base/pool.h"

/* Limits of one configuration. */
enum {
    KARS__CONF_FILE = 1 << 20, /* bytes of a file */
    KARS__CONF_WORD = 4096,    /* bytes of a word */
    KARS__CONF_WORDS = 256,    /* words of a directive */
    KARS__CONF_DEPTH = 16,     /* blocks in blocks */
    KARS__CONF_NEST = 10,      /* includes in includes */
    KARS__CONF_FILES = 256     /* files in all */
};

typedef struct kars__conf_node_s kars__conf_node_t;

struct kars__conf_node_s {
    kars_str_t *argv;  /* argv[0] is the name; each is NUL-terminated */
    uint32_t *lines;   /* of each word: a directive may take several lines */
    uint32_t *columns; /* of each word, in characters from 1 */
    size_t argc;
    const char *file;
    uint32_t line;
    uint32_t column;
    uint32_t has_block;
    kars__conf_node_t *child; /* first directive inside the block */
    kars__conf_node_t *next;  /* the directive after this one */
};

/*
 * Reads the file and what it includes (`include GLOB;`, relative to the file
 * that says so, at most 10 deep). *ret_root is a node without words whose
 * children are the directives; all memory is the pool's. Errors begin with
 * file:line:column.
 */
int kars__conf_parse(kars_pool_t *pool, const char *path,
                     kars__conf_node_t **ret_root, kars_err_t *err);

/* The same for a text in memory; `name` stands for the file in errors. */
int kars__conf_parse_text(kars_pool_t *pool, const char *name, kars_str_t text,
                          kars__conf_node_t **ret_root, kars_err_t *err);

/* "file:line:column: <text>", the place of word i of the node. KARS_ERROR. */
int kars__conf_err(kars_err_t *err, const kars__conf_node_t *node, size_t i,
                   const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* Puts that place before what *err says, unless a place stands there already.
 * Returns KARS_ERROR. */
int kars__conf_err_at(kars_err_t *err, const kars__conf_node_t *node, size_t i);

/* A word as errors may show it: short, on one line. */
typedef struct {
    char text[64];
} kars__conf_shown_t;

kars__conf_shown_t kars__conf_shown(kars_str_t word);

/*
 * The path that a word of `file` means: as it is when absolute, else beside
 * that file. In pool memory; data NULL: no memory.
 */
kars_str_t kars__conf_path(kars_pool_t *pool, const char *file,
                           kars_str_t word);

#endif
