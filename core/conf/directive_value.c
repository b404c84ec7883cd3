/* directive_value.c - words to values; what was expected, when they are not. */
#include "conf/directive_value.h"

#include "base/log_target.h"
#include "base/parse.h"
#include "base/str.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

size_t
kars__value_size(uint32_t type)
{
    switch (type) {
    case KARS_T_STR:
    case KARS_T_PATH:
        return sizeof(kars_str_t);
    case KARS_T_FLAG:
    case KARS_T_ENUM:
        return sizeof(int32_t);
    case KARS_T_LIST:
        return sizeof(kars_list_t);
    case KARS_T_SIZE:
    case KARS_T_COUNT:
    case KARS_T_MSEC:
        return sizeof(uint64_t);
    case KARS_T_RATE:
        return sizeof(kars_rate_t);
    case KARS_T_HOSTPORT:
        return sizeof(kars_hostport_t);
    case KARS_T_UPSTREAM:
    case KARS_T_ZONE:
    case KARS_T_SECRET:
    case KARS_T_LOG:
        return sizeof(void *);
    default:
        return 0;
    }
}

/* "<what>, got "<word>"", or less when words are not to be shown. */
static int
value_expected(const kars__value_t *v, kars_str_t word, kars_err_t *err,
               const char *what)
{
    if (v->quiet) {
        return kars__err(err, 0, "expected %s", what);
    }
    return kars__err(err, 0, "expected %s, got \"%s\"", what,
                     kars__conf_shown(word).text);
}

static int
value_str(const kars__value_t *v, kars_str_t word, kars_str_t *ret,
          kars_err_t *err)
{
    kars_str_t s = kars__pdup(v->pool, word);

    if (s.data == NULL) {
        return kars__err(err, 0, "out of memory");
    }

    *ret = s;
    return KARS_OK;
}

static int
value_enum(const kars__value_t *v, kars_str_t word, const char *values,
           int32_t *ret, kars_err_t *err)
{
    const char *p = values == NULL ? "" : values;

    for (int32_t i = 0; *p != '\0'; i++) {
        size_t len = strcspn(p, " ");

        if (kars_str_eq(word, (kars_str_t){ p, len })) {
            *ret = i;
            return KARS_OK;
        }
        p += len;
        p += strspn(p, " ");
    }
    if (p == values || values == NULL) {
        return kars__err(err, 0, "an ENUM without values");
    }

    char what[160];

    (void) snprintf(what, sizeof(what), "one of: %s", values);
    return value_expected(v, word, err, what);
}

/* A bound on the items of a text of this length. */
static size_t
value_list_room(kars_str_t text, char sep)
{
    size_t n = 1;

    for (size_t i = 0; i < text.len; i++) {
        n += text.data[i] == sep;
    }
    return n;
}

int
kars__value_list(const kars__value_t *v, kars_str_t text, char sep,
                 kars_list_t *ret, kars_err_t *err)
{
    size_t room = value_list_room(text, sep);
    kars_list_t list = { kars__pnewn(v->pool, kars_str_t, room), 0 };

    if (list.v == NULL) {
        return kars__err(err, 0, "out of memory");
    }

    for (size_t i = 0; i <= text.len && text.len != 0; i++) {
        const char *p = text.data + i;
        const char *end = memchr(p, sep, text.len - i);
        size_t len = end == NULL ? text.len - i : (size_t) (end - p);

        if (len == 0 && sep == ',') {
            return value_expected(v, text, err, "a list such as a,b,c");
        }
        if (len != 0 && value_str(v, (kars_str_t){ p, len }, &list.v[list.n++],
                                  err) != KARS_OK) {
            return KARS_ERROR;
        }
        i += len;
    }

    *ret = list;
    return KARS_OK;
}

