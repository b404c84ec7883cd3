/* test_identity_access.c - modules/identity/access.c: who may call what */
#include "t.h"

#include "identity/access.h"

#include <stdio.h>

/* docs/compat.md 7, route by route. Classes: a o c p, * for everybody, -
 * nobody. */
/* clang-format off */
static const struct { const char *method, *route, *who; } calls[] = {
    { "GET", "/healthz", "*" },       { "HEAD", "/readyz", "*" },
    { "GET", "/metrics", "*" },       { "POST", "/healthz", "-" },
    { "POST", "/v1/chat/completions", "a" },
    { "GET", "/v1/models", "ao" },    { "HEAD", "/v1/models", "ao" },
    { "GET", "/v1/{rest...}", "ao" }, { "DELETE", "/v1/responses/{id}", "a" },
    { "POST", "/v1/access-request", "a" },
    { "GET", "/v1/access-requests", "ao" },
    { "GET", "/v1/github/status", "-" }, { "GET", "/v1/github-token", "-" },
    { "GET", "/v1", "-" },            { "GET", "/v1/", "-" },
    { "POST", "/anthropic/v1/messages", "a" },
    { "POST", "/openai/deployments/{d}/images/generations", "a" },
    { "GET", "/agents", "ao" },       { "DELETE", "/agents/{id}", "a" },
    { "DELETE", "/agents", "-" },     { "PATCH", "/indexes/{id}", "a" },
    { "POST", "/openai/files", "a" }, { "DELETE", "/openai/files/{id}", "a" },
    { "PUT", "/schedules/{id}", "a" }, { "POST", "/schedules", "-" },
    { "POST", "/mcp", "a" },          { "POST", "/platform/mcp", "a" },
    { "POST", "/egress/fetch", "a" }, { "GET", "/egress/allowlist", "ao" },
    { "POST", "/egress/allowlist", "-" },
    { "GET", "/blocklist/status", "ao" }, { "POST", "/blocklist/check", "a" },
    { "POST", "/agt/evaluate", "a" }, { "GET", "/agt/trust", "ao" },
    { "POST", "/agt/trust", "ao" },   { "GET", "/agt/trust/{agent_id}", "ao" },
    { "DELETE", "/agt/trust/{agent_id}", "o" },
    { "PUT", "/agt/trust/{agent_id}", "-" },
    { "POST", "/agt/signing-counter", "a" }, { "GET", "/agt/status", "ao" },
    { "GET", "/agt/reputation", "ao" }, { "GET", "/agt/mesh/inbox", "ao" },
    { "GET", "/agt/relay", "ao" },    { "GET", "/agt/relay/ws", "ao" },
    { "PUT", "/agt/registry/{path...}", "a" },
    { "POST", "/sandbox/spawn", "a" }, { "GET", "/sandbox/list", "ao" },
    { "GET", "/sandbox/{name}/status", "ao" },
    { "DELETE", "/sandbox/{name}", "a" }, { "POST", "/sandbox/{name}", "-" },
    { "GET", "/admin/model", "o" },   { "PUT", "/admin/model", "o" },
    { "POST", "/admin/{rest...}", "o" },
    { "POST", "/egress/learn", "o" }, { "GET", "/egress/learned", "o" },
    { "POST", "/egress/learned/clear", "o" },
    { "GET", "/egress/learned/blocked", "o" },
    { "GET", "/agt/rate-limit", "o" }, { "PUT", "/agt/rate-limit", "o" },
    { "DELETE", "/agt/rate-limit", "-" },
    { "GET", "/agt/audit", "o" },     { "GET", "/agt/audit/verify", "o" },
    { "GET", "/internal/policy-status", "oc" },
    { "GET", "/internal/egress/blocked/top", "oc" },
    { "POST", "/internal/policy-status", "c" },
    { "POST", "/internal/access-requests/decision", "oc" },
    { "POST", "/internal/access-requests/reset", "oc" },
    { "GET", "/internal/observations/scope", "-" },
    { "POST", "/agt/handoff/init", "oc" }, { "GET", "/agt/handoff/status", "oc" },
    { "POST", "/a2a", "p" },          { "GET", "/a2a", "-" },
    { "GET", "/.well-known/agent.json", "aop" },
    { "POST", "/.well-known/agent.json", "-" },
    { "GET", "/telemetry/trace", "-" }, { "GET", "/git/{o}/{r}", "-" },
    { "GET", "/egress/pending", "-" }, { "GET", "/x", "-" },
    { "GET", "/", "-" },              { "GET", "", "-" },
    { "OPTIONS", "/agt/status", "-" }, { "TRACE", "/v1/models", "a" },
    /* a route's variable could be any word of the table's */
    { "GET", "/agt/{what}", "-" },    { "GET", "/{rest...}", "-" },
    { "GET", "/{a}", "-" },           { "POST", "/agt/{rest...}", "-" },
    { "DELETE", "/sandbox/{rest...}", "-" },
    { "GET", "/agt/statusx", "-" },   { "GET", "/agt/status/", "-" },
    { "GET", "//agt/status", "-" },
};
/* clang-format on */

