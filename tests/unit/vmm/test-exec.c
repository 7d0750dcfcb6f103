/* SPDX-License-Identifier: Apache-2.0 */
/* vmm: an exec's stream is exact in both directions, stops its writer when nobody reads, and dies with its
 * client. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/le.h"
#include "base/limit.h"
#include "base/log.h"
#include "lib/vmm-pod.h"

/* A pod with a running container and an exec of argv, past StreamStarted. */
static struct pod *start_exec(const char *script, const char *const *argv, bool open_stdin,
                              struct control_client *c, struct control_client *x)
{
    struct pod *pod = pod_new(script);
    uint8_t type, *value;
    size_t len;

    pod_ready(pod, c);
    pod_run(pod, c, "c1", (const char *[]){"pause", NULL});
    pod_exec(pod, x, "c1", argv, open_stdin);
    assert_true(control_client_frame(x, &type, &value, &len));
    assert_int_equal(type, TLV_MESSAGE);
    free(value);
    return pod;
}

static void end(struct pod *pod, struct control_client *c, struct control_client *x)
{
    control_client_close(x);
    control_client_close(c);
    pod_free(pod);
}

/* Reads to the last frame. The output is gathered, the result is the exit code, or -1 - code for ERROR. */
static int read_all(struct control_client *x, struct buf *out, struct buf *err, char *text,
                    size_t size)
{
    uint8_t type, *value;
    int result = -1000;
    size_t len;

    while (control_client_frame(x, &type, &value, &len)) {
        assert_int_equal(result, -1000); /* nothing after the last */
        if (type == TLV_STDOUT || type == TLV_STDERR) {
            assert_int_equal(buf_append(type == TLV_STDOUT ? out : err, value, len), 0);
        } else if (type == TLV_EXIT) {
            Nexus__ExitInfo *m =
                (Nexus__ExitInfo *)message_unpack(&nexus__exit_info__descriptor, value, len);

            assert_non_null(m);
            result = m->code;
            message_free(&m->base);
        } else {
            Nexus__StreamError *m;

            assert_int_equal(type, TLV_ERROR);
            m = (Nexus__StreamError *)message_unpack(&nexus__stream_error__descriptor, value, len);
            assert_non_null(m);
            result = -1 - m->exit_code;
            (void)snprintf(text, size, "%s: %s", m->reply->error_class, m->reply->message);
            message_free(&m->base);
        }
        free(value);
    }
    return result;
}

static void output_and_code_arrive_apart_and_exact(void **state)
{
    struct control_client c, x;
    struct pod *pod =
        start_exec("", (const char *[]){"sh", "-c", "echo a; echo b >&2; echo c; exit 42", NULL},
                   false, &c, &x);
    struct buf out, err;

    buf_init(&out, 1024);
    buf_init(&err, 1024);
    assert_int_equal(read_all(&x, &out, &err, NULL, 0), 42);
    assert_int_equal(out.used, 4);
    assert_memory_equal(out.data, "a\nc\n", 4);
    assert_int_equal(err.used, 2);
    assert_memory_equal(err.data, "b\n", 2);
    assert_int_equal(fake_agent_processes(pod->agent), 1); /* the container's own */
    buf_done(&out);
    buf_done(&err);
    end(pod, &c, &x);
}

static void arguments_are_a_vector(void **state)
{
    struct control_client c, x;
    struct pod *pod = start_exec("", (const char *[]){"args", "a b", "", "'$x'", "\xc3\xa4", NULL},
                                 false, &c, &x);
    struct buf out, err;
    static const char want[] = "a b\n\n'$x'\n\xc3\xa4\n";

    buf_init(&out, 1024);
    buf_init(&err, 1024);
    assert_int_equal(read_all(&x, &out, &err, NULL, 0), 0);
    assert_int_equal(out.used, sizeof(want) - 1);
    assert_memory_equal(out.data, want, out.used);
    buf_done(&out);
    buf_done(&err);
    end(pod, &c, &x);
}

static void stdin_goes_through_and_ends(void **state)
{
    struct control_client c, x;
    struct pod *pod = start_exec("", (const char *[]){"cat", NULL}, true, &c, &x);
    struct buf out, err;
    uint8_t piece[4096];

    buf_init(&out, 8U << 20);
    buf_init(&err, 1024);
    for (unsigned i = 0; i < 512;
         i++) { /* 2 MiB: through every queue on the way, both directions */
        uint8_t type, *value;
        size_t len;

        memset(piece, (int)i, sizeof(piece));
        control_client_send_frame(&x, TLV_STDIN, piece, sizeof(piece));
        while (control_client_poll(&x, &type, &value, &len)) {
            assert_int_equal(type, TLV_STDOUT);
            assert_int_equal(buf_append(&out, value, len), 0);
            free(value);
        }
    }
    control_client_send_frame(&x, TLV_STDIN, NULL, 0);
    assert_int_equal(read_all(&x, &out, &err, NULL, 0), 0);
    assert_int_equal(out.used, 512 * sizeof(piece));
    for (size_t i = 0; i < out.used; i++)
        if (out.data[i] != (uint8_t)(i / sizeof(piece)))
            fail_msg("byte %zu is wrong", i);
    buf_done(&out);
    buf_done(&err);
    end(pod, &c, &x);
}

