/* SPDX-License-Identifier: Apache-2.0 */
/* vmm: a guest that lies, floods, hangs, dies or never speaks costs its own pod and nothing else; nexusd is
 * told what happened, and everything can still be removed. */
#include <signal.h>
#include <string.h>

#include "base/log.h"
#include "lib/vmm-pod.h"

enum act {
    ACT_NONE,
    ACT_CONFIGURE,
    ACT_CREATE,
    ACT_START,
    ACT_RUN,
    ACT_SIGNAL,
    ACT_REMOVE,
    ACT_EXEC
};

static const struct {
    const char *name, *script;
    enum act act;
    int end;            /* Nexus__VmmState__End */
    const char *detail; /* part of it */
} ends[] = {
    /* the control connection */
    {"other_version", "hello-version=2", ACT_NONE, NEXUS__VMM_STATE__END__AGENT_LOST, "version"},
    {"hello_twice", "lie@configure=hello-again", ACT_CONFIGURE, NEXUS__VMM_STATE__END__AGENT_LOST,
     "second hello"},
    {"no_hello_first", "lie@hello=foreign-oom", ACT_NONE, NEXUS__VMM_STATE__END__AGENT_LOST,
     "no hello"},
    {"reply_to_nothing", "lie@configure=wrong-id", ACT_CONFIGURE, NEXUS__VMM_STATE__END__AGENT_LOST,
     "no open request"},
    {"reply_twice", "lie@configure=twice", ACT_CONFIGURE, NEXUS__VMM_STATE__END__AGENT_LOST,
     "no open request"},
    {"a_host_message", "lie@configure=host-message", ACT_CONFIGURE,
     NEXUS__VMM_STATE__END__AGENT_LOST, "only the host"},
    {"garbage", "lie@configure=garbage", ACT_CONFIGURE, NEXUS__VMM_STATE__END__AGENT_LOST,
     "malformed"},
    {"huge_frame", "lie@configure=huge-frame", ACT_CONFIGURE, NEXUS__VMM_STATE__END__AGENT_LOST,
     "too long"},
    {"flood_of_events", "flood@configure=100000", ACT_CONFIGURE, NEXUS__VMM_STATE__END__AGENT_LOST,
     "too many"},
    {"silent_in_a_header", "lie@configure=slow-header hang@configure", ACT_CONFIGURE,
     NEXUS__VMM_STATE__END__AGENT_LOST, "unresponsive"},
    {"hangs", "hang@create", ACT_CREATE, NEXUS__VMM_STATE__END__AGENT_LOST, "unresponsive"},
    {"dies", "die@create", ACT_CREATE, NEXUS__VMM_STATE__END__AGENT_LOST, "closed"},
    /* streams */
    {"output_before_the_start", "lie@started=early-output", ACT_START,
     NEXUS__VMM_STATE__END__AGENT_LOST, "out of place"},
    {"stdin_from_the_guest", "lie@started=stdin", ACT_START, NEXUS__VMM_STATE__END__AGENT_LOST,
     "only the host"},
    {"termination_log_before_the_start", "lie@started=termination", ACT_START,
     NEXUS__VMM_STATE__END__AGENT_LOST, "termination log out of place"},
    {"termination_log_too_long", "lie@exit=long-termination", ACT_RUN,
     NEXUS__VMM_STATE__END__AGENT_LOST, "too long frame"},
    {"exit_code_2_31", "lie@exit=bad-exit", ACT_RUN, NEXUS__VMM_STATE__END__AGENT_LOST,
     "exit code"},
    {"output_after_its_end", "lie@exit=late-output", ACT_RUN, NEXUS__VMM_STATE__END__AGENT_LOST,
     "out of place"},
    {"start_message_twice", "lie@exit=message", ACT_RUN, NEXUS__VMM_STATE__END__AGENT_LOST,
     "start message"},
    {"stream_without_exit", "lie@exit=no-exit", ACT_RUN, NEXUS__VMM_STATE__END__AGENT_LOST,
     "closed"},
    {"lie_in_an_exec", "lie@exec-started=early-output", ACT_EXEC, NEXUS__VMM_STATE__END__AGENT_LOST,
     "out of place"},
    /* the machine tells */
    {"panic", "panic@start", ACT_START, NEXUS__VMM_STATE__END__PANIC, "not syncing"},
    {"panic_in_exec", "panic@exec", ACT_EXEC, NEXUS__VMM_STATE__END__PANIC, "not syncing"},
    {"power_off", "poweroff@signal", ACT_SIGNAL, NEXUS__VMM_STATE__END__POWEROFF, ""},
    {"reset", "reset@remove", ACT_REMOVE, NEXUS__VMM_STATE__END__RESET, ""},
};

