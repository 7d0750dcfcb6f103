/* SPDX-License-Identifier: Apache-2.0 */
/* erofs: layers merge as containerd would merge them, and no name leaves the tree. What the bytes mean
 * is checked by independent readers in tests/integration/images. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "erofs/format.h"
#include "erofs/tree-internal.h"
#include "erofs/tree.h"
#include "erofs/writer.h"
#include "lib/test.h"

/* A case is a script: members separated by spaces. "path" file, "path/" directory, "path>target" symlink,
 * "path=target" hard link, "|" next layer. The result is the sorted listing in the same words; a file
 * shows the layer its data is in as "path#layer", and hard links show as "path#layer*links". */
static const struct {
    const char *name, *script, *want;
    int r;
} rows[] = {
    {"files_and_directories", "a d/ d/b d/c/", "a#0 d/ d/b#0 d/c/", 0},
    {"parents_are_made", "x/y/z", "x/ x/y/ x/y/z#0", 0},
    {"absolute_and_dotted_names", "/a ./b c/./d e//f", "a#0 b#0 c/ c/d#0 e/ e/f#0", 0},
    {"dot_dot_stops_at_the_root", "../a b/../../c d/../e", "a#0 c#0 e#0", 0},
    {"the_root_is_ignored", "./ / .. a/..", "", 0},
    {"later_layer_replaces", "a b | a", "a#1 b#0", 0},
    {"directory_over_directory_keeps_children", "d/ d/a | d/", "d/ d/a#0", 0},
    {"file_over_directory", "d/ d/a d/e/f | d", "d#1", 0},
    {"directory_over_file", "d | d/ d/a", "d/ d/a#1", 0},
    {"directory_over_symlink_replaces_it", "e/ d>e | d/ d/a", "d/ d/a#1 e/", 0},
    {"twice_in_one_layer_last_wins", "a a/ a", "a#0", 0},
    {"parent_is_symlink", "e/ d>e d/a", "d>e e/ e/a#0", 0},
    {"parent_is_symlink_of_lower_layer", "e/ d>/e | d/a", "d>/e e/ e/a#1", 0},
    {"symlink_out_of_the_root_stays_in", "d>../../etc d/passwd", "d>../../etc etc/ etc/passwd#0",
     0},
    {"absolute_symlink_stays_in", "d>/etc d/passwd", "d>/etc etc/ etc/passwd#0", 0},
    {"symlink_to_itself_as_parent", "d>d d/a", NULL, -ELOOP},
    {"symlinks_in_a_circle", "a>b b>a a/x", NULL, -ELOOP},
    {"symlink_itself_is_replaced_not_followed", "e d>e d", "d#0 e#0", 0},
    {"parent_is_file", "a a/b", NULL, -ENOTDIR},
    {"relative_links_in_the_middle", "x/y/ x/l>../z z/ x/l/f x/y/l>../../z x/y/l/g",
     "x/ x/l>../z x/y/ x/y/l>../../z z/ z/f#0 z/g#0", 0},
    {"hard_link", "a b=a", "a#0*2 b#0*2", 0},
    {"hard_link_to_lower_layer", "a | b=/a", "a#0*2 b#0*2", 0},
    {"hard_link_through_symlink_parent", "e/a d>e b=d/a", "b#0*2 d>e e/ e/a#0*2", 0},
    {"hard_link_with_dots", "a b=../../a", "a#0*2 b#0*2", 0},
    {"hard_link_to_nothing", "b=a", NULL, -ENOENT},
    {"hard_link_to_directory", "d/ b=d", NULL, -EPERM},
    {"hard_link_to_root", "b=/", NULL, -EPERM},
    {"hard_link_to_itself", "a a=a", "a#0", 0},
    {"hard_link_over_the_directory_of_its_target", "d/a | d=d/a", "d#0", 0},
    {"hard_link_replaced_in_one_place", "a b=a | a", "a#1 b#0", 0},
    {"whiteout_file", "a b | .wh.a", "b#0", 0},
    {"whiteout_directory", "d/a d/e/f b | .wh.d", "b#0", 0},
    {"whiteout_of_nothing", "a | .wh.x x/.wh.y a/.wh.z", "a#0", 0},
    {"whiteout_then_new_in_one_layer", "d/a | .wh.d d/ d/b", "d/ d/b#1", 0},
    {"new_then_whiteout_in_one_layer", "d/a | d/ d/b .wh.d", "d/ d/b#1", 0},
    {"whiteout_does_not_hide_its_own_layer", "x | a .wh.a", "a#1 x#0", 0},
    {"whiteout_through_symlink_parent", "e/a d>e | d/.wh.a", "d>e e/", 0},
    {"whiteout_in_the_root_and_back", "a | .wh.a | a", "a#2", 0},
    {"opaque", "d/a d/e/f | d/ d/.wh..wh..opq d/b", "d/ d/b#1", 0},
    {"opaque_after_its_children", "d/a d/e/f | d/ d/b d/e/g d/.wh..wh..opq",
     "d/ d/b#1 d/e/ d/e/g#1", 0},
    {"opaque_root", "a d/b | .wh..wh..opq c", "c#1", 0},
    {"opaque_of_nothing_makes_the_directory", "a | d/.wh..wh..opq", "a#0 d/", 0},
    {"aufs_names_are_dropped", "a | .wh..wh.plnk .wh..wh.aufs", "a#0", 0},
    {"whiteout_of_empty_name", "a | .wh.", NULL, -EINVAL},
    {"whiteout_of_dot", "d/a | d/.wh..", NULL, -EINVAL},
    {"whiteout_of_dot_dot", "d/a | d/.wh...", NULL, -EINVAL},
    {"hidden_hard_link_keeps_the_other", "a b=a | .wh.a", "b#0", 0},
    {"case_twins", "A a \xc3\xa9 e\xcc\x81", "A#0 a#0 e\xcc\x81#0 \xc3\xa9#0", 0},
    {"names_before_dot", "! + , - .a ..b ...", "!#0 +#0 ,#0 -#0 ...#0 ..b#0 .a#0", 0},
    {"symlink_empty", "a>", NULL, -EINVAL},
};

