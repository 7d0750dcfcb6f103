/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/facade.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "agent/mountapi.h"
#include "agent/watch.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

#define DATA "..data"
#define NEW_DATA "..data_tmp" /* kubelet's own name for it */
#define NEW_LINK "..link_tmp"
#define LINK_MAX 4096
#define FACADE_MODE 0755
#define GENERATION_MODE 0755 /* kubelet's, before an fsGroup changes it */
#define NAMES_BYTES 8192U

/* An overlay over a region. Its directories go one by one as volumes move on, so one that is gone here
 * needs another layer to be shown again. */
struct layer {
    struct list link;
    uint64_t gpa;
    unsigned number;
    unsigned users;  /* generations */
    bool is_thinned; /* something of it was removed */
};

/* A volume in a region while a generation is made of it. */
struct source {
    const struct region *region;
    int dir; /* owned */
    struct stat root, data;
};

char *facade_path(const struct agent *a, const char *name)
{
    _cleanup_(freep) char *rest = str_printf("volumes/%s", name);

    return agent_path(a, rest);
}

static char *layer_path(const struct agent *a, const struct layer *l, const char *rest)
{
    _cleanup_(freep) char *tail = str_printf("layers/%u/%s", l->number, rest);

    return agent_path(a, tail);
}

/* The one shared mount of the agent. */
static int facades_mount(struct agent *a, struct error **err)
{
    _cleanup_(freep) char *path = agent_path(a, "volumes");
    int r;

    if (a->facades_ready)
        return 0;
    r = dir_make(path, 0711);
    if (r < 0)
        return error_set(err, r, "directory of volumes");
    if (mount("volumes", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=711") < 0)
        return error_set(err, -errno, "memory of volumes");
    if (mount(NULL, path, NULL, MS_SHARED, NULL) < 0) {
        int e = -errno;
        (void)umount2(path, MNT_DETACH);
        return error_set(err, e, "share the mounts of volumes");
    }
    a->facades_ready = true;
    return 0;
}

/* ---- the volume in the region */

static int link_read(int dir, const char *name, char ret[LINK_MAX])
{
    ssize_t n = readlinkat(dir, name, ret, LINK_MAX - 1);

    if (n < 0)
        return -errno;
    ret[n] = '\0';
    return 0;
}

static bool is_ours(const char *name)
{
    return str_starts(name, "..") || strcmp(name, ".") == 0;
}

static int source_open(const struct region *region, const char *part, struct source *s,
                       struct generation *g, struct error **err)
{
    _cleanup_(freep) char *path = str_printf("%s/%s", region->path, part);
    char target[LINK_MAX];
    int r;

    *s = (struct source){.region = region};
    (void)snprintf(g->part, sizeof(g->part), "%s", part);
    s->dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (s->dir < 0 || fstat(s->dir, &s->root) < 0)
        return error_set(err, -errno, "the volume in its region: %s", strerror(errno));
    r = link_read(s->dir, DATA, target);
    if (r < 0)
        return error_set(err, r, "the volume has no " DATA);
    if (strlen(target) < 3 || strlen(target) >= FACADE_NAME_MAX || !str_starts(target, "..") ||
        strchr(target, '/') || fstatat(s->dir, target, &s->data, AT_SYMLINK_NOFOLLOW) < 0 ||
        !S_ISDIR(s->data.st_mode))
        return error_set(err, -EINVAL, DATA " names no directory of the volume");
    memcpy(g->source, target, strlen(target) + 1);
    return 0;
}

/* ---- layers */

static void layer_put(struct agent *a, struct layer *l)
{
    _cleanup_(freep) char *path = layer_path(a, l, "");
    _cleanup_(freep) char *all = layer_path(a, l, "all");

    if (l->users && --l->users)
        return;
    /* who still reads there keeps both for as long as he does */
    (void)umount2(all, MNT_DETACH);
    (void)umount2(path, MNT_DETACH);
    (void)rmdir(path);
    list_remove(&l->link);
    free(l);
}

static int layer_mount(struct agent *a, const struct layer *l, const struct region *region)
{
    _cleanup_(freep) char *path = layer_path(a, l, "");
    _cleanup_(freep) char *all = layer_path(a, l, "all");
    _cleanup_(freep) char *options =
        str_printf("lowerdir=%s,upperdir=%supper,workdir=%swork", region->path, path, path);
    int r = dir_make(path, 0700);

    if (r == 0 &&
        mount("layer", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=700,size=16m,nr_inodes=128k") < 0)
        r = -errno;
    for (size_t i = 0; r == 0 && i < 3; i++) {
        static const char *const names[] = {"upper", "work", "all"};
        _cleanup_(freep) char *dir = layer_path(a, l, names[i]);

        r = dir_make(dir, 0700);
    }
    if (r == 0 && mount("overlay", all, "overlay", MS_NOSUID | MS_NODEV, options) < 0)
        r = -errno;
    return r;
}

static char *generation_path(const struct agent *a, const struct layer *l,
                             const struct generation *g)
{
    _cleanup_(freep) char *rest = str_printf("all/%s/%s", g->part, g->source);

    return layer_path(a, l, rest);
}

/* A layer of the region that still has the generation, with one more user in g. */
static int layer_get(struct agent *a, const struct region *region, struct generation *g)
{
    struct layer *l;
    int r;

    list_foreach (l, &a->layers, link) {
        _cleanup_(freep) char *path = NULL;

        if (l->gpa != region->place.gpa)
            continue;
        path = l->is_thinned ? generation_path(a, l, g) : NULL;
        if (path && access(path, F_OK) < 0)
            continue;
        l->users++;
        g->layer = l;
        return 0;
    }
    l = xcalloc(1, sizeof(*l));
    l->gpa = region->place.gpa;
    l->number = ++a->last_number;
    l->users = 1;
    list_append(&a->layers, &l->link);
    r = layer_mount(a, l, region);
    if (r < 0)
        layer_put(a, l);
    else
        g->layer = l;
    return r;
}

/* ---- a generation in the facade */

/* Its directory in the facade, as kubelet makes it (watched: step by step), and the mount on it. */
static int generation_show(struct agent *a, int facade, const struct source *s,
                           const struct generation *g, bool watched, struct error **err)
{
    _cleanup_(freep) char *from = generation_path(a, g->layer, g);
    _cleanup_(closep) int mnt = -EBADF;
    const struct stat *st = &s->data;
    int r = 0;

    if (mkdirat(facade, g->name, watched ? 0700 : GENERATION_MODE) < 0)
        return error_set(err, -errno, "directory of the new generation");
    if (watched && fchmodat(facade, g->name, GENERATION_MODE, 0) < 0)
        r = -errno;
    if (r == 0 && (st->st_uid || st->st_gid || (st->st_mode & 07777) != GENERATION_MODE) &&
        (fchownat(facade, g->name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
         fchmodat(facade, g->name, st->st_mode & 07777, 0) < 0))
        r = -errno;
    if (r == 0) {
        mnt = mnt_clone(AT_FDCWD, from, false);
        r = mnt < 0 ? mnt : mnt_set_attrs(mnt, MNT_RDONLY | MNT_NOSUID | MNT_NODEV, false);
    }
    if (r == 0)
        r = mnt_attach_at(mnt, facade, g->name);
    if (r < 0) {
        (void)unlinkat(facade, g->name, AT_REMOVEDIR);
        return error_set(err, r, "show the new generation: %s", strerror(-r));
    }
    return 0;
}

static void generation_hide(struct agent *a, const char *volume, int facade,
                            const struct generation *g)
{
    _cleanup_(freep) char *path = facade_path(a, volume);
    _cleanup_(freep) char *dir = str_printf("%s/%s", path, g->name);

    (void)umount2(dir, MNT_DETACH | UMOUNT_NOFOLLOW);
    layer_put(a, g->layer);
    if (unlinkat(facade, g->name, AT_REMOVEDIR) < 0)
        log_warning_errno(-errno, "volume %s: %s stays behind", volume, g->name);
}

static int generation_add(struct agent *a, int facade, const struct source *s, struct generation *g,
                          bool watched, struct error **err)
{
    struct stat st;
    int r = layer_get(a, s->region, g);

    if (r < 0)
        return error_set(err, r, "layer over its region: %s", strerror(-r));
    g->is_noted = watch_others_are_noted(a);
    (void)snprintf(g->name, sizeof(g->name), "%s", g->source);
    /* a file written in place makes a generation that has the name of the one before */
    if (fstatat(facade, g->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        (void)snprintf(g->name, sizeof(g->name), "%.200s.%u", g->source, ++a->last_number);
    r = generation_show(a, facade, s, g, watched, err);
    if (r < 0)
        layer_put(a, g->layer);
    return r;
}

/* ---- links */

static int link_make(int facade, const char *name, const char *target, const struct stat *st)
{
    if (symlinkat(target, facade, name) < 0)
        return -errno;
    if ((st->st_uid || st->st_gid) &&
        fchownat(facade, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    return 0;
}

static int times_copy(int dir, const char *name, const struct stat *st)
{
    const struct timespec t[2] = {st->st_mtim, st->st_mtim};

    return utimensat(dir, name, t, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* The visible name, if it is not there already. first: with its times; later they are those of now. */
static int link_show(int facade, const struct source *s, const char *name, bool first)
{
    char target[LINK_MAX], there[LINK_MAX];
    struct stat st;
    int r;

    if (fstatat(s->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    r = S_ISLNK(st.st_mode) ? link_read(s->dir, name, target) : -EOPNOTSUPP;
    if (r < 0)
        return r;
    if (first) {
        r = link_make(facade, name, target, &st);
        return r < 0 ? r : times_copy(facade, name, &st);
    }
    r = link_read(facade, name, there);
    if (r == 0 && strcmp(there, target) == 0)
        return 0;
    if (r == -ENOENT)
        return link_make(facade, name, target, &st);
    (void)unlinkat(facade, NEW_LINK, 0);
    r = link_make(facade, NEW_LINK, target, &st);
    return r == 0 && renameat(facade, NEW_LINK, facade, name) < 0 ? -errno : r;
}

typedef int (*visible_fn)(int facade, const struct source *s, const struct dirent *e);

/* Calls fn for each visible name among the n bytes of directory entries. 0 or the first error. */
static int each_entry(const char *bytes, size_t n, visible_fn fn, int facade,
                      const struct source *s, char failed[FACADE_NAME_MAX])
{
    int r = 0;

    for (size_t at = 0; r == 0 && at < n;) {
        const struct dirent *e = (const void *)(bytes + at);

        at += e->d_reclen;
        if (is_ours(e->d_name))
            continue;
        r = fn(facade, s, e);
        if (r < 0)
            (void)snprintf(failed, FACADE_NAME_MAX, "%s", e->d_name);
    }
    return r;
}

/* For each visible name of dir, which is read from its beginning. */
static int each_visible(int dir, visible_fn fn, int facade, const struct source *s,
                        char failed[FACADE_NAME_MAX])
{
    _Alignas(struct dirent) char bytes[NAMES_BYTES]; /* musl's is the kernel's, and so is glibc's */
    long n = lseek(dir, 0, SEEK_SET) < 0 ? -1 : 1;
    int r = 0;

    while (r == 0 && n > 0) {
        n = syscall(SYS_getdents64, dir, bytes, sizeof(bytes));
        if (n > 0)
            r = each_entry(bytes, (size_t)n, fn, facade, s, failed);
    }
    return n < 0 ? -errno : r;
}

static int show_first(int facade, const struct source *s, const struct dirent *e)
{
    return link_show(facade, s, e->d_name, true);
}

static int show_later(int facade, const struct source *s, const struct dirent *e)
{
    return link_show(facade, s, e->d_name, false);
}

static int check_link(int facade, const struct source *s, const struct dirent *e)
{
    return e->d_type == DT_LNK ? 0 : -EOPNOTSUPP; /* EROFS knows */
}

static int drop_stale(int facade, const struct source *s, const struct dirent *e)
{
    const char *name = e->d_name;
    struct stat st;

    if (fstatat(s->dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT)
        return 0;
    return unlinkat(facade, name, 0) < 0 ? -errno : 0;
}

/* ---- the facade as a whole */

static int show_error(struct error **err, int r, const char *name)
{
    return error_set(err, r, "%s: %s", name,
                     r == -EOPNOTSUPP ? "beside " DATA " only links are known" : strerror(-r));
}

static int fill(struct agent *a, const char *name, int facade, const struct source *s,
                struct generation *g, struct error **err)
{
    char failed[FACADE_NAME_MAX] = DATA;
    struct stat st;
    int r = generation_add(a, facade, s, g, false, err);

    if (r < 0)
        return r;
    r = fstatat(s->dir, DATA, &st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
    if (r == 0)
        r = link_make(facade, DATA, g->name, &st);
    if (r == 0)
        r = times_copy(facade, DATA, &st);
    if (r == 0)
        r = each_visible(s->dir, show_first, facade, s, failed);
    if (r < 0) {
        generation_hide(a, name, facade, g);
        return show_error(err, r, failed);
    }
    /* last: what is made in it changes its time */
    if (((s->root.st_uid || s->root.st_gid) &&
         fchown(facade, s->root.st_uid, s->root.st_gid) < 0) ||
        ((s->root.st_mode & 07777) != FACADE_MODE && fchmod(facade, s->root.st_mode & 07777) < 0) ||
        times_copy(facade, ".", &s->root) < 0)
        log_warning_errno(-errno, "volume %s: attributes of its directory", name);
    return 0;
}

int facade_check(const struct region *region, const char *part, struct error **err)
{
    struct source s = {.dir = -EBADF};
    struct generation g;
    char failed[FACADE_NAME_MAX] = "";
    int r = source_open(region, part, &s, &g, err);

    if (r == 0) {
        r = each_visible(s.dir, check_link, -1, &s, failed);
        if (r < 0)
            (void)show_error(err, r, failed);
    }
    (void)close_fd(s.dir);
    return r;
}

int facade_new(struct agent *a, const char *name, const struct region *region, const char *part,
               struct generation *ret, struct error **err)
{
    _cleanup_(freep) char *path = facade_path(a, name);
    struct source s = {.dir = -EBADF};
    struct generation g = {0};
    int facade = -EBADF;
    int r = facades_mount(a, err);

    if (r == 0)
        r = source_open(region, part, &s, &g, err);
    if (r == 0) {
        facade = dir_open_or_make(path, FACADE_MODE);
        if (facade < 0)
            r = error_set(err, facade, "directory of the volume");
    }
    if (r == 0) {
        r = fill(a, name, facade, &s, &g, err);
        if (r < 0)
            (void)dir_remove_tree(AT_FDCWD, path);
    }
    (void)close_fd(facade);
    (void)close_fd(s.dir);
    if (r < 0)
        return error_prefix(err, r, "volume %s", name);
    *ret = g;
    return 0;
}

static bool settle_links(const char *name, int facade, const struct source *s)
{
    char failed[FACADE_NAME_MAX] = "";
    int r = each_visible(s->dir, show_later, facade, s, failed);

    if (r == 0)
        r = each_visible(facade, drop_stale, facade, s, failed);
    if (r < 0)
        log_warning_errno(r, "volume %s: link %s", name, failed);
    return r == 0;
}

int facade_update(struct agent *a, const char *name, const struct region *region, const char *part,
                  bool same_links, struct generation *g, struct generation *ret_old,
                  struct error **err)
{
    _cleanup_(freep) char *path = facade_path(a, name);
    _cleanup_(closep) int facade = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct source s = {.dir = -EBADF};
    struct generation next = {0};
    struct stat st;
    int r = facade < 0 ? error_set(err, -errno, "directory of the volume")
                       : source_open(region, part, &s, &next, err);

    if (r == 0)
        r = generation_add(a, facade, &s, &next, true, err);
    if (r == 0) {
        (void)unlinkat(facade, NEW_DATA, 0);
        r = fstatat(s.dir, DATA, &st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
        if (r == 0)
            r = link_make(facade, NEW_DATA, next.name, &st);
        if (r == 0 && renameat(facade, NEW_DATA, facade, DATA) < 0) /* the moment */
            r = -errno;
        if (r < 0) {
            (void)unlinkat(facade, NEW_DATA, 0);
            generation_hide(a, name, facade, &next);
            r = error_set(err, r, "rename " DATA ": %s", strerror(-r));
        }
    }
    if (r == 0) {
        next.is_unsettled = (!same_links || g->is_unsettled) && !settle_links(name, facade, &s);
        *ret_old = *g;
        *g = next;
    }
    (void)close_fd(s.dir);
    return r < 0 ? error_prefix(err, r, "volume %s", name) : 0;
}

/* Its files go as kubelet removes them: who watches them is told what he would be told on a host. If nobody has
 * watched anything in this guest since they were shown, that is not needed: they go with the mount. Whether
 * somebody does is looked after once a volume moves. */
void facade_retire(struct agent *a, const char *name, const struct generation *old)
{
    _cleanup_(freep) char *path = facade_path(a, name);
    _cleanup_(freep) char *files = generation_path(a, old->layer, old);
    _cleanup_(closep) int facade = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int r = 0;

    if (!old->is_noted || watch_others_exist(a)) {
        old->layer->is_thinned = true;
        r = dir_remove_tree(AT_FDCWD, files);
    }
    if (r < 0)
        log_warning_errno(r, "volume %s: the old generation goes without its events", name);
    generation_hide(a, name, facade, old);
    watch_note_others(a);
}

void facade_remove(struct agent *a, const char *name, const struct generation *g)
{
    _cleanup_(freep) char *path = facade_path(a, name);
    _cleanup_(closep) int facade = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (facade < 0)
        return;
    generation_hide(a, name, facade, g);
    if (dir_remove_tree(AT_FDCWD, path) < 0)
        log_warning("volume %s: its directory stays behind", name);
}

void facades_free(struct agent *a)
{
    while (!list_is_empty(&a->layers)) {
        struct layer *l = list_first(&a->layers, struct layer, link);

        list_remove(&l->link);
        free(l);
    }
}
