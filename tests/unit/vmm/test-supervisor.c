/* SPDX-License-Identifier: Apache-2.0 */
/* vmm: the supervisor as nexusd sees it, over a fake guest: the normal life, what is told when, and that
 * a newer nexusd can read everything again. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "base/limit.h"
#include "base/log.h"
#include "lib/vmm-pod.h"

static void hello_tells_the_state_and_guest_ready_comes_once(void **state)
{
    struct pod *pod = pod_new("delay@hello=20");
    struct control_client c;
    Nexus__ControlMessage *m = pod_hello(pod, &c);

    assert_int_equal(m->state->phase, NEXUS__VMM_STATE__PHASE__BOOTING);
    assert_string_equal(m->state->sandbox_id, "testpod");
    message_free(&m->base);
    m = control_client_event(&c, NEXUS__CONTROL_EVENT__BODY_GUEST_READY);
    assert_string_equal(m->event->guest_ready->kernel_release, "0.0.0-fake");
    message_free(&m->base);
    m = pod_state(&c);
    assert_int_equal(m->state->phase, NEXUS__VMM_STATE__PHASE__READY);
    assert_non_null(m->state->guest);
    assert_false(m->state->configured);
    message_free(&m->base);
    control_client_close(&c);
    pod_free(pod);
}

static void wrong_version_is_told_and_closed(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT, *reply;
    Nexus__ControlHello hello = NEXUS__CONTROL_HELLO__INIT;

    control_client_connect(&c, pod->loop, pod->path);
    hello.version = 2;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_HELLO;
    m.hello = &hello;
    m.id = 9;
    control_client_send(&c, &m, NULL, 0);
    reply = control_client_message(&c);
    assert_int_equal(reply->id, 9);
    assert_string_equal(reply->reply->error_class, "unsupported");
    message_free(&reply->base);
    assert_null(control_client_message(&c));
    control_client_close(&c);
    pod_free(pod);
}

static void container_lives_from_create_to_remove(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    Nexus__ControlMessage *m;
    char *log;

    pod_ready(pod, &c);
    assert_string_equal(
        pod_create(pod, &c, "c1",
                   (const char *[]){"sh", "-c", "echo out; echo bad >&2; exit 3", NULL}),
        "");
    m = pod_state(&c);
    assert_int_equal(m->state->n_containers, 1);
    assert_int_equal(m->state->containers[0]->state, NEXUS__CONTAINER_STATE__STATE__CREATED);
    assert_int_equal(m->state->n_regions, 1);
    assert_int_equal(m->state->regions[0]->containers, 1);
    message_free(&m->base);
    assert_string_equal(pod_start(&c, "c1"), "");
    m = control_client_event(&c, NEXUS__CONTROL_EVENT__BODY_CONTAINER_EXITED);
    assert_string_equal(m->event->container_exited->id, "c1");
    assert_int_equal(m->event->container_exited->exit->code, 3);
    assert_int_equal(m->event->container_exited->user->uid, 1000);
    assert_true(m->event->container_exited->started_at_ns > 0);
    assert_true(m->event->container_exited->finished_at_ns >=
                m->event->container_exited->started_at_ns);
    message_free(&m->base);
    log = pod_log(pod, "c1"); /* complete when EXITED is told */
    assert_non_null(strstr(log, " stdout F out\n"));
    assert_non_null(strstr(log, " stderr F bad\n"));
    free(log);
    /* kept until it is removed */
    m = pod_state(&c);
    assert_int_equal(m->state->containers[0]->exit->code, 3);
    message_free(&m->base);
    assert_string_equal(pod_start(&c, "c1"), "precondition");
    assert_string_equal(pod_remove(&c, "c1"), "");
    assert_string_equal(pod_remove(&c, "c1"), "");
    m = pod_state(&c);
    assert_int_equal(m->state->n_containers, 0);
    assert_int_equal(m->state->regions[0]->containers, 0);
    message_free(&m->base);
    assert_int_equal(fake_agent_containers(pod->agent), 0);
    control_client_close(&c);
    pod_free(pod);
}

