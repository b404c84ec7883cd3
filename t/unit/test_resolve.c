/*
 * test_resolve.c - addresses as they are written. Names need a network and
 * are not asked for here.
 */
#include "event/resolve.h"
#include "t.h"

#include <errno.h>
#include <stdio.h>

/* clang-format off */
static const struct { const char *host; uint32_t port; const char *text; } literals[] = {
    { "127.0.0.1", 80, "127.0.0.1:80" },
    { "0.0.0.0", 0, "0.0.0.0:0" },
    { "255.255.255.255", 65535, "255.255.255.255:65535" },
    { "::1", 8443, "[::1]:8443" },
    { "::", 1, "[::]:1" },
    { "2001:db8::7", 443, "[2001:db8::7]:443" },
    { "::ffff:10.0.0.1", 443, "[::ffff:10.0.0.1]:443" },
    { "", 1, NULL },          { "localhost", 1, NULL },
    { "1.2.3", 1, NULL },     { "1.2.3.4.5", 1, NULL },
    { "256.0.0.1", 1, NULL }, { "01.2.3.4", 1, NULL },
    { "0x7f.1", 1, NULL },    { "127.1", 1, NULL },
    { "[::1]", 1, NULL },     { ":::", 1, NULL },
    { "fe80::1%eth0", 1, NULL }, { " 1.2.3.4", 1, NULL },
    { "1.2.3.4 ", 1, NULL },  { "2130706433", 1, NULL },
    { "1:2:3:4:5:6:7:8:9", 1, NULL },
    { "0000:0000:0000:0000:0000:ffff:255.255.255.2555", 1, NULL },
};
/* clang-format on */

static void
test_resolve_literal_table(void)
{
    for (size_t i = 0; i < KARS_NELTS(literals); i++) {
        kars__addr_t a;
        char text[KARS__ADDR_TEXT];

        T_CASE(literals[i].host);

        int rc =
            kars__addr_literal(t_str(literals[i].host), literals[i].port, &a);

        CU_ASSERT_EQUAL(rc, literals[i].text != NULL ? KARS_OK : KARS_ERROR);
        if (rc == KARS_OK && literals[i].text != NULL) {
            CU_ASSERT_EQUAL(kars__addr_text(&a, text),
                            strlen(literals[i].text));
            CU_ASSERT_STRING_EQUAL(text, literals[i].text);
        }
    }
}

static void
test_resolve_unix_addresses(void)
{
    char longest[160] = "unix:/";
    kars__addr_t a;
    char text[KARS__ADDR_TEXT];

    CU_ASSERT_EQUAL(kars__addr_unix(KARS_STR("unix:/run/a.sock"), &a), KARS_OK);
    (void) kars__addr_text(&a, text);
    CU_ASSERT_STRING_EQUAL(text, "unix:/run/a.sock");
    CU_ASSERT_EQUAL(kars__addr_unix(KARS_STR("unix:"), &a), KARS_ERROR);
    CU_ASSERT_EQUAL(kars__addr_unix(KARS_STR("/run/a"), &a), KARS_ERROR);
    for (size_t n = 106; n <= 109; n++) {
        memset(longest + 6, 'x', n - 1);
        longest[5 + n] = '\0';
        CU_ASSERT_EQUAL(kars__addr_unix(t_str(longest), &a),
                        n <= 107 ? KARS_OK : KARS_ERROR);
    }
}

static int resolve_ran;

static void
resolve_done(void *data, int error, const kars__addr_t *addrs, size_t n,
             uint32_t ttl_s)
{
    resolve_ran++;
    *(int *) data = error;
    CU_ASSERT_EQUAL(n, error == 0);
}

static void
test_resolve_literals_need_no_resolver(void)
{
    int error = -1;

    resolve_ran = 0;
    kars__resolve(NULL, KARS_STR("10.1.2.3"), 80, resolve_done, &error);
    CU_ASSERT_EQUAL(resolve_ran, 1);
    CU_ASSERT_EQUAL(error, 0);
}

static void
test_resolve_names_that_are_none_fail_once(void)
{
    static char big[300];
    kars_err_t err = KARS_ERR_INIT;
    kars__loop_t *loop = kars__loop_create(KARS__LOOP_FAKE, &err);
    kars__resolver_t *r = kars__resolver_create(loop, &err);
    int error = 0;

    CU_ASSERT_PTR_NOT_NULL_FATAL(r);
    memset(big, 'a', sizeof(big) - 1);
    resolve_ran = 0;
    kars__resolve(r, t_str(big), 80, resolve_done, &error);
    CU_ASSERT_EQUAL(resolve_ran, 1);
    CU_ASSERT_EQUAL(error, ENOENT);
    kars__resolver_destroy(r);
    kars__resolver_destroy(NULL);
    kars__loop_destroy(loop);
}

void
suite_resolve(void)
{
    T_SUITE(resolve);
    T_TEST(resolve, test_resolve_literal_table);
    T_TEST(resolve, test_resolve_unix_addresses);
    T_TEST(resolve, test_resolve_literals_need_no_resolver);
    T_TEST(resolve, test_resolve_names_that_are_none_fail_once);
}
