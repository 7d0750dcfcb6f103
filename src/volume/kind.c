/* SPDX-License-Identifier: Apache-2.0 */
/* The parser takes a path apart as text; volume_find then opens each part below the one before it, so
 * that what was decided about is what was opened. */
#include "volume/kind.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/file.h"
#include "base/str.h"

#define PLUGIN_PREFIX "kubernetes.io~"

static const struct {
    const char *name;
    enum volume_plugin plugin;
} plugins[] = {
    {"secret", VOLUME_PLUGIN_SECRET},
    {"configmap", VOLUME_PLUGIN_CONFIGMAP},
    {"projected", VOLUME_PLUGIN_PROJECTED},
    {"downward-api", VOLUME_PLUGIN_DOWNWARD_API},
};

const char *volume_plugin_name(enum volume_plugin plugin)
{
    for (size_t i = 0; i < ARRAY_SIZE(plugins); i++)
        if (plugins[i].plugin == plugin)
            return plugins[i].name;
    return plugin == VOLUME_PLUGIN_CONTENT ? "content" : "other";
}

static enum volume_plugin plugin_of(const char *dir_name)
{
    if (str_starts(dir_name, PLUGIN_PREFIX))
        for (size_t i = 0; i < ARRAY_SIZE(plugins); i++)
            if (strcmp(dir_name + strlen(PLUGIN_PREFIX), plugins[i].name) == 0)
                return plugins[i].plugin;
    return VOLUME_PLUGIN_OTHER;
}

bool volume_data_target_is_valid(const char *target, size_t len)
{
    return len > 2 && len <= NAME_MAX && target[0] == '.' && target[1] == '.' &&
           !memchr(target, '/', len) && !memchr(target, '\0', len) &&
           !(len == 6 && memcmp(target, "..data", 6) == 0) &&
           !(len == 10 && memcmp(target, "..data_tmp", 10) == 0);
}

/* ---- paths as text ---- */

/* The next component of *at, moved behind it; "." and empty ones are passed over. 0 at the end. */
static size_t next_part(const char **at, const char **ret)
{
    for (;;) {
        size_t n;

        *at += strspn(*at, "/");
        n = strcspn(*at, "/");
        *ret = *at;
        *at += n;
        if (n != 1 || **ret != '.')
            return n;
    }
}

/* What path has behind base, component by component; NULL: it does not lie there. */
static const char *below(const char *base, const char *path)
{
    for (;;) {
        const char *a, *b, *before = path;
        size_t n = next_part(&base, &a), m;

        if (n == 0)
            return before;
        m = next_part(&path, &b);
        if (n != m || memcmp(a, b, n) != 0)
            return NULL;
    }
}

static bool has_dot_dot(const char *path)
{
    const char *part;
    size_t n;

    while ((n = next_part(&path, &part)) > 0)
        if (n == 2 && part[0] == '.' && part[1] == '.')
            return true;
    return false;
}

/* The components of a cleaned relative path, at most max of them; the count of all. */
struct part {
    const char *text;
    size_t len;
};
#define PARTS_MAX 6

static size_t split(const char *rel, struct part parts[PARTS_MAX])
{
    size_t n = 0, len;
    const char *text;

    while ((len = next_part(&rel, &text)) > 0) {
        if (n < PARTS_MAX)
            parts[n] = (struct part){text, len};
        n++;
    }
    return n;
}

static bool part_is(const struct part *p, const char *text)
{
    return p->len == strlen(text) && memcmp(p->text, text, p->len) == 0;
}

static void part_copy(const struct part *p, char out[NAME_MAX + 1])
{
    size_t n = p->len <= NAME_MAX ? p->len : 0; /* no file has a longer name: nothing is there */

    memcpy(out, p->text, n);
    out[n] = '\0';
}

/* Appends the components of rest to rel. */
static int clean_into(const char *rest, char rel[PATH_MAX])
{
    const char *text;
    size_t used = 0, n;

    while ((n = next_part(&rest, &text)) > 0) {
        if (used + 1 + n >= PATH_MAX)
            return -ENAMETOOLONG;
        if (used)
            rel[used++] = '/';
        memcpy(rel + used, text, n);
        used += n;
    }
    rel[used] = '\0';
    return 0;
}

