/* SPDX-License-Identifier: Apache-2.0 */
/* erofs: a layer's index comes back member by member, and damage is noticed. */
#include <string.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "erofs/layer-index.h"
#include "lib/test.h"

static const struct erofs_entry members[] = {
    {.path = "a", .mode = S_IFREG | 0644, .size = 5000, .block = 7, .mtime_s = -1, .mtime_ns = 5},
    {.path = "dir/", .mode = S_IFDIR | 01777, .uid = 70000, .gid = 4000000000U},
    {.path = "l", .link = "a", .mode = S_IFLNK | 0777},
    {.path = "h", .link = "a", .hardlink = true},
    {.path = "x",
     .mode = S_IFCHR,
     .rdev = 0x103,
     .xattrs = (const uint8_t *)"\x01\x01\x01\x00k=\x00\x00",
     .xattrs_len = 8},
};

static void build(struct buf *out)
{
    struct layer_info info = {.entries = ARRAY_SIZE(members), .data_bytes = 8 * 4096};
    struct buf body;

    buf_init(&body, 1 << 20);
    buf_init(out, 1 << 20);
    for (size_t i = 0; i < ARRAY_SIZE(members); i++)
        assert_int_equal(layer_index_append(&body, &members[i]), 0);
    memset(info.diff_id, 'a', 64);
    info.index_bytes = body.used;
    info.checksum = ~crc32c_update(~0U, body.data, body.used);
    layer_index_header(&info, buf_reserve(out, LAYER_INDEX_HEADER));
    out->used += LAYER_INDEX_HEADER;
    assert_int_equal(buf_append(out, body.data, body.used), 0);
    buf_done(&body);
}

static void members_come_back(void **state)
{
    struct layer_reader r;
    struct layer_info info;
    struct erofs_entry e;
    struct buf b;

    build(&b);
    assert_int_equal(layer_index_open(b.data, b.used, &info, &r), 0);
    assert_int_equal(info.entries, ARRAY_SIZE(members));
    assert_int_equal(info.data_bytes, 8 * 4096);
    assert_int_equal(strlen(info.diff_id), 64);
    for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
        const struct erofs_entry *w = &members[i];

        assert_int_equal(layer_index_next(&r, &e), 1);
        assert_string_equal(e.path, w->path);
        assert_int_equal(e.link != NULL, w->link != NULL);
        if (w->link)
            assert_string_equal(e.link, w->link);
        assert_int_equal(e.hardlink, w->hardlink);
        assert_int_equal(e.mode, w->mode);
        assert_int_equal(e.uid, w->uid);
        assert_int_equal(e.gid, w->gid);
        assert_int_equal(e.mtime_s, w->mtime_s);
        assert_int_equal(e.mtime_ns, w->mtime_ns);
        assert_int_equal(e.rdev, w->rdev);
        assert_int_equal(e.size, w->size);
        assert_int_equal(e.block, w->block);
        assert_int_equal(e.xattrs_len, w->xattrs_len);
        if (w->xattrs_len)
            assert_memory_equal(e.xattrs, w->xattrs, w->xattrs_len);
    }
    assert_int_equal(layer_index_next(&r, &e), 0);
    buf_done(&b);
}

static void damage_is_noticed(void **state)
{
    struct buf b;

    build(&b);
    for (size_t i = 0; i < b.used; i++) {
        b.data[i] ^= 0x10;
        assert_true(layer_index_open(b.data, b.used, NULL, NULL) < 0);
        b.data[i] ^= 0x10;
        assert_true(layer_index_open(b.data, i, NULL, NULL) < 0);
    }
    assert_int_equal(layer_index_open(b.data, b.used, NULL, NULL), 0);
    buf_done(&b);
}

static void too_long_strings_are_refused(void **state)
{
    char *path = calloc(1, 5000);
    struct erofs_entry e = {.path = path, .mode = S_IFREG};
    struct buf b;

    buf_init(&b, 1 << 20);
    memset(path, 'x', 4096);
    assert_int_equal(layer_index_append(&b, &e), -EINVAL);
    path[4095] = '\0';
    assert_int_equal(layer_index_append(&b, &e), 0);
    buf_done(&b);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_come_back),
        cmocka_unit_test(damage_is_noticed),
        cmocka_unit_test(too_long_strings_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
