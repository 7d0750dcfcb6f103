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

bool sandbox_sysctl_is_namespaced(const char *path)
{
    static const char *const prefixes[] = {"net/",       "fs/mqueue/", "kernel/shm",
                                           "kernel/msg", "kernel/sem", "kernel/domainname"};

    path += strlen("/proc/sys/");
    for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
        if (strncmp(path, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}