static void frames_sent_with_the_hello_are_not_lost(void **state)
{
    struct pod *pod = pod_new("delay@exec=30");
    struct control_client c, x;
    struct buf out, err;
    uint8_t type, *value;
    size_t len;

    buf_init(&out, 1024);
    buf_init(&err, 1024);
    pod_ready(pod, &c);
    pod_run(pod, &c, "c1", (const char *[]){"pause", NULL});
    pod_exec(pod, &x, "c1", (const char *[]){"cat", NULL}, true);
    control_client_send_frame(&x, TLV_STDIN, "early\n", 6);
    control_client_send_frame(&x, TLV_STDIN, NULL, 0);
    assert_true(control_client_frame(&x, &type, &value, &len));
    assert_int_equal(type, TLV_MESSAGE);
    free(value);
    assert_int_equal(read_all(&x, &out, &err, NULL, 0), 0);
    assert_memory_equal(out.data, "early\n", 6);
    buf_done(&out);
    buf_done(&err);
    end(pod, &c, &x);
}

static void slow_reader_stops_the_process_and_gets_everything(void **state)
{
    struct control_client c, x;
    struct pod *pod = start_exec("", (const char *[]){"lines", "500000", NULL}, false, &c, &x);
    struct buf out, err;
    Nexus__ControlMessage *m;

    buf_init(&out, 64U << 20);
    buf_init(&err, 1024);
    /* nobody reads: everything comes to a stand, others are served */
    for (int i = 0; i < 200; i++)
        assert_true(loop_turn(pod->loop, 0) >= 0);
    assert_int_equal(loop_turn(pod->loop, 0), 0); /* no spin */
    assert_int_equal(fake_agent_processes(pod->agent), 2);
    m = pod_state(&c);
    message_free(&m->base);
    assert_int_equal(read_all(&x, &out, &err, NULL, 0), 0);
    assert_int_equal(out.used, 500000 * 16);
    assert_memory_equal(out.data + out.used - 16, "line 0000499999\n", 16);
    buf_done(&out);
    buf_done(&err);
    end(pod, &c, &x);
}

static void unread_stdin_stops_the_client(void **state)
{
    struct control_client c, x;
    struct pod *pod = start_exec("", (const char *[]){"pause", NULL}, true, &c, &x);
    static const uint8_t piece[4096];
    struct buf frame;
    size_t sent = 0;

    buf_init(&frame, 8192);
    assert_int_equal(tlv_write(&frame, TLV_STDIN, piece, sizeof(piece)), 0);
    for (int idle = 0; idle < 50;) {
        ssize_t n = send(x.fd, frame.data + sent % frame.used, frame.used - sent % frame.used,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        idle = n < 0 ? idle + 1 : 0;
        sent += n > 0 ? (size_t)n : 0;
        assert_true(sent < 8U << 20); /* queue, transport and socket buffers, no more */
        assert_true(loop_turn(pod->loop, 0) >= 0);
    }
    /* the client goes away while nothing can be read from it: seen all the same */
    control_client_close(&x);
    while (fake_agent_processes(pod->agent) > 1)
        assert_true(loop_turn(pod->loop, 10) >= 0);
    buf_done(&frame);
    end(pod, &c, &x);
}

static void disconnect_kills_the_exec(void **state)
{
    struct control_client c, x;
    struct pod *pod = start_exec("", (const char *[]){"sleep", "infinity", NULL}, false, &c, &x);
    Nexus__ControlMessage *m;

    assert_int_equal(fake_agent_processes(pod->agent), 2);
    control_client_close(&x);
    while (fake_agent_processes(pod->agent) > 1)
        assert_true(loop_turn(pod->loop, 10) >= 0);
    m = pod_state(&c); /* and nothing of it is left here */
    for (size_t i = 0; i < m->state->n_counters; i++)
        if (strcmp(m->state->counters[i]->name, "exec.active") == 0)
            assert_int_equal(m->state->counters[i]->value, 0);
    message_free(&m->base);
    end(pod, &c, &x);
}

static void disconnect_in_a_flood_kills_the_exec(void **state)
{
    struct control_client c, x;
    struct pod *pod = start_exec("", (const char *[]){"yes", NULL}, false, &c, &x);

    for (int i = 0; i < 100; i++)
        assert_true(loop_turn(pod->loop, 0) >= 0);
    control_client_close(&x);
    while (fake_agent_processes(pod->agent) > 1)
        assert_true(loop_turn(pod->loop, 10) >= 0);
    end(pod, &c, &x);
}

static void signal_frame_reaches_the_process(void **state)
{
    struct control_client c, x;
    struct pod *pod = start_exec("", (const char *[]){"pause", NULL}, false, &c, &x);
    struct buf out, err;
    uint8_t sig[4], size[4] = {0, 80, 0, 24};

    buf_init(&out, 64);
    buf_init(&err, 64);
    be32_store(sig, SIGINT);
    control_client_send_frame(&x, TLV_RESIZE, size, 4);
    control_client_send_frame(&x, TLV_SIGNAL, sig, 4);
    assert_int_equal(read_all(&x, &out, &err, NULL, 0), 128 + SIGINT);
    end(pod, &c, &x);
}

static const struct {
    const char *name, *container, *argv0;
    int code;
    const char *text;
} refused[] = {
    {"unknown_container", "nope", "true", -256,
     "not-found: there is no container nope in this pod"},
    {"missing_binary", "c1", "/bin/nosuch", -128,
     "guest-fault: in guest: exec /bin/nosuch: no such file"},
    {"not_executable", "c1", "noexec", -127,
     "guest-fault: in guest: exec noexec: permission denied"},
    {"not_running", "c0", "true", -256, "precondition: container c0 is not running"},
};

static void failed_exec_says_why(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
        struct pod *pod = pod_new("");
        struct control_client c, x;
        struct buf none;
        char text[512] = "";

        print_message("# %s\n", refused[i].name);
        buf_init(&none, 1);
        pod_ready(pod, &c);
        assert_string_equal(pod_create(pod, &c, "c0", (const char *[]){"pause", NULL}), "");
        pod_run(pod, &c, "c1", (const char *[]){"pause", NULL});
        pod_exec(pod, &x, refused[i].container, (const char *[]){refused[i].argv0, NULL}, false);
        assert_int_equal(read_all(&x, &none, &none, text, sizeof(text)), refused[i].code);
        assert_string_equal(text, refused[i].text);
        end(pod, &c, &x);
    }
}

