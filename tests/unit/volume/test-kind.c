/* SPDX-License-Identifier: Apache-2.0 */
/* volume: a host path is told for what it is by its layout, and what is opened lies where it seems to. */
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "lib/volume-fixture.h"
#include "volume/kind.h"

#define K "/var/lib/kubelet/"

static const struct {
    const char *name, *path;
    int r;
    enum volume_place place;
    enum volume_plugin plugin;
    const char *uid, *volume;
    const char *root; /* rel[:root_len] */
} rows[] = {
    {"secret", K "pods/u/volumes/kubernetes.io~secret/s", 0, VOLUME_PLACE_VOLUME,
     VOLUME_PLUGIN_SECRET, "u", "s", "pods/u/volumes/kubernetes.io~secret/s"},
    {"configmap", K "pods/u/volumes/kubernetes.io~configmap/s", 0, VOLUME_PLACE_VOLUME,
     VOLUME_PLUGIN_CONFIGMAP, "u", "s", "pods/u/volumes/kubernetes.io~configmap/s"},
    {"projected", K "pods/u/volumes/kubernetes.io~projected/t", 0, VOLUME_PLACE_VOLUME,
     VOLUME_PLUGIN_PROJECTED, "u", "t", "pods/u/volumes/kubernetes.io~projected/t"},
    {"downward_api", K "pods/u/volumes/kubernetes.io~downward-api/t", 0, VOLUME_PLACE_VOLUME,
     VOLUME_PLUGIN_DOWNWARD_API, "u", "t", "pods/u/volumes/kubernetes.io~downward-api/t"},
    {"path_in_a_volume", K "pods/u/volumes/kubernetes.io~secret/s/a/b", 0, VOLUME_PLACE_VOLUME,
     VOLUME_PLUGIN_SECRET, "u", "s", "pods/u/volumes/kubernetes.io~secret/s"},
    {"slashes_and_dots_do_not_matter",
     "//var/./lib//kubelet/pods/u/volumes/kubernetes.io~secret/s//", 0, VOLUME_PLACE_VOLUME,
     VOLUME_PLUGIN_SECRET, "u", "s", "pods/u/volumes/kubernetes.io~secret/s"},
    {"empty_dir_is_not_mapped", K "pods/u/volumes/kubernetes.io~empty-dir/e", 0,
     VOLUME_PLACE_VOLUME, VOLUME_PLUGIN_OTHER, "u", "e",
     "pods/u/volumes/kubernetes.io~empty-dir/e"},
    {"csi_is_not_mapped", K "pods/u/volumes/kubernetes.io~csi/pv/mount", 0, VOLUME_PLACE_VOLUME,
     VOLUME_PLUGIN_OTHER, "u", "pv", "pods/u/volumes/kubernetes.io~csi/pv"},
    {"foreign_driver_is_not_mapped", K "pods/u/volumes/vendor~secret/v", 0, VOLUME_PLACE_VOLUME,
     VOLUME_PLUGIN_OTHER, "u", "v", "pods/u/volumes/vendor~secret/v"},
    {"plugin_is_matched_whole", K "pods/u/volumes/kubernetes.io~secrets/v", 0, VOLUME_PLACE_VOLUME,
     VOLUME_PLUGIN_OTHER, "u", "v", "pods/u/volumes/kubernetes.io~secrets/v"},
    {"directory_of_plugins_is_no_volume", K "pods/u/volumes/kubernetes.io~secret", 0,
     VOLUME_PLACE_OTHER, VOLUME_PLUGIN_OTHER, "u", "", ""},
    {"subpath", K "pods/u/volume-subpaths/cfg/main/0", 0, VOLUME_PLACE_SUBPATH, VOLUME_PLUGIN_OTHER,
     "u", "cfg", "pods/u/volume-subpaths/cfg/main/0"},
    {"path_in_a_subpath", K "pods/u/volume-subpaths/cfg/main/12/x", 0, VOLUME_PLACE_SUBPATH,
     VOLUME_PLUGIN_OTHER, "u", "cfg", "pods/u/volume-subpaths/cfg/main/12"},
    {"half_a_subpath", K "pods/u/volume-subpaths/cfg/main", 0, VOLUME_PLACE_OTHER,
     VOLUME_PLUGIN_OTHER, "u", "", ""},
    {"etc_hosts", K "pods/u/etc-hosts", 0, VOLUME_PLACE_HOSTS, VOLUME_PLUGIN_OTHER, "u", "", ""},
    {"etc_hosts_is_matched_whole", K "pods/u/etc-hosts/x", 0, VOLUME_PLACE_OTHER,
     VOLUME_PLUGIN_OTHER, "u", "", ""},
    {"termination_log", K "pods/u/containers/main/0a1b2c3d", 0, VOLUME_PLACE_TERMINATION_LOG,
     VOLUME_PLUGIN_OTHER, "u", "main", ""},
    {"kubelets_root_itself", "/var/lib/kubelet", 0, VOLUME_PLACE_OTHER, VOLUME_PLUGIN_OTHER, "", "",
     ""},
    {"root_is_matched_by_components", "/var/lib/kubelet2/pods/u/volumes/kubernetes.io~secret/s", 0,
     VOLUME_PLACE_OTHER, VOLUME_PLUGIN_OTHER, "", "", ""},
    {"host_path", "/etc/ssl", 0, VOLUME_PLACE_OTHER, VOLUME_PLUGIN_OTHER, "", "", ""},
    {"the_host_itself", "/", 0, VOLUME_PLACE_OTHER, VOLUME_PLUGIN_OTHER, "", "", ""},
    {"dot_dot_is_never_ours", K "pods/u/volumes/kubernetes.io~secret/../kubernetes.io~secret/s", 0,
     VOLUME_PLACE_OTHER, VOLUME_PLUGIN_OTHER, "", "", ""},
    {"dot_dot_behind_a_volume", K "pods/u/volumes/kubernetes.io~secret/s/../../../../../etc", 0,
     VOLUME_PLACE_OTHER, VOLUME_PLUGIN_OTHER, "", "", ""},
    {"two_dots_in_a_name_are_a_name", K "pods/u/volumes/kubernetes.io~secret/..data", 0,
     VOLUME_PLACE_VOLUME, VOLUME_PLUGIN_SECRET, "u", "..data",
     "pods/u/volumes/kubernetes.io~secret/..data"},
    {"listed", "/srv/config/a/b", 0, VOLUME_PLACE_LISTED, VOLUME_PLUGIN_OTHER, "", "", ""},
    {"listed_itself", "/srv/config/", 0, VOLUME_PLACE_LISTED, VOLUME_PLUGIN_OTHER, "", "", ""},
    {"listed_by_components", "/srv/config2", 0, VOLUME_PLACE_OTHER, VOLUME_PLUGIN_OTHER, "", "",
     ""},
    {"relative", "var/lib/kubelet", -EINVAL, 0, 0, NULL, NULL, NULL},
    {"empty", "", -EINVAL, 0, 0, NULL, NULL, NULL},
};

