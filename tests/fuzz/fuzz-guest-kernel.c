/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent takes from its kernel and its initramfs: rtnetlink replies, uevents, cgroup files,
 * module list lines, sysctl names, addresses. The first byte chooses which. */
#include <stdlib.h>
#include <string.h>

#include "agent/cgroup-value.h"
#include "agent/module.h"
#include "agent/netaddr.h"
#include "agent/rtnl.h"
#include "agent/sandbox.h"
#include "agent/uevent.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void netlink(const uint8_t *p, size_t len)
{
    while (len) {
        enum rtnl_reply_kind kind;
        struct rtnl_link link;
        int code;

        if (rtnl_next(&p, &len, 1, &kind, &link, &code) < 0)
            break;
        if (kind == RTNL_REPLY_LINK && strlen(link.name) >= sizeof(link.name))
            abort();
    }
}

static void strings(char *text)
{
    const char *file, *params;
    struct net_addr a;
    uint8_t mac[6];
    char path[64];

    (void)cgroup_flat_value(text, "oom_kill");
    if (net_addr_parse_cidr(text, &a) == 0)
        net_addr_mask(&a);
    (void)net_mac_parse(text, mac);
    if (sandbox_sysctl_path(text, path, sizeof(path)) == 0 && strstr(path, "/../"))
        abort();
    (void)module_parse(text, &file, &params);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct uevent u;
    char *copy;

    if (size < 1)
        return 0;
    switch (data[0] % 3) {
    case 0:
        netlink(data + 1, size - 1);
        break;
    case 1:
        (void)uevent_parse((const char *)data + 1, size - 1, &u);
        break;
    default:
        copy = strndup((const char *)data + 1, size - 1);
        if (copy)
            strings(copy);
        free(copy);
        break;
    }
    return 0;
}
