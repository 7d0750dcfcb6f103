/* SPDX-License-Identifier: Apache-2.0 */
/* volume: a scan is one moment of the volume, whole or refused with the path that is to blame. */
#include <grp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "erofs/entry.h"
#include "lib/volume-fixture.h"
#include "volume/kind.h"

static const struct volume_key old_keys[] = {{"a", "old a"}, {"b", "old b"}, {"c", "old c"}, {0}};
static const struct volume_key new_keys[] = {{"a", "new a"}, {"b", "new b"}, {"d", "new d"}, {0}};

static struct volume_scan *scan(int fd, bool live)
{
    struct volume_scan *s = NULL;
    struct error *err = NULL;
    int r = volume_scan(fd, live, &volume_limits_default, &s, &err);

    if (err)
        print_message("# %s\n", err->message);
    error_free(err);
    assert_int_equal(r, 0);
    return s;
}

/* The scan fails with r, and the text has `words`; nothing stays open. */
static void assert_refused(int fd, bool live, const struct volume_limits *limits, int r,
                           const char *words)
{
    const unsigned before = open_fds();
    struct volume_scan *s = NULL;
    struct volume_identity id;
    struct error *err = NULL;

    assert_int_equal(volume_scan(fd, live, limits, &s, &err), r);
    assert_null(s);
    assert_non_null(err);
    print_message("# %s\n", err->message);
    assert_non_null(strstr(err->message, words));
    error_free(err);
    (void)volume_identity_of(fd, live, limits, &id, NULL);
    assert_int_equal(open_fds(), before);
}

/* ---- what is read ---- */

static void a_live_volume_shows_its_generation(void **state)
{
    const struct fixture *f = *state;
    struct volume_scan *s;
    char path[300];

    kubelet_write(f->fd, old_keys);
    kubelet_write_until(f->fd, new_keys, 1); /* one that is not published yet */
    put(f->fd, "..data_x", "the writer's");
    s = scan(f->fd, true);
    assert_true(s->is_settled);
    assert_true(str_starts(s->target, "..2026_"));
    assert_int_equal(s->n, 1 + 3 + 1 + 1 + 3); /* itself, files, links, ..data, the generation */
    assert_int_equal(s->n_fds, 3);
    assert_int_equal(s->bytes, 15);
    assert_int_equal(s->pages, 3);
    assert_string_equal(entry_of(s, "..data")->link, s->target);
    assert_string_equal(entry_of(s, "a")->link, "..data/a");
    (void)snprintf(path, sizeof(path), "%s/b", s->target);
    assert_string_equal(text_of(entry_of(s, path)), "old b");
    assert_null(entry_of(s, "..data_x"));
    volume_scan_free(s);
}

