/* SPDX-License-Identifier: Apache-2.0 */
/* plan: steps run when what they need is done, intents are written before effects, a failure undoes
 * what was begun and nothing else, a restored run undoes what its journal says. */
#include <string.h>

#include "base/str.h"
#include "lib/test.h"
#include "pod/plan.h"

/* What happened, in order: "+a" run, "-a" undo, "xa" cancel, "!" a write of the record begins, "." it is
 * told to be over (only where slow_disk makes it an event). */
static struct world {
    sd_event *event;
    char log[256];
    int fail_step;      /* its run fails */
    int fail_undo_step; /* its undo fails */
    int hold_step;      /* returns 1 and waits */
    bool journal_fails;
    bool slow_disk; /* a write ends when the test says so: write_ends() */
    bool write_goes_on;
    struct plan_run *run;
    bool over;
    enum plan_outcome outcome;
    char why[128];
    char undo_why[128];
    char times[512], short_times[24];
    json_t *journal;
} w;

static void note(const char *text)
{
    size_t n = strlen(w.log);

    (void)snprintf(w.log + n, sizeof(w.log) - n, "%s%s", n ? " " : "", text);
}

static int do_step(struct plan_run *run, const char *name, struct error **err)
{
    int i = (int)plan_current_step(run);
    char text[8];

    (void)snprintf(text, sizeof(text), "+%s", name);
    note(text);
    if (i == w.fail_step)
        return error_set(err, -EIO, "step %s broke", name);
    return i == w.hold_step;
}

static int undo_step(struct plan_run *run, const char *name, struct error **err)
{
    char text[8];

    (void)snprintf(text, sizeof(text), "-%s", name);
    note(text);
    if ((int)plan_current_step(run) == w.fail_undo_step)
        return error_set(err, -EBUSY, "undo of %s broke", name);
    return 0;
}

