/*
 * fuzz_json_scan.c - the JSON scanner against itself, cut elsewhere, and
 * against jansson: what we accept jansson accepts and reads alike; what we
 * refuse jansson refuses, unless we say that we are stricter.
 */
#include "http/json_scan.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FUZZ_MODEL, FUZZ_CONTENT, FUZZ_TEXT, FUZZ_N, FUZZ_USAGE, FUZZ_WATCHES };

static const char *const fuzz_paths[] = {
    "model", "messages[*].content", "messages[*].content[*].text",
    "n",     "usage.total_tokens",
};

/* What one watch saw: its values one after the other. */
typedef struct {
    char *text;
    size_t len;
    uint64_t shape; /* a hash over types and indices */
    int open;
} fuzz_seen_t;

typedef struct {
    kars__json_scan_t scan;
    fuzz_seen_t seen[FUZZ_WATCHES];
    kars_err_t err;
    int rc;
} fuzz_run_t;

static const kars__json_prog_t *fuzz_prog;

#define FUZZ_CHECK(ok)                                               \
    do {                                                             \
        if (!(ok)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #ok); \
            abort();                                                 \
        }                                                            \
    } while (0)

static int
fuzz_value(void *data, uint32_t watch, kars_str_t text, uint32_t index,
           uint32_t flags)
{
    fuzz_run_t *run = data;
    fuzz_seen_t *seen = &run->seen[watch];

    FUZZ_CHECK(watch < FUZZ_WATCHES);
    FUZZ_CHECK(((flags & KARS_FIRST) != 0) == !seen->open);
    memcpy(seen->text + seen->len, text.data, text.len);
    seen->len += text.len;
    seen->open = (flags & KARS_LAST) == 0;
    if (!seen->open) {
        uint32_t type = flags & ~(uint32_t) (KARS_FIRST | KARS_LAST);

        FUZZ_CHECK(type != 0 && (type & (type - 1)) == 0);
        seen->shape = (seen->shape ^ type ^ ((uint64_t) index << 20) ^
                       ((uint64_t) seen->len << 40)) *
                      1099511628211u;
    }

    return KARS_OK;
}

/* Scans the document in chunks of sizes that seed decides; 0: in one. */
static void
fuzz_scan(fuzz_run_t *run, const uint8_t *data, size_t size, uint64_t seed)
{
    memset(run, 0, sizeof(*run));
    for (size_t i = 0; i < FUZZ_WATCHES; i++) {
        run->seen[i].text = malloc(size + 1); /* decoded is never longer */
        FUZZ_CHECK(run->seen[i].text != NULL);
    }

    kars__json_begin(&run->scan, fuzz_prog, fuzz_value, run);
    for (size_t at = 0; at < size && run->rc == KARS_OK;) {
        size_t n = size - at;

        if (seed != 0) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            size_t most = (seed >> 60) < 8 ? 3 : 40;
            size_t want = 1 + (size_t) (seed >> 33) % most;

            n = want < n ? want : n;
        }
        char *chunk = malloc(n);

        FUZZ_CHECK(chunk != NULL);
        memcpy(chunk, data + at, n);
        run->rc = kars__json_feed(&run->scan, chunk, n, &run->err);
        free(chunk);
        at += n;
    }
    if (run->rc == KARS_OK) {
        run->rc = kars__json_end(&run->scan, &run->err);
    }
}

static void
fuzz_done(fuzz_run_t *run)
{
    for (size_t i = 0; i < FUZZ_WATCHES; i++) {
        free(run->seen[i].text);
    }
}

static void
fuzz_compare(const fuzz_run_t *a, const fuzz_run_t *b)
{
    FUZZ_CHECK(a->rc == b->rc);
    FUZZ_CHECK(strcmp(a->err.text, b->err.text) == 0);
    if (a->rc != KARS_OK) {
        return; /* how much of the last value came depends on the chunks */
    }

    for (size_t i = 0; i < FUZZ_WATCHES; i++) {
        FUZZ_CHECK(a->seen[i].len == b->seen[i].len);
        FUZZ_CHECK(a->seen[i].shape == b->seen[i].shape);
        FUZZ_CHECK(memcmp(a->seen[i].text, b->seen[i].text, a->seen[i].len) ==
                   0);
    }
}