static void who_a_container_runs_as_is_told(void **state)
{
    static const struct {
        const char *script;
        size_t n_groups;
    } rows[] = {
        {"", 2}, {"many-groups=256", LIMIT_GROUPS_TOLD}, {"many-groups=1000", LIMIT_GROUPS_TOLD}};

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct pod *pod = pod_new(rows[i].script);
        Nexus__ControlMessage request = NEXUS__CONTROL_MESSAGE__INIT;
        Nexus__StartContainer start = NEXUS__START_CONTAINER__INIT;
        const Nexus__Identity *user;
        struct control_client c;
        Nexus__ControlMessage *m;
        char id[] = "c1";

        pod_ready(pod, &c);
        assert_string_equal(pod_create(pod, &c, "c1", (const char *[]){"sleep", "9", NULL}), "");
        m = pod_state(&c);
        assert_null(m->state->containers[0]->user); /* not before its start */
        message_free(&m->base);
        start.container_id = id;
        request.id = 99;
        request.body_case = NEXUS__CONTROL_MESSAGE__BODY_START_CONTAINER;
        request.start_container = &start;
        control_client_send(&c, &request, NULL, 0);
        m = control_client_event(&c, NEXUS__CONTROL_EVENT__BODY_CONTAINER_STARTED);
        user = m->event->container_started->user; /* before the answer */
        assert_int_equal(user->uid, 1000);
        assert_int_equal(user->gid, 100);
        assert_int_equal(user->n_groups, rows[i].n_groups);
        assert_int_equal(user->groups[0], 9);
        assert_int_equal(user->groups[1], 10);
        message_free(&m->base);
        control_client_close(&c);
        pod_free(pod);
    }
}

static const struct {
    const char *name, *argv[4], *class, *text;
} start_rows[] = {
    {"missing_binary", {"/no/such"}, "guest-fault", "in guest: exec /no/such: no such file"},
    {"not_executable",
     {"/bin/noexec"},
     "guest-fault",
     "in guest: exec /bin/noexec: permission denied"},
};

static void failed_start_is_told_and_leaves_it_exited_128(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(start_rows); i++) {
        struct pod *pod = pod_new("");
        struct control_client c;
        Nexus__ControlMessage *m;

        print_message("# %s\n", start_rows[i].name);
        pod_ready(pod, &c);
        assert_string_equal(pod_create(pod, &c, "c1", (const char *const *)start_rows[i].argv), "");
        assert_string_equal(pod_start(&c, "c1"), start_rows[i].class);
        assert_string_equal(control_client_text(), start_rows[i].text);
        m = pod_state(&c); /* a nexusd that was away learns the same */
        assert_int_equal(m->state->containers[0]->state, NEXUS__CONTAINER_STATE__STATE__EXITED);
        assert_int_equal(m->state->containers[0]->exit->code, 128);
        assert_string_equal(m->state->containers[0]->error, start_rows[i].text);
        message_free(&m->base);
        control_client_close(&c);
        pod_free(pod);
    }
}

static void signals_end_a_container(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    Nexus__ControlMessage *m;

    pod_ready(pod, &c);
    pod_run(pod, &c, "c1", (const char *[]){"pause", NULL});
    assert_string_equal(pod_signal(&c, "c1", 65), "invalid");
    assert_string_equal(pod_signal(&c, "other", SIGTERM), "not-found");
    assert_string_equal(pod_signal(&c, "c1", SIGTERM), "");
    m = control_client_event(&c, NEXUS__CONTROL_EVENT__BODY_CONTAINER_EXITED);
    assert_int_equal(m->event->container_exited->exit->code, 143);
    assert_int_equal(m->event->container_exited->exit->signal, SIGTERM);
    message_free(&m->base);
    assert_string_equal(pod_signal(&c, "c1", SIGTERM), "precondition");
    control_client_close(&c);
    pod_free(pod);
}

