/* SPDX-License-Identifier: Apache-2.0 */
/* volume: the watcher tells of every new generation, once, and of nothing else. */
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "event/loop.h"
#include "lib/volume-fixture.h"
#include "volume/kind.h"
#include "volume/watch.h"

static const struct volume_key one[] = {{"a", "1"}, {"b", "1"}, {0}};
static const struct volume_key two[] = {{"a", "2"}, {"b", "2"}, {0}};

/* A kubelet's root with one Secret, and a watcher on it. */
struct world {
    struct fixture f;
    int secret; /* its directory */
    struct volume_watch *watch;
    struct volume_mount mount;
    struct volume_watched *watched;
    unsigned notices, what; /* told, and all that was said */
    int r;
    char path[256];
};

#define SECRET "pods/u/volumes/kubernetes.io~secret/s"

static void on_notice(struct volume_watched *v, const struct volume_notice *n, void *userdata)
{
    struct world *w = userdata;

    w->notices++;
    w->what |= n->what;
    w->r = n->r;
    (void)snprintf(w->path, sizeof(w->path), "%s", n->path);
}

static void find(struct world *w, const char *rel, struct volume_mount *m)
{
    const struct volume_roots roots = {.kubelet_root = w->f.path};
    char path[512];

    (void)snprintf(path, sizeof(path), "%s/%s", w->f.path, rel);
    assert_int_equal(volume_find(&roots, path, m, NULL), 0);
    assert_int_equal(m->kind, VOLUME_MAPPED);
}

static void watch(struct world *w)
{
    assert_int_equal(volume_watch_add(w->watch, &w->mount, on_notice, w, &w->watched, NULL), 0);
}

/* Everything that is to be done now. */
static void settle(struct world *w)
{
    struct pollfd p = {.fd = volume_watch_fd(w->watch), .events = POLLIN};

    while (poll(&p, 1, 0) > 0)
        assert_true(volume_watch_dispatch(w->watch) >= 0);
}

static void assert_told(struct world *w, unsigned notices, unsigned what)
{
    settle(w);
    assert_int_equal(w->notices, notices);
    assert_int_equal(w->what, what);
    w->notices = w->what = 0;
}

static struct volume_identity identity(struct world *w)
{
    struct volume_identity id;

    assert_int_equal(
        volume_identity_of(w->mount.fd, w->mount.live, &volume_limits_default, &id, NULL), 0);
    return id;
}

/* The owner has seen it and wants the next notice. */
static void rearm(struct world *w)
{
    const struct volume_identity id = identity(w);

    volume_watch_rearm(w->watched, &id);
}

static int setup(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));

    fixture_make(&w->f, access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    make_dirs(w->f.fd, SECRET);
    w->secret = openat(w->f.fd, SECRET, O_RDONLY | O_DIRECTORY);
    kubelet_write(w->secret, one);
    find(w, SECRET, &w->mount);
    assert_int_equal(volume_watch_new(&volume_limits_default, &w->watch, NULL), 0);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    char *name = strrchr(w->f.path, '/');
    int above;

    volume_watch_free(w->watch);
    volume_mount_done(&w->mount);
    *name++ = '\0';
    above = open(w->f.path, O_RDONLY | O_DIRECTORY);
    assert_int_equal(dir_remove_tree(above, name), 0);
    (void)close(above);
    (void)close(w->secret);
    (void)close(w->f.fd);
    free(w);
    return 0;
}

/* ---- generations ---- */

static void a_swap_is_told_once_per_rearm(void **state)
{
    struct world *w = *state;

    watch(w);
    rearm(w);
    assert_told(w, 0, 0);
    kubelet_write(w->secret, two);
    assert_told(w, 1, VOLUME_CHANGED);
    for (int i = 0; i < 5; i++)
        kubelet_write(w->secret, i % 2 ? one : two);
    assert_told(w, 0, 0); /* the owner is still busy */
    rearm(w);
    assert_told(w, 0, 0); /* and has seen the last of them */
    kubelet_write(w->secret, one);
    assert_told(w, 1, VOLUME_CHANGED);
}

static void five_swaps_in_a_row_are_one_notice(void **state)
{
    struct world *w = *state;

    watch(w);
    rearm(w);
    for (int i = 0; i < 5; i++)
        kubelet_write(w->secret, i % 2 ? one : two);
    assert_told(w, 1, VOLUME_CHANGED);
    rearm(w);
    assert_told(w, 0, 0);
}

