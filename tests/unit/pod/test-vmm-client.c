/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-client, vmm-exec: answers find their calls, deadlines and closing end them, hostile peers end their
 * own connection only, a client may be freed in its callbacks; exec is exact and capped. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/file.h"
#include "base/limit.h"
#include "base/str.h"
#include "lib/test.h"
#include "pod/vmm-client.h"
#include "pod/vmm-exec.h"
#include "pod/vmm-socket.h"
#include "wire/message.h"
#include "wire/reply.h"

static struct world {
    sd_event *event;
    char dir[64];
    int dirfd, listen_fd, peer; /* peer: nexus-vmm's end */
    struct vmm_client *client;
    struct vmm_exec *exec;
    int hellos, answers, events, closed, last_r;
    char last_text[256];
    bool free_in_callback;
    /* of an exec */
    int done, exit_code;
    size_t out_len, err_len;
    char out[64], err[256];
    uint64_t dropped;
} w;

static int set_up(void **state)
{
    memset(&w, 0, sizeof(w));
    (void)snprintf(w.dir, sizeof(w.dir), "/tmp/nexus-client-XXXXXX");
    assert_non_null(mkdtemp(w.dir));
    w.dirfd = open(w.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    w.listen_fd = vmm_socket_listen(w.dirfd, "x.sock", NULL);
    w.peer = -1;
    assert_true(w.listen_fd >= 0);
    return sd_event_new(&w.event) < 0;
}

static int tear_down(void **state)
{
    vmm_client_free(w.client);
    vmm_exec_cancel(w.exec);
    if (w.peer >= 0)
        (void)close(w.peer);
    (void)close(w.listen_fd);
    (void)unlinkat(w.dirfd, "x.sock", 0);
    (void)close(w.dirfd);
    (void)rmdir(w.dir);
    sd_event_unref(w.event);
    return 0;
}

/* ---- nexusd's side */

static void note(int r, const struct error *err)
{
    w.last_r = r;
    (void)snprintf(w.last_text, sizeof(w.last_text), "%s", r < 0 ? error_text(err, r) : "");
}

static void maybe_free(void)
{
    if (w.free_in_callback) {
        vmm_client_free(w.client);
        w.client = NULL;
    }
}

static void on_hello(void *ud, int r, const Nexus__VmmState *state, const struct error *err)
{
    w.hellos++;
    note(r, err);
    maybe_free();
}

static void on_answer(void *ud, int r, const Nexus__VmmState *state, const struct error *err)
{
    w.answers++;
    note(r, err);
    maybe_free();
}

static void on_event(void *ud, const Nexus__ControlEvent *event)
{
    w.events++;
    maybe_free();
}

static void on_closed(void *ud, int r, const char *why)
{
    w.closed++;
    vmm_client_free(w.client);
    w.client = NULL;
}
static const struct vmm_client_ops ops = {on_event, on_closed};

static void spin(int turns)
{
    for (int i = 0; i < turns; i++)
        (void)sd_event_run(w.event, 1000);
}

static void spin_until(const int *count, int want)
{
    for (int i = 0; i < 5000 && *count < want; i++)
        (void)sd_event_run(w.event, 1000);
}

static void connect_client(unsigned deadline_ms)
{
    assert_int_equal(vmm_client_connect(w.event, w.dirfd, "x.sock", deadline_ms, &ops, on_hello,
                                        NULL, &w.client, NULL),
                     0);
    w.peer = accept4(w.listen_fd, NULL, NULL, SOCK_CLOEXEC);
    assert_true(w.peer >= 0);
}

static void ask(uint64_t deadline_ms)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__GetState body = NEXUS__GET_STATE__INIT;

    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_GET_STATE;
    m.get_state = &body;
    assert_int_equal(
        vmm_client_call(w.client, &m, NULL, 0, (unsigned)deadline_ms, on_answer, NULL, NULL, NULL),
        0);
}

