/* test_log_time.c - the time of a line, and lines from signal handlers. */
#include "base/log.h"
#include "t.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* Every day from 1970 to 2400, first and last second, against the library. */
static void
test_log_time_is_the_calendars(void)
{
    char want[KARS__LOG_TIME], got[KARS__LOG_TIME];
    size_t wrong = 0;

    for (time_t day = 0; day < 157200; day++) {
        for (time_t s = 0; s < 86400; s += 86399) {
            struct timespec at = { .tv_sec = day * 86400 + s,
                                   .tv_nsec = 7999999 };
            struct tm tm;

            (void) gmtime_r(&at.tv_sec, &tm);
            (void) strftime(want, sizeof(want), "%Y-%m-%dT%H:%M:%S.007Z", &tm);
            kars__log_time(got, &at);
            wrong += strcmp(want, got) != 0;
        }
    }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT_STRING_EQUAL(got, "2400-05-25T23:59:59.007Z");
}

/* What log lines go to while the test runs. */
static size_t
log_signal(uint32_t json, const char *text, char *ret, size_t cap)
{
    kars__log_conf_t usual = { .target = { .kind = KARS__LOG_STDERR, .fd = 2 },
                               .level = KARS_LOG_NOTICE };
    kars__log_conf_t conf = { .target = { .kind = KARS__LOG_FILE },
                              .level = KARS_LOG_NOTICE,
                              .json = json };
    int p[2];

    CU_ASSERT_EQUAL_FATAL(pipe(p), 0);
    conf.target.fd = p[1];
    kars__log_setup(&conf);
    kars__log_signal(KARS_LOG_ERR, text);
    kars__log_setup(&usual);

    ssize_t n = read(p[0], ret, cap - 1);

    (void) close(p[0]);
    (void) close(p[1]);
    ret[n > 0 ? n : 0] = '\0';
    return n > 0 ? (size_t) n : 0;
}

static void
test_log_of_a_signal_is_like_any_line(void)
{
    char line[4096], tail[128];

    (void) log_signal(0, "worker: crashed signal=SIGSEGV", line, sizeof(line));
    CU_ASSERT_STRING_EQUAL(line + 24,
                           " error worker: crashed signal=SIGSEGV\n");
    (void) log_signal(1, "worker: crashed", line, sizeof(line));
    (void) snprintf(tail, sizeof(tail),
                    "Z\",\"level\":\"error\",\"pid\":%d,\"trace_id\":\"\","
                    "\"msg\":\"worker: crashed\"}\n",
                    (int) getpid());
    CU_ASSERT_STRING_EQUAL(strchr(line, 'Z'), tail);
}

static void
test_log_of_a_signal_has_an_end(void)
{
    static char text[8192];
    char line[8192];

    memset(text, 'x', sizeof(text) - 1);
    for (uint32_t json = 0; json < 2; json++) {
        size_t n = log_signal(json, text, line, sizeof(line));

        CU_ASSERT(n > 1024 && n <= KARS__LOG_LINE);
        CU_ASSERT_EQUAL(line[n - 1], '\n');
    }
}

void
suite_log_time(void)
{
    T_SUITE(log_time);
    T_TEST(log_time, test_log_time_is_the_calendars);
    T_TEST(log_time, test_log_of_a_signal_is_like_any_line);
    T_TEST(log_time, test_log_of_a_signal_has_an_end);
}
