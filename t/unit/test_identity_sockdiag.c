/*
 * test_identity_sockdiag.c - modules/identity/sockdiag.c; the kernel's part is
 * played over a socket pair.
 */
#include "t.h"

#include "identity/sockdiag.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct {
    struct nlmsghdr head;
    struct inet_diag_msg m;
} answer_t;

typedef struct {
    struct nlmsghdr head;
    struct nlmsgerr e;
} refusal_t;

static const uint8_t lo4[4] = { 127, 0, 0, 1 };
static const uint8_t lo6[16] = { [15] = 1 };
static const uint8_t lo46[16] = { [10] = 0xff, [11] = 0xff, 127, 0, 0, 1 };

static kars_peer_t
peer(uint32_t family, const uint8_t *addr, size_t len)
{
    kars_peer_t p = { .size = sizeof(p), .family = family };

    p.port = 40000;
    p.local_port = 8443;
    memcpy(p.addr, addr, len);
    memcpy(p.local_addr, addr, len);
    return p;
}

static sockdiag_pair_t
pair4(void)
{
    kars_peer_t p = peer(AF_INET, lo4, 4);
    sockdiag_pair_t pair;

    CU_ASSERT_EQUAL(sockdiag_pair(&p, &pair), KARS_OK);
    return pair;
}

static answer_t
answer(uint32_t seq, uint32_t uid)
{
    answer_t a;

    memset(&a, 0, sizeof(a));
    a.head.nlmsg_len = sizeof(a);
    a.head.nlmsg_type = SOCK_DIAG_BY_FAMILY;
    a.head.nlmsg_seq = seq;
    a.m.idiag_family = AF_INET;
    a.m.idiag_state = TCP_ESTABLISHED;
    a.m.id.idiag_sport = htons(40000);
    a.m.id.idiag_dport = htons(8443);
    memcpy(a.m.id.idiag_src, lo4, 4);
    memcpy(a.m.id.idiag_dst, lo4, 4);
    a.m.idiag_uid = uid;
    a.m.idiag_inode = 4711;
    return a;
}

static int
decode(const answer_t *a, uint32_t *ret_uid)
{
    sockdiag_pair_t pair = pair4();
    int result = -1;

    CU_ASSERT_EQUAL(sockdiag_decode(a, sizeof(*a), 5, &pair, &result, ret_uid),
                    KARS_OK);
    return result;
}

static void
test_identity_asks_for_the_clients_own_socket(void)
{
    sockdiag_pair_t pair = pair4();
    char buf[SOCKDIAG_REQUEST_MAX];
    size_t len = sockdiag_encode(buf, 5, &pair);
    struct nlmsghdr head;
    struct inet_diag_req_v2 req;

    CU_ASSERT_EQUAL_FATAL(len, sizeof(head) + sizeof(req));
    memcpy(&head, buf, sizeof(head));
    memcpy(&req, buf + sizeof(head), sizeof(req));
    CU_ASSERT_EQUAL(head.nlmsg_len, len);
    CU_ASSERT_EQUAL(head.nlmsg_seq, 5);
    CU_ASSERT_EQUAL(head.nlmsg_flags, NLM_F_REQUEST);
    CU_ASSERT_EQUAL(req.sdiag_family, AF_INET);
    CU_ASSERT_EQUAL(req.sdiag_protocol, IPPROTO_TCP);
    CU_ASSERT_EQUAL(ntohs(req.id.idiag_sport), 40000);
    CU_ASSERT_EQUAL(ntohs(req.id.idiag_dport), 8443);
    CU_ASSERT_EQUAL(memcmp(req.id.idiag_src, lo4, 4), 0);
    CU_ASSERT_EQUAL(req.id.idiag_cookie[0], INET_DIAG_NOCOOKIE);
}

static void
test_identity_treats_mapped_addresses_as_ipv4(void)
{
    kars_peer_t p = peer(AF_INET6, lo46, 16);
    sockdiag_pair_t pair;

    CU_ASSERT_EQUAL(sockdiag_pair(&p, &pair), KARS_OK);
    CU_ASSERT_EQUAL(pair.family, AF_INET);
    CU_ASSERT_EQUAL(memcmp(pair.src, lo4, 4), 0);

    p = peer(AF_INET6, lo6, 16);
    CU_ASSERT_EQUAL(sockdiag_pair(&p, &pair), KARS_OK);
    CU_ASSERT_EQUAL(pair.family, AF_INET6);
    CU_ASSERT_EQUAL(memcmp(pair.dst, lo6, 16), 0);

    p = peer(AF_UNIX, lo4, 4);
    CU_ASSERT_EQUAL(sockdiag_pair(&p, &pair), KARS_ERROR);
}

static void
test_identity_believes_a_held_connection(void)
{
    static const uint8_t held[] = { TCP_ESTABLISHED, TCP_FIN_WAIT1,
                                    TCP_FIN_WAIT2, TCP_CLOSE_WAIT };

    for (size_t i = 0; i < KARS_NELTS(held); i++) {
        answer_t a = answer(5, 1000);
        uint32_t uid = 7;

        a.m.idiag_state = held[i];
        CU_ASSERT_EQUAL(decode(&a, &uid), SOCKDIAG_FOUND);
        CU_ASSERT_EQUAL(uid, 1000);
    }

    answer_t a = answer(5, 1000); /* the client's socket is one of IPv6 */
    uint32_t uid = 7;

    a.m.idiag_family = AF_INET6;
    memcpy(a.m.id.idiag_src, lo46, 16);
    memcpy(a.m.id.idiag_dst, lo46, 16);
    CU_ASSERT_EQUAL(decode(&a, &uid), SOCKDIAG_FOUND);
}

