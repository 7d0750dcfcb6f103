/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/early.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "agent/module.h"
#include "base/file.h"
#include "base/log.h"

#define NEW_ROOT "/root-of-agent"
#define MODULES_LIST "/modules.list"
#define CMDLINE_MAX 4096U
#define OPEN_FILES 16384

static const struct {
    const char *type, *target;
    unsigned long flags;
    const char *options;
} early_mounts[] = {
    {"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""},
    {"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""},
    {"devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "mode=755"},
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666"},
    {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777"},
    {"cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""},
    {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755"},
    {"tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777"},
};

/* Standard input, output and error: the console, if the kernel gave none. */
static void open_console(void)
{
    int fd = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);

    if (fd < 0)
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; fd >= 0 && i < 3; i++)
        if (fd != i)
            (void)dup2(fd, i);
    if (fd > 2)
        (void)close(fd);
}

static int mount_all(struct error **err)
{
    /* a file system of its own: the initramfs' root cannot be pivoted away from */
    if (mkdir(NEW_ROOT, 0755) < 0 && errno != EEXIST)
        return error_set(err, -errno, "new root");
    if (mount("root", NEW_ROOT, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755") < 0)
        return error_set(err, -errno, "new root");
    for (size_t i = 0; i < ARRAY_SIZE(early_mounts); i++) {
        char path[64];

        (void)snprintf(path, sizeof(path), NEW_ROOT "%s", early_mounts[i].target);
        if (mkdir(path, 0755) < 0 && errno != EEXIST)
            return error_set(err, -errno, "mount point %s", early_mounts[i].target);
        if (mount(early_mounts[i].type, path, early_mounts[i].type, early_mounts[i].flags,
                  early_mounts[i].options) < 0)
            return error_set(err, -errno, "mount %s", early_mounts[i].target);
    }
    return 0;
}

static void load_modules(void)
{
    _cleanup_(closep) int dir = open("/modules", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    _cleanup_(freep) char *cmdline = NULL;
    int r;

    if (access(MODULES_LIST, F_OK) < 0)
        return; /* a kernel with all built in */
    r = file_read_all(AT_FDCWD, NEW_ROOT "/proc/cmdline", CMDLINE_MAX, &cmdline, NULL);
    if (r < 0)
        log_error_errno(r, "kernel command line");
    modules_load(dir, MODULES_LIST, cmdline ? cmdline : "");
}

/* What the initramfs holds is memory of the guest: nothing of it is needed any more. */
static void free_initramfs(void)
{
    int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = root < 0 ? NULL : fdopendir(root);
    struct stat here, st;
    struct dirent *e;

    if (!d || fstat(root, &here) < 0) {
        (void)close_fd(root);
        return;
    }
    while ((e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (fstatat(root, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_dev != here.st_dev)
            continue; /* a mount: the new root */
        (void)dir_remove_tree(root, e->d_name);
    }
    (void)closedir(d);
}

static int switch_root(struct error **err)
{
    if (chdir(NEW_ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
        chdir("/") < 0)
        return error_set(err, -errno, "change to the new root");
    return 0;
}

int early_init(struct error **err)
{
    struct rlimit files = {.rlim_cur = OPEN_FILES, .rlim_max = OPEN_FILES};
    int r;

    (void)umask(0022);
    r = mount_all(err);
    if (r < 0)
        return r;
    load_modules();
    free_initramfs();
    r = switch_root(err);
    if (r < 0)
        return r;
    open_console();
    (void)setrlimit(RLIMIT_NOFILE, &files);
    return 0;
}