static int apply(struct erofs_tree *t, char *word)
{
    struct erofs_entry e = {.path = word, .mode = S_IFREG | 0644};
    size_t at = strcspn(word, ">=");
    size_t n = strlen(word);

    if (word[at]) {
        e.link = word + at + 1;
        e.hardlink = word[at] == '=';
        e.mode = S_IFLNK | 0777;
        word[at] = '\0';
    } else if (word[n - 1] == '/') {
        e.mode = S_IFDIR | 0755;
    }
    return erofs_tree_apply(t, &e);
}

static int run(struct erofs_tree *t, const char *script)
{
    _cleanup_(freep) char *copy = str_dup(script);
    char *rest = copy, *word;
    int r = erofs_tree_begin_layer(t);

    while (r == 0 && (word = strsep(&rest, " "))) {
        if (strcmp(word, "|") == 0)
            r = erofs_tree_begin_layer(t);
        else
            r = apply(t, word);
    }
    return r;
}

static void list(const struct erofs_tree *t, uint32_t dir, const char *prefix, struct buf *out)
{
    for (uint32_t i = t->inodes[dir].children; i; i = t->dentries[i].next) {
        const struct tree_inode *n = &t->inodes[t->dentries[i].inode];
        char path[512];

        (void)snprintf(path, sizeof(path), "%s%.*s", prefix, (int)t->dentries[i].name_len,
                       (const char *)t->pool + t->dentries[i].name);
        assert_int_equal(buf_printf(out, "%s%s", out->used ? " " : "", path), 0);
        if (S_ISLNK(n->mode))
            assert_int_equal(buf_printf(out, ">%s", (const char *)t->pool + n->link), 0);
        if (S_ISREG(n->mode))
            assert_int_equal(buf_printf(out, "#%u", n->segment), 0);
        if (S_ISREG(n->mode) && n->nlink > 1)
            assert_int_equal(buf_printf(out, "*%u", n->nlink), 0);
        if (!tree_is_dir(n))
            continue;
        assert_int_equal(buf_append(out, "/", 1), 0);
        (void)snprintf(path + strlen(path), 2, "/");
        list(t, t->dentries[i].inode, path, out);
    }
}

