/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/region.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#include "agent/attr.h"
#include "agent/control.h"
#include "agent/dax.h"
#include "agent/watch.h"
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
#define RELEASE_RETRY_MS_MAX 1000 /* a container has the device open for itself */

static struct region *find(struct agent *a, uint64_t gpa)
{
    struct region *r;

    list_foreach (r, &a->regions, link)
        if (r->place.gpa == gpa)
            return r;
    return NULL;
}

/* _UID of "LNRO0005:07"; 0, which no region has: unknown. */
static uint32_t device_uid(const char *device)
{
    char path[128], text[ATTR_MAX + 1];

    (void)snprintf(path, sizeof(path), SYS_PLATFORM "/%.32s/firmware_node/uid", device);
    return attr_read(path, text, sizeof(text)) < 0 ? 0 : (uint32_t)strtoul(text, NULL, 10);
}

/* "LNRO0005:07" of a block device, by its place in the device tree. */
static int platform_device(const char *block, char ret[64])
{
    char path[64], real[PATH_MAX];
    ssize_t n;
    char *id;

    (void)snprintf(path, sizeof(path), SYS_BLOCK "/%.16s", block);
    n = readlink(path, real, sizeof(real) - 1);
    if (n < 0)
        return -errno;
    real[n] = '\0';
    id = strstr(real, "/" VIRTIO_MMIO_ID);
    if (!id || strcspn(id + 1, "/") >= 64)
        return -ENODEV;
    (void)snprintf(ret, 64, "%.*s", (int)strcspn(id + 1, "/"), id + 1);
    return 0;
}

static bool leads_to(const char *block, struct region_place place)
{
    char path[128], text[ATTR_MAX + 1], device[64];

    (void)snprintf(path, sizeof(path), SYS_BLOCK "/%.16s/device/resource", block);
    return attr_read(path, text, sizeof(text)) >= 0 && strtoull(text, NULL, 16) == place.gpa &&
           platform_device(block, device) == 0 && device_uid(device) == place.device;
}

static struct region_device *device_slot(struct agent *a, struct region_place place)
{
    return &a->devices[place.device % REGION_DEVICES];
}

/* Name ("pmem0") of the block device there. 0 or -EAGAIN. A device that stays while regions come and go behind
 * it is found where it was. */
static int find_device(struct agent *a, struct region_place place, char name[32])
{
    struct region_device *known = device_slot(a, place);
    struct dirent *e;
    int r = -EAGAIN;
    DIR *d;

    if (known->name[0] && leads_to(known->name, place)) {
        memcpy(name, known->name, sizeof(known->name));
        return 0;
    }
    *known = (struct region_device){0};
    d = opendir(SYS_BLOCK);
    while (d && r < 0 && (e = readdir(d))) {
        if (!str_starts(e->d_name, "pmem") || strlen(e->d_name) > 16 || !leads_to(e->d_name, place))
            continue;
        (void)snprintf(name, 32, "%.16s", e->d_name);
        memcpy(known->name, name, sizeof(known->name));
        r = 0;
    }
    if (d)
        (void)closedir(d);
    return r;
}

/* EROFS falls back to the page cache without a word, which costs each pod a copy of its image. What one
 * file system on a device can, the next one can, too. */
static void check_dax(struct agent *a, const struct region *r)
{
    struct region_device *device = device_slot(a, r->place);
    int dax = device->has_dax ? 1 : dax_probe(r->path);

    device->has_dax = dax > 0;
    if (dax == 0)
        log_warning("region %#" PRIx64 ": mounted without DAX", r->place.gpa);
    else
        log_debug("region %#" PRIx64 ": DAX %s", r->place.gpa, dax > 0 ? "on" : "not probed");
}

static int mount_region(struct agent *a, struct region *r, struct error **err)
{
    char name[32], device[40];
    int e;

    if (!a->set.guest) {
        free(r->path);
        r->path = str_printf("%s/region-%" PRIx64, a->set.socket_dir, r->place.gpa);
        return access(r->path, F_OK) < 0 ? -EAGAIN : 0;
    }
    if (find_device(a, r->place, name) < 0)
        return -EAGAIN;
    (void)snprintf(device, sizeof(device), "/dev/%s", name);
    if (access(device, F_OK) < 0)
        return -EAGAIN;
    e = dir_make(r->path, 0755);
    if (e < 0)
        return error_set(err, e, "mount point of region %#" PRIx64, r->place.gpa);
    if (mount(device, r->path, "erofs", MS_RDONLY | MS_NODEV | MS_NOATIME, "dax=always") < 0) {
        /* devtmpfs has the node some microseconds before the disk can be opened (block/genhd.c,
         * device_add_disk); the "add" event comes after */
        if (errno == ENXIO)
            return -EAGAIN;
        return error_set(err, -errno, "mount region %#" PRIx64 " (%s): %s", r->place.gpa, device,
                         strerror(errno));
    }
    log_debug("region %#" PRIx64 ": %s mounted", r->place.gpa, device);
    check_dax(a, r);
    return 0;
}

