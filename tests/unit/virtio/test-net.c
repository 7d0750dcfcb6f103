/* SPDX-License-Identifier: Apache-2.0 */
/* The network device over a pair of datagram sockets in place of the TAP: each datagram is a virtio
 * header and a frame. What only a TAP does (offloads) is covered where there is one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/le.h"
#include "lib/guest.h"
#include "lib/test.h"
#include "virtio/net.h"

#define RX 0
#define TX 1
#define HDR 12
#define SIZE 64U
#define MRG (1ULL << 15)
#define VERSION_1 (1ULL << 32)
#define EVENT_IDX (1ULL << 29)

struct fixture {
    struct guest g;
    int sv[2]; /* 0: the wire, 1: the device's */
    uint64_t buf[SIZE];
    uint8_t frame[70000];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    int bytes = 1 << 20;

    guest_init(&f->g);
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, f->sv), 0);
    for (int i = 0; i < 2; i++)
        (void)setsockopt(f->sv[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    guest_done(&f->g);
    (void)close(f->sv[0]);
    (void)close(f->sv[1]);
    free(f);
    return 0;
}

static void start(struct fixture *f, uint64_t features, uint16_t mtu)
{
    struct virtio_net_config cfg = {
        .tap_fd = f->sv[1], .mac = {0x02, 0, 0, 0xaa, 0xbb, 0xcc}, .mtu = mtu};
    struct virtio_device *dev;

    assert_int_equal(virtio_net_new(f->g.loop, &cfg, &dev), 0);
    assert_true(guest_start(&f->g, dev, features, SIZE));
}

static void give(struct fixture *f, unsigned n, uint32_t bytes)
{
    for (unsigned i = 0; i < n; i++) {
        uint16_t at = f->g.q[RX].desc_next;
        struct guest_buf b = {guest_alloc(&f->g, bytes), bytes, true};

        f->buf[at] = b.gpa;
        (void)guest_add(&f->g, RX, &b, 1);
    }
    guest_kick(&f->g, RX);
    guest_run(&f->g);
}

static void wire_send(struct fixture *f, uint32_t frame_bytes, uint8_t seed)
{
    memset(f->frame, 0, HDR);
    for (uint32_t i = 0; i < frame_bytes; i++)
        f->frame[HDR + i] = (uint8_t)(seed + i * 13);
    assert_int_equal(send(f->sv[0], f->frame, HDR + frame_bytes, 0), HDR + frame_bytes);
}

/* The next frame the guest got, checked against wire_send(); its buffers, 0: none. */
static unsigned guest_frame(struct fixture *f, uint32_t frame_bytes, uint8_t seed)
{
    uint32_t head, len, at = 0, total = HDR + frame_bytes;
    unsigned buffers = 0, said = 0;

    while (at < total) {
        const uint8_t *p;

        if (!guest_used(&f->g, RX, &head, &len))
            return 0;
        p = guest_ptr(&f->g, f->buf[head], len ? len : 1);
        buffers++;
        for (uint32_t i = 0; i < len; i++, at++) {
            if (at == 10 || at == 11)
                said |= (unsigned)p[i] << (at == 11 ? 8 : 0);
            if (at >= HDR)
                assert_int_equal(p[i], (uint8_t)(seed + (at - HDR) * 13));
        }
    }
    assert_int_equal(at, total);
    assert_int_equal(said, buffers);
    return buffers;
}

static void guest_learns_address_and_mtu(void **state)
{
    struct fixture *f = *state;

    start(f, GUEST_FEATURES_ALL, 1450);
    assert_int_equal(guest_read(&f->g, 0x008), 1);
    assert_int_equal(guest_config8(&f->g, 0), 0x02);
    assert_int_equal(guest_config8(&f->g, 5), 0xcc);
    assert_int_equal(guest_config8(&f->g, 10) | guest_config8(&f->g, 11) << 8, 1450);
    assert_true(f->g.features & MRG);
    assert_false(f->g.features & 1); /* no TAP: no checksum offload */
}

static void silly_mtu_is_refused(void **state)
{
    struct fixture *f = *state;
    struct virtio_net_config cfg = {.tap_fd = f->sv[1], .mtu = 67};
    struct virtio_device *dev;

    assert_int_equal(virtio_net_new(f->g.loop, &cfg, &dev), -EINVAL);
}

static const struct {
    const char *name;
    uint64_t features;
    uint16_t mtu;
    uint32_t buffer, frame;
    unsigned buffers;
} receives[] = {
    {"small_frame", MRG, 1500, 2048, 60, 1},
    {"exactly_one_buffer", MRG, 1500, 1024, 1024 - HDR, 1},
    {"one_byte_more", MRG, 1500, 1024, 1024 - HDR + 1, 2},
    {"header_over_two_buffers", MRG, 100, 7, 60, 11},
    {"whole_mtu_with_vlan", MRG, 1500, 512, 1518, 3},
    {"largest_segment", MRG, 0, 2048, 65550, 33},
    {"not_mergeable", 0, 1500, 2048, 1514, 1},
    {"not_mergeable_small", 0, 1500, 2048, 1, 1},
};

static void frames_reach_the_guest_whole(void **state)
{
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(receives); i++) {
        print_message("# %s\n", receives[i].name);
        virtio_mmio_detach(f->g.w);
        guest_wipe(&f->g);
        start(f, VERSION_1 | EVENT_IDX | receives[i].features, receives[i].mtu);
        give(f, SIZE, receives[i].buffer);
        wire_send(f, receives[i].frame, (uint8_t)i);
        guest_run(&f->g);
        assert_int_equal(guest_frame(f, receives[i].frame, (uint8_t)i), receives[i].buffers);
        assert_false(guest_needs_reset(&f->g));
    }
}

