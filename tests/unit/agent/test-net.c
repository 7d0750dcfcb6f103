/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses, rtnetlink messages and uevents: the agent's parsers and builders around the network and
 * devices. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/netaddr.h"
#include "agent/rtnl.h"
#include "agent/uevent.h"
#include "base/cleanup.h"
#include "lib/test.h"

static const struct {
    const char *text;
    int r;
    uint8_t family, prefix;
} cidrs[] = {
    {"10.1.2.3/24", 0, AF_INET, 24},
    {"0.0.0.0/0", 0, AF_INET, 0},
    {"10.1.2.3/32", 0, AF_INET, 32},
    {"10.1.2.3/33", -EINVAL, 0, 0},
    {"10.1.2.3", -EINVAL, 0, 0},
    {"10.1.2/24", -EINVAL, 0, 0},
    {"10.1.2.3/", -EINVAL, 0, 0},
    {"10.1.2.3/+1", -EINVAL, 0, 0},
    {"/24", -EINVAL, 0, 0},
    {"", -EINVAL, 0, 0},
    {"fd00::1/64", 0, AF_INET6, 64},
    {"::/0", 0, AF_INET6, 0},
    {"fd00::1/128", 0, AF_INET6, 128},
    {"fd00::1/129", -EINVAL, 0, 0},
    {"fd00::g/64", -EINVAL, 0, 0},
    {"0000000000000000000000000000000000000000000000000000000000000000000000001/8", -EINVAL, 0, 0},
};

static void parses_cidrs(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(cidrs); i++) {
        struct net_addr a = {0};

        print_message("# %s\n", cidrs[i].text);
        assert_int_equal(net_addr_parse_cidr(cidrs[i].text, &a), cidrs[i].r);
        assert_int_equal(a.family, cidrs[i].family);
        assert_int_equal(a.prefix, cidrs[i].prefix);
    }
}

static void masks_host_bits(void **state)
{
    struct net_addr a, b;

    assert_int_equal(net_addr_parse_cidr("10.255.255.255/9", &a), 0);
    net_addr_mask(&a);
    assert_memory_equal(a.bytes, ((uint8_t[]){10, 128, 0, 0}), 4);
    assert_int_equal(net_addr_parse_cidr("10.255.255.255/0", &a), 0);
    net_addr_mask(&a);
    assert_memory_equal(a.bytes, ((uint8_t[]){0, 0, 0, 0}), 4);
    assert_int_equal(net_addr_parse_cidr("10.200.0.0/16", &a), 0);
    assert_int_equal(net_addr_parse("10.200.255.1", &b), 0);
    assert_true(net_addr_in(&b, &a));
    assert_int_equal(net_addr_parse("10.201.0.1", &b), 0);
    assert_false(net_addr_in(&b, &a));
    assert_int_equal(net_addr_parse("::", &b), 0);
    assert_false(net_addr_in(&b, &a));
}

static void parses_macs(void **state)
{
    uint8_t mac[6];

    assert_int_equal(net_mac_parse("02:fC:00:Aa:09:7f", mac), 0);
    assert_memory_equal(mac, ((uint8_t[]){0x02, 0xfc, 0, 0xaa, 0x09, 0x7f}), 6);
    assert_int_equal(net_mac_parse("02:fc:00:aa:09", mac), -EINVAL);
    assert_int_equal(net_mac_parse("02:fc:00:aa:09:7g", mac), -EINVAL);
    assert_int_equal(net_mac_parse("02-fc-00-aa-09-7f", mac), -EINVAL);
    assert_int_equal(net_mac_parse("02:fc:00:aa:09:7f:", mac), -EINVAL);
}

static void builds_an_address_message(void **state)
{
    static const uint8_t expected[] = {
        0x28,    0,  0, 0, 20, 0, 0x05, 0x05,
        9,       0,  0, 0, 0,  0, 0,    0, /* header: NEWADDR, create|replace|ack|request */
        AF_INET, 24, 0, 0, 3,  0, 0,    0, /* ifaddrmsg */
        8,       0,  2, 0, 10, 1, 2,    3, /* IFA_LOCAL */
        8,       0,  1, 0, 10, 1, 2,    3, /* IFA_ADDRESS */
    };
    struct rtnl_message m;
    struct net_addr a;

    assert_int_equal(net_addr_parse_cidr("10.1.2.3/24", &a), 0);
    rtnl_build_addr_add(&m, 9, 3, &a);
    assert_int_equal(m.used, sizeof(expected));
    assert_memory_equal(m.data, expected, sizeof(expected));
}

static void builds_a_default_route_through_a_gateway_on_the_link(void **state)
{
    struct rtnl_message m;
    struct net_addr dst, gw;

    assert_int_equal(net_addr_parse_cidr("0.0.0.0/0", &dst), 0);
    assert_int_equal(net_addr_parse("169.254.1.1", &gw), 0);
    rtnl_build_route_add(&m, 1, 2, &dst, &gw, true, 0);
    /* header, rtmsg, gateway, oif; no destination, no metric */
    assert_int_equal(m.used, 16 + 12 + 8 + 8);
    assert_int_equal(m.data[16 + 1], 0);     /* dst_len */
    assert_int_equal(m.data[16 + 6], 0);     /* scope universe */
    assert_int_equal(m.data[16 + 8] & 4, 4); /* RTNH_F_ONLINK */
    rtnl_build_route_add(&m, 1, 2, &dst, NULL, true, 100);
    assert_int_equal(m.data[16 + 6], 253); /* scope link */
    assert_int_equal(m.data[16 + 8], 0);
}

