/*
 * fuzz_conf.c - configuration texts, and their directives against a table with
 * a row of each type. Includes are left out: they would read this machine.
 */
#include "base/log_target.h"
#include "conf/conf.h"
#include "conf/directive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    kars_str_t str;
    kars_list_t list;
    kars_list_t alpn;
    uint64_t bytes;
    uint64_t day;
    uint64_t wait;
    kars_rate_t rate;
    kars_str_t path;
    kars_hostport_t at;
    kars_upstream_t *upstream;
    kars_zone_t *zone;
    kars_secret_t *secret;
    kars_log_t *log;
    uint64_t items;
    int32_t flag;
    int32_t level;
} fuzz_conf_t;

static int
fuzz_item(const kars_setting_t *child, void *data, kars_err_t *err)
{
    fuzz_conf_t *fc = data;

    fc->items++;
    if (child->argc > 3) {
        return KARS_ERROR;
    }
    return kars__directive_block_each(child, fuzz_item, data, err);
}

static int
fuzz_block(const kars_setting_t *s, void *conf, kars_err_t *err)
{
    return kars__directive_block_each(s, fuzz_item, conf, err);
}

/* clang-format off */
#define ROW(n, t, field, ...) \
    { .name = n, .at = KARS_AT_MAIN | KARS_AT_ROUTE, .type = t, .doc = "x", \
      .offset = offsetof(fuzz_conf_t, field), __VA_ARGS__ }
static const kars_directive_t fuzz_rows[] = {
    ROW("str", KARS_T_STR, str, .dflt = "a"),
    ROW("flag", KARS_T_FLAG, flag, .dflt = "off"),
    ROW("list", KARS_T_LIST, list, .dflt = "a b"),
    ROW("more", KARS_T_LIST, alpn, .flags = KARS_D_REPEAT),
    ROW("limit", KARS_T_ENUM, level, .values = "low medium high"),
    ROW("limit", KARS_T_SIZE, bytes, .key = "bytes"),
    ROW("limit", KARS_T_COUNT, day, .key = "day"),
    ROW("limit", KARS_T_MSEC, wait, .key = "wait", .flags = KARS_D_REQUIRED),
    ROW("limit", KARS_T_RATE, rate, .key = "rate"),
    ROW("limit", KARS_T_LIST, alpn, .key = "alpn", .dflt = "a,b"),
    ROW("path", KARS_T_PATH, path),
    ROW("server", KARS_T_HOSTPORT, at),
    ROW("pass", KARS_T_UPSTREAM, upstream),
    ROW("zone", KARS_T_ZONE, zone),
    ROW("key", KARS_T_ENUM, level, .values = "api_key token"),
    ROW("key", KARS_T_SECRET, secret),
    ROW("key", KARS_T_STR, str, .key = "header"),
    ROW("log", KARS_T_LOG, log, .dflt = "stderr"),
    ROW("items", KARS_T_CUSTOM, items, .set = fuzz_block,
        .flags = KARS_D_BLOCK | KARS_D_REPEAT),
    { 0 },
};
/* clang-format on */

static kars_upstream_t *
fuzz_upstream(void *data, kars_str_t name)
{
    return name.len == 5 ? data : NULL;
}

static kars_zone_t *
fuzz_zone(void *data, kars_str_t name)
{
    return name.len == 5 ? data : NULL;
}

static kars_secret_t *
fuzz_secret(void *data, kars_str_t ref, kars_err_t *err)
{
    return ref.len > 4 && ref.data[ref.len] == '\0' ? data : NULL;
}

static kars_log_t *
fuzz_log(void *data, kars_str_t word, kars_err_t *err)
{
    kars__log_target_t t;

    return kars__log_target_parse(word, &t, err) == KARS_OK ? data : NULL;
}

/* Each directive, those of unknown blocks one level further in. */
static void
fuzz_apply(const kars__dtable_t *t, const kars__conf_node_t *node, void *conf,
           kars__prov_t *prov, kars_pool_t *pool, const kars__dresolve_t *r)
{
    for (; node != NULL; node = node->next) {
        kars_err_t err = KARS_ERR_INIT;
        void *inner;
        kars__prov_t *inner_prov;

        if (kars__directive_set(t, node, KARS_AT_ROUTE, conf, prov, pool, r,
                                &err) != KARS_OK &&
            strncmp(err.text, "t.conf:", 7) != 0) {
            __builtin_trap(); /* each error has its place */
        }
        if (node->child != NULL &&
            kars__directive_inner(t, conf, prov, pool, &inner, &inner_prov) ==
                KARS_OK) {
            fuzz_apply(t, node->child, inner, inner_prov, pool, r);
        }
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size != 0 && memmem(data, size, "include", 7) != NULL) {
        return 0;
    }

    kars_pool_t *pool = kars__pool_create(8 << 20);
    kars__dresolve_t r = { pool, fuzz_upstream, fuzz_zone, fuzz_secret,
                           fuzz_log };
    kars_err_t err = KARS_ERR_INIT;
    fuzz_conf_t conf = { 0 };
    kars__prov_t prov[KARS_NELTS(fuzz_rows)] = { 0 };
    kars__dtable_t t;
    kars__conf_node_t *root;

    if (pool == NULL) {
        return 0;
    }
    if (kars__dtable_init(&t, pool, "fuzz", fuzz_rows, sizeof(fuzz_rows[0]),
                          sizeof(conf), &err) != KARS_OK ||
        kars__directive_defaults(&t, &conf, pool, &r, &err) != KARS_OK) {
        __builtin_trap();
    }

    kars_str_t text = { (const char *) data, size };

    if (kars__conf_parse_text(pool, "t.conf", text, &root, &err) == KARS_OK) {
        fuzz_apply(&t, root->child, &conf, prov, pool, &r);
    } else if (strncmp(err.text, "t.conf:", 7) != 0) {
        __builtin_trap();
    }
    kars__pool_destroy(pool);
    return 0;
}
