/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio-fs device against a back end that is this test: what it is told, what a guest gets when it
 * is gone, and what becomes of one that does not keep to the protocol. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/fdpass.h"
#include "base/le.h"
#include "lib/guest.h"
#include "lib/test.h"
#include "virtio/fs.h"
#include "virtio/vhost-user.h"

#define FEATURES (1ULL << 32 | 1ULL << 29 | 1ULL << 28 | 1ULL << 30)

struct world {
    struct guest g;
    int back; /* the back end's socket */
    struct virtio_device *dev;
    int ready; /* 1: not told */
    int fds[16];
    size_t n_fds;
    uint8_t bytes[4096];
};

static void on_ready(void *userdata, int r)
{
    struct world *w = userdata;

    assert_int_equal(w->ready, 1); /* once */
    w->ready = r;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct virtio_fs_config cfg = {.tag = "nexus", .ready = on_ready, .userdata = w};
    int pair[2];

    guest_init(&w->g);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    w->back = pair[1];
    w->ready = 1;
    cfg.fd = pair[0];
    cfg.mem = w->g.mem;
    assert_int_equal(virtio_fs_new(w->g.loop, &cfg, &w->dev), 0);
    *state = w;
    return 0;
}

static void drop_fds(struct world *w)
{
    while (w->n_fds)
        (void)close_fd(w->fds[--w->n_fds]);
}

static int teardown(void **state)
{
    struct world *w = *state;

    drop_fds(w);
    (void)close_fd(w->back);
    virtio_device_free(w->dev);
    guest_done(&w->g);
    free(w);
    return 0;
}

/* All that the front end has said; its descriptors are kept. */
static size_t hear(struct world *w)
{
    size_t got = 0;

    for (;;) {
        int fds[8];
        size_t n_fds = 0;
        ssize_t n;
        (void)fd_set_nonblock(w->back, 1);
        n = fdpass_recv(w->back, w->bytes + got, sizeof(w->bytes) - got, fds, 8, &n_fds);
        if (n <= 0)
            return got;
        got += (size_t)n;
        memcpy(w->fds + w->n_fds, fds, n_fds * sizeof(int));
        w->n_fds += n_fds;
    }
}

static void say(struct world *w, uint32_t request, uint64_t value)
{
    uint8_t b[20];

    le32_store(b, request);
    le32_store(b + 4, 5);
    le32_store(b + 8, 8);
    le64_store(b + 12, value);
    assert_int_equal(send(w->back, b, sizeof(b), MSG_NOSIGNAL), sizeof(b));
    guest_run(&w->g);
}

static void greet(struct world *w)
{
    assert_int_equal(hear(w), 12);
    say(w, VHOST_USER_GET_FEATURES, FEATURES);
    assert_int_equal(w->ready, 0);
    assert_int_equal(hear(w), 12); /* SET_OWNER */
}

static void start(struct world *w)
{
    greet(w);
    assert_true(guest_start(&w->g, TAKE(w->dev), GUEST_FEATURES_ALL, 64));
    guest_run(&w->g);
}

static const uint8_t *nth(struct world *w, size_t n)
{
    const uint8_t *p = w->bytes;

    while (n--)
        p += 12 + le32_load(p + 8);
    return p;
}

static void back_end_is_told_all_of_the_device(void **state)
{
    static const uint32_t want[] = {2, 5, 8, 10, 9, 13, 12, 8, 10, 9, 13, 12};
    struct world *w = *state;
    struct guest *g = &w->g;

    start(w);
    assert_int_equal(guest_read(g, 0x008), 26);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(guest_config8(g, i), "nexus"[i]);
    assert_int_equal(guest_config8(g, 5), 0);
    assert_int_equal(guest_config8(g, 36), 1);
    (void)hear(w);
    for (size_t i = 0; i < ARRAY_SIZE(want); i++)
        assert_int_equal(le32_load(nth(w, i)), want[i]);
    /* the guest's memory, and an eventfd for calls and one for kicks of each queue */
    assert_int_equal(w->n_fds, 5);
    assert_int_equal(le64_load(nth(w, 0) + 12) & ~FEATURES, 0);
    assert_int_equal(le64_load(nth(w, 4) + 20), g->q[0].desc);
    assert_int_equal(le64_load(nth(w, 9) + 20), g->q[1].desc);
    assert_int_equal(le64_load(nth(w, 9) + 28), g->q[1].used);
    assert_int_equal(le64_load(nth(w, 9) + 36), g->q[1].avail);
}

