/*
 * test_probe.c - where `kars-router probe` asks.
 */
#include "base/pool.h"
#include "proc/probe.h"
#include "t.h"

/* clang-format off */
static const struct { const char *conf; const char *where; } wheres[] = {
    { "", "127.0.0.1:8443" },
    { "server { listen 127.0.0.1:9; }", "127.0.0.1:9" },
    { "server { listen 10.1.2.3:9; listen 127.0.0.1:8; }", "10.1.2.3:9" },
    { "server { listen *:9; }", "127.0.0.1:9" },
    { "server { listen 0.0.0.0:9; }", "127.0.0.1:9" },
    { "server { listen [::]:9; }", "[::1]:9" },
    { "server { listen 127.0.0.1:9; } server { listen unix:/a class=operator;"
      " listen unix:/b class=operator; }", "unix:/a" },
    { "server { listen unix:/a class=agent; listen unix:/b; }",
      "127.0.0.1:8443" },
    { "server { listen unix:/a class=agent; listen 127.0.0.1:9 class=operator;"
      " }", "127.0.0.1:9" },
    { "upstream u { listen 127.0.0.1:9; } listen 127.0.0.1:8;",
      "127.0.0.1:8443" },
    { "server { listen fd:api; listen 127.0.0.1:9; }", "127.0.0.1:9" },
    { "server { listen 127.0.0.1:9 tls; listen 127.0.0.1:8; }",
      "127.0.0.1:8" },
    { "server { listen unix:/a class=operator tls; listen unix:/b tls"
      " class=operator; listen unix:/c class=operator; }", "unix:/c" },
    { "server { listen 127.0.0.1:9 class=agent tls; listen unix:/a tls"
      " class=operator; }", "every listener speaks TLS: give the probe one of "
      "its own, `listen unix:PATH class=operator;`" },
    { "server { listen; }", "probe.conf:1:10: expected `listen ADDRESS`" },
    { "server { listen elsewhere; }", "probe.conf:1:17: expected an address "
      "such as 127.0.0.1:8443, *:8443, unix:/run/kars/admin.sock or "
      "fd:NAME, got \"elsewhere\"" },
};
/* clang-format on */

static void
test_probe_asks_the_operators_socket_first(void)
{
    for (size_t i = 0; i < KARS_NELTS(wheres); i++) {
        kars_pool_t *pool = kars__pool_create(0);
        kars__conf_node_t *root = NULL;
        kars_err_t err = KARS_ERR_INIT;
        char text[KARS__ADDR_TEXT] = "";
        kars__addr_t addr;

        T_CASE(wheres[i].conf);
        CU_ASSERT_EQUAL_FATAL(kars__conf_parse_text(pool, "probe.conf",
                                                    t_str(wheres[i].conf),
                                                    &root, &err),
                              KARS_OK);
        if (kars__probe_where(root, &addr, &err) == KARS_OK) {
            (void) kars__addr_text(&addr, text);
            CU_ASSERT_STRING_EQUAL(text, wheres[i].where);
        } else {
            CU_ASSERT_STRING_EQUAL(err.text, wheres[i].where);
        }
        kars__pool_destroy(pool);
    }
}

static void
test_probe_without_a_configuration(void)
{
    char text[KARS__ADDR_TEXT];
    kars__addr_t addr;

    CU_ASSERT_EQUAL(kars__probe_where(NULL, &addr, NULL), KARS_OK);
    (void) kars__addr_text(&addr, text);
    CU_ASSERT_STRING_EQUAL(text, "127.0.0.1:8443");
}

void
suite_probe(void)
{
    T_SUITE(probe);
    T_TEST(probe, test_probe_asks_the_operators_socket_first);
    T_TEST(probe, test_probe_without_a_configuration);
}
