/*
 * test_log.c - core/base/log.c: one line for one event, whatever is said in it.
 */
#include "base/log.h"
#include "t.h"

#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

static void __attribute__((format(printf, 2, 3)))
log_say(kars_str_t trace, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    kars__vlog(KARS_LOG_ERR, trace, fmt, ap);
    va_end(ap);
}

/* What one event makes of a log, NUL-terminated. */
static const char *
log_line(uint32_t json, const char *text, size_t n)
{
    static char got[2 * KARS__LOG_LINE];
    int fds[2];

    CU_ASSERT_EQUAL_FATAL(pipe(fds), 0);
    kars__log_setup(&(kars__log_conf_t){
        { .kind = KARS__LOG_FILE, .fd = fds[1] }, KARS_LOG_NOTICE, json });
    log_say(KARS_STR("trace-1"), "%.*s", (int) n, text);
    kars__log(KARS_LOG_INFO, "not wanted");
    kars__log_setup(&(kars__log_conf_t){
        { .kind = KARS__LOG_STDERR, .fd = 2 }, KARS_LOG_NOTICE, 0 });

    ssize_t len = read(fds[0], got, sizeof(got) - 1);

    got[len > 0 ? len : 0] = '\0';
    (void) close(fds[0]);
    (void) close(fds[1]);
    return got;
}

static void
test_log_is_one_line_an_event(void)
{
    static const size_t sizes[] = { 0, 1, 40, 2046, 2047, 2048, 2049, 9000 };
    static const char fills[] = { 'x', '\n', '"', '\x1b' };

    for (size_t i = 0; i < KARS_NELTS(sizes) * KARS_NELTS(fills); i++) {
        size_t n = sizes[i / KARS_NELTS(fills)];
        char *text = malloc(n + 1);

        CU_ASSERT_PTR_NOT_NULL_FATAL(text);
        memset(text, fills[i % KARS_NELTS(fills)], n);

        const char *line = log_line(0, text, n);
        size_t len = strlen(line);

        CU_ASSERT_TRUE(len <= KARS__LOG_LINE);
        CU_ASSERT_EQUAL(line[len - 1], '\n');
        CU_ASSERT_PTR_EQUAL(strchr(line, '\n'), line + len - 1);
        CU_ASSERT_PTR_NOT_NULL(strstr(line, " error "));
        CU_ASSERT_PTR_NOT_NULL(strstr(line, " trace=trace-1\n"));
        CU_ASSERT_EQUAL(strstr(line, KARS__LOG_CUT) != NULL,
                        n >= 2048 || (n > 1000 && i % 2 == 1));

        line = log_line(1, text, n);

        json_t *tree = json_loads(line, 0, NULL);
        const char *msg = json_string_value(json_object_get(tree, "msg"));

        CU_ASSERT_TRUE(strlen(line) <= KARS__LOG_LINE);
        CU_ASSERT_PTR_NOT_NULL_FATAL(msg);
        if (n <= 40) {
            CU_ASSERT_TRUE(strlen(msg) == n && memcmp(msg, text, n) == 0);
        } else if (n >= 2048) {
            CU_ASSERT_PTR_NOT_NULL(strstr(msg, KARS__LOG_CUT));
        }
        json_decref(tree);
        free(text);
    }
}

void
suite_log(void)
{
    T_SUITE(log);
    T_TEST(log, test_log_is_one_line_an_event);
}