static void send_exec(struct pod *pod, struct control_client *c, struct control_client *x)
{
    pod_run(pod, c, "c1", (const char *[]){"pause", NULL});
    pod_exec(pod, x, "c1", (const char *[]){"pause", NULL}, false);
}

/* Brings the pod to where the guest misbehaves; answers are not of interest. */
static void provoke(struct pod *pod, struct control_client *c, struct control_client *x,
                    enum act act)
{
    const char *argv[] = {"sh", "-c", act == ACT_RUN ? "sleep 0.01; echo x" : "sleep infinity",
                          NULL};
    int log = memfd_create("log", MFD_CLOEXEC);

    if (act == ACT_NONE)
        goto out;
    pod_wait_ready(c);
    (void)pod_configure(c);
    if (act == ACT_CONFIGURE)
        goto out;
    (void)pod_add_region(c, "img", 1);
    if (act == ACT_EXEC) {
        send_exec(pod, c, x);
        goto out;
    }
    (void)pod_create_in(c, "c1", "img", log, argv);
    if (act >= ACT_START)
        (void)pod_start(c, "c1");
    if (act == ACT_SIGNAL)
        (void)pod_signal(c, "c1", SIGTERM);
    if (act == ACT_REMOVE)
        (void)pod_remove(c, "c1");
out:
    close(log);
}

static Nexus__ControlMessage *wait_ended(struct control_client *c)
{
    for (;;) {
        Nexus__ControlMessage *m = pod_state(c);

        if (m->state->phase == NEXUS__VMM_STATE__PHASE__ENDED)
            return m;
        message_free(&m->base);
    }
}

static void each_misdeed_ends_the_pod_with_its_reason(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        struct pod *pod = pod_new(ends[i].script);
        struct control_client c, x = {.fd = -1};
        Nexus__ControlMessage *m;

        print_message("# %s\n", ends[i].name);
        pod_connect(pod, &c);
        provoke(pod, &c, &x, ends[i].act);
        m = wait_ended(&c);
        assert_int_equal(m->state->end, ends[i].end);
        if (!strstr(m->state->end_detail, ends[i].detail))
            fail_msg("end_detail is: %s", m->state->end_detail);
        for (size_t k = 0; k < m->state->n_containers; k++) {
            Nexus__ContainerState *s = m->state->containers[k];

            if (s->state == NEXUS__CONTAINER_STATE__STATE__CREATED)
                continue;
            assert_int_equal(s->state, NEXUS__CONTAINER_STATE__STATE__EXITED);
            assert_int_equal(s->exit->code, 255);
        }
        message_free(&m->base);
        /* we stop the VM ourselves exactly when the agent is lost */
        assert_int_equal(pod->stops, ends[i].end == NEXUS__VMM_STATE__END__AGENT_LOST ? 1 : 0);
        /* clean-up needs no guest */
        assert_string_equal(pod_start(&c, "nope"), "not-found");
        assert_string_equal(pod_remove(&c, "c1"), "");
        assert_string_equal(pod_remove_region(&c, "img"), "");
        assert_int_equal(pod->regions, 0);
        pod_send_shutdown(&c, 99, 5000);
        m = control_client_reply(&c, 99);
        assert_string_equal(m->reply->error_class, "");
        message_free(&m->base);
        assert_int_equal(pod->exit_code, 0);
        control_client_close(&x);
        control_client_close(&c);
        pod_free(pod);
    }
}