static int swallow(void *userdata, const void *bytes, size_t len)
{
    *(uint64_t *)userdata += len;
    return 0;
}

static void layers_merge(void **state)
{
    static const uint64_t none[EROFS_TREE_SEGMENTS];
    static const uint8_t uuid[16];

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(erofs_tree_freep) struct erofs_tree *t = NULL;
        _cleanup_(buf_done) struct buf out;
        uint64_t meta, written = 0;

        print_message("# %s\n", rows[i].name);
        buf_init(&out, 65536);
        assert_int_equal(erofs_tree_new(16 << 20, 1000, &t), 0);
        assert_int_equal(run(t, rows[i].script), rows[i].r);
        if (rows[i].r < 0)
            continue;
        assert_int_equal(erofs_plan(t, none, t->layers, &meta), 0);
        assert_int_equal(t->n_order, erofs_tree_inodes(t));
        assert_int_equal(erofs_write(t, uuid, swallow, &written), 0);
        assert_int_equal(written, meta);
        assert_int_equal(meta % EROFS_BLOCK, 0);
        list(t, TREE_ROOT, "", &out);
        assert_int_equal(buf_append(&out, "", 1), 0);
        assert_string_equal((const char *)out.data, rows[i].want);
    }
}

static const struct {
    const char *name;
    struct erofs_entry e;
    int r;
} members[] = {
    {"plain", {.path = "a", .mode = S_IFREG | 07777}, 0},
    {"no_type", {.path = "a", .mode = 0644}, -EINVAL},
    {"odd_type", {.path = "a", .mode = 0150000}, -EINVAL},
    {"mode_bits_above", {.path = "a", .mode = S_IFREG | 0x10000}, -EINVAL},
    {"largest_uid", {.path = "a", .mode = S_IFREG, .uid = UINT32_MAX - 1}, 0},
    {"no_uid", {.path = "a", .mode = S_IFREG, .uid = UINT32_MAX}, -EINVAL},
    {"no_gid", {.path = "a", .mode = S_IFREG, .gid = UINT32_MAX}, -EINVAL},
    {"nanoseconds", {.path = "a", .mode = S_IFREG, .mtime_ns = 999999999}, 0},
    {"a_second_of_ns", {.path = "a", .mode = S_IFREG, .mtime_ns = 1000000000}, -EINVAL},
    {"before_1970", {.path = "a", .mode = S_IFREG, .mtime_s = INT64_MIN}, 0},
    {"socket", {.path = "a", .mode = S_IFSOCK}, 0},
    {"fifo", {.path = "a", .mode = S_IFIFO}, 0},
    {"device", {.path = "a", .mode = S_IFBLK, .rdev = 0x800}, 0},
    {"xattrs_cut",
     {.path = "a", .mode = S_IFREG, .xattrs = (const uint8_t *)"\x05\x01\x00\x00", .xattrs_len = 4},
     -EINVAL},
    {"hard_link_without_target", {.path = "a", .hardlink = true}, -EINVAL},
};

static void members_are_checked(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
        _cleanup_(erofs_tree_freep) struct erofs_tree *t = NULL;

        print_message("# %s\n", members[i].name);
        assert_int_equal(erofs_tree_new(16 << 20, 1000, &t), 0);
        assert_int_equal(erofs_tree_apply(t, &members[i].e), -EINVAL); /* no layer yet */
        assert_int_equal(erofs_tree_begin_layer(t), 0);
        assert_int_equal(erofs_tree_apply(t, &members[i].e), members[i].r);
    }
}

