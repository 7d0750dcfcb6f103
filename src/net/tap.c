/* SPDX-License-Identifier: Apache-2.0 */
#include "net/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/file.h"
#include "base/str.h"
#include "net/net-task.h"
#include "net/rtnl.h"

/* ---------------------------------------------------------------- the device */

static int bring_up(const char *name, struct error **err)
{
    _cleanup_(rtnl_freep) struct rtnl *nl = NULL;
    struct rtnl_link link;
    int r;

    r = rtnl_open(&nl);
    if (r == 0)
        r = rtnl_link_get(nl, name, &link);
    if (r == 0) {
        (void)rtnl_link_no_autoconf(nl, link.index); /* fails where IPv6 is off, which is as good */
        r = rtnl_link_set_up(nl, link.index);
    }
    return r < 0 ? error_set(err, r, "cannot bring TAP %s up: %s", name, strerror(-r)) : 0;
}

static int create_in_child(void *arg, struct net_task_reply *reply, struct error **err)
{
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    const char *name = arg;

    /* the device belongs to the namespace in which /dev/net/tun is opened */
    reply->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (reply->fd < 0)
        return error_set(err, -errno, "cannot open /dev/net/tun: %s; load the kernel module tun",
                         strerror(errno));
    memcpy(ifr.ifr_name, name, strlen(name) + 1);
    if (ioctl(reply->fd, TUNSETIFF, &ifr) < 0)
        return error_set(err, -errno, "cannot make TAP %s: %s", name,
                         errno == EBUSY ? "the name is taken" : strerror(errno));
    return bring_up(name, err);
}

int tap_create(sd_event *event, int netns_fd, const char *name, net_done_fn done, void *userdata,
               struct net_task **ret, struct error **err)
{
    char copy[IFNAMSIZ] = "";

    if (!*name || strlen(name) >= IFNAMSIZ)
        return error_set(err, -EINVAL, "\"%s\" is no name for a TAP", name);
    memcpy(copy, name, strlen(name) + 1);
    return net_task_start(event, netns_fd, create_in_child, copy, 0, done, userdata, ret, err);
}

/* ---------------------------------------------------------------- the coupling */

struct redirect {
    const char *cni_if, *tap; /* tap NULL: only the settings are read */
};

/* The redirect takes every frame before the namespace's own stack sees it. Without a link-local
 * address that stack has no reason to speak by itself either (MLD, router solicitation). The
 * addresses of the pod stay: CHECK wants them, and the bridge plugin of Debian finds by them the
 * masquerading rules that its DEL has to remove. */
static int silence(struct rtnl *nl, const char *ifname, int index, struct error **err)
{
    int r;

    (void)rtnl_link_no_autoconf(nl, index); /* fails where IPv6 is off, which is as good */
    r = rtnl_addr_flush_link_local(nl, index);
    return r < 0 ? error_set(err, r, "cannot take the link-local address from %s: %s", ifname,
                             strerror(-r))
                 : 0;
}

static int couple(struct rtnl *nl, const struct redirect *rd, const struct rtnl_link *cni,
                  const struct rtnl_link *tap, struct error **err)
{
    int r;

    if (tap->mtu != cni->mtu) {
        r = rtnl_link_set_mtu(nl, tap->index, cni->mtu);
        if (r < 0)
            return error_set(err, r, "cannot set MTU %u of %s: %s", cni->mtu, rd->tap,
                             strerror(-r));
    }
    r = rtnl_redirect(nl, cni->index, tap->index);
    if (r == 0)
        r = rtnl_redirect(nl, tap->index, cni->index);
    if (r == -EOPNOTSUPP)
        return error_set(
            err, r,
            "the kernel lacks sch_ingress, cls_u32 or cls_matchall, or act_mirred: cannot couple "
            "%s and %s",
            rd->cni_if, rd->tap);
    if (r < 0)
        return error_set(err, r, "cannot couple %s and %s: %s", rd->cni_if, rd->tap, strerror(-r));
    return 0;
}

static int find_link(struct rtnl *nl, const char *name, struct rtnl_link *ret, struct error **err)
{
    int r = rtnl_link_get(nl, name, ret);

    return r < 0 ? error_set(err, r, "interface %s of the pod: %s", name, strerror(-r)) : 0;
}

static int read_config(struct rtnl *nl, const char *ifname, const struct rtnl_link *link,
                       struct net_config *config, struct error **err)
{
    int r;

    (void)snprintf(config->mac, sizeof(config->mac), "%02x:%02x:%02x:%02x:%02x:%02x", link->mac[0],
                   link->mac[1], link->mac[2], link->mac[3], link->mac[4], link->mac[5]);
    config->mtu = link->mtu;
    r = rtnl_addr_list(nl, link->index, config);
    if (r == 0)
        r = rtnl_route_list(nl, link->index, config);
    if (r == -E2BIG)
        return error_set(err, r, "interface %s has more than %d addresses or %d routes", ifname,
                         NET_ADDRESSES_MAX, NET_ROUTES_MAX);
    return r < 0 ? error_set(err, r, "cannot read the settings of %s: %s", ifname, strerror(-r))
                 : 0;
}

static int redirect_in_child(void *arg, struct net_task_reply *reply, struct error **err)
{
    const struct redirect *rd = arg;
    _cleanup_(rtnl_freep) struct rtnl *nl = NULL;
    struct rtnl_link cni, tap;
    int r;

    r = rtnl_open(&nl);
    if (r < 0)
        return error_set(err, r, "cannot open a netlink socket: %s", strerror(-r));
    r = find_link(nl, rd->cni_if, &cni, err);
    if (r == 0)
        r = read_config(nl, rd->cni_if, &cni, reply->data, err);
    if (r < 0 || !rd->tap)
        return r;
    r = find_link(nl, rd->tap, &tap, err);
    if (r == 0)
        r = silence(nl, rd->cni_if, cni.index, err);
    if (r == 0)
        r = silence(nl, rd->tap, tap.index, err);
    if (r == 0)
        r = couple(nl, rd, &cni, &tap, err);
    return r;
}

static bool is_ifname(const char *name)
{
    return *name && strlen(name) < IFNAMSIZ;
}

int tap_redirect(sd_event *event, int netns_fd, const char *cni_if, const char *tap,
                 net_done_fn done, void *userdata, struct net_task **ret, struct error **err)
{
    struct redirect rd = {cni_if, tap};

    if (!is_ifname(cni_if) || !is_ifname(tap))
        return error_set(err, -EINVAL, "\"%s\" or \"%s\" is no interface name", cni_if, tap);
    return net_task_start(event, netns_fd, redirect_in_child, &rd, sizeof(struct net_config), done,
                          userdata, ret, err);
}

int net_read_config(sd_event *event, int netns_fd, const char *ifname, net_done_fn done,
                    void *userdata, struct net_task **ret, struct error **err)
{
    struct redirect rd = {ifname, NULL};

    if (!is_ifname(ifname))
        return error_set(err, -EINVAL, "\"%s\" is no interface name", ifname);
    return net_task_start(event, netns_fd, redirect_in_child, &rd, sizeof(struct net_config), done,
                          userdata, ret, err);
}