static void paths_are_told_by_their_layout(void **state)
{
    char *listed[] = {str_dup("/srv/config"), NULL};
    const struct volume_roots roots = {.listed = listed};
    struct volume_path *p = xcalloc(1, sizeof(*p));

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        print_message("# %s\n", rows[i].name);
        assert_int_equal(volume_path_parse(&roots, rows[i].path, p), rows[i].r);
        if (rows[i].r < 0)
            continue;
        assert_int_equal(p->place, rows[i].place);
        assert_int_equal(p->plugin, rows[i].plugin);
        assert_string_equal(p->pod_uid, rows[i].uid);
        assert_string_equal(p->name, rows[i].volume);
        assert_int_equal(p->root_len, strlen(rows[i].root));
        assert_memory_equal(p->rel, rows[i].root, p->root_len);
    }
    free(p);
    free(listed[0]);
}

static void long_paths_are_refused(void **state)
{
    const struct volume_roots roots = {0};
    struct volume_path *p = xcalloc(1, sizeof(*p));
    char *path = xcalloc(1, PATH_MAX + 1);

    memset(path, 'a', PATH_MAX);
    path[0] = '/';
    assert_int_equal(volume_path_parse(&roots, path, p), -ENAMETOOLONG);
    path[PATH_MAX - 1] = '\0';
    assert_int_equal(volume_path_parse(&roots, path, p), 0);
    free(path);
    free(p);
}