/* ---- nexus-vmm's side */

static void say(const void *bytes, size_t n)
{
    assert_int_equal(write_full(w.peer, bytes, n), 0);
}

static void say_message(const ProtobufCMessage *m, uint8_t type)
{
    struct buf b;

    buf_init(&b, 1 << 20);
    assert_int_equal(message_write(&b, type, m), 0);
    say(b.data, b.used);
    buf_done(&b);
}

static void say_reply(uint64_t id, const char *class, const char *text)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__Reply reply = NEXUS__REPLY__INIT;

    reply.error_class = (char *)(uintptr_t) class;
    reply.message = (char *)(uintptr_t)text;
    reply.code = class[0] ? ENOENT : 0;
    m.id = id;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_REPLY;
    m.reply = &reply;
    say_message(&m.base, TLV_MESSAGE);
}

static void say_event(void)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__ControlEvent event = NEXUS__CONTROL_EVENT__INIT;
    Nexus__VmEnded ended = NEXUS__VM_ENDED__INIT;

    event.body_case = NEXUS__CONTROL_EVENT__BODY_VM_ENDED;
    event.vm_ended = &ended;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_EVENT;
    m.event = &event;
    say_message(&m.base, TLV_MESSAGE);
}

/* ---- control */

static void answers_find_their_calls_in_any_order(void **state)
{
    connect_client(5000);
    ask(5000); /* id 2; hello is 1 */
    ask(5000); /* id 3 */
    say_reply(3, "", "");
    say_reply(99, "", ""); /* nobody's */
    say_reply(3, "", "");  /* a second time */
    say_event();
    say_reply(2, "not-found", "no such thing\x1b[31m");
    say_reply(1, "", "");
    spin(3);
    assert_int_equal(w.answers, 2);
    assert_int_equal(w.events, 1);
    assert_int_equal(w.hellos, 1);
    assert_int_equal(w.closed, 0);
}

static void error_of_the_peer_is_made_harmless(void **state)
{
    connect_client(5000);
    ask(5000);
    say_reply(2, "not-found", "no such thing\x1b[31m");
    spin(2);
    assert_int_equal(w.last_r, -ENOENT);
    assert_string_equal(w.last_text, "no such thing?[31m");
}

static void silence_ends_in_a_deadline(void **state)
{
    connect_client(20);
    ask(40);
    spin_until(&w.answers, 1);
    assert_int_equal(w.hellos, 1);
    assert_int_equal(w.answers, 1);
    assert_int_equal(w.last_r, -ETIMEDOUT);
    say_reply(2, "", ""); /* too late, and harmless */
    say_event();
    spin(2);
    assert_int_equal(w.answers, 1);
    assert_int_equal(w.events, 1);
}

static void closing_fails_every_call(void **state)
{
    connect_client(5000);
    ask(5000);
    (void)close(w.peer);
    w.peer = -1;
    spin(2);
    assert_int_equal(w.hellos + w.answers, 2);
    assert_int_equal(w.last_r, -ECONNRESET);
    assert_int_equal(w.closed, 1);
}

static void broken_protocol_closes(void **state)
{
    static const struct {
        const char *name;
        uint8_t bytes[8];
        size_t n;
    } rows[] = {
        {"unknown type", {0x63}, 1},
        {"too long", {8, 0xff, 0xff, 0xff, 0xff}, 5},
        {"no message", {8, 0, 0, 0, 2, 0xff, 0xff}, 7},
        {"stream data", {TLV_STDOUT, 0, 0, 0, 1, 'x'}, 6},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        print_message("# %s\n", rows[i].name);
        w.closed = 0;
        connect_client(5000);
        say(rows[i].bytes, rows[i].n);
        spin(2);
        assert_int_equal(w.closed, 1);
        (void)close(w.peer);
        w.peer = -1;
    }
}

