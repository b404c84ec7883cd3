/*
 * conf_lex.h - configuration text to tokens that know where they stand.
 */
#ifndef KARS_CONF_CONF_LEX_H
#define KARS_CONF_CONF_LEX_H

#include "conf/conf.h"

enum {
    KARS__LEX_END,
    KARS__LEX_WORD,
    KARS__LEX_SEMICOLON,
    KARS__LEX_OPEN,
    KARS__LEX_CLOSE
};

/* A place in one file's text; the text is the caller's. */
typedef struct {
    const char *file;
    const char *at;
    const char *end;
    uint32_t line;
    uint32_t column;
} kars__lex_t;

typedef struct {
    uint32_t kind; /* KARS__LEX_* */
    uint32_t line;
    uint32_t column;
    size_t len;
    char text[KARS__CONF_WORD + 1]; /* of a word, without its quotes */
} kars__lex_token_t;

/* Begins at the text's first byte. Refuses what is not UTF-8 or holds control
 * characters, and texts beyond the limit. */
int kars__lex_init(kars__lex_t *lex, const char *file, kars_str_t text,
                   kars_err_t *err);

/* The next token, over blanks and comments. */
int kars__lex_next(kars__lex_t *lex, kars__lex_token_t *ret, kars_err_t *err);

/* "file:line:column: <text>"; of a long path the end is shown. KARS_ERROR. */
int kars__lex_err(kars_err_t *err, const char *file, uint32_t line,
                  uint32_t column, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

#endif
