/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/netconf.h"

#include <linux/netlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "agent/attr.h"
#include "agent/rtnl.h"
#include "base/log.h"

#define LINKS_MAX 64
#define ADDRESSES_MAX 32
#define REPLY_TIMEOUT_S 5
#define DATAGRAM_MAX 32768

struct netconf {
    int fd;
    uint32_t seq;
    struct rtnl_link links[LINKS_MAX];
    size_t n_links;
    uint64_t taken; /* bit per link */
    uint8_t in[DATAGRAM_MAX];
};

static int open_socket(void)
{
    struct timeval limit = {.tv_sec = REPLY_TIMEOUT_S};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return fd;
}

/* Sends m and reads until its end; links are collected. The kernel answers at once. */
static int transact(struct netconf *nc, const struct rtnl_message *m)
{
    if (send(nc->fd, m->data, m->used, 0) < 0)
        return -errno;
    for (;;) {
        ssize_t n = recv(nc->fd, nc->in, sizeof(nc->in), 0);
        const uint8_t *p = nc->in;
        size_t len = n > 0 ? (size_t)n : 0;

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? -ETIMEDOUT : -errno;
        while (len > 0) {
            enum rtnl_reply_kind kind;
            struct rtnl_link link;
            int code = 0;
            int r = rtnl_next(&p, &len, nc->seq, &kind, &link, &code);

            if (r < 0)
                return r;
            if (kind == RTNL_REPLY_DONE)
                return code;
            if (kind == RTNL_REPLY_LINK && nc->n_links < LINKS_MAX)
                nc->links[nc->n_links++] = link;
        }
    }
}

static int list_links(struct netconf *nc)
{
    struct rtnl_message m;

    nc->n_links = 0;
    rtnl_build_link_dump(&m, ++nc->seq);
    return transact(nc, &m);
}

static int set_link(struct netconf *nc, const struct rtnl_link_change *c)
{
    struct rtnl_message m;

    rtnl_build_link_set(&m, ++nc->seq, c);
    return transact(nc, &m);
}

static int loopback_up(struct netconf *nc)
{
    for (size_t i = 0; i < nc->n_links; i++)
        if (nc->links[i].flags & IFF_LOOPBACK)
            return set_link(nc, &(struct rtnl_link_change){
                                    .index = nc->links[i].index, .set_up = true, .up = true});
    return -ENODEV;
}

static bool is_free_ethernet(const struct netconf *nc, size_t i)
{
    return !(nc->taken >> i & 1) && nc->links[i].type == ARPHRD_ETHER &&
           !(nc->links[i].flags & IFF_LOOPBACK);
}

static struct rtnl_link *choose_link(struct netconf *nc, const Nexus__Interface *want,
                                     const uint8_t *mac)
{
    size_t best = LINKS_MAX;

    for (size_t i = nc->n_links; i-- > 0;)
        if (is_free_ethernet(nc, i))
            best = i;
    for (size_t i = 0; i < nc->n_links; i++)
        if (is_free_ethernet(nc, i) && strcmp(nc->links[i].name, want->name) == 0)
            best = i;
    for (size_t i = 0; mac && i < nc->n_links; i++)
        if (is_free_ethernet(nc, i) && nc->links[i].has_mac &&
            memcmp(nc->links[i].mac, mac, 6) == 0)
            best = i;
    if (best == LINKS_MAX)
        return NULL;
    nc->taken |= UINT64_C(1) << best;
    return &nc->links[best];
}

/* The host configured the addresses: no router may add some, and no time is lost on probing them. */
static void quiet_ipv6(const char *name)
{
    char path[96];

    (void)snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%.15s/accept_ra", name);
    (void)attr_write(path, "0"); /* without IPv6 there is no such file */
    (void)snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%.15s/accept_dad", name);
    (void)attr_write(path, "0");
}

static int prepare_link(struct netconf *nc, const struct rtnl_link *link,
                        const Nexus__Interface *want, const uint8_t *mac, struct error **err)
{
    bool rename = strcmp(link->name, want->name) != 0;
    bool new_mac = mac && (!link->has_mac || memcmp(link->mac, mac, 6) != 0);
    struct rtnl_link_change down = {.index = link->index, .set_up = true};
    struct rtnl_link_change c = {
        .index = link->index,
        .name = rename ? want->name : NULL,
        .mac = new_mac ? mac : NULL,
        .mtu = want->mtu,
    };
    struct rtnl_link_change up = {.index = link->index, .set_up = true, .up = true};
    int r = (rename || new_mac) && (link->flags & IFF_UP) ? set_link(nc, &down) : 0;

    if (r == 0 && (c.name || c.mac || c.mtu))
        r = set_link(nc, &c);
    quiet_ipv6(want->name);
    if (r == 0)
        r = set_link(nc, &up);
    return r < 0 ? error_set(err, r, "interface %s: %s", want->name, strerror(-r)) : 0;
}