static const struct {
    const char *name;
    uint8_t type, value[8];
    size_t len;
    bool open_stdin;
} broken[] = {
    {"stdin_that_was_not_asked_for", TLV_STDIN, "x", 1, false},
    {"stdout_from_the_client", TLV_STDOUT, "x", 1, true},
    {"signal_zero", TLV_SIGNAL, {0, 0, 0, 0}, 4, true},
    {"signal_65", TLV_SIGNAL, {0, 0, 0, 65}, 4, true},
    {"short_signal", TLV_SIGNAL, {9}, 1, true},
    {"short_resize", TLV_RESIZE, {9}, 1, true},
    {"message", TLV_MESSAGE, {8, 1}, 2, true},
    {"exit", TLV_EXIT, {8, 1}, 2, true},
};

static void client_that_breaks_the_protocol_loses_its_exec_only(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(broken); i++) {
        struct control_client c, x;
        struct pod *pod =
            start_exec("", (const char *[]){"pause", NULL}, broken[i].open_stdin, &c, &x);
        struct buf none;
        char text[512] = "";
        Nexus__ControlMessage *m;

        print_message("# %s\n", broken[i].name);
        buf_init(&none, 1);
        control_client_send_frame(&x, broken[i].type, broken[i].value, broken[i].len);
        assert_int_equal(read_all(&x, &none, &none, text, sizeof(text)), -256);
        assert_memory_equal(text, "invalid:", 8);
        m = pod_state(&c);
        assert_int_equal(m->state->phase, NEXUS__VMM_STATE__PHASE__READY);
        message_free(&m->base);
        while (fake_agent_processes(pod->agent) > 1)
            assert_true(loop_turn(pod->loop, 10) >= 0);
        end(pod, &c, &x);
    }
}

static void input_after_its_end_is_refused(void **state)
{
    struct control_client c, x;
    struct pod *pod = start_exec("", (const char *[]){"pause", NULL}, true, &c, &x);
    struct buf none;
    char text[512] = "";

    buf_init(&none, 1);
    control_client_send_frame(&x, TLV_STDIN, NULL, 0);
    control_client_send_frame(&x, TLV_STDIN, "x", 1);
    assert_int_equal(read_all(&x, &none, &none, text, sizeof(text)), -256);
    end(pod, &c, &x);
}