static void what_happened_while_the_owner_worked_is_told_at_rearm(void **state)
{
    struct world *w = *state;
    struct volume_identity seen;

    watch(w);
    seen = identity(w);
    kubelet_write(w->secret, two); /* between scan and rearm */
    assert_told(w, 0, 0);
    volume_watch_rearm(w->watched, &seen);
    assert_told(w, 1, VOLUME_CHANGED);
}

/* A state that the owner says he scanned since add is not looked at again, but for what events tell. */
static void a_scan_since_add_is_taken_for_what_it_is(void **state)
{
    const struct volume_identity other = {.text = "of something else"};
    struct world *w = *state;

    watch(w);
    volume_watch_scanned(w->watched);
    volume_watch_rearm(w->watched, &other);
    assert_told(w, 0, 0);
    kubelet_write(w->secret, two);
    assert_told(w, 1, VOLUME_CHANGED);
    rearm(w);
    kubelet_write(w->secret, one);
    assert_told(w, 1, VOLUME_CHANGED);
}

static void a_swap_between_scan_and_rearm_is_told_all_the_same(void **state)
{
    struct world *w = *state;
    struct volume_identity seen;

    watch(w);
    seen = identity(w);
    kubelet_write(w->secret, two);
    volume_watch_scanned(w->watched);
    volume_watch_rearm(w->watched, &seen);
    assert_told(w, 1, VOLUME_CHANGED);
}

static void a_generation_that_could_not_be_used_is_not_told_without_end(void **state)
{
    struct world *w = *state;
    struct volume_identity old;

    watch(w);
    rearm(w);
    old = identity(w);
    kubelet_write(w->secret, two);
    assert_told(w, 1, VOLUME_CHANGED);
    volume_watch_rearm(w->watched, &old);
    assert_told(w, 0, 0);
    kubelet_write(w->secret, one);
    assert_told(w, 1, VOLUME_CHANGED);
}

static void a_restart_is_caught_up(void **state)
{
    struct world *w = *state;
    const struct volume_identity stored = identity(w);

    kubelet_write(w->secret, two); /* nobody watches */
    watch(w);
    volume_watch_rearm(w->watched, &stored);
    assert_told(w, 1, VOLUME_CHANGED);
    rearm(w);
    assert_told(w, 0, 0);
}

static void preparing_and_cleaning_up_is_not_told(void **state)
{
    struct world *w = *state;

    watch(w);
    rearm(w);
    kubelet_write_until(w->secret, two, 2);
    assert_told(w, 0, 0);
    make_dirs(w->secret, "..2026_left_over/x");
    assert_told(w, 0, 0);
    assert_int_equal(dir_remove_tree(w->secret, "..2026_left_over"), 0);
    assert_told(w, 0, 0);
}

static void links_that_come_late_are_told(void **state)
{
    static const struct volume_key more[] = {{"a", "1"}, {"c", "1"}, {0}};
    struct world *w = *state;

    watch(w);
    rearm(w);
    kubelet_write_until(w->secret, more, 3);
    assert_told(w, 1, VOLUME_CHANGED);
    rearm(w);
    assert_told(w, 0, 0);
    assert_int_equal(symlinkat("..data/c", w->secret, "c"), 0);
    assert_told(w, 1, VOLUME_CHANGED);
}

static void a_first_generation_is_told(void **state)
{
    struct world *w = *state;
    struct volume_watched *v;
    struct volume_mount m;
    int fd;

    make_dirs(w->f.fd, "pods/u/volumes/kubernetes.io~secret/later");
    find(w, "pods/u/volumes/kubernetes.io~secret/later", &m);
    assert_int_equal(volume_watch_add(w->watch, &m, on_notice, w, &v, NULL), 0);
    volume_watch_rearm(v, NULL);
    assert_told(w, 0, 0);
    fd = openat(w->f.fd, "pods/u/volumes/kubernetes.io~secret/later", O_RDONLY | O_DIRECTORY);
    kubelet_write_until(fd, one, 2);
    assert_told(w, 0, 0);
    assert_int_equal(unlinkat(fd, "..data_tmp", 0), 0);
    kubelet_write(fd, one);
    (void)close(fd);
    assert_told(w, 1, VOLUME_CHANGED);
    volume_mount_done(&m);
}

static void a_swap_back_and_forth_with_no_difference_is_still_new(void **state)
{
    struct world *w = *state;

    watch(w);
    rearm(w);
    kubelet_write(w->secret, one); /* the same text: another directory */
    assert_told(w, 1, VOLUME_CHANGED);
}

