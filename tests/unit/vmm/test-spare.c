/* SPDX-License-Identifier: Apache-2.0 */
/* vmm: the spare connection: given out when it is up, replaced when it is not, one at most, and no way
 * for a guest to make more of it. */
#include <string.h>

#include "base/clock.h"
#include "lib/vmm-pod.h"
#include "vmm/spare.h"

#define DELAY_MS 5

struct user {
    struct transport_conn *c;
    unsigned connected, bytes, closed;
};

struct fixture {
    struct loop *loop;
    struct mem_transport *mem;
    struct spare *spare;
    const struct transport *host, *guest;
    struct transport_conn *far[8]; /* accepted in the guest, in order */
    unsigned accepted, asked;
    bool refuse;
    struct user u;
};

static void on_connected(struct transport_conn *c, void *ud)
{
    ((struct user *)ud)->connected++;
}

static size_t on_data(struct transport_conn *c, const uint8_t *p, size_t n, void *ud)
{
    ((struct user *)ud)->bytes += (unsigned)n;
    return n;
}

static void on_closed(struct transport_conn *c, int reason, void *ud)
{
    ((struct user *)ud)->c = NULL;
    ((struct user *)ud)->closed++;
}

static const struct transport_conn_ops user_ops = {
    .on_connected = on_connected, .on_data = on_data, .on_closed = on_closed};
static const struct transport_conn_ops far_ops;

static bool on_accept(struct transport_conn *c, void *ud)
{
    struct fixture *f = ud;

    f->asked++;
    if (f->refuse)
        return false;
    assert_true(f->accepted < ARRAY_SIZE(f->far));
    f->far[f->accepted++] = c;
    f->guest->conn_set_ops(c, &far_ops, f);
    return true;
}

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    assert_int_equal(loop_new(&f->loop), 0);
    assert_int_equal(mem_transport_new(f->loop, &f->mem), 0);
    f->guest = mem_transport_guest(f->mem);
    assert_int_equal(f->guest->listen(f->guest->impl, TRANSPORT_PORT_STREAM, on_accept, f), 0);
    assert_int_equal(spare_new(f->loop, mem_transport_host(f->mem), &f->spare), 0);
    f->host = spare_transport(f->spare);
    spare_set_delay_ms(f->spare, DELAY_MS);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    spare_free(f->spare);
    mem_transport_free(f->mem);
    loop_free(f->loop);
    free(f);
    return 0;
}

/* Until nothing more happens but timers. */
static void settle(struct fixture *f)
{
    while (loop_turn(f->loop, 0) > 0)
        ;
}

/* Past the delay of the next opening, were it n times as long as the first. */
static void wait_delays(struct fixture *f, unsigned n)
{
    uint64_t end = clock_mono_ns() + (n * DELAY_MS + 10) * 1000000ULL;

    while (clock_mono_ns() < end)
        (void)loop_turn(f->loop, 1);
    settle(f);
}

static void start(struct fixture *f)
{
    spare_start(f->spare);
    wait_delays(f, 1);
    assert_int_equal(f->accepted, 1);
}

static int connect_user(struct fixture *f)
{
    return f->host->connect(f->host->impl, TRANSPORT_PORT_STREAM, &user_ops, &f->u, &f->u.c);
}

static void assert_talks(struct fixture *f, unsigned far)
{
    unsigned before = f->u.bytes;

    assert_int_equal(f->guest->conn_write(f->far[far], "abc", 3), 3);
    settle(f);
    assert_int_equal(f->u.bytes, before + 3);
}

static void none_before_start(void **state)
{
    struct fixture *f = *state;

    wait_delays(f, 2);
    assert_int_equal(f->asked, 0);
    assert_int_equal(connect_user(f), 0);
    settle(f);
    assert_int_equal(f->u.connected, 1);
    assert_talks(f, 0);
}

static void spare_is_taken_and_the_next_one_opened(void **state)
{
    struct fixture *f = *state;

    start(f);
    assert_int_equal(connect_user(f), 1);
    settle(f);
    assert_int_equal(f->u.connected, 0); /* it was */
    assert_int_equal(f->accepted, 1);
    assert_talks(f, 0);
    wait_delays(f, 1);
    assert_int_equal(f->accepted, 2);
    wait_delays(f, 4);
    assert_int_equal(f->accepted, 2); /* one, and no more */
}

static void another_connect_meanwhile_makes_its_own(void **state)
{
    struct fixture *f = *state;
    struct user second = {0};

    start(f);
    assert_int_equal(connect_user(f), 1);
    assert_int_equal(
        f->host->connect(f->host->impl, TRANSPORT_PORT_STREAM, &user_ops, &second, &second.c), 0);
    settle(f);
    assert_int_equal(second.connected, 1);
    assert_talks(f, 0);
}

static void another_port_is_no_stream(void **state)
{
    struct fixture *f = *state;

    start(f);
    assert_int_equal(f->host->connect(f->host->impl, 7, &user_ops, &f->u, &f->u.c), 0);
    settle(f);
    assert_int_equal(f->u.closed, 1); /* refused: nobody listens there */
    assert_int_equal(f->accepted, 1);
}

