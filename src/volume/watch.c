/* SPDX-License-Identifier: Apache-2.0 */
/* Events only mark volumes and put them into a queue; what is true is then looked up: which directories
 * there are (follow), whether the volume still is what its owner has (compare). So the order and the
 * number of events do not matter, and a lost one does no harm. */
#include "volume/watch.h"

#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/list.h"
#include "base/str.h"
#include "volume/dir-list.h"
#include "volume/watch-internal.h"

#define EVENT_BYTES 8192
#define READS_PER_TURN 4
#define VOLUMES_PER_TURN 8
#define DATA_LINK "..data"
#define NAME_EVENTS (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO)
#define WRITE_EVENTS (IN_MODIFY | IN_CLOSE_WRITE)
#define END_EVENTS (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED)

struct volume_watched {
    struct volume_watch *watch; /* borrowed */
    struct list in_watch, in_queue;
    volume_notice_fn fn;
    void *userdata;
    bool live;
    char *base, *rel;          /* owned; live */
    int fd;                    /* owned; not live */
    struct list uses;          /* watch_use.in_owner */
    uint64_t round;            /* of follow */
    uint32_t watches;          /* in this round */
    char target[NAME_MAX + 1]; /* of "..data" when last followed; "": none */
    bool must_follow;          /* the directories may be others by now */
    bool must_compare;         /* without an event: after rearm and overflow */
    bool may_be_gone;          /* told of even while the owner is busy */
    bool armed, gone, has_seen, has_told;
    bool quiet;                  /* nothing was noted since the last notice */
    char known[NAME_MAX + 1];    /* target of what the owner has or was told of; "": not known */
    struct volume_identity seen; /* what the owner has */
    struct volume_identity told; /* what the volume was at the last CHANGED, */
    int told_r;                  /* or the errno why that could not be seen */
    unsigned pending;            /* VOLUME_*, not told yet */
    int blind;                   /* errno of the last follow that failed, 0 */
    char written[256];           /* first path of WRITTEN */
};

struct volume_watch {
    int epoll_fd, inotify_fd, event_fd; /* owned */
    struct volume_limits limits;
    struct watch_table table;
    struct list volumes, queue;
};

/* ---- the queue ---- */

static void enqueue(struct volume_watched *v)
{
    const uint64_t one = 1;

    if (v->gone || list_is_linked(&v->in_queue))
        return;
    list_append(&v->watch->queue, &v->in_queue);
    (void)!write(v->watch->event_fd, &one, sizeof(one)); /* full: readable all the same */
}

/* ---- follow: watch what is there ---- */

static int use_dir(struct volume_watched *v, int fd, enum watch_role role, const char *text)
{
    if (v->watches == v->watch->limits.nodes)
        return -E2BIG;
    v->watches++;
    return watch_table_use(&v->watch->table, fd, role, text, v->round, v, &v->uses);
}

/* Not there, or something else by now. */
static bool is_gone(int r)
{
    return r == -ENOENT || r == -ENOTDIR || r == -ELOOP;
}

/* A name of the writer's own in a live volume's directory: what he prepares is no generation yet. */
static bool is_writers(const char *dir, const char *name)
{
    return !*dir && str_starts(name, "..");
}

/* A directory and all below it, or a single file. A directory that vanishes meanwhile is told of by
 * the watch on the one above. */
