/* SPDX-License-Identifier: Apache-2.0 */
/* stream: a connection to nexus-vmm. The test plays nexus-vmm, which may say anything: it ends the connection
 * with one word to the owner, and a full queue on either side stops the other. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/file.h"
#include "base/limit.h"
#include "lib/test.h"
#include "stream/back.h"
#include "wire/message.h"

struct world {
    char dir[32];
    int dirfd, listen_fd, peer; /* peer: nexus-vmm's end */
    sd_event *event;
    struct back *back;
    /* what the owner heard */
    unsigned started, exits, failures, rooms;
    size_t out_bytes, refuse_after; /* refuse_after: output is refused from so many bytes on */
    int code, r;
    bool free_in_output;
};

static void on_started(void *ud)
{
    ((struct world *)ud)->started++;
}

static bool on_output(void *ud, uint8_t type, const uint8_t *p, size_t n)
{
    struct world *w = ud;

    if (w->free_in_output) {
        back_free(TAKE(w->back));
        return true;
    }
    if (w->refuse_after && w->out_bytes >= w->refuse_after)
        return false;
    w->out_bytes += n;
    return true;
}

static void on_exited(void *ud, int code)
{
    struct world *w = ud;

    w->exits++;
    w->code = code;
}

static void on_failed(void *ud, int r, const struct error *err, int exit_code)
{
    struct world *w = ud;

    assert_non_null(err);
    assert_true(r < 0);
    w->failures++;
    w->r = r;
    w->code = exit_code;
}

static void on_room(void *ud)
{
    ((struct world *)ud)->rooms++;
}

static const struct back_ops ops = {
    .on_started = on_started,
    .on_output = on_output,
    .on_exited = on_exited,
    .on_failed = on_failed,
    .on_room = on_room,
};

static void turns(struct world *w)
{
    while (sd_event_run(w->event, 0) > 0)
        ;
}

static int open_back(struct world *w, const char *name, struct error **err)
{
    Nexus__ControlHello hello = NEXUS__CONTROL_HELLO__INIT;
    Nexus__ForwardSpec spec = NEXUS__FORWARD_SPEC__INIT;

    spec.port = 80;
    hello.version = 1;
    hello.role = NEXUS__CONTROL_HELLO__ROLE__FORWARD;
    hello.forward = &spec;
    return back_new(w->event, w->dirfd, name, &hello, &ops, w, &w->back, err);
}

