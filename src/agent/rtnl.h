/* SPDX-License-Identifier: Apache-2.0 */
/* rtnetlink messages: built into a fixed buffer, replies taken apart. Sans-IO; netconf.c has the
 * socket. Source: the kernel's uapi headers linux/{netlink,rtnetlink,if_link,if_addr}.h. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/netaddr.h"

#define RTNL_MESSAGE_MAX 512

/* One request, ready to be sent: used bytes of data. Too long a message is a bug of ours and aborts. */
struct rtnl_message {
    _Alignas(8) uint8_t data[RTNL_MESSAGE_MAX];
    size_t used;
};

struct rtnl_link_change {
    int index;
    const char *name;   /* NULL: leave */
    const uint8_t *mac; /* 6 bytes, NULL: leave */
    uint32_t mtu;       /* 0: leave */
    bool set_up, up;
};

void rtnl_build_link_dump(struct rtnl_message *m, uint32_t seq);
void rtnl_build_link_set(struct rtnl_message *m, uint32_t seq, const struct rtnl_link_change *c);
/* Replaces an equal address; IPv6 ones are usable at once (no duplicate address detection). */
void rtnl_build_addr_add(struct rtnl_message *m, uint32_t seq, int index,
                         const struct net_addr *addr);
/* dst is masked. gateway NULL: the destination is on the link. onlink: the gateway is, though no
 * address covers it. metric 0: the kernel's choice. */
void rtnl_build_route_add(struct rtnl_message *m, uint32_t seq, int index,
                          const struct net_addr *dst, const struct net_addr *gateway, bool onlink,
                          uint32_t metric);

struct rtnl_link {
    int index;
    uint16_t type; /* ARPHRD_… */
    uint32_t flags;
    char name[16];
    bool has_mac;
    uint8_t mac[6];
};

enum rtnl_reply_kind {
    RTNL_REPLY_OTHER, /* not ours, or not understood: ignore */
    RTNL_REPLY_LINK,  /* ret_link is filled */
    RTNL_REPLY_DONE,  /* end of a dump, or an acknowledgement; *ret_errno 0 or negative */
};

/* Takes the next message from the *len bytes at *p (a datagram of the kernel) and moves both behind
 * it. -EBADMSG: no whole message there. */
int rtnl_next(const uint8_t **p, size_t *len, uint32_t seq, enum rtnl_reply_kind *ret,
              struct rtnl_link *ret_link, int *ret_errno);