static void kicks_go_there_and_calls_come_from_there(void **state)
{
    struct world *w = *state;
    struct guest *g = &w->g;
    uint64_t n = 0, one = 1;
    struct guest_buf b = {0, 64, true};

    start(w);
    (void)hear(w);
    (void)guest_interrupts(g);
    b.gpa = guest_alloc(g, 64);
    (void)guest_add(g, 1, &b, 1);
    guest_kick(g, 1);
    guest_run(g);
    assert_int_equal(read(w->fds[4], &n, sizeof(n)), sizeof(n)); /* nobody here has taken it */
    assert_int_equal(n, 1);
    assert_int_equal(write(w->fds[3], &one, sizeof(one)), sizeof(one));
    guest_run(g);
    assert_int_equal(guest_interrupts(g), 1);
    assert_int_equal(guest_take_interrupt(g), 1);
}

static uint32_t ask(struct world *w, struct guest_buf b[2], uint64_t unique)
{
    uint8_t *in;

    b[0] = (struct guest_buf){guest_alloc(&w->g, 64), 40, false};
    b[1] = (struct guest_buf){guest_alloc(&w->g, 4096), 4096, true};
    in = guest_ptr(&w->g, b[0].gpa, 40);
    le32_store(in, 40);
    le64_store(in + 8, unique);
    return guest_add(&w->g, 1, b, 2);
}

static void refused(struct world *w, const struct guest_buf *b, uint32_t want_head, uint64_t unique)
{
    uint32_t head = 0, len = 0;
    const uint8_t *out = guest_ptr(&w->g, b[1].gpa, 16);

    assert_true(guest_used(&w->g, 1, &head, &len));
    assert_int_equal(head, want_head);
    assert_int_equal(len, 16);
    assert_int_equal(le32_load(out), 16);
    assert_int_equal((int32_t)le32_load(out + 4), -EIO);
    assert_int_equal(le64_load(out + 8), unique);
}

static void guest_of_a_lost_back_end_gets_errors(void **state)
{
    struct world *w = *state;
    struct guest *g = &w->g;
    struct guest_buf b[4][2], forget = {0, 40, false};
    uint32_t heads[4], head = 0, len = 1;
    uint8_t *used;

    start(w);
    for (unsigned i = 0; i < 3; i++)
        heads[i] = ask(w, b[i], 100 + i);
    guest_kick(g, 1);
    /* the back end has answered the first of three */
    used = guest_ptr(g, g->q[1].used, 4 + 8);
    le32_store(used + 4, heads[0]);
    le32_store(used + 8, 77);
    le16_store(used + 2, 1);
    w->back = close_fd(w->back);
    guest_run(g);
    assert_true(guest_used(g, 1, &head, &len));
    assert_int_equal(len, 77);
    refused(w, b[1], heads[1], 101);
    refused(w, b[2], heads[2], 102);
    assert_true(guest_interrupts(g) > 0);
    (void)guest_take_interrupt(g);
    /* and so does what it asks later */
    heads[3] = ask(w, b[3], 103);
    guest_kick(g, 1);
    guest_run(g);
    refused(w, b[3], heads[3], 103);
    forget.gpa = guest_alloc(g, 64);
    (void)guest_add(g, 0, &forget, 1);
    guest_kick(g, 0);
    guest_run(g);
    assert_true(guest_used(g, 0, &head, &len));
    assert_int_equal(len, 0);
    assert_false(guest_needs_reset(g));
    /* also after its driver came anew */
    guest_reset(g);
    assert_true(guest_negotiate(g, GUEST_FEATURES_ALL));
    assert_true(guest_setup_queue(g, 0, 64) && guest_setup_queue(g, 1, 64));
    assert_true(guest_driver_ok(g));
    heads[0] = ask(w, b[0], 104);
    guest_kick(g, 1);
    guest_run(g);
    refused(w, b[0], heads[0], 104);
}