static const struct {
    const char *target;
    bool ok;
} targets[] = {
    {"..2026_11_24_16_08_54.123", true},
    {"..x", true},
    {"..", false},
    {".", false},
    {"", false},
    {"...", true},
    {"../x", false},
    {"..a/b", false},
    {"/etc", false},
    {"data", false},
    {"..data", false},
    {"..data_tmp", false},
    {"..a/", false},
    {"..data2", true},
};

static void targets_stay_in_the_volume(void **state)
{
    char longest[NAME_MAX + 2];

    for (size_t i = 0; i < ARRAY_SIZE(targets); i++) {
        print_message("# %s\n", targets[i].target);
        assert_int_equal(volume_data_target_is_valid(targets[i].target, strlen(targets[i].target)),
                         targets[i].ok);
    }
    memset(longest, '.', sizeof(longest));
    assert_true(volume_data_target_is_valid(longest, NAME_MAX));
    assert_false(volume_data_target_is_valid(longest, NAME_MAX + 1));
    assert_false(volume_data_target_is_valid("..a\0b", 5));
}

/* ---- with directories ---- */

static const struct volume_key keys[] = {{"a", "one"}, {"b", "two"}, {NULL, NULL}};

static void make_kubelet(const struct fixture *f)
{
    int s;

    make_dirs(f->fd, "pods/u/volumes/kubernetes.io~secret/s");
    make_dirs(f->fd, "pods/u/volumes/kubernetes.io~empty-dir/e");
    make_dirs(f->fd, "pods/u/volume-subpaths/s/main");
    make_dirs(f->fd, "pods/u/volume-subpaths/e/main/0");
    s = openat(f->fd, "pods/u/volumes/kubernetes.io~secret/s", O_RDONLY | O_DIRECTORY);
    kubelet_write(s, keys);
    (void)close(s);
    put(f->fd, "pods/u/volume-subpaths/s/main/0", "one"); /* where kubelet has a bind mount */
    make_dirs(f->fd, "pods/u/volume-subpaths/s/main/1");
}

static int find(const struct fixture *f, const char *rel, struct volume_mount *m,
                struct error **err)
{
    const struct volume_roots roots = {.kubelet_root = f->path};
    char path[512];

    (void)snprintf(path, sizeof(path), "%s/%s", f->path, rel);
    return volume_find(&roots, path, m, err);
}

static const struct {
    const char *name, *rel;
    int r;
    enum volume_kind kind;
    enum volume_plugin plugin;
    bool live, is_file;
} finds[] = {
    {"whole_volume", "pods/u/volumes/kubernetes.io~secret/s", 0, VOLUME_MAPPED,
     VOLUME_PLUGIN_SECRET, true, false},
    {"visible_key_is_its_file", "pods/u/volumes/kubernetes.io~secret/s/a", 0, VOLUME_MAPPED,
     VOLUME_PLUGIN_SECRET, false, true},
    {"generation", "pods/u/volumes/kubernetes.io~secret/s/..data", 0, VOLUME_MAPPED,
     VOLUME_PLUGIN_SECRET, false, false},
    {"subpath_of_a_file", "pods/u/volume-subpaths/s/main/0", 0, VOLUME_MAPPED, VOLUME_PLUGIN_SECRET,
     false, true},
    {"subpath_of_a_directory", "pods/u/volume-subpaths/s/main/1", 0, VOLUME_MAPPED,
     VOLUME_PLUGIN_SECRET, false, false},
    {"subpath_of_an_empty_dir", "pods/u/volume-subpaths/e/main/0", 0, VOLUME_NONE,
     VOLUME_PLUGIN_OTHER, false, false},
    {"empty_dir", "pods/u/volumes/kubernetes.io~empty-dir/e", 0, VOLUME_NONE, VOLUME_PLUGIN_OTHER,
     false, false},
    {"hosts", "pods/u/etc-hosts", 0, VOLUME_SMALL_FILE, VOLUME_PLUGIN_OTHER, false, false},
    {"missing_volume", "pods/u/volumes/kubernetes.io~secret/none", -ENOENT, 0, 0, false, false},
    {"missing_key", "pods/u/volumes/kubernetes.io~secret/s/none", -ENOENT, 0, 0, false, false},
    {"symlink_to_a_volume", "pods/u/volumes/kubernetes.io~secret/link", -EINVAL, 0, 0, false,
     false},
    {"symlinked_pod", "pods/link/volumes/kubernetes.io~secret/s", -EINVAL, 0, 0, false, false},
    {"key_that_leads_out", "pods/u/volumes/kubernetes.io~secret/s/out", -EINVAL, 0, 0, false,
     false},
    {"key_that_climbs_out", "pods/u/volumes/kubernetes.io~secret/s/up", -EINVAL, 0, 0, false,
     false},
    {"fifo", "pods/u/volumes/kubernetes.io~secret/s/fifo", -EINVAL, 0, 0, false, false},
};

