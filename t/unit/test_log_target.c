/*
 * test_log_target.c - core/base/log_target.c: what a word means, and that lines
 * arrive whole.
 */
#include "t.h"
#include "base/log_target.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>

static void
test_log_target_words(void)
{
    /* clang-format off */
    static const struct { const char *in; int rc; uint32_t kind, facility; const char *tag; int family; } rows[] = {
        { "off", KARS_OK, KARS__LOG_OFF, 0, "", 0 },
        { "stderr", KARS_OK, KARS__LOG_STDERR, 0, "", 0 },
        { "stdout", KARS_OK, KARS__LOG_STDOUT, 0, "", 0 },
        { "/var/log/x", KARS_OK, KARS__LOG_FILE, 0, "", 0 },
        { "stderr2", KARS_OK, KARS__LOG_FILE, 0, "", 0 },
        { "syslog:", KARS_OK, KARS__LOG_SYSLOG, 3, "kars", AF_UNIX },
        { "syslog:facility=local7,tag=x", KARS_OK, KARS__LOG_SYSLOG, 23, "x", AF_UNIX },
        { "syslog:server=127.0.0.1:514", KARS_OK, KARS__LOG_SYSLOG, 3, "kars", AF_INET },
        { "syslog:server=[::1]:514,tag=y", KARS_OK, KARS__LOG_SYSLOG, 3, "y", AF_INET6 },
        { "syslog:server=unix:/run/log", KARS_OK, KARS__LOG_SYSLOG, 3, "kars", AF_UNIX },
        { "", KARS_ERROR, 9, 9, "-", 9 },
        { "syslog:server=", KARS_ERROR, 9, 9, "-", 9 },
        { "syslog:server=localhost:514", KARS_ERROR, 9, 9, "-", 9 },
        { "syslog:server=127.0.0.1", KARS_ERROR, 9, 9, "-", 9 },
        { "syslog:server=unix:relative", KARS_ERROR, 9, 9, "-", 9 },
        { "syslog:facility=local8", KARS_ERROR, 9, 9, "-", 9 },
        { "syslog:tag=", KARS_ERROR, 9, 9, "-", 9 },
        { "syslog:tag=a b", KARS_ERROR, 9, 9, "-", 9 },
        { "syslog:tag=012345678901234567890123456789012", KARS_ERROR, 9, 9, "-", 9 },
        { "syslog:x", KARS_ERROR, 9, 9, "-", 9 },
        { "syslog:,", KARS_ERROR, 9, 9, "-", 9 },
    };
    /* clang-format on */

    for (size_t i = 0; i < KARS_NELTS(rows); i++) {
        kars__log_target_t t = {
            .kind = 9, .facility = 9, .tag = "-", .addr.ss_family = 9
        }; /* must survive a failure */
        kars_err_t err = KARS_ERR_INIT;

        T_CASE(rows[i].in);
        CU_ASSERT_EQUAL(kars__log_target_parse(t_str(rows[i].in), &t, &err),
                        rows[i].rc);
        CU_ASSERT_EQUAL(t.kind, rows[i].kind);
        CU_ASSERT_EQUAL(t.facility, rows[i].facility);
        CU_ASSERT_STRING_EQUAL(t.tag, rows[i].tag);
        CU_ASSERT_EQUAL(t.addr.ss_family, rows[i].family);
        CU_ASSERT_EQUAL(err.text[0] != '\0', rows[i].rc == KARS_ERROR);
    }
    CU_ASSERT_TRUE(kars__log_is_path(KARS_STR("a")));
    CU_ASSERT_FALSE(kars__log_is_path(KARS_STR("off")));
    CU_ASSERT_FALSE(kars__log_is_path(KARS_STR("syslog:")));
    CU_ASSERT_FALSE(kars__log_is_path(KARS_STR("syslog:nonsense")));
}

static void
test_log_target_files_get_lines_in_one_piece(void)
{
    int pipe_fds[2];
    char got[64];
    kars__log_target_t t = { .kind = KARS__LOG_FILE };

    CU_ASSERT_EQUAL_FATAL(pipe(pipe_fds), 0);
    t.fd = pipe_fds[1];
    CU_ASSERT_EQUAL(kars__log_target_write(&t, KARS_LOG_INFO, "a\nb\n", 4), 0);
    CU_ASSERT_EQUAL(read(pipe_fds[0], got, sizeof(got)), 4);
    t.tail = 1; /* a piece of a line was left behind */
    CU_ASSERT_EQUAL(kars__log_target_write(&t, KARS_LOG_INFO, "c\n", 2), 0);
    CU_ASSERT_EQUAL(read(pipe_fds[0], got, sizeof(got)), 3);
    CU_ASSERT_NSTRING_EQUAL(got, "\nc\n", 3);
    (void) close(pipe_fds[0]);
    kars__log_target_close(&t);
    t.fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    CU_ASSERT_NOT_EQUAL(t.fd, -1);
    CU_ASSERT_EQUAL(kars__log_target_write(&t, KARS_LOG_INFO, "a\nb\n", 4), 2);
    CU_ASSERT_EQUAL(errno, ENOSPC);
    kars__log_target_close(&t);
    CU_ASSERT_EQUAL(t.fd, -1);
    CU_ASSERT_EQUAL(kars__log_target_write(&t, KARS_LOG_INFO, "a\n", 2), 0);
}

static void
test_log_target_syslog_is_a_datagram_a_line(void)
{
    struct sockaddr_in at = { .sin_family = AF_INET };
    socklen_t len = sizeof(at);
    kars__log_target_t t;
    kars_err_t err = KARS_ERR_INIT;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    char word[80], got[256];

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *) &at, len), 0);
    CU_ASSERT_EQUAL_FATAL(getsockname(fd, (struct sockaddr *) &at, &len), 0);
    (void) snprintf(word, sizeof(word),
                    "syslog:server=127.0.0.1:%u,facility=auth,tag=me",
                    ntohs(at.sin_port));
    CU_ASSERT_EQUAL_FATAL(kars__log_target_parse(t_str(word), &t, &err),
                          KARS_OK);
    CU_ASSERT_EQUAL_FATAL(kars__log_target_open(&t, &err), KARS_OK);
    CU_ASSERT_EQUAL(kars__log_target_write(&t, KARS_LOG_ERR, "one\ntwo\n", 8),
                    0);
    for (int i = 0; i < 2; i++) {
        ssize_t n = recv(fd, got, sizeof(got) - 1, 0);

        CU_ASSERT_TRUE_FATAL(n > 0);
        got[n] = '\0';
        CU_ASSERT_NSTRING_EQUAL(got, "<35>1 20", 8); /* auth, err */
        CU_ASSERT_PTR_NOT_NULL(strstr(got, " me "));
        CU_ASSERT_STRING_EQUAL(strstr(got, " - - "),
                               i == 0 ? " - - one" : " - - two");
    }
    kars__log_target_close(&t);
    (void) close(fd);
}

void
suite_log_target(void)
{
    T_SUITE(log_target);
    T_TEST(log_target, test_log_target_words);
    T_TEST(log_target, test_log_target_files_get_lines_in_one_piece);
    T_TEST(log_target, test_log_target_syslog_is_a_datagram_a_line);
}