static void client_may_be_freed_in_every_callback(void **state)
{
    w.free_in_callback = true;
    connect_client(5000);
    ask(5000);
    say_reply(2, "", "");
    say_event();
    spin(2);
    assert_int_equal(w.answers, 1);
    assert_int_equal(w.events, 0);
    assert_int_equal(w.closed, 0);
}

static void too_many_questions_are_refused(void **state)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__GetState body = NEXUS__GET_STATE__INIT;
    _cleanup_(error_freep) struct error *err = NULL;

    connect_client(5000);
    for (int i = 1; i < LIMIT_AGENT_REQUESTS; i++)
        ask(5000);
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_GET_STATE;
    m.get_state = &body;
    assert_int_equal(vmm_client_call(w.client, &m, NULL, 0, 1000, on_answer, NULL, NULL, &err),
                     -E2BIG);
}

static void nobody_there_is_told(void **state)
{
    struct vmm_client *c = NULL;

    assert_int_equal(
        vmm_client_connect(w.event, w.dirfd, "y.sock", 10, &ops, on_hello, NULL, &c, NULL),
        -ENOENT);
    (void)close(w.listen_fd);
    assert_int_equal(
        vmm_client_connect(w.event, w.dirfd, "x.sock", 10, &ops, on_hello, NULL, &c, NULL),
        -ECONNREFUSED);
    w.listen_fd = vmm_socket_listen(w.dirfd, "x.sock", NULL); /* replaces the stale one */
    assert_true(w.listen_fd >= 0);
}

/* ---- exec */

static void on_exec_done(void *ud, int r, const struct vmm_exec_result *result,
                         const struct error *err)
{
    w.done++;
    w.exec = NULL;
    note(r, err);
    if (r < 0)
        return;
    w.exit_code = result->exit_code;
    w.out_len = result->out_len;
    w.err_len = result->err_len;
    w.dropped = result->dropped;
    if (result->out_len && result->out_len < sizeof(w.out))
        memcpy(w.out, result->out, result->out_len);
    if (result->err_len && result->err_len < sizeof(w.err))
        memcpy(w.err, result->err, result->err_len);
}

static void start_exec(uint64_t timeout_ms)
{
    Nexus__ExecSpec spec = NEXUS__EXEC_SPEC__INIT;

    spec.container_id = (char *)(uintptr_t) "c";
    assert_int_equal(vmm_exec_start(w.event, w.dirfd, "x.sock", &spec, timeout_ms, on_exec_done,
                                    NULL, &w.exec, NULL),
                     0);
    w.peer = accept4(w.listen_fd, NULL, NULL, SOCK_CLOEXEC);
}

static void say_started(void)
{
    Nexus__StreamStarted started = NEXUS__STREAM_STARTED__INIT;

    started.pid = 7;
    say_message(&started.base, TLV_MESSAGE);
}

static void say_data(uint8_t type, const char *text)
{
    struct buf b;

    buf_init(&b, 1 << 16);
    assert_int_equal(tlv_write(&b, type, text, strlen(text)), 0);
    say(b.data, b.used);
    buf_done(&b);
}

static void say_exit(int code)
{
    Nexus__ExitInfo info = NEXUS__EXIT_INFO__INIT;

    info.code = code;
    say_message(&info.base, TLV_EXIT);
}

static void exec_collects_and_ends(void **state)
{
    start_exec(0);
    say_started();
    say_data(TLV_STDOUT, "one");
    say_data(TLV_STDERR, "two");
    say_data(TLV_STDOUT, "three");
    say_data(TLV_STDOUT, "");
    say_exit(42);
    spin(3);
    assert_int_equal(w.done, 1);
    assert_int_equal(w.last_r, 0);
    assert_int_equal(w.exit_code, 42);
    assert_memory_equal(w.out, "onethree", 8);
    assert_int_equal(w.out_len, 8);
    assert_memory_equal(w.err, "two", 3);
}

