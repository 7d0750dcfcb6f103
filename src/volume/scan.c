/* SPDX-License-Identifier: Apache-2.0 */
/* One walk, depth first, every step below the descriptor of the directory before it; then a second look
 * at all that was found. The whole is done again while the volume changes. */
#include "volume/scan.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/str.h"
#include "erofs/entry.h"
#include "volume/dir-list.h"
#include "volume/kind.h"

#define PAGE_BYTES 4096U
#define DATA_LINK "..data"
#define SCAN_MEMORY_BYTES (96U << 20) /* names and targets at their limits fit */

const struct volume_limits volume_limits_default = {
    .nodes = LIMIT_VOLUME_NODES,
    .links = LIMIT_VOLUME_LINKS,
    .depth = LIMIT_VOLUME_DEPTH,
    .name_bytes = LIMIT_VOLUME_NAME_BYTES,
    .path_bytes = LIMIT_VOLUME_PATH_BYTES,
    .bytes = LIMIT_VOLUME_BYTES,
    .xattr_bytes = LIMIT_VOLUME_XATTR_BYTES,
    .tries = LIMIT_VOLUME_TRIES,
};

struct walk {
    const struct volume_limits *limits;
    int top; /* borrowed: what the caller gave */
    bool live;
    bool open_files; /* else only identity is wanted: no file opened, no xattr read */
    struct volume_scan *s;
    size_t room; /* entries allocated */
    uint32_t nodes, links;
    uint64_t bytes, xattr_bytes;
    bool changed; /* the failure is one of a moment: try again */
    char path[PATH_MAX];
    struct error **err;
};

/* ---- failing ---- */

static const char *shown(const char *path)
{
    return *path ? path : "the volume itself";
}

static int changed(struct walk *w, const char *path, const char *how)
{
    w->changed = true;
    return error_set(w->err, -EAGAIN, "%s: %s while the volume was read", shown(path), how);
}

static int failed(struct walk *w, int r, const char *path, const char *what)
{
    return error_set(w->err, r, "%s: %s: %s", shown(path), what, strerror(-r));
}

static int over(struct walk *w, const char *path, const char *what, uint64_t limit)
{
    return error_set(w->err, -E2BIG, "%s: %s (limit %llu)", shown(path), what,
                     (unsigned long long)limit);
}

/* What openat says of a name that was there a moment ago. */
static bool is_gone(int r)
{
    return r == -ENOENT || r == -ENOTDIR || r == -ELOOP || r == -ESTALE || r == -ENXIO;
}

static int no_memory(struct walk *w)
{
    return error_set(w->err, -ENOMEM, "no memory for the list of the volume's files");
}

/* ---- entries ---- */

static int entry_new(struct walk *w, const struct stat *st, struct volume_entry **ret)
{
    struct volume_scan *s = w->s;
    struct volume_entry *e;

    if (s->n == w->room) {
        size_t room = w->room ? 2 * w->room : 64;

        e = realloc(s->entries, room * sizeof(*e));
        if (!e)
            return no_memory(w);
        s->entries = e;
        w->room = room;
    }
    e = &s->entries[s->n];
    *e = (struct volume_entry){
        .path = arena_strdup(s->arena, w->path),
        .mode = st->st_mode,
        .uid = st->st_uid,
        .gid = st->st_gid,
        .mtime_s = st->st_mtim.tv_sec,
        .mtime_ns = (uint32_t)st->st_mtim.tv_nsec,
        .size = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0,
        .fd = -EBADF,
        .same_as = VOLUME_ENTRY_FIRST,
        .dev = st->st_dev,
        .ino = st->st_ino,
        .nlink = st->st_nlink,
        .ctime_s = st->st_ctim.tv_sec,
        .ctime_ns = (uint32_t)st->st_ctim.tv_nsec,
    };
    if (!e->path)
        return no_memory(w);
    s->n++;
    *ret = e;
    return 0;
}

