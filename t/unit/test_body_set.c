/*
 * test_body_set.c - kars_json_set(): what goes upstream is the document that
 * one would get by setting the members, read by another JSON reader.
 */
#include "loop.h"

#include <jansson.h>

#define SETS 8

typedef struct {
    const char *path;
    const char *json;
} set_t;

static struct {
    uint32_t phase; /* the hook that sets */
    set_t sets[SETS];
    size_t nsets;
    int rc[SETS];
    int each_time; /* again in every round of ADMIT */
    int admits;
    int contents;   /* rounds of CONTENT that set */
    char seen[512]; /* "path=text;" of what the watchers heard, since ADMIT */
} set_st;

static void
set_saw(const char *path, kars_str_t text, uint32_t flags)
{
    size_t o = strlen(set_st.seen);

    if (flags & KARS_FIRST) {
        o += (size_t) snprintf(set_st.seen + o, sizeof(set_st.seen) - o,
                               "%s=", path);
    }
    (void) snprintf(set_st.seen + o, sizeof(set_st.seen) - o, "%.*s%s",
                    KARS_STR_ARG(text), flags & KARS_LAST ? ";" : "");
}

#define WATCH(name, path)                                                 \
    static int saw_##name(kars_req_t *r, kars_str_t text, uint32_t index, \
                          uint32_t flags, const void *conf, void *ctx)    \
    {                                                                     \
        set_saw(path, text, flags);                                       \
        return KARS_OK;                                                   \
    }

WATCH(model, "model")
WATCH(n, "n")
WATCH(a, "opt.a")
WATCH(b, "opt.b")
WATCH(y, "deep.x.y")
WATCH(z, "deep.x.z")
WATCH(w, "deep.w")

static const kars_json_watch_t set_json[] = {
    { KARS_REQUEST, "model", saw_model }, { KARS_REQUEST, "n", saw_n },
    { KARS_REQUEST, "opt.a", saw_a },     { KARS_REQUEST, "opt.b", saw_b },
    { KARS_REQUEST, "deep.x.y", saw_y },  { KARS_REQUEST, "deep.x.z", saw_z },
    { KARS_REQUEST, "deep.w", saw_w },    { 0 },
};

static const char *const set_paths[] = { "model", "n",        "opt.a",
                                         "opt.b", "deep.x.y", "deep.x.z",
                                         "deep.w" };

static int
set_hook(kars_req_t *r, uint32_t phase)
{
    if (phase == KARS_PHASE_ADMIT) {
        set_st.admits++;
    }
    if (phase != set_st.phase || (set_st.admits > 1 && !set_st.each_time)) {
        return KARS_OK;
    }
    set_st.contents += phase == KARS_PHASE_CONTENT;
    set_st.seen[0] = '\0';
    for (size_t i = 0; i < set_st.nsets; i++) {
        set_st.rc[i] = kars__api.json_set(r, t_str(set_st.sets[i].path),
                                          t_str(set_st.sets[i].json));
    }
    return KARS_OK;
}

static int
set_rewrite(kars_req_t *r, const void *conf, void *ctx)
{
    return set_hook(r, KARS_PHASE_REWRITE);
}

static int
set_admit(kars_req_t *r, const void *conf, void *ctx)
{
    return set_hook(r, KARS_PHASE_ADMIT);
}

static int
set_content(kars_req_t *r, const void *conf, void *ctx)
{
    return set_hook(r, KARS_PHASE_CONTENT);
}

static const kars_hook_t set_hooks[] = {
    { .phase = KARS_PHASE_REWRITE,
      .run = set_rewrite,
      .flags = KARS_NEEDS_BODY },
    { .phase = KARS_PHASE_ADMIT, .run = set_admit, .flags = KARS_NEEDS_BODY },
    { .phase = KARS_PHASE_CONTENT, .run = set_content },
    { 0 },
};

static const kars_module_t setter = {
    T_MODULE_HEAD,      .name = "setter", .flags = KARS_ALWAYS,
    .hooks = set_hooks, .json = set_json,
};

static t_loop_t *
set_loop(void)
{
    memset(&set_st, 0, sizeof(set_st));
    set_st.phase = KARS_PHASE_ADMIT;
    return t_loop("upstream up { server 10.0.0.1:80; }"
                  "server { listen 127.0.0.1:1; memory 1m;"
                  "route POST / { pass up; } }",
                  &t_open, &setter);
}

