#include "loop.h"

static void
test_http1_answers(void)
{
    t_loop_t *t = t_loop("route GET / { respond 200 hello; }");
    t_request(t, "GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    printf("%s\n", t_raw(t));
    printf("%s\n", t_log(t));
    CU_ASSERT_EQUAL(t_status(t), 403);
    t_loop_destroy(t);
}
void
suite_http1(void)
{
    T_SUITE(http1);
    T_TEST(http1, test_http1_answers);
}
