/*
 * access_log.c - a line for each request, of what the operator chose.
 *
 * Always active: what finds no route is logged too. A request fails for no
 * fault of its log.
 */
#include "format.h"
#include "kars_module.h"
#include "value.h"

#include <errno.h>

#define ACCESS_LOGS 8u /* of one level */

typedef struct access_format_s access_format_t;
struct access_format_s {
    access_format_t *next;
    format_t f;
};

typedef struct {
    kars_log_t *log;
    const format_t *format;
    format_part_t cond; /* FORMAT_VAR: `if=`; LITERAL: always */
    uint32_t negate;    /* `if=!NAME` */
} access_log_t;

typedef struct {
    access_format_t *formats; /* those named before this directive */
    const void *owner;        /* the level that made the logs: others copy it */
    access_log_t *logs;
    size_t nlogs;
} access_conf_t;

static format_t *
access_format(const kars_setting_t *s, size_t from, uint32_t json,
              kars_err_t *err)
{
    access_format_t *af = kars_pnew(s->pool, access_format_t);
    size_t room = 0;

    for (size_t i = from; i < s->argc; i++) {
        room += format_room(s->argv[i]);
    }
    if (af == NULL ||
        (af->f.v = kars_pnewn(s->pool, format_part_t, room + 1)) == NULL) {
        (void) kars_err(err, ENOMEM, "a log format");
        return NULL;
    }
    af->f.json = json;
    for (size_t i = from; i < s->argc; i++) {
        if (format_add(&af->f, s->argv[i], value_resolve, err) != KARS_OK) {
            return NULL;
        }
    }
    return &af->f;
}

static const format_t *
access_find(const access_conf_t *ac, kars_str_t name)
{
    for (const access_format_t *f = ac->formats; f != NULL; f = f->next) {
        if (kars_str_eq(f->f.name, name)) {
            return &f->f;
        }
    }
    return NULL;
}

/* log_format NAME [json] PIECE… */
static int
access_set_format(const kars_setting_t *s, void *conf, kars_err_t *err)
{
    access_conf_t *ac = conf;
    int json = s->argc > 2 && kars_str_eq(s->argv[2], KARS_STR("json"));
    size_t from = json ? 3 : 2;

    if (s->argc <= from) {
        return kars_err(err, 0,
                        "expected `log_format NAME \"…\";` or `log_format NAME "
                        "json name=value …;`");
    }
    if (access_find(ac, s->argv[1]) != NULL) {
        return kars_err(err, 0, "two formats named \"%.*s\"",
                        KARS_STR_ARG(s->argv[1]));
    }

    format_t *f = access_format(s, from, (uint32_t) json, err);

    if (f == NULL) {
        return KARS_ERROR;
    }

    access_format_t *af =
        (access_format_t *) ((char *) f - offsetof(access_format_t, f));

    f->name = s->argv[1];
    af->next = ac->formats;
    ac->formats = af;
    return KARS_OK;
}

/* The formats that are there without a log_format. */
static const format_t *
access_builtin(const kars_setting_t *s, kars_str_t name, kars_err_t *err)
{
    static const kars_str_t combined[] = {
        KARS_STR("$remote_addr - $principal [$time_local] \"$method $path\" "
                 "$status $body_bytes_sent \"$http_referer\" "
                 "\"$http_user_agent\""),
    };
    static const kars_str_t json[] = {
        KARS_STR("time=$time_iso8601"),
        KARS_STR("trace_id=$trace_id"),
        KARS_STR("remote_addr=$remote_addr"),
        KARS_STR("class=$class"),
        KARS_STR("principal=$principal"),
        KARS_STR("method=$method"),
        KARS_STR("path=$path"),
        KARS_STR("route=$route"),
        KARS_STR("status=$status"),
        KARS_STR("bytes_in=$bytes_in"),
        KARS_STR("bytes_sent=$bytes_sent"),
        KARS_STR("request_time=$request_time"),
        KARS_STR("upstream=$upstream"),
        KARS_STR("upstream_status=$upstream_status"),
        KARS_STR("upstream_time=$upstream_time"),
        KARS_STR("model=$model"),
        KARS_STR("tokens_in=$tokens_in"),
        KARS_STR("tokens_out=$tokens_out"),
        KARS_STR("deny_code=$deny_code"),
        KARS_STR("deny_by=$deny_module"),
        KARS_STR("deny_rule=$deny_rule"),
        KARS_STR("user_agent=$http_user_agent"),
    };
    kars_setting_t one = *s;

    if (kars_str_eq(name, KARS_STR("combined"))) {
        one.argv = combined;
        one.argc = KARS_NELTS(combined);
        return access_format(&one, 0, 0, err);
    }
    if (kars_str_eq(name, KARS_STR("json"))) {
        one.argv = json;
        one.argc = KARS_NELTS(json);
        return access_format(&one, 0, 1, err);
    }
    (void) kars_err(err, 0,
                    "no log_format \"%.*s\" stands before this line, and the "
                    "built-in ones are combined and json",
                    KARS_STR_ARG(name));
    return NULL;
}