/* The member's range must hold just what jansson read. */
static void
fuzz_range(const fuzz_run_t *run, const uint8_t *data, const json_t *root,
           const char *name)
{
    json_t *want = json_object_get(root, name);
    kars__json_range_t at;

    FUZZ_CHECK(kars__json_find(&run->scan, (kars_str_t){ name, strlen(name) },
                               &at) == KARS_OK);
    FUZZ_CHECK((want != NULL) == (at.type != 0));
    if (want == NULL) {
        return;
    }

    json_t *got =
        json_loadb((const char *) data + at.start, (size_t) (at.end - at.start),
                   JSON_DECODE_ANY, NULL);

    FUZZ_CHECK(got != NULL && json_equal(got, want));
    FUZZ_CHECK(at.empty == ((json_is_object(got) || json_is_array(got)) &&
                            json_object_size(got) + json_array_size(got) == 0));
    json_decref(got);
}

static void
fuzz_check_text(const fuzz_seen_t *seen, size_t *at, const json_t *value)
{
    size_t n = json_string_length(value);

    if (json_is_string(value)) {
        FUZZ_CHECK(seen->len - *at >= n);
        FUZZ_CHECK(memcmp(seen->text + *at, json_string_value(value), n) == 0);
        *at += n;
    }
}

static void
fuzz_check_values(const fuzz_run_t *run, const json_t *root)
{
    const json_t *model = json_object_get(root, "model");
    const json_t *message;
    size_t at_model = 0;
    size_t at_content = 0;
    size_t i;

    if (json_is_string(model)) {
        fuzz_check_text(&run->seen[FUZZ_MODEL], &at_model, model);
        FUZZ_CHECK(at_model == run->seen[FUZZ_MODEL].len);
    }

    json_array_foreach(json_object_get(root, "messages"), i, message)
    {
        const json_t *content = json_object_get(message, "content");

        if (content != NULL && !json_is_string(content) &&
            !json_is_array(content) && !json_is_object(content)) {
            return; /* its text may be written in more than one way */
        }
        fuzz_check_text(&run->seen[FUZZ_CONTENT], &at_content, content);
    }
    FUZZ_CHECK(at_content == run->seen[FUZZ_CONTENT].len);
}

static void
fuzz_jansson(const fuzz_run_t *run, const uint8_t *data, size_t size)
{
    json_error_t error;
    json_t *root = json_loadb((const char *) data, size, 0, &error);

    if (run->rc != KARS_OK) {
        /* jansson overlooks a NUL after a number or a word */
        FUZZ_CHECK(root == NULL || strstr(run->err.text, " found 0x00") ||
                   strstr(run->err.text, " duplicate ") ||
                   strstr(run->err.text, " only in case") ||
                   strstr(run->err.text, " nested deeper ") ||
                   strstr(run->err.text, " number too long "));
    } else if (root == NULL) {
        FUZZ_CHECK(json_error_code(&error) == json_error_numeric_overflow);
    } else {
        fuzz_check_values(run, root);
        fuzz_range(run, data, root, "model");
        fuzz_range(run, data, root, "messages");
        fuzz_range(run, data, root, "usage");
        fuzz_range(run, data, root, "n");
    }

    json_decref(root);
}

static void
fuzz_init(void)
{
    kars_str_t paths[FUZZ_WATCHES];
    kars_pool_t *pool = kars__pool_create(0);
    kars__json_prog_t *prog;

    FUZZ_CHECK(pool != NULL);
    for (size_t i = 0; i < FUZZ_WATCHES; i++) {
        paths[i] = (kars_str_t){ fuzz_paths[i], strlen(fuzz_paths[i]) };
    }
    FUZZ_CHECK(kars__json_compile(pool, paths, FUZZ_WATCHES, &prog, NULL) ==
               KARS_OK);
    fuzz_prog = prog; /* for the life of the process, with its pool */
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fuzz_run_t whole, cut;
    uint64_t seed = 14695981039346656037u;

    if (fuzz_prog == NULL) {
        fuzz_init();
    }
    for (size_t i = 0; i < size; i++) {
        seed = (seed ^ data[i]) * 1099511628211u;
    }

    fuzz_scan(&whole, data, size, 0);
    fuzz_scan(&cut, data, size, seed | 1);
    fuzz_compare(&whole, &cut);
    fuzz_jansson(&whole, data, size);
    fuzz_done(&whole);
    fuzz_done(&cut);
    return 0;
}
