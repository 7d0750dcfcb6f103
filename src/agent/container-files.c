/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/container-files.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "agent/scratch.h"
#include "agent/stats.h"
#include "agent/termination.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

#define INLINE_FILE_MAX (64U << 10)

static char *state_path(const struct container *k, const char *rest)
{
    _cleanup_(freep) char *tail = str_printf("containers/%s%s", k->spec->id, rest);

    return agent_path(k->agent, tail);
}

static char *layer_path(const struct container *k, const char *rest)
{
    _cleanup_(freep) char *tail = str_printf("scratch/%s%s", k->spec->id, rest);

    return agent_path(k->agent, tail);
}

static int mount_overlay(struct container *k, struct error **err)
{
    _cleanup_(freep) char *root = state_path(k, "/rootfs");
    _cleanup_(freep) char *upper = layer_path(k, "/upper");
    _cleanup_(freep) char *work = layer_path(k, "/work");
    /* volatile: the layer does not outlive the guest, so nothing of it must be synced */
    _cleanup_(freep) char *options =
        str_printf("lowerdir=%s,upperdir=%s,workdir=%s,volatile", k->region->path, upper, work);
    _cleanup_(freep) char *layer = layer_path(k, "");
    int r = dir_make(root, 0755);

    if (r == 0)
        r = dir_make(layer, 0755);
    if (r == 0) { /* both of what follows: overlayfs moves files from one to the other */
        k->project = stats_count_disk(k->agent, layer);
        r = dir_make(upper, 0755);
    }
    if (r == 0)
        r = dir_make(work, 0700);
    if (r < 0)
        return error_set(err, r, "writable layer");
    if (mount("overlay", root, "overlay", MS_NODEV, options) < 0)
        return error_set(err, -errno, "mount the root file system: %s", strerror(errno));
    return 0;
}

static int write_inline(struct container *k, size_t i, Nexus__InlineFile *f, struct error **err)
{
    char rest[48];
    _cleanup_(freep) char *path = NULL;
    _cleanup_(closep) int fd = -EBADF;
    int r;

    if (f->path[0] != '/' || strstr(f->path, "/../") || str_ends(f->path, "/.."))
        return error_set(err, -EINVAL, "file \"%.256s\": no absolute path", f->path);
    if (f->content.len > INLINE_FILE_MAX)
        return error_set(err, -EFBIG, "file %.256s is larger than %u bytes", f->path,
                         INLINE_FILE_MAX);
    (void)snprintf(rest, sizeof(rest), "/files/%zu", i);
    path = state_path(k, rest);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    r = fd < 0 ? -errno : write_full(fd, f->content.data, f->content.len);
    if (r == 0 && fchmod(fd, f->mode ? f->mode & 07777 : 0644) < 0)
        r = -errno;
    if (r == 0 && f->comes_back)
        r = k->termination ? -EEXIST : termination_new(k->agent, path, &k->termination);
    if (r < 0)
        return error_set(err, r, "file %.256s", f->path);
    free(f->content.data); /* it is in the file now; once is enough */
    f->content = (ProtobufCBinaryData){0};
    return 0;
}

int container_files_make(struct container *k, struct error **err)
{
    _cleanup_(freep) char *files = state_path(k, "/files");
    int r;

    if (k->spec->n_files + 3 > ROOTFS_FILES_MAX)
        return error_set(err, -E2BIG, "more than %d files", ROOTFS_FILES_MAX - 3);
    r = scratch_mount(k->agent, err);
    if (r < 0)
        return r;
    r = dir_make(files, 0700);
    if (r < 0)
        return error_set(err, r, "files of the container");
    for (size_t i = 0; r == 0 && i < k->spec->n_files; i++)
        r = write_inline(k, i, k->spec->files[i], err);
    if (r == 0)
        r = mount_overlay(k, err);
    return r;
}

static bool is_given(const Nexus__ContainerSpec *s, const char *path)
{
    for (size_t i = 0; i < s->n_files; i++)
        if (strcmp(s->files[i]->path, path) == 0)
            return true;
    return false;
}

