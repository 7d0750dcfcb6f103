/* SPDX-License-Identifier: Apache-2.0 */
/* wire: frames arrive whole whatever the pieces, limits hold before memory is spent. */
#include <string.h>

#include "base/limit.h"
#include "gen/msg/nexus.pb-c.h"
#include "lib/test.h"
#include "wire/message.h"

static const struct {
    const char *name;
    uint8_t in[8];
    size_t len;
    int r;
} rows[] = {
    {"half_a_header_wants_more", {8, 0, 0}, 3, 0},
    {"empty_value_is_a_frame", {1, 0, 0, 0, 0}, 5, 1},
    {"length_over_limit_is_refused", {1, 0, 0, 0x10, 1}, 5, -EMSGSIZE},
    {"termination_log_of_4096_bytes_may_come", {9, 0, 0, 0x10, 0}, 5, 0},
    {"termination_log_over_that_is_refused", {9, 0, 0, 0x10, 1}, 5, -EMSGSIZE},
    {"largest_length_is_refused", {8, 0xff, 0xff, 0xff, 0xff}, 5, -EMSGSIZE},
    {"unknown_type_is_refused_at_its_first_byte", {99}, 1, -EPROTO},
    {"type_zero_is_refused", {0, 0, 0, 0, 0}, 5, -EPROTO},
};

static void next_gives_frame_more_or_error(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(tlv_reader_done) struct tlv_reader t = {0};
        struct tlv_frame f;

        print_message("# %s\n", rows[i].name);
        tlv_reader_init(&t);
        assert_int_equal(tlv_reader_feed(&t, rows[i].in, rows[i].len), 0);
        assert_int_equal(tlv_reader_next(&t, &f), rows[i].r);
    }
}

static void message_survives_any_cut(void **state)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__StartContainer start = NEXUS__START_CONTAINER__INIT;
    struct buf out;

    start.container_id = (char[]){"abc"};
    m.id = 7;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_START_CONTAINER;
    m.start_container = &start;
    buf_init(&out, 4096);
    assert_int_equal(message_write(&out, TLV_MESSAGE, &m.base), 0);
    for (size_t cut = 0; cut <= out.used; cut++) {
        _cleanup_(tlv_reader_done) struct tlv_reader t = {0};
        struct tlv_frame f;
        Nexus__ControlMessage *got;

        tlv_reader_init(&t);
        assert_int_equal(tlv_reader_feed(&t, out.data, cut), 0);
        if (cut < out.used)
            assert_int_equal(tlv_reader_next(&t, &f), 0);
        assert_int_equal(tlv_reader_feed(&t, out.data + cut, out.used - cut), 0);
        assert_int_equal(tlv_reader_next(&t, &f), 1);
        got = (Nexus__ControlMessage *)message_unpack(&nexus__control_message__descriptor, f.value,
                                                      f.len);
        assert_non_null(got);
        assert_int_equal(got->id, 7);
        assert_string_equal(got->start_container->container_id, "abc");
        message_free(&got->base);
        assert_int_equal(tlv_reader_next(&t, &f), 0);
    }
    buf_done(&out);
}

static void crafted_message_cannot_amplify(void **state)
{
    /* half a million empty ContainerState entries: 2 bytes each in, about 80 each out */
    size_t n = 500000;
    uint8_t *bytes = malloc(2 * n);

    assert_non_null(bytes);
    for (size_t i = 0; i < n; i++)
        memcpy(bytes + 2 * i, "\x3a\x00", 2);
    assert_null(message_unpack(&nexus__vmm_state__descriptor, bytes, 2 * n));
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(next_gives_frame_more_or_error),
        cmocka_unit_test(message_survives_any_cut),
        cmocka_unit_test(crafted_message_cannot_amplify),
    };
    return cmocka_run_group_tests_name("wire", tests, NULL, NULL) != 0;
}