/* Absolute, whatever the folder that the router was started in. */
static int
value_path(const kars__value_t *v, kars_str_t word, kars_str_t *ret,
           kars_err_t *err)
{
    if (word.len == 0 || memchr(word.data, '\0', word.len) != NULL) {
        return value_expected(v, word, err, "a path such as certs/ca.pem");
    }
    if (word.data[0] != '/' && v->file == NULL) {
        return value_expected(v, word, err, "an absolute path");
    }

    kars_str_t path =
        kars__conf_path(v->pool, v->file == NULL ? "" : v->file, word);
    char folder[PATH_MAX];

    if (path.data != NULL && path.data[0] != '/') {
        if (getcwd(folder, sizeof(folder)) == NULL) {
            return kars__err(err, errno, "the current folder");
        }
        path = kars__pprintf(v->pool, "%s/%.*s",
                             strcmp(folder, "/") == 0 ? "" : folder,
                             KARS_STR_ARG(path));
    }
    if (path.data == NULL) {
        return kars__err(err, 0, "out of memory");
    }

    *ret = path;
    return KARS_OK;
}

static int
value_hostport(const kars__value_t *v, kars_str_t word, kars_hostport_t *ret,
               kars_err_t *err)
{
    kars_hostport_t at;

    if (kars__parse_hostport(word, &at) != KARS_OK) {
        return value_expected(v, word, err,
                              "host:port such as example.com:443");
    }
    if (value_str(v, at.host, &at.host, err) != KARS_OK) {
        return KARS_ERROR;
    }

    *ret = at;
    return KARS_OK;
}

/* A handle by the name of what the configuration defines elsewhere. */
static int
value_handle(const kars__value_t *v, const char *what, kars_str_t word,
             void *handle, void **ret, kars_err_t *err)
{
    if (handle == NULL && v->quiet) {
        return kars__err(err, 0, "there is no such %s", what);
    }
    if (handle == NULL) {
        return kars__err(err, 0, "there is no %s \"%s\"", what,
                         kars__conf_shown(word).text);
    }

    *ret = handle;
    return KARS_OK;
}

static int
value_upstream(const kars__value_t *v, kars_str_t word, void *ret,
               kars_err_t *err)
{
    if (v->resolve == NULL || v->resolve->upstream == NULL) {
        return kars__err(err, 0, "no upstream can be named here");
    }
    return value_handle(v, "upstream", word,
                        v->resolve->upstream(v->resolve->data, word), ret, err);
}

static int
value_zone(const kars__value_t *v, kars_str_t word, void *ret, kars_err_t *err)
{
    if (v->resolve == NULL || v->resolve->zone == NULL) {
        return kars__err(err, 0, "no zone can be named here");
    }
    return value_handle(v, "zone", word,
                        v->resolve->zone(v->resolve->data, word), ret, err);
}

/* Is it the name of an environment variable? */
static int
value_is_env(kars_str_t s)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        int digit = c >= '0' && c <= '9';

        if (c != '_' && !((c | 0x20) >= 'a' && (c | 0x20) <= 'z') &&
            !(digit && i > 0)) {
            return 0;
        }
    }
    return s.len != 0;
}

/* The reference with an absolute path. What may be a secret is not shown. */
static int
value_secret_ref(const kars__value_t *v, kars_str_t word, kars_str_t *ret,
                 kars_err_t *err)
{
    kars__value_t quiet = *v;

    quiet.quiet = 1;
    if (kars_str_starts(word, KARS_STR("env:")) &&
        value_is_env((kars_str_t){ word.data + 4, word.len - 4 })) {
        return value_str(&quiet, word, ret, err);
    }
    if (!kars_str_starts(word, KARS_STR("file:"))) {
        return kars__err(err, 0,
                         "expected file:PATH or env:NAME; a secret itself "
                         "never stands in the configuration");
    }

    kars_str_t path = { word.data + 5, word.len - 5 };

    if (value_path(&quiet, path, &path, err) != KARS_OK) {
        return KARS_ERROR;
    }

    *ret = kars__pprintf(v->pool, "file:%.*s", KARS_STR_ARG(path));
    return ret->data == NULL ? kars__err(err, 0, "out of memory") : KARS_OK;
}