/* One RTM_NEWLINK as the kernel sends it, shortened to the attributes that matter. */
static const uint8_t link_reply[] = {
    0x38, 0, 0, 0, 16,  0,   2,   0,   5,    0,    0, 0,
    0,    0, 0, 0, /* length 56, NEWLINK, multi, seq 5 */
    0,    0, 1, 0, 2,   0,   0,   0,   0x43, 0x10, 0, 0,
    0,    0, 0, 0,                                       /* ARPHRD_ETHER, index 2, flags */
    9,    0, 3, 0, 'e', 't', 'h', '0', 0,    0,    0, 0, /* IFLA_IFNAME, padded */
    10,   0, 1, 0, 2,   0,   0,   0,   0,    7,    0, 0, /* IFLA_ADDRESS, padded */
};

static void takes_links_apart(void **state)
{
    const uint8_t *p = link_reply;
    size_t len = sizeof(link_reply);
    enum rtnl_reply_kind kind;
    struct rtnl_link l;
    int code;

    assert_int_equal(rtnl_next(&p, &len, 5, &kind, &l, &code), 0);
    assert_int_equal(kind, RTNL_REPLY_LINK);
    assert_int_equal(l.index, 2);
    assert_int_equal(l.type, 1);
    assert_string_equal(l.name, "eth0");
    assert_true(l.has_mac);
    assert_int_equal(l.mac[5], 7);
    assert_int_equal(len, 0);
    p = link_reply;
    len = sizeof(link_reply);
    assert_int_equal(rtnl_next(&p, &len, 6, &kind, &l, &code), 0);
    assert_int_equal(kind, RTNL_REPLY_OTHER); /* another request's */
}

static void survives_every_truncation(void **state)
{
    for (size_t n = 0; n < sizeof(link_reply); n++) {
        uint8_t *copy = malloc(n ? n : 1);
        const uint8_t *p = copy;
        size_t len = n;
        enum rtnl_reply_kind kind;
        struct rtnl_link l;
        int code;

        assert_non_null(copy);
        memcpy(copy, link_reply, n);
        assert_int_equal(rtnl_next(&p, &len, 5, &kind, &l, &code), -EBADMSG);
        if (n >= 16) { /* the same, with a header that admits it */
            copy[0] = (uint8_t)n;
            p = copy;
            len = n;
            assert_int_equal(rtnl_next(&p, &len, 5, &kind, &l, &code), 0);
        }
        free(copy);
    }
}

static void reads_acknowledgements(void **state)
{
    uint8_t ack[36] = {36, 0, 0, 0, 2, 0, 0, 0, 5};
    const uint8_t *p = ack;
    size_t len = sizeof(ack);
    enum rtnl_reply_kind kind;
    struct rtnl_link l;
    int code = 1;

    assert_int_equal(rtnl_next(&p, &len, 5, &kind, &l, &code), 0);
    assert_int_equal(kind, RTNL_REPLY_DONE);
    assert_int_equal(code, 0);
    memcpy(ack + 16, &(int32_t){-EEXIST}, 4);
    p = ack;
    len = sizeof(ack);
    assert_int_equal(rtnl_next(&p, &len, 5, &kind, &l, &code), 0);
    assert_int_equal(code, -EEXIST);
}

static void parses_uevents(void **state)
{
    static const char add[] =
        "add@/devices/x/block/pmem0\0ACTION=add\0DEVPATH=/devices/x/block/pmem0\0"
        "SUBSYSTEM=block\0SEQNUM=12";
    static const char udev[] = "libudev\0\xfe\xed";
    struct uevent u;

    assert_true(uevent_parse(add, sizeof(add), &u));
    assert_string_equal(u.action, "add");
    assert_string_equal(u.subsystem, "block");
    assert_string_equal(u.devpath, "/devices/x/block/pmem0");
    assert_false(uevent_parse(udev, sizeof(udev), &u));
    assert_false(uevent_parse("", 0, &u));
    assert_false(uevent_parse("add@/x", 6, &u)); /* not terminated */
    assert_false(uevent_parse("add@/x", 7, &u)); /* no action */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parses_cidrs),
        cmocka_unit_test(masks_host_bits),
        cmocka_unit_test(parses_macs),
        cmocka_unit_test(builds_an_address_message),
        cmocka_unit_test(builds_a_default_route_through_a_gateway_on_the_link),
        cmocka_unit_test(takes_links_apart),
        cmocka_unit_test(survives_every_truncation),
        cmocka_unit_test(reads_acknowledgements),
        cmocka_unit_test(parses_uevents),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