#define STEP(n)                                                                 \
    RUN_ONLY(n)                                                                 \
    static int undo_##n(struct plan_run *run, void *object, struct error **err) \
    {                                                                           \
        return undo_step(run, #n, err);                                         \
    }
#define RUN_ONLY(n)                                                            \
    static int run_##n(struct plan_run *run, void *object, struct error **err) \
    {                                                                          \
        return do_step(run, #n, err);                                          \
    }                                                                          \
    static void cancel_##n(struct plan_run *run, void *object)                 \
    {                                                                          \
        note("x" #n);                                                          \
    }
STEP(a)
STEP(b)
STEP(c)
RUN_ONLY(d)

/* a, then b and c side by side, d needs both; c is volatile */
static const struct plan_step steps[] = {
    {"a", 0, 0, 0, run_a, undo_a, cancel_a},
    {"b", PLAN_NEEDS(0), PLAN_SAVE, 0, run_b, undo_b, cancel_b},
    {"c", PLAN_NEEDS(0), PLAN_VOLATILE, 20, run_c, undo_c, cancel_c},
    {"d", PLAN_NEEDS(1) | PLAN_NEEDS(2), 0, 0, run_d, NULL, cancel_d},
};
static const struct plan plan = {"test.plan", PLAN_UNDOABLE, steps, ARRAY_SIZE(steps)};
static const struct plan forward = {"test.forward", PLAN_FORWARD, steps, ARRAY_SIZE(steps)};

static int journal(void *object, struct error **err)
{
    note("!");
    assert_false(w.write_goes_on); /* one at a time */
    if (w.slow_disk) {
        w.write_goes_on = true;
        json_decref(w.journal);
        w.journal = plan_run_to_json(w.run);
        return 1;
    }
    if (w.journal_fails)
        return error_set(err, -ENOSPC, "disk full");
    json_decref(w.journal);
    w.journal = plan_run_to_json(w.run);
    return 0;
}

static void write_ends(int r)
{
    struct error *err = NULL;

    note(".");
    assert_true(w.write_goes_on);
    w.write_goes_on = false;
    if (r < 0)
        (void)error_set(&err, r, "disk full");
    plan_journal_done(w.run, r, err);
}

static void finished(struct plan_run *run, void *object, enum plan_outcome outcome,
                     const struct error *why, const struct error *undo_why)
{
    assert_false(w.over);
    assert_false(w.write_goes_on);
    w.over = true;
    w.outcome = outcome;
    plan_run_times(run, 0, w.times, sizeof(w.times));
    plan_run_times(run, 0, w.short_times, sizeof(w.short_times));
    (void)snprintf(w.why, sizeof(w.why), "%s", why ? why->message : "");
    (void)snprintf(w.undo_why, sizeof(w.undo_why), "%s", undo_why ? undo_why->message : "");
    plan_run_free(run);
    w.run = NULL;
}

static const char *log_id(const void *object)
{
    return "x";
}
static const struct plan_ops ops = {"test", log_id, journal, finished};

static int set_up(void **state)
{
    memset(&w, 0, sizeof(w));
    w.fail_step = w.fail_undo_step = w.hold_step = -1;
    return sd_event_new(&w.event) < 0;
}

static int tear_down(void **state)
{
    plan_run_free(w.run);
    json_decref(w.journal);
    sd_event_unref(w.event);
    return 0;
}

static void spin(void)
{
    for (int i = 0; i < 200 && !w.over; i++)
        (void)sd_event_run(w.event, w.hold_step >= 0 ? 10000 : 0);
}

static void start(const struct plan *p)
{
    assert_int_equal(plan_run_new(p, &ops, NULL, w.event, &w.run), 0);
    plan_run_start(w.run);
    assert_string_equal(w.log, ""); /* nothing happens inside the call */
}

static void runs_in_order_of_needs_and_writes_intents_first(void **state)
{
    start(&plan);
    spin();
    assert_true(w.over);
    assert_int_equal(w.outcome, PLAN_DONE);
    assert_string_equal(w.log, "! +a +c ! +b ! ! +d");
}

static void failure_undoes_backwards_what_was_begun(void **state)
{
    w.fail_step = 3;
    start(&plan);
    spin();
    assert_int_equal(w.outcome, PLAN_UNDONE);
    assert_string_equal(w.log, "! +a +c ! +b ! ! +d -c -b -a");
    assert_string_equal(w.why, "step d broke");
}

/* b fails while d, which needs it, and c wait. */
static void step_after_a_failed_one_is_not_begun(void **state)
{
    w.fail_step = 1;
    start(&plan);
    spin();
    assert_string_equal(w.log, "! +a +c ! +b -c -b -a");
}

static void failed_intent_undoes_without_the_step(void **state)
{
    w.journal_fails = true;
    start(&plan);
    spin();
    assert_int_equal(w.outcome, PLAN_UNDONE);
    assert_string_equal(w.log, "!");
    assert_string_equal(w.why, "disk full");
}

static void failed_undo_leaves_the_rest_and_says_so(void **state)
{
    w.fail_step = 3;
    w.fail_undo_step = 1;
    start(&plan);
    spin();
    assert_int_equal(w.outcome, PLAN_STUCK);
    assert_string_equal(w.log, "! +a +c ! +b ! ! +d -c -b");
    assert_string_equal(w.why, "step d broke");
    assert_string_equal(w.undo_why, "undo of b broke");
}

static void waiting_step_is_cancelled_when_another_fails(void **state)
{
    w.hold_step = 2;
    w.fail_step = 1;
    start(&plan);
    spin();
    assert_int_equal(w.outcome, PLAN_UNDONE);
    assert_string_equal(w.log, "! +a +c ! +b xc -c -b -a");
}

/* ---- writes that take their time */

static void turn(void)
{
    for (int i = 0; i < 5; i++)
        (void)sd_event_run(w.event, 0);
}

static bool journal_names(const char *key, const char *step)
{
    size_t i;
    json_t *name;

    json_array_foreach (json_object_get(w.journal, key), i, name)
        if (str_equal(json_string_value(name), step))
            return true;
    return false;
}

static void effects_wait_for_their_intent(void **state)
{
    w.slow_disk = true;
    start(&plan);
    turn();
    assert_string_equal(w.log, "!");
    assert_true(journal_names("begun", "a"));
    write_ends(0);
    turn();
    assert_string_equal(w.log, "! . +a +c !"); /* c is volatile: it waits for no intent */
    assert_true(journal_names("begun", "b"));
    write_ends(0);
    turn();
    assert_string_equal(w.log, "! . +a +c ! . +b !"); /* b counts as done when it is saved */
    assert_true(journal_names("done", "b"));
    assert_false(plan_step_is_done(w.run, 1));
    write_ends(0);
    turn();
    assert_string_equal(w.log, "! . +a +c ! . +b ! . !");
    write_ends(0);
    turn();
    assert_string_equal(w.log, "! . +a +c ! . +b ! . ! . +d");
    assert_true(w.over);
    assert_int_equal(w.outcome, PLAN_DONE);
}

static void a_write_that_fails_turns_back(void **state)
{
    w.slow_disk = true;
    start(&plan);
    turn();
    write_ends(0);
    turn();
    write_ends(-ENOSPC);
    turn();
    assert_int_equal(w.outcome, PLAN_UNDONE);
    assert_string_equal(w.log, "! . +a +c ! . -c -a");
    assert_string_equal(w.why, "disk full");
}

static void a_save_that_fails_undoes_the_step_as_well(void **state)
{
    w.slow_disk = true;
    start(&plan);
    for (int i = 0; i < 2; i++) {
        turn();
        write_ends(0);
    }
    turn();
    write_ends(-EIO);
    turn();
    assert_int_equal(w.outcome, PLAN_UNDONE);
    assert_string_equal(w.log, "! . +a +c ! . +b ! . -c -b -a");
}

/* The undo does not wait for it; the end does. */
static void cancel_while_an_intent_is_written(void **state)
{
    struct error *err = NULL;

    w.slow_disk = true;
    start(&plan);
    turn();
    write_ends(0);
    turn();
    (void)error_set(&err, -ECANCELED, "stop came");
    plan_run_cancel(w.run, err);
    turn();
    assert_string_equal(w.log, "! . +a +c ! -c -a"); /* b never began */
    assert_false(w.over);
    write_ends(0);
    turn();
    assert_true(w.over);
    assert_int_equal(w.outcome, PLAN_UNDONE);
    assert_string_equal(w.log, "! . +a +c ! -c -a .");
    assert_string_equal(w.why, "stop came");
}

static void a_write_that_fails_while_undoing_changes_nothing(void **state)
{
    struct error *err = NULL;

    w.slow_disk = true;
    start(&plan);
    turn();
    (void)error_set(&err, -ECANCELED, "stop came");
    plan_run_cancel(w.run, err);
    turn();
    write_ends(-EIO);
    turn();
    assert_int_equal(w.outcome, PLAN_UNDONE);
    assert_string_equal(w.log, "! .");
    assert_string_equal(w.why, "stop came");
}

static void forward_plan_goes_on_when_a_write_fails(void **state)
{
    w.slow_disk = true;
    start(&forward);
    for (int i = 0; i < 4; i++) {
        turn();
        write_ends(-ENOSPC);
    }
    turn();
    assert_int_equal(w.outcome, PLAN_DONE);
    assert_string_equal(w.log, "! . +a +c ! . +b ! . ! . +d");
}

static void a_late_end_of_a_write_is_ignored(void **state)
{
    struct error *err = NULL;

    w.hold_step = 0;
    start(&plan);
    turn();
    (void)error_set(&err, -EIO, "nobody asked");
    plan_journal_done(w.run, -EIO, err);
    turn();
    assert_false(w.over);
    assert_string_equal(w.log, "! +a");
}

static void late_answer_ends_its_step_and_a_second_one_is_ignored(void **state)
{
    w.hold_step = 1;
    start(&plan);
    for (int i = 0; i < 5; i++)
        (void)sd_event_run(w.event, 0);
    assert_false(w.over);
    plan_step_done(w.run, 1, 0, NULL);
    plan_step_done(w.run, 1, -EIO, NULL);
    spin();
    assert_int_equal(w.outcome, PLAN_DONE);
    assert_string_equal(w.log, "! +a +c ! +b ! ! +d");
}

static void deadline_cancels_and_undoes(void **state)
{
    w.hold_step = 2;
    start(&plan);
    spin();
    assert_int_equal(w.outcome, PLAN_UNDONE);
    assert_string_equal(w.log, "! +a +c ! +b ! xc -c -b -a");
    assert_non_null(strstr(w.why, "step c did not end within 20 ms"));
}

static void cancel_from_outside_undoes(void **state)
{
    struct error *err = NULL;

    w.hold_step = 1;
    start(&plan);
    for (int i = 0; i < 5; i++)
        (void)sd_event_run(w.event, 0);
    (void)error_set(&err, -ECANCELED, "stop came");
    plan_run_cancel(w.run, err);
    spin();
    assert_int_equal(w.outcome, PLAN_UNDONE);
    assert_string_equal(w.why, "stop came");
}

static void restored_run_undoes_what_the_journal_names(void **state)
{
    json_t *doc;

    w.hold_step = 1;
    start(&plan);
    for (int i = 0; i < 5; i++)
        (void)sd_event_run(w.event, 0);
    doc = json_incref(w.journal);
    plan_run_free(w.run);
    w.run = NULL;
    w.log[0] = '\0';
    w.hold_step = -1;
    assert_int_equal(plan_run_restore(&plan, &ops, NULL, w.event, doc, &w.run, NULL), 0);
    json_decref(doc);
    plan_run_start(w.run);
    spin();
    assert_int_equal(w.outcome, PLAN_UNDONE);
    assert_string_equal(w.log, "-c -b -a");
}

static void forward_plan_halts_and_a_restored_one_runs_again(void **state)
{
    json_t *doc;

    w.fail_step = 3;
    start(&forward);
    spin();
    assert_int_equal(w.outcome, PLAN_HALTED);
    assert_string_equal(w.log, "! +a +c ! +b ! ! +d");
    w.over = false;
    w.fail_step = -1;
    w.log[0] = '\0';
    doc = json_incref(w.journal);
    assert_int_equal(plan_run_restore(&forward, &ops, NULL, w.event, doc, &w.run, NULL), 0);
    json_decref(doc);
    plan_run_start(w.run);
    spin();
    assert_int_equal(w.outcome, PLAN_DONE);
}

static void forward_plan_goes_on_without_disk(void **state)
{
    w.journal_fails = true;
    start(&forward);
    spin();
    assert_int_equal(w.outcome, PLAN_DONE);
}

static void foreign_journal_is_refused(void **state)
{
    static const char *const bad[] = {
        "{}",
        "{\"name\": \"other\", \"begun\": [], \"done\": []}",
        "{\"name\": \"test.plan\", \"begun\": [\"zz\"], \"done\": []}",
        "{\"name\": \"test.plan\", \"begun\": 1, \"done\": []}",
        "{\"name\": \"test.plan\", \"begun\": [1], \"done\": []}",
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        _cleanup_(error_freep) struct error *err = NULL;
        json_t *doc = json_loads(bad[i], 0, NULL);

        assert_non_null(doc);
        assert_int_equal(plan_run_restore(&plan, &ops, NULL, w.event, doc, &w.run, &err), -EBADMSG);
        assert_non_null(err);
        json_decref(doc);
    }
}

static void count_name(const char *name, void *userdata)
{
    (*(int *)userdata)++;
    assert_true(str_starts(name, "test.plan."));
}

static void failpoints_are_listed(void **state)
{
    int n = 0;

    plan_each_failpoint(&plan, count_name, &n);
    assert_int_equal(n, 3 * 4 + 2);
}

/* The stage times name each step that is done, in the plan's order, then each write of the record; what
 * has no room is left out whole. */
static void times_name_what_was_done(void **state)
{
    static const char *const names[] = {" a=", " b=", " c=", " d=", " journal="};
    const char *at = NULL;

    start(&plan);
    spin();
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        const char *here = strstr(w.times, names[i]);
        assert_non_null(here);
        assert_true(!at || here > at);
        assert_non_null(strchr(here, '+'));
        at = here;
    }
    assert_true(strlen(w.short_times) < sizeof(w.short_times));
    assert_true(w.short_times[0] == '\0' ||
                strcmp(w.short_times + strlen(w.short_times) - 2, "us") == 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(runs_in_order_of_needs_and_writes_intents_first),
        T(failure_undoes_backwards_what_was_begun),
        T(step_after_a_failed_one_is_not_begun),
        T(failed_intent_undoes_without_the_step),
        T(failed_undo_leaves_the_rest_and_says_so),
        T(waiting_step_is_cancelled_when_another_fails),
        T(effects_wait_for_their_intent),
        T(a_write_that_fails_turns_back),
        T(a_save_that_fails_undoes_the_step_as_well),
        T(cancel_while_an_intent_is_written),
        T(a_write_that_fails_while_undoing_changes_nothing),
        T(forward_plan_goes_on_when_a_write_fails),
        T(a_late_end_of_a_write_is_ignored),
        T(late_answer_ends_its_step_and_a_second_one_is_ignored),
        T(deadline_cancels_and_undoes),
        T(cancel_from_outside_undoes),
        T(restored_run_undoes_what_the_journal_names),
        T(forward_plan_halts_and_a_restored_one_runs_again),
        T(forward_plan_goes_on_without_disk),
        T(foreign_journal_is_refused),
        T(failpoints_are_listed),
        T(times_name_what_was_done),
    };
    return cmocka_run_group_tests_name("plan", tests, NULL, NULL) != 0;
}