static int
access_set_cond(kars_str_t word, access_log_t *al, kars_err_t *err)
{
    al->negate = word.len != 0 && word.data[0] == '!';
    word.data += al->negate;
    word.len -= al->negate;
    al->cond.kind = FORMAT_VAR;
    return value_resolve(word, &al->cond.var, &al->cond.text, err);
}

/* The words after the target. */
static int
access_set_words(const kars_setting_t *s, access_conf_t *ac, access_log_t *al,
                 kars_err_t *err)
{
    kars_str_t prefix = KARS_STR("if=");

    for (size_t i = 2; i < s->argc; i++) {
        kars_str_t w = s->argv[i];
        kars_setting_t one = *s;

        if (kars_str_starts(w, prefix)) {
            w.data += prefix.len;
            w.len -= prefix.len;
            if (access_set_cond(w, al, err) != KARS_OK) {
                return KARS_ERROR;
            }
            continue;
        }
        if (al->format != NULL) {
            return kars_err(err, 0, "one format is enough: \"%.*s\"",
                            KARS_STR_ARG(w));
        }
        one.argv = &s->argv[i];
        one.argc = 1;
        al->format = memchr(w.data, '$', w.len) != NULL
                         ? access_format(&one, 0, 0, err)
                         : access_find(ac, w);
        if (al->format == NULL && memchr(w.data, '$', w.len) == NULL) {
            al->format = access_builtin(s, w, err);
        }
        if (al->format == NULL) {
            return KARS_ERROR;
        }
    }
    return KARS_OK;
}

/* access_log TARGET [FORMAT] [if=[!]VARIABLE] */
static int
access_set_log(const kars_setting_t *s, void *conf, kars_err_t *err)
{
    access_conf_t *ac = conf;
    access_log_t al = { 0 };

    if (s->argc < 2) {
        return kars_err(err, 0,
                        "expected `access_log TARGET [FORMAT] "
                        "[if=VARIABLE];`");
    }
    if (kars_parse(s, KARS_T_LOG, s->argv[1], &al.log, err) != KARS_OK ||
        access_set_words(s, ac, &al, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (al.format == NULL) {
        al.format = access_builtin(s, KARS_STR("combined"), err);
    }
    if (al.format == NULL) {
        return KARS_ERROR;
    }
    if (ac->owner != conf) { /* what came from outside is replaced */
        ac->owner = conf;
        ac->nlogs = 0;
        ac->logs = kars_pnewn(s->pool, access_log_t, ACCESS_LOGS);
    }
    if (ac->logs == NULL || ac->nlogs == ACCESS_LOGS) {
        return kars_err(err, 0, "no more than %u access logs", ACCESS_LOGS);
    }
    ac->logs[ac->nlogs++] = al;
    return KARS_OK;
}

/* clang-format off */
static const kars_directive_t access_directives[] = {
    { .name = "log_format", .at = KARS_AT_MAIN, .type = KARS_T_CUSTOM,
      .flags = KARS_D_REPEAT | KARS_D_PASSIVE, .set = access_set_format,
      .doc = "NAME \"… $variable …\", or NAME json name=$variable …: what a line "
             "of an access log is made of" },
    { .name = "access_log", .type = KARS_T_CUSTOM,
      .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .flags = KARS_D_REPEAT | KARS_D_PASSIVE, .set = access_set_log,
      .doc = "TARGET [FORMAT] [if=[!]VARIABLE]: a line for each request; TARGET "
             "as of `log`, FORMAT of a log_format, combined, json, or a text "
             "with variables; off: none" },
    { 0 },
};
/* clang-format on */

static int
access_wanted(kars_req_t *r, const access_log_t *al)
{
    format_value_t v = { .kind = FORMAT_ABSENT };

    if (al->cond.kind != FORMAT_VAR) {
        return 1;
    }
    value_get(r, &al->cond, &v);

    uint32_t is =
        v.kind != FORMAT_ABSENT && !kars_str_eq(v.text, KARS_STR("0"));

    return is != al->negate;
}

static int
access_hook(kars_req_t *r, const void *conf, void *ctx)
{
    const access_conf_t *ac = conf;
    char line[FORMAT_LINE];

    for (size_t i = 0; i < ac->nlogs; i++) {
        const access_log_t *al = &ac->logs[i];

        if (al->log != NULL && access_wanted(r, al)) {
            size_t n = format_write(al->format, value_get, r, line);

            (void) kars_log_line(al->log, (kars_str_t){ line, n });
        }
    }
    return KARS_OK;
}

static const kars_hook_t access_hooks[] = {
    { .phase = KARS_PHASE_LOG, .run = access_hook },
    { 0 },
};

KARS_MODULE(access_log) = {
    KARS_MODULE_HEAD,
    .name = "access-log",
    .version = "1.0.0",
    .flags = KARS_ALWAYS,
    .conf_size = sizeof(access_conf_t),
    .directives = access_directives,
    .hooks = access_hooks,
};
