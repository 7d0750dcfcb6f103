/* SPDX-License-Identifier: Apache-2.0 */
/* Requests and dumps; the traffic-control part is in rtnl-tc.c. */
#include "net/rtnl.h"

#include <arpa/inet.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <libmnl/libmnl.h>

#include "base/str.h"
#include "net/rtnl-internal.h"

int rtnl_open(struct rtnl **ret)
{
    _cleanup_(rtnl_freep) struct rtnl *nl = xcalloc(1, sizeof(*nl));

    nl->sock = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    if (!nl->sock || mnl_socket_bind(nl->sock, 0, MNL_SOCKET_AUTOPID) < 0)
        return -errno;
    nl->seq = (uint32_t)time(NULL);
    *ret = TAKE(nl);
    return 0;
}

void rtnl_free(struct rtnl *nl)
{
    if (!nl)
        return;
    if (nl->sock)
        (void)mnl_socket_close(nl->sock);
    free(nl);
}

struct nlmsghdr *rtnl_request(struct rtnl *nl, uint16_t type, uint16_t flags)
{
    struct nlmsghdr *h;

    memset(nl->out, 0, sizeof(nl->out));
    h = mnl_nlmsg_put_header(nl->out);
    h->nlmsg_type = type;
    h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
    h->nlmsg_seq = ++nl->seq;
    return h;
}

int rtnl_talk(struct rtnl *nl, struct nlmsghdr *h, mnl_cb_t fn, void *userdata)
{
    unsigned port = mnl_socket_get_portid(nl->sock);
    int r;

    if (mnl_socket_sendto(nl->sock, h, h->nlmsg_len) < 0)
        return -errno;
    do {
        ssize_t n = mnl_socket_recvfrom(nl->sock, nl->in, sizeof(nl->in));

        if (n < 0 && errno == EINTR) {
            r = MNL_CB_OK;
            continue;
        }
        if (n < 0)
            return -errno;
        r = mnl_cb_run(nl->in, (size_t)n, nl->seq, port, fn, userdata);
    } while (r > MNL_CB_STOP);
    return r < 0 ? -errno : 0;
}

static int ack(struct rtnl *nl, struct nlmsghdr *h)
{
    h->nlmsg_flags |= NLM_F_ACK;
    return rtnl_talk(nl, h, NULL, NULL);
}

/* ---------------------------------------------------------------- links */

static int on_link(const struct nlmsghdr *h, void *userdata)
{
    const struct ifinfomsg *info = mnl_nlmsg_get_payload(h);
    struct rtnl_link *ret = userdata;
    const struct nlattr *a;

    ret->index = info->ifi_index;
    rtnl_attr_foreach (a, h, sizeof(*info)) {
        if (mnl_attr_get_type(a) == IFLA_MTU && mnl_attr_validate(a, MNL_TYPE_U32) == 0)
            ret->mtu = mnl_attr_get_u32(a);
        else if (mnl_attr_get_type(a) == IFLA_ADDRESS && mnl_attr_get_payload_len(a) == 6)
            memcpy(ret->mac, mnl_attr_get_payload(a), 6);
    }
    return MNL_CB_OK;
}

int rtnl_link_get(struct rtnl *nl, const char *name, struct rtnl_link *ret)
{
    struct nlmsghdr *h = rtnl_request(nl, RTM_GETLINK, NLM_F_ACK);
    struct ifinfomsg *info = mnl_nlmsg_put_extra_header(h, sizeof(*info));

    info->ifi_family = AF_UNSPEC;
    mnl_attr_put_strz(h, IFLA_IFNAME, name);
    *ret = (struct rtnl_link){0};
    return rtnl_talk(nl, h, on_link, ret);
}

static struct nlmsghdr *link_request(struct rtnl *nl, int index, unsigned flags, unsigned change)
{
    struct nlmsghdr *h = rtnl_request(nl, RTM_NEWLINK, 0);
    struct ifinfomsg *info = mnl_nlmsg_put_extra_header(h, sizeof(*info));

    info->ifi_family = AF_UNSPEC;
    info->ifi_index = index;
    info->ifi_flags = flags;
    info->ifi_change = change;
    return h;
}

int rtnl_link_set_up(struct rtnl *nl, int index)
{
    return ack(nl, link_request(nl, index, IFF_UP, IFF_UP));
}

int rtnl_link_set_mtu(struct rtnl *nl, int index, uint32_t mtu)
{
    struct nlmsghdr *h = link_request(nl, index, 0, 0);

    mnl_attr_put_u32(h, IFLA_MTU, mtu);
    return ack(nl, h);
}