static int apply_long(size_t component, size_t total)
{
    _cleanup_(erofs_tree_freep) struct erofs_tree *t = NULL;
    _cleanup_(freep) char *path = malloc(total + 1);
    struct erofs_entry e = {.path = path, .mode = S_IFREG};

    for (size_t i = 0; i < total; i++)
        path[i] = i % (component + 1) == component ? '/' : 'x';
    path[total] = '\0';
    assert_int_equal(erofs_tree_new(16 << 20, 10000, &t), 0);
    assert_int_equal(erofs_tree_begin_layer(t), 0);
    return erofs_tree_apply(t, &e);
}

static void lengths_hold_at_their_edges(void **state)
{
    assert_int_equal(apply_long(255, 255), 0);
    assert_int_equal(apply_long(256, 256), -ENAMETOOLONG);
    assert_int_equal(apply_long(255, 4095), 0);
    assert_int_equal(apply_long(255, 4096), -ENAMETOOLONG);
    assert_int_equal(apply_long(1, 4095), 0); /* 2048 deep */
}

static int fill(size_t bytes, uint32_t inodes, unsigned n)
{
    _cleanup_(erofs_tree_freep) struct erofs_tree *t = NULL;
    int r;

    assert_int_equal(erofs_tree_new(bytes, inodes, &t), 0);
    assert_int_equal(erofs_tree_begin_layer(t), 0);
    for (unsigned i = 0; i < n; i++) {
        char path[16];
        struct erofs_entry e = {.path = path, .mode = S_IFREG};

        (void)snprintf(path, sizeof(path), "f%u", i);
        r = erofs_tree_apply(t, &e);
        if (r < 0)
            return r;
        assert_true(erofs_tree_memory(t) <= bytes);
    }
    return 0;
}

static void the_tree_stays_within_its_memory_and_count(void **state)
{
    assert_int_equal(fill(64 << 20, 1001, 1000), 0);
    assert_int_equal(fill(64 << 20, 1000, 1000), -E2BIG);
    assert_int_equal(fill(1 << 20, 1000000, 1000000), -E2BIG);
}

/* Removal and reuse: a layer that replaces everything again and again does not grow the tree. */
static void removed_nodes_are_used_again(void **state)
{
    _cleanup_(erofs_tree_freep) struct erofs_tree *t = NULL;
    uint32_t inodes = 0, dentries = 0;

    assert_int_equal(erofs_tree_new(16 << 20, 1000, &t), 0);
    for (unsigned layer = 0; layer < 200; layer++) {
        char name[64] = "d";
        struct erofs_entry top = {.path = "d", .mode = S_IFREG};

        assert_int_equal(erofs_tree_begin_layer(t), 0);
        assert_int_equal(erofs_tree_apply(t, &top), 0);
        for (unsigned i = 0; i < 20; i++) {
            struct erofs_entry e = {.path = name, .mode = S_IFREG};

            if (i == 0) {
                struct erofs_entry d = {.path = "d", .mode = S_IFDIR};
                assert_int_equal(erofs_tree_apply(t, &d), 0);
            }
            (void)snprintf(name, sizeof(name), "d/%u/f", i);
            assert_int_equal(erofs_tree_apply(t, &e), 0);
        }
        assert_int_equal(erofs_tree_inodes(t), 42);
        if (layer == 1) {
            inodes = t->inodes_used;
            dentries = t->dentries_used;
        }
    }
    assert_int_equal(t->inodes_used, inodes);
    assert_int_equal(t->dentries_used, dentries);
}