static void oom_is_an_event_and_a_flag(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    Nexus__ControlMessage *m;

    pod_ready(pod, &c);
    pod_run(pod, &c, "c1", (const char *[]){"sh", "-c", "sleep 0.01; oom", NULL});
    m = control_client_event(&c, NEXUS__CONTROL_EVENT__BODY_OOM);
    assert_string_equal(m->event->oom->container_id, "c1");
    message_free(&m->base);
    m = control_client_event(&c, NEXUS__CONTROL_EVENT__BODY_CONTAINER_EXITED);
    assert_true(m->event->container_exited->exit->oom_killed);
    assert_int_equal(m->event->container_exited->exit->code, 137);
    message_free(&m->base);
    control_client_close(&c);
    pod_free(pod);
}

static void removing_a_running_container_tells_its_exit_first(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    Nexus__ControlMessage *m, rm = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__RemoveContainer remove = NEXUS__REMOVE_CONTAINER__INIT;

    pod_ready(pod, &c);
    pod_run(pod, &c, "c1", (const char *[]){"sh", "-c", "ignore-term; sleep infinity", NULL});
    remove.container_id = (char[]){"c1"};
    rm.body_case = NEXUS__CONTROL_MESSAGE__BODY_REMOVE_CONTAINER;
    rm.remove_container = &remove;
    rm.id = 77;
    control_client_send(&c, &rm, NULL, 0);
    m = control_client_message(&c);
    assert_int_equal(m->body_case, NEXUS__CONTROL_MESSAGE__BODY_EVENT);
    assert_int_equal(m->event->container_exited->exit->code, 137);
    message_free(&m->base);
    m = control_client_message(&c);
    assert_int_equal(m->id, 77);
    message_free(&m->base);
    control_client_close(&c);
    pod_free(pod);
}

static void requests_out_of_order_are_refused(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    int log = memfd_create("log", MFD_CLOEXEC), pipes[2];

    pod_connect(pod, &c);
    assert_string_equal(pod_create_in(&c, "c1", "img", log, (const char *[]){"true", NULL}),
                        "unavailable"); /* booting */
    pod_wait_ready(&c);
    assert_string_equal(pod_create_in(&c, "c1", "img", log, (const char *[]){"true", NULL}),
                        "precondition"); /* no settings */
    assert_string_equal(pod_configure(&c), "");
    assert_string_equal(pod_create_in(&c, "c1", "img", log, (const char *[]){"true", NULL}),
                        "precondition"); /* no region */
    assert_string_equal(pod_add_region(&c, "img", 1), "");
    assert_string_equal(pod_create_in(&c, "c/1", "img", log, (const char *[]){"true", NULL}),
                        "invalid");
    assert_string_equal(pod_create_in(&c, "", "img", log, (const char *[]){"true", NULL}),
                        "invalid");
    assert_int_equal(pipe(pipes), 0);
    assert_string_equal(pod_create_in(&c, "c1", "img", pipes[1], (const char *[]){"true", NULL}),
                        "invalid"); /* a FIFO could block us */
    assert_string_equal(pod_create_in(&c, "c1", "img", log, (const char *[]){"true", NULL}), "");
    assert_string_equal(pod_create_in(&c, "c1", "img", log, (const char *[]){"true", NULL}),
                        "exists");
    assert_string_equal(pod_start(&c, "c2"), "not-found");
    assert_string_equal(pod_remove_region(&c, "img"), "precondition"); /* in use */
    assert_string_equal(pod_remove(&c, "c1"), "");
    assert_string_equal(pod_remove_region(&c, "img"), "");
    assert_string_equal(pod_remove_region(&c, "img"), "");
    assert_int_equal(pod->regions, 0);
    close(pipes[0]);
    close(pipes[1]);
    close(log);
    control_client_close(&c);
    pod_free(pod);
}

