/*
 * test_module.c - what a module must be, and the order and the services of
 * several.
 */
#include "loop.h"

static int
module_ok(kars_req_t *r, const void *conf, void *ctx)
{
    return KARS_OK;
}

static int
module_event(kars_filter_t *f, kars_event_t *ev, const void *conf, void *ctx)
{
    return KARS_OK;
}

typedef struct {
    size_t size;
    int (*fn)(void);
} service_t;

static const service_t service = { sizeof(service_t), NULL };
static const void *slot, *optional_slot;

/* clang-format off */
static const kars_service_t gives[] = { { "x.y/1", &service }, { 0 } };
static const kars_need_t needs[] = { { "x.y/1", &slot, sizeof(service_t), 0 }, { 0 } };
static const kars_need_t needs_more[] = { { "x.y/1", &slot, sizeof(service_t) + 1, 0 }, { 0 } };
static const kars_need_t needs_newer[] = { { "x.y/2", &slot, sizeof(service_t), 0 }, { 0 } };
static const kars_need_t wants[] = { { "z/1", &optional_slot, 8, 1 }, { 0 } };
static const kars_hook_t connect_hooks[] = { { .phase = KARS_PHASE_CONNECT, .run = module_ok }, { 0 } };
static const kars_hook_t no_function[] = { { .phase = KARS_PHASE_ADMIT }, { 0 } };
static const kars_filter_def_t no_way_filters[] = { { .dir = 3 }, { 0 } };
static const kars_filter_def_t event_filters[] = { { .dir = KARS_REQUEST, .event = module_event }, { 0 } };
static const kars_json_watch_t bad_watch[] = { { KARS_REQUEST, "a..b", NULL }, { 0 } };
static const kars_directive_t no_doc[] = { { .name = "d", .at = KARS_AT_ROUTE, .type = KARS_T_STR }, { 0 } };
static const kars_directive_t outside[] = { { .name = "d", .at = KARS_AT_ROUTE, .type = KARS_T_STR, .offset = 4096, .doc = "x" }, { 0 } };

static const kars_module_t
    plain    = { T_MODULE_HEAD, .name = "plain" },
    giver    = { T_MODULE_HEAD, .name = "giver", .provides = gives },
    giver2   = { T_MODULE_HEAD, .name = "giver2", .provides = gives },
    needer   = { T_MODULE_HEAD, .name = "needer", .needs = needs },
    more     = { T_MODULE_HEAD, .name = "more", .needs = needs_more },
    newer    = { T_MODULE_HEAD, .name = "newer", .needs = needs_newer },
    wanter   = { T_MODULE_HEAD, .name = "wanter", .needs = wants },
    after    = { T_MODULE_HEAD, .name = "after", .after = "other plain" },
    before   = { T_MODULE_HEAD, .name = "before", .before = "plain" },
    m_connect = { T_MODULE_HEAD, .name = "m", .hooks = connect_hooks },
    m_nofn   = { T_MODULE_HEAD, .name = "m", .hooks = no_function },
    m_reqf   = { T_MODULE_HEAD, .name = "m", .filters = no_way_filters },
    m_event  = { T_MODULE_HEAD, .name = "m", .filters = event_filters },
    m_watch  = { T_MODULE_HEAD, .name = "m", .flags = KARS_ALWAYS, .json = bad_watch },
    m_nodoc  = { T_MODULE_HEAD, .name = "m", .directives = no_doc },
    m_out    = { T_MODULE_HEAD, .name = "m", .conf_size = 16, .directives = outside };

static const struct { const kars_module_t *mods[3]; const char *error; } loads[] = {
    { { &plain }, "" },
    { { &giver, &needer }, "" },
    { { &needer, &giver }, "" }, /* any order */
    { { &wanter }, "" },
    { { &plain, &after }, "" },
    { { &before, &plain }, "" },
    { { &after }, "" }, /* who is not there need not stand earlier */
    { { &plain, &plain }, "loaded twice" },
    { { &needer }, "needs the service x.y/1" },
    { { &giver, &newer }, "module newer needs the service x.y/2, module giver provides x.y/1" },
    { { &giver, &giver2 }, "both giver and giver2 provide x.y/1" },
    { { &giver, &more }, "its provider has" },
    { { &after, &plain }, "must stand after" },
    { { &plain, &before }, "must stand before" },
    { { &m_connect }, "a hook of phase 100 without a function" },
    { { &m_nofn }, "without a function" },
    { { &m_reqf }, "a filter of no direction: 3" },
    { { &m_event }, "requests have no events" },
    { { &m_watch }, "JSON watches" },
    { { &m_nodoc }, "no doc line" },
    { { &m_out }, "d" },
};
/* clang-format on */

static void
test_module_load_table(void)
{
    for (size_t i = 0; i < KARS_NELTS(loads); i++) {
        const kars_module_t *mods[4] = { loads[i].mods[0], loads[i].mods[1],
                                         loads[i].mods[2], NULL };
        char label[48];

        (void) snprintf(label, sizeof(label), "%zu: %s", i, mods[0]->name);
        T_CASE(label);

        const char *error = t_load_error("route GET / { respond 200; }", mods);

        if (loads[i].error[0] == '\0') {
            CU_ASSERT_STRING_EQUAL(error, "");
        } else {
            CU_ASSERT_PTR_NOT_NULL(strstr(error, loads[i].error));
        }
    }
}

static void
test_module_gets_the_service_it_needs(void)
{
    static const kars_module_t *const mods[] = { &needer, &wanter, &giver,
                                                 NULL };

    slot = NULL;
    optional_slot = &service;
    CU_ASSERT_STRING_EQUAL(t_load_error("route GET / { respond 200; }", mods),
                           "");
    CU_ASSERT_PTR_EQUAL(slot, &service);
    CU_ASSERT_PTR_NULL(optional_slot); /* not there, and it can do without */
}

/* A module of an older release is smaller: what it lacks reads as zero. */
static void
test_module_that_is_smaller_reads_as_zero(void)
{
    static kars_module_t old;
    static const kars_module_t *const mods[] = { &old, NULL };

    old = plain;
    old.size = offsetof(kars_module_t, check);
    old.check = (int (*)(const kars_place_t *, void *, kars_err_t *)) 1;
    old.worker_start = (int (*)(kars_cycle_t *, kars_err_t *)) 1;
    CU_ASSERT_STRING_EQUAL(t_load_error("route GET / { respond 200; }", mods),
                           "");
}

void
suite_module(void)
{
    T_SUITE(module);
    T_TEST(module, test_module_load_table);
    T_TEST(module, test_module_gets_the_service_it_needs);
    T_TEST(module, test_module_that_is_smaller_reads_as_zero);
}