/* ---- writes in place ---- */

static void in_generation(struct world *w, const char *name, char out[300])
{
    char target[NAME_MAX + 1];
    ssize_t n = readlinkat(w->secret, "..data", target, sizeof(target) - 1);

    assert_true(n > 0);
    (void)snprintf(out, 300, "%.*s/%s", (int)n, target, name);
}

static void a_write_in_place_is_told_with_its_file(void **state)
{
    struct world *w = *state;
    char path[300];
    int fd;

    watch(w);
    rearm(w);
    kubelet_write(w->secret, two); /* the watches follow to this one */
    assert_told(w, 1, VOLUME_CHANGED);
    rearm(w);
    assert_told(w, 0, 0);
    in_generation(w, "b", path);
    fd = openat(w->secret, path, O_WRONLY);
    assert_told(w, 0, 0); /* nothing is written yet */
    assert_int_equal(write_full(fd, "!", 1), 0);
    settle(w);
    assert_true(w->what & VOLUME_WRITTEN);
    assert_string_equal(w->path, path);
    w->what = w->notices = 0;
    rearm(w);
    assert_told(w, 0, 0);
    assert_int_equal(ftruncate(fd, 0), 0);
    settle(w);
    assert_true(w->what & VOLUME_WRITTEN);
    w->what = w->notices = 0;
    rearm(w);
    settle(w);
    (void)close(fd); /* IN_CLOSE_WRITE: with a mapping it is the only event there is */
    settle(w);
    assert_int_equal(w->what, VOLUME_WRITTEN);
}

static void a_change_of_mode_is_a_change(void **state)
{
    struct world *w = *state;
    char path[300];

    watch(w);
    rearm(w);
    in_generation(w, "a", path);
    assert_int_equal(fchmodat(w->secret, path, 0400, 0), 0);
    assert_told(w, 1, VOLUME_CHANGED);
}

static void directories_of_a_generation_are_watched(void **state)
{
    struct world *w = *state;
    char path[300];

    in_generation(w, "sub", path);
    make_dirs(w->secret, path);
    in_generation(w, "sub/file", path);
    put(w->secret, path, "x");
    watch(w);
    rearm(w);
    assert_told(w, 0, 0);
    put(w->secret, path, "y");
    settle(w);
    assert_true(w->what & VOLUME_WRITTEN);
    assert_string_equal(w->path, path);
}

static void a_subpath_hears_of_writes_and_of_nothing_else(void **state)
{
    struct world *w = *state;
    struct volume_identity id;
    struct volume_watched *v;
    struct volume_mount m;
    char path[300];

    find(w, SECRET "/a", &m);
    assert_false(m.live);
    assert_int_equal(volume_watch_add(w->watch, &m, on_notice, w, &v, NULL), 0);
    assert_int_equal(volume_identity_of(m.fd, false, &volume_limits_default, &id, NULL), 0);
    volume_watch_rearm(v, &id);
    in_generation(w, "a", path);
    put(w->secret, path, "2");
    settle(w);
    assert_int_equal(w->what & VOLUME_WRITTEN, VOLUME_WRITTEN);
    w->what = w->notices = 0;
    assert_int_equal(volume_identity_of(m.fd, false, &volume_limits_default, &id, NULL), 0);
    volume_watch_rearm(v, &id);
    kubelet_write(w->secret, two); /* its file is unlinked */
    assert_told(w, 0, 0);
    volume_mount_done(&m);
}

/* ---- the end ---- */

static void a_volume_that_goes_is_told_once(void **state)
{
    struct world *w = *state;
    int above = openat(w->f.fd, "pods/u/volumes/kubernetes.io~secret", O_RDONLY);

    watch(w); /* GONE does not wait for rearm */
    assert_int_equal(dir_remove_tree(above, "s"), 0);
    assert_told(w, 1, VOLUME_GONE);
    assert_int_equal(volume_watch_count(w->watch), 0);
    volume_watch_rearm(w->watched, NULL);
    assert_told(w, 0, 0);
    assert_int_equal(mkdirat(above, "s", 0755), 0);
    assert_told(w, 0, 0);
    (void)close(above);
}

static void a_volume_moved_away_is_gone(void **state)
{
    struct world *w = *state;

    watch(w);
    rearm(w);
    assert_int_equal(renameat(w->f.fd, SECRET, w->f.fd, "pods/elsewhere"), 0);
    assert_told(w, 1, VOLUME_GONE);
}

