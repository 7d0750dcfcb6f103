/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/region.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#include "agent/attr.h"
#include "agent/control.h"
#include "agent/dax.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

#define SYS_BLOCK "/sys/block"
#define SYS_PLATFORM "/sys/bus/platform/devices"
#define DRIVER_DIR "/sys/bus/platform/drivers/virtio-mmio"
#define VIRTIO_MMIO_ID "LNRO0005:"
#define ATTR_MAX 64
#define RELEASE_TRIES 300
#define RELEASE_RETRY_MS 10

static struct region *find(struct agent *a, uint64_t gpa)
{
    struct region *r;

    list_foreach (r, &a->regions, link)
        if (r->gpa == gpa)
            return r;
    return NULL;
}

/* Name ("pmem0") of the block device whose memory begins at gpa. 0 or -EAGAIN. */
static int find_device(uint64_t gpa, char name[32])
{
    DIR *d = opendir(SYS_BLOCK);
    struct dirent *e;
    int r = -EAGAIN;

    while (d && r < 0 && (e = readdir(d))) {
        char path[128], text[ATTR_MAX + 1];

        if (!str_starts(e->d_name, "pmem") || strlen(e->d_name) > 16)
            continue;
        (void)snprintf(path, sizeof(path), SYS_BLOCK "/%.16s/device/resource", e->d_name);
        if (attr_read(path, text, sizeof(text)) < 0 || strtoull(text, NULL, 16) != gpa)
            continue;
        (void)snprintf(name, 32, "%.16s", e->d_name);
        r = 0;
    }
    if (d)
        (void)closedir(d);
    return r;
}

/* EROFS falls back to the page cache without a word, which costs each pod a copy of its image. */
static void check_dax(const struct region *r)
{
    int dax = dax_probe(r->path);

    if (dax == 0)
        log_warning("region %#" PRIx64 ": mounted without DAX", r->gpa);
    else
        log_debug("region %#" PRIx64 ": DAX %s", r->gpa, dax > 0 ? "on" : "not probed");
}

static int mount_region(struct agent *a, struct region *r, struct error **err)
{
    char name[32], device[40];
    int e;

    if (!a->set.guest) {
        free(r->path);
        r->path = str_printf("%s/region-%" PRIx64, a->set.socket_dir, r->gpa);
        return access(r->path, F_OK) < 0 ? -EAGAIN : 0;
    }
    if (find_device(r->gpa, name) < 0)
        return -EAGAIN;
    (void)snprintf(device, sizeof(device), "/dev/%s", name);
    if (access(device, F_OK) < 0)
        return -EAGAIN;
    e = dir_make(r->path, 0755);
    if (e < 0)
        return error_set(err, e, "mount point of region %#" PRIx64, r->gpa);
    if (mount(device, r->path, "erofs", MS_RDONLY | MS_NODEV | MS_NOATIME, "dax=always") < 0)
        return error_set(err, -errno, "mount region %#" PRIx64 " (%s): %s", r->gpa, device,
                         strerror(errno));
    log_info("region %#" PRIx64 ": %s mounted", r->gpa, device);
    check_dax(r);
    return 0;
}

int region_get(struct agent *a, uint64_t gpa, struct region **ret, struct error **err)
{
    struct region *r = find(a, gpa);
    int e;

    if (!r) {
        char rest[48];

        (void)snprintf(rest, sizeof(rest), "regions/%" PRIx64, gpa);
        r = xcalloc(1, sizeof(*r));
        r->gpa = gpa;
        r->path = agent_path(a, rest);
        e = mount_region(a, r, err);
        if (e < 0) {
            free(r->path);
            free(r);
            return e;
        }
        list_append(&a->regions, &r->link);
    }
    r->users++;
    *ret = r;
    return 0;
}

void region_put(struct region *r)
{
    if (r && r->users)
        r->users--;
}

/* "LNRO0005:07" of a block device, by its place in the device tree. */
static int platform_device(const char *block, char ret[64])
{
    char path[64], real[PATH_MAX];
    char *id;

    (void)snprintf(path, sizeof(path), SYS_BLOCK "/%.16s", block);
    if (!realpath(path, real))
        return -errno;
    id = strstr(real, "/" VIRTIO_MMIO_ID);
    if (!id || strcspn(id + 1, "/") >= 64)
        return -ENODEV;
    (void)snprintf(ret, 64, "%.*s", (int)strcspn(id + 1, "/"), id + 1);
    return 0;
}