static void add_file(struct rootfs_plan *p, char *source, const char *target, bool readonly)
{
    p->files[p->n_files++] =
        (struct rootfs_file){.source = source, .target = target, .readonly = readonly};
}

int container_files_plan(const struct container *k, struct rootfs_plan *ret, struct error **err)
{
    static const struct {
        const char *source, *target;
    } pod_files[] = {
        {"sandbox/resolv.conf", "/etc/resolv.conf"},
        {"sandbox/hostname", "/etc/hostname"},
        {"sandbox/hosts", "/etc/hosts"},
    };
    const Nexus__ContainerSpec *s = k->spec;

    *ret = (struct rootfs_plan){
        .root = state_path(k, "/rootfs"),
        .readonly = s->readonly_rootfs,
        .privileged = s->privileged,
        .shm = agent_path(k->agent, "sandbox/shm"),
        .devpts = -EBADF,
        .console = -1,
        .devices = s->devices,
        .n_devices = s->n_devices,
        .masked = s->masked_paths,
        .n_masked = s->n_masked_paths,
        .readonly_paths = s->readonly_paths,
        .n_readonly_paths = s->n_readonly_paths,
    };
    for (size_t i = 0; i < ARRAY_SIZE(pod_files); i++)
        if (!is_given(s, pod_files[i].target))
            add_file(ret, agent_path(k->agent, pod_files[i].source), pod_files[i].target,
                     s->readonly_rootfs);
    for (size_t i = 0; i < s->n_files; i++) {
        char rest[48];
        (void)snprintf(rest, sizeof(rest), "/files/%zu", i);
        add_file(ret, state_path(k, rest), s->files[i]->path, s->files[i]->readonly);
    }
    return volumes_plan(k, ret, err);
}

void container_files_plan_done(struct rootfs_plan *p)
{
    for (size_t i = 0; i < p->n_files; i++)
        free(p->files[i].source);
    for (size_t i = 0; i < p->n_volumes; i++)
        free(p->volumes[i].source);
    p->n_files = p->n_volumes = 0;
    free(p->root);
    free(p->shm);
    p->root = p->shm = NULL;
}

/* A writable layer can hold any number of files: the loop does not wait for their removal. */
static _Noreturn void child_remove_layer(void *arg, int status_fd)
{
    const char *path = arg;
    int r = dir_remove_tree(AT_FDCWD, path);

    if (r < 0)
        log_warning_errno(r, "writable layer %s stays behind", path);
    _exit(r < 0);
}

static void remove_layer(struct container *k)
{
    static unsigned count; /* a new container may have the same id: move it out of the way first */
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(freep) char *layer = layer_path(k, "");
    _cleanup_(freep) char *tail = str_printf("scratch/.removed-%u", count++);
    _cleanup_(freep) char *dead = agent_path(k->agent, tail);
    struct spawn spawn = {
        .cgroup_fd = -EBADF, .pidns_of = -EBADF, .child = child_remove_layer, .arg = dead};
    struct process *p;
    int status;

    if (rename(layer, dead) < 0) {
        if (errno != ENOENT)
            log_warning_errno(-errno, "writable layer of container %s", k->spec->id);
        return;
    }
    if (process_spawn(k->agent, &spawn, NULL, NULL, &p, &status, &err) < 0)
        log_warning("container %s: %s", k->spec->id, error_text(err, 0));
    else
        (void)close(status);
}

void container_files_remove(struct container *k)
{
    _cleanup_(freep) char *root = state_path(k, "/rootfs");
    _cleanup_(freep) char *containers = agent_path(k->agent, "containers");
    int dir;

    /* never through a mount: removing the state directory must not touch the image or the layer */
    if (umount2(root, UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT)
        (void)umount2(root, MNT_DETACH | UMOUNT_NOFOLLOW);
    dir = open(containers, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0 && dir_remove_tree(dir, k->spec->id) < 0)
        log_warning("state of container %s stays behind", k->spec->id);
    (void)close_fd(dir);
    remove_layer(k);
}
