/* SPDX-License-Identifier: Apache-2.0 */
/* event: the lifetime rules of loop.h, one by one. */
#include <unistd.h>

#include "base/clock.h"
#include "event/loop.h"
#include "lib/test.h"

struct fixture {
    struct loop *loop;
    struct loop_source *a, *b;
    int calls;
    int pipes[2][2];
};

static int set_up(void **state)
{
    static struct fixture f;

    f = (struct fixture){0};
    *state = &f;
    if (pipe(f.pipes[0]) < 0 || pipe(f.pipes[1]) < 0)
        return -1;
    return loop_new(&f.loop);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    loop_free(f->loop);
    for (int i = 0; i < 4; i++)
        close(f->pipes[i / 2][i % 2]);
    return 0;
}

static void on_io_remove_both(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct fixture *f = userdata;

    f->calls++;
    loop_remove(f->a);
    loop_remove(f->b);
}

static void removed_source_does_not_run_in_its_turn(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(loop_add_io(f->loop, f->pipes[0][0], LOOP_READ, on_io_remove_both, f, &f->a),
                     0);
    assert_int_equal(loop_add_io(f->loop, f->pipes[1][0], LOOP_READ, on_io_remove_both, f, &f->b),
                     0);
    assert_int_equal(write(f->pipes[0][1], "x", 1), 1);
    assert_int_equal(write(f->pipes[1][1], "x", 1), 1);
    assert_int_equal(loop_turn(f->loop, 1000), 1);
    assert_int_equal(f->calls, 1);
}

static void on_count(struct loop_source *s, void *userdata)
{
    struct fixture *f = userdata;

    if (++f->calls < 3)
        loop_defer_arm(s);
}

static void a_defer_armed_in_its_call_waits_for_the_next_turn(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(loop_add_defer(f->loop, on_count, f, &f->a), 0);
    loop_defer_arm(f->a);
    assert_int_equal(loop_turn(f->loop, 0), 1);
    assert_int_equal(f->calls, 1);
    assert_int_equal(loop_turn(f->loop, 0), 1);
    assert_int_equal(loop_turn(f->loop, 0), 1);
    assert_int_equal(loop_turn(f->loop, 0), 0);
}

static void on_timer(struct loop_source *s, void *userdata)
{
    ((struct fixture *)userdata)->calls++;
}

static void a_timer_fires_once(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(loop_add_timer(f->loop, on_timer, f, &f->a), 0);
    loop_timer_set(f->a, clock_mono_ns());
    assert_int_equal(loop_turn(f->loop, 1000), 1);
    assert_int_equal(loop_turn(f->loop, 0), 0);
    loop_timer_set(f->a, clock_mono_ns() + 3600000000000ULL);
    loop_timer_set(f->a, UINT64_MAX);
    assert_int_equal(loop_turn(f->loop, 0), 0);
    assert_int_equal(f->calls, 1);
}

static void on_io(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    ((struct fixture *)userdata)->calls++;
}

static void a_muted_fd_reports_no_hangup(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(loop_add_io(f->loop, f->pipes[0][0], LOOP_READ, on_io, f, &f->a), 0);
    close(f->pipes[0][1]);
    f->pipes[0][1] = -1;
    assert_int_equal(loop_io_set(f->a, 0), 0);
    assert_int_equal(loop_turn(f->loop, 0), 0);
    assert_int_equal(loop_io_set(f->a, LOOP_READ), 0);
    assert_int_equal(loop_turn(f->loop, 1000), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(removed_source_does_not_run_in_its_turn, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_defer_armed_in_its_call_waits_for_the_next_turn, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_timer_fires_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_muted_fd_reports_no_hangup, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("event", tests, NULL, NULL) != 0;
}
