/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/sandbox.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "agent/attr.h"
#include "agent/netconf.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"

#define SHM_BYTES_DEFAULT (UINT64_C(64) << 20)
#define HOSTS_MAX 8192

static int set_hostname(const char *name, struct error **err)
{
    if (*name && sethostname(name, strlen(name)) < 0)
        return error_set(err, -errno, "host name \"%.64s\": %s", name, strerror(errno));
    return 0;
}

static int set_sysctls(const Nexus__SandboxConfig *c, struct error **err)
{
    for (size_t i = 0; i < c->n_sysctls; i++) {
        const Nexus__Sysctl *s = c->sysctls[i];
        char path[PATH_MAX];
        int r = sandbox_sysctl_path(s->name, path, sizeof(path));

        if (r == 0 && !sandbox_sysctl_is_namespaced(path))
            return error_set(err, -EINVAL, "sysctl %.128s is not namespaced", s->name);
        if (r == 0)
            r = attr_write(path, s->value);
        if (r < 0)
            return error_set(err, r, "sysctl %.128s: %s", s->name, strerror(-r));
    }
    return 0;
}

/* The first address of a family, without its prefix length, or "". */
static void first_address(const Nexus__SandboxConfig *c, char *out, size_t size)
{
    out[0] = '\0';
    if (c->n_interfaces && c->interfaces[0]->n_addresses) {
        const char *a = c->interfaces[0]->addresses[0];
        (void)snprintf(out, size, "%.*s", (int)strcspn(a, "/"), a);
    }
}

static void minimal_hosts(const Nexus__SandboxConfig *c, struct buf *out)
{
    char address[64];

    first_address(c, address, sizeof(address));
    (void)buf_printf(out, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    if (*address && *c->hostname)
        (void)buf_printf(out, "%s\t%.255s\n", address, c->hostname);
}

/* In place, not by rename: containers have the files bind-mounted. */
static int write_file(int dir, const char *name, const void *bytes, size_t len, struct error **err)
{
    _cleanup_(closep) int fd =
        openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
    int r = fd < 0 ? -errno : write_full(fd, bytes, len);

    return r < 0 ? error_set(err, r, "%s of the pod", name) : 0;
}

static int write_files(int dir, const Nexus__SandboxConfig *c, struct error **err)
{
    char host[HOST_NAME_MAX + 2];
    struct buf hosts;
    int r;

    (void)snprintf(host, sizeof(host), "%.64s\n", c->hostname);
    buf_init(&hosts, HOSTS_MAX);
    minimal_hosts(c, &hosts);
    r = write_file(dir, "hostname", host, strlen(host), err);
    if (r == 0)
        r = write_file(dir, "resolv.conf", c->resolv_conf.data, c->resolv_conf.len, err);
    if (r == 0 && c->hosts.len)
        r = write_file(dir, "hosts", c->hosts.data, c->hosts.len, err);
    else if (r == 0)
        r = write_file(dir, "hosts", hosts.data, hosts.used, err);
    buf_done(&hosts);
    return r;
}

static int mount_shm(struct agent *a, const char *path, uint64_t bytes, struct error **err)
{
    unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | (a->sandbox_ready ? MS_REMOUNT : 0);
    char options[64];

    if (mkdir(path, 01777) < 0 && errno != EEXIST)
        return error_set(err, -errno, "shared memory of the pod");
    (void)snprintf(options, sizeof(options), "mode=1777,size=%" PRIu64,
                   bytes ? bytes : SHM_BYTES_DEFAULT);
    if (mount("shm", path, "tmpfs", flags, options) < 0)
        return error_set(err, -errno, "shared memory of the pod");
    return 0;
}

int sandbox_configure(struct agent *a, const Nexus__SandboxConfig *c, struct error **err)
{
    _cleanup_(freep) char *path = agent_path(a, "sandbox");
    _cleanup_(freep) char *shm = agent_path(a, "sandbox/shm");
    _cleanup_(closep) int dir = dir_open_or_make(path, 0755);
    int r;

    if (dir < 0)
        return error_set(err, dir, "sandbox directory");
    r = set_hostname(c->hostname, err);
    if (r == 0)
        r = set_sysctls(c, err);
    if (r == 0)
        r = netconf_apply(c->interfaces, c->n_interfaces, err);
    if (r == 0)
        r = write_files(dir, c, err);
    if (r == 0)
        r = mount_shm(a, shm, c->shm_bytes, err);
    if (r < 0)
        return r;
    a->sandbox_ready = true;
    log_info("sandbox configured: host name %.64s, %zu interfaces", c->hostname, c->n_interfaces);
    return 0;
}