static int add_addresses(struct netconf *nc, int index, const Nexus__Interface *want,
                         struct net_addr *addrs, struct error **err)
{
    for (size_t i = 0; i < want->n_addresses; i++) {
        struct rtnl_message m;
        int r = net_addr_parse_cidr(want->addresses[i], &addrs[i]);

        if (r == 0) {
            rtnl_build_addr_add(&m, ++nc->seq, index, &addrs[i]);
            r = transact(nc, &m);
        }
        if (r < 0)
            return error_set(err, r, "address %.64s: %s", want->addresses[i], strerror(-r));
    }
    return 0;
}

static int add_route(struct netconf *nc, int index, const Nexus__Route *route,
                     const struct net_addr *addrs, size_t n_addrs, struct error **err)
{
    struct net_addr dst, gw;
    struct rtnl_message m;
    bool via = *route->gateway != '\0', onlink = via;
    int r = net_addr_parse_cidr(route->destination, &dst);

    if (r == 0 && via)
        r = net_addr_parse(route->gateway, &gw);
    if (r == 0 && via && gw.family != dst.family)
        r = -EINVAL;
    for (size_t i = 0; r == 0 && via && i < n_addrs; i++)
        if (net_addr_in(&gw, &addrs[i]))
            onlink = false;
    if (r == 0) {
        rtnl_build_route_add(&m, ++nc->seq, index, &dst, via ? &gw : NULL, onlink, route->metric);
        r = transact(nc, &m);
    }
    if (r < 0)
        return error_set(err, r, "route %.64s via \"%.64s\": %s", route->destination,
                         route->gateway, strerror(-r));
    return 0;
}

static int apply_one(struct netconf *nc, const Nexus__Interface *want, struct error **err)
{
    struct net_addr addrs[ADDRESSES_MAX];
    uint8_t mac[6];
    bool has_mac = *want->mac != '\0';
    struct rtnl_link *link;
    int r;

    if (!*want->name || strlen(want->name) >= IFNAMSIZ || strchr(want->name, '/'))
        return error_set(err, -EINVAL, "interface name \"%.32s\"", want->name);
    if (has_mac && net_mac_parse(want->mac, mac) < 0)
        return error_set(err, -EINVAL, "interface %s: \"%.32s\" is no MAC address", want->name,
                         want->mac);
    if (want->n_addresses > ADDRESSES_MAX)
        return error_set(err, -E2BIG, "interface %s: too many addresses", want->name);
    link = choose_link(nc, want, has_mac ? mac : NULL);
    if (!link)
        return error_set_class(err, ERROR_PRECONDITION, -ENODEV,
                               "interface %s: the guest has no network device for it", want->name);
    r = prepare_link(nc, link, want, has_mac ? mac : NULL, err);
    if (r == 0)
        r = add_addresses(nc, link->index, want, addrs, err);
    /* routes on the link first: gateways of the others may need them */
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; r == 0 && i < want->n_routes; i++)
            if ((*want->routes[i]->gateway != '\0') == (pass == 1))
                r = add_route(nc, link->index, want->routes[i], addrs, want->n_addresses, err);
    return r;
}

int netconf_apply(Nexus__Interface *const *interfaces, size_t n, struct error **err)
{
    _cleanup_(freep) struct netconf *nc = calloc(1, sizeof(*nc));
    int r;

    if (!nc)
        return error_set(err, -ENOMEM, "network");
    nc->fd = open_socket();
    if (nc->fd < 0)
        return error_set(err, nc->fd, "rtnetlink socket");
    r = list_links(nc);
    if (r == 0)
        r = loopback_up(nc);
    if (r < 0)
        r = error_set(err, r, "loopback: %s", strerror(-r));
    for (size_t i = 0; r == 0 && i < n; i++)
        r = apply_one(nc, interfaces[i], err);
    nc->fd = close_fd(nc->fd);
    return r;
}
