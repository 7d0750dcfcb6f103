/* SPDX-License-Identifier: Apache-2.0 */
/* What blocks is done beside the loop; who waits is told once, also when it takes too long, and never when it
 * has given up; a payload is freed once, when the thread is through with it. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "event/side-job.h"
#include "lib/test.h"

#define LONG_MS 60000

struct payload {
    int wait_fd; /* work waits until it can be read; -EBADF: it does not */
    int r;       /* of work */
    char letter;
};

static struct world {
    sd_event *event;
    struct worker *worker;
    int hang[2]; /* work reads the first */
    unsigned told, freed;
    char order[16]; /* of work */
    unsigned worked;
    int r;
    bool payload;
    char text[200];
} w;

static int work(void *payload, struct error **err)
{
    struct payload *p = payload;
    char byte;

    if (p->wait_fd >= 0)
        (void)!read(p->wait_fd, &byte, 1);
    w.order[w.worked++] = p->letter;
    return p->r < 0 ? error_set(err, p->r, "no luck") : p->r;
}

static void done(void *userdata, void *payload, int r, const struct error *err)
{
    assert_ptr_equal(userdata, &w);
    w.told++;
    w.r = r;
    w.payload = payload != NULL;
    (void)snprintf(w.text, sizeof(w.text), "%s", r < 0 ? error_text(err, r) : "");
}

static void payload_free(void *payload)
{
    w.freed++;
    free(payload);
}

static const struct side_job_ops ops = {work, done, payload_free};

static struct side_job *start(char letter, int wait_fd, int r, unsigned deadline_ms)
{
    struct payload *p = xcalloc(1, sizeof(*p));
    struct side_job *j = NULL;

    *p = (struct payload){wait_fd, r, letter};
    assert_int_equal(
        side_job_start(w.worker, &ops, p, "reading the stars", deadline_ms, &w, &j, NULL), 0);
    return j;
}

static void run_until(const unsigned *count, unsigned n)
{
    while (*count < n)
        assert_true(sd_event_run(w.event, UINT64_MAX) >= 0);
}

static int set_up(void **state)
{
    memset(&w, 0, sizeof(w));
    assert_int_equal(sd_event_new(&w.event), 0);
    assert_int_equal(pipe(w.hang), 0);
    return worker_new(w.event, &w.worker, NULL);
}

static int tear_down(void **state)
{
    worker_free(w.worker);
    sd_event_unref(w.event);
    (void)close(w.hang[0]);
    (void)close(w.hang[1]);
    return 0;
}

static void let_go(void)
{
    assert_int_equal(write(w.hang[1], "x", 1), 1);
}

static void the_end_is_told_with_the_payload(void **state)
{
    (void)start('a', -EBADF, 7, LONG_MS);
    assert_int_equal(w.told, 0); /* never from within start */
    run_until(&w.freed, 1);
    assert_int_equal(w.told, 1);
    assert_int_equal(w.r, 7);
    assert_true(w.payload);
}

static void a_failure_is_told_as_work_said_it(void **state)
{
    (void)start('a', -EBADF, -ENOSPC, LONG_MS);
    run_until(&w.freed, 1);
    assert_int_equal(w.told, 1);
    assert_int_equal(w.r, -ENOSPC);
    assert_string_equal(w.text, "no luck");
    assert_false(w.payload);
}

static void what_hangs_is_told_at_its_deadline_and_freed_at_its_end(void **state)
{
    (void)start('a', w.hang[0], 0, 20);
    run_until(&w.told, 1);
    assert_int_equal(w.r, -ETIMEDOUT);
    assert_non_null(strstr(w.text, "reading the stars"));
    assert_false(w.payload);
    assert_int_equal(w.freed, 0); /* the thread has it */
    let_go();
    run_until(&w.freed, 1);
    assert_int_equal(w.told, 1);
}

static void what_takes_back_comes_after_what_was_given_up(void **state)
{
    side_job_cancel(start('a', w.hang[0], 0, LONG_MS));
    (void)start('b', -EBADF, 0, LONG_MS);
    let_go();
    run_until(&w.freed, 2);
    assert_int_equal(w.told, 1);
    assert_string_equal(w.order, "ab");
}

static void who_waits_is_told_when_the_worker_goes(void **state)
{
    (void)start('a', w.hang[0], 0, LONG_MS);
    side_job_cancel(start('b', -EBADF, 0, LONG_MS));
    let_go();
    worker_free(TAKE(w.worker));
    assert_int_equal(w.told, 1);
    assert_int_equal(w.r, -ECANCELED);
    assert_int_equal(w.freed, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_end_is_told_with_the_payload, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failure_is_told_as_work_said_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_hangs_is_told_at_its_deadline_and_freed_at_its_end,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_takes_back_comes_after_what_was_given_up, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(who_waits_is_told_when_the_worker_goes, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("side-job", tests, NULL, NULL) != 0;
}