static bool is_same(const struct volume_entry *e, const struct stat *st)
{
    return e->dev == st->st_dev && e->ino == st->st_ino && e->mode == st->st_mode &&
           e->uid == st->st_uid && e->gid == st->st_gid && e->mtime_s == st->st_mtim.tv_sec &&
           e->mtime_ns == (uint32_t)st->st_mtim.tv_nsec && e->ctime_s == st->st_ctim.tv_sec &&
           e->ctime_ns == (uint32_t)st->st_ctim.tv_nsec &&
           (!S_ISREG(e->mode) || e->size == (uint64_t)st->st_size);
}

/* ---- xattrs ---- */

#define XATTR_LIST_BYTES 65536
#define XATTR_VALUE_BYTES 65536

/* Labels that only the host's own policy can read. */
static bool is_host_label(const char *name)
{
    return strcmp(name, "security.selinux") == 0 || strcmp(name, "security.ima") == 0 ||
           strcmp(name, "security.evm") == 0 || str_starts(name, "trusted.");
}

static int add_xattr(struct walk *w, int fd, const char *name, struct buf *out)
{
    _cleanup_(freep) char *value = malloc(XATTR_VALUE_BYTES);
    ssize_t len;
    int r;

    if (!value)
        return no_memory(w);
    len = fgetxattr(fd, name, value, XATTR_VALUE_BYTES);
    if (len < 0 && errno == ENODATA)
        return changed(w, w->path, "an extended attribute vanished");
    if (len < 0)
        return failed(w, -errno, w->path, name);
    r = erofs_xattr_append(out, name, value, (size_t)len);
    return r < 0 ? failed(w, r, w->path, "its extended attributes") : 0;
}

static int keep_xattrs(struct walk *w, struct volume_entry *e, const struct buf *list)
{
    w->xattr_bytes += list->used;
    if (w->xattr_bytes > w->limits->xattr_bytes)
        return over(w, w->path, "more bytes of extended attributes than are taken",
                    w->limits->xattr_bytes);
    if (!list->used)
        return 0;
    e->xattrs = arena_memdup(w->s->arena, list->data, list->used);
    e->xattrs_len = list->used;
    return e->xattrs ? 0 : no_memory(w);
}

static int read_xattrs(struct walk *w, int fd, struct volume_entry *e)
{
    _cleanup_(freep) char *names = NULL;
    ssize_t len = flistxattr(fd, NULL, 0);
    struct buf list;
    int r = 0;

    if (len == 0 || (len < 0 && errno == ENOTSUP))
        return 0;
    names = malloc(XATTR_LIST_BYTES);
    if (!names)
        return no_memory(w);
    len = flistxattr(fd, names, XATTR_LIST_BYTES);
    if (len < 0)
        return failed(w, -errno, w->path, "its extended attributes");
    buf_init(&list, EROFS_XATTRS_MAX);
    for (const char *n = names; r == 0 && n < names + len; n += strlen(n) + 1)
        if (!is_host_label(n))
            r = add_xattr(w, fd, n, &list);
    if (r == 0)
        r = keep_xattrs(w, e, &list);
    buf_done(&list);
    return r;
}

/* ---- the walk ---- */

static int walk_dir(struct walk *w, int fd, struct volume_entry *self, uint32_t depth);

static int count_node(struct walk *w)
{
    if (++w->nodes > w->limits->nodes)
        return over(w, w->path, "more files and directories than are taken", w->limits->nodes);
    return 0;
}

