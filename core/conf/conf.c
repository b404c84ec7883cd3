/*
 * conf.c - tokens to a tree of directives, across included files.
 *
 * The tree is the pool's; the text of a file lives only while it is read.
 */
#include "conf/conf.h"

#include "base/str.h"
#include "conf/conf_lex.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Files being read, the innermost first: what may not be included again. */
typedef struct conf_open_s conf_open_t;
struct conf_open_s {
    const conf_open_t *outer;
    dev_t dev;
    ino_t ino;
};

/* One parse; the arrays hold the words of the directive at work. */
typedef struct {
    kars_pool_t *pool;
    size_t nfiles;
    size_t nwords;
    kars_str_t words[KARS__CONF_WORDS];
    uint32_t lines[KARS__CONF_WORDS];
    uint32_t columns[KARS__CONF_WORDS];
    kars__lex_token_t token;
} conf_t;

/* Where the next directive goes, and in which file and how deep we are. */
typedef struct {
    kars__lex_t lex;
    const conf_open_t *open;
    kars__conf_node_t *block; /* NULL: the file's own level */
    size_t depth;
    size_t nest;
} conf_level_t;

static int conf_block(conf_t *c, conf_level_t *level,
                      kars__conf_node_t ***ret_tail, kars_err_t *err);

/* Does the text begin with "path:12:5: "? What is quoted is no path. */
static int
conf_has_place(const char *text)
{
    const char *p = strstr(text, ": ");
    size_t groups = 0;

    if (p == NULL || memchr(text, '"', (size_t) (p - text)) != NULL) {
        return 0;
    }
    while (groups < 2) {
        const char *end = p;

        while (p > text && p[-1] >= '0' && p[-1] <= '9') {
            p--;
        }
        if (p == end || p == text || *--p != ':') {
            return 0;
        }
        groups++;
    }
    return 1;
}

int
kars__conf_err_at(kars_err_t *err, const kars__conf_node_t *node, size_t i)
{
    if (err == NULL || conf_has_place(err->text)) {
        return KARS_ERROR;
    }

    char was[sizeof(err->text)];

    memcpy(was, err->text, sizeof(was));
    was[sizeof(was) - 1] = '\0';
    return kars__conf_err(err, node, i, "%s", was);
}

int
kars__conf_err(kars_err_t *err, const kars__conf_node_t *node, size_t i,
               const char *fmt, ...)
{
    char text[sizeof(err->text)];
    va_list ap;

    va_start(ap, fmt);
    (void) vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);

    return kars__lex_err(
        err, node->file, i < node->argc ? node->lines[i] : node->line,
        i < node->argc ? node->columns[i] : node->column, "%s", text);
}

kars__conf_shown_t
kars__conf_shown(kars_str_t word)
{
    kars__conf_shown_t ret;
    size_t n = word.len;
    const size_t most = 48;

    if (n > most) {
        n = most;
        while (n > 0 && ((unsigned char) word.data[n] & 0xc0) == 0x80) {
            n--; /* not within a character */
        }
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char) word.data[i];

        ret.text[i] = c < 0x20 || c == 0x7f ? '?' : (char) c;
    }
    memcpy(ret.text + n, n < word.len ? "..." : "", n < word.len ? 4 : 1);
    return ret;
}

/* Bytes of the folder's part of a path, with its slash. */
static size_t
conf_folder(const char *file)
{
    const char *slash = strrchr(file, '/');

    return slash == NULL ? 0 : (size_t) (slash + 1 - file);
}

kars_str_t
kars__conf_path(kars_pool_t *pool, const char *file, kars_str_t word)
{
    if (word.len > 0 && word.data[0] == '/') {
        return kars__pdup(pool, word);
    }
    return kars__pprintf(pool, "%.*s%.*s", (int) conf_folder(file), file,
                         KARS_STR_ARG(word));
}

static int
conf_no_memory(const kars__lex_t *lex, kars_err_t *err)
{
    return kars__lex_err(err, lex->file, lex->line, lex->column,
                         "out of memory");
}