static int use_tree(struct volume_watched *v, int fd, enum watch_role role, const char *text,
                    uint32_t depth)
{
    char path[PATH_MAX];
    struct dir_list list;
    const struct dirent64 *d;
    _cleanup_(closep) int list_fd = -EBADF;
    int r = use_dir(v, fd, role, text);

    if (r < 0 || depth >= v->watch->limits.depth)
        return r;
    list_fd = file_open_beneath(fd, ".", O_RDONLY | O_DIRECTORY, 0);
    if (list_fd < 0)
        return is_gone(list_fd) ? 0 : list_fd;
    dir_list_init(&list, list_fd);
    while (r == 0 && dir_list_next(&list, &d) > 0) {
        _cleanup_(closep) int child = -EBADF;

        if ((d->d_type != DT_DIR && d->d_type != DT_UNKNOWN) ||
            (role == WATCH_DATA && is_writers(text, d->d_name)))
            continue;
        (void)snprintf(path, sizeof(path), "%s%s%s", text, *text ? "/" : "", d->d_name);
        child = file_open_beneath(fd, d->d_name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
        if (child >= 0)
            r = use_tree(v, child, role, path, depth + 1);
        else if (!is_gone(child))
            r = child;
    }
    return r;
}

/* Is what is watched what the name leads to? */
static bool is_there(int dir, const char *name, int root)
{
    struct stat there, own;

    return fstatat(dir, name, &there, AT_SYMLINK_NOFOLLOW) == 0 && fstat(root, &own) == 0 &&
           there.st_dev == own.st_dev && there.st_ino == own.st_ino;
}

/* The directory above tells when the volume goes, also when it is a file system that is unmounted while
 * others still hold it. A listed directory that is a volume itself has no such watch. */
static int use_parent(struct volume_watched *v, int root)
{
    const char *slash = strrchr(v->rel, '/'), *name = slash ? slash + 1 : v->rel;
    _cleanup_(freep) char *dir = slash ? str_ndup(v->rel, (size_t)(slash - v->rel)) : str_dup(".");
    _cleanup_(closep) int base = -EBADF;
    _cleanup_(closep) int fd = -EBADF;
    int r;

    if (!*name)
        return 0;
    base = open(*v->base ? v->base : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (base < 0)
        return -errno;
    fd = file_open_beneath(base, dir, O_PATH | O_DIRECTORY, 0);
    if (fd < 0)
        return fd;
    r = use_dir(v, fd, WATCH_PARENT, name);
    if (r == 0 && !is_there(fd, name, root))
        v->must_follow = true; /* it was replaced before it was watched */
    return r;
}

static void read_target(int root, char out[NAME_MAX + 1])
{
    char target[NAME_MAX + 2];
    ssize_t n = readlinkat(root, DATA_LINK, target, sizeof(target));

    out[0] = '\0';
    if (n <= 0 || !volume_data_target_is_valid(target, (size_t)n))
        return;
    memcpy(out, target, (size_t)n);
    out[n] = '\0';
}

/* The root is watched before "..data" is read: a rename behind that reading is an event. */
static int use_live(struct volume_watched *v, int root)
{
    int r = use_dir(v, root, WATCH_ROOT, "");
    _cleanup_(closep) int fd = -EBADF;

    if (r == 0)
        r = use_parent(v, root);
    if (r < 0)
        return r;
    read_target(root, v->target);
    if (!v->target[0])
        return use_tree(v, root, WATCH_DATA, "", 0);
    fd = file_open_beneath(root, v->target, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
    if (is_gone(fd))
        return 0; /* dangling, or renamed again: the scan, or the next event, tells */
    return fd < 0 ? fd : use_tree(v, fd, WATCH_DATA, v->target, 1);
}

static void drop_uses(struct volume_watched *v, bool all)
{
    struct watch_use *u, *next;

    list_foreach_safe (u, next, &v->uses, in_owner)
        if (all || u->round != v->round)
            watch_table_drop(&v->watch->table, u);
}

/* 0 or errno; what could be watched is. */
static int follow(struct volume_watched *v, int root)
{
    int r;

    v->round++;
    v->watches = 0;
    r = v->live ? use_live(v, root) : use_tree(v, root, WATCH_FIXED, "", 0);
    if (r == 0)
        drop_uses(v, /* all= */ false);
    return r;
}

/* ---- events ---- */

static void note_written(struct volume_watched *v, const char *dir, const char *name)
{
    if (!(v->pending & VOLUME_WRITTEN))
        (void)snprintf(v->written, sizeof(v->written), "%s%s%s", dir, *dir && *name ? "/" : "",
                       name);
    v->pending |= VOLUME_WRITTEN;
}

/* Names in a live volume's own directory. */
static void on_root_event(struct volume_watched *v, uint32_t mask, const char *name)
{
    if (strcmp(name, DATA_LINK) == 0 && (mask & NAME_EVENTS)) {
        v->pending |= VOLUME_CHANGED;
        v->must_follow = true;
    } else if (is_writers("", name) && strcmp(name, v->target) != 0) {
        return; /* a generation being prepared or removed */
    } else if (mask & WRITE_EVENTS) {
        note_written(v, "", name);
    } else {
        v->pending |= VOLUME_CHANGED;
        v->must_follow |= (mask & IN_ISDIR) != 0;
    }
}

static void on_use_event(const struct watch_use *u, uint32_t mask, const char *name)
{
    struct volume_watched *v = u->owner;

    switch (u->role) {
    case WATCH_PARENT:
        if (!(mask & (IN_DELETE | IN_MOVED_FROM | IN_CREATE | IN_MOVED_TO)) ||
            strcmp(name, u->text) != 0)
            return;
        v->pending |= VOLUME_CHANGED;
        v->must_follow = v->may_be_gone = true;
        break;
    case WATCH_ROOT:
        if (mask & END_EVENTS) {
            v->pending |= VOLUME_CHANGED;
            v->must_follow = v->may_be_gone = true;
        } else {
            on_root_event(v, mask, name);
        }
        break;
    case WATCH_DATA:
        if (is_writers(u->text, name))
            return; /* a volume without generations so far: the ROOT use knows */
        if (mask & WRITE_EVENTS) {
            note_written(v, u->text, name);
        } else {
            v->pending |= VOLUME_CHANGED;
            v->must_follow |= (mask & (IN_ISDIR | END_EVENTS)) != 0;
        }
        break;
    case WATCH_FIXED:
        if (!(mask & WRITE_EVENTS))
            return;
        note_written(v, u->text, name);
        break;
    }
    if (v->pending || v->must_follow)
        enqueue(v);
}

static void on_overflow(struct volume_watch *w)
{
    struct volume_watched *v;

    list_foreach (v, &w->volumes, in_watch) {
        v->must_follow = v->must_compare = v->may_be_gone = true;
        enqueue(v);
    }
}

static void on_event(struct volume_watch *w, const struct inotify_event *e)
{
    const struct watch_node *n = watch_table_get(&w->table, e->wd);
    const struct watch_use *u;

    if (e->mask & IN_Q_OVERFLOW) {
        on_overflow(w);
        return;
    }
    if (!n)
        return; /* of a watch dropped since */
    list_foreach (u, &n->users, in_node)
        on_use_event(u, e->mask, e->len ? e->name : "");
}

/* 1: there may be more; 0: all read. */
static int read_events(struct volume_watch *w)
{
    _Alignas(struct inotify_event) char bytes[EVENT_BYTES];

    for (int i = 0; i < READS_PER_TURN; i++) {
        ssize_t n = read(w->inotify_fd, bytes, sizeof(bytes));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0 || errno == EAGAIN ? 0 : -errno;
        for (char *at = bytes; at < bytes + n;) {
            const struct inotify_event *e = (const void *)at;

            on_event(w, e);
            at += sizeof(*e) + e->len;
        }
    }
    return 1;
}

/* ---- what is true ---- */

static void tell(struct volume_watched *v, unsigned what)
{
    char path[sizeof(v->written)];
    struct volume_notice notice = {
        .what = what, .path = "", .r = what & VOLUME_BLIND ? v->blind : 0};

    if (what & VOLUME_WRITTEN) {
        memcpy(path, v->written, sizeof(path));
        notice.path = path;
    }
    v->pending = 0;
    v->quiet = true;
    v->armed = false;
    v->fn(v, &notice, v->userdata); /* v may be freed now */
}

static void follow_again(struct volume_watched *v, int root)
{
    int r = follow(v, root);

    if (r < 0 && v->blind != r)
        v->pending |= VOLUME_BLIND;
    v->blind = r;
    v->must_follow = r < 0;
}

/* Was the owner told of this state already? Of a failure only an event can say that it is another one. */
static bool was_told(const struct volume_watched *v, int r, const struct volume_identity *now)
{
    if (!v->has_told || v->told_r != r)
        return false;
    return r < 0 ? !(v->pending & VOLUME_CHANGED) : volume_identity_equal(now, &v->told);
}

/* A generation is never renamed back, so another name says without a look at its files that it is new. */
static bool is_renamed(const struct volume_watched *v)
{
    return v->live && v->known[0] && v->target[0] && strcmp(v->target, v->known) != 0 &&
           !v->must_compare && !v->must_follow;
}

static void set_known(struct volume_watched *v, const char *target)
{
    memcpy(v->known, target, strlen(target) + 1);
}

/* CHANGED is pending afterwards if the volume is not what its owner has, nor what he was told of before
 * and could not use: else he would be told without end. root: or the errno why there is none. */
static void compare(struct volume_watched *v, int root)
{
    struct volume_identity now = {""};
    int r = root;

    if (v->has_seen && root >= 0 && is_renamed(v)) {
        v->has_told = false;
        set_known(v, "");
        return;
    }
    v->must_compare = false;
    if (!v->has_seen)
        return;
    if (root >= 0)
        r = volume_identity_of(root, v->live, &v->watch->limits, &now, NULL);
    if ((r < 0 && !v->live) || (r == 0 && volume_identity_equal(&now, &v->seen)) ||
        was_told(v, r, &now)) {
        v->pending &= ~VOLUME_CHANGED; /* what is not live stays as it was mapped */
        set_known(v, v->live && !v->must_follow ? v->target : "");
        return;
    }
    v->pending |= VOLUME_CHANGED;
    v->has_told = true;
    v->told_r = r;
    v->told = now;
}

static void look(struct volume_watched *v)
{
    _cleanup_(closep) int own = -EBADF;
    int root = v->fd;

    /* the owner is busy with a state before this one: rearm looks at what is there by then */
    if (v->live && !v->armed && !v->may_be_gone)
        return;
    v->may_be_gone = false;
    if (v->live)
        root = own = volume_reopen(v->base, v->rel);
    if (v->live && is_gone(root)) {
        v->gone = true;
        drop_uses(v, /* all= */ true);
        tell(v, VOLUME_GONE);
        return;
    }
    if (v->must_follow && root >= 0)
        follow_again(v, root);
    if (v->armed && (v->must_compare || (v->pending & VOLUME_CHANGED)))
        compare(v, root);
    if (v->armed && v->pending)
        tell(v, v->pending);
}

int volume_watch_dispatch(struct volume_watch *w)
{
    uint64_t count;
    int r;

    (void)!read(w->event_fd, &count, sizeof(count));
    r = read_events(w);
    for (int i = 0; i < VOLUMES_PER_TURN && !list_is_empty(&w->queue); i++) {
        struct volume_watched *v = list_first(&w->queue, struct volume_watched, in_queue);

        list_remove(&v->in_queue);
        look(v);
    }
    if (list_is_empty(&w->queue))
        return r;
    count = 1;
    (void)!write(w->event_fd, &count, sizeof(count));
    return r < 0 ? r : 1;
}

/* ---- life ---- */

static int add_fd(struct volume_watch *w, int fd)
{
    struct epoll_event ev = {.events = EPOLLIN};

    return epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

int volume_watch_new(const struct volume_limits *limits, struct volume_watch **ret,
                     struct error **err)
{
    _cleanup_(volume_watch_freep) struct volume_watch *w = xcalloc(1, sizeof(*w));
    int r;

    list_init(&w->volumes);
    list_init(&w->queue);
    w->limits = *limits;
    w->event_fd = w->inotify_fd = -EBADF;
    w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (w->epoll_fd >= 0)
        w->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->event_fd >= 0)
        w->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (w->inotify_fd < 0)
        return error_set(err, -errno,
                         "watching volumes: inotify: %s "
                         "(fs.inotify.max_user_instances, open files)",
                         strerror(errno));
    watch_table_init(&w->table, w->inotify_fd);
    r = add_fd(w, w->inotify_fd);
    if (r == 0)
        r = add_fd(w, w->event_fd);
    if (r < 0)
        return error_set(err, r, "watching volumes: epoll: %s", strerror(-r));
    *ret = TAKE(w);
    return 0;
}

void volume_watch_free(struct volume_watch *w)
{
    if (!w)
        return;
    while (!list_is_empty(&w->volumes))
        volume_watch_remove(list_first(&w->volumes, struct volume_watched, in_watch));
    watch_table_done(&w->table);
    w->inotify_fd = close_fd(w->inotify_fd);
    w->event_fd = close_fd(w->event_fd);
    w->epoll_fd = close_fd(w->epoll_fd);
    free(w);
}

int volume_watch_fd(const struct volume_watch *w)
{
    return w->epoll_fd;
}

size_t volume_watch_count(const struct volume_watch *w)
{
    return w->table.count;
}

static int add_failed(struct volume_watched *v, int r, struct error **err)
{
    const char *text = r == -ENOSPC  ? "no inotify watch is left (fs.inotify.max_user_watches)"
                       : r == -E2BIG ? "it has more directories than are watched"
                                     : strerror(-r);

    r = error_set(err, r, "watching volume %s: %s", *v->rel ? v->rel : v->base, text);
    volume_watch_remove(v);
    return r;
}

int volume_watch_add(struct volume_watch *w, const struct volume_mount *m, volume_notice_fn fn,
                     void *userdata, struct volume_watched **ret, struct error **err)
{
    struct volume_watched *v = xcalloc(1, sizeof(*v));
    int r, root = m->fd;

    *v = (struct volume_watched){
        .watch = w,
        .fn = fn,
        .userdata = userdata,
        .live = m->live,
        .base = str_dup(m->base),
        .rel = str_dup(m->rel),
        .fd = -EBADF,
    };
    list_init(&v->uses);
    list_init(&v->in_queue);
    list_append(&w->volumes, &v->in_watch);
    if (!m->live)
        root = v->fd = fcntl(m->fd, F_DUPFD_CLOEXEC, 3);
    if (root < 0)
        return add_failed(v, -errno, err);
    r = follow(v, root);
    if (r < 0)
        return add_failed(v, r, err);
    *ret = v;
    return 0;
}

void volume_watch_remove(struct volume_watched *v)
{
    if (!v)
        return;
    drop_uses(v, /* all= */ true);
    list_remove(&v->in_queue);
    list_remove(&v->in_watch);
    v->fd = close_fd(v->fd);
    free(v->base);
    free(v->rel);
    free(v);
}

void volume_watch_scanned(struct volume_watched *v)
{
    v->quiet = true;
}

void volume_watch_rearm(struct volume_watched *v, const struct volume_identity *seen)
{
    /* what has not been noted by now is an event still */
    bool same = v->quiet && !v->blind && read_events(v->watch) == 0 && !v->pending &&
                !v->must_follow && !v->must_compare;

    v->armed = true;
    v->quiet = false;
    v->has_seen = seen != NULL;
    if (seen)
        v->seen = *seen;
    v->must_compare = seen != NULL && !same;
    set_known(v, same ? v->target : "");
    if (!same || !seen) /* else there is nothing to look at */
        enqueue(v);
}