static void a_volume_above_which_all_goes_is_gone(void **state)
{
    struct world *w = *state;

    watch(w);
    rearm(w);
    assert_int_equal(dir_remove_tree(w->f.fd, "pods"), 0);
    assert_told(w, 1, VOLUME_GONE);
}

static void a_broken_volume_is_told_of_and_stays_watched(void **state)
{
    struct world *w = *state;
    struct volume_identity seen;

    watch(w);
    rearm(w);
    seen = identity(w);
    assert_int_equal(unlinkat(w->secret, "..data", 0), 0);
    put(w->secret, "..data", "a file");
    assert_told(w, 1, VOLUME_CHANGED);
    volume_watch_rearm(w->watched, &seen); /* the owner keeps what he has */
    assert_told(w, 0, 0);                  /* and is not told the same without end */
    assert_int_equal(unlinkat(w->secret, "..data", 0), 0);
    assert_int_equal(symlinkat("/etc", w->secret, "..data"), 0);
    assert_told(w, 1, VOLUME_CHANGED);
    volume_watch_rearm(w->watched, &seen);
    assert_told(w, 0, 0);
    assert_int_equal(unlinkat(w->secret, "..data", 0), 0);
    kubelet_write(w->secret, two);
    assert_told(w, 1, VOLUME_CHANGED);
    rearm(w);
    assert_told(w, 0, 0);
}

/* ---- many ---- */

static void two_owners_of_one_volume_are_both_told(void **state)
{
    struct world *w = *state;
    struct volume_watched *v;
    size_t watches;

    watch(w);
    watches = volume_watch_count(w->watch);
    assert_int_equal(watches, 3); /* above, itself, the generation */
    assert_int_equal(volume_watch_add(w->watch, &w->mount, on_notice, w, &v, NULL), 0);
    assert_int_equal(volume_watch_count(w->watch), watches);
    rearm(w);
    volume_watch_rearm(v, NULL);
    kubelet_write(w->secret, two);
    assert_told(w, 2, VOLUME_CHANGED);
    volume_watch_remove(v);
    assert_int_equal(volume_watch_count(w->watch), watches);
    rearm(w);
    kubelet_write(w->secret, one);
    assert_told(w, 1, VOLUME_CHANGED);
    volume_watch_remove(w->watched);
    assert_int_equal(volume_watch_count(w->watch), 0);
    kubelet_write(w->secret, two);
    assert_told(w, 0, 0);
}

static void many_swaps_leave_no_watch_behind(void **state)
{
    struct world *w = *state;

    watch(w);
    for (int i = 0; i < 300; i++) {
        rearm(w);
        kubelet_write(w->secret, i % 2 ? one : two);
        assert_told(w, 1, VOLUME_CHANGED);
        assert_int_equal(volume_watch_count(w->watch), 3);
    }
}

static void remove_self(struct volume_watched *v, const struct volume_notice *n, void *userdata)
{
    struct world *w = userdata;

    w->notices++;
    w->what |= n->what;
    volume_watch_remove(v);
}

static void a_callback_may_remove_what_it_is_told_of(void **state)
{
    struct world *w = *state;

    assert_int_equal(volume_watch_add(w->watch, &w->mount, remove_self, w, &w->watched, NULL), 0);
    rearm(w);
    kubelet_write(w->secret, two);
    assert_told(w, 1, VOLUME_CHANGED);
    assert_int_equal(volume_watch_count(w->watch), 0);
}

static void an_overflow_is_healed(void **state)
{
    struct world *w = *state;
    struct volume_mount m;
    struct volume_watched *v;
    struct world other = {0};
    int fd, limit = 16384;
    char text[32];
    struct volume_identity id;

    /* a second volume that does not change */
    make_dirs(w->f.fd, "pods/u/volumes/kubernetes.io~secret/quiet");
    fd = openat(w->f.fd, "pods/u/volumes/kubernetes.io~secret/quiet", O_RDONLY | O_DIRECTORY);
    kubelet_write(fd, one);
    find(w, "pods/u/volumes/kubernetes.io~secret/quiet", &m);
    assert_int_equal(volume_watch_add(w->watch, &m, on_notice, &other, &v, NULL), 0);
    assert_int_equal(volume_identity_of(m.fd, true, &volume_limits_default, &id, NULL), 0);
    volume_watch_rearm(v, &id);
    watch(w);
    rearm(w);
    assert_told(w, 0, 0);
    (void)close(fd);
    fd = open("/proc/sys/fs/inotify/max_queued_events", O_RDONLY);
    if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0)
        limit = (int)strtol(text, NULL, 10);
    (void)close(fd);
    /* fill the queue with what is of no interest, so that the swap finds no place in it; two names in
     * turn, for equal events become one */
    for (int i = 0; i <= limit; i++)
        assert_int_equal(mkdirat(w->secret, i % 2 ? "..x" : "..y", 0700) |
                             unlinkat(w->secret, i % 2 ? "..x" : "..y", AT_REMOVEDIR),
                         0);
    kubelet_write(w->secret, two);
    assert_told(w, 1, VOLUME_CHANGED);
    assert_int_equal(other.notices, 0);
    rearm(w);
    kubelet_write(w->secret, one); /* the watches are on the generation that nobody told of */
    assert_told(w, 1, VOLUME_CHANGED);
    volume_mount_done(&m);
}

