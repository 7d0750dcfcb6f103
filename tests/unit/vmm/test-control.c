/* SPDX-License-Identifier: Apache-2.0 */
/* vmm: the control socket matches descriptors with messages, bounds every client, and closes what breaks the
 * protocol without harm to the pod. */
#include <dirent.h>
#include <string.h>
#include <sys/resource.h>

#include "base/fdpass.h"
#include "base/limit.h"
#include "base/log.h"
#include "lib/vmm-pod.h"
#include "vmm/control-internal.h"

static size_t count_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    size_t n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void turn(struct pod *pod, int n)
{
    while (n--)
        assert_true(loop_turn(pod->loop, 0) >= 0);
}

static void closed_by_the_other_end(struct control_client *c)
{
    assert_null(control_client_message(c));
}

static const struct {
    const char *name;
    uint8_t bytes[16];
    size_t len;
} firsts[] = {
    {"stream_frame", {TLV_STDIN, 0, 0, 0, 1, 'x'}, 6},
    {"unknown_type", {99, 0, 0, 0, 0}, 5},
    {"type_zero", {0, 0, 0, 0, 0}, 5},
    {"length_over_the_limit", {TLV_MESSAGE, 0xff, 0xff, 0xff, 0xff}, 5},
    {"malformed_message", {TLV_MESSAGE, 0, 0, 0, 2, 0xff, 0xff}, 7},
    {"http", "GET / HTTP/1.1\r", 15},
};

static void junk_closes_the_connection_only(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c, junk;

    pod_ready(pod, &c);
    for (size_t i = 0; i < ARRAY_SIZE(firsts); i++) {
        print_message("# %s\n", firsts[i].name);
        control_client_connect(&junk, pod->loop, pod->path);
        control_client_send_bytes(&junk, firsts[i].bytes, firsts[i].len);
        closed_by_the_other_end(&junk);
        control_client_close(&junk);
        assert_string_equal(pod_configure(&c), "");
    }
    control_client_close(&c);
    pod_free(pod);
}

static void request_without_hello_is_refused(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;

    control_client_connect(&c, pod->loop, pod->path);
    assert_string_equal(pod_configure(&c), "invalid");
    closed_by_the_other_end(&c);
    control_client_close(&c);
    pod_free(pod);
}

static void stream_hello_without_its_spec_is_refused_as_a_stream(void **state)
{
    static const Nexus__ControlHello__Role roles[] = {NEXUS__CONTROL_HELLO__ROLE__EXEC,
                                                      NEXUS__CONTROL_HELLO__ROLE__ATTACH,
                                                      NEXUS__CONTROL_HELLO__ROLE__FORWARD};
    struct pod *pod = pod_new("");
    struct control_client c;
    uint8_t type, *value;
    size_t len;

    for (size_t i = 0; i < 2 * ARRAY_SIZE(roles) + 2; i++) {
        Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
        Nexus__ControlHello hello = NEXUS__CONTROL_HELLO__INIT;
        Nexus__ForwardSpec port = NEXUS__FORWARD_SPEC__INIT; /* 0, then 65536 */

        hello.version = i / ARRAY_SIZE(roles) % 2 ? 2 : 1;
        hello.role = roles[i % ARRAY_SIZE(roles)];
        if (i >= 2 * ARRAY_SIZE(roles)) {
            hello.version = 1;
            hello.role = NEXUS__CONTROL_HELLO__ROLE__FORWARD;
            hello.forward = &port;
            port.port = i % 2 ? 65536 : 0;
        }
        control_client_connect(&c, pod->loop, pod->path);
        m.body_case = NEXUS__CONTROL_MESSAGE__BODY_HELLO;
        m.hello = &hello;
        control_client_send(&c, &m, NULL, 0);
        assert_true(control_client_frame(&c, &type, &value, &len));
        assert_int_equal(type, TLV_ERROR);
        free(value);
        closed_by_the_other_end(&c);
        control_client_close(&c);
    }
    pod_free(pod);
}