/* The words gathered so far as a directive, without its block. */
static kars__conf_node_t *
conf_node(conf_t *c, const char *file)
{
    kars__conf_node_t *node = kars__pnew(c->pool, kars__conf_node_t);
    size_t n = c->nwords;

    if (node == NULL) {
        return NULL;
    }

    node->argv = kars__pnewn(c->pool, kars_str_t, n);
    node->lines = kars__pnewn(c->pool, uint32_t, n);
    node->columns = kars__pnewn(c->pool, uint32_t, n);
    if (node->argv == NULL || node->lines == NULL || node->columns == NULL) {
        return NULL;
    }

    memcpy(node->argv, c->words, n * sizeof(c->words[0]));
    memcpy(node->lines, c->lines, n * sizeof(c->lines[0]));
    memcpy(node->columns, c->columns, n * sizeof(c->columns[0]));
    node->argc = n;
    node->file = file;
    node->line = c->lines[0];
    node->column = c->columns[0];
    return node;
}

static int
conf_add_word(conf_t *c, const kars__lex_t *lex, kars_err_t *err)
{
    const kars__lex_token_t *t = &c->token;

    if (c->nwords == KARS__CONF_WORDS) {
        return kars__lex_err(err, lex->file, c->lines[0], c->columns[0],
                             "a directive of more than %d words",
                             KARS__CONF_WORDS);
    }
    if (c->nwords == 0 && t->len == 0) {
        return kars__lex_err(err, lex->file, t->line, t->column,
                             "a directive with an empty name");
    }

    kars_str_t word = kars__pdup(c->pool, (kars_str_t){ t->text, t->len });

    if (word.data == NULL) {
        return conf_no_memory(lex, err);
    }

    c->words[c->nwords] = word;
    c->lines[c->nwords] = t->line;
    c->columns[c->nwords] = t->column;
    c->nwords++;
    return KARS_OK;
}

/* A `}`, or the text's end, while words of a directive are waiting. */
static int
conf_unended(const conf_t *c, const kars__lex_t *lex, kars_err_t *err)
{
    return kars__lex_err(err, lex->file, c->lines[0], c->columns[0],
                         "\"%s\" is not ended: a \";\" is missing",
                         kars__conf_shown(c->words[0]).text);
}

/* Takes words up to what ends them, which c->token then is. Without words it
 * may be a `}` or the end. */
static int
conf_words(conf_t *c, conf_level_t *level, kars_err_t *err)
{
    kars__lex_t *lex = &level->lex;

    c->nwords = 0;
    for (;;) {
        if (kars__lex_next(lex, &c->token, err) != KARS_OK) {
            return KARS_ERROR;
        }
        if (c->token.kind != KARS__LEX_WORD) {
            break;
        }
        if (conf_add_word(c, lex, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }

    int ends =
        c->token.kind == KARS__LEX_SEMICOLON || c->token.kind == KARS__LEX_OPEN;

    if (c->nwords != 0 && !ends) {
        return conf_unended(c, lex, err);
    }
    if (c->nwords == 0 && ends) {
        return kars__lex_err(err, lex->file, c->token.line, c->token.column,
                             c->token.kind == KARS__LEX_OPEN
                                 ? "a \"{\" without a directive before it"
                                 : "a \";\" without a directive before it");
    }
    return KARS_OK;
}

/* Reads at most one byte more than a configuration may have. */
static int
conf_read(int fd, kars_str_t *ret, kars_err_t *err, const kars__lex_t *lex)
{
    char *text = kars__alloc(KARS__CONF_FILE + 1);
    size_t len = 0;

    if (text == NULL) {
        return conf_no_memory(lex, err);
    }
    while (len <= KARS__CONF_FILE) {
        ssize_t n = read(fd, text + len, KARS__CONF_FILE + 1 - len);

        if (n == 0) {
            break;
        }
        if (n == -1 && errno != EINTR) {
            int rc = kars__lex_err(err, lex->file, lex->line, lex->column,
                                   "cannot read: %s", strerror(errno));

            kars__free(text);
            return rc;
        }
        len += n > 0 ? (size_t) n : 0;
    }

    *ret = (kars_str_t){ text, len };
    return KARS_OK;
}

/* The text of one file, from its first token to its end. */
static int
conf_text(conf_t *c, conf_level_t *level, const char *file, kars_str_t text,
          kars__conf_node_t ***tail, kars_err_t *err)
{
    level->block = NULL;
    if (kars__lex_init(&level->lex, file, text, err) != KARS_OK) {
        return KARS_ERROR;
    }
    return conf_block(c, level, tail, err);
}

static int
conf_open_file(conf_t *c, const kars__lex_t *from, const conf_level_t *outer,
               const char *file, int fd, kars__conf_node_t ***tail,
               kars_err_t *err)
{
    struct stat st;
    kars_str_t text;

    if (fstat(fd, &st) == -1 || !S_ISREG(st.st_mode)) {
        return kars__lex_err(err, from->file, from->line, from->column,
                             "\"%s\" is not a regular file", file);
    }
    for (const conf_open_t *o = outer->open; o != NULL; o = o->outer) {
        if (o->dev == st.st_dev && o->ino == st.st_ino) {
            return kars__lex_err(err, from->file, from->line, from->column,
                                 "\"%s\" would include itself", file);
        }
    }
    if (conf_read(fd, &text, err, from) != KARS_OK) {
        return KARS_ERROR;
    }

    conf_open_t open = { outer->open, st.st_dev, st.st_ino };
    conf_level_t level = {
        .open = &open,
        .depth = outer->depth,
        .nest = outer->nest,
    };
    int rc = conf_text(c, &level, file, text, tail, err);

    kars__free((char *) text.data);
    return rc;
}

/* One file, named at `from`, whose directives go where *tail points. */
static int
conf_file(conf_t *c, const kars__lex_t *from, const conf_level_t *outer,
          const char *file, kars__conf_node_t ***tail, kars_err_t *err)
{
    if (++c->nfiles > KARS__CONF_FILES) {
        return kars__lex_err(err, from->file, from->line, from->column,
                             "more than %d files", KARS__CONF_FILES);
    }

    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd == -1) {
        return kars__lex_err(err, from->file, from->line, from->column,
                             "cannot open \"%s\": %s", file, strerror(errno));
    }

    int rc = conf_open_file(c, from, outer, file, fd, tail, err);

    (void) close(fd);
    return rc;
}

/* The pattern beside the including file, whose own path is no pattern. */
static char *
conf_pattern(kars_pool_t *pool, const char *file, kars_str_t word)
{
    size_t folder = word.data[0] == '/' ? 0 : conf_folder(file);
    char *ret = kars__palloc(pool, 2 * folder + word.len + 1);
    size_t n = 0;

    if (ret == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < folder; i++) {
        if (strchr("*?[\\", file[i]) != NULL) {
            ret[n++] = '\\';
        }
        ret[n++] = file[i];
    }
    memcpy(ret + n, word.data, word.len + 1);
    return ret;
}

/* A folder that is not there holds no files; one that is closed to us might. */
static int
conf_glob_error(const char *path, int errnum)
{
    return errnum != ENOENT && errnum != ENOTDIR;
}

static int
conf_by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *) a, *(char *const *) b);
}