/* Sends a document and gives what went upstream, for the test to decref. */
static json_t *
set_send(t_loop_t *t, const char *doc, size_t recv_max)
{
    char head[80];
    size_t length;
    const char *said;

    set_st.admits = 0;
    (void) snprintf(head, sizeof(head),
                    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %zu\r\n\r\n",
                    strlen(doc));
    if (t->client == NULL) {
        (void) t_client(t);
    }
    t->client->recv_max = recv_max;
    if (t->ups != NULL) {
        t->ups->out.len = 0;
    }
    t_append(&t->client->in, head, strlen(head));
    t_request(t, doc);
    if (t_upstreams(t) == 0) {
        return NULL;
    }

    json_t *got = json_loads(t_upstream_body(t, 0),
                             JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);

    said = strstr(t_upstream_got(t, 0), "content-length: ");
    length = said != NULL ? strtoul(said + 16, NULL, 10) : 0;
    CU_ASSERT_EQUAL(length, strlen(t_upstream_body(t, 0)));
    t_upstream_reply(t, "HTTP/1.1 204 OK\r\n\r\n");
    return got;
}

/* clang-format off */
static const struct {
    const char *doc;
    set_t sets[4];
    const char *want;
} edits[] = {
    { "{\"model\":\"a\"}", { { "model", "\"b\"" } }, "{\"model\":\"b\"}" },
    { "{\"model\":\"a\"}", { { "model", "{\"x\":[1]}" } }, "{\"model\":{\"x\":[1]}}" },
    { " { \"z\" : 1 , \"model\" : \"a\" , \"q\" : [ ] } ", { { "model", "null" } }, "{\"z\":1,\"model\":null,\"q\":[]}" },
    { "{}", { { "model", "\"b\"" } }, "{\"model\":\"b\"}" },
    { " {  } ", { { "model", "\"b\"" } }, "{\"model\":\"b\"}" },
    { "{\"z\":1}", { { "model", "\"b\"" } }, "{\"z\":1,\"model\":\"b\"}" },
    { "{\"z\":{\"model\":1}}", { { "model", "2" } }, "{\"z\":{\"model\":1},\"model\":2}" },
    { "{\"model\":\"a\"}", { { "model", "\"b\"" }, { "model", "\"c\"" } }, "{\"model\":\"c\"}" },
    { "{}", { { "model", "\"b\"" }, { "model", "\"c\"" } }, "{\"model\":\"c\"}" },
    { "{}", { { "model", "1" }, { "n", "2" } }, "{\"model\":1,\"n\":2}" },
    { "{}", { { "n", "1" }, { "model", "2" }, { "n", "3" } }, "{\"n\":3,\"model\":2}" },
    { "{\"z\":0}", { { "model", "1" }, { "n", "2" } }, "{\"z\":0,\"model\":1,\"n\":2}" },
    { "{\"z\":0}", { { "model", "1" }, { "n", "2" }, { "model", "3" } }, "{\"z\":0,\"model\":3,\"n\":2}" },
    { "{\"opt\":{}}", { { "opt.a", "1" } }, "{\"opt\":{\"a\":1}}" },
    { "{\"opt\":{}}", { { "opt.a", "1" }, { "opt.b", "2" } }, "{\"opt\":{\"a\":1,\"b\":2}}" },
    { "{\"opt\":{\"z\":0}}", { { "opt.a", "1" }, { "opt.b", "2" } }, "{\"opt\":{\"z\":0,\"a\":1,\"b\":2}}" },
    { "{\"opt\":{\"a\":0}}", { { "opt.b", "1" }, { "opt.a", "2" } }, "{\"opt\":{\"a\":2,\"b\":1}}" },
    { "{}", { { "opt.a", "1" } }, "{\"opt\":{\"a\":1}}" },
    { "{}", { { "deep.x.y", "1" } }, "{\"deep\":{\"x\":{\"y\":1}}}" },
    { "{\"deep\":{}}", { { "deep.x.y", "1" } }, "{\"deep\":{\"x\":{\"y\":1}}}" },
    { "{\"opt\":5}", { { "opt.a", "1" } }, "{\"opt\":{\"a\":1}}" },
    { "{\"opt\":null,\"z\":1}", { { "opt.a", "1" } }, "{\"opt\":{\"a\":1},\"z\":1}" },
    { "{\"opt\":[{\"a\":1}]}", { { "opt.a", "1" } }, "{\"opt\":{\"a\":1}}" },
    { "{}", { { "model", "1" }, { "opt.a", "2" }, { "deep.x.y", "3" } }, "{\"model\":1,\"opt\":{\"a\":2},\"deep\":{\"x\":{\"y\":3}}}" },
    { "{}", { { "opt.a", "1" }, { "opt.a", "2" } }, "{\"opt\":{\"a\":2}}" },
    /* members of one object that is not there yet */
    { "{}", { { "opt.a", "1" }, { "opt.b", "2" } }, "{\"opt\":{\"a\":1,\"b\":2}}" },
    { "{}", { { "opt.a", "1" }, { "opt.b", "2" }, { "opt.a", "3" } }, "{\"opt\":{\"a\":3,\"b\":2}}" },
    { "{}", { { "deep.x.y", "1" }, { "deep.w", "2" }, { "deep.x.z", "3" } }, "{\"deep\":{\"x\":{\"y\":1,\"z\":3},\"w\":2}}" },
    { "{\"opt\":5}", { { "opt.a", "1" }, { "opt.b", "2" } }, "{\"opt\":{\"a\":1,\"b\":2}}" },
    { "{\"deep\":{\"w\":1}}", { { "deep.x.y", "1" }, { "deep.x.z", "2" } }, "{\"deep\":{\"w\":1,\"x\":{\"y\":1,\"z\":2}}}" },
};
/* clang-format on */

