/* SPDX-License-Identifier: Apache-2.0 */
/* grpc/status: every error class has the status clients expect, and grpc-message survives anything. */
#include <stdlib.h>
#include <string.h>

#include "base/limit.h"
#include "base/str.h"
#include "grpc/status.h"
#include "lib/test.h"

static const struct {
    enum error_class class;
    enum grpc_status status;
    enum error_class back; /* what a client of ours makes of it */
} rows[] = {
    {ERROR_INTERNAL, GRPC_INTERNAL, ERROR_INTERNAL},
    {ERROR_INVALID, GRPC_INVALID_ARGUMENT, ERROR_INVALID},
    {ERROR_NOT_FOUND, GRPC_NOT_FOUND, ERROR_NOT_FOUND},
    {ERROR_EXISTS, GRPC_ALREADY_EXISTS, ERROR_EXISTS},
    {ERROR_PRECONDITION, GRPC_FAILED_PRECONDITION, ERROR_PRECONDITION},
    {ERROR_EXHAUSTED, GRPC_RESOURCE_EXHAUSTED, ERROR_EXHAUSTED},
    {ERROR_DENIED, GRPC_PERMISSION_DENIED, ERROR_DENIED},
    {ERROR_UNSUPPORTED, GRPC_UNIMPLEMENTED, ERROR_UNSUPPORTED},
    {ERROR_CANCELLED, GRPC_CANCELLED, ERROR_CANCELLED},
    {ERROR_DEADLINE, GRPC_DEADLINE_EXCEEDED, ERROR_DEADLINE},
    {ERROR_UNAVAILABLE, GRPC_UNAVAILABLE, ERROR_UNAVAILABLE},
    {ERROR_GUEST, GRPC_INTERNAL, ERROR_INTERNAL},
};

static void every_class_has_its_status(void **state)
{
    assert_int_equal(ARRAY_SIZE(rows), ERROR_CLASS_COUNT);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        print_message("# %s\n", error_class_name(rows[i].class));
        assert_int_equal((int)rows[i].class, (int)i);
        assert_int_equal(grpc_status_from_class(rows[i].class), rows[i].status);
        assert_int_equal(grpc_status_to_class(rows[i].status), rows[i].back);
    }
    assert_int_equal(grpc_status_from_class((enum error_class)99), GRPC_INTERNAL);
}

static void every_status_has_a_name_and_an_errno(void **state)
{
    for (int i = 0; i < GRPC_STATUS_COUNT; i++) {
        assert_non_null(grpc_status_name((enum grpc_status)i));
        assert_true(grpc_status_to_errno((enum grpc_status)i) > 0);
    }
    assert_string_equal(grpc_status_name(GRPC_NOT_FOUND), "NOT_FOUND");
    assert_string_equal(grpc_status_name((enum grpc_status)17), "UNKNOWN");
}

static const struct {
    const char *name, *in, *encoded, *decoded;
} texts[] = {
    {"plain_text_is_itself", "pod not found", "pod not found", "pod not found"},
    {"empty", "", "", ""},
    {"percent_is_escaped", "50% of", "50%25 of", "50% of"},
    {"utf8_is_escaped", "f\xc3\xbcr", "f%C3%BCr", "f\xc3\xbcr"},
    {"invalid_utf8_becomes_a_question_mark",
     "a\xff"
     "b\xc3",
     "a?b?", "a?b?"},
    {"overlong_is_invalid", "\xc0\xaf", "??", "??"},
    {"control_bytes_become_blanks", "a\nb\x1b[1m\x7f", "a b [1m ", "a b [1m "},
};

static void message_is_encoded_for_a_header(void **state)
{
    char out[GRPC_MESSAGE_SIZE];

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        print_message("# %s\n", texts[i].name);
        assert_int_equal(grpc_message_encode(texts[i].in, out), strlen(texts[i].encoded));
        assert_string_equal(out, texts[i].encoded);
        assert_int_equal(grpc_message_decode(out), strlen(texts[i].decoded));
        assert_string_equal(out, texts[i].decoded);
    }
}

static void long_text_is_cut_between_characters(void **state)
{
    static const size_t lengths[] = {LIMIT_ERROR_TEXT_BYTES - 1, LIMIT_ERROR_TEXT_BYTES,
                                     LIMIT_ERROR_TEXT_BYTES + 1};
    char out[GRPC_MESSAGE_SIZE];

    for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
        _cleanup_(freep) char *text = xcalloc(1, lengths[i] + 3);
        size_t want = lengths[i] < LIMIT_ERROR_TEXT_BYTES ? lengths[i] : LIMIT_ERROR_TEXT_BYTES;

        memset(text, 'x', lengths[i]);
        assert_int_equal(grpc_message_encode(text, out), want);
        /* the last character needs two bytes and does not fit whole */
        memcpy(text + LIMIT_ERROR_TEXT_BYTES - 1, "\xc3\xbc", 3);
        assert_int_equal(grpc_message_encode(text, out), LIMIT_ERROR_TEXT_BYTES - 1);
    }
    memset(out, 0, sizeof(out));
}

static void bad_escapes_stay_as_they_are(void **state)
{
    char text[] = "%zz %4 %00 %41 %";

    grpc_message_decode(text);
    assert_string_equal(text, "%zz %4   A %");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_class_has_its_status),
        cmocka_unit_test(every_status_has_a_name_and_an_errno),
        cmocka_unit_test(message_is_encoded_for_a_header),
        cmocka_unit_test(long_text_is_cut_between_characters),
        cmocka_unit_test(bad_escapes_stay_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