static void regions_take_their_files_in_order(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;

    pod_ready(pod, &c);                                    /* has added "img" */
    assert_string_equal(pod_add_region(&c, "img", 3), ""); /* there already: no second device */
    assert_int_equal(pod->regions, 1);
    assert_string_equal(pod_add_region(&c, "big", 1 + LIMIT_IMAGE_LAYERS), "");
    assert_int_equal(pod->last_region_files, 1 + LIMIT_IMAGE_LAYERS);
    assert_true(pod->last_region_in_order);
    assert_string_equal(pod_add_region(&c, "", 1), "invalid");
    assert_string_equal(pod_add_region(&c, "none", 0), "invalid");
    for (int i = 2; i < LIMIT_REGIONS; i++) {
        char key[16];

        (void)snprintf(key, sizeof(key), "r%d", i);
        assert_string_equal(pod_add_region(&c, key, 1), "");
    }
    assert_string_equal(pod_add_region(&c, "one-more", 1), "exhausted");
    control_client_close(&c);
    pod_free(pod);
}

/* Records of whole lines of "lines N". Line by line: ASan's strstr measures all of the text each time. */
static unsigned count_lines(const char *text)
{
    static const char word[] = " stdout F line ";
    unsigned count = 0;

    for (const char *end; (end = strchr(text, '\n')); text = end + 1)
        count += memmem(text, (size_t)(end - text), word, strlen(word)) != NULL;
    return count;
}

static void log_is_reopened_without_losing_a_line(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    int next = memfd_create("next", MFD_CLOEXEC);
    char *a, *b;
    Nexus__ControlMessage *m;

    pod_ready(pod, &c);
    pod_run(pod, &c, "c1",
            (const char *[]){"sh", "-c", "lines 20000; sleep 0.05; lines 20000", NULL});
    assert_string_equal(pod_reopen(&c, "c1", next), "");
    m = control_client_event(&c, NEXUS__CONTROL_EVENT__BODY_CONTAINER_EXITED);
    message_free(&m->base);
    a = pod_log(pod, "c1");
    assert_int_equal(lseek(next, 0, SEEK_SET), 0);
    assert_int_equal(fd_read_all(next, 64U << 20, &b, NULL), 0);
    assert_true(strlen(b) > 0);
    assert_int_equal(count_lines(a) + count_lines(b), 40000);
    free(a);
    free(b);
    assert_string_equal(pod_reopen(&c, "c1", next), "precondition"); /* exited */
    assert_string_equal(pod_reopen(&c, "c9", next), "not-found");
    close(next);
    control_client_close(&c);
    pod_free(pod);
}

static void newer_control_connection_replaces_the_older(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client a, b;
    Nexus__ControlMessage *m;

    pod_ready(pod, &a);
    pod_run(pod, &a, "c1", (const char *[]){"sh", "-c", "sleep 0.05; exit 4", NULL});
    m = pod_hello(pod, &b);
    assert_int_equal(m->state->containers[0]->state, NEXUS__CONTAINER_STATE__STATE__RUNNING);
    assert_true(m->state->containers[0]->pid > 0);
    assert_true(m->state->configured);
    message_free(&m->base);
    assert_null(control_client_message(&a));
    m = control_client_event(&b, NEXUS__CONTROL_EVENT__BODY_CONTAINER_EXITED);
    assert_int_equal(m->event->container_exited->exit->code, 4);
    message_free(&m->base);
    control_client_close(&a);
    control_client_close(&b);
    pod_free(pod);
}

static void nothing_is_lost_while_nobody_listens(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    Nexus__ControlMessage *m;
    char *log;

    pod_ready(pod, &c);
    pod_run(pod, &c, "c1", (const char *[]){"sh", "-c", "lines 1000; exit 9", NULL});
    control_client_close(&c);
    while (fake_agent_processes(pod->agent))
        assert_true(loop_turn(pod->loop, 10) >= 0);
    for (int i = 0; i < 20; i++) /* what is on its way to the host */
        assert_true(loop_turn(pod->loop, 0) >= 0);
    m = pod_hello(pod, &c);
    assert_int_equal(m->state->containers[0]->state, NEXUS__CONTAINER_STATE__STATE__EXITED);
    assert_int_equal(m->state->containers[0]->exit->code, 9);
    message_free(&m->base);
    log = pod_log(pod, "c1");
    assert_non_null(strstr(log, "line 0000000999\n"));
    free(log);
    control_client_close(&c);
    pod_free(pod);
}