static int visit_link(struct walk *w, int dirfd, const char *name, const struct stat *st)
{
    struct volume_entry *e;
    char target[PATH_MAX];
    ssize_t n;
    int r;

    if (++w->links > w->limits->links)
        return over(w, w->path, "more symlinks than are taken", w->limits->links);
    n = readlinkat(dirfd, name, target, sizeof(target));
    if (n < 0)
        return is_gone(-errno) || errno == EINVAL ? changed(w, w->path, "a symlink vanished")
                                                  : failed(w, -errno, w->path, "readlink");
    if (n == 0 || n == (ssize_t)sizeof(target))
        return error_set(w->err, -EINVAL, "%s: the symlink's target is too long", w->path);
    target[n] = '\0';
    r = entry_new(w, st, &e);
    if (r < 0)
        return r;
    e->link = arena_strdup(w->s->arena, target);
    return e->link ? 0 : no_memory(w);
}

/* Opens what fstatat just described, and no other: never a FIFO that would wait, nor a device. */
static int open_same(struct walk *w, int dirfd, const char *name, int flags, const struct stat *st)
{
    int fd = FP("volume.scan.open");
    struct stat now;

    if (fd == 0)
        fd = file_open_beneath(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | flags,
                               0);
    if (fd < 0)
        return is_gone(fd) ? changed(w, w->path, "it vanished")
                           : failed(w, fd, w->path, "opening it");
    if (fstat(fd, &now) < 0 || now.st_dev != st->st_dev || now.st_ino != st->st_ino) {
        (void)close_fd(fd);
        return changed(w, w->path, "it was replaced");
    }
    return fd;
}

/* Takes the file's fd when it is in the list. */
static int add_file(struct walk *w, int fd, const struct stat *st)
{
    struct volume_entry *e;
    int r;

    if ((uint64_t)st->st_size > w->limits->bytes ||
        w->limits->bytes - w->bytes < (uint64_t)st->st_size)
        return over(w, w->path, "more bytes in files than are taken", w->limits->bytes);
    w->bytes += (uint64_t)st->st_size;
    r = entry_new(w, st, &e);
    if (r < 0)
        return r;
    if (fd < 0)
        return 0;
    r = read_xattrs(w, fd, e);
    if (r == 0)
        e->fd = fd;
    return r;
}

static int visit_file(struct walk *w, int dirfd, const char *name, const struct stat *st)
{
    int fd = -EBADF, r = count_node(w);

    if (r < 0 || !w->open_files)
        return r < 0 ? r : add_file(w, -EBADF, st);
    fd = open_same(w, dirfd, name, 0, st);
    if (fd < 0)
        return fd;
    r = add_file(w, fd, st);
    if (r < 0)
        (void)close_fd(fd);
    return r;
}

static int visit_dir(struct walk *w, int dirfd, const char *name, const struct stat *st,
                     uint32_t depth)
{
    _cleanup_(closep) int fd = -EBADF;
    struct volume_entry *e;
    int r = count_node(w);

    if (r == 0 && depth > w->limits->depth)
        r = over(w, w->path, "directories are nested more deeply than is taken", w->limits->depth);
    if (r < 0)
        return r;
    fd = open_same(w, dirfd, name, O_DIRECTORY, st);
    if (fd < 0)
        return fd;
    r = entry_new(w, st, &e);
    return r < 0 ? r : walk_dir(w, TAKE_FD(fd), e, depth);
}

static const char *type_name(mode_t mode)
{
    return S_ISFIFO(mode)   ? "a FIFO"
           : S_ISSOCK(mode) ? "a socket"
           : S_ISCHR(mode)  ? "a character device"
           : S_ISBLK(mode)  ? "a block device"
                            : "no file, directory or symlink";
}