static void sixty_four_execs_and_no_more(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c, x[65];
    uint8_t type, *value;
    size_t len;

    pod_ready(pod, &c);
    pod_run(pod, &c, "c1", (const char *[]){"pause", NULL});
    for (int i = 0; i < 65; i++) {
        pod_exec(pod, &x[i], "c1", (const char *[]){"pause", NULL}, false);
        assert_true(control_client_frame(&x[i], &type, &value, &len));
        assert_int_equal(type, i < 64 ? TLV_MESSAGE : TLV_ERROR);
        free(value);
    }
    control_client_close(&x[0]);
    control_client_close(&x[64]);
    while (fake_agent_processes(pod->agent) > 64)
        assert_true(loop_turn(pod->loop, 10) >= 0);
    pod_exec(pod, &x[0], "c1", (const char *[]){"pause", NULL}, false);
    assert_true(control_client_frame(&x[0], &type, &value, &len));
    assert_int_equal(type, TLV_MESSAGE);
    free(value);
    for (int i = 0; i < 64; i++)
        control_client_close(&x[i]);
    control_client_close(&c);
    pod_free(pod);
}

static void lost_connection_ends_the_exec_not_the_pod(void **state)
{
    struct pod *pod = pod_new("lie@exec-started#1=hang-up mute@exec#2");
    struct control_client c, x;
    struct buf none;
    char text[512] = "";
    uint8_t type, *value;
    size_t len;

    buf_init(&none, 1);
    pod_ready(pod, &c);
    pod_run(pod, &c, "c1", (const char *[]){"pause", NULL});
    pod_exec(pod, &x, "c1", (const char *[]){"true", NULL}, false);
    assert_int_equal(read_all(&x, &none, &none, text, sizeof(text)), -256);
    assert_memory_equal(text, "guest-fault: in guest: the exec's connection is lost", 50);
    control_client_close(&x);
    pod_exec(pod, &x, "c1", (const char *[]){"true", NULL}, false); /* never answered */
    assert_int_equal(read_all(&x, &none, &none, text, sizeof(text)), -256);
    assert_memory_equal(text, "deadline:", 9);
    control_client_close(&x);
    pod_exec(pod, &x, "c1", (const char *[]){"true", NULL}, false);
    assert_true(control_client_frame(&x, &type, &value, &len));
    assert_int_equal(type, TLV_MESSAGE);
    free(value);
    end(pod, &c, &x);
}

static void late_start_has_no_limit(void **state)
{
    struct pod *pod = pod_new("mute@exec#1 mute@exec#2");
    struct control_client c, late, x;
    struct buf none;
    char text[512] = "";
    uint8_t type, *value;
    size_t len;

    buf_init(&none, 1);
    pod_ready(pod, &c);
    pod_run(pod, &c, "c1", (const char *[]){"pause", NULL});
    pod_exec_as(pod, &late, "c1", (const char *[]){"pause", NULL}, false, true);
    pod_exec(pod, &x, "c1", (const char *[]){"true", NULL}, false);
    assert_int_equal(read_all(&x, &none, &none, text, sizeof(text)), -256);
    assert_memory_equal(text, "deadline:", 9); /* the later one, which was to tell its start */
    assert_false(control_client_poll(&late, &type, &value, &len));
    assert_false(late.eof);
    control_client_close(&late);
    end(pod, &c, &x);
}

static void end_of_the_vm_ends_the_exec_with_an_error(void **state)
{
    struct control_client c, x;
    struct pod *pod = start_exec("panic@signal", (const char *[]){"pause", NULL}, false, &c, &x);
    struct buf none;
    char text[512] = "";

    buf_init(&none, 1);
    assert_string_equal(pod_signal(&c, "c1", 1), "unavailable");
    assert_int_equal(read_all(&x, &none, &none, text, sizeof(text)), -256);
    assert_string_equal(text,
                        "unavailable: the VM has ended: panic: Kernel panic - not syncing: fake");
    end(pod, &c, &x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_and_code_arrive_apart_and_exact),
        cmocka_unit_test(arguments_are_a_vector),
        cmocka_unit_test(stdin_goes_through_and_ends),
        cmocka_unit_test(frames_sent_with_the_hello_are_not_lost),
        cmocka_unit_test(slow_reader_stops_the_process_and_gets_everything),
        cmocka_unit_test(unread_stdin_stops_the_client),
        cmocka_unit_test(disconnect_kills_the_exec),
        cmocka_unit_test(disconnect_in_a_flood_kills_the_exec),
        cmocka_unit_test(signal_frame_reaches_the_process),
        cmocka_unit_test(failed_exec_says_why),
        cmocka_unit_test(client_that_breaks_the_protocol_loses_its_exec_only),
        cmocka_unit_test(input_after_its_end_is_refused),
        cmocka_unit_test(sixty_four_execs_and_no_more),
        cmocka_unit_test(lost_connection_ends_the_exec_not_the_pod),
        cmocka_unit_test(late_start_has_no_limit),
        cmocka_unit_test(end_of_the_vm_ends_the_exec_with_an_error),
    };

    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests_name("exec", tests, NULL, NULL) != 0;
}