static void silent_client_is_closed_after_its_time(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;

    control_client_connect(&c, pod->loop, pod->path);
    control_client_send_bytes(&c, "\x08\x00", 2); /* a header that never ends */
    closed_by_the_other_end(&c);
    control_client_close(&c);
    pod_free(pod);
}

static void silent_clients_cannot_take_all_places(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c, idle[CONTROL_PENDING_MAX + 4];

    pod_ready(pod, &c);
    for (size_t i = 0; i < ARRAY_SIZE(idle); i++)
        control_client_connect(&idle[i], pod->loop, pod->path);
    turn(pod, 10);
    for (size_t i = 0; i < ARRAY_SIZE(idle); i++) {
        if (i >= CONTROL_PENDING_MAX)
            closed_by_the_other_end(&idle[i]);
        control_client_close(&idle[i]);
    }
    assert_string_equal(pod_configure(&c), "");
    control_client_close(&c);
    pod_free(pod);
}

static void descriptors_belong_to_their_message(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    int a = memfd_create("a", MFD_CLOEXEC), b = memfd_create("b", MFD_CLOEXEC);
    Nexus__ControlMessage *m;
    size_t fds_before;
    char *text;

    pod_ready(pod, &c);
    fds_before = count_fds();
    /* three pipelined requests, each with its own file, read in one go by the other side */
    pod_send_create(&c, 101, "a", "img", a, (const char *[]){"echo", "from-a", NULL});
    pod_send_create(&c, 102, "b", "img", b, (const char *[]){"echo", "from-b", NULL});
    pod_send_create(&c, 103, "c", "img", -1, (const char *[]){"echo", "none", NULL});
    for (uint64_t id = 101; id <= 103; id++) {
        m = control_client_reply(&c, id);
        assert_string_equal(m->reply->error_class, "");
        message_free(&m->base);
    }
    for (const char *id = "abc"; *id; id++) {
        char name[2] = {*id, '\0'};

        assert_string_equal(pod_start(&c, name), "");
        m = control_client_event(&c, NEXUS__CONTROL_EVENT__BODY_CONTAINER_EXITED);
        message_free(&m->base);
    }
    assert_int_equal(lseek(b, 0, SEEK_SET), 0);
    assert_int_equal(fd_read_all(b, 4096, &text, NULL), 0);
    assert_non_null(strstr(text, "from-b"));
    assert_null(strstr(text, "from-a"));
    free(text);
    assert_int_equal(count_fds(), fds_before); /* logs of exited containers are closed */
    close(a);
    close(b);
    control_client_close(&c);
    pod_free(pod);
}

static void descriptors_nobody_wants_are_closed(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__SandboxConfig config = NEXUS__SANDBOX_CONFIG__INIT;
    int fd = memfd_create("x", MFD_CLOEXEC), fds[3] = {fd, fd, fd};
    size_t before;

    pod_ready(pod, &c);
    before = count_fds();
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_CONFIGURE;
    m.configure = &config;
    assert_string_equal(control_client_call(&c, &m, fds, 3), "");
    assert_int_equal(count_fds(), before);
    /* promised and not sent */
    m.n_fds = 2;
    m.id = 500;
    control_client_send(&c, &m, NULL, 0);
    closed_by_the_other_end(&c);
    control_client_close(&c);
    close(fd);
    pod_free(pod);
}

static void flood_of_descriptors_is_bounded(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    int fd = memfd_create("x", MFD_CLOEXEC), fds[100];
    size_t before;

    pod_ready(pod, &c);
    before = count_fds();
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        fds[i] = fd;
    for (int i = 0; i < 8; i++) { /* bytes of a frame that does not end */
        uint8_t byte[5] = {TLV_MESSAGE, 0, 1, 0, 0};

        (void)fdpass_send(c.fd, byte + (i < 5 ? i : 4), 1, fds, ARRAY_SIZE(fds));
        turn(pod, 2);
        assert_true(count_fds() <= before + CONTROL_FDS_MAX);
    }
    closed_by_the_other_end(&c);
    control_client_close(&c);
    assert_int_equal(count_fds(), before - 2); /* its two ends */
    close(fd);
    pod_free(pod);
}