static void lost_create_is_joined_by_the_next_nexusd(void **state)
{
    struct pod *pod = pod_new("delay@create=60");
    struct control_client a, b;
    Nexus__ControlMessage *m;
    int log = memfd_create("log", MFD_CLOEXEC);

    pod_ready(pod, &a);
    pod_send_create(&a, 5, "c1", "img", log, (const char *[]){"echo", "hi", NULL});
    m = pod_hello(pod, &b);
    assert_int_equal(m->state->n_containers, 0); /* not there until the guest says so */
    message_free(&m->base);
    assert_string_equal(pod_create_in(&b, "c1", "img", log, (const char *[]){"echo", "hi", NULL}),
                        "");
    assert_string_equal(pod_start(&b, "c1"), "");
    close(log);
    control_client_close(&a);
    control_client_close(&b);
    pod_free(pod);
}

/* ---- the termination log */

static char *content_of(int fd)
{
    char *text = NULL;

    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(fd_read_all(fd, 65536, &text, NULL), 0);
    return text;
}

static void assert_content(int fd, const char *want)
{
    _cleanup_(freep) char *text = content_of(fd);

    assert_string_equal(text, want);
}

static const struct {
    const char *name, *before, *script, *want;
} termination_rows[] = {
    {"is_there_when_the_exit_is", "", "bye it is over; exit 3", "it is over\n"},
    {"is_kept_when_nothing_comes", "from before", "true", "from before"},
    {"the_last_one_counts", "", "bye a longer first one; bye short", "short\n"},
    {"replaces_what_was_longer", "much more than what comes", "bye x", "x\n"},
    {"survives_a_signal", "", "bye dying; crash 9", "dying\n"},
    {"survives_oom", "", "bye too much; oom", "too much\n"},
};

static void termination_log_comes_back(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(termination_rows); i++) {
        for (int with_log = 0; with_log < 2; with_log++) {
            struct pod *pod = pod_new("");
            struct control_client c;
            Nexus__ControlMessage *m;
            int fd = memfd_create("termination", MFD_CLOEXEC);
            int log = with_log ? memfd_create("log", MFD_CLOEXEC) : -1;
            const char *argv[] = {"sh", "-c", termination_rows[i].script, NULL};

            print_message("# %s\n", termination_rows[i].name);
            assert_int_equal(
                write_full(fd, termination_rows[i].before, strlen(termination_rows[i].before)), 0);
            pod_ready(pod, &c);
            assert_string_equal(pod_create_with(&c, "c1", "img", log, fd, argv), "");
            assert_string_equal(pod_start(&c, "c1"), "");
            m = control_client_event(&c, NEXUS__CONTROL_EVENT__BODY_CONTAINER_EXITED);
            message_free(&m->base);
            assert_content(fd, termination_rows[i].want);
            if (log >= 0)
                close(log);
            close(fd);
            control_client_close(&c);
            pod_free(pod);
        }
    }
}

static void termination_logs_are_not_mixed_up(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    Nexus__ControlMessage *m;
    int fd[2];

    pod_ready(pod, &c);
    for (int i = 0; i < 2; i++) {
        const char *id = i ? "c1" : "c0", *word = i ? "bye one; pause" : "bye zero; sleep 0.05";

        fd[i] = memfd_create("termination", MFD_CLOEXEC);
        assert_string_equal(
            pod_create_with(&c, id, "img", -1, fd[i], (const char *[]){"sh", "-c", word, NULL}),
            "");
        assert_string_equal(pod_start(&c, id), "");
    }
    m = control_client_event(&c, NEXUS__CONTROL_EVENT__BODY_CONTAINER_EXITED);
    message_free(&m->base);
    assert_content(fd[0], "zero\n");
    assert_content(fd[1], "one\n"); /* while it runs */
    assert_string_equal(pod_remove(&c, "c1"), "");
    assert_content(fd[1], "one\n");
    close(fd[0]);
    close(fd[1]);
    control_client_close(&c);
    pod_free(pod);
}

