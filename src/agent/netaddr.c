/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/netaddr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "base/numparse.h"

#define CIDR_TEXT_MAX 64

size_t net_addr_len(const struct net_addr *a)
{
    return a->family == AF_INET6 ? 16 : 4;
}

int net_addr_parse(const char *s, struct net_addr *ret)
{
    struct net_addr a = {.family = strchr(s, ':') ? AF_INET6 : AF_INET};

    if (inet_pton(a.family, s, a.bytes) != 1)
        return -EINVAL;
    a.prefix = (uint8_t)(net_addr_len(&a) * 8);
    *ret = a;
    return 0;
}

int net_addr_parse_cidr(const char *s, struct net_addr *ret)
{
    const char *slash = strchr(s, '/');
    char host[CIDR_TEXT_MAX];
    struct net_addr a;
    uint32_t bits;
    size_t len;

    if (!slash)
        return -EINVAL;
    len = (size_t)(slash - s);
    if (len >= sizeof(host))
        return -EINVAL;
    memcpy(host, s, len);
    host[len] = '\0';
    if (net_addr_parse(host, &a) < 0 || parse_u32(slash + 1, a.prefix, &bits) < 0)
        return -EINVAL;
    a.prefix = (uint8_t)bits;
    *ret = a;
    return 0;
}

void net_addr_mask(struct net_addr *a)
{
    for (size_t i = 0; i < net_addr_len(a); i++) {
        size_t from = i * 8;
        unsigned keep = a->prefix <= from       ? 0
                        : a->prefix - from >= 8 ? 8
                                                : a->prefix - (unsigned)from;
        a->bytes[i] = (uint8_t)(a->bytes[i] & (0xff00U >> keep));
    }
}

bool net_addr_in(const struct net_addr *a, const struct net_addr *net)
{
    struct net_addr x = *a, n = *net;

    if (a->family != net->family)
        return false;
    x.prefix = n.prefix;
    net_addr_mask(&x);
    net_addr_mask(&n);
    return memcmp(x.bytes, n.bytes, net_addr_len(&n)) == 0;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -EINVAL;
}

int net_mac_parse(const char *s, uint8_t ret[6])
{
    uint8_t mac[6];

    if (strlen(s) != 17)
        return -EINVAL;
    for (size_t i = 0; i < 6; i++) {
        int hi = hex_value(s[3 * i]), lo = hex_value(s[3 * i + 1]);
        if (hi < 0 || lo < 0 || (i < 5 && s[3 * i + 2] != ':'))
            return -EINVAL;
        mac[i] = (uint8_t)(hi << 4 | lo);
    }
    memcpy(ret, mac, sizeof(mac));
    return 0;
}