int rtnl_link_no_autoconf(struct rtnl *nl, int index)
{
    struct nlmsghdr *h = link_request(nl, index, 0, 0);
    struct nlattr *spec = mnl_attr_nest_start(h, IFLA_AF_SPEC);
    struct nlattr *inet6 = mnl_attr_nest_start(h, AF_INET6);

    mnl_attr_put_u8(h, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
    mnl_attr_nest_end(h, inet6);
    mnl_attr_nest_end(h, spec);
    return ack(nl, h);
}

/* ---------------------------------------------------------------- addresses */

struct addr_walk {
    int index;
    int r;
    struct net_config *config; /* listing */
    size_t n;                  /* flushing: addresses found */
    struct {
        uint8_t family, prefix, len;
        uint8_t bytes[16];
    } found[NET_ADDRESSES_MAX];
};

/* IFA_LOCAL is the interface's own address, IFA_ADDRESS the peer's on point-to-point links. */
static const struct nlattr *own_address(const struct nlmsghdr *h)
{
    const struct nlattr *a, *own = NULL;

    rtnl_attr_foreach (a, h, sizeof(struct ifaddrmsg)) {
        if (mnl_attr_get_type(a) == IFA_LOCAL)
            return a;
        if (mnl_attr_get_type(a) == IFA_ADDRESS)
            own = a;
    }
    return own;
}

static bool length_fits(int family, size_t len)
{
    return (family == AF_INET && len == 4) || (family == AF_INET6 && len == 16);
}

static int on_addr_list(const struct nlmsghdr *h, void *userdata)
{
    const struct ifaddrmsg *m = mnl_nlmsg_get_payload(h);
    const struct nlattr *own = own_address(h);
    struct addr_walk *w = userdata;
    char text[INET6_ADDRSTRLEN];

    if ((int)m->ifa_index != w->index || !own || m->ifa_scope >= RT_SCOPE_LINK ||
        !length_fits(m->ifa_family, mnl_attr_get_payload_len(own)))
        return MNL_CB_OK;
    if (w->config->n_addresses == NET_ADDRESSES_MAX) {
        w->r = -E2BIG;
        return MNL_CB_OK;
    }
    if (inet_ntop(m->ifa_family, mnl_attr_get_payload(own), text, sizeof(text)))
        (void)snprintf(w->config->addresses[w->config->n_addresses++], NET_CIDR_SIZE, "%s/%u", text,
                       m->ifa_prefixlen);
    return MNL_CB_OK;
}

static int addr_dump(struct rtnl *nl, mnl_cb_t fn, struct addr_walk *w)
{
    struct nlmsghdr *h = rtnl_request(nl, RTM_GETADDR, NLM_F_DUMP);
    struct ifaddrmsg *m = mnl_nlmsg_put_extra_header(h, sizeof(*m));
    int r;

    m->ifa_family = AF_UNSPEC;
    r = rtnl_talk(nl, h, fn, w);
    return r < 0 ? r : w->r;
}

int rtnl_addr_list(struct rtnl *nl, int index, struct net_config *ret)
{
    struct addr_walk w = {.index = index, .config = ret};

    ret->n_addresses = 0;
    return addr_dump(nl, on_addr_list, &w);
}

static int on_addr_collect(const struct nlmsghdr *h, void *userdata)
{
    const struct ifaddrmsg *m = mnl_nlmsg_get_payload(h);
    const struct nlattr *own = own_address(h);
    struct addr_walk *w = userdata;

    if ((int)m->ifa_index != w->index || !own || m->ifa_scope != RT_SCOPE_LINK ||
        w->n == NET_ADDRESSES_MAX || !length_fits(m->ifa_family, mnl_attr_get_payload_len(own)))
        return MNL_CB_OK;
    w->found[w->n].family = m->ifa_family;
    w->found[w->n].prefix = m->ifa_prefixlen;
    w->found[w->n].len = (uint8_t)mnl_attr_get_payload_len(own);
    memcpy(w->found[w->n].bytes, mnl_attr_get_payload(own), w->found[w->n].len);
    w->n++;
    return MNL_CB_OK;
}

static int addr_delete(struct rtnl *nl, const struct addr_walk *w, size_t i)
{
    struct nlmsghdr *h = rtnl_request(nl, RTM_DELADDR, 0);
    struct ifaddrmsg *m = mnl_nlmsg_put_extra_header(h, sizeof(*m));
    int r;

    m->ifa_family = w->found[i].family;
    m->ifa_prefixlen = w->found[i].prefix;
    m->ifa_index = (unsigned)w->index;
    mnl_attr_put(h, IFA_LOCAL, w->found[i].len, w->found[i].bytes);
    r = ack(nl, h);
    return r == -EADDRNOTAVAIL ? 0 : r; /* a secondary went with its primary */
}

int rtnl_addr_flush_link_local(struct rtnl *nl, int index)
{
    /* in rounds of what fits; a round that finds nothing is the last */
    for (int round = 0; round < 64; round++) {
        struct addr_walk w = {.index = index};
        int r = addr_dump(nl, on_addr_collect, &w);

        for (size_t i = 0; r == 0 && i < w.n; i++)
            r = addr_delete(nl, &w, i);
        if (r < 0 || w.n == 0)
            return r;
    }
    return -E2BIG;
}

/* ---------------------------------------------------------------- routes */

struct route_walk {
    int index;
    int r;
    bool with_gateway; /* this pass takes those that have one */
    struct net_config *config;
};

struct route_attrs {
    const void *dst, *gateway;
    uint32_t oif, metric, table;
};

static void read_route_attrs(const struct nlmsghdr *h, const struct rtmsg *m,
                             struct route_attrs *ret)
{
    const struct nlattr *a;

    *ret = (struct route_attrs){.table = m->rtm_table};
    rtnl_attr_foreach (a, h, sizeof(*m)) {
        size_t len = mnl_attr_get_payload_len(a);

        switch (mnl_attr_get_type(a)) {
        case RTA_DST:
            ret->dst = length_fits(m->rtm_family, len) ? mnl_attr_get_payload(a) : NULL;
            break;
        case RTA_GATEWAY:
            ret->gateway = length_fits(m->rtm_family, len) ? mnl_attr_get_payload(a) : NULL;
            break;
        case RTA_OIF:
            ret->oif = len == 4 ? mnl_attr_get_u32(a) : 0;
            break;
        case RTA_PRIORITY:
            ret->metric = len == 4 ? mnl_attr_get_u32(a) : 0;
            break;
        case RTA_TABLE:
            ret->table = len == 4 ? mnl_attr_get_u32(a) : 0;
            break;
        default:
            break;
        }
    }
}

/* The kernel's own routes (connected, local, link-local) follow from the addresses in the guest too. */
static bool route_counts(const struct rtmsg *m, const struct route_attrs *at,
                         const struct route_walk *w)
{
    return (m->rtm_family == AF_INET || m->rtm_family == AF_INET6) && at->table == RT_TABLE_MAIN &&
           m->rtm_type == RTN_UNICAST && m->rtm_protocol != RTPROT_KERNEL &&
           !(m->rtm_flags & RTM_F_CLONED) && (int)at->oif == w->index &&
           (at->gateway != NULL) == w->with_gateway && (at->dst || m->rtm_dst_len == 0);
}

static int on_route(const struct nlmsghdr *h, void *userdata)
{
    static const uint8_t any[16];
    const struct rtmsg *m = mnl_nlmsg_get_payload(h);
    struct route_walk *w = userdata;
    char text[INET6_ADDRSTRLEN];
    struct route_attrs at;
    struct net_route *out;

    read_route_attrs(h, m, &at);
    if (!route_counts(m, &at, w))
        return MNL_CB_OK;
    if (w->config->n_routes == NET_ROUTES_MAX) {
        w->r = -E2BIG;
        return MNL_CB_OK;
    }
    out = &w->config->routes[w->config->n_routes];
    if (!inet_ntop(m->rtm_family, at.dst ? at.dst : any, text, sizeof(text)))
        return MNL_CB_OK;
    (void)snprintf(out->destination, sizeof(out->destination), "%s/%u", text, m->rtm_dst_len);
    if (at.gateway && !inet_ntop(m->rtm_family, at.gateway, out->gateway, sizeof(out->gateway)))
        return MNL_CB_OK;
    /* IPv6 shows its default metric as a number */
    out->metric = m->rtm_family == AF_INET6 && at.metric == 1024 ? 0 : at.metric;
    w->config->n_routes++;
    return MNL_CB_OK;
}

int rtnl_route_list(struct rtnl *nl, int index, struct net_config *ret)
{
    ret->n_routes = 0;
    for (int pass = 0; pass < 2; pass++) { /* a gateway may need a link-scope route before it */
        struct route_walk w = {.index = index, .with_gateway = pass == 1, .config = ret};
        struct nlmsghdr *h = rtnl_request(nl, RTM_GETROUTE, NLM_F_DUMP);
        struct rtmsg *m = mnl_nlmsg_put_extra_header(h, sizeof(*m));
        int r;

        m->rtm_family = AF_UNSPEC;
        r = rtnl_talk(nl, h, on_route, &w);
        if (r < 0 || w.r < 0)
            return r < 0 ? r : w.r;
    }
    return 0;
}
