/* SPDX-License-Identifier: Apache-2.0 */
/* dir-list: each name once, whatever the directory's size; one that was removed has none. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "lib/test.h"
#include "volume/dir-list.h"

#define NAMES 1000

static int make_dir(char *path)
{
    int fd;

    assert_non_null(mkdtemp(path));
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void each_name_is_there_once(void **state)
{
    char path[] = "/tmp/nexus-dir-list-XXXXXX", name[200];
    int fd = make_dir(path), r;
    bool seen[NAMES] = {false};
    const struct dirent64 *e;
    struct dir_list list;
    unsigned count = 0;

    for (unsigned i = 0; i < NAMES; i++) {
        (void)snprintf(name, sizeof(name), "%0*u", (int)(i % 150) + 4, i);
        assert_int_equal(mkdirat(fd, name, 0700), 0);
    }
    dir_list_init(&list, fd);
    while ((r = dir_list_next(&list, &e)) > 0) {
        unsigned i = 0;

        assert_int_equal(sscanf(e->d_name, "%u", &i), 1);
        assert_true(i < NAMES && !seen[i]);
        assert_true(e->d_type == DT_DIR || e->d_type == DT_UNKNOWN);
        seen[i] = true;
        count++;
    }
    assert_int_equal(r, 0);
    assert_int_equal(count, NAMES);
    assert_int_equal(dir_remove_tree(AT_FDCWD, path), 0);
    (void)close_fd(fd);
}

static void what_was_removed_has_no_names(void **state)
{
    char path[] = "/tmp/nexus-dir-list-XXXXXX";
    int fd = make_dir(path);
    const struct dirent64 *e;
    struct dir_list list;

    assert_int_equal(rmdir(path), 0);
    dir_list_init(&list, fd);
    assert_int_equal(dir_list_next(&list, &e), 0);
    (void)close_fd(fd);
}

static void what_is_no_directory_is_an_error(void **state)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    const struct dirent64 *e;
    struct dir_list list;

    dir_list_init(&list, fd);
    assert_int_equal(dir_list_next(&list, &e), -ENOTDIR);
    (void)close_fd(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_name_is_there_once),
        cmocka_unit_test(what_was_removed_has_no_names),
        cmocka_unit_test(what_is_no_directory_is_an_error),
    };
    return cmocka_run_group_tests_name("dir-list", tests, NULL, NULL) != 0;
}
