/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "agent/user.h"
#include "lib/test.h"

static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\n"
                             "broken line\n"
                             "bad:x:12x:1::/:/bin/sh\n"
                             "app:x:1000:100:An app:/home/app:/bin/sh\n"
                             "4000:x:77:78::/digits:/bin/sh\n"
                             "nohome:x:55:56\n"
                             "relative:x:57:57::home:/bin/sh\n"
                             "last:x:4294967294:9::/last:"; /* no newline at the end */
static const char group[] = "root:x:0:\n"
                            "users:x:100:\n"
                            "wheel:x:10:root,app\n"
                            "app2:x:11:application,app\n"
                            "no:x:12:application\n"
                            "bad:x:y:app\n"
                            "app:x:100:app\n";

struct row {
    const char *name;
    struct user_request req;
    int r;
    uint32_t uid, gid;
    const char *home;
    size_t n_groups;
    uint32_t groups[8];
};

static const uint32_t extra[] = {7, 10, 7};

static const struct row rows[] = {
    {"nothing_is_root", {0}, 0, 0, 0, "/root", 1, {10}},
    {"image_user_by_name", {.image_user = "app"}, 0, 1000, 100, "/home/app", 3, {10, 11, 100}},
    {"image_user_by_number_known",
     {.image_user = "1000"},
     0,
     1000,
     100,
     "/home/app",
     3,
     {10, 11, 100}},
    {"image_user_by_number_unknown", {.image_user = "1001"}, 0, 1001, 0, "/", 0, {0}},
    {"digits_are_never_a_name", {.image_user = "4000"}, 0, 4000, 0, "/", 0, {0}},
    {"image_user_and_group_by_name",
     {.image_user = "app:wheel"},
     0,
     1000,
     10,
     "/home/app",
     3,
     {10, 11, 100}},
    {"image_user_and_group_by_number", {.image_user = "5:6"}, 0, 5, 6, "/", 0, {0}},
    {"empty_user_part_is_root", {.image_user = ":6"}, 0, 0, 6, "/root", 1, {10}},
    {"empty_group_part_is_the_users",
     {.image_user = "app:"},
     0,
     1000,
     100,
     "/home/app",
     3,
     {10, 11, 100}},
    {"unknown_name", {.image_user = "ghost"}, -EINVAL, 0, 0, NULL, 0, {0}},
    {"unknown_group", {.image_user = "app:ghosts"}, -EINVAL, 0, 0, NULL, 0, {0}},
    {"entry_with_a_bad_number_is_no_entry", {.image_user = "bad"}, -EINVAL, 0, 0, NULL, 0, {0}},
    {"number_too_large", {.image_user = "4294967295"}, -EINVAL, 0, 0, NULL, 0, {0}},
    {"number_far_too_large", {.image_user = "99999999999999999999"}, -EINVAL, 0, 0, NULL, 0, {0}},
    {"largest_number", {.image_user = "4294967294"}, 0, 4294967294U, 9, "/last", 0, {0}},
    {"uid_wins_over_image_user",
     {.image_user = "app", .has_uid = true, .uid = 55},
     0,
     55,
     56,
     "/",
     0,
     {0}},
    {"username_wins_over_image_user",
     {.image_user = "root", .username = "app"},
     0,
     1000,
     100,
     "/home/app",
     3,
     {10, 11, 100}},
    {"gid_wins",
     {.username = "app", .has_gid = true, .gid = 5},
     0,
     1000,
     5,
     "/home/app",
     3,
     {10, 11, 100}},
    {"groups_without_duplicates",
     {.has_uid = true, .uid = 1000, .groups = extra, .n_groups = 3},
     0,
     1000,
     100,
     "/home/app",
     4,
     {7, 10, 11, 100}},
    {"strict_groups_are_those_asked_for",
     {.has_uid = true, .uid = 1000, .groups = extra, .n_groups = 1, .strict = true},
     0,
     1000,
     100,
     "/home/app",
     1,
     {7}},
    {"strict_without_groups",
     {.username = "app", .strict = true},
     0,
     1000,
     100,
     "/home/app",
     0,
     {0}},
    {"uid_minus_one", {.has_uid = true, .uid = UINT32_MAX}, -EINVAL, 0, 0, NULL, 0, {0}},
    {"gid_minus_one", {.has_gid = true, .gid = UINT32_MAX}, -EINVAL, 0, 0, NULL, 0, {0}},
    {"relative_home_is_not_used", {.username = "relative"}, 0, 57, 57, "/", 0, {0}},
};

static void resolves_as_the_image_says(void **state)
{
    static struct user_identity id;

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct row *row = &rows[i];
        struct error *err = NULL;
        int r = user_resolve(&row->req, (struct text){passwd, strlen(passwd)},
                             (struct text){group, strlen(group)}, &id, &err);

        print_message("# %s\n", row->name);
        assert_int_equal(r, row->r);
        assert_int_equal(err != NULL, r < 0);
        error_free(err);
        if (r < 0)
            continue;
        assert_int_equal(id.uid, row->uid);
        assert_int_equal(id.gid, row->gid);
        assert_string_equal(id.home, row->home);
        assert_int_equal(id.n_groups, row->n_groups);
        assert_memory_equal(id.groups, row->groups, row->n_groups * sizeof(uint32_t));
    }
}

static void without_files_numbers_work_and_names_do_not(void **state)
{
    static struct user_identity id;
    struct user_request number = {.image_user = "12:13"}, name = {.image_user = "app"}, none = {0};
    struct text missing = {0};

    assert_int_equal(user_resolve(&number, missing, missing, &id, NULL), 0);
    assert_int_equal(id.uid, 12);
    assert_int_equal(id.gid, 13);
    assert_int_equal(user_resolve(&none, missing, missing, &id, NULL), 0);
    assert_int_equal(id.uid, 0);
    assert_int_equal(user_resolve(&name, missing, missing, &id, NULL), -EINVAL);
}

static void too_many_groups_are_an_error(void **state)
{
    static struct user_identity id;
    static uint32_t many[USER_GROUPS_MAX + 1];
    struct user_request req = {.has_uid = true, .uid = 5, .groups = many};
    struct text missing = {0};

    for (uint32_t i = 0; i < ARRAY_SIZE(many); i++)
        many[i] = i;
    req.n_groups = USER_GROUPS_MAX;
    assert_int_equal(user_resolve(&req, missing, missing, &id, NULL), 0);
    req.n_groups = USER_GROUPS_MAX + 1;
    assert_int_equal(user_resolve(&req, missing, missing, &id, NULL), -E2BIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resolves_as_the_image_says),
        cmocka_unit_test(without_files_numbers_work_and_names_do_not),
        cmocka_unit_test(too_many_groups_are_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