/* ---- limits ---- */

static int add_with_few_watches(struct world *w, int watches)
{
    char text[16];
    struct error *err = NULL;
    int fd, r;

    if (unshare(CLONE_NEWUSER) < 0)
        return 77;
    fd = open("/proc/sys/user/max_inotify_watches", O_WRONLY);
    if (fd < 0)
        return 77;
    (void)snprintf(text, sizeof(text), "%d", watches);
    if (write_full(fd, text, strlen(text)) < 0)
        return 77;
    volume_watch_free(w->watch); /* its instance belongs to the namespace before */
    if (volume_watch_new(&volume_limits_default, &w->watch, NULL) < 0)
        return 1;
    r = volume_watch_add(w->watch, &w->mount, on_notice, w, &w->watched, &err);
    if (watches >= 3)
        return r == 0 ? 0 : 2;
    if (r != -ENOSPC || !strstr(err->message, "fs.inotify.max_user_watches"))
        return 3;
    return volume_watch_count(w->watch) == 0 ? 0 : 4; /* nothing half done */
}

static void the_limit_of_inotify_is_a_clear_error(void **state)
{
    for (int watches = 0; watches <= 3; watches++) {
        int status;
        pid_t pid = fork();

        if (pid == 0)
            _exit(add_with_few_watches(*state, watches));
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        if (WEXITSTATUS(status) == 77)
            skip(); /* no user namespaces here */
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

static void what_cannot_be_followed_is_told_and_tried_again(void **state)
{
    struct world *w = *state;
    struct volume_limits few = volume_limits_default;
    char path[300];

    few.nodes = 4;
    volume_watch_free(w->watch);
    assert_int_equal(volume_watch_new(&few, &w->watch, NULL), 0);
    watch(w);
    volume_watch_rearm(w->watched, NULL);
    in_generation(w, "d1", path);
    make_dirs(w->secret, path);
    settle(w);
    assert_int_equal(w->what, VOLUME_CHANGED);
    volume_watch_rearm(w->watched, NULL);
    in_generation(w, "d2", path);
    make_dirs(w->secret, path);
    settle(w);
    assert_int_equal(w->what, VOLUME_CHANGED | VOLUME_BLIND);
    assert_int_equal(w->r, -E2BIG);
    w->what = w->notices = 0;
    volume_watch_rearm(w->watched, NULL);
    assert_told(w, 0, 0); /* told once */
    kubelet_write(w->secret, two);
    assert_told(w, 1, VOLUME_CHANGED);
    volume_watch_rearm(w->watched, NULL);
    in_generation(w, "a", path);
    put(w->secret, path, "x");
    settle(w);
    assert_true(w->what & VOLUME_WRITTEN); /* it sees again */
}

static void adding_what_is_gone_is_refused(void **state)
{
    struct world *w = *state;

    assert_int_equal(dir_remove_tree(w->f.fd, "pods"), 0);
    assert_int_equal(volume_watch_add(w->watch, &w->mount, on_notice, w, &w->watched, NULL),
                     -ENOENT);
    assert_int_equal(volume_watch_count(w->watch), 0);
}

static void links_are_not_followed_out_of_the_volume(void **state)
{
    struct world *w = *state;
    char path[300];

    make_dirs(w->f.fd, "outside/deep");
    in_generation(w, "out", path);
    assert_int_equal(symlinkat("../../../../../../outside", w->secret, path), 0);
    watch(w);
    assert_int_equal(volume_watch_count(w->watch), 3);
    assert_int_equal(unlinkat(w->secret, "..data", 0), 0);
    assert_int_equal(symlinkat("../../../../../outside", w->secret, "..data"), 0);
    volume_watch_rearm(w->watched, NULL);
    settle(w);
    w->what = w->notices = 0;
    volume_watch_rearm(w->watched, NULL);
    settle(w);
    put(w->f.fd, "outside/deep/file", "x");
    put(w->f.fd, "outside/file", "x");
    assert_told(w, 0, 0);
}

/* ---- a file system that is unmounted ---- */

static int gone_by_umount(struct world *w)
{
    struct volume_scan *s;
    char path[512];
    int fd;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return 77;
    (void)snprintf(path, sizeof(path), "%s/" SECRET, w->f.path);
    if (mount("tmpfs", path, "tmpfs", 0, "size=1m") < 0)
        return 77;
    fd = open(path, O_RDONLY | O_DIRECTORY);
    kubelet_write(fd, one);
    (void)close(fd);
    volume_mount_done(&w->mount);
    find(w, SECRET, &w->mount);
    watch(w);
    /* somebody still has the files, as a virtual machine would */
    if (volume_scan(w->mount.fd, true, &volume_limits_default, &s, NULL) < 0)
        return 1;
    volume_watch_rearm(w->watched, &s->identity);
    settle(w);
    if (w->notices != 0 || umount(path) < 0)
        return 2;
    (void)close(w->secret);
    w->secret = -1;
    if (dir_remove_tree(openat(w->f.fd, "pods/u/volumes/kubernetes.io~secret", O_RDONLY), "s") < 0)
        return 3;
    settle(w);
    return w->what & VOLUME_GONE ? 0 : 4;
}

static void an_unmounted_volume_is_gone_though_it_is_held(void **state)
{
    int status;
    pid_t pid;

    if (geteuid() != 0)
        skip(); /* mounts */
    pid = fork();
    if (pid == 0)
        _exit(gone_by_umount(*state));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip(); /* not allowed to mount here */
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- with a loop ---- */

static void on_readable(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct world *w = userdata;

    assert_true(volume_watch_dispatch(w->watch) >= 0);
}

static void it_lives_in_a_loop(void **state)
{
    struct world *w = *state;
    struct loop_source *source;
    struct loop *loop;

    assert_int_equal(loop_new(&loop), 0);
    assert_int_equal(
        loop_add_io(loop, volume_watch_fd(w->watch), LOOP_READ, on_readable, w, &source), 0);
    watch(w);
    rearm(w);
    kubelet_write(w->secret, two);
    while (w->notices == 0)
        assert_true(loop_turn(loop, -1) >= 0);
    assert_int_equal(w->what, VOLUME_CHANGED);
    while (loop_turn(loop, 0) > 0) /* comes to rest */
        ;
    assert_int_equal(w->notices, 1);
    loop_free(loop);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_swap_is_told_once_per_rearm),
        CASE(five_swaps_in_a_row_are_one_notice),
        CASE(what_happened_while_the_owner_worked_is_told_at_rearm),
        CASE(a_scan_since_add_is_taken_for_what_it_is),
        CASE(a_swap_between_scan_and_rearm_is_told_all_the_same),
        CASE(a_generation_that_could_not_be_used_is_not_told_without_end),
        CASE(a_restart_is_caught_up),
        CASE(preparing_and_cleaning_up_is_not_told),
        CASE(links_that_come_late_are_told),
        CASE(a_first_generation_is_told),
        CASE(a_swap_back_and_forth_with_no_difference_is_still_new),
        CASE(a_write_in_place_is_told_with_its_file),
        CASE(a_change_of_mode_is_a_change),
        CASE(directories_of_a_generation_are_watched),
        CASE(a_subpath_hears_of_writes_and_of_nothing_else),
        CASE(a_volume_that_goes_is_told_once),
        CASE(a_volume_moved_away_is_gone),
        CASE(a_volume_above_which_all_goes_is_gone),
        CASE(a_broken_volume_is_told_of_and_stays_watched),
        CASE(two_owners_of_one_volume_are_both_told),
        CASE(many_swaps_leave_no_watch_behind),
        CASE(a_callback_may_remove_what_it_is_told_of),
        CASE(an_overflow_is_healed),
        CASE(the_limit_of_inotify_is_a_clear_error),
        CASE(what_cannot_be_followed_is_told_and_tried_again),
        CASE(adding_what_is_gone_is_refused),
        CASE(links_are_not_followed_out_of_the_volume),
        CASE(an_unmounted_volume_is_gone_though_it_is_held),
        CASE(it_lives_in_a_loop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