static void classify_kubelet(struct volume_path *p)
{
    struct part parts[PARTS_MAX] = {0};
    size_t n = split(p->rel, parts);
    char dir[NAME_MAX + 1];

    if (n < 3 || !part_is(&parts[0], "pods"))
        return;
    part_copy(&parts[1], p->pod_uid);
    if (n == 3 && part_is(&parts[2], "etc-hosts")) {
        p->place = VOLUME_PLACE_HOSTS;
    } else if (n == 5 && part_is(&parts[2], "containers")) {
        p->place = VOLUME_PLACE_TERMINATION_LOG;
        part_copy(&parts[3], p->name);
    } else if (n >= 5 && part_is(&parts[2], "volumes")) {
        p->place = VOLUME_PLACE_VOLUME;
        part_copy(&parts[3], dir);
        part_copy(&parts[4], p->name);
        p->plugin = plugin_of(dir);
        p->root_len = (size_t)(parts[4].text + parts[4].len - p->rel);
    } else if (n >= 6 && part_is(&parts[2], "volume-subpaths")) {
        p->place = VOLUME_PLACE_SUBPATH;
        part_copy(&parts[3], p->name);
        p->root_len = (size_t)(parts[5].text + parts[5].len - p->rel);
    }
}

int volume_path_parse(const struct volume_roots *roots, const char *host_path,
                      struct volume_path *ret)
{
    const char *kubelet = roots->kubelet_root ? roots->kubelet_root : VOLUME_KUBELET_ROOT;
    const char *rest;
    int r;

    *ret = (struct volume_path){.base = ""};
    if (host_path[0] != '/')
        return -EINVAL;
    if (strnlen(host_path, PATH_MAX) >= PATH_MAX)
        return -ENAMETOOLONG;
    if (has_dot_dot(host_path))
        return 0;
    rest = below(kubelet, host_path);
    if (rest) {
        ret->base = kubelet;
        r = clean_into(rest, ret->rel);
        if (r < 0)
            return r;
        classify_kubelet(ret);
        if (ret->place != VOLUME_PLACE_OTHER)
            return 0;
    }
    for (size_t i = 0; roots->listed && roots->listed[i]; i++) {
        rest = below(roots->listed[i], host_path);
        if (!rest)
            continue;
        ret->place = VOLUME_PLACE_LISTED;
        ret->base = roots->listed[i];
        return clean_into(rest, ret->rel);
    }
    return 0;
}

/* ---- opening ---- */

/* Below dirfd, through its symlinks but not out of it. */
static int open_inside(int dirfd, const char *path, int flags)
{
    struct open_how how = {
        .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    long fd = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));

    return fd < 0 ? -errno : (int)fd;
}

static int open_base(const char *base)
{
    int fd = open(*base ? base : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

/* A read-only mount of its own for what fd is; fd itself, duplicated, where that is not allowed. */
static int clone_mount(int fd)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                                          MOUNT_ATTR_NOEXEC};
    int tree =
        open_tree(fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);

    if (tree < 0 && errno != EPERM && errno != ENOSYS && errno != EINVAL)
        return -errno;
    if (tree >= 0 && mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)) < 0)
        tree = close_fd(tree);
    if (tree < 0)
        tree = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return tree < 0 ? -errno : tree;
}

