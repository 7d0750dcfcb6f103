/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdint.h>

#include <libmnl/libmnl.h>

#include "net/rtnl.h"

struct rtnl {
    struct mnl_socket *sock; /* owned */
    uint32_t seq;
    _Alignas(8) char out[2048];
    _Alignas(8) char in[32768]; /* the kernel's dumps come in pieces of up to 32 KiB */
};

/* mnl_attr_for_each without its narrowing of a pointer difference. skip: bytes of the fixed header. */
#define rtnl_attr_foreach(a, h, skip)                                                              \
    for ((a) = mnl_nlmsg_get_payload_offset((h), (skip));                                          \
         mnl_attr_ok((a), (int)((const char *)mnl_nlmsg_get_payload_tail(h) - (const char *)(a))); \
         (a) = mnl_attr_next(a))

/* An empty request of that type in nl->out; one at a time. */
struct nlmsghdr *rtnl_request(struct rtnl *nl, uint16_t type, uint16_t flags);
/* Sends it and reads answers up to the ACK or the end of the dump. fn may be NULL. */
int rtnl_talk(struct rtnl *nl, struct nlmsghdr *h, mnl_cb_t fn, void *userdata);