static void data_outside_its_segment_is_refused(void **state)
{
    static const struct {
        uint64_t size, block, segment;
        int r;
    } cases[] = {
        {4096, 0, 4096, 0},
        {4097, 0, 4096, -ERANGE},
        {1, 1, 4096, -ERANGE},
        {1, 1, 8192, 0},
        {UINT64_MAX, 0, 4096, -ERANGE},
        {1, UINT64_MAX, 4096, -ERANGE},
        {0, 99, 0, 0},
        {1, 0, 4095, -ERANGE},
        {1, UINT64_MAX / 4096, 4096, -ERANGE},
        {1, 0, 17ULL << 44, -EFBIG},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_(erofs_tree_freep) struct erofs_tree *t = NULL;
        struct erofs_entry e = {
            .path = "a", .mode = S_IFREG, .size = cases[i].size, .block = cases[i].block};
        uint64_t meta;

        print_message("# %zu\n", i);
        assert_int_equal(erofs_tree_new(16 << 20, 1000, &t), 0);
        assert_int_equal(erofs_tree_begin_layer(t), 0);
        assert_int_equal(erofs_tree_apply(t, &e), 0);
        assert_int_equal(erofs_plan(t, &cases[i].segment, 1, &meta), cases[i].r);
        assert_int_equal(erofs_plan(t, &cases[i].segment, 0, &meta), -EINVAL);
    }
}

static void xattrs_keep_to_their_namespaces(void **state)
{
    static const struct {
        const char *name;
        int r;
    } cases[] = {
        {"user.a", 1},
        {"user.a", 0}, /* there already */
        {"security.capability", 1},
        {"trusted.x", 1},
        {"system.posix_acl_access", 1},
        {"system.posix_acl_default", 1},
        {"system.nfs4_acl", 0},
        {"trusted.overlay.opaque", 0},
        {"trusted.overlay.redirect", 0},
        {"user.overlay.opaque", 0},
        {"com.apple.x", 0},
        {"user.", -EINVAL},
        {"", 0},
    };
    _cleanup_(buf_done) struct buf list_;
    char big[300];

    buf_init(&list_, 1 << 20);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        print_message("# '%s'\n", cases[i].name);
        assert_int_equal(erofs_xattr_append(&list_, cases[i].name, "value", 5), cases[i].r);
        assert_true(erofs_xattrs_are_valid(list_.data, list_.used));
    }
    memset(big, 'x', sizeof(big) - 1);
    big[299] = '\0';
    memcpy(big, "user.", 5);
    assert_int_equal(erofs_xattr_append(&list_, big, "", 0), -E2BIG);
    big[5 + 255] = '\0';
    assert_int_equal(erofs_xattr_append(&list_, big, "", 0), 1);
    for (size_t cut = 1; cut < list_.used; cut++)
        (void)erofs_xattrs_are_valid(list_.data, cut);
}

static void whiteouts_can_be_plain_names(void **state)
{
    static const char *const names[] = {"a", ".wh.a", ".wh..wh..opq", ".wh..wh.x", ".wh."};
    _cleanup_(erofs_tree_freep) struct erofs_tree *t = NULL;

    assert_int_equal(erofs_tree_new(1 << 20, 100, &t), 0);
    erofs_tree_ignore_whiteouts(t);
    assert_int_equal(erofs_tree_begin_layer(t), 0);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        const struct erofs_entry e = {.path = names[i], .mode = S_IFREG | 0644};

        assert_int_equal(erofs_tree_apply(t, &e), 0);
    }
    assert_int_equal(erofs_tree_inodes(t), 1 + ARRAY_SIZE(names));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_merge),
        cmocka_unit_test(members_are_checked),
        cmocka_unit_test(lengths_hold_at_their_edges),
        cmocka_unit_test(the_tree_stays_within_its_memory_and_count),
        cmocka_unit_test(removed_nodes_are_used_again),
        cmocka_unit_test(data_outside_its_segment_is_refused),
        cmocka_unit_test(whiteouts_can_be_plain_names),
        cmocka_unit_test(xattrs_keep_to_their_namespaces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
