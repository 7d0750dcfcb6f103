/* SPDX-License-Identifier: Apache-2.0 */
/* wire: an error crosses a process border whole, and nothing hostile in it survives. */
#include <string.h>

#include "base/limit.h"
#include "lib/test.h"
#include "wire/reply.h"

static void error_comes_back_as_it_was(void **state)
{
    _cleanup_(error_freep) struct error *err = NULL, *back = NULL;
    Nexus__Reply reply = NEXUS__REPLY__INIT;
    int r = error_set_class(&err, ERROR_GUEST, -ENOENT, "in guest: no %s", "shell");

    reply_from_error(&reply, r, err);
    assert_int_equal(reply_to_error(&reply, &back), -ENOENT);
    assert_int_equal(back->class, ERROR_GUEST);
    assert_string_equal(back->message, "in guest: no shell");
}

static void success_is_an_empty_class(void **state)
{
    _cleanup_(error_freep) struct error *err = NULL;
    Nexus__Reply reply = NEXUS__REPLY__INIT;

    reply_from_error(&reply, 0, NULL);
    assert_int_equal(reply_to_error(&reply, &err), 0);
    assert_null(err);
    assert_int_equal(reply_to_error(NULL, &err), -EPROTO);
}

static void unknown_class_and_code_become_internal_eio(void **state)
{
    static const int32_t codes[] = {0, -5, 4096, INT32_MAX, INT32_MIN};

    for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
        _cleanup_(error_freep) struct error *err = NULL;
        Nexus__Reply reply = NEXUS__REPLY__INIT;

        reply.error_class = (char[]){"no such class"};
        reply.code = codes[i];
        assert_int_equal(reply_to_error(&reply, &err), -EIO);
        assert_int_equal(err->class, ERROR_INTERNAL);
        assert_true(err->message[0] != '\0');
    }
}

static const struct {
    const char *name, *in, *out;
} texts[] = {
    {"plain", "a b", "a b"},
    {"escape_sequences", "\x1b[31mred\n", "?[31mred?"},
    {"broken_utf8", "\xc3(\xff\x80", "?(??"},
    {"good_utf8", "\xc3\xa4\xe2\x82\xac", "\xc3\xa4\xe2\x82\xac"},
    {"cut_in_the_middle_of_a_sequence", "\xe2\x82", "??"},
    {"format_letters_stay_text", "%n%s", "%n%s"},
};

static void text_becomes_printable(void **state)
{
    char out[16];

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        print_message("# %s\n", texts[i].name);
        reply_clean_text(out, sizeof(out), texts[i].in);
        assert_string_equal(out, texts[i].out);
    }
    reply_clean_text(out, 4, "ab\xe2\x82\xac");
    assert_string_equal(out, "ab"); /* never half a sequence */
    reply_clean_text(out, sizeof(out), NULL);
    assert_string_equal(out, "");
}

static void long_text_is_cut(void **state)
{
    _cleanup_(error_freep) struct error *err = NULL;
    Nexus__Reply reply = NEXUS__REPLY__INIT;
    char *text = calloc(1, 100000);

    assert_non_null(text);
    memset(text, 'x', 99999);
    reply.error_class = (char[]){"invalid"};
    reply.code = EINVAL;
    reply.message = text;
    assert_int_equal(reply_to_error(&reply, &err), -EINVAL);
    assert_int_equal(strlen(err->message), LIMIT_ERROR_TEXT_BYTES - 1);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_comes_back_as_it_was),
        cmocka_unit_test(success_is_an_empty_class),
        cmocka_unit_test(unknown_class_and_code_become_internal_eio),
        cmocka_unit_test(text_becomes_printable),
        cmocka_unit_test(long_text_is_cut),
    };
    return cmocka_run_group_tests_name("reply", tests, NULL, NULL) != 0;
}