static void client_that_does_not_read_is_bounded_and_served_later(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c, x;
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT, *reply;
    Nexus__GetState get = NEXUS__GET_STATE__INIT;
    unsigned n = 20000;

    pod_ready(pod, &c);
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_GET_STATE;
    m.get_state = &get;
    for (unsigned i = 1; i <= n; i++) {
        struct buf out;
        ssize_t sent;

        buf_init(&out, 256);
        m.id = 1000 + i;
        assert_int_equal(message_write(&out, TLV_MESSAGE, &m.base), 0);
        sent = send(c.fd, out.data, out.used, MSG_DONTWAIT | MSG_NOSIGNAL);
        buf_done(&out);
        if (sent < 0) { /* it has stopped reading us: that is the bound */
            n = i - 1;
            break;
        }
        if (i % 16 == 0)
            turn(pod, 1);
    }
    turn(pod, 50);
    assert_int_equal(loop_turn(pod->loop, 0), 0); /* no spin meanwhile */
    /* others are served */
    pod_exec(pod, &x, "nope", (const char *[]){"true", NULL}, false);
    uint8_t type, *value;
    size_t len;
    assert_true(control_client_frame(&x, &type, &value, &len));
    free(value);
    control_client_close(&x);
    /* and every answer comes, in order */
    for (unsigned i = 1; i <= n; i++) {
        reply = control_client_message(&c);
        assert_non_null(reply);
        assert_int_equal(reply->id, 1000 + i);
        message_free(&reply->base);
    }
    control_client_close(&c);
    pod_free(pod);
}

static void accept_pauses_without_descriptors_and_comes_back(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c, d;
    struct rlimit old, low;

    pod_ready(pod, &c);
    control_client_connect(&d, pod->loop, pod->path);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    low = old;
    low.rlim_cur = 1; /* every further descriptor fails with EMFILE */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    turn(pod, 5);
    assert_int_equal(loop_turn(pod->loop, 0), 0); /* paused, no spin */
    assert_string_equal(pod_configure(&c), "");
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_string_equal(pod_configure(&d), "invalid"); /* accepted after all: it said no hello */
    control_client_close(&c);
    control_client_close(&d);
    pod_free(pod);
}

static void unknown_request_is_unsupported(void **state)
{
    struct pod *pod = pod_new("");
    struct control_client c;
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__ControlHello hello = NEXUS__CONTROL_HELLO__INIT;

    pod_ready(pod, &c);
    assert_string_equal(control_client_call(&c, &m, NULL, 0), "unsupported"); /* no body we know */
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_HELLO;
    m.hello = &hello;
    assert_string_equal(control_client_call(&c, &m, NULL, 0), "invalid");
    control_client_close(&c);
    pod_free(pod);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(junk_closes_the_connection_only),
        cmocka_unit_test(request_without_hello_is_refused),
        cmocka_unit_test(stream_hello_without_its_spec_is_refused_as_a_stream),
        cmocka_unit_test(silent_client_is_closed_after_its_time),
        cmocka_unit_test(silent_clients_cannot_take_all_places),
        cmocka_unit_test(descriptors_belong_to_their_message),
        cmocka_unit_test(descriptors_nobody_wants_are_closed),
        cmocka_unit_test(flood_of_descriptors_is_bounded),
        cmocka_unit_test(client_that_does_not_read_is_bounded_and_served_later),
        cmocka_unit_test(accept_pauses_without_descriptors_and_comes_back),
        cmocka_unit_test(unknown_request_is_unsupported),
    };

    log_set_level((enum log_level)(LOG_ERROR - 1));
    return cmocka_run_group_tests_name("control", tests, NULL, NULL) != 0;
}