static void many_frames_need_one_interrupt(void **state)
{
    struct fixture *f = *state;

    start(f, GUEST_FEATURES_ALL, 1500);
    give(f, SIZE, 2048);
    guest_set_used_event(&f->g, RX, 0);
    for (uint8_t i = 0; i < 8; i++)
        wire_send(f, 100U + i, i);
    guest_run(&f->g);
    assert_int_equal(guest_interrupts(&f->g), 1);
    for (uint8_t i = 0; i < 8; i++)
        assert_int_equal(guest_frame(f, 100U + i, i), 1);
}

static void too_few_buffers_wait_without_spinning(void **state)
{
    struct fixture *f = *state;
    uint16_t from;

    start(f, GUEST_FEATURES_ALL, 1500);
    give(f, 2, 512); /* a frame may need three */
    wire_send(f, 60, 1);
    (void)guest_run(&f->g);
    assert_int_equal(guest_run(&f->g), 0); /* the TAP has a frame and nobody looks */
    assert_int_equal(guest_frame(f, 60, 1), 0);
    from = f->g.q[RX].avail_idx;
    give(f, 1, 512);
    assert_false(guest_wants_kick(&f->g, RX, from)); /* it was kicked and is satisfied */
    give(f, 1, 512);
    assert_int_equal(guest_frame(f, 60, 1), 1);
}

static void all_buffers_used_up_and_given_again(void **state)
{
    struct fixture *f = *state;
    unsigned got = 0, sent = 0;

    start(f, GUEST_FEATURES_ALL, 1500);
    while (got < 500) {
        unsigned free_slots = SIZE - (uint16_t)(f->g.q[RX].avail_idx - f->g.q[RX].used_seen);

        give(f, free_slots < 16 ? free_slots : 16, 2048);
        while (sent < 500 && sent - got < 8)
            wire_send(f, 200, (uint8_t)sent++);
        guest_run(&f->g);
        while (guest_frame(f, 200, (uint8_t)got))
            got++;
    }
    assert_int_equal(got, 500);
    assert_false(guest_needs_reset(&f->g));
}

static const struct {
    const char *name;
    struct guest_buf b[3];
    unsigned n;
} bad_rx[] = {
    {"readable_receive_buffer", {{0, 2048, false}}, 1},
    {"empty_receive_buffer", {{0, 0, true}}, 1},
    {"readable_before_writable", {{0, 12, false}, {64, 2048, true}}, 2},
};

static void receive_buffers_without_room_stop_the_device(void **state)
{
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(bad_rx); i++) {
        struct guest_buf b[3];
        uint64_t at;

        print_message("# %s\n", bad_rx[i].name);
        virtio_mmio_detach(f->g.w);
        guest_wipe(&f->g);
        start(f, GUEST_FEATURES_ALL, 1500);
        at = guest_alloc(&f->g, 4096);
        memcpy(b, bad_rx[i].b, sizeof(b));
        for (unsigned k = 0; k < bad_rx[i].n; k++)
            b[k].gpa += at;
        (void)guest_add(&f->g, RX, b, bad_rx[i].n);
        guest_kick(&f->g, RX);
        guest_run(&f->g);
        assert_true(guest_needs_reset(&f->g));
    }
}