static void driver_comes_again_when_the_queues_are_given_back(void **state)
{
    struct world *w = *state;
    struct guest *g = &w->g;

    start(w);
    (void)hear(w);
    drop_fds(w);
    guest_reset(g);
    assert_int_equal(hear(w), 40);
    assert_int_equal(le32_load(nth(w, 0)), VHOST_USER_GET_VRING_BASE);
    assert_true(guest_negotiate(g, GUEST_FEATURES_ALL));
    assert_true(guest_setup_queue(g, 0, 64) && guest_setup_queue(g, 1, 64));
    assert_true(guest_driver_ok(g));
    guest_run(g);
    say(w, VHOST_USER_GET_VRING_BASE, 0);
    assert_int_equal(hear(w), 0); /* it still has the other one */
    say(w, VHOST_USER_GET_VRING_BASE, 1);
    assert_true(hear(w) > 100);
    assert_int_equal(w->n_fds, 5);
}

static const struct {
    const char *name;
    const char *bytes;
    size_t n;
    int want;
} hellos[] = {
    {"end", "", 0, -ECONNRESET},
    {"noise", "GET / HTTP/1.1\r\n\r\n", 18, -EPROTO},
    {"old_device", "\1\0\0\0\5\0\0\0\10\0\0\0\0\0\0\0\0\0\0\0", 20, -EOPNOTSUPP},
    {"no_question", "\13\0\0\0\5\0\0\0\10\0\0\0\0\0\0\0\0\0\0\0", 20, -EPROTO},
    {"half_an_answer_and_the_end", "\1\0\0\0\5\0\0\0", 8, -ECONNRESET},
};

static void bad_hello_is_told(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(hellos); i++) {
        struct world *w;
        void *s;

        print_message("# %s\n", hellos[i].name);
        assert_int_equal(setup(&s), 0);
        w = s;
        if (hellos[i].n)
            assert_int_equal(send(w->back, hellos[i].bytes, hellos[i].n, MSG_NOSIGNAL),
                             hellos[i].n);
        (void)shutdown(w->back, SHUT_WR);
        guest_run(&w->g);
        assert_int_equal(w->ready, hellos[i].want);
        assert_int_equal(teardown(&s), 0);
    }
}

static void answers_to_no_question_lose_the_back_end(void **state)
{
    struct world *w = *state;
    struct guest_buf b[2];
    uint32_t head;

    start(w);
    say(w, VHOST_USER_GET_VRING_BASE, 0);
    head = ask(w, b, 9);
    guest_kick(&w->g, 1);
    guest_run(&w->g);
    refused(w, b, head, 9);
}

static void tag_has_to_fit(void **state)
{
    struct world *w = *state;
    struct virtio_fs_config cfg = {.fd = -1, .mem = w->g.mem, .tag = "", .ready = on_ready};
    struct virtio_device *dev;

    assert_int_equal(virtio_fs_new(w->g.loop, &cfg, &dev), -EINVAL);
    cfg.tag = "1234567890123456789012345678901234567";
    assert_int_equal(virtio_fs_new(w->g.loop, &cfg, &dev), -EINVAL);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(back_end_is_told_all_of_the_device),
        TEST(kicks_go_there_and_calls_come_from_there),
        TEST(guest_of_a_lost_back_end_gets_errors),
        TEST(driver_comes_again_when_the_queues_are_given_back),
        cmocka_unit_test(bad_hello_is_told),
        TEST(answers_to_no_question_lose_the_back_end),
        TEST(tag_has_to_fit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