int region_get(struct agent *a, struct region_place place, struct region **ret, struct error **err)
{
    struct region *r = find(a, place.gpa);
    int e;

    if (!r) {
        char rest[48];

        (void)snprintf(rest, sizeof(rest), "regions/%" PRIx64, place.gpa);
        r = xcalloc(1, sizeof(*r));
        r->place = place;
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

/* A region on its way out. Its mount is taken away at once, the file system ends with its last reader:
 * then IN_UNMOUNT comes. The device is let go some microseconds after that, of which there is no event:
 * it is looked at. A device that is not there may be on its way: were it called gone, the driver would
 * meet the memory being taken away. */
struct release {
    struct list link;
    struct agent *agent;
    struct region_place place;
    uint64_t request;
    bool keep;                 /* the device's driver */
    unsigned tries;            /* to find the device, or to find it let go */
    struct watch *watch;       /* owned; NULL: it has no reader */
    struct loop_source *timer; /* owned */
};

static void release_free(struct release *x)
{
    watch_free(x->watch);
    loop_remove(x->timer);
    list_remove(&x->link);
    free(x);
}

static void release_end(struct release *x, int r, const struct error *err)
{
    control_reply(x->agent, x->request, r, err);
    release_free(x);
}

/* True if the file system still has the device. */
static bool device_is_held(const char *block)
{
    char path[64];
    int fd;

    (void)snprintf(path, sizeof(path), "/sys/fs/erofs/%.16s", block);
    if (access(path, F_OK) == 0)
        return true;
    (void)snprintf(path, sizeof(path), "/dev/%.16s", block);
    fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
    if (fd < 0)
        return errno == EBUSY;
    (void)close(fd);
    return false;
}

/* Pages that somebody else's open descriptor keeps would be the next region's first ones. */
static int device_forget(const char *block, uint64_t gpa, struct error **err)
{
    _cleanup_(closep) int fd = -EBADF;
    char path[64];

    (void)snprintf(path, sizeof(path), "/dev/%.16s", block);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, BLKFLSBUF, 0) < 0)
        return error_set(err, -errno, "region %#" PRIx64 ": forget the pages of %s", gpa, block);
    return 0;
}

static void release_step(struct release *x)
{
    _cleanup_(error_freep) struct error *err = NULL;
    char block[32];
    bool found;
    int r = 0;

    if (!x->agent->set.guest) {
        release_end(x, 0, NULL);
        return;
    }
    found = find_device(x->agent, x->place, block) == 0;
    x->tries++;
    if (found && device_is_held(block)) {
        uint64_t ms = (uint64_t)RELEASE_RETRY_MS * x->tries;

        loop_timer_set_after_ms(x->timer, ms < RELEASE_RETRY_MS_MAX ? ms : RELEASE_RETRY_MS_MAX);
        return;
    }
    if (!found && x->tries <= RELEASE_TRIES) {
        loop_timer_set_after_ms(x->timer, RELEASE_RETRY_MS);
        return;
    }
    if (found)
        r = x->keep ? device_forget(block, x->place.gpa, &err) : unbind(x->place.gpa, block, &err);
    release_end(x, r, err);
}

static void on_release_timer(struct loop_source *s, void *userdata)
{
    release_step(userdata);
}

static void on_last_reader_gone(struct watch *w, void *userdata)
{
    struct release *x = userdata;

    watch_free(TAKE(x->watch));
    release_step(x);
}

static void region_free(struct region *r)
{
    list_remove(&r->link);
    free(r->path);
    free(r);
}

static int unmount_region(struct release *x, struct region *r, struct error **err)
{
    struct agent *a = x->agent;
    int e = 0;

    if (a->set.guest)
        e = watch_new_end(a, r->path, on_last_reader_gone, x, &x->watch);
    if (e < 0)
        return error_set(err, e, "watch region %#" PRIx64, r->place.gpa);
    if (a->set.guest && umount2(r->path, MNT_DETACH) < 0)
        return error_set(err, -errno, "unmount region %#" PRIx64, r->place.gpa);
    if (a->set.guest)
        (void)rmdir(r->path);
    region_free(r);
    return 0;
}

void region_release(struct agent *a, struct region_place place, bool keep, uint64_t request)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct region *region = find(a, place.gpa);
    struct release *x = xcalloc(1, sizeof(*x));
    int r;

    x->agent = a;
    x->place = place;
    x->keep = keep;
    x->request = request;
    list_append(&a->releases, &x->link);
    r = loop_add_timer(a->loop, on_release_timer, x, &x->timer);
    if (r == 0 && region && region->users)
        r = error_set(&err, -EBUSY, "region %#" PRIx64 " is used by %u containers and volumes",
                      place.gpa, region->users);
    if (r == 0 && region)
        r = unmount_region(x, region, &err);
    if (r < 0)
        release_end(x, r, err);
    else if (!x->watch)
        release_step(x);
}

void regions_free(struct agent *a)
{
    while (!list_is_empty(&a->releases))
        release_free(list_first(&a->releases, struct release, link));
    while (!list_is_empty(&a->regions))
        region_free(list_first(&a->regions, struct region, link));
}

void region_want(struct agent *a, struct region_place place)
{
    DIR *d = a->set.guest && !find(a, place.gpa) ? opendir(SYS_PLATFORM) : NULL;
    struct dirent *e;

    while (d && (e = readdir(d))) {
        char path[128];

        if (!str_starts(e->d_name, VIRTIO_MMIO_ID) || strlen(e->d_name) > 32)
            continue;
        (void)snprintf(path, sizeof(path), SYS_PLATFORM "/%.32s/driver", e->d_name);
        if (access(path, F_OK) == 0 || device_uid(e->d_name) != place.device)
            continue;
        int r = attr_write(DRIVER_DIR "/bind", e->d_name);

        /* an empty slot answers ENODEV; EBUSY: the kernel was faster */
        if (r < 0 && r != -ENODEV && r != -EBUSY)
            log_warning_errno(r, "bind %s", e->d_name);
        break;
    }
    if (d)
        (void)closedir(d);
}