static void
test_json_set_makes_the_document_that_was_meant(void)
{
    for (size_t i = 0; i < KARS_NELTS(edits); i++) {
        for (size_t step = 0; step < 4; step += 1 + step) {
            t_loop_t *t = set_loop();
            char label[96];

            while (set_st.nsets < 4 &&
                   edits[i].sets[set_st.nsets].path != NULL) {
                set_st.sets[set_st.nsets] = edits[i].sets[set_st.nsets];
                set_st.nsets++;
            }
            (void) snprintf(label, sizeof(label), "%s -> %s", edits[i].doc,
                            edits[i].want);
            T_CASE(label);

            json_t *want = json_loads(edits[i].want, 0, NULL);
            json_t *got = set_send(t, edits[i].doc, step);

            for (size_t s = 0; s < set_st.nsets; s++) {
                CU_ASSERT_EQUAL(set_st.rc[s], KARS_OK);
            }
            CU_ASSERT_PTR_NOT_NULL(got);
            CU_ASSERT_TRUE(json_equal(want, got));
            CU_ASSERT_EQUAL(set_st.admits, 2); /* once more: it changed */
            json_decref(want);
            json_decref(got);
            t_loop_destroy(t);
        }
    }
}

static void
test_json_set_shows_watchers_the_new_value(void)
{
    t_loop_t *t = set_loop();

    set_st.nsets = 3;
    set_st.sets[0] = (set_t){ "model", "\"b\\u0041\"" };
    set_st.sets[1] = (set_t){ "opt.a", "7" };
    set_st.sets[2] = (set_t){ "deep.x.y", "true" };
    json_decref(set_send(t, "{\"model\":\"a\"}", 0));
    CU_ASSERT_STRING_EQUAL(set_st.seen, "model=bA;opt.a=7;deep.x.y=true;");
    t_loop_destroy(t);
}

/* clang-format off */
static const struct { const char *path; const char *json; } wrongs[] = {
    { "model", "\"a" },   { "model", "" },       { "model", "1,\"n\":2" },
    { "model", "1}" },    { "model", "\"\xff\"" }, { "other", "1" },
    { "", "1" },          { "model.x", "1" },
};
/* clang-format on */

static void
test_json_set_refuses_what_is_no_json_or_not_watched(void)
{
    for (size_t i = 0; i < KARS_NELTS(wrongs); i++) {
        t_loop_t *t = set_loop();
        json_t *got;

        char label[40];

        (void) snprintf(label, sizeof(label), "%s: %s", wrongs[i].path,
                        wrongs[i].json);
        T_CASE(label);
        set_st.nsets = 1;
        set_st.sets[0] = (set_t){ wrongs[i].path, wrongs[i].json };
        got = set_send(t, "{\"model\":\"a\"}", 0);
        CU_ASSERT_EQUAL(set_st.rc[0], KARS_ERROR);
        CU_ASSERT_PTR_NOT_NULL_FATAL(got); /* as it came */

        json_t *model = json_object_get(got, "model");

        CU_ASSERT_TRUE(json_is_string(model) &&
                       strcmp(json_string_value(model), "a") == 0);
        json_decref(got);
        t_loop_destroy(t);
    }
}

static void
test_json_set_in_rewrite_runs_admit_once(void)
{
    t_loop_t *t = set_loop();

    set_st.phase = KARS_PHASE_REWRITE;
    set_st.nsets = 1;
    set_st.sets[0] = (set_t){ "model", "\"b\"" };
    json_decref(set_send(t, "{\"model\":\"a\"}", 0));
    CU_ASSERT_EQUAL(set_st.rc[0], KARS_OK);
    CU_ASSERT_EQUAL(set_st.admits, 1);
    t_loop_destroy(t);
}

/* Nothing goes that ADMIT did not see, and CONTENT chooses once. */
static void
test_json_set_in_content_runs_admit_again(void)
{
    t_loop_t *t = set_loop();
    json_t *got;

    set_st.phase = KARS_PHASE_CONTENT;
    set_st.nsets = 1;
    set_st.sets[0] = (set_t){ "model", "\"b\"" };
    got = set_send(t, "{\"model\":\"a\"}", 0);
    CU_ASSERT_EQUAL(set_st.rc[0], KARS_OK);
    CU_ASSERT_EQUAL(set_st.admits, 2);
    CU_ASSERT_EQUAL(set_st.contents, 1);
    CU_ASSERT_STRING_EQUAL(set_st.seen, "model=b;");
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(got, "model")),
                           "b");
    json_decref(got);
    t_loop_destroy(t);
}