static void attributes_are_those_of_lstat(void **state)
{
    const struct fixture *f = *state;
    struct timespec times[2] = {{.tv_sec = 5}, {.tv_sec = 1234567890, .tv_nsec = 987654321}};
    struct volume_scan *s;
    struct stat st;

    put_bytes(f->fd, "plain", "x\0y", 3, 04751);
    put_bytes(f->fd, "empty", "", 0, 0400);
    make_dirs(f->fd, "d/e/f");
    assert_int_equal(fchmodat(f->fd, "d", 02770, 0), 0);
    assert_int_equal(symlinkat("../../etc/passwd", f->fd, "d/out"), 0);
    assert_int_equal(symlinkat("d/none", f->fd, "dangling"), 0);
    assert_int_equal(utimensat(f->fd, "plain", times, 0), 0);
    s = scan(f->fd, false);
    assert_int_equal(s->n, 8);
    assert_int_equal(s->n_fds, 1);
    for (size_t i = 0; i < s->n; i++) {
        const struct volume_entry *e = &s->entries[i];

        print_message("# %s\n", e->path);
        assert_int_equal(fstatat(f->fd, *e->path ? e->path : ".", &st, AT_SYMLINK_NOFOLLOW), 0);
        assert_int_equal(e->mode, st.st_mode);
        assert_int_equal(e->uid, st.st_uid);
        assert_int_equal(e->gid, st.st_gid);
        assert_int_equal(e->mtime_s, st.st_mtim.tv_sec);
        assert_int_equal(e->mtime_ns, st.st_mtim.tv_nsec);
        assert_int_equal(e->size, S_ISREG(st.st_mode) ? st.st_size : 0);
        assert_true(i == 0 || strcmp(s->entries[i - 1].path, e->path) < 0);
    }
    assert_string_equal(entry_of(s, "d/out")->link, "../../etc/passwd");
    assert_int_equal(fcntl(entry_of(s, "plain")->fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    volume_scan_free(s);
}

static void hard_links_are_one_file(void **state)
{
    const struct fixture *f = *state;
    struct volume_scan *s;

    put(f->fd, "b", "shared");
    put(f->fd, "other", "own");
    make_dirs(f->fd, "d");
    assert_int_equal(linkat(f->fd, "b", f->fd, "a", 0), 0);
    assert_int_equal(linkat(f->fd, "b", f->fd, "d/c", 0), 0);
    s = scan(f->fd, false);
    assert_int_equal(s->n_fds, 2);
    assert_int_equal(s->bytes, 9);
    assert_int_equal(entry_of(s, "a")->same_as, VOLUME_ENTRY_FIRST);
    assert_true(&s->entries[entry_of(s, "b")->same_as] == entry_of(s, "a"));
    assert_true(&s->entries[entry_of(s, "d/c")->same_as] == entry_of(s, "a"));
    assert_true(entry_of(s, "b")->fd < 0);
    volume_scan_free(s);
}

static void a_single_file_is_a_volume(void **state)
{
    const struct fixture *f = *state;
    struct volume_scan *s;
    int fd;

    put(f->fd, "key", "text");
    fd = openat(f->fd, "key", O_RDONLY);
    s = scan(fd, false);
    assert_int_equal(s->n, 1);
    assert_string_equal(s->entries[0].path, "");
    assert_string_equal(text_of(&s->entries[0]), "text");
    assert_true(s->entries[0].fd != fd);
    volume_scan_free(s);
    (void)close(fd);
}

static void extended_attributes_are_kept(void **state)
{
    const struct fixture *f = *state;
    struct volume_scan *s;
    int fd;

    put(f->fd, "key", "text");
    fd = openat(f->fd, "key", O_RDONLY);
    if (fsetxattr(fd, "user.note", "v", 1, 0) < 0) {
        (void)close(fd);
        skip(); /* the file system has none */
    }
    (void)close(fd);
    s = scan(f->fd, false);
    assert_true(entry_of(s, "key")->xattrs_len > 0);
    assert_true(erofs_xattrs_are_valid(entry_of(s, "key")->xattrs, entry_of(s, "key")->xattrs_len));
    assert_int_equal(s->entries[0].xattrs_len, 0);
    volume_scan_free(s);
}

static void an_empty_volume_is_a_volume(void **state)
{
    static const struct volume_key none[] = {{0}};
    const struct fixture *f = *state;
    struct volume_scan *s = scan(f->fd, true);

    assert_int_equal(s->n, 1);
    assert_string_equal(s->target, "");
    volume_scan_free(s);
    kubelet_write(f->fd, none);
    s = scan(f->fd, true);
    assert_int_equal(s->n, 3);
    assert_int_equal(s->n_fds, 0);
    assert_true(s->is_settled);
    volume_scan_free(s);
}

static void the_mount_can_be_an_o_path_descriptor(void **state)
{
    const struct fixture *f = *state;
    int fd = openat(f->fd, ".", O_PATH | O_DIRECTORY);
    struct volume_scan *s;

    kubelet_write(f->fd, old_keys);
    s = scan(fd, true);
    assert_int_equal(s->n_fds, 3);
    volume_scan_free(s);
    (void)close(fd);
}

static uint64_t links(const struct fixture *f)
{
    struct volume_scan *s = scan(f->fd, true);
    uint64_t links = s->links;

    volume_scan_free(s);
    return links;
}

static void links_are_equal_if_names_are(void **state)
{
    static const struct volume_key first[] = {{"a", "a"}, {"c", "c"}, {0}};
    static const struct volume_key bytes[] = {{"a", "b"}, {"c", "d"}, {0}};
    static const struct volume_key more[] = {{"a", "b"}, {"c", "d"}, {"e", ""}, {0}};
    const struct fixture *f = *state;
    uint64_t before;

    kubelet_write(f->fd, first);
    before = links(f);
    assert_int_not_equal(before, 0);
    kubelet_write(f->fd, bytes);
    assert_int_equal(links(f), before);
    kubelet_write(f->fd, more);
    assert_int_not_equal(links(f), before);
    kubelet_write(f->fd, first);
    assert_int_equal(links(f), before);
    assert_int_equal(unlinkat(f->fd, "c", 0), 0);
    assert_int_equal(symlinkat("..data/a", f->fd, "c"), 0);
    assert_int_not_equal(links(f), before);
}

/* ---- a writer that died ---- */

static void every_step_of_the_writer_is_readable(void **state)
{
    static const struct {
        int stop;
        bool is_new, is_settled;
    } steps[] = {
        {1, false, true}, {2, false, true}, {3, true, false}, {4, true, false}, {5, true, true}};
    char path[300];

    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        struct fixture *f;
        struct volume_scan *s;

        print_message("# before step %d\n", steps[i].stop);
        assert_int_equal(fixture_setup((void **)&f), 0);
        kubelet_write(f->fd, old_keys);
        kubelet_write_until(f->fd, new_keys, steps[i].stop);
        s = scan(f->fd, true);
        assert_int_equal(s->is_settled, steps[i].is_settled);
        (void)snprintf(path, sizeof(path), "%s/a", s->target);
        assert_string_equal(text_of(entry_of(s, path)), steps[i].is_new ? "new a" : "old a");
        (void)snprintf(path, sizeof(path), "%s/d", s->target);
        assert_int_equal(entry_of(s, path) != NULL, steps[i].is_new);
        volume_scan_free(s);
        assert_int_equal(fixture_teardown((void **)&f), 0);
    }
}

/* ---- what is refused ---- */

static void special_files_are_refused_by_name(void **state)
{
    const struct fixture *f = *state;
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM, 0);

    make_dirs(f->fd, "d");
    assert_int_equal(mkfifoat(f->fd, "d/pipe", 0600), 0);
    assert_refused(f->fd, false, &volume_limits_default, -EINVAL, "d/pipe: it is a FIFO");
    assert_int_equal(unlinkat(f->fd, "d/pipe", 0), 0);
    (void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/d/sock", f->path);
    assert_int_equal(bind(sock, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_refused(f->fd, false, &volume_limits_default, -EINVAL, "d/sock: it is a socket");
    assert_int_equal(unlinkat(f->fd, "d/sock", 0), 0);
    (void)close(sock);
    if (mknodat(f->fd, "d/null", S_IFCHR | 0600, makedev(1, 3)) == 0)
        assert_refused(f->fd, false, &volume_limits_default, -EINVAL,
                       "d/null: it is a character device");
}

static void bad_data_links_are_refused(void **state)
{
    static const struct {
        const char *name, *target;
        int r;
        const char *words;
    } rows[] = {
        {"outside", "../x", -EINVAL, "..data: its target"},
        {"absolute", "/etc", -EINVAL, "..data: its target"},
        {"itself", "..data", -EINVAL, "..data: its target"},
        {"plain_name", "x", -EINVAL, "..data: its target"},
        {"dangling", "..2026_x", -ENOENT, "..data: it is dangling"},
        {"to_a_file", "..2026_file", -EINVAL, "..data: it names no directory"},
        {"to_a_link", "..2026_link", -EINVAL, "..data: it names no directory"},
    };
    const struct fixture *f = *state;

    put(f->fd, "..2026_file", "x");
    make_dirs(f->fd, "dir");
    assert_int_equal(symlinkat("dir", f->fd, "..2026_link"), 0);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        print_message("# %s\n", rows[i].name);
        assert_int_equal(symlinkat(rows[i].target, f->fd, "..data"), 0);
        assert_refused(f->fd, true, &volume_limits_default, rows[i].r, rows[i].words);
        assert_int_equal(unlinkat(f->fd, "..data", 0), 0);
    }
    put(f->fd, "..data", "a file");
    assert_refused(f->fd, true, &volume_limits_default, -EINVAL, "..data: it is no symlink");
    assert_int_equal(unlinkat(f->fd, "..data", 0), 0);
    make_dirs(f->fd, "..data");
    assert_refused(f->fd, true, &volume_limits_default, -EINVAL, "..data: it is no symlink");
}

static void limits_are_exact(void **state)
{
    static const struct {
        const char *name;
        struct volume_limits ok, over; /* zero: default */
        const char *words;
    } rows[] = {
        {"nodes", {.nodes = 6}, {.nodes = 5}, "more files and directories"},
        {"links", {.links = 2}, {.links = 1}, "more symlinks"},
        {"depth", {.depth = 2}, {.depth = 1}, "d/e: directories are nested"},
        {"name", {.name_bytes = 9}, {.name_bytes = 8}, "name with more bytes"},
        {"path", {.path_bytes = 13}, {.path_bytes = 12}, "path with more bytes"},
        {"bytes", {.bytes = 5000}, {.bytes = 4999}, "more bytes in files"},
    };
    const struct fixture *f = *state;
    char *bytes = xcalloc(1, 4990);

    make_dirs(f->fd, "d/e");
    put(f->fd, "d/e/long_name", "0123456789"); /* 13 bytes of path */
    put_bytes(f->fd, "d/big", bytes, 4990, 0644);
    put(f->fd, "empty", "");
    assert_int_equal(symlinkat("x", f->fd, "l1"), 0);
    assert_int_equal(symlinkat("x", f->fd, "l2"), 0);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        for (int k = 0; k < 2; k++) {
            const struct volume_limits *want = k ? &rows[i].over : &rows[i].ok;
            struct volume_limits limits = volume_limits_default;
            struct volume_scan *s;

            print_message("# %s %s\n", rows[i].name, k ? "over" : "exact");
            limits.nodes = want->nodes ? want->nodes : limits.nodes;
            limits.links = want->links ? want->links : limits.links;
            limits.depth = want->depth ? want->depth : limits.depth;
            limits.name_bytes = want->name_bytes ? want->name_bytes : limits.name_bytes;
            limits.path_bytes = want->path_bytes ? want->path_bytes : limits.path_bytes;
            limits.bytes = want->bytes ? want->bytes : limits.bytes;
            if (k) {
                assert_refused(f->fd, false, &limits, -E2BIG, rows[i].words);
                continue;
            }
            assert_int_equal(volume_scan(f->fd, false, &limits, &s, NULL), 0);
            volume_scan_free(s);
        }
    }
    free(bytes);
}

static void the_default_depth_is_sixteen(void **state)
{
    const struct fixture *f = *state;

    make_dirs(f->fd, "1/2/3/4/5/6/7/8/9/a/b/c/d/e/f/g");
    volume_scan_free(scan(f->fd, false));
    make_dirs(f->fd, "1/2/3/4/5/6/7/8/9/a/b/c/d/e/f/g/h");
    assert_refused(f->fd, false, &volume_limits_default, -E2BIG, "nested more deeply");
}

static void four_thousand_files_with_names_of_253_bytes(void **state)
{
    const struct fixture *f = *state;
    char name[254], link[300];
    struct volume_scan *s;

    struct rlimit files;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    files.rlim_cur = files.rlim_max;
    if (files.rlim_max < 4200 || setrlimit(RLIMIT_NOFILE, &files) < 0)
        skip(); /* too few descriptors here */
    make_dirs(f->fd, "..2026_x");
    assert_int_equal(symlinkat("..2026_x", f->fd, "..data"), 0);
    for (unsigned i = 0; i < 4000; i++) {
        char path[300];

        memset(name, 'n', 253);
        name[253] = '\0';
        (void)snprintf(name + 249, 5, "%04u", i);
        (void)snprintf(path, sizeof(path), "..2026_x/%s", name);
        (void)snprintf(link, sizeof(link), "..data/%s", name);
        put(f->fd, path, name + 249);
        assert_int_equal(symlinkat(link, f->fd, name), 0);
    }
    s = scan(f->fd, true);
    assert_int_equal(s->n_fds, 4000);
    assert_int_equal(s->pages, 4000);
    assert_true(s->is_settled);
    volume_scan_free(s);
}

static int scan_as_nobody(const struct fixture *f)
{
    struct error *err = NULL;
    struct volume_scan *s;
    int r;

    if (geteuid() == 0 && (setgroups(0, NULL) < 0 || setresgid(65534, 65534, 65534) < 0 ||
                           setresuid(65534, 65534, 65534) < 0))
        return 77;
    r = volume_scan(f->fd, false, &volume_limits_default, &s, &err);
    return r == -EACCES && strstr(err->message, "d/secret: opening it") ? 0 : 1;
}

static void an_unreadable_file_is_named(void **state)
{
    const struct fixture *f = *state;
    int status;
    pid_t pid;

    make_dirs(f->fd, "d");
    put_bytes(f->fd, "d/secret", "x", 1, 0);
    assert_int_equal(fchmod(f->fd, 0755), 0);
    pid = fork();
    if (pid == 0)
        _exit(scan_as_nobody(f));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void a_removed_volume_is_told(void **state)
{
    const struct fixture *f = *state;
    int fd;

    make_dirs(f->fd, "v");
    fd = openat(f->fd, "v", O_RDONLY | O_DIRECTORY);
    assert_int_equal(unlinkat(f->fd, "v", AT_REMOVEDIR), 0);
    assert_refused(fd, true, &volume_limits_default, -ENOENT, "removed");
    (void)close(fd);
}

static void running_out_of_descriptors_is_told(void **state)
{
    const struct fixture *f = *state;
    struct rlimit was, few;
    struct error *err = NULL;
    struct volume_scan *s;
    unsigned before;
    int next, r;

    kubelet_write(f->fd, old_keys);
    next = dup(f->fd);
    (void)close(next);
    before = open_fds();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    few = was;
    few.rlim_cur = (rlim_t)next + 3; /* the volume, its generation, one file */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    r = volume_scan(f->fd, true, &volume_limits_default, &s, &err);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    assert_int_equal(r, -EMFILE);
    assert_int_equal(error_class_of(err, r), ERROR_EXHAUSTED);
    error_free(err);
    assert_int_equal(open_fds(), before);
}

/* ---- identity ---- */

static struct volume_identity identity(int fd, bool live)
{
    struct volume_identity id;

    assert_int_equal(volume_identity_of(fd, live, &volume_limits_default, &id, NULL), 0);
    return id;
}

static void identity_tells_changes_apart(void **state)
{
    const struct fixture *f = *state;
    struct volume_identity a, b;
    struct volume_scan *s;
    char path[300];

    kubelet_write(f->fd, old_keys);
    a = identity(f->fd, true);
    s = scan(f->fd, true);
    assert_true(volume_identity_equal(&a, &s->identity));
    kubelet_write_until(f->fd, new_keys, 2);
    b = identity(f->fd, true);
    assert_true(volume_identity_equal(&a, &b)); /* nothing is published yet */
    assert_int_equal(unlinkat(f->fd, "..data_tmp", 0), 0);
    kubelet_write(f->fd, old_keys);
    b = identity(f->fd, true);
    assert_false(volume_identity_equal(&a, &b)); /* the same text in a new generation */
    volume_scan_free(s);
    s = scan(f->fd, true);
    (void)snprintf(path, sizeof(path), "%s/a", s->target);
    put(f->fd, path, "longer than it was");
    a = identity(f->fd, true);
    assert_false(volume_identity_equal(&a, &s->identity));
    assert_int_equal(fchmodat(f->fd, path, 0600, 0), 0);
    b = identity(f->fd, true);
    assert_false(volume_identity_equal(&a, &b));
    volume_scan_free(s);
}

static void what_is_not_live_keeps_its_identity_when_its_name_goes(void **state)
{
    const struct fixture *f = *state;
    struct volume_identity a, b;
    int fd;

    put(f->fd, "key", "text");
    fd = openat(f->fd, "key", O_RDONLY);
    a = identity(fd, false);
    assert_int_equal(unlinkat(f->fd, "key", 0), 0);
    b = identity(fd, false);
    assert_true(volume_identity_equal(&a, &b));
    (void)close(fd);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
#define FAST(f) cmocka_unit_test_setup_teardown(f, fixture_setup_fast, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_live_volume_shows_its_generation),
        CASE(attributes_are_those_of_lstat),
        CASE(hard_links_are_one_file),
        CASE(a_single_file_is_a_volume),
        CASE(extended_attributes_are_kept),
        CASE(an_empty_volume_is_a_volume),
        CASE(the_mount_can_be_an_o_path_descriptor),
        CASE(links_are_equal_if_names_are),
        cmocka_unit_test(every_step_of_the_writer_is_readable),
        CASE(special_files_are_refused_by_name),
        CASE(bad_data_links_are_refused),
        CASE(limits_are_exact),
        CASE(the_default_depth_is_sixteen),
        FAST(four_thousand_files_with_names_of_253_bytes),
        CASE(an_unreadable_file_is_named),
        CASE(a_removed_volume_is_told),
        CASE(running_out_of_descriptors_is_told),
        CASE(identity_tells_changes_apart),
        CASE(what_is_not_live_keeps_its_identity_when_its_name_goes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