static int visit(struct walk *w, int dirfd, const char *name, uint32_t depth)
{
    struct stat st;

    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return is_gone(-errno) ? changed(w, w->path, "it vanished")
                               : failed(w, -errno, w->path, "stat");
    if (S_ISREG(st.st_mode))
        return visit_file(w, dirfd, name, &st);
    if (S_ISDIR(st.st_mode))
        return visit_dir(w, dirfd, name, &st, depth + 1);
    if (S_ISLNK(st.st_mode))
        return visit_link(w, dirfd, name, &st);
    return error_set(w->err, -EINVAL,
                     "%s: it is %s; a mapped volume has files, directories and symlinks", w->path,
                     type_name(st.st_mode));
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The writer's own names in a live volume, but for the generation in force. */
static bool is_hidden(const struct walk *w, const char *name, uint32_t depth)
{
    return depth == 0 && w->s->target[0] && str_starts(name, "..") &&
           strcmp(name, DATA_LINK) != 0 && strcmp(name, w->s->target) != 0;
}

/* The names of a directory, sorted; bounded by what the limits leave. The caller frees the vector. */
static int list_names(struct walk *w, int fd, uint32_t depth, char ***ret, size_t *ret_n)
{
    const size_t most = (size_t)w->limits->nodes + w->limits->links;
    _cleanup_(freep) char **names = NULL;
    size_t n = 0, room = 0;
    struct dir_list list;
    const struct dirent64 *d;
    int r;

    dir_list_init(&list, fd);
    while ((r = dir_list_next(&list, &d)) > 0) {
        if (is_hidden(w, d->d_name, depth))
            continue;
        if (strlen(d->d_name) > w->limits->name_bytes)
            return over(w, w->path, "it has a name with more bytes than are taken",
                        w->limits->name_bytes);
        if (n == most)
            return over(w, w->path, "more names than are taken", most);
        if (n == room)
            names = xrealloc(names, room = room ? 2 * room : 32, sizeof(*names));
        names[n] = arena_strdup(w->s->arena, d->d_name);
        if (!names[n++])
            return no_memory(w);
    }
    if (r < 0)
        return failed(w, r, w->path, "reading the directory");
    if (n)
        qsort(names, n, sizeof(*names), compare_names);
    *ret = TAKE(names);
    *ret_n = n;
    return 0;
}

/* Everything in a directory. Takes dir_fd. self is not used once there are more entries. */
static int walk_dir(struct walk *w, int dir_fd, struct volume_entry *self, uint32_t depth)
{
    const size_t used = strlen(w->path);
    _cleanup_(freep) char **names = NULL;
    _cleanup_(closep) int fd = dir_fd;
    size_t n = 0;
    int r = 0;

    if (w->open_files)
        r = read_xattrs(w, fd, self);
    if (r == 0)
        r = list_names(w, fd, depth, &names, &n);
    for (size_t i = 0; r == 0 && i < n; i++) {
        if (used + 1 + strlen(names[i]) > w->limits->path_bytes) {
            r = over(w, w->path, "it has a path with more bytes than are taken",
                     w->limits->path_bytes);
            break;
        }
        (void)snprintf(w->path + used, sizeof(w->path) - used, "%s%s", used ? "/" : "", names[i]);
        r = visit(w, fd, names[i], depth);
        w->path[used] = '\0';
    }
    return r;
}

/* ---- "..data" ---- */

/* The target of "..data" into out, "" if there is none. */
static int read_target(struct walk *w, char out[NAME_MAX + 1])
{
    char target[NAME_MAX + 2];
    ssize_t n = readlinkat(w->top, DATA_LINK, target, sizeof(target));

    out[0] = '\0';
    if (n < 0 && errno == ENOENT)
        return 0;
    if (n < 0 && errno == EINVAL)
        return error_set(w->err, -EINVAL, DATA_LINK ": it is no symlink");
    if (n < 0)
        return failed(w, -errno, DATA_LINK, "readlink");
    if (!volume_data_target_is_valid(target, (size_t)n))
        return error_set(w->err, -EINVAL,
                         DATA_LINK ": its target is no directory of a generation in the volume");
    memcpy(out, target, (size_t)n);
    out[n] = '\0';
    return 0;
}

/* Is "..data" still what it was? */
static int check_target(struct walk *w)
{
    char now[NAME_MAX + 1];
    int r = read_target(w, now);

    if (r == 0 && strcmp(now, w->s->target) != 0)
        return changed(w, DATA_LINK, "it was renamed");
    return r;
}

/* Reads "..data" and sees that it names a directory. */
static int find_generation(struct walk *w)
{
    struct stat st;
    int r = read_target(w, w->s->target);

    if (r < 0 || !w->s->target[0])
        return r;
    if (fstatat(w->top, w->s->target, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        int saved = -errno;

        r = check_target(w);
        return r < 0 ? r : failed(w, saved, DATA_LINK, "it is dangling");
    }
    if (!S_ISDIR(st.st_mode))
        return error_set(w->err, -EINVAL, DATA_LINK ": it names no directory");
    return 0;
}

/* ---- the second look ---- */

static int check_entry(struct walk *w, const struct volume_entry *e)
{
    struct stat st;
    int r;

    if (!*e->path && w->s->target[0])
        return 0; /* a live volume's own directory changes whenever the writer prepares something */
    if (e->fd >= 0)
        r = fstat(e->fd, &st);
    else
        r = fstatat(w->top, e->path, &st, AT_SYMLINK_NOFOLLOW | (*e->path ? 0 : AT_EMPTY_PATH));
    if (r < 0)
        return is_gone(-errno) ? changed(w, e->path, "it vanished")
                               : failed(w, -errno, e->path, "stat");
    return is_same(e, &st) ? 0 : changed(w, e->path, "it changed");
}

static int check_again(struct walk *w)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < w->s->n; i++)
        r = check_entry(w, &w->s->entries[i]);
    return r < 0 || !w->live ? r : check_target(w);
}