static int
value_secret(const kars__value_t *v, kars_str_t word, void **ret,
             kars_err_t *err)
{
    kars_str_t ref;

    if (value_secret_ref(v, word, &ref, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (v->resolve == NULL || v->resolve->secret == NULL) {
        return kars__err(err, 0, "no secret can be named here");
    }

    kars_err_t why = KARS_ERR_INIT;
    void *secret = v->resolve->secret(v->resolve->data, ref, &why);

    if (secret == NULL) {
        return kars__err(err, 0, "%s",
                         why.text[0] != '\0' ? why.text : "no such secret");
    }

    *ret = secret;
    return KARS_OK;
}

static int
value_log(const kars__value_t *v, kars_str_t word, void **ret, kars_err_t *err)
{
    if (kars_str_eq(word, KARS_STR("off"))) {
        *ret = NULL;
        return KARS_OK;
    }
    if (v->resolve == NULL || v->resolve->log == NULL) {
        return kars__err(err, 0, "no log can be named here");
    }
    if (kars__log_is_path(word) && value_path(v, word, &word, err) != KARS_OK) {
        return KARS_ERROR;
    }

    void *log = v->resolve->log(v->resolve->data, word, err);

    if (log == NULL) {
        return KARS_ERROR;
    }
    *ret = log;
    return KARS_OK;
}

static int
value_number(const kars__value_t *v, uint32_t type, kars_str_t word, void *ret,
             kars_err_t *err)
{
    switch (type) {
    case KARS_T_FLAG:
        return kars__parse_flag(word, ret) == KARS_OK
                   ? KARS_OK
                   : value_expected(v, word, err, "on or off");
    case KARS_T_SIZE:
        return kars__parse_size(word, ret) == KARS_OK
                   ? KARS_OK
                   : value_expected(v, word, err, "a size such as 64k");
    case KARS_T_COUNT:
        return kars__parse_count(word, ret) == KARS_OK
                   ? KARS_OK
                   : value_expected(v, word, err, "a count such as 200k");
    case KARS_T_MSEC:
        return kars__parse_msec(word, ret) == KARS_OK
                   ? KARS_OK
                   : value_expected(v, word, err, "a time such as 30s");
    default:
        return kars__parse_rate(word, ret) == KARS_OK
                   ? KARS_OK
                   : value_expected(v, word, err, "a rate such as 100/60s");
    }
}

int
kars__value_parse(const kars__value_t *v, uint32_t type, kars_str_t word,
                  const char *values, void *ret, kars_err_t *err)
{
    switch (type) {
    case KARS_T_STR:
        return value_str(v, word, ret, err);
    case KARS_T_FLAG:
    case KARS_T_SIZE:
    case KARS_T_COUNT:
    case KARS_T_MSEC:
    case KARS_T_RATE:
        return value_number(v, type, word, ret, err);
    case KARS_T_ENUM:
        return value_enum(v, word, values, ret, err);
    case KARS_T_LIST:
        return kars__value_list(v, word, ',', ret, err);
    case KARS_T_PATH:
        return value_path(v, word, ret, err);
    case KARS_T_HOSTPORT:
        return value_hostport(v, word, ret, err);
    case KARS_T_UPSTREAM:
        return value_upstream(v, word, ret, err);
    case KARS_T_ZONE:
        return value_zone(v, word, ret, err);
    case KARS_T_SECRET:
        return value_secret(v, word, ret, err);
    case KARS_T_LOG:
        return value_log(v, word, ret, err);
    default:
        return kars__err(err, 0, "there are no values of type %u", type);
    }
}

int
kars__directive_parse(uint32_t type, kars_str_t word, const char *values,
                      void *ret, kars_pool_t *pool, const char *file,
                      const kars__dresolve_t *resolve, kars_err_t *err)
{
    kars__value_t v = { .pool = pool, .file = file, .resolve = resolve };

    return kars__value_parse(&v, type, word, values, ret, err);
}