static int unbind(uint64_t gpa, const char *block, struct error **err)
{
    char device[64];
    int r = platform_device(block, device);

    if (r < 0)
        return error_set(err, r, "region %#" PRIx64 ": %s has no virtio-mmio device", gpa, block);
    r = attr_write(DRIVER_DIR "/unbind", device);
    if (r < 0)
        return error_set(err, r, "region %#" PRIx64 ": unbind %s", gpa, device);
    log_info("region %#" PRIx64 ": released %s", gpa, device);
    return 0;
}

/* A region that is unmounted: the kernel may hold the file system for some milliseconds more, through
 * the last overlay, and a device must not be taken from under it. A device that is not there may be on
 * its way: were it called gone, the driver would meet the memory being taken away. */
struct release {
    struct list link;
    struct agent *agent;
    uint64_t gpa, request;
    unsigned tries;
    struct loop_source *timer; /* owned */
};

static void release_end(struct release *x, int r, const struct error *err)
{
    control_reply(x->agent, x->request, r, err);
    loop_remove(x->timer);
    list_remove(&x->link);
    free(x);
}

static void release_step(struct release *x)
{
    _cleanup_(error_freep) struct error *err = NULL;
    char block[32], held[64];
    bool found, busy = false;
    int r = 0;

    if (!x->agent->set.guest) {
        release_end(x, 0, NULL);
        return;
    }
    found = find_device(x->gpa, block) == 0;
    if (found) {
        (void)snprintf(held, sizeof(held), "/sys/fs/erofs/%.16s", block);
        busy = access(held, F_OK) == 0;
    }
    if ((busy || !found) && x->tries++ < RELEASE_TRIES) {
        loop_timer_set_after_ms(x->timer, RELEASE_RETRY_MS);
        return;
    }
    if (busy)
        r = error_set(&err, -EBUSY, "region %#" PRIx64 " is still in use", x->gpa);
    else if (found)
        r = unbind(x->gpa, block, &err);
    release_end(x, r, err);
}

static void on_release_timer(struct loop_source *s, void *userdata)
{
    release_step(userdata);
}

static void region_free(struct region *r)
{
    list_remove(&r->link);
    free(r->path);
    free(r);
}

static int unmount_region(struct agent *a, struct region *r, struct error **err)
{
    if (r->users)
        return error_set(err, -EBUSY, "region %#" PRIx64 " is used by %u containers", r->gpa,
                         r->users);
    if (a->set.guest && umount2(r->path, 0) < 0)
        return error_set(err, -errno, "unmount region %#" PRIx64, r->gpa);
    if (a->set.guest)
        (void)rmdir(r->path);
    region_free(r);
    return 0;
}

void region_release(struct agent *a, uint64_t gpa, uint64_t request)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct region *region = find(a, gpa);
    int r = region ? unmount_region(a, region, &err) : 0;
    struct release *x;

    if (r < 0) {
        control_reply(a, request, r, err);
        return;
    }
    x = xcalloc(1, sizeof(*x));
    x->agent = a;
    x->gpa = gpa;
    x->request = request;
    list_append(&a->releases, &x->link);
    r = loop_add_timer(a->loop, on_release_timer, x, &x->timer);
    if (r < 0)
        release_end(x, r, NULL);
    else
        release_step(x);
}

void regions_free(struct agent *a)
{
    while (!list_is_empty(&a->releases)) {
        struct release *x = list_first(&a->releases, struct release, link);
        loop_remove(x->timer);
        list_remove(&x->link);
        free(x);
    }
    while (!list_is_empty(&a->regions))
        region_free(list_first(&a->regions, struct region, link));
}

void region_rescan(struct agent *a)
{
    DIR *d = a->set.guest ? opendir(SYS_PLATFORM) : NULL;
    struct dirent *e;

    while (d && (e = readdir(d))) {
        char path[128];

        if (!str_starts(e->d_name, VIRTIO_MMIO_ID) || strlen(e->d_name) > 32)
            continue;
        (void)snprintf(path, sizeof(path), SYS_PLATFORM "/%.32s/driver", e->d_name);
        if (access(path, F_OK) == 0)
            continue;
        (void)attr_write(DRIVER_DIR "/bind", e->d_name); /* an empty slot answers ENODEV */
    }
    if (d)
        (void)closedir(d);
}
