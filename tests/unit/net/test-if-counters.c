/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "lib/test.h"
#include "net/if-counters.h"

static const char text[] =
    "Inter-|   Receive                                                |  Transmit\n"
    " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop "
    "fifo colls carrier compressed\n"
    "    lo:       0       0    0    0    0     0          0         0        0       0    0    0  "
    "  "
    "0     0       0          0\n"
    "  tap0: 1234567      10    1    2    0     0          0         0 18446744073709551615      "
    "20  "
    "  3    4    0     0       0          0\n"
    " short: 1 2 3\n"
    "  word: 1 2 3 4 5 6 7 8 9 x 1 2 3 4 5 6\n"
    "   big: 1 2 3 4 5 6 7 8 18446744073709551616 1 1 2 3 4 5 6\n";

static void reads_the_line_of_a_name(void **state)
{
    struct if_counters c;

    assert_int_equal(if_counters_parse(text, "tap0", &c), 0);
    assert_int_equal(c.rx_bytes, 1234567);
    assert_int_equal(c.rx_packets, 10);
    assert_int_equal(c.rx_errors, 1);
    assert_int_equal(c.rx_dropped, 2);
    assert_true(c.tx_bytes == UINT64_MAX);
    assert_int_equal(c.tx_packets, 20);
    assert_int_equal(c.tx_errors, 3);
    assert_int_equal(c.tx_dropped, 4);
}

static void refuses_what_is_no_line_of_it(void **state)
{
    static const struct {
        const char *name;
        int r;
    } rows[] = {{"tap", -ENODEV},    {"ap0", -ENODEV},   {"tap00", -ENODEV}, {"", -ENODEV},
                {"short", -EBADMSG}, {"word", -EBADMSG}, {"big", -EBADMSG}};
    struct if_counters c;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_int_equal(if_counters_parse(text, rows[i].name, &c), rows[i].r);
    assert_int_equal(if_counters_parse("", "tap0", &c), -ENODEV);
}

static void tells_of_a_namespace_that_is_not_there(void **state)
{
    struct if_counters c;

    assert_int_equal(if_counters_read("/nonexistent/netns", "tap0", &c), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_line_of_a_name),
        cmocka_unit_test(refuses_what_is_no_line_of_it),
        cmocka_unit_test(tells_of_a_namespace_that_is_not_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
