// test_agent_list.cc - the module in a router without a socket, and thrown out
// of memory.
#include <kars_test.h>

#include <cstring>

namespace
{

const char routes[] = "route GET /some { agent_list OpenAI curl; respond 200; }"
                      "route GET /any { respond 200; }";

const kars_module_t *const modules[] = { &kars_test_open, &kars_module,
                                         nullptr };

int
status_of(kars_test_t *t, const char *path, const char *agent)
{
    kars_test_client(t);
    kars_test_ask(t, "GET", path, agent, nullptr);
    return kars_test_status(t);
}

void
test_who_may_call()
{
    kars_test_t *t = kars_test_create(routes, modules);

    KARS_TEST(status_of(t, "/some", "user-agent: openai/python 1.2\r\n") ==
              200);
    KARS_TEST(status_of(t, "/some", "user-agent: Curl\r\n") == 200);
    KARS_TEST(status_of(t, "/some", "user-agent: curlish/1\r\n") == 403);
    KARS_TEST_STR(kars_test_fact(t, "deny_code"), "agent_not_listed");
    KARS_TEST(std::strstr(kars_test_fact(t, "deny_rule"), "agent_list") !=
              nullptr);
    KARS_TEST(status_of(t, "/some", nullptr) == 403);
    KARS_TEST(status_of(t, "/any", nullptr) == 200);
    kars_test_destroy(t);
}

void
test_a_refused_allocation_lets_nobody_in()
{
    int refused = 1;

    for (uint64_t n = 1; refused; n++) {
        kars_test_t *t = kars_test_create(routes, modules);

        kars_test_client(t);
        kars_test_refuse_alloc(n);
        kars_test_ask(t, "GET", "/some", nullptr, nullptr);
        refused = kars_test_refused();
        kars_test_refuse_alloc(0);
        KARS_TEST(kars_test_status(t) != 200);
        kars_test_destroy(t);
    }
}

} // namespace

int
main()
{
    test_who_may_call();
    test_a_refused_allocation_lets_nobody_in();
    return kars_test_failures() != 0;
}
