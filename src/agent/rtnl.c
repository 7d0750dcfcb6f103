/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/rtnl.h"

#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define ALIGN4(n) (((n) + 3U) & ~(size_t)3U)

static void *put(struct rtnl_message *m, const void *bytes, size_t len)
{
    size_t at = ALIGN4(m->used);

    if (at > sizeof(m->data) || len > sizeof(m->data) - at)
        abort();
    if (bytes && len)
        memcpy(m->data + at, bytes, len);
    m->used = at + len;
    return m->data + at;
}

static void begin(struct rtnl_message *m, uint16_t type, uint16_t flags, uint32_t seq)
{
    struct nlmsghdr h = {.nlmsg_type = type, .nlmsg_flags = flags, .nlmsg_seq = seq};

    memset(m, 0, sizeof(*m));
    put(m, &h, sizeof(h));
}

static void attr(struct rtnl_message *m, unsigned short type, const void *bytes, size_t len)
{
    struct rtattr a = {.rta_type = type, .rta_len = (unsigned short)(sizeof(a) + len)};

    put(m, &a, sizeof(a));
    put(m, bytes, len);
}

static void attr_u32(struct rtnl_message *m, unsigned short type, uint32_t v)
{
    attr(m, type, &v, sizeof(v));
}

static void finish(struct rtnl_message *m)
{
    uint32_t len;

    m->used = ALIGN4(m->used);
    len = (uint32_t)m->used;
    memcpy(m->data + offsetof(struct nlmsghdr, nlmsg_len), &len, sizeof(len));
}

void rtnl_build_link_dump(struct rtnl_message *m, uint32_t seq)
{
    struct ifinfomsg i = {.ifi_family = AF_UNSPEC};

    begin(m, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, seq);
    put(m, &i, sizeof(i));
    finish(m);
}

void rtnl_build_link_set(struct rtnl_message *m, uint32_t seq, const struct rtnl_link_change *c)
{
    struct ifinfomsg i = {.ifi_family = AF_UNSPEC, .ifi_index = c->index};

    if (c->set_up) {
        i.ifi_change = IFF_UP;
        i.ifi_flags = c->up ? IFF_UP : 0U;
    }
    begin(m, RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, seq);
    put(m, &i, sizeof(i));
    if (c->name)
        attr(m, IFLA_IFNAME, c->name, strlen(c->name) + 1);
    if (c->mac)
        attr(m, IFLA_ADDRESS, c->mac, 6);
    if (c->mtu)
        attr_u32(m, IFLA_MTU, c->mtu);
    finish(m);
}

void rtnl_build_addr_add(struct rtnl_message *m, uint32_t seq, int index,
                         const struct net_addr *addr)
{
    struct ifaddrmsg a = {
        .ifa_family = addr->family,
        .ifa_prefixlen = addr->prefix,
        .ifa_scope = RT_SCOPE_UNIVERSE,
        .ifa_index = (uint32_t)index,
    };

    begin(m, RTM_NEWADDR, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, seq);
    put(m, &a, sizeof(a));
    attr(m, IFA_LOCAL, addr->bytes, net_addr_len(addr));
    attr(m, IFA_ADDRESS, addr->bytes, net_addr_len(addr));
    if (addr->family == AF_INET6)
        attr_u32(m, IFA_FLAGS, IFA_F_NODAD | IFA_F_PERMANENT);
    finish(m);
}

void rtnl_build_route_add(struct rtnl_message *m, uint32_t seq, int index,
                          const struct net_addr *dst, const struct net_addr *gateway, bool onlink,
                          uint32_t metric)
{
    struct net_addr d = *dst;
    struct rtmsg r = {
        .rtm_family = d.family,
        .rtm_dst_len = d.prefix,
        .rtm_table = RT_TABLE_MAIN,
        .rtm_protocol = RTPROT_STATIC,
        .rtm_scope = gateway || d.family == AF_INET6 ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK,
        .rtm_type = RTN_UNICAST,
        .rtm_flags = gateway && onlink ? RTNH_F_ONLINK : 0,
    };

    net_addr_mask(&d);
    begin(m, RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, seq);
    put(m, &r, sizeof(r));
    if (d.prefix)
        attr(m, RTA_DST, d.bytes, net_addr_len(&d));
    if (gateway)
        attr(m, RTA_GATEWAY, gateway->bytes, net_addr_len(gateway));
    attr_u32(m, RTA_OIF, (uint32_t)index);
    if (metric)
        attr_u32(m, RTA_PRIORITY, metric);
    finish(m);
}

static void parse_link(const uint8_t *p, size_t len, struct rtnl_link *ret)
{
    struct ifinfomsg i;
    struct rtattr a;

    memcpy(&i, p, sizeof(i));
    memset(ret, 0, sizeof(*ret));
    ret->index = i.ifi_index;
    ret->type = i.ifi_type;
    ret->flags = i.ifi_flags;
    p += ALIGN4(sizeof(i));
    len -= ALIGN4(sizeof(i));
    while (len >= sizeof(a)) {
        const uint8_t *value = p + sizeof(a);
        size_t n;

        memcpy(&a, p, sizeof(a));
        if (a.rta_len < sizeof(a) || a.rta_len > len)
            return;
        n = a.rta_len - sizeof(a);
        if (a.rta_type == IFLA_IFNAME && n > 0 && n <= sizeof(ret->name)) {
            memcpy(ret->name, value, n);
            ret->name[n - 1] = '\0';
        } else if (a.rta_type == IFLA_ADDRESS && n == sizeof(ret->mac)) {
            memcpy(ret->mac, value, n);
            ret->has_mac = true;
        }
        n = ALIGN4((size_t)a.rta_len);
        if (n > len)
            return;
        p += n;
        len -= n;
    }
}

int rtnl_next(const uint8_t **p, size_t *len, uint32_t seq, enum rtnl_reply_kind *ret,
              struct rtnl_link *ret_link, int *ret_errno)
{
    struct nlmsghdr h;
    const uint8_t *body;
    size_t body_len, step;
    int32_t code = 0;

    if (*len < sizeof(h))
        return -EBADMSG;
    memcpy(&h, *p, sizeof(h));
    if (h.nlmsg_len < sizeof(h) || h.nlmsg_len > *len)
        return -EBADMSG;
    body = *p + sizeof(h);
    body_len = h.nlmsg_len - sizeof(h);
    step = ALIGN4((size_t)h.nlmsg_len);
    if (step > *len)
        step = *len;
    *p += step;
    *len -= step;
    *ret = RTNL_REPLY_OTHER;
    if (h.nlmsg_seq != seq)
        return 0;
    if (h.nlmsg_type == NLMSG_ERROR || h.nlmsg_type == NLMSG_DONE) {
        if (body_len >= sizeof(code))
            memcpy(&code, body, sizeof(code));
        else if (h.nlmsg_type == NLMSG_ERROR)
            return -EBADMSG;
        *ret_errno = code <= 0 && code > -4096 ? code : -EBADMSG;
        *ret = RTNL_REPLY_DONE;
    } else if (h.nlmsg_type == RTM_NEWLINK && body_len >= ALIGN4(sizeof(struct ifinfomsg))) {
        parse_link(body, body_len, ret_link);
        *ret = RTNL_REPLY_LINK;
    }
    return 0;
}