static uint32_t
bits(const char *who)
{
    uint32_t b = 0;

    for (; *who != '\0'; who++) {
        b |= *who == 'a'   ? ACCESS_AGENT
             : *who == 'o' ? ACCESS_OPERATOR
             : *who == 'c' ? ACCESS_CONTROLLER
             : *who == 'p' ? ACCESS_PEER
             : *who == '*' ? ACCESS_OPEN
                           : 0u;
    }

    return b;
}

static void
test_identity_table_is_the_decision(void)
{
    char label[96];

    for (size_t i = 0; i < KARS_NELTS(calls); i++) {
        uint32_t method = access_method(t_str(calls[i].method));

        (void) snprintf(label, sizeof(label), "%s %s", calls[i].method,
                        calls[i].route);
        T_CASE(label);
        CU_ASSERT_EQUAL(access_lookup(method, t_str(calls[i].route)),
                        bits(calls[i].who));
    }
}

/* Every row against every class and method: as the row says, or, where a row
 * above answers first, as that one. */
static void
test_identity_table_answers_for_every_row_class_and_method(void)
{
    for (const access_row_t *row = access_table; row->path != NULL; row++) {
        kars_str_t route = t_str(row->path);
        size_t star = route.len - 1;
        char path[128];

        (void) snprintf(path, sizeof(path), "%s", row->path);
        if (path[star] == '*') {
            path[star] = 'x';
        }
        T_CASE(path);
        for (uint32_t m = 1; m <= ACCESS_OTHER; m <<= 1) {
            const access_row_t *first = access_table;

            while (first->path != NULL &&
                   (!(first->methods & m) ||
                    !access_path_fits(first->path, t_str(path)))) {
                first++;
            }

            uint32_t want = first->path == NULL ? 0 : first->classes;
            int reads = m == ACCESS_GET && (want & ACCESS_AGENT);

            if (row->methods & m) {
                CU_ASSERT_PTR_NOT_NULL(first->path);
            }
            for (uint32_t c = 1; c <= ACCESS_OPEN; c <<= 1) {
                int may = (want & (c | ACCESS_OPEN)) != 0 ||
                          (reads && c == ACCESS_OPERATOR);

                CU_ASSERT_EQUAL(access_allows(access_lookup(m, t_str(path)), c),
                                may);
            }
        }
    }
}

static void
test_identity_keeps_the_agent_from_operator_routes(void)
{
    static const char *const routes[] = {
        "/admin/model",      "/egress/learn",
        "/egress/learned",   "/internal/policy-status",
        "/agt/rate-limit",   "/agt/audit",
        "/agt/audit/verify", "/agt/handoff/init",
    };

    for (size_t i = 0; i < KARS_NELTS(routes); i++) {
        T_CASE(routes[i]);
        for (uint32_t m = 1; m <= ACCESS_OTHER; m <<= 1) {
            CU_ASSERT_FALSE(access_allows(access_lookup(m, t_str(routes[i])),
                                          ACCESS_AGENT));
            CU_ASSERT_FALSE(
                access_allows(access_lookup(m, t_str(routes[i])), ACCESS_OPEN));
        }
    }
}

static void
test_identity_reads_method_lists(void)
{
    CU_ASSERT_EQUAL(access_methods(t_str("*")), ACCESS_ANY);
    CU_ASSERT_EQUAL(access_methods(t_str("GET")), ACCESS_GET);
    CU_ASSERT_EQUAL(access_methods(t_str("GET,PUT")), ACCESS_GET | ACCESS_PUT);
    CU_ASSERT_EQUAL(access_methods(t_str("HEAD,PATCH,DELETE")),
                    ACCESS_GET | ACCESS_PATCH | ACCESS_DELETE);
    CU_ASSERT_EQUAL(access_methods(t_str("BREW")), ACCESS_OTHER);
    CU_ASSERT_EQUAL(access_methods(t_str("")), 0);
    CU_ASSERT_EQUAL(access_methods(t_str(",,POST,")), ACCESS_POST);
}

static void
test_identity_names_classes(void)
{
    char buf[64];
    char small[10];
    kars_str_t s = access_class_names(ACCESS_OPERATOR | ACCESS_CONTROLLER, buf,
                                      sizeof(buf));

    CU_ASSERT_TRUE(kars_str_eq(s, t_str("operator or controller")));
    s = access_class_names(ACCESS_OPERATOR | ACCESS_CONTROLLER, small,
                           sizeof(small));
    CU_ASSERT_TRUE(kars_str_eq(s, t_str("operator")));
    CU_ASSERT_TRUE(
        kars_str_eq(access_class_names(0, buf, sizeof(buf)), t_str("nobody")));
    CU_ASSERT_EQUAL(access_class(t_str("peer")), ACCESS_PEER);
    CU_ASSERT_EQUAL(access_class(t_str("root")), 0);
    CU_ASSERT_EQUAL(access_class(t_str("")), 0);
    CU_ASSERT_TRUE(
        kars_str_eq(access_class_name(ACCESS_AGENT), t_str("agent")));
}

void
suite_identity_access(void)
{
    T_SUITE(identity_access);
    T_TEST(identity_access, test_identity_table_is_the_decision);
    T_TEST(identity_access,
           test_identity_table_answers_for_every_row_class_and_method);
    T_TEST(identity_access, test_identity_keeps_the_agent_from_operator_routes);
    T_TEST(identity_access, test_identity_reads_method_lists);
    T_TEST(identity_access, test_identity_names_classes);
}