static void termination_log_is_there_when_the_vm_dies_and_nobody_listens(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    Nexus__ControlMessage *m;
    int fd = memfd_create("termination", MFD_CLOEXEC);

    pod_ready(pod, &c);
    assert_string_equal(
        pod_create_with(&c, "c1", "img", -1, fd,
                        (const char *[]){"sh", "-c", "sleep 0.02; bye last; pause", NULL}),
        "");
    assert_string_equal(pod_start(&c, "c1"), "");
    control_client_close(&c);
    for (struct stat st = {0}; st.st_size == 0;) {
        assert_true(loop_turn(pod->loop, 10000) > 0);
        assert_int_equal(fstat(fd, &st), 0);
    }
    fake_agent_free(TAKE(pod->agent));
    supervisor_vm_ended(pod->sup, NEXUS__VMM_STATE__END__PANIC, "not syncing");
    m = pod_hello(pod, &c);
    assert_int_equal(m->state->containers[0]->state, NEXUS__CONTAINER_STATE__STATE__EXITED);
    message_free(&m->base);
    assert_content(fd, "last\n");
    close(fd);
    control_client_close(&c);
    pod_free(pod);
}

static void termination_log_that_is_no_file_is_refused(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    const char *argv[] = {"true", NULL};
    int pipes[2], log = memfd_create("log", MFD_CLOEXEC);
    int file = memfd_create("termination", MFD_CLOEXEC);
    char path[64];
    int read_only;

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
    read_only = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(read_only >= 0);
    assert_int_equal(pipe(pipes), 0);
    pod_ready(pod, &c);
    assert_string_equal(pod_create_with(&c, "c1", "img", log, pipes[1], argv), "invalid");
    assert_string_equal(pod_create_with(&c, "c1", "img", log, read_only, argv), "invalid");
    assert_int_equal(fcntl(file, F_SETFL, O_APPEND), 0);
    assert_string_equal(pod_create_with(&c, "c1", "img", log, file, argv), "invalid");
    assert_int_equal(fcntl(file, F_SETFL, 0), 0);
    assert_string_equal(pod_create_with(&c, "c1", "img", log, file, argv), "");
    close(pipes[0]);
    close(pipes[1]);
    close(log);
    close(file);
    close(read_only);
    control_client_close(&c);
    pod_free(pod);
}

static void exec_has_no_termination_log(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c, x;
    Nexus__ControlMessage *m;

    pod_ready(pod, &c);
    pod_run(pod, &c, "c1", (const char *[]){"pause", NULL});
    pod_exec(pod, &x, "c1", (const char *[]){"bye", "me", NULL}, false);
    m = control_client_event(&c, NEXUS__CONTROL_EVENT__BODY_VM_ENDED);
    assert_non_null(strstr(m->event->vm_ended->detail, "termination log out of place"));
    message_free(&m->base);
    control_client_close(&x);
    control_client_close(&c);
    pod_free(pod);
}

static void shutdown_powers_off_and_leaves(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    Nexus__ControlMessage *m;

    pod_ready(pod, &c);
    pod_run(pod, &c, "c1", (const char *[]){"pause", NULL});
    pod_send_shutdown(&c, 5, 10000);
    m = control_client_event(&c, NEXUS__CONTROL_EVENT__BODY_CONTAINER_EXITED);
    assert_int_equal(m->event->container_exited->exit->code, 143);
    message_free(&m->base);
    m = control_client_event(&c, NEXUS__CONTROL_EVENT__BODY_VM_ENDED);
    assert_int_equal(m->event->vm_ended->end, NEXUS__VMM_STATE__END__POWEROFF);
    message_free(&m->base);
    m = control_client_reply(&c, 5);
    assert_string_equal(m->reply->error_class, "");
    message_free(&m->base);
    assert_int_equal(pod->exit_code, 0);
    control_client_close(&c);
    pod_free(pod);
}