/* The name below "..data" that a visible link of the root has, or NULL. */
static const char *visible_name(const struct volume_entry *e)
{
    if (!S_ISLNK(e->mode) || strchr(e->path, '/') || !str_starts(e->link, DATA_LINK "/") ||
        strcmp(e->link + strlen(DATA_LINK "/"), e->path) != 0)
        return NULL;
    return e->path;
}

/* The name of an entry that lies directly in the generation, or NULL. */
static const char *published_name(const struct volume_scan *s, const struct volume_entry *e)
{
    size_t n = strlen(s->target);

    if (strncmp(e->path, s->target, n) != 0 || e->path[n] != '/' || strchr(e->path + n + 1, '/'))
        return NULL;
    return e->path + n + 1;
}

/* Both lists are sorted: they are walked side by side. */
static bool links_match(const struct volume_scan *s)
{
    size_t i = 0, k = 0;

    if (!s->target[0])
        return true;
    for (;;) {
        while (i < s->n && !visible_name(&s->entries[i]))
            i++;
        while (k < s->n && !published_name(s, &s->entries[k]))
            k++;
        if (i == s->n || k == s->n)
            return i == s->n && k == s->n;
        if (strcmp(visible_name(&s->entries[i++]), published_name(s, &s->entries[k++])) != 0)
            return false;
    }
}

/* ---- what comes of it ---- */

static int compare_inodes(const void *pa, const void *pb, void *userdata)
{
    const struct volume_scan *s = userdata;
    uint32_t i = *(const uint32_t *)pa, k = *(const uint32_t *)pb;
    const struct volume_entry *a = &s->entries[i], *b = &s->entries[k];

    if (a->dev != b->dev)
        return a->dev < b->dev ? -1 : 1;
    if (a->ino != b->ino)
        return a->ino < b->ino ? -1 : 1;
    return i < k ? -1 : i > k;
}

