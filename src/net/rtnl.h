/* SPDX-License-Identifier: Apache-2.0 */
/* The handful of rtnetlink requests we need, over libmnl, in the calling process's namespace.
 * Low tier: negative errno, no text. Blocking: only for short children (net-task.h). Private to net.
 * Source: rtnetlink(7), kernel include/uapi/linux/{rtnetlink,pkt_cls,pkt_sched}.h. */
#pragma once

#include <net/if.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "net/tap.h"

struct rtnl;

int rtnl_open(struct rtnl **ret);
void rtnl_free(struct rtnl *nl);
DEFINE_CLEANUP(struct rtnl *, rtnl_free);

struct rtnl_link {
    int index;
    uint32_t mtu;
    uint8_t mac[6];
};
/* -ENODEV: no such interface. */
int rtnl_link_get(struct rtnl *nl, const char *name, struct rtnl_link *ret);
int rtnl_link_set_up(struct rtnl *nl, int index);
int rtnl_link_set_mtu(struct rtnl *nl, int index, uint32_t mtu);
/* No link-local address is generated any more (addr_gen_mode none). */
int rtnl_link_no_autoconf(struct rtnl *nl, int index);

/* Removes the link-local addresses of the interface. */
int rtnl_addr_flush_link_local(struct rtnl *nl, int index);
/* Fills addresses and routes of ret; -E2BIG if there are more than fit. */
int rtnl_addr_list(struct rtnl *nl, int index, struct net_config *ret);
int rtnl_route_list(struct rtnl *nl, int index, struct net_config *ret);

/* Every frame that enters `from` leaves through `to` and is seen by nobody else. Replaces what an
 * earlier call left. */
int rtnl_redirect(struct rtnl *nl, int from, int to);