static void frame_larger_than_the_buffer_is_cut_or_lost_and_no_more(void **state)
{
    struct fixture *f = *state;
    uint32_t head, len;

    start(f, VERSION_1, 1500);
    give(f, 4, 256);
    wire_send(f, 1000, 1);
    guest_run(&f->g);
    if (guest_used(&f->g, RX, &head, &len))
        assert_true(len <= 256);
    wire_send(f, 100, 2);
    guest_run(&f->g);
    assert_int_equal(guest_frame(f, 100, 2), 1);
}

static const struct {
    const char *name;
    struct guest_buf b[3];
    unsigned n;
    ssize_t got; /* 0: nothing on the wire */
} sends[] = {
    {"header_and_frame", {{0, HDR, false}, {64, 60, false}}, 2, HDR + 60},
    {"one_piece", {{0, HDR + 100, false}}, 1, HDR + 100},
    {"header_in_two_pieces", {{0, 5, false}, {5, 7, false}, {64, 60, false}}, 3, HDR + 60},
    {"header_alone", {{0, HDR, false}}, 1, 0},
    {"short_header", {{0, HDR - 1, false}}, 1, 0},
    {"nothing", {{0, 0, false}}, 1, 0},
    {"writable", {{0, 100, true}}, 1, 0},
    {"writable_tail_is_not_sent", {{0, HDR + 10, false}, {64, 100, true}}, 2, HDR + 10},
    {"largest", {{0, HDR, false}, {64, 65550, false}}, 2, HDR + 65550},
};

static void frames_reach_the_wire_whole(void **state)
{
    struct fixture *f = *state;
    uint64_t at;

    start(f, GUEST_FEATURES_ALL, 1500);
    at = guest_alloc(&f->g, 70000);
    for (uint32_t i = 0; i < 70000; i++)
        *(uint8_t *)guest_ptr(&f->g, at + i, 1) = (uint8_t)(i * 3);
    for (size_t i = 0; i < ARRAY_SIZE(sends); i++) {
        struct guest_buf b[3];
        uint32_t head, len;
        ssize_t n;

        print_message("# %s\n", sends[i].name);
        memcpy(b, sends[i].b, sizeof(b));
        for (unsigned k = 0; k < sends[i].n; k++)
            b[k].gpa += at;
        (void)guest_add(&f->g, TX, b, sends[i].n);
        guest_kick(&f->g, TX);
        guest_run(&f->g);
        assert_true(guest_used(&f->g, TX, &head, &len));
        assert_int_equal(len, 0);
        n = recv(f->sv[0], f->frame, sizeof(f->frame), 0);
        assert_int_equal(n < 0 ? 0 : n, sends[i].got);
        if (sends[i].got > HDR && sends[i].n == 2)
            assert_int_equal(f->frame[HDR],
                             b[0].len > HDR ? (uint8_t)(HDR * 3) : (uint8_t)(64 * 3));
    }
    assert_false(guest_needs_reset(&f->g));
}

static void frame_over_the_limit_stops_the_device(void **state)
{
    struct fixture *f = *state;
    struct guest_buf b;

    start(f, GUEST_FEATURES_ALL, 1500);
    b = (struct guest_buf){guest_alloc(&f->g, 70000), 70000, false};
    (void)guest_add(&f->g, TX, &b, 1);
    guest_kick(&f->g, TX);
    guest_run(&f->g);
    assert_true(guest_needs_reset(&f->g));
}

static void reset_with_frames_waiting_and_again(void **state)
{
    struct fixture *f = *state;

    start(f, GUEST_FEATURES_ALL, 1500);
    for (int i = 0; i < 1000; i++) {
        if (i % 100 == 0)
            wire_send(f, 100, 9);
        guest_reset(&f->g);
        (void)guest_run(&f->g);
        guest_wipe(&f->g);
        assert_true(guest_negotiate(&f->g, GUEST_FEATURES_ALL));
        assert_true(guest_setup_queue(&f->g, RX, SIZE));
        assert_true(guest_setup_queue(&f->g, TX, SIZE));
        assert_true(guest_driver_ok(&f->g));
        if (i % 3 == 0)
            give(f, 4, 2048);
    }
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(guest_learns_address_and_mtu),
        T(silly_mtu_is_refused),
        T(frames_reach_the_guest_whole),
        T(many_frames_need_one_interrupt),
        T(too_few_buffers_wait_without_spinning),
        T(all_buffers_used_up_and_given_again),
        T(receive_buffers_without_room_stop_the_device),
        T(frame_larger_than_the_buffer_is_cut_or_lost_and_no_more),
        T(frames_reach_the_wire_whole),
        T(frame_over_the_limit_stops_the_device),
        T(reset_with_frames_waiting_and_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