static void set_up(struct world *w)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};

    memset(w, 0, sizeof(*w));
    memcpy(w->dir, "/tmp/nexus-back.XXXXXX", sizeof("/tmp/nexus-back.XXXXXX"));
    assert_non_null(mkdtemp(w->dir));
    w->dirfd = dir_open_or_make(w->dir, 0700);
    assert_true(w->dirfd >= 0);
    (void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/vm.sock", w->dir);
    w->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(w->listen_fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(w->listen_fd, 1), 0);
    assert_true(sd_event_new(&w->event) >= 0);
    assert_int_equal(open_back(w, "vm.sock", NULL), 0);
    w->peer = accept4(w->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    assert_true(w->peer >= 0);
}

static void tear_down(struct world *w)
{
    back_free(w->back);
    turns(w);
    sd_event_unref(w->event);
    (void)close_fd(w->peer);
    (void)close_fd(w->listen_fd);
    (void)close_fd(w->dirfd);
    (void)dir_remove_tree(-100 /* AT_FDCWD */, w->dir);
}

static void say(struct world *w, const void *bytes, size_t len)
{
    assert_int_equal(send(w->peer, bytes, len, MSG_NOSIGNAL), len);
}

/* What nexus-vmm says after (or instead of) a good start, and what the owner hears. */
static const struct {
    const char *name;
    bool start; /* a StreamStarted comes first */
    uint8_t in[24];
    size_t len;
    unsigned exits, failures;
    int r, code;
} rows[] = {
    {"an_exit", true, {4, 0, 0, 0, 2, 8, 7}, 7, 1, 0, 0, 7},
    {"an_empty_exit_is_code_0", true, {4, 0, 0, 0, 0}, 5, 1, 0, 0, 0},
    {"a_code_of_256", true, {4, 0, 0, 0, 3, 8, 0x80, 2}, 8, 0, 1, -EPROTO, 255},
    {"a_negative_code",
     true,
     {4, 0, 0, 0, 11, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
     16,
     0,
     1,
     -EPROTO,
     255},
    {"an_exit_that_is_no_message", true, {4, 0, 0, 0, 1, 0xff}, 6, 0, 1, -EPROTO, 255},
    {"an_exit_before_the_start", false, {4, 0, 0, 0, 0}, 5, 0, 1, -EPROTO, 255},
    {"output_before_the_start", false, {2, 0, 0, 0, 1, 'x'}, 6, 0, 1, -EPROTO, 255},
    {"an_error_without_a_reply", false, {7, 0, 0, 0, 0}, 5, 0, 1, -EPROTO, 255},
    {"an_error_that_is_a_success", false, {7, 0, 0, 0, 2, 0x0a, 0}, 7, 0, 1, -EPROTO, 255},
    {"an_error",
     false,
     {7, 0, 0, 0, 8, 0x0a, 4, 0x0a, 0, 0x10, 2, 0x10, 127},
     13,
     0,
     1,
     -EPROTO,
     255},
    {"input_from_nexus_vmm", true, {1, 0, 0, 0, 1, 'x'}, 6, 0, 1, -EPROTO, 255},
    {"a_second_start", true, {8, 0, 0, 0, 0}, 5, 0, 1, -EPROTO, 255},
    {"an_unknown_frame", true, {77}, 1, 0, 1, -EPROTO, 255},
    {"a_frame_that_is_too_long", true, {2, 0xff, 0xff, 0xff, 0xff}, 5, 0, 1, -EPROTO, 255},
    {"bytes_behind_the_end_are_nobodys", true, {4, 0, 0, 0, 0, 2, 0, 0, 0, 1, 'x'}, 11, 1, 0, 0, 0},
};

static void whatever_comes_ends_in_one_word(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct world w;

        print_message("# %s\n", rows[i].name);
        set_up(&w);
        if (rows[i].start)
            say(&w, "\x08\0\0\0\0", 5);
        for (size_t k = 0; k < rows[i].len && w.exits + w.failures == 0; k++) { /* byte by byte */
            say(&w, &rows[i].in[k], 1);
            turns(&w);
        }
        assert_int_equal(w.started, rows[i].start);
        assert_int_equal(w.exits, rows[i].exits);
        assert_int_equal(w.failures, rows[i].failures);
        assert_int_equal(w.code, rows[i].code);
        if (rows[i].r)
            assert_int_equal(w.r, rows[i].r);
        w.peer = close_fd(w.peer);
        turns(&w);
        assert_int_equal(w.exits + w.failures, 1);
        tear_down(&w);
    }
}

static void a_reason_is_told_with_its_code(void **state)
{
    struct world w;
    struct buf b;
    Nexus__StreamError m = NEXUS__STREAM_ERROR__INIT;
    Nexus__Reply reply = NEXUS__REPLY__INIT;

    reply.error_class = (char[]){"not-found"};
    reply.code = ENOENT;
    reply.message = (char[]){"no such file"};
    m.reply = &reply;
    m.exit_code = 127;
    buf_init(&b, 4096);
    assert_int_equal(message_write(&b, TLV_ERROR, &m.base), 0);
    set_up(&w);
    say(&w, b.data, b.used);
    turns(&w);
    assert_int_equal(w.failures, 1);
    assert_int_equal(w.r, -ENOENT);
    assert_int_equal(w.code, 127);
    tear_down(&w);
    buf_done(&b);
}

static void a_lost_connection_is_a_failure(void **state)
{
    struct world w;

    set_up(&w);
    say(&w, "\x08\0\0\0\0\x02\0\0\0\1x", 11);
    w.peer = close_fd(w.peer);
    turns(&w);
    assert_int_equal(w.out_bytes, 1); /* what came before is not lost */
    assert_int_equal(w.failures, 1);
    assert_int_equal(w.r, -ECONNRESET);
    tear_down(&w);
}

static void output_that_is_refused_is_not_read_on(void **state)
{
    static uint8_t frame[5 + 4096] = {TLV_STDOUT, 0, 0, 0x10, 0};
    struct world w;
    size_t sent = 0;

    set_up(&w);
    w.refuse_after = 10 * 4096;
    say(&w, "\x08\0\0\0\0", 5);
    for (int idle = 0; idle < 3; idle++)
        for (;; idle = 0) {
            ssize_t n = send(w.peer, frame, sizeof(frame), MSG_NOSIGNAL);

            turns(&w);
            if (n != (ssize_t)sizeof(frame))
                break;
            sent += 4096;
            assert_true(sent < 8U << 20);
        }
    assert_int_equal(w.out_bytes, w.refuse_after);
    w.refuse_after = 0;
    back_resume(w.back);
    turns(&w);
    assert_true(w.out_bytes >= sent); /* and what of the last frame went out: not whole */
    tear_down(&w);
}

/* A hang-up is reported for ever: a held frame must not make the loop spin. */
static void a_hang_up_behind_a_held_frame_waits_with_it(void **state)
{
    struct world w;
    int n = 0;

    set_up(&w);
    w.refuse_after = 1;
    say(&w, "\x08\0\0\0\0\x02\0\0\0\1x\x02\0\0\0\1y\x04\0\0\0\0", 22);
    w.peer = close_fd(w.peer);
    while (sd_event_run(w.event, 0) > 0)
        assert_true(++n < 10);
    assert_int_equal(w.out_bytes, 1);
    w.refuse_after = 0;
    back_resume(w.back);
    turns(&w);
    assert_int_equal(w.out_bytes, 2);
    assert_int_equal(w.exits, 1);
    assert_int_equal(w.failures, 0);
    tear_down(&w);
}

static void input_stops_at_the_bound_and_goes_on(void **state)
{
    static uint8_t bytes[65536];
    struct world w;
    size_t given = 0, taken = 0;
    ssize_t n;

    set_up(&w);
    while (back_has_room(w.back)) {
        assert_int_equal(back_input(w.back, bytes, sizeof(bytes)), 0);
        given += sizeof(bytes);
        turns(&w);
        assert_true(given < 8U << 20);
    }
    assert_int_equal(w.rooms, 0);
    for (int idle = 0; idle < 3; idle++) {
        while ((n = recv(w.peer, bytes, sizeof(bytes), 0)) > 0) {
            taken += (size_t)n;
            idle = 0;
        }
        turns(&w);
    }
    assert_true(taken > given);
    assert_int_equal(w.rooms, 1);
    assert_true(back_has_room(w.back));
    tear_down(&w);
}

static void it_may_be_freed_from_within(void **state)
{
    struct world w;

    set_up(&w);
    w.free_in_output = true;
    say(&w, "\x08\0\0\0\0\x02\0\0\0\1x\x02\0\0\0\1y", 17);
    turns(&w);
    assert_null(w.back);
    assert_int_equal(w.failures + w.exits, 0);
    tear_down(&w);
}

static void no_socket_is_told(void **state)
{
    static const char *const names[] = {"none.sock", "../vm.sock", "", "a/b"};
    struct world w;

    set_up(&w);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        _cleanup_(error_freep) struct error *err = NULL;
        struct back *first = TAKE(w.back);

        assert_true(open_back(&w, names[i], &err) < 0);
        assert_non_null(err);
        assert_null(w.back);
        w.back = first;
    }
    tear_down(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_comes_ends_in_one_word),
        cmocka_unit_test(a_reason_is_told_with_its_code),
        cmocka_unit_test(a_lost_connection_is_a_failure),
        cmocka_unit_test(output_that_is_refused_is_not_read_on),
        cmocka_unit_test(a_hang_up_behind_a_held_frame_waits_with_it),
        cmocka_unit_test(input_stops_at_the_bound_and_goes_on),
        cmocka_unit_test(it_may_be_freed_from_within),
        cmocka_unit_test(no_socket_is_told),
    };
    return cmocka_run_group_tests_name("back", tests, NULL, NULL) != 0;
}
