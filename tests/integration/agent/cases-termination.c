/* SPDX-License-Identifier: Apache-2.0 */
/* The termination log: what comes back of it, when, and how much. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cases.h"
#include "wire/message.h"

#define LOG "/dev/termination-log"

static void with_files(Nexus__ContainerSpec *spec, size_t n)
{
    static Nexus__InlineFile files[2];
    static Nexus__InlineFile *list[] = {&files[0], &files[1]};

    for (size_t i = 0; i < n; i++) {
        nexus__inline_file__init(&files[i]);
        files[i].path = text(i ? "/other" : LOG);
        files[i].mode = 0666;
        files[i].comes_back = true;
    }
    spec->files = list;
    spec->n_files = n;
}

static void with_log(Nexus__ContainerSpec *spec)
{
    with_files(spec, 1);
}

/* "kill $$" is nothing to the first process of a PID namespace. */
static void with_log_and_pod_pids(Nexus__ContainerSpec *spec)
{
    with_files(spec, 1);
    spec->share_pod_pids = true;
}

static void with_two_logs(Nexus__ContainerSpec *spec)
{
    with_files(spec, 2);
}

static void with_log_and_little_memory(Nexus__ContainerSpec *spec)
{
    with_files(spec, 1);
    spec->resources->memory_limit_bytes = 24 << 20;
}

static bool last_words_are(const struct outcome *o, const void *want)
{
    return o->n_terminations && strcmp(o->termination, want) == 0;
}

static const struct {
    const char *name, *script, *want;
    int code;
} ends[] = {
    {"exit", "echo over > " LOG "; exit 3", "over\n", 3},
    {"signal", "echo dying > " LOG "; kill -9 $$", "dying\n", 137},
    {"appended", "echo one > " LOG "; echo two >> " LOG, "one\ntwo\n", 0},
    {"emptied", "echo one > " LOG "; sleep 0.2; : > " LOG, "", 0},
    {"by_another_process", "sh -c 'echo child > " LOG "'", "child\n", 0},
    {"any_bytes", "printf 'a\\001\\377b' > " LOG, "a\001\377b", 0},
};

static void last_words_come_before_the_exit(struct drive *d)
{
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        const struct outcome *o = run_container(d, "last-1", ends[i].script, with_log_and_pod_pids);

        CHECK(o->has_exit && o->code == ends[i].code, "%s: code %d %s", ends[i].name, o->code,
              o->error_text);
        CHECK((o->n_terminations || !*ends[i].want) && strcmp(o->termination, ends[i].want) == 0,
              "%s: %u, \"%s\"", ends[i].name, o->n_terminations, o->termination);
    }
}

static void no_words_no_frame(struct drive *d)
{
    const struct outcome *o = run_container(d, "last-2", "true", with_log);

    CHECK(o->has_exit && o->n_terminations == 0, "%u frames", o->n_terminations);
    o = run_container(d, "last-3", "echo x > /tmp-log; echo x > " LOG, NULL);
    CHECK(o->has_exit && o->n_terminations == 0, "%u frames, nobody asked", o->n_terminations);
}

static void last_words_come_while_it_runs(struct drive *d)
{
    struct drive_stream *s;

    create_container(d, "last-4", "echo first > " LOG "; read x; echo second > " LOG "; sleep 1000",
                     with_log);
    s = stream_start_container(d, "last-4");
    stream_until(s, last_words_are, "first\n");
    CHECK(!s->got.has_exit, "it has ended");
    CHECK(shell(d, "last-4", "echo from an exec > " LOG)->code == 0, "exec");
    stream_until(s, last_words_are, "from an exec\n");
    remove_container(d, "last-4");
    stream_until_closed(s);
    stream_close(s);
}

/* Unless the machine stands still between truncation and text, which a loaded one may now and then. */
static void a_text_that_is_replaced_is_not_told_as_empty(struct drive *d)
{
    struct drive_stream *s;

    create_container(d, "last-9",
                     "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i > " LOG
                     "; sleep 0.2; done; sleep 1000",
                     with_log);
    s = stream_start_container(d, "last-9");
    stream_until(s, last_words_are, "10\n");
    CHECK(s->got.n_empty_terminations <= 5, "%u times", s->got.n_empty_terminations);
    CHECK(shell(d, "last-9", ": > " LOG)->code == 0, "exec");
    stream_until(s, last_words_are, ""); /* emptiness that lasts is told */
    remove_container(d, "last-9");
    stream_until_closed(s);
    stream_close(s);
}

static void what_is_too_long_loses_its_beginning(struct drive *d)
{
    const struct outcome *o = run_container(
        d, "last-5", "i=100000; while [ $i -lt 103000 ]; do echo $i; i=$((i+1)); done > " LOG,
        with_log);
    size_t n = strlen(o->termination);

    CHECK(n == 4096, "%zu bytes", n);
    CHECK(strcmp(o->termination + n - 14, "102998\n102999\n") == 0, "ends with %s",
          o->termination + n - 14);
}

static void a_busy_writer_is_looked_at_now_and_then(struct drive *d)
{
    const struct outcome *o = run_container(
        d, "last-6", "i=0; while [ $i -lt 6000 ]; do i=$((i+1)); echo $i > " LOG "; done",
        with_log);

    CHECK(o->has_exit && strcmp(o->termination, "6000\n") == 0, "\"%s\"", o->termination);
    CHECK(o->n_terminations < 6000 / 4, "%u frames", o->n_terminations);
}

static void one_file_comes_back_at_most(struct drive *d)
{
    Nexus__Reply *r = try_create_container(d, "last-7", "true", with_two_logs);

    CHECK(*r->error_class, "it was accepted");
    message_free(&r->base);
    r = try_create_container(d, "last-7", "true", with_log); /* nothing of it stayed behind */
    CHECK(!*r->error_class, "%s", r->message);
    message_free(&r->base);
    remove_container(d, "last-7");
}

static void last_words_survive_an_oom_kill(struct drive *d)
{
    const struct outcome *o =
        run_container(d, "last-8", "echo too much > " LOG "; x=a; while :; do x=$x$x; done",
                      with_log_and_little_memory);

    CHECK(o->has_exit && o->code == 137 && o->oom, "code %d oom %d", o->code, o->oom);
    CHECK(strcmp(o->termination, "too much\n") == 0, "\"%s\"", o->termination);
}

const struct drive_case termination_cases[] = {
    {"last_words_come_before_the_exit", last_words_come_before_the_exit, false},
    {"no_words_no_frame", no_words_no_frame, false},
    {"last_words_come_while_it_runs", last_words_come_while_it_runs, false},
    {"a_text_that_is_replaced_is_not_told_as_empty", a_text_that_is_replaced_is_not_told_as_empty,
     false},
    {"what_is_too_long_loses_its_beginning", what_is_too_long_loses_its_beginning, false},
    {"a_busy_writer_is_looked_at_now_and_then", a_busy_writer_is_looked_at_now_and_then, false},
    {"one_file_comes_back_at_most", one_file_comes_back_at_most, false},
    {"last_words_survive_an_oom_kill", last_words_survive_an_oom_kill, true},
};
const size_t n_termination_cases = ARRAY_SIZE(termination_cases);