/* A readable file from an O_PATH one, the same inode. */
static int reopen_file(int path_fd)
{
    char proc[40];
    int fd;

    (void)snprintf(proc, sizeof(proc), "/proc/self/fd/%d", path_fd);
    fd = open(proc, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    return fd < 0 ? -errno : fd;
}

int volume_reopen(const char *base, const char *rel)
{
    _cleanup_(closep) int base_fd = open_base(base);
    _cleanup_(closep) int fd = -EBADF;

    if (base_fd < 0)
        return base_fd;
    fd = file_open_beneath(base_fd, *rel ? rel : ".", O_PATH | O_DIRECTORY, 0);
    return fd < 0 ? fd : clone_mount(fd);
}

/* ---- which volume is it ---- */

/* One directory of pods/UID/volumes: has it the volume `name`, and on which device? */
static bool plugin_has(int volumes, const char *dir, const char *name, dev_t *ret_dev)
{
    _cleanup_(closep) int fd = file_open_beneath(volumes, dir, O_PATH | O_DIRECTORY, 0);
    struct stat st;

    if (fd < 0 || fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
        return false;
    *ret_dev = st.st_dev;
    return true;
}

/* The plugin of the volume that a bind mount is a part of. Names of volumes are unique in a pod, but a
 * PersistentVolume shows under its own name and may collide with one: then the device decides, and if it
 * cannot, the volume is not ours to make read-only. */
static enum volume_plugin subpath_plugin(int base_fd, const struct volume_path *p, dev_t dev)
{
    char path[NAME_MAX + 32];
    _cleanup_(closep) int volumes = -EBADF;
    enum volume_plugin found = VOLUME_PLUGIN_OTHER;
    bool is_found_there = false, is_other = false, is_other_there = false;
    struct dirent *d;
    DIR *dir;

    (void)snprintf(path, sizeof(path), "pods/%s/volumes", p->pod_uid);
    volumes = file_open_beneath(base_fd, path, O_RDONLY | O_DIRECTORY, 0);
    if (volumes < 0)
        return VOLUME_PLUGIN_OTHER;
    dir = fdopendir(volumes);
    if (!dir)
        return VOLUME_PLUGIN_OTHER;
    while ((d = readdir(dir))) {
        enum volume_plugin plugin = plugin_of(d->d_name);
        dev_t its = 0;

        if (d->d_name[0] == '.' || !plugin_has(volumes, d->d_name, p->name, &its))
            continue;
        if (plugin == VOLUME_PLUGIN_OTHER) {
            is_other = true;
            is_other_there |= its == dev;
        } else {
            found = plugin;
            is_found_there = its == dev;
        }
    }
    (void)closedir(dir);
    volumes = -EBADF; /* closed with it */
    if (is_other && (is_other_there || !is_found_there))
        return VOLUME_PLUGIN_OTHER;
    return found;
}

/* A valid "..data" link in the directory? */
static bool has_data_link(int fd)
{
    char target[NAME_MAX + 2];
    ssize_t n = readlinkat(fd, "..data", target, sizeof(target));

    return n > 0 && volume_data_target_is_valid(target, (size_t)n);
}

/* Goes down from a listed directory to the first volume on the way. An fd and what of rel names it, or
 * -ENOENT: none. */
static int find_listed(int base_fd, const struct volume_path *p, size_t *ret_root_len)
{
    _cleanup_(closep) int fd = fcntl(base_fd, F_DUPFD_CLOEXEC, 3);
    const char *at = p->rel, *text;
    char part[NAME_MAX + 1];
    size_t n;

    for (;;) {
        int next;

        if (fd < 0)
            return -ENOENT;
        if (has_data_link(fd)) {
            *ret_root_len = (size_t)(at - p->rel);
            return TAKE_FD(fd);
        }
        n = next_part(&at, &text);
        if (n == 0 || n > NAME_MAX)
            return -ENOENT;
        memcpy(part, text, n);
        part[n] = '\0';
        next = file_open_beneath(fd, part, O_PATH | O_DIRECTORY, 0);
        (void)close_fd(fd);
        fd = next;
    }
}

/* ---- volume_find ---- */

static int fail(struct error **err, int r, const char *host_path, const char *why)
{
    if (r == -ELOOP || r == -EXDEV || r == -ENOTDIR)
        return error_set(err, -EINVAL, "volume %s: a symlink or file is where kubelet has none",
                         host_path);
    return error_set(err, r, "volume %s: %s: %s", host_path, why, strerror(-r));
}

/* The fd for the scan. root: O_PATH fd of the volume (or bind mount); inside: the rest of the path. */
static int open_object(struct volume_mount *m, int root, const char *inside, const char *host_path,
                       struct error **err)
{
    _cleanup_(closep) int tree = clone_mount(root);
    _cleanup_(closep) int object = -EBADF;
    struct stat st;

    if (tree < 0)
        return fail(err, tree, host_path, "opening it");
    if (*inside) {
        object = open_inside(tree, inside, O_PATH);
        if (object < 0)
            return fail(err, object, host_path, "opening it");
    } else {
        object = TAKE_FD(tree);
    }
    if (fstat(object, &st) < 0)
        return fail(err, -errno, host_path, "fstat");
    m->is_file = S_ISREG(st.st_mode);
    m->live = S_ISDIR(st.st_mode) && !*inside && m->place != VOLUME_PLACE_SUBPATH;
    if (S_ISDIR(st.st_mode)) {
        m->fd = TAKE_FD(object);
        return 0;
    }
    if (!m->is_file)
        return error_set(err, -EINVAL, "volume %s: neither a file nor a directory", host_path);
    m->fd = reopen_file(object);
    return m->fd < 0 ? fail(err, m->fd, host_path, "opening it") : 0;
}

/* Opens the volume itself; -ENOENT with *ret_none: it is none of ours. */
static int open_root(const struct volume_path *p, int base_fd, enum volume_plugin *plugin,
                     size_t *root_len, bool *ret_none)
{
    char root[PATH_MAX];
    struct stat st;
    int fd;

    *ret_none = false;
    *root_len = p->root_len;
    *plugin = p->plugin;
    if (p->place == VOLUME_PLACE_LISTED) {
        *plugin = VOLUME_PLUGIN_CONTENT;
        fd = find_listed(base_fd, p, root_len);
        *ret_none = fd < 0;
        return fd;
    }
    memcpy(root, p->rel, p->root_len);
    root[p->root_len] = '\0';
    fd = file_open_beneath(base_fd, root, O_PATH | O_NOFOLLOW, 0);
    if (fd < 0 || p->place != VOLUME_PLACE_SUBPATH)
        return fd;
    if (fstat(fd, &st) == 0)
        *plugin = subpath_plugin(base_fd, p, st.st_dev);
    *ret_none = *plugin == VOLUME_PLUGIN_OTHER;
    if (*ret_none)
        fd = close_fd(fd);
    return fd;
}

static int find_mapped(const struct volume_path *p, const char *host_path, struct volume_mount *m,
                       struct error **err)
{
    _cleanup_(closep) int base_fd = open_base(p->base);
    _cleanup_(closep) int root = -EBADF;
    const char *inside;
    size_t root_len;
    bool none;
    int r;

    if (base_fd < 0)
        return fail(err, base_fd, host_path, p->base);
    root = open_root(p, base_fd, &m->plugin, &root_len, &none);
    if (none)
        return 0;
    if (root < 0)
        return fail(err, root, host_path, "opening it");
    inside = p->rel + root_len;
    inside += *inside == '/';
    r = open_object(m, root, inside, host_path, err);
    if (r < 0)
        return r;
    m->kind = VOLUME_MAPPED;
    m->base = str_dup(p->base);
    m->rel = m->live ? str_ndup(p->rel, root_len) : str_dup(p->rel);
    return 0;
}

int volume_find(const struct volume_roots *roots, const char *host_path, struct volume_mount *ret,
                struct error **err)
{
    struct volume_mount m = {.fd = -EBADF};
    struct volume_path p;
    int r = volume_path_parse(roots, host_path, &p);

    if (r < 0)
        return error_set(err, r, "volume %s: %s", host_path,
                         r == -EINVAL ? "not an absolute path" : strerror(-r));
    m.place = p.place;
    m.plugin = p.plugin;
    if (p.place == VOLUME_PLACE_HOSTS || p.place == VOLUME_PLACE_TERMINATION_LOG)
        m.kind = VOLUME_SMALL_FILE;
    else if (p.place == VOLUME_PLACE_SUBPATH || p.place == VOLUME_PLACE_LISTED ||
             (p.place == VOLUME_PLACE_VOLUME && p.plugin != VOLUME_PLUGIN_OTHER))
        r = find_mapped(&p, host_path, &m, err);
    if (r < 0) {
        volume_mount_done(&m);
        return r;
    }
    if (!m.base) {
        m.base = str_dup("");
        m.rel = str_dup("");
    }
    m.pod_uid = str_dup(p.pod_uid);
    m.name = str_dup(p.name);
    *ret = m;
    return 0;
}

void volume_mount_done(struct volume_mount *m)
{
    free(m->base);
    free(m->rel);
    free(m->pod_uid);
    free(m->name);
    m->fd = close_fd(m->fd);
    m->base = m->rel = m->pod_uid = m->name = NULL;
}
