/* example.c - the module to copy: asks for a header, and adds one. */
#include "kars_module.h"

/* What the directives say: filled at load, the same for all requests. */
typedef struct {
    kars_str_t name;
    kars_str_t value;
    kars_str_t require;
} example_conf_t;

/* Two rows of one name take its words in order: `example_header NAME VALUE;`.
 * clang-format is off, so that a table may keep its columns. */
/* clang-format off */
static const kars_directive_t example_directives[] = {
    { .name = "example_header",  .at = KARS_AT_ROUTE, .type = KARS_T_STR,
      .offset = offsetof(example_conf_t, name),
      .doc = "a header that every answer of the route gets" },
    { .name = "example_header",  .at = KARS_AT_ROUTE, .type = KARS_T_STR,
      .offset = offsetof(example_conf_t, value),
      .doc = "and what it says" },
    { .name = "example_require", .at = KARS_AT_ROUTE, .type = KARS_T_STR,
      .offset = offsetof(example_conf_t, require),
      .doc = "a header without which the route refuses; absent: none" },
    { 0 },
};
/* clang-format on */

/* A hook. It runs on routes where one of our directives stands. */
static int
example_rewrite(kars_req_t *r, const void *conf, void *ctx)
{
    const example_conf_t *ec = conf;

    if (ec->require.len == 0 ||
        kars_header(r, KARS_REQUEST, ec->require).data != NULL) {
        return KARS_OK; /* go on with the next module */
    }

    kars_denial_t no = { .size = sizeof(no), /* always the first member */
                         .status = 400,
                         .code = KARS_STR("header_missing"),
                         .reason = KARS_STR("a header that this route asks "
                                            "for is missing"),
                         .rule = &ec->require }; /* its file and line, logged */
    return kars_deny(r, &no); /* the router gives it the caller's shape */
}

/* A response filter: the head of each answer, whoever made it. */
static int
example_head(kars_filter_t *f, const void *conf, void *ctx)
{
    const example_conf_t *ec = conf;

    if (ec->name.len == 0) {
        return KARS_OK;
    }
    return kars_header_set(kars_filter_req(f), KARS_RESPONSE, ec->name,
                           ec->value);
}

static const kars_hook_t example_hooks[] = {
    { .phase = KARS_PHASE_REWRITE, .run = example_rewrite },
    { 0 },
};

static const kars_filter_def_t example_filters[] = {
    { .dir = KARS_RESPONSE, .head = example_head },
    { 0 },
};

/* The one thing that a module exports. */
KARS_MODULE(example) = {
    KARS_MODULE_HEAD,
    .name = "example", /* as in `load_module example;` */
    .version = "1.0.0",
    .conf_size = sizeof(example_conf_t),
    .directives = example_directives,
    .hooks = example_hooks,
    .filters = example_filters,
};
