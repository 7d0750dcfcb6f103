/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "agent/sandbox.h"

/* As sysctl(8) reads names: the separator that comes first is the one that counts; where it is a dot,
 * slashes stand for dots inside a component ("net.ipv4.conf.eth0/1.forwarding"). */
int sandbox_sysctl_path(const char *name, char *out, size_t size)
{
    size_t first = strcspn(name, "./");
    bool dots = name[first] == '.';
    int n = snprintf(out, size, "/proc/sys/%s", name);

    if (n < 0 || (size_t)n >= size)
        return -EINVAL;
    for (char *p = out + strlen("/proc/sys/"); dots && *p; p++)
        *p = *p == '.' ? '/' : *p == '/' ? '.' : *p;
    if (!*name || strstr(out, "//") || strstr(out, "/../") || strstr(out, "/./") ||
        out[n - 1] == '/' || (n >= 3 && strcmp(out + n - 3, "/..") == 0))
        return -EINVAL;
    return 0;
}