/* Names of one inode become one file: the first name keeps it. */
static int mark_hard_links(struct walk *w)
{
    struct volume_scan *s = w->s;
    _cleanup_(freep) uint32_t *list = NULL;
    size_t n = 0;

    for (size_t i = 0; i < s->n; i++)
        n += S_ISREG(s->entries[i].mode) && s->entries[i].nlink > 1;
    if (n < 2)
        return 0;
    list = calloc(n, sizeof(*list));
    if (!list)
        return no_memory(w);
    n = 0;
    for (size_t i = 0; i < s->n; i++)
        if (S_ISREG(s->entries[i].mode) && s->entries[i].nlink > 1)
            list[n++] = (uint32_t)i;
    qsort_r(list, n, sizeof(*list), compare_inodes, s);
    for (size_t i = 1; i < n; i++) {
        struct volume_entry *e = &s->entries[list[i]];
        const struct volume_entry *before = &s->entries[list[i - 1]];

        if (e->dev == before->dev && e->ino == before->ino)
            e->same_as = before->same_as == VOLUME_ENTRY_FIRST ? list[i - 1] : before->same_as;
    }
    return 0;
}

/* Empty files and second names need no descriptor; the rest is counted. */
static void settle_files(struct volume_scan *s)
{
    for (size_t i = 0; i < s->n; i++) {
        struct volume_entry *e = &s->entries[i];

        if (!S_ISREG(e->mode))
            continue;
        if (e->size == 0 || e->same_as != VOLUME_ENTRY_FIRST) {
            e->fd = close_fd(e->fd);
            continue;
        }
        s->n_fds += e->fd >= 0;
        s->bytes += e->size;
        s->pages += (e->size + PAGE_BYTES - 1) / PAGE_BYTES;
    }
}

static void hash_bytes(uint64_t *h, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;

    for (size_t i = 0; i < len; i++)
        *h =
            (*h ^ p[i]) * 1099511628211ULL; /* FNV-1a: who writes volumes is no adversary of ours */
}

static void hash_entry(uint64_t *h, const struct volume_entry *e, bool with_mtime, bool with_ctime)
{
    const uint64_t numbers[] = {
        e->mode,
        e->uid,
        e->gid,
        e->size,
        e->dev,
        e->ino,
        with_mtime ? (uint64_t)e->mtime_s : 0,
        with_mtime ? e->mtime_ns : 0,
        with_ctime ? (uint64_t)e->ctime_s : 0,
        with_ctime ? e->ctime_ns : 0,
    };

    hash_bytes(h, e->path, strlen(e->path) + 1);
    hash_bytes(h, numbers, sizeof(numbers));
    if (e->link)
        hash_bytes(h, e->link, strlen(e->link) + 1);
}

static void make_identity(struct volume_scan *s, bool live)
{
    const struct volume_entry *dir = &s->entries[0];
    uint64_t h = 14695981039346656037ULL;

    for (size_t i = 0; i < s->n; i++) {
        const struct volume_entry *e = &s->entries[i];

        if (s->target[0] && strcmp(e->path, s->target) == 0)
            dir = e;
        /* The directory of a live volume has new times whenever the writer prepares something. What is
         * not live loses its names when kubelet updates the volume: new ctimes, nothing else. */
        hash_entry(&h, e, i > 0 || !s->target[0], (i > 0 || !s->target[0]) && live);
    }
    (void)snprintf(s->identity.text, sizeof(s->identity.text), "%s %llx:%llx %lld.%09u %016llx",
                   s->target[0] ? s->target : "-", (unsigned long long)dir->dev,
                   (unsigned long long)dir->ino, s->target[0] ? (long long)dir->ctime_s : 0,
                   s->target[0] ? dir->ctime_ns : 0, (unsigned long long)h);
}

/* What the guest shows beside "..data" (agent/facade.h). */
static void hash_links(struct volume_scan *s)
{
    uint64_t h = 14695981039346656037ULL;

    for (size_t i = 0; i < s->n; i++) {
        const struct volume_entry *e = &s->entries[i];
        const uint64_t numbers[] = {e->mode, e->uid, e->gid};

        if (!*e->path || strchr(e->path, '/') || str_starts(e->path, ".."))
            continue;
        hash_bytes(&h, e->path, strlen(e->path) + 1);
        hash_bytes(&h, numbers, sizeof(numbers));
        if (e->link)
            hash_bytes(&h, e->link, strlen(e->link) + 1);
    }
    s->links = h ? h : 1;
}