static void shutdown_by_force_when_the_guest_does_not(void **state)
{
    static const struct {
        const char *name, *script;
        uint32_t grace_ms;
    } rows[] = {
        {"hangs_at_shutdown", "hang@shutdown", 30},
        {"ignores_it", "mute@shutdown", 30},
        {"still_booting", "no-hello", 10000},
        {"no_grace", "", 0},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct pod *pod = pod_new(rows[i].script);
        struct control_client c;
        Nexus__ControlMessage *m;

        print_message("# %s\n", rows[i].name);
        if (rows[i].grace_ms == 10000)
            pod_connect(pod, &c);
        else
            pod_ready(pod, &c);
        pod_send_shutdown(&c, 5, rows[i].grace_ms);
        m = control_client_event(&c, NEXUS__CONTROL_EVENT__BODY_VM_ENDED);
        assert_int_equal(m->event->vm_ended->end, NEXUS__VMM_STATE__END__KILLED);
        message_free(&m->base);
        m = control_client_reply(&c, 5);
        assert_string_equal(m->reply->error_class, "");
        message_free(&m->base);
        assert_int_equal(pod->stops, 1);
        assert_int_equal(pod->exit_code, 0);
        control_client_close(&c);
        pod_free(pod);
    }
}

static void second_shutdown_cuts_the_wait(void **state)
{
    struct pod *pod = pod_new("hang@shutdown");
    struct control_client c;
    Nexus__ControlMessage *m;

    pod_ready(pod, &c);
    pod_send_shutdown(&c, 5, 3600000);
    pod_send_shutdown(&c, 6, 20);
    m = control_client_reply(&c, 5); /* both are answered */
    message_free(&m->base);
    m = control_client_reply(&c, 6);
    message_free(&m->base);
    assert_int_equal(pod->exit_code, 0);
    control_client_close(&c);
    pod_free(pod);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello_tells_the_state_and_guest_ready_comes_once),
        cmocka_unit_test(wrong_version_is_told_and_closed),
        cmocka_unit_test(container_lives_from_create_to_remove),
        cmocka_unit_test(who_a_container_runs_as_is_told),
        cmocka_unit_test(failed_start_is_told_and_leaves_it_exited_128),
        cmocka_unit_test(signals_end_a_container),
        cmocka_unit_test(oom_is_an_event_and_a_flag),
        cmocka_unit_test(removing_a_running_container_tells_its_exit_first),
        cmocka_unit_test(requests_out_of_order_are_refused),
        cmocka_unit_test(regions_take_their_files_in_order),
        cmocka_unit_test(log_is_reopened_without_losing_a_line),
        cmocka_unit_test(newer_control_connection_replaces_the_older),
        cmocka_unit_test(nothing_is_lost_while_nobody_listens),
        cmocka_unit_test(lost_create_is_joined_by_the_next_nexusd),
        cmocka_unit_test(termination_log_comes_back),
        cmocka_unit_test(termination_logs_are_not_mixed_up),
        cmocka_unit_test(termination_log_is_there_when_the_vm_dies_and_nobody_listens),
        cmocka_unit_test(termination_log_that_is_no_file_is_refused),
        cmocka_unit_test(exec_has_no_termination_log),
        cmocka_unit_test(shutdown_powers_off_and_leaves),
        cmocka_unit_test(shutdown_by_force_when_the_guest_does_not),
        cmocka_unit_test(second_shutdown_cuts_the_wait),
    };

    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests_name("supervisor", tests, NULL, NULL) != 0;
}
