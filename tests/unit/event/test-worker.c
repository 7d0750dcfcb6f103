/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs are done one after the other in another thread, told once each from the loop, and those whose owner
 * has gone, or whose worker goes, are told so. */
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "event/worker.h"
#include "lib/test.h"

static struct world {
    sd_event *event;
    struct worker *worker;
    unsigned told, cancelled;
    char order[32];
} w;

struct item {
    struct worker_job job;
    char letter;
    pthread_t thread;
    int wait_fd; /* work begins when it can be read; -EBADF: at once */
    bool again;
};

static void work(struct worker_job *job)
{
    struct item *i = container_of(job, struct item, job);
    char byte;

    i->thread = pthread_self();
    if (i->wait_fd >= 0)
        (void)!read(i->wait_fd, &byte, 1);
}

static void done(struct worker_job *job, bool cancelled)
{
    struct item *i = container_of(job, struct item, job);

    w.order[w.told++] = i->letter;
    w.cancelled += cancelled;
    if (i->again && !cancelled) {
        i->again = false;
        assert_int_equal(worker_submit(w.worker, &i->job, NULL), 0);
        return;
    }
    if (!cancelled)
        assert_false(pthread_equal(i->thread, pthread_self()));
    free(i);
}

static struct item *submit(char letter, int wait_fd)
{
    struct item *i = xcalloc(1, sizeof(*i));

    i->job.work = work;
    i->job.done = done;
    i->letter = letter;
    i->wait_fd = wait_fd;
    assert_int_equal(worker_submit(w.worker, &i->job, NULL), 0);
    return i;
}

static void run_until(unsigned told)
{
    while (w.told < told)
        assert_true(sd_event_run(w.event, UINT64_MAX) >= 0);
}

static int set_up(void **state)
{
    memset(&w, 0, sizeof(w));
    assert_int_equal(sd_event_new(&w.event), 0);
    return worker_new(w.event, &w.worker, NULL);
}

static int tear_down(void **state)
{
    worker_free(w.worker);
    sd_event_unref(w.event);
    return 0;
}

static void jobs_are_told_in_order_from_the_loop(void **state)
{
    for (char c = 'a'; c < 'k'; c++)
        (void)submit(c, -EBADF);
    assert_int_equal(w.told, 0); /* never from within submit */
    run_until(10);
    assert_string_equal(w.order, "abcdefghij");
    assert_int_equal(w.cancelled, 0);
}

static void a_job_may_be_submitted_again_when_it_is_told(void **state)
{
    submit('a', -EBADF)->again = true;
    run_until(2);
    assert_string_equal(w.order, "aa");
}

static void a_cancelled_job_is_told_as_such(void **state)
{
    int p[2];

    assert_int_equal(pipe(p), 0);
    worker_cancel(&submit('a', p[0])->job); /* at work, or about to be */
    (void)submit('b', -EBADF);
    assert_int_equal(write(p[1], "x", 1), 1);
    run_until(2);
    assert_string_equal(w.order, "ab");
    assert_int_equal(w.cancelled, 1);
    (void)close(p[0]);
    (void)close(p[1]);
}

static void what_is_left_is_told_when_the_worker_goes(void **state)
{
    int p[2];

    assert_int_equal(pipe(p), 0);
    (void)submit('a', p[0]);
    (void)submit('b', -EBADF);
    (void)submit('c', -EBADF);
    assert_int_equal(write(p[1], "x", 1), 1);
    worker_free(TAKE(w.worker));
    assert_int_equal(w.told, 3);
    assert_int_equal(w.cancelled, 3);
    (void)close(p[0]);
    (void)close(p[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(jobs_are_told_in_order_from_the_loop, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_job_may_be_submitted_again_when_it_is_told, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_cancelled_job_is_told_as_such, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_left_is_told_when_the_worker_goes, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests_name("worker", tests, NULL, NULL) != 0;
}