static void volumes_are_found_and_opened(void **state)
{
    const struct fixture *f = *state;
    unsigned before;

    make_kubelet(f);
    assert_int_equal(symlinkat("s", f->fd, "pods/u/volumes/kubernetes.io~secret/link"), 0);
    assert_int_equal(symlinkat("u", f->fd, "pods/link"), 0);
    assert_int_equal(symlinkat("/etc/passwd", f->fd, "pods/u/volumes/kubernetes.io~secret/s/out"),
                     0);
    assert_int_equal(symlinkat("../../x", f->fd, "pods/u/volumes/kubernetes.io~secret/s/up"), 0);
    assert_int_equal(mkfifoat(f->fd, "pods/u/volumes/kubernetes.io~secret/s/fifo", 0600), 0);
    before = open_fds();
    for (size_t i = 0; i < ARRAY_SIZE(finds); i++) {
        struct volume_mount m = {.fd = -EBADF};
        struct error *err = NULL;

        print_message("# %s\n", finds[i].name);
        assert_int_equal(find(f, finds[i].rel, &m, &err), finds[i].r);
        assert_int_equal(err != NULL, finds[i].r < 0);
        if (err)
            assert_non_null(strstr(err->message, finds[i].rel));
        else {
            assert_int_equal(m.kind, finds[i].kind);
            assert_int_equal(m.plugin, finds[i].plugin);
            assert_int_equal(m.live, finds[i].live);
            assert_int_equal(m.is_file, finds[i].is_file);
            assert_int_equal(m.fd >= 0, m.kind == VOLUME_MAPPED);
            volume_mount_done(&m);
        }
        error_free(err);
    }
    assert_int_equal(open_fds(), before);
}

static void a_subpath_that_may_be_of_a_persistent_volume_is_left_alone(void **state)
{
    const struct fixture *f = *state;
    struct volume_mount m;

    make_kubelet(f);
    make_dirs(f->fd, "pods/u/volumes/kubernetes.io~csi/s");
    assert_int_equal(find(f, "pods/u/volume-subpaths/s/main/0", &m, NULL), 0);
    assert_int_equal(m.kind, VOLUME_NONE);
    volume_mount_done(&m);
}

