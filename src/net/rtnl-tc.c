/* SPDX-License-Identifier: Apache-2.0 */
/* Traffic control: an ingress qdisc with one filter that matches everything and redirects it.
 * u32 with an empty key is tried first: it is in every kernel that has tc filters at all (matchall is
 * not); both are modules in Debian and are loaded by the request itself. */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>
#include <string.h>

#include "net/rtnl-internal.h"

#define FILTER_PRIORITY 1U
#define INGRESS_PARENT TC_H_MAKE(TC_H_INGRESS, 0)

static struct nlmsghdr *tc_request(struct rtnl *nl, uint16_t type, uint16_t flags, int index,
                                   struct tcmsg **ret)
{
    struct nlmsghdr *h = rtnl_request(nl, type, (uint16_t)(flags | NLM_F_ACK));
    struct tcmsg *tc = mnl_nlmsg_put_extra_header(h, sizeof(*tc));

    tc->tcm_family = AF_UNSPEC;
    tc->tcm_ifindex = index;
    *ret = tc;
    return h;
}

static int ingress_request(struct rtnl *nl, uint16_t type, uint16_t flags, int index)
{
    struct tcmsg *tc;
    struct nlmsghdr *h = tc_request(nl, type, flags, index, &tc);

    tc->tcm_parent = TC_H_INGRESS;
    tc->tcm_handle = TC_H_MAKE(TC_H_INGRESS, 0);
    mnl_attr_put_strz(h, TCA_KIND, "ingress");
    return rtnl_talk(nl, h, NULL, NULL);
}

/* The action list: one mirred that takes the frame away. */
static void put_redirect(struct nlmsghdr *h, uint16_t attr, int to)
{
    struct tc_mirred parms = {
        .action = TC_ACT_STOLEN, .eaction = TCA_EGRESS_REDIR, .ifindex = (uint32_t)to};
    struct nlattr *actions = mnl_attr_nest_start(h, attr);
    struct nlattr *first = mnl_attr_nest_start(h, 1);
    struct nlattr *options;

    mnl_attr_put_strz(h, TCA_ACT_KIND, "mirred");
    options = mnl_attr_nest_start(h, TCA_ACT_OPTIONS);
    mnl_attr_put(h, TCA_MIRRED_PARMS, sizeof(parms), &parms);
    mnl_attr_nest_end(h, options);
    mnl_attr_nest_end(h, first);
    mnl_attr_nest_end(h, actions);
}

static struct nlmsghdr *filter_request(struct rtnl *nl, int from, const char *kind)
{
    struct tcmsg *tc;
    struct nlmsghdr *h = tc_request(nl, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, from, &tc);

    tc->tcm_parent = INGRESS_PARENT;
    tc->tcm_info = TC_H_MAKE(FILTER_PRIORITY << 16, htons(ETH_P_ALL));
    mnl_attr_put_strz(h, TCA_KIND, kind);
    return h;
}

static int add_u32(struct rtnl *nl, int from, int to)
{
    struct nlmsghdr *h = filter_request(nl, from, "u32");
    struct nlattr *options = mnl_attr_nest_start(h, TCA_OPTIONS);
    _Alignas(8) uint8_t bytes[sizeof(struct tc_u32_sel) + sizeof(struct tc_u32_key)] = {0};
    struct tc_u32_sel sel = {.flags = TC_U32_TERMINAL,
                             .nkeys = 1}; /* one key with mask 0: anything */

    memcpy(bytes, &sel, sizeof(sel));
    mnl_attr_put(h, TCA_U32_SEL, sizeof(bytes), bytes);
    put_redirect(h, TCA_U32_ACT, to);
    mnl_attr_nest_end(h, options);
    return rtnl_talk(nl, h, NULL, NULL);
}

static int add_matchall(struct rtnl *nl, int from, int to)
{
    struct nlmsghdr *h = filter_request(nl, from, "matchall");
    struct nlattr *options = mnl_attr_nest_start(h, TCA_OPTIONS);

    put_redirect(h, TCA_MATCHALL_ACT, to);
    mnl_attr_nest_end(h, options);
    return rtnl_talk(nl, h, NULL, NULL);
}

int rtnl_redirect(struct rtnl *nl, int from, int to)
{
    int r;

    /* an earlier coupling (of a TAP that is gone, say) goes with its qdisc */
    r = ingress_request(nl, RTM_DELQDISC, 0, from);
    if (r < 0 && r != -ENOENT && r != -EINVAL)
        return r;
    r = ingress_request(nl, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, from);
    if (r < 0)
        return r == -ENOENT ? -EOPNOTSUPP : r;
    r = add_u32(nl, from, to);
    if (r == -ENOENT)
        r = add_matchall(nl, from, to);
    return r == -ENOENT ? -EOPNOTSUPP : r;
}
