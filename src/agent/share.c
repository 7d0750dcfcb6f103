/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/share.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"

#define SHARE_TAG "nexus"

char *share_path(const struct agent *a, const Nexus__VolumeMount *m)
{
    _cleanup_(freep) char *rest =
        m->share ? str_printf("share/%s", m->part) : str_printf("memory-%s", m->volume);

    return agent_path(a, rest);
}

static int mount_share(struct agent *a)
{
    _cleanup_(freep) char *path = agent_path(a, "share");
    int r = dir_make(path, 0711);

    if (r < 0)
        return r;
    /* no such tag: the driver has not met the device */
    if (mount(SHARE_TAG, path, "virtiofs", MS_NODEV, NULL) < 0)
        return errno == EINVAL ? -EAGAIN : -errno;
    a->share_ready = true;
    return 0;
}

/* A directory that is there is a mount that was made. */
static int mount_memory(struct agent *a, const Nexus__VolumeMount *m)
{
    _cleanup_(freep) char *path = share_path(a, m);
    char options[96];

    if (mkdir(path, 0711) < 0)
        return errno == EEXIST ? 0 : -errno;
    (void)snprintf(options, sizeof(options), "size=%" PRIu64 ",mode=%o,gid=%" PRIu32,
                   m->memory_bytes, m->mode & 07777, m->gid);
    if (mount("tmpfs", path, "tmpfs", MS_NODEV, options) < 0) {
        int r = -errno;

        (void)rmdir(path);
        return r;
    }
    return 0;
}

int share_get(struct agent *a, const Nexus__VolumeMount *m, struct error **err)
{
    int r = 0;

    if (!m->share)
        r = mount_memory(a, m);
    else if (!a->share_ready)
        r = mount_share(a);
    return r < 0 && r != -EAGAIN ? error_set(err, r, "volume %s: %s", m->volume, strerror(-r)) : r;
}
