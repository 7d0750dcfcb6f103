/* SPDX-License-Identifier: Apache-2.0 */
/* vhost-user messages as bytes: what goes out is exactly what the protocol says, what comes in is either
 * one of two answers or refused. */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/le.h"
#include "lib/test.h"
#include "virtio/vhost-user.h"

static void messages_have_the_layout_of_the_protocol(void **state)
{
    static const struct vhost_user_region regions[2] = {{0, 3ULL << 30, 0},
                                                        {4ULL << 30, 1ULL << 30, 3ULL << 30}};
    uint8_t b[VHOST_USER_BYTES_MAX];

    assert_int_equal(vhost_user_plain(b, VHOST_USER_GET_FEATURES), 12);
    assert_memory_equal(b, "\1\0\0\0\1\0\0\0\0\0\0\0", 12);
    assert_int_equal(vhost_user_value(b, VHOST_USER_SET_VRING_KICK, 1), 20);
    assert_memory_equal(b, "\14\0\0\0\1\0\0\0\10\0\0\0\1\0\0\0\0\0\0\0", 20);
    assert_int_equal(vhost_user_vring(b, VHOST_USER_SET_VRING_NUM, 1, 256), 20);
    assert_memory_equal(b, "\10\0\0\0\1\0\0\0\10\0\0\0\1\0\0\0\0\1\0\0", 20);
    assert_int_equal(vhost_user_vring_addr(b, 1, 0x1000, 0x2000, 0x3000), 52);
    assert_int_equal(le32_load(b + 8), 40);
    assert_int_equal(le32_load(b + 12), 1);
    assert_int_equal(le64_load(b + 20), 0x1000);
    assert_int_equal(le64_load(b + 28), 0x3000); /* used comes before avail */
    assert_int_equal(le64_load(b + 36), 0x2000);
    assert_int_equal(vhost_user_mem_table(b, regions, 2), 12 + 8 + 64);
    assert_int_equal(le32_load(b + 12), 2);
    assert_int_equal(le64_load(b + 20 + 32), 4ULL << 30);
    assert_int_equal(le64_load(b + 20 + 40), 1ULL << 30);
    assert_int_equal(le64_load(b + 20 + 48), 4ULL << 30);
    assert_int_equal(le64_load(b + 20 + 56), 3ULL << 30);
}

static const struct {
    const char *name;
    uint32_t request, flags, size;
    size_t bytes;
    int want;
} replies[] = {
    {"features", 1, 5, 8, 20, 20},
    {"features_and_more_behind", 1, 5, 8, 32, 20},
    {"base", 11, 5, 8, 20, 20},
    {"nothing", 1, 5, 8, 0, 0},
    {"half_a_header", 1, 5, 8, 11, 0},
    {"half_a_payload", 1, 5, 8, 19, 0},
    {"no_reply_flag", 1, 1, 8, 20, -EPROTO},
    {"another_version", 1, 6, 8, 20, -EPROTO},
    {"answer_to_a_setting", 2, 5, 8, 20, -EPROTO},
    {"unknown_request", 77, 5, 8, 20, -EPROTO},
    {"too_short_a_payload", 1, 5, 4, 16, -EPROTO},
    {"too_long_a_payload", 1, 5, 16, 28, -EPROTO},
    {"gigabytes", 1, 5, 0xffffffff, 20, -EPROTO},
};

static void replies_are_parsed_or_refused(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(replies); i++) {
        uint8_t b[64] = {0};
        struct vhost_user_reply reply;

        print_message("# %s\n", replies[i].name);
        le32_store(b, replies[i].request);
        le32_store(b + 4, replies[i].flags);
        le32_store(b + 8, replies[i].size);
        le32_store(b + 12, 1);
        le32_store(b + 16, 7);
        assert_int_equal(vhost_user_parse(b, replies[i].bytes, &reply), replies[i].want);
        if (replies[i].want <= 0)
            continue;
        assert_int_equal(reply.request, replies[i].request);
        if (reply.request == VHOST_USER_GET_FEATURES) {
            assert_int_equal(reply.features, 1 | 7ULL << 32);
        } else {
            assert_int_equal(reply.queue, 1);
            assert_int_equal(reply.base, 7);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_have_the_layout_of_the_protocol),
        cmocka_unit_test(replies_are_parsed_or_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