static void say_error(int exit_code, const char *text)
{
    Nexus__StreamError e = NEXUS__STREAM_ERROR__INIT;
    Nexus__Reply reply = NEXUS__REPLY__INIT;

    reply.error_class = (char *)(uintptr_t) "guest-fault";
    reply.code = ENOENT;
    reply.message = (char *)(uintptr_t)text;
    e.reply = &reply;
    e.exit_code = exit_code;
    say_message(&e.base, TLV_ERROR);
}

static void exec_of_a_missing_program_is_an_answer(void **state)
{
    start_exec(0);
    say_error(127, "no such file");
    spin(2);
    assert_int_equal(w.last_r, 0);
    assert_int_equal(w.exit_code, 127);
    assert_memory_equal(w.err, "no such file\n", w.err_len);
}

static void exec_that_cannot_start_is_an_error(void **state)
{
    start_exec(0);
    say_error(128, "in guest: no memory");
    spin(2);
    assert_int_equal(w.last_r, -ENOENT);
    assert_string_equal(w.last_text, "in guest: no memory");
}

static void exec_times_out(void **state)
{
    char byte;

    start_exec(30);
    say_started();
    spin_until(&w.done, 1);
    assert_int_equal(w.last_r, -ETIMEDOUT);
    while (read(w.peer, &byte, 1) ==
           1) /* its request; then the connection is closed: that kills it */
        ;
}

static void exec_without_an_end_is_an_error(void **state)
{
    start_exec(0);
    say_started();
    say_data(TLV_STDOUT, "cut");
    (void)close(w.peer);
    w.peer = -1;
    spin(3);
    assert_int_equal(w.last_r, -ECONNRESET);
}

static void lying_streams_are_refused(void **state)
{
    static const char *const names[] = {"data before start", "exit code 300", "exit code -1",
                                        "stdin from the guest", "started twice"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        print_message("# %s\n", names[i]);
        w.last_r = 0;
        start_exec(0);
        if (i > 0)
            say_started();
        if (i == 0)
            say_data(TLV_STDOUT, "x");
        else if (i == 1 || i == 2)
            say_exit(i == 1 ? 300 : -1);
        else if (i == 3)
            say_data(TLV_STDIN, "x");
        else
            say_started();
        spin(3);
        assert_true(w.last_r < 0);
        assert_true(str_starts(w.last_text, "in guest:"));
        (void)close(w.peer);
        w.peer = -1;
    }
}

static void output_is_capped_and_the_rest_counted(void **state)
{
    enum { CHUNK = 4096 };
    static char chunk[CHUNK + 1];
    size_t frames = LIMIT_EXEC_OUTPUT_BYTES / CHUNK + 5;

    memset(chunk, 'x', CHUNK);
    start_exec(0);
    say_started();
    for (size_t i = 0; i < frames; i++) {
        say_data(i % 2 ? TLV_STDOUT : TLV_STDERR, chunk);
        if (i % 8 == 0)
            spin(1);
    }
    say_exit(0);
    spin_until(&w.done, 1);
    assert_int_equal(w.last_r, 0);
    assert_int_equal(w.out_len + w.err_len, LIMIT_EXEC_OUTPUT_BYTES);
    assert_int_equal(w.dropped, 5 * CHUNK);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(answers_find_their_calls_in_any_order),
        T(error_of_the_peer_is_made_harmless),
        T(silence_ends_in_a_deadline),
        T(closing_fails_every_call),
        T(broken_protocol_closes),
        T(client_may_be_freed_in_every_callback),
        T(too_many_questions_are_refused),
        T(nobody_there_is_told),
        T(exec_collects_and_ends),
        T(exec_of_a_missing_program_is_an_answer),
        T(exec_that_cannot_start_is_an_error),
        T(exec_times_out),
        T(exec_without_an_end_is_an_error),
        T(lying_streams_are_refused),
        T(output_is_capped_and_the_rest_counted),
    };
    return cmocka_run_group_tests_name("vmm-client", tests, NULL, NULL) != 0;
}
