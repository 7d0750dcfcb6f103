/* SPDX-License-Identifier: Apache-2.0 */
/* The TAP of a pod and its coupling to the interface that CNI made.
 *
 *   veth of the bridge … eth0 (CNI's, in the pod's netns)  ⇄  tc ingress + mirred  ⇄  tap0 … nexus-vmm
 *
 * Order: netns_create, tap_create (its fd goes to nexus-vmm), CNI ADD, tap_redirect.
 * The guest takes over MAC, MTU, addresses and routes of eth0. They stay configured on eth0 too, for
 * CHECK and DEL of the plugins, but no frame reaches the host's stack there: it cannot answer, also
 * when the VM is dead (mirred then drops).
 * Source: tc-mirred(8), kernel Documentation/networking/tuntap.rst. Thread: see netns.h. */
#pragma once

#include <net/if.h>
#include <stddef.h>
#include <stdint.h>

#include "net/netns.h"

#define NET_CIDR_SIZE 64 /* "ffff:…/128" and NUL, with room */
#define NET_ADDRESSES_MAX 16
#define NET_ROUTES_MAX 64

struct net_route {
    char destination[NET_CIDR_SIZE]; /* CIDR; "0.0.0.0/0" and "::/0" are default routes */
    char gateway[NET_CIDR_SIZE];     /* address without prefix; "": on the link itself */
    uint32_t metric;                 /* 0: the kernel's default */
};

/* What the kernel knows of one interface: after CNI ADD the truth about what the plugins made,
 * also where their printed result says less (plugins that set routes by themselves). */
struct net_config {
    char mac[18]; /* "aa:bb:cc:dd:ee:ff" */
    uint32_t mtu; /* bytes */
    size_t n_addresses, n_routes;
    char addresses[NET_ADDRESSES_MAX][NET_CIDR_SIZE]; /* CIDR, both families, no link-local */
    struct net_route routes[NET_ROUTES_MAX];          /* main table, without those that follow from
                                                         the addresses; link-scope ones first */
};

/* A TAP device (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, one queue) in the namespace, up, without
 * addresses. It lives as long as its fd (done's; close-on-exec, non-blocking). -EINVAL, at once: the
 * name. -EBUSY: the name is taken. -ENODEV, -ENOENT: the host has no /dev/net/tun (load module tun). */
int tap_create(sd_event *event, int netns_fd, const char *name, net_done_fn done, void *userdata,
               struct net_task **ret, struct error **err);

/* Reads the settings of cni_if (done's data: struct net_config), then couples cni_if and tap, every
 * frame both ways, gives the TAP the MTU of cni_if, and silences the host's stack on both. Repeating
 * it is harmless. -ENODEV: an interface is missing. -EOPNOTSUPP: the kernel lacks sch_ingress, cls_u32
 * (or cls_matchall) or act_mirred. -E2BIG: more addresses or routes than the arrays hold. */
int tap_redirect(sd_event *event, int netns_fd, const char *cni_if, const char *tap,
                 net_done_fn done, void *userdata, struct net_task **ret, struct error **err);

/* Only reads (done's data: struct net_config). */
int net_read_config(sd_event *event, int netns_fd, const char *ifname, net_done_fn done,
                    void *userdata, struct net_task **ret, struct error **err);
