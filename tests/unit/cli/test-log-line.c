/* SPDX-License-Identifier: Apache-2.0 */
/* cli/log-line: CRI log records, good and bad, in any pieces. */
#include <string.h>

#include "base/str.h"
#include "cli/log-line.h"
#include "lib/test.h"

#define T "2026-01-31T12:00:00.000000000Z"

static const struct {
    const char *name, *line;
    bool good;
    int stream;
    bool partial;
    const char *content;
} rows[] = {
    {"full_line", T " stdout F hello world", true, 1, false, "hello world"},
    {"partial_line", T " stderr P he", true, 2, true, "he"},
    {"empty_content", T " stdout F ", true, 1, false, ""},
    {"no_content_at_all", T " stdout F", true, 1, false, ""},
    {"further_tags", T " stdout F:x:y z", true, 1, false, "z"},
    {"blanks_in_content_stay", T " stdout F  a  b ", true, 1, false, " a  b "},
    {"time_with_offset", "2026-01-31T12:00:00+01:00 stdout F x", true, 1, false, "x"},
    {"unknown_stream", T " stdin F x", false, 1, false, T " stdin F x"},
    {"unknown_tag", T " stdout X x", false, 1, false, T " stdout X x"},
    {"tag_is_longer", T " stdout Full x", false, 1, false, T " stdout Full x"},
    {"no_time", "stdout F x", false, 1, false, "stdout F x"},
    {"time_is_too_long", T T " stdout F x", false, 1, false, T T " stdout F x"},
    {"empty_line", "", false, 1, false, ""},
    {"two_words", T " stdout", false, 1, false, T " stdout"},
};

static void lines_are_parsed(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct log_record rec;

        print_message("# %s\n", rows[i].name);
        log_record_parse((const uint8_t *)rows[i].line, strlen(rows[i].line), &rec);
        assert_int_equal(rec.good, rows[i].good);
        assert_int_equal(rec.stream, rows[i].stream);
        assert_int_equal(rec.partial, rows[i].partial);
        assert_int_equal(rec.content_len, strlen(rows[i].content));
        assert_memory_equal(rec.content, rows[i].content, rec.content_len);
    }
}

static void lines_survive_any_cut(void **state)
{
    static const char text[] = T " stdout F one\n" T " stderr P t\nbad\n" T " stdout F cut";
    static const char *const want[] = {"one", "t", "bad"};

    for (size_t cut = 0; cut < sizeof(text); cut++) {
        struct log_splitter s;
        struct log_record rec;
        size_t n = 0;

        log_splitter_init(&s);
        for (int part = 0; part < 2; part++) {
            assert_int_equal(log_splitter_feed(&s, part ? text + cut : text,
                                               part ? sizeof(text) - 1 - cut : cut),
                             0);
            while (log_splitter_next(&s, &rec) == 1) {
                assert_int_equal(rec.content_len, strlen(want[n]));
                assert_memory_equal(rec.content, want[n], rec.content_len);
                n++;
            }
        }
        assert_int_equal(n, 3);
        assert_int_equal(log_splitter_rest(&s), strlen(T " stdout F cut"));
        log_splitter_done(&s);
    }
}

static void endless_line_comes_in_pieces(void **state)
{
    static char block[65536];
    struct log_splitter s;
    struct log_record rec;
    size_t got = 0;

    memset(block, 'x', sizeof(block));
    log_splitter_init(&s);
    for (int i = 0; i < 64; i++) {
        assert_int_equal(log_splitter_feed(&s, block, sizeof(block)), 0);
        while (log_splitter_next(&s, &rec) == 1) {
            assert_false(rec.good);
            got += rec.content_len;
        }
    }
    assert_int_equal(got + log_splitter_rest(&s), 64 * sizeof(block));
    assert_true(log_splitter_rest(&s) < LOG_RECORD_MAX);
    log_splitter_done(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_parsed),
        cmocka_unit_test(lines_survive_any_cut),
        cmocka_unit_test(endless_line_comes_in_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
