/* SPDX-License-Identifier: Apache-2.0 */
/* pace: the clock is a number. */
#include "lib/test.h"
#include "pod/pace.h"

#define SECOND 1000000000ULL
#define START (1000 * SECOND)

static const struct pace_rule four = {.burst = 4, .interval_ns = SECOND};

static void the_burst_is_free_and_then_one_an_interval(void **state)
{
    struct pace p = {0};
    uint64_t now = START;

    for (int i = 0; i < 4; i++) {
        assert_int_equal(pace_wait_ns(&p, &four, now), 0);
        pace_take(&p, &four, now);
    }
    for (int i = 0; i < 10; i++) {
        assert_int_equal(pace_wait_ns(&p, &four, now), SECOND);
        assert_int_equal(pace_wait_ns(&p, &four, now + SECOND / 4), SECOND * 3 / 4);
        now += SECOND;
        assert_int_equal(pace_wait_ns(&p, &four, now), 0);
        pace_take(&p, &four, now);
    }
}

static void what_is_not_used_comes_back_up_to_the_burst(void **state)
{
    struct pace p = {0};

    for (int i = 0; i < 4; i++)
        pace_take(&p, &four, START);
    assert_false(pace_is_rested(&p, START + 4 * SECOND - 1));
    assert_true(pace_is_rested(&p, START + 4 * SECOND));
    for (int i = 0; i < 2; i++) { /* two seconds, two of them */
        assert_int_equal(pace_wait_ns(&p, &four, START + 2 * SECOND), 0);
        pace_take(&p, &four, START + 2 * SECOND);
    }
    assert_int_equal(pace_wait_ns(&p, &four, START + 2 * SECOND), SECOND);
    for (int i = 0; i < 4; i++) { /* an hour, and no more than the burst */
        assert_int_equal(pace_wait_ns(&p, &four, START + 3600 * SECOND), 0);
        pace_take(&p, &four, START + 3600 * SECOND);
    }
    assert_int_equal(pace_wait_ns(&p, &four, START + 3600 * SECOND), SECOND);
}

static void one_that_did_not_wait_costs_the_next_one_interval(void **state)
{
    struct pace p = {0};

    for (unsigned i = 0; i < 100; i++)
        pace_take(&p, &four, START + i);
    assert_int_equal(pace_wait_ns(&p, &four, START + 99), SECOND);
    assert_int_equal(pace_wait_ns(&p, &four, START + 99 + SECOND), 0);
}

static void one_at_a_time(void **state)
{
    const struct pace_rule rule = {.burst = 1, .interval_ns = SECOND};
    struct pace p = {0};

    assert_true(pace_is_rested(&p, 0));
    assert_int_equal(pace_wait_ns(&p, &rule, 0), 0);
    pace_take(&p, &rule, 0);
    assert_int_equal(pace_wait_ns(&p, &rule, 1), SECOND - 1);
    assert_int_equal(pace_wait_ns(&p, &rule, SECOND), 0);
}

static void no_burst_is_no_limit(void **state)
{
    const struct pace_rule rule = {.burst = 0, .interval_ns = SECOND};
    struct pace p = {0};

    for (int i = 0; i < 1000; i++) {
        assert_int_equal(pace_wait_ns(&p, &rule, START), 0);
        pace_take(&p, &rule, START);
    }
    assert_true(pace_is_rested(&p, START));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_burst_is_free_and_then_one_an_interval),
        cmocka_unit_test(what_is_not_used_comes_back_up_to_the_burst),
        cmocka_unit_test(one_that_did_not_wait_costs_the_next_one_interval),
        cmocka_unit_test(one_at_a_time),
        cmocka_unit_test(no_burst_is_no_limit),
    };
    return cmocka_run_group_tests_name("pace", tests, NULL, NULL) != 0;
}