static void
test_json_set_in_every_round_ends_in_500(void)
{
    t_loop_t *t = set_loop();

    set_st.each_time = 1;
    set_st.nsets = 1;
    set_st.sets[0] = (set_t){ "model", "\"b\"" };
    CU_ASSERT_PTR_NULL(set_send(t, "{\"model\":\"a\"}", 0));
    CU_ASSERT_EQUAL(t_status(t), 500);
    CU_ASSERT_EQUAL(set_st.admits, 5); /* the first, and 4 more */
    t_loop_destroy(t);
}

/* Random documents and edits against jansson. */

static uint64_t set_seed = 20260101;

static unsigned
set_random(unsigned n)
{
    set_seed = set_seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned) (set_seed >> 33) % n;
}

static json_t *
set_value(int depth)
{
    json_t *v;

    switch (set_random(depth > 2 ? 4 : 6)) {
    case 0:
        return json_integer((json_int_t) set_random(1000));
    case 1:
        return json_string(set_random(2) ? "" : "a\"\\/\n\xc3\xa4{}[],:");
    case 2:
        return json_true();
    case 3:
        return json_null();
    case 4:
        v = json_array();
        for (unsigned n = set_random(3); n > 0; n--) {
            (void) json_array_append_new(v, set_value(depth + 1));
        }
        return v;
    default:
        v = json_object();
        for (unsigned n = set_random(4); n > 0; n--) {
            static const char *const names[] = { "a", "b", "x", "w", "y", "q" };

            (void) json_object_set_new(v, names[set_random(6)],
                                       set_value(depth + 1));
        }
        return v;
    }
}

static json_t *
set_document(void)
{
    static const char *const names[] = { "model", "n", "opt", "deep", "z" };
    json_t *doc = json_object();

    for (unsigned n = set_random(5); n > 0; n--) {
        (void) json_object_set_new(doc, names[set_random(5)], set_value(0));
    }
    return doc;
}

/* Sets the member of that path, making the objects on its way. */
static void
set_apply(json_t *doc, const char *path, json_t *value)
{
    for (const char *dot; (dot = strchr(path, '.')) != NULL; path = dot + 1) {
        char name[16];
        json_t *next;

        (void) snprintf(name, sizeof(name), "%.*s", (int) (dot - path), path);
        next = json_object_get(doc, name);
        if (!json_is_object(next)) {
            next = json_object();
            (void) json_object_set_new(doc, name, next);
        }
        doc = next;
    }
    (void) json_object_set_new(doc, path, value);
}

static void
test_json_set_agrees_with_another_reader(void)
{
    t_loop_t *t = set_loop();

    for (int i = 0; i < 600; i++) {
        json_t *doc = set_document();
        char *text =
            json_dumps(doc, set_random(2) ? JSON_INDENT(2) : JSON_COMPACT);
        char *json[SETS];
        json_t *got;

        set_st.nsets = set_random(SETS);
        for (size_t s = 0; s < set_st.nsets; s++) {
            json_t *v = set_value(1);

            json[s] = json_dumps(v, JSON_ENCODE_ANY);
            set_st.sets[s] = (set_t){ set_paths[set_random(7)], json[s] };
            set_apply(doc, set_st.sets[s].path, v);
        }
        T_CASE(text);
        got = set_send(t, text, set_random(3) == 0 ? 1 + set_random(20) : 0);
        CU_ASSERT_PTR_NOT_NULL(got);
        CU_ASSERT_TRUE(json_equal(doc, got));
        for (size_t s = 0; s < set_st.nsets; s++) {
            CU_ASSERT_EQUAL(set_st.rc[s], KARS_OK);
            free(json[s]);
        }
        json_decref(got);
        json_decref(doc);
        free(text);
    }
    t_loop_destroy(t);
}

void
suite_body_set(void)
{
    T_SUITE(body_set);
    T_TEST(body_set, test_json_set_makes_the_document_that_was_meant);
    T_TEST(body_set, test_json_set_shows_watchers_the_new_value);
    T_TEST(body_set, test_json_set_refuses_what_is_no_json_or_not_watched);
    T_TEST(body_set, test_json_set_in_rewrite_runs_admit_once);
    T_TEST(body_set, test_json_set_in_content_runs_admit_again);
    T_TEST(body_set, test_json_set_in_every_round_ends_in_500);
    T_TEST(body_set, test_json_set_agrees_with_another_reader);
}