static int
conf_glob(conf_t *c, const kars__lex_t *from, const conf_level_t *level,
          kars_str_t word, kars__conf_node_t ***tail, kars_err_t *err)
{
    char *pattern = conf_pattern(c->pool, level->lex.file, word);
    glob_t found = { 0 };

    if (pattern == NULL) {
        return conf_no_memory(from, err);
    }

    int rc = glob(pattern, GLOB_NOSORT, conf_glob_error, &found);

    if (rc == GLOB_NOMATCH) {
        globfree(&found);
        return KARS_OK;
    }
    if (rc != 0) {
        globfree(&found);
        return kars__lex_err(
            err, from->file, from->line, from->column,
            "cannot look for \"%s\": %s", kars__conf_shown(word).text,
            rc == GLOB_NOSPACE ? "out of memory" : strerror(errno));
    }

    /* By bytes: the order must not change with the locale. */
    qsort(found.gl_pathv, found.gl_pathc, sizeof(char *), conf_by_name);
    for (size_t i = 0; i < found.gl_pathc && rc == 0; i++) {
        kars_str_t path = kars__pdup(c->pool, kars__strz(found.gl_pathv[i]));

        rc = path.data == NULL
                 ? conf_no_memory(from, err)
                 : conf_file(c, from, level, path.data, tail, err);
    }
    globfree(&found);
    return rc;
}

static int
conf_include(conf_t *c, const conf_level_t *level, kars__conf_node_t ***tail,
             kars_err_t *err)
{
    size_t at = c->nwords > 1 ? 1 : 0;
    conf_level_t outer = *level;
    kars__lex_t from = level->lex;
    kars_str_t word = c->words[at];

    outer.nest++;
    from.line = c->lines[at];
    from.column = c->columns[at];
    if (c->nwords != 2 || c->token.kind != KARS__LEX_SEMICOLON ||
        word.len == 0) {
        return kars__lex_err(err, from.file, from.line, from.column,
                             "\"include\" takes one word, a file or a pattern");
    }
    if (outer.nest > KARS__CONF_NEST) {
        return kars__lex_err(err, from.file, from.line, from.column,
                             "includes more than %d deep", KARS__CONF_NEST);
    }
    if (strpbrk(word.data, "*?[") != NULL) {
        return conf_glob(c, &from, &outer, word, tail, err);
    }

    kars_str_t path = kars__conf_path(c->pool, from.file, word);

    if (path.data == NULL) {
        return conf_no_memory(&from, err);
    }
    return conf_file(c, &from, &outer, path.data, tail, err);
}