static void listed_directories_are_told_by_content(void **state)
{
    const struct fixture *f = *state;
    char *listed[] = {str_dup(f->path), NULL}, path[512];
    const struct volume_roots roots = {.kubelet_root = "/nowhere", .listed = listed};
    static const struct {
        const char *rel;
        enum volume_kind kind;
        bool live;
        const char *root;
    } want[] = {{"app/config", VOLUME_MAPPED, true, "app/config"},
                {"app/config/a", VOLUME_MAPPED, false, "app/config/a"},
                {"app", VOLUME_NONE, false, ""},
                {"app/plain", VOLUME_NONE, false, ""},
                {"app/bad", VOLUME_NONE, false, ""},
                {"app/none", VOLUME_NONE, false, ""},
                {"app/link", VOLUME_NONE, false, ""}};
    struct volume_mount m;
    int fd;

    make_dirs(f->fd, "app/config");
    make_dirs(f->fd, "app/plain");
    make_dirs(f->fd, "app/bad");
    assert_int_equal(symlinkat("/etc", f->fd, "app/bad/..data"), 0);
    assert_int_equal(symlinkat("config", f->fd, "app/link"), 0);
    fd = openat(f->fd, "app/config", O_RDONLY | O_DIRECTORY);
    kubelet_write(fd, keys);
    (void)close(fd);
    for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
        print_message("# %s\n", want[i].rel);
        (void)snprintf(path, sizeof(path), "%s/%s", f->path, want[i].rel);
        assert_int_equal(volume_find(&roots, path, &m, NULL), 0);
        assert_int_equal(m.kind, want[i].kind);
        assert_int_equal(m.live, want[i].live);
        assert_string_equal(m.rel, want[i].root);
        volume_mount_done(&m);
    }
    free(listed[0]);
}

static void a_live_volume_is_opened_again(void **state)
{
    const struct fixture *f = *state;
    struct volume_mount m;
    int fd;

    make_kubelet(f);
    assert_int_equal(find(f, "pods/u/volumes/kubernetes.io~secret/s", &m, NULL), 0);
    assert_string_equal(m.pod_uid, "u");
    assert_string_equal(m.name, "s");
    fd = volume_reopen(m.base, m.rel);
    assert_true(fd >= 0);
    (void)close(fd);
    assert_int_equal(
        dir_remove_tree(openat(f->fd, "pods/u/volumes/kubernetes.io~secret", O_RDONLY), "s"), 0);
    assert_int_equal(volume_reopen(m.base, m.rel), -ENOENT);
    volume_mount_done(&m);
}

/* Runs in a mount namespace of its own: what the exit code says is asserted by the parent. */
static int unmount_while_held(const struct fixture *f)
{
    struct volume_scan *s = NULL;
    struct volume_mount m;
    char path[512];
    int fd, r;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return 77;
    make_kubelet(f);
    (void)snprintf(path, sizeof(path), "%s/pods/u/volumes/kubernetes.io~secret/s", f->path);
    if (mount("tmpfs", path, "tmpfs", 0, "size=1m") < 0 ||
        mount(NULL, path, NULL, MS_SHARED, NULL) < 0) /* as systemd has it */
        return 77;
    fd = open(path, O_RDONLY | O_DIRECTORY);
    kubelet_write(fd, keys);
    (void)close(fd);
    if (find(f, "pods/u/volumes/kubernetes.io~secret/s", &m, NULL) < 0)
        return 1;
    if (volume_scan(m.fd, true, &volume_limits_default, &s, NULL) < 0 || s->n_fds != 2)
        return 2;
    /* the mount is private and read-only: no descriptor made below it writes */
    if (openat(m.fd, "..data/a", O_WRONLY) >= 0 || errno != EROFS)
        return 3;
    r = umount(path);
    if (r < 0)
        return 4;
    for (size_t i = 0; i < s->n; i++)
        if (s->entries[i].fd >= 0 && strlen(text_of(&s->entries[i])) != 3)
            return 5;
    volume_scan_free(s);
    volume_mount_done(&m);
    return 0;
}

static void kubelet_can_unmount_what_is_held(void **state)
{
    int status;
    pid_t pid;

    if (geteuid() != 0)
        skip(); /* mounts */
    pid = fork();
    if (pid == 0)
        _exit(unmount_while_held(*state));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip(); /* not allowed to mount here */
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_are_told_by_their_layout),
        cmocka_unit_test(long_paths_are_refused),
        cmocka_unit_test(targets_stay_in_the_volume),
        cmocka_unit_test_setup_teardown(volumes_are_found_and_opened, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(a_subpath_that_may_be_of_a_persistent_volume_is_left_alone,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(listed_directories_are_told_by_content, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(a_live_volume_is_opened_again, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(kubelet_can_unmount_what_is_held, fixture_setup,
                                        fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