static void end_is_told_after_the_exits(void **state)
{
    struct pod *pod = pod_new("panic@signal=oom");
    struct control_client c;
    Nexus__ControlMessage *m;

    pod_ready(pod, &c);
    pod_run(pod, &c, "c1", (const char *[]){"sh", "-c", "ignore-term; sleep infinity", NULL});
    assert_string_equal(pod_create_in(&c, "c2", "img", -1, (const char *[]){"true", NULL}), "");
    assert_string_equal(pod_signal(&c, "c1", SIGTERM), "unavailable");
    m = control_client_message(&c);
    assert_int_equal(m->event->body_case, NEXUS__CONTROL_EVENT__BODY_CONTAINER_EXITED);
    assert_string_equal(m->event->container_exited->id, "c1");
    assert_int_equal(m->event->container_exited->exit->code, 137); /* the panic tells of memory */
    assert_true(m->event->container_exited->exit->oom_killed);
    message_free(&m->base);
    m = control_client_message(&c);
    assert_int_equal(m->event->body_case, NEXUS__CONTROL_EVENT__BODY_VM_ENDED);
    message_free(&m->base);
    assert_string_equal(pod_signal(&c, "c1", SIGTERM), "precondition");
    assert_string_equal(pod_start(&c, "c2"), "precondition");
    control_client_close(&c);
    pod_free(pod);
}

static const struct {
    const char *name, *script;
    enum act act;
} deadlines[] = {
    {"configure", "mute@configure#1", ACT_CONFIGURE},
    {"create", "mute@create#1", ACT_CREATE},
    {"start", "mute@start#1", ACT_START},
    {"signal", "mute@signal#1", ACT_SIGNAL},
    {"remove", "mute@remove#1", ACT_REMOVE},
};

static void each_request_has_a_deadline(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(deadlines); i++) {
        struct pod *pod = pod_new(deadlines[i].script);
        struct control_client c;
        const char *result = NULL;
        int log = memfd_create("log", MFD_CLOEXEC);
        Nexus__ControlMessage *m;

        print_message("# %s\n", deadlines[i].name);
        pod_connect(pod, &c);
        pod_wait_ready(&c);
        result = pod_configure(&c);
        if (deadlines[i].act > ACT_CONFIGURE) {
            assert_string_equal(pod_add_region(&c, "img", 1), "");
            result = pod_create_in(&c, "c1", "img", log, (const char *[]){"pause", NULL});
        }
        if (deadlines[i].act > ACT_CREATE)
            result = pod_start(&c, "c1");
        if (deadlines[i].act == ACT_SIGNAL)
            result = pod_signal(&c, "c1", SIGTERM);
        if (deadlines[i].act == ACT_REMOVE)
            result = pod_remove(&c, "c1");
        assert_string_equal(result, "deadline");
        /* the pod goes on, and the next try works */
        if (deadlines[i].act == ACT_CONFIGURE)
            assert_string_equal(pod_configure(&c), "");
        if (deadlines[i].act == ACT_CREATE)
            assert_string_equal(
                pod_create_in(&c, "c1", "img", log, (const char *[]){"pause", NULL}), "");
        if (deadlines[i].act >= ACT_SIGNAL)
            assert_string_equal(pod_remove(&c, "c1"), "");
        m = pod_state(&c);
        assert_int_equal(m->state->phase, NEXUS__VMM_STATE__PHASE__READY);
        if (deadlines[i].act == ACT_START)
            assert_int_equal(m->state->containers[0]->exit->code, 128);
        message_free(&m->base);
        close(log);
        control_client_close(&c);
        pod_free(pod);
    }
}

