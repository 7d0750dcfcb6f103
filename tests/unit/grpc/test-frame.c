/* SPDX-License-Identifier: Apache-2.0 */
/* grpc/frame: messages come out whole however the bytes arrive; limits hold before memory is spent. */
#include <errno.h>
#include <string.h>

#include "grpc/frame-internal.h"
#include "lib/test.h"

static const struct {
    const char *name;
    uint8_t in[12];
    size_t len;
    int r;
} rows[] = {
    {"nothing_wants_more", {0}, 0, 0},
    {"half_a_header_wants_more", {0, 0, 0}, 3, 0},
    {"empty_message", {0, 0, 0, 0, 0}, 5, 1},
    {"message_of_two", {0, 0, 0, 0, 2, 'a', 'b'}, 7, 1},
    {"cut_message_wants_more", {0, 0, 0, 0, 2, 'a'}, 6, 0},
    {"longest_length", {0, 0, 0, 0, 8}, 5, 0},
    {"one_more_is_refused", {0, 0, 0, 0, 9}, 5, -EMSGSIZE},
    {"four_gigabytes_are_refused", {0, 0xff, 0xff, 0xff, 0xff}, 5, -EMSGSIZE},
    {"compressed_is_refused_at_its_first_byte", {1}, 1, -EOPNOTSUPP},
    {"unknown_flag_is_refused_at_its_first_byte", {2}, 1, -EPROTO},
};

static void next_gives_message_more_or_error(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct grpc_reader r;
        const uint8_t *bytes;
        size_t len;

        print_message("# %s\n", rows[i].name);
        grpc_reader_init(&r, 8, 64);
        assert_int_equal(grpc_reader_feed(&r, rows[i].in, rows[i].len), 0);
        assert_int_equal(grpc_reader_next(&r, &bytes, &len), rows[i].r);
        grpc_reader_done(&r);
    }
}

static void three_messages_survive_any_cut(void **state)
{
    static const uint8_t in[] = {0, 0, 0, 0, 1, 'a', 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 'b', 'c'};
    static const char *const want[] = {"a", "", "bc"};

    for (size_t cut = 0; cut <= sizeof(in); cut++) {
        struct grpc_reader r;
        const uint8_t *bytes;
        size_t len, got = 0;

        grpc_reader_init(&r, 8, 64);
        for (int part = 0; part < 2; part++) {
            const uint8_t *from = part ? in + cut : in;
            assert_int_equal(grpc_reader_feed(&r, from, part ? sizeof(in) - cut : cut), 0);
            while (grpc_reader_next(&r, &bytes, &len) == 1) {
                assert_int_equal(len, strlen(want[got]));
                assert_memory_equal(bytes, want[got], len);
                got++;
            }
        }
        assert_int_equal(got, 3);
        assert_int_equal(grpc_reader_pending(&r), 0);
        assert_null(r.in.data); /* nothing is held while nothing is pending */
        grpc_reader_done(&r);
    }
}

static void buffer_limit_holds(void **state)
{
    static const uint8_t zeros[65];
    struct grpc_reader r;

    grpc_reader_init(&r, 60, 64);
    assert_int_equal(grpc_reader_feed(&r, zeros, 65), -EMSGSIZE);
    assert_int_equal(grpc_reader_feed(&r, zeros, 64), 0);
    assert_int_equal(grpc_reader_feed(&r, zeros, 1), -EMSGSIZE);
    grpc_reader_done(&r);
}

static void header_is_what_the_reader_reads(void **state)
{
    uint8_t head[GRPC_FRAME_HEADER_BYTES];
    struct grpc_reader r;

    grpc_frame_header(head, 0x01020304);
    grpc_reader_init(&r, 0x01020304, 64);
    assert_int_equal(grpc_reader_feed(&r, head, sizeof(head)), 0);
    assert_int_equal(grpc_reader_announced(&r), 0x01020304);
    grpc_reader_done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(next_gives_message_more_or_error),
        cmocka_unit_test(three_messages_survive_any_cut),
        cmocka_unit_test(buffer_limit_holds),
        cmocka_unit_test(header_is_what_the_reader_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