/* A closed socket belongs to user 0 as far as the kernel tells. */
static void
test_identity_never_makes_root_of_a_closed_socket(void)
{
    answer_t a = answer(5, 0);
    uint32_t uid = 7;

    a.m.idiag_inode = 0;
    CU_ASSERT_EQUAL(decode(&a, &uid), SOCKDIAG_UNKNOWN);
    a = answer(5, 0);
    a.m.idiag_state = TCP_TIME_WAIT;
    CU_ASSERT_EQUAL(decode(&a, &uid), SOCKDIAG_UNKNOWN);
    a.m.idiag_state = TCP_SYN_RECV;
    CU_ASSERT_EQUAL(decode(&a, &uid), SOCKDIAG_UNKNOWN);
    CU_ASSERT_EQUAL(uid, 7);
}

/* Where no connection fits, the kernel answers with a listener. */
static void
test_identity_never_takes_a_listener_for_the_caller(void)
{
    answer_t a = answer(5, 0);
    uint32_t uid = 7;

    a.m.idiag_state = TCP_LISTEN;
    CU_ASSERT_EQUAL(decode(&a, &uid), SOCKDIAG_UNKNOWN);
    a.m.id.idiag_dport = 0;
    memset(a.m.id.idiag_src, 0, 16);
    CU_ASSERT_EQUAL(decode(&a, &uid), SOCKDIAG_ABSENT);
    a = answer(5, 1000);
    a.m.id.idiag_sport = htons(40001);
    CU_ASSERT_EQUAL(decode(&a, &uid), SOCKDIAG_ABSENT);
    CU_ASSERT_EQUAL(uid, 7);
}

static void
test_identity_reads_what_the_kernel_refuses(void)
{
    sockdiag_pair_t pair = pair4();
    refusal_t r;
    uint32_t uid = 7;
    int result = -1;

    memset(&r, 0, sizeof(r));
    r.head.nlmsg_len = sizeof(r);
    r.head.nlmsg_type = NLMSG_ERROR;
    r.head.nlmsg_seq = 5;
    r.e.error = -ENOENT;
    CU_ASSERT_EQUAL(sockdiag_decode(&r, sizeof(r), 5, &pair, &result, &uid),
                    KARS_OK);
    CU_ASSERT_EQUAL(result, SOCKDIAG_ABSENT);
    r.e.error = -EPERM;
    CU_ASSERT_EQUAL(sockdiag_decode(&r, sizeof(r), 5, &pair, &result, &uid),
                    KARS_OK);
    CU_ASSERT_EQUAL(result, SOCKDIAG_UNKNOWN);
}

static void
test_identity_survives_answers_cut_anywhere(void)
{
    sockdiag_pair_t pair = pair4();

    for (size_t len = 0; len < sizeof(answer_t); len++) {
        answer_t a = answer(5, 1000);
        uint32_t uid = 7;
        int result = SOCKDIAG_UNKNOWN;

        CU_ASSERT_EQUAL(sockdiag_decode(&a, len, 5, &pair, &result, &uid),
                        KARS_DECLINED);
        a.head.nlmsg_len = (uint32_t) len;
        if (sockdiag_decode(&a, len, 5, &pair, &result, &uid) == KARS_OK) {
            CU_ASSERT_EQUAL(result, SOCKDIAG_UNKNOWN);
        }
        CU_ASSERT_EQUAL(uid, 7);
    }
}

static void
test_identity_skips_late_answers_and_never_waits(void)
{
    sockdiag_pair_t pair = pair4();
    answer_t late = answer(1, 0);
    answer_t right = answer(6, 1000);
    uint32_t seq = 5;
    uint32_t uid = 7;
    int fds[2];

    CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
    CU_ASSERT_EQUAL(sockdiag_ask(fds[0], &seq, &pair, &uid), SOCKDIAG_UNKNOWN);
    seq = 5;
    CU_ASSERT_TRUE(send(fds[1], &late, sizeof(late), 0) > 0);
    CU_ASSERT_TRUE(send(fds[1], &right, sizeof(right), 0) > 0);
    CU_ASSERT_EQUAL(sockdiag_ask(fds[0], &seq, &pair, &uid), SOCKDIAG_FOUND);
    CU_ASSERT_EQUAL(uid, 1000);
    CU_ASSERT_EQUAL(seq, 6);
    CU_ASSERT_EQUAL(sockdiag_ask(-1, &seq, &pair, &uid), SOCKDIAG_UNKNOWN);
    (void) close(fds[0]);
    (void) close(fds[1]);
}

static void
test_identity_knows_its_hosts_addresses(void)
{
    sockdiag_pair_t pair = pair4();

    CU_ASSERT_TRUE(sockdiag_is_local(&pair));
    memcpy(pair.src, ((const uint8_t[]){ 192, 0, 2, 77 }), 4);
    CU_ASSERT_FALSE(sockdiag_is_local(&pair));
}

void
suite_identity_sockdiag(void)
{
    T_SUITE(identity_sockdiag);
    T_TEST(identity_sockdiag, test_identity_asks_for_the_clients_own_socket);
    T_TEST(identity_sockdiag, test_identity_treats_mapped_addresses_as_ipv4);
    T_TEST(identity_sockdiag, test_identity_believes_a_held_connection);
    T_TEST(identity_sockdiag,
           test_identity_never_makes_root_of_a_closed_socket);
    T_TEST(identity_sockdiag,
           test_identity_never_takes_a_listener_for_the_caller);
    T_TEST(identity_sockdiag, test_identity_reads_what_the_kernel_refuses);
    T_TEST(identity_sockdiag, test_identity_survives_answers_cut_anywhere);
    T_TEST(identity_sockdiag, test_identity_skips_late_answers_and_never_waits);
    T_TEST(identity_sockdiag, test_identity_knows_its_hosts_addresses);
}