bool volume_identity_equal(const struct volume_identity *a, const struct volume_identity *b)
{
    return strcmp(a->text, b->text) == 0;
}

/* ---- one try ---- */

static int read_tree(struct walk *w, const struct stat *st)
{
    struct volume_entry *e;
    int fd, r;

    if (st->st_nlink == 0)
        return error_set(w->err, -ENOENT, "the volume was removed");
    if (w->live)
        r = find_generation(w);
    else
        r = 0;
    if (r == 0)
        r = count_node(w);
    if (r == 0)
        r = entry_new(w, st, &e);
    if (r < 0)
        return r;
    fd = file_open_beneath(w->top, ".", O_RDONLY | O_DIRECTORY, 0);
    return fd < 0 ? failed(w, fd, "", "opening it") : walk_dir(w, fd, e, 0);
}

static int read_single(struct walk *w, const struct stat *st)
{
    int fd, r = count_node(w);

    if (r < 0 || !w->open_files)
        return r < 0 ? r : add_file(w, -EBADF, st);
    fd = fcntl(w->top, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return failed(w, -errno, "", "a descriptor for it");
    r = add_file(w, fd, st);
    if (r < 0)
        (void)close_fd(fd);
    return r;
}

static int read_once(struct walk *w)
{
    struct volume_scan *s = w->s;
    struct stat st;
    int r;

    s->arena = arena_new(SCAN_MEMORY_BYTES);
    if (fstat(w->top, &st) < 0)
        return failed(w, -errno, "", "fstat");
    if (S_ISDIR(st.st_mode))
        r = read_tree(w, &st);
    else if (S_ISREG(st.st_mode))
        r = read_single(w, &st);
    else
        r = error_set(w->err, -EINVAL, "the volume is %s", type_name(st.st_mode));
    if (r == 0)
        r = check_again(w);
    if (r == 0)
        r = mark_hard_links(w);
    if (r < 0)
        return r;
    s->is_settled = links_match(s);
    settle_files(s);
    make_identity(s, w->live);
    hash_links(s);
    return 0;
}

/* Reads until nothing changes meanwhile and, but for the last try, until the links are all there. */
static int read_volume(int fd, bool live, bool open_files, const struct volume_limits *limits,
                       struct volume_scan **ret, struct error **err)
{
    for (unsigned left = limits->tries;; left--) {
        _cleanup_(volume_scan_freep) struct volume_scan *s = xcalloc(1, sizeof(*s));
        _cleanup_(error_freep) struct error *why = NULL;
        struct walk w = {
            .limits = limits,
            .top = fd,
            .live = live,
            .open_files = open_files,
            .s = s,
            .err = &why,
        };
        int r = read_once(&w);

        if (r == 0 && (s->is_settled || left <= 1)) {
            *ret = TAKE(s);
            return 0;
        }
        if (r < 0 && (!w.changed || left <= 1))
            return error_set(err, r, "%s", error_text(why, r));
    }
}

int volume_scan(int fd, bool live, const struct volume_limits *limits, struct volume_scan **ret,
                struct error **err)
{
    return read_volume(fd, live, /* open_files= */ true, limits, ret, err);
}

int volume_identity_of(int fd, bool live, const struct volume_limits *limits,
                       struct volume_identity *ret, struct error **err)
{
    _cleanup_(volume_scan_freep) struct volume_scan *s = NULL;
    int r = read_volume(fd, live, /* open_files= */ false, limits, &s, err);

    if (r == 0)
        *ret = s->identity;
    return r;
}

void volume_scan_free(struct volume_scan *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n; i++)
        s->entries[i].fd = close_fd(s->entries[i].fd);
    free(s->entries);
    arena_free(s->arena);
    free(s);
}