static void dead_spare_is_not_given_out(void **state)
{
    struct fixture *f = *state;

    start(f);
    f->guest->conn_close(f->far[0]);
    settle(f);
    assert_int_equal(connect_user(f), 0);
    settle(f);
    assert_int_equal(f->u.connected, 1);
    assert_talks(f, 1);
    wait_delays(f, 2); /* twice the delay: it was lost */
    assert_int_equal(f->accepted, 3);
    mem_transport_reset_guest(f->mem);
    settle(f);
    assert_int_equal(f->u.closed, 1);
    assert_int_equal(connect_user(f), 0);
}

static void word_nobody_asked_for_ends_it(void **state)
{
    struct fixture *f = *state;

    start(f);
    assert_int_equal(f->guest->conn_write(f->far[0], "abc", 3), 3);
    settle(f);
    assert_int_equal(connect_user(f), 0); /* not that one */
    settle(f);
    assert_int_equal(f->u.bytes, 0);
    assert_talks(f, 1);
}

static void guest_that_refuses_is_asked_ever_less(void **state)
{
    struct fixture *f = *state;
    unsigned asked;

    f->refuse = true;
    spare_start(f->spare);
    wait_delays(f, 20);
    asked = f->asked;
    assert_in_range(asked, 1, 4); /* after 1, 2, 4, 8 delays */
    assert_int_equal(connect_user(f), 0);
    settle(f);
    assert_int_equal(f->u.closed, 1);
}

static void returned_connection_is_the_next_ones(void **state)
{
    struct fixture *f = *state;

    start(f);
    for (unsigned i = 1; i < 5; i++) {
        assert_int_equal(connect_user(f), 1);
        assert_talks(f, 0);
        f->host->conn_return(f->host->impl, f->u.c);
        settle(f);
    }
    wait_delays(f, 4);
    assert_int_equal(f->accepted, 1);
    assert_int_equal(f->u.closed, 0);
}

static void second_returned_one_is_closed(void **state)
{
    struct fixture *f = *state;

    start(f);
    assert_int_equal(connect_user(f), 1);
    wait_delays(f, 1);
    assert_int_equal(f->accepted, 2);
    f->host->conn_return(f->host->impl, f->u.c);
    settle(f);
    assert_int_equal(mem_transport_count(f->mem), 2); /* both ends of the spare */
    assert_int_equal(connect_user(f), 1);
    assert_talks(f, 1);
}

static void stop_closes_it(void **state)
{
    struct fixture *f = *state;

    start(f);
    assert_int_equal(connect_user(f), 1);
    wait_delays(f, 1);
    spare_stop(f->spare);
    f->host->conn_return(f->host->impl, f->u.c);
    wait_delays(f, 4);
    assert_int_equal(f->accepted, 2);
    assert_int_equal(mem_transport_count(f->mem), 0);
}

/* ---- in a pod, with the agent's rules */

static int run_true(struct pod *pod, bool late_start)
{
    struct control_client x;
    uint8_t type, *value, last = 0;
    size_t len;

    pod_exec_as(pod, &x, "c1", (const char *[]){"true", NULL}, false, late_start);
    while (control_client_frame(&x, &type, &value, &len)) {
        last = type;
        free(value);
    }
    control_client_close(&x);
    for (int i = 0; i < 10; i++)
        (void)loop_turn(pod->loop, 0);
    return last;
}

static void execs_of_a_pod_use_one_connection(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    size_t before;

    pod_ready(pod, &c);
    pod_run(pod, &c, "c1", (const char *[]){"pause", NULL});
    assert_int_equal(run_true(pod, true), TLV_EXIT);
    before = mem_transport_count(pod->transport);
    for (int i = 0; i < 20; i++)
        assert_int_equal(run_true(pod, true), TLV_EXIT);
    assert_int_equal(mem_transport_count(pod->transport), before);
    assert_int_equal(run_true(pod, false), TLV_EXIT); /* takes it, and closes it */
    assert_int_equal(mem_transport_count(pod->transport), before - 2);
    assert_int_equal(run_true(pod, true), TLV_EXIT); /* a fresh one */
    assert_int_equal(mem_transport_count(pod->transport), before);
    control_client_close(&c);
    pod_free(pod);
}

static void agent_that_says_two_ends_has_its_connection_closed(void **state)
{
    struct pod *pod = pod_new("lie@exit#1=exit-twice");
    struct control_client c;

    pod_ready(pod, &c);
    pod_run(pod, &c, "c1", (const char *[]){"pause", NULL});
    for (int i = 0; i < 3; i++)
        assert_int_equal(run_true(pod, true), TLV_EXIT);
    control_client_close(&c);
    pod_free(pod);
}

int main(void)
{
#define SPARE_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        SPARE_TEST(none_before_start),
        SPARE_TEST(spare_is_taken_and_the_next_one_opened),
        SPARE_TEST(another_connect_meanwhile_makes_its_own),
        SPARE_TEST(another_port_is_no_stream),
        SPARE_TEST(dead_spare_is_not_given_out),
        SPARE_TEST(word_nobody_asked_for_ends_it),
        SPARE_TEST(guest_that_refuses_is_asked_ever_less),
        SPARE_TEST(returned_connection_is_the_next_ones),
        SPARE_TEST(second_returned_one_is_closed),
        SPARE_TEST(stop_closes_it),
        cmocka_unit_test(execs_of_a_pod_use_one_connection),
        cmocka_unit_test(agent_that_says_two_ends_has_its_connection_closed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
