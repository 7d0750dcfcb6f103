/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/scratch.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

/* The first virtio disk: "vda". */
static bool find_disk(char ret[32])
{
    DIR *d = opendir("/sys/block");
    struct dirent *e;

    ret[0] = '\0';
    while (d && (e = readdir(d)))
        if (str_starts(e->d_name, "vd") && strlen(e->d_name) < 16 &&
            (!*ret || strcmp(e->d_name, ret) < 0))
            (void)snprintf(ret, 32, "%.16s", e->d_name);
    if (d)
        (void)closedir(d);
    return *ret != '\0';
}

int scratch_mount(struct agent *a, struct error **err)
{
    _cleanup_(freep) char *path = agent_path(a, "scratch");
    char disk[32], device[40];
    int r;

    if (a->scratch_ready)
        return 0;
    r = dir_make(path, 0700);
    if (r < 0)
        return error_set(err, r, "scratch directory");
    if (a->set.guest && find_disk(disk)) {
        (void)snprintf(device, sizeof(device), "/dev/%s", disk);
        if (mount(device, path, "ext4", MS_NOATIME | MS_NODEV, "") < 0)
            return error_set(err, -errno, "scratch disk %s: %s", device, strerror(errno));
    } else if (mount("scratch", path, "tmpfs", MS_NOATIME | MS_NODEV, "mode=700") < 0) {
        return error_set(err, -errno, "scratch memory");
    } else {
        (void)snprintf(device, sizeof(device), "memory");
    }
    log_info("scratch space: %s", device);
    a->scratch_ready = true;
    return 0;
}

void scratch_unmount(struct agent *a)
{
    _cleanup_(freep) char *path = agent_path(a, "scratch");

    if (a->scratch_ready && umount2(path, 0) < 0)
        (void)umount2(path, MNT_DETACH);
    a->scratch_ready = false;
}