/* The directive whose words are in c, and its block. */
static int
conf_directive(conf_t *c, conf_level_t *level, kars__conf_node_t ***tail,
               kars_err_t *err)
{
    kars__conf_node_t *node = conf_node(c, level->lex.file);

    if (node == NULL) {
        return conf_no_memory(&level->lex, err);
    }

    **tail = node;
    *tail = &node->next;
    if (c->token.kind == KARS__LEX_SEMICOLON) {
        return KARS_OK;
    }
    if (level->depth == KARS__CONF_DEPTH) {
        return kars__lex_err(err, level->lex.file, c->token.line,
                             c->token.column, "blocks more than %d deep",
                             KARS__CONF_DEPTH);
    }

    conf_level_t inner = *level;
    kars__conf_node_t **children = &node->child;

    node->has_block = 1;
    inner.block = node;
    inner.depth++;

    int rc = conf_block(c, &inner, &children, err);

    level->lex = inner.lex;
    return rc;
}

/* Directives up to the `}` of the block, or to the file's end. */
static int
conf_block(conf_t *c, conf_level_t *level, kars__conf_node_t ***tail,
           kars_err_t *err)
{
    for (;;) {
        int rc = conf_words(c, level, err);

        if (rc != KARS_OK) {
            return rc;
        }
        if (c->nwords == 0) {
            break;
        }

        rc = kars_str_eq(c->words[0], KARS_STR("include"))
                 ? conf_include(c, level, tail, err)
                 : conf_directive(c, level, tail, err);
        if (rc != KARS_OK) {
            return rc;
        }
    }

    if (c->token.kind == KARS__LEX_CLOSE && level->block == NULL) {
        return kars__lex_err(err, level->lex.file, c->token.line,
                             c->token.column, "a \"}\" that closes nothing");
    }
    if (c->token.kind == KARS__LEX_END && level->block != NULL) {
        return kars__conf_err(err, level->block, 0,
                              "the block of \"%s\" is not closed",
                              kars__conf_shown(level->block->argv[0]).text);
    }
    return KARS_OK;
}

/* The root of a tree, and its file's name in the pool. */
static kars__conf_node_t *
conf_root(kars_pool_t *pool, const char *name)
{
    kars__conf_node_t *root = kars__pnew(pool, kars__conf_node_t);

    if (root == NULL) {
        return NULL;
    }

    root->file = kars__pdup(pool, kars__strz(name)).data;
    root->line = 1;
    root->column = 1;
    root->has_block = 1;
    return root->file == NULL ? NULL : root;
}

/* text NULL: the file of that name. */
static int
conf_parse(kars_pool_t *pool, const char *name, const kars_str_t *text,
           kars__conf_node_t **ret_root, kars_err_t *err)
{
    kars__lex_t from = { .file = name, .line = 1, .column = 1 };
    conf_level_t level = { .lex = from };
    kars__conf_node_t *root = conf_root(pool, name);
    conf_t *c = kars__alloc(sizeof(*c));

    if (root == NULL || c == NULL) {
        kars__free(c);
        return conf_no_memory(&from, err);
    }

    kars__conf_node_t **tail = &root->child;

    c->pool = pool;
    int rc = text != NULL ? conf_text(c, &level, root->file, *text, &tail, err)
                          : conf_file(c, &from, &level, root->file, &tail, err);

    kars__free(c);
    if (rc == KARS_OK) {
        *ret_root = root;
    }
    return rc;
}

int
kars__conf_parse(kars_pool_t *pool, const char *path,
                 kars__conf_node_t **ret_root, kars_err_t *err)
{
    return conf_parse(pool, path, NULL, ret_root, err);
}

int
kars__conf_parse_text(kars_pool_t *pool, const char *name, kars_str_t text,
                      kars__conf_node_t **ret_root, kars_err_t *err)
{
    return conf_parse(pool, name, &text, ret_root, err);
}