static void late_answer_is_no_violation(void **state)
{
    struct pod *pod = pod_new("delay@configure#1=640");
    struct control_client c;

    pod_connect(pod, &c);
    pod_wait_ready(&c);
    assert_string_equal(pod_configure(&c), "deadline");
    for (int i = 0; i < 10; i++) { /* the late answer passes on the way */
        assert_string_equal(pod_configure(&c), "");
        assert_true(loop_turn(pod->loop, 10) >= 0);
    }
    control_client_close(&c);
    pod_free(pod);
}

static void oom_of_a_foreign_container_is_ignored(void **state)
{
    struct pod *pod = pod_new("lie@create=foreign-oom");
    struct control_client c;

    pod_ready(pod, &c);
    pod_run(pod, &c, "c1", (const char *[]){"pause", NULL});
    control_client_close(&c);
    pod_free(pod);
}

static void guest_that_never_says_hello_stays_booting(void **state)
{
    struct pod *pod = pod_new("no-hello");
    struct control_client c;
    Nexus__ControlMessage *m;

    pod_connect(pod, &c);
    assert_string_equal(pod_configure(&c), "unavailable");
    m = pod_state(&c);
    assert_int_equal(m->state->phase, NEXUS__VMM_STATE__PHASE__BOOTING);
    message_free(&m->base);
    control_client_close(&c);
    pod_free(pod);
}

static void agent_may_try_again_until_it_has_said_hello(void **state)
{
    struct pod *pod = pod_new("delay@hello=60");
    const struct transport *guest = mem_transport_guest(pod->transport);
    static const struct transport_conn_ops none;
    struct transport_conn *first, *second;
    struct control_client c;

    pod_connect(pod, &c);
    assert_int_equal(guest->connect(guest->impl, TRANSPORT_PORT_CONTROL, &none, NULL, &first), 0);
    for (int i = 0; i < 5; i++)
        assert_true(loop_turn(pod->loop, 0) >= 0);
    guest->conn_close(first);
    for (int i = 0; i < 5; i++)
        assert_true(loop_turn(pod->loop, 0) >= 0);
    /* and one that is left open without a word does not keep the next one out */
    assert_int_equal(guest->connect(guest->impl, TRANSPORT_PORT_CONTROL, &none, NULL, &second), 0);
    pod_wait_ready(&c);
    assert_string_equal(pod_configure(&c), "");
    control_client_close(&c);
    pod_free(pod);
}

static void second_agent_connection_is_refused(void **state)
{
    struct pod *pod = pod_new("");
    const struct transport *guest = mem_transport_guest(pod->transport);
    static const struct transport_conn_ops none;
    struct transport_conn *second;
    struct control_client c;
    size_t before;

    pod_ready(pod, &c);
    before = mem_transport_count(pod->transport);
    assert_int_equal(guest->connect(guest->impl, TRANSPORT_PORT_CONTROL, &none, NULL, &second), 0);
    for (int i = 0; i < 10; i++)
        assert_true(loop_turn(pod->loop, 0) >= 0);
    assert_int_equal(mem_transport_count(pod->transport), before);
    assert_string_equal(pod_configure(&c), ""); /* the first is not disturbed */
    control_client_close(&c);
    pod_free(pod);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_misdeed_ends_the_pod_with_its_reason),
        cmocka_unit_test(end_is_told_after_the_exits),
        cmocka_unit_test(each_request_has_a_deadline),
        cmocka_unit_test(late_answer_is_no_violation),
        cmocka_unit_test(oom_of_a_foreign_container_is_ignored),
        cmocka_unit_test(guest_that_never_says_hello_stays_booting),
        cmocka_unit_test(agent_may_try_again_until_it_has_said_hello),
        cmocka_unit_test(second_agent_connection_is_refused),
    };

    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests_name("hostile-guest", tests, NULL, NULL) != 0;
}
