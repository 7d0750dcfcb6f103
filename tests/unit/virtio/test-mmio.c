/* SPDX-License-Identifier: Apache-2.0 */
/* The register window: state machine, frozen geometry, widths, and the hand-over to the loop. */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"
#include "lib/guest.h"
#include "lib/test.h"
#include "virtio/device-impl.h"

/* A device of the test: two queues, counts what it is told, copies nothing. */
struct toy {
    struct virtio_device dev;
    unsigned activations, resets, kicks[2];
    int activate_result;
    bool serve; /* give chains back */
    bool *freed;
};

static int toy_activate(struct virtio_device *dev)
{
    struct toy *t = container_of(dev, struct toy, dev);

    t->activations++;
    return t->activate_result;
}

static void toy_reset(struct virtio_device *dev)
{
    container_of(dev, struct toy, dev)->resets++;
}

static int toy_serve(struct virtio_device *dev, const struct vq_chain *c, const char **ret_fault)
{
    return (int)c->in_bytes;
}

static void toy_kick(struct virtio_device *dev, unsigned q)
{
    struct toy *t = container_of(dev, struct toy, dev);

    t->kicks[q]++;
    if (t->serve)
        virtio_queue_serve(dev, q, toy_serve);
}

static void toy_free(struct virtio_device *dev)
{
    struct toy *t = container_of(dev, struct toy, dev);

    if (t->freed)
        *t->freed = true;
    free(t);
}

#define TOY_QUEUE 64
static const struct virtio_ops toy_ops = {
    .name = "toy",
    .device_id = 42,
    .queues = 2,
    .queue_size = TOY_QUEUE,
    .bytes_max = 65536,
    .activate = toy_activate,
    .reset = toy_reset,
    .kick = toy_kick,
    .free = toy_free,
};
#define TOY_FEATURE 5
#define OFFERED (VIRTIO_FEATURE(32) | VIRTIO_FEATURE(29) | VIRTIO_FEATURE(TOY_FEATURE))

struct fixture {
    struct guest g;
    struct toy *toy; /* the window's */
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    guest_init(&f->g);
    f->toy = calloc(1, sizeof(*f->toy));
    f->toy->serve = true;
    virtio_device_init(&f->toy->dev, &toy_ops, VIRTIO_FEATURE(TOY_FEATURE), 12);
    for (uint8_t i = 0; i < 12; i++)
        f->toy->dev.config[i] = (uint8_t)(0xa0 + i);
    guest_attach(&f->g, &f->toy->dev);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    guest_done(&f->g);
    free(f);
    return 0;
}

static void ready(struct fixture *f)
{
    assert_true(guest_negotiate(&f->g, GUEST_FEATURES_ALL));
    assert_true(guest_setup_queue(&f->g, 0, 8));
    assert_true(guest_setup_queue(&f->g, 1, 8));
}

static void running(struct fixture *f)
{
    ready(f);
    assert_true(guest_driver_ok(&f->g));
}

static uint64_t rejected(struct fixture *f)
{
    struct virtio_counters c;

    virtio_mmio_counters(f->g.w, &c);
    return c.rejected;
}

static void identity_is_virtio_mmio_2(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(guest_read(&f->g, 0x000), 0x74726976);
    assert_int_equal(guest_read(&f->g, 0x004), 2);
    assert_int_equal(guest_read(&f->g, 0x008), 42);
    assert_int_equal(guest_read(&f->g, 0x0b0), UINT32_MAX); /* no shared memory region */
    assert_int_equal(guest_read(&f->g, 0x0b4), UINT32_MAX);
}

static void an_empty_window_is_a_placeholder(void **state)
{
    struct guest g;

    guest_init(&g);
    assert_int_equal(guest_read(&g, 0x000), 0x74726976);
    assert_int_equal(guest_read(&g, 0x004), 2);
    assert_int_equal(guest_read(&g, 0x008), 0);
    guest_write(&g, 0x070, 1);
    guest_write(&g, 0x050, 0);
    assert_int_equal(guest_read(&g, 0x070), 0);
    assert_int_equal(virtio_mmio_queue_count(g.w), 0);
    assert_int_equal(virtio_mmio_kick_fd(g.w, 0), -EINVAL);
    guest_done(&g);
}

/* Every status value from every state: only the next step, FAILED and 0 are taken. */
static void status_takes_one_step_at_a_time(void **state)
{
    struct fixture *f = *state;
    static const uint32_t path[] = {0, 1, 3, 11, 15};

    for (size_t s = 0; s < ARRAY_SIZE(path); s++) {
        for (uint32_t v = 1; v < 256; v++) {
            uint32_t now, want;

            guest_wipe(&f->g);
            guest_reset(&f->g);
            if (path[s] >= 1)
                guest_write(&f->g, 0x70, 1);
            if (path[s] >= 3)
                guest_write(&f->g, 0x70, 3);
            if (path[s] >= 11) {
                guest_write(&f->g, 0x24, 1);
                guest_write(&f->g, 0x20, 1);
                guest_write(&f->g, 0x70, 11);
            }
            if (path[s] >= 15)
                guest_write(&f->g, 0x70, 15);
            assert_int_equal(guest_read(&f->g, 0x70), path[s]);
            guest_write(&f->g, 0x70, v);
            now = guest_read(&f->g, 0x70);
            want = path[s];
            if ((v & ~64U) == 0)
                want = 0;
            else if (v & 128 && !(v & 0x30))
                want = path[s] | 128;
            else if (s + 1 < ARRAY_SIZE(path) && (v & ~64U) == path[s + 1] && path[s + 1] != 11)
                want = path[s + 1]; /* FEATURES_OK: not without VERSION_1 */
            assert_int_equal(now, want);
        }
    }
}

/* A driver that lets go resets the device and acknowledges it again (Linux: virtio_dev_remove). */
static void a_device_that_was_let_go_is_not_driven(void **state)
{
    struct fixture *f = *state;

    guest_reset(&f->g);
    assert_false(virtio_mmio_is_driven(f->g.w));
    guest_write(&f->g, 0x70, 1);
    assert_false(virtio_mmio_is_driven(f->g.w));
    guest_write(&f->g, 0x70, 3);
    assert_true(virtio_mmio_is_driven(f->g.w));
    assert_false(virtio_mmio_was_driven(f->g.w));
    guest_wipe(&f->g);
    guest_reset(&f->g);
    running(f);
    assert_true(virtio_mmio_is_driven(f->g.w));
    guest_reset(&f->g);
    guest_write(&f->g, 0x70, 1);
    assert_false(virtio_mmio_is_driven(f->g.w));
    assert_true(virtio_mmio_was_driven(f->g.w));
}

static void failed_leaves_only_by_reset(void **state)
{
    struct fixture *f = *state;

    guest_write(&f->g, 0x70, 1);
    guest_write(&f->g, 0x70, 128);
    guest_write(&f->g, 0x70, 3);
    guest_write(&f->g, 0x70, 131);
    assert_int_equal(guest_read(&f->g, 0x70), 129);
    guest_reset(&f->g);
    assert_int_equal(guest_read(&f->g, 0x70), 0);
}

static const struct {
    const char *name;
    uint64_t write;
    bool ok;
} features[] = {
    {"version_1_alone", VIRTIO_FEATURE(32), true},
    {"everything_offered", OFFERED, true},
    {"nothing", 0, false},
    {"without_version_1", OFFERED & ~VIRTIO_FEATURE(32), false},
    {"one_not_offered", OFFERED | VIRTIO_FEATURE(6), false},
    {"ring_packed_not_offered", OFFERED | VIRTIO_FEATURE(34), false},
    {"all_ones", UINT64_MAX, false},
};

static void features_must_have_been_offered(void **state)
{
    struct fixture *f = *state;

    guest_write(&f->g, 0x14, 0);
    assert_int_equal(guest_read(&f->g, 0x10), (uint32_t)OFFERED);
    guest_write(&f->g, 0x14, 1);
    assert_int_equal(guest_read(&f->g, 0x10), (uint32_t)(OFFERED >> 32));
    guest_write(&f->g, 0x14, 2);
    assert_int_equal(guest_read(&f->g, 0x10), 0);
    guest_write(&f->g, 0x14, UINT32_MAX);
    assert_int_equal(guest_read(&f->g, 0x10), 0);
    for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
        print_message("# %s\n", features[i].name);
        guest_reset(&f->g);
        guest_write(&f->g, 0x70, 1);
        guest_write(&f->g, 0x20, 1); /* too early: ignored */
        guest_write(&f->g, 0x70, 3);
        for (uint32_t k = 0; k < 2; k++) {
            guest_write(&f->g, 0x24, k);
            guest_write(&f->g, 0x20, (uint32_t)(features[i].write >> (32 * k)));
        }
        guest_write(&f->g, 0x24, UINT32_MAX);
        guest_write(&f->g, 0x20, UINT32_MAX); /* features 64 and up: not there */
        guest_write(&f->g, 0x70, 11);
        assert_int_equal(guest_read(&f->g, 0x70), features[i].ok ? 11 : 3);
    }
}

static void features_are_frozen_by_features_ok(void **state)
{
    struct fixture *f = *state;

    assert_true(guest_negotiate(&f->g, VIRTIO_FEATURE(32)));
    guest_write(&f->g, 0x24, 0);
    guest_write(&f->g, 0x20, 1U << TOY_FEATURE);
    assert_true(guest_driver_ok(&f->g));
    assert_int_equal(f->toy->dev.features, VIRTIO_FEATURE(32));
}

static void queue_registers_of_no_queue_do_nothing(void **state)
{
    struct fixture *f = *state;
    static const uint32_t sel[] = {2, 3, 64, 0x80000000, UINT32_MAX};

    ready(f);
    for (size_t i = 0; i < ARRAY_SIZE(sel); i++) {
        guest_write(&f->g, 0x30, sel[i]);
        for (uint64_t off = 0x38; off < 0xb0; off += 4) {
            if (off != 0x70)
                guest_write(&f->g, off, 4);
        }
        assert_int_equal(guest_read(&f->g, 0x34), 0);
        assert_int_equal(guest_read(&f->g, 0x44), 0);
    }
    assert_true(guest_driver_ok(&f->g));
}

static void queue_size_must_fit(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint32_t num;
        bool ok;
    } rows[] = {{0, false},       {1, true},      {2, true},          {3, false},
                {64, true},       {65, false},    {128, false},       {0x10000, false},
                {0x10008, false}, {65535, false}, {UINT32_MAX, false}};

    assert_true(guest_negotiate(&f->g, GUEST_FEATURES_ALL));
    guest_write(&f->g, 0x30, 1);
    assert_int_equal(guest_read(&f->g, 0x34), TOY_QUEUE);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        uint64_t before = rejected(f);
        guest_write(&f->g, 0x38, rows[i].num);
        assert_int_equal(rejected(f) - before, rows[i].ok ? 0 : 1);
    }
}

static void queue_is_ready_only_with_valid_rings(void **state)
{
    struct fixture *f = *state;
    uint64_t hole = 0xd0000000;

    assert_true(guest_negotiate(&f->g, GUEST_FEATURES_ALL));
    assert_true(guest_setup_queue(&f->g, 0, 8));
    guest_write(&f->g, 0x44, 0);
    assert_int_equal(guest_read(&f->g, 0x44), 0);
    guest_write(&f->g, 0x90, (uint32_t)hole);
    guest_write(&f->g, 0x44, 1);
    assert_int_equal(guest_read(&f->g, 0x44), 0);
    assert_true(guest_setup_queue(&f->g, 0, 8)); /* repaired */
    guest_write(&f->g, 0x44, 2);                 /* neither 0 nor 1 */
    assert_int_equal(guest_read(&f->g, 0x44), 1);
    guest_write(&f->g, 0x90, (uint32_t)hole); /* ready: frozen */
    guest_write(&f->g, 0x38, 2);
    assert_true(guest_driver_ok(&f->g));
    assert_int_equal(f->toy->dev.vq[0].size, 8);
    assert_false(vq_is_started(&f->toy->dev.vq[1])); /* never made ready */
    assert_false(guest_needs_reset(&f->g));
}

static void deleting_a_queue_after_the_reset_is_no_offence(void **state)
{
    struct fixture *f = *state;
    uint64_t before;

    running(f);
    guest_reset(&f->g);
    before = rejected(f);
    for (uint32_t q = 0; q < 2; q++) {
        guest_write(&f->g, 0x30, q);
        guest_write(&f->g, 0x44, 0);
        assert_int_equal(guest_read(&f->g, 0x44), 0);
    }
    assert_int_equal(rejected(f), before);
}

static void queues_cannot_be_set_up_outside_of_their_phase(void **state)
{
    struct fixture *f = *state;

    guest_write(&f->g, 0x70, 1);
    guest_write(&f->g, 0x70, 3);
    assert_false(guest_setup_queue(&f->g, 0, 8));
}

/* The class of CVE-2026-5747: any queue register after DRIVER_OK. */
static void nothing_of_a_queue_changes_after_driver_ok(void **state)
{
    struct fixture *f = *state;
    struct vq before[2];
    struct guest_buf b;

    running(f);
    memcpy(before, f->toy->dev.vq, sizeof(before));
    for (uint32_t q = 0; q < 2; q++) {
        static const uint32_t values[] = {0, 1, 2, 4, 32, 0x10000, UINT32_MAX};
        guest_write(&f->g, 0x30, q);
        for (size_t v = 0; v < ARRAY_SIZE(values); v++) {
            for (uint64_t off = 0x38; off < 0xb0; off += 4) {
                if (off != 0x50 && off != 0x60 && off != 0x64 && off != 0x70)
                    guest_write(&f->g, off, values[v]);
            }
        }
        assert_int_equal(guest_read(&f->g, 0x44), 1);
    }
    assert_memory_equal(before, f->toy->dev.vq, sizeof(before));
    b = (struct guest_buf){guest_alloc(&f->g, 64), 64, true};
    (void)guest_add(&f->g, 1, &b, 1);
    guest_kick(&f->g, 1);
    guest_run(&f->g);
    assert_int_equal(guest_take_interrupt(&f->g), 1);
}

static void activation_kicks_every_ready_queue_once(void **state)
{
    struct fixture *f = *state;
    struct guest_buf b;
    uint32_t head, len;

    ready(f);
    b = (struct guest_buf){guest_alloc(&f->g, 64), 64, true};
    (void)guest_add(&f->g, 0, &b, 1); /* and its kick was lost */
    assert_true(guest_driver_ok(&f->g));
    assert_int_equal(f->toy->activations, 1);
    assert_int_equal(f->toy->kicks[0], 1);
    assert_int_equal(f->toy->kicks[1], 1);
    assert_true(guest_used(&f->g, 0, &head, &len));
}

static void failed_activation_needs_a_reset(void **state)
{
    struct fixture *f = *state;

    f->toy->activate_result = -EIO;
    ready(f);
    assert_false(guest_driver_ok(&f->g));
    assert_true(guest_needs_reset(&f->g));
    assert_int_equal(guest_take_interrupt(&f->g), 2);
    guest_run(&f->g);
    assert_int_equal(f->toy->resets, 1);
    f->toy->activate_result = 0;
    guest_wipe(&f->g);
    running(f);
    assert_int_equal(f->toy->resets, 1);
}

static void corrupt_ring_stops_the_device_until_reset(void **state)
{
    struct fixture *f = *state;
    struct virtio_counters c;
    unsigned kicks;

    running(f);
    guest_offer(&f->g, 0, 999);
    guest_kick(&f->g, 0);
    guest_run(&f->g);
    assert_true(guest_needs_reset(&f->g));
    assert_int_equal(guest_read(&f->g, 0x70), 15 | 64);
    assert_int_equal(f->toy->resets, 1);
    assert_int_equal(guest_interrupts(&f->g), 1);
    kicks = f->toy->kicks[0];
    guest_kick(&f->g, 0);
    guest_kick(&f->g, 1);
    guest_run(&f->g);
    assert_int_equal(f->toy->kicks[0], kicks);
    virtio_mmio_counters(f->g.w, &c);
    assert_int_equal(c.failures, 1);
    guest_wipe(&f->g);
    running(f);
    assert_int_equal(f->toy->activations, 2);
    assert_int_equal(f->toy->resets, 1); /* not once more for the reset that followed */
}

static void reset_forgets_everything_but_the_config(void **state)
{
    struct fixture *f = *state;

    running(f);
    guest_offer(&f->g, 0, 999);
    guest_kick(&f->g, 0);
    guest_run(&f->g);
    guest_reset(&f->g);
    assert_int_equal(guest_read(&f->g, 0x60), 0);
    assert_int_equal(guest_read(&f->g, 0x70), 0);
    guest_write(&f->g, 0x30, 0);
    assert_int_equal(guest_read(&f->g, 0x44), 0);
    assert_int_equal(guest_config8(&f->g, 3), 0xa3);
    assert_false(virtio_mmio_is_active(f->g.w));
}

static void kicks_of_unready_or_unknown_queues_do_nothing(void **state)
{
    struct fixture *f = *state;

    guest_kick(&f->g, 0);
    guest_run(&f->g);
    assert_true(guest_negotiate(&f->g, GUEST_FEATURES_ALL));
    assert_true(guest_setup_queue(&f->g, 0, 8));
    assert_true(guest_driver_ok(&f->g));
    for (uint32_t q = 1; q < 100; q++)
        guest_kick(&f->g, q);
    guest_kick(&f->g, UINT32_MAX);
    guest_run(&f->g);
    assert_int_equal(f->toy->kicks[1], 0);
}

static void interrupt_status_is_acknowledged_bit_by_bit(void **state)
{
    struct fixture *f = *state;
    uint8_t one = 1;
    struct guest_buf b;

    running(f);
    b = (struct guest_buf){guest_alloc(&f->g, 64), 64, true};
    guest_set_used_event(&f->g, 0, 0);
    (void)guest_add(&f->g, 0, &b, 1);
    guest_kick(&f->g, 0);
    guest_run(&f->g);
    assert_int_equal(guest_interrupts(&f->g), 1);
    virtio_config_set(&f->toy->dev, 0, &one, 1);
    assert_int_equal(guest_interrupts(&f->g), 1); /* another bit: another pulse */
    assert_int_equal(guest_read(&f->g, 0x60), 3);
    guest_write(&f->g, 0x64, 0xfffffffc); /* bits that are not set */
    assert_int_equal(guest_read(&f->g, 0x60), 3);
    guest_write(&f->g, 0x64, 1);
    assert_int_equal(guest_read(&f->g, 0x60), 2);
    guest_write(&f->g, 0x60, 0); /* read-only */
    assert_int_equal(guest_read(&f->g, 0x60), 2);
    guest_write(&f->g, 0x64, 2);
    assert_int_equal(guest_read(&f->g, 0x60), 0);
}

static void a_pulse_not_acknowledged_is_not_repeated(void **state)
{
    struct fixture *f = *state;
    struct guest_buf b;

    running(f);
    b = (struct guest_buf){guest_alloc(&f->g, 64), 64, true};
    for (uint16_t i = 0; i < 5; i++) {
        guest_set_used_event(&f->g, 0, i);
        (void)guest_add(&f->g, 0, &b, 1);
        guest_kick(&f->g, 0);
        guest_run(&f->g);
    }
    assert_int_equal(guest_interrupts(&f->g), 1);
    assert_int_equal(guest_take_interrupt(&f->g), 1);
    guest_set_used_event(&f->g, 0, 5);
    (void)guest_add(&f->g, 0, &b, 1);
    guest_kick(&f->g, 0);
    guest_run(&f->g);
    assert_int_equal(guest_interrupts(&f->g), 1);
}

static void config_changes_bump_the_generation(void **state)
{
    struct fixture *f = *state;
    uint32_t generation = guest_read(&f->g, 0xfc);
    uint8_t b[2] = {1, 2};

    virtio_config_set(&f->toy->dev, 10, b, 2);
    assert_int_not_equal(guest_read(&f->g, 0xfc), generation);
    assert_int_equal(guest_interrupts(&f->g), 0); /* no driver to tell */
    assert_int_equal(guest_config8(&f->g, 11), 2);
    virtio_config_set(&f->toy->dev, 11, b, 2); /* past the end: ignored */
    assert_int_equal(guest_config8(&f->g, 11), 2);
}

static const struct {
    uint64_t offset;
    unsigned len;
    uint64_t want;
} widths[] = {
    /* config space of 12 bytes a0 … ab: any width, zeros beyond the end */
    {0x100, 1, 0xa0},
    {0x101, 2, 0xa2a1},
    {0x103, 4, 0xa6a5a4a3},
    {0x100, 8, 0xa7a6a5a4a3a2a1a0},
    {0x10b, 1, 0xab},
    {0x10b, 2, 0xab},
    {0x10b, 8, 0xab},
    {0x10c, 4, 0},
    {0xffc, 4, 0},
    {0xffff, 8, 0},
    {UINT64_MAX, 8, 0},
    /* registers: 32 bits, aligned, or all ones */
    {0x000, 1, 0xff},
    {0x000, 2, 0xffff},
    {0x000, 8, UINT64_MAX},
    {0x001, 4, 0xffffffff},
    {0x0fe, 4, 0xffffffff},
    {0x060, 1, 0xff},
    {0x060, 8, UINT64_MAX},
    {0x00c, 4, 0x4e58554e},
    {0x0f0, 4, 0xffffffff},
    {0x020, 4, 0xffffffff}, /* write-only */
};

static void accesses_of_every_width_are_bounded(void **state)
{
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(widths); i++) {
        uint8_t b[8] = {0};

        virtio_mmio_access(f->g.w, widths[i].offset, b, widths[i].len, false);
        assert_int_equal(le64_load(b), widths[i].want);
    }
    for (uint64_t off = 0; off < 0x200; off++) {
        for (unsigned len = 1; len <= 8; len *= 2) {
            uint8_t b[8];

            memset(b, 0xff, sizeof(b));
            if (!(len == 4 && off % 4 == 0))
                virtio_mmio_access(f->g.w, off, b, len, true);
        }
    }
    assert_int_equal(guest_read(&f->g, 0x70), 0);
    assert_int_equal(guest_config8(&f->g, 0), 0xa0);
}

static void detach_frees_the_device_and_leaves_a_placeholder(void **state)
{
    struct fixture *f = *state;
    bool freed = false;
    struct toy *t = calloc(1, sizeof(*t));

    running(f);
    f->toy->freed = &freed;
    virtio_mmio_detach(f->g.w);
    assert_true(freed);
    assert_int_equal(guest_read(&f->g, 0x008), 0);
    virtio_mmio_detach(f->g.w);
    virtio_device_init(&t->dev, &toy_ops, 0, 0);
    guest_attach(&f->g, &t->dev);
    assert_int_equal(virtio_mmio_attach(f->g.w, &t->dev), -EBUSY);
    f->toy = t;
    guest_wipe(&f->g);
    running(f);
}

static void work_of_one_turn_is_bounded(void **state)
{
    struct fixture *f = *state;
    struct guest_buf b;

    assert_true(guest_negotiate(&f->g, GUEST_FEATURES_ALL));
    assert_true(guest_setup_queue(&f->g, 0, TOY_QUEUE));
    assert_true(guest_driver_ok(&f->g));
    b = (struct guest_buf){guest_alloc(&f->g, 64), 64, true};
    for (unsigned round = 0; round < 10; round++) {
        for (unsigned i = 0; i < TOY_QUEUE; i++)
            (void)guest_add(&f->g, 0, &b, 1);
        guest_kick(&f->g, 0);
        guest_run(&f->g);
        assert_int_equal(f->toy->dev.vq[0].used_visible, f->g.q[0].avail_idx);
    }
    assert_false(guest_needs_reset(&f->g));
}

/* ---- two threads: a vCPU against the loop ---- */

struct vcpu {
    struct guest *g;
    unsigned seed;
    bool done; /* atomic */
};

static void *vcpu_resets_and_starts(void *arg)
{
    struct vcpu *v = arg;

    for (int i = 0; i < 200; i++) {
        guest_write(v->g, 0x70, 0);
        assert_int_equal(guest_read(v->g, 0x70) & ~128U, 0);
        guest_write(v->g, 0x70, 1);
        guest_write(v->g, 0x70, 3);
        guest_write(v->g, 0x24, 1);
        guest_write(v->g, 0x20, 1);
        guest_write(v->g, 0x70, 11);
        guest_write(v->g, 0x70, 15);
        guest_write(v->g, 0x50, 0);
        (void)guest_read(v->g, 0x60);
        guest_write(v->g, 0x64, 3);
    }
    __atomic_store_n(&v->done, true, __ATOMIC_RELEASE);
    loop_wake(v->g->loop);
    return NULL;
}

static void a_reset_is_done_when_the_write_returns(void **state)
{
    struct fixture *f = *state;
    struct vcpu v = {.g = &f->g};
    pthread_t t;

    assert_int_equal(pthread_create(&t, NULL, vcpu_resets_and_starts, &v), 0);
    while (!__atomic_load_n(&v.done, __ATOMIC_ACQUIRE))
        assert_true(loop_turn(f->g.loop, 1000) >= 0);
    assert_int_equal(pthread_join(t, NULL), 0);
    assert_int_equal(f->toy->activations, 200);
}

static void *vcpu_resets(void *arg)
{
    struct vcpu *v = arg;

    guest_write(v->g, 0x70, 0);
    __atomic_store_n(&v->done, true, __ATOMIC_RELEASE);
    loop_wake(v->g->loop);
    return NULL;
}

/* The device fails while the reset is asked for and not served yet: the driver finds it reset, and the
 * failure leaves nothing behind. */
static void a_failure_before_a_reset_is_over_with_it(void **state)
{
    struct fixture *f = *state;
    struct vcpu v = {.g = &f->g};
    pthread_t t;

    running(f);
    assert_int_equal(pthread_create(&t, NULL, vcpu_resets, &v), 0);
    while (guest_read(&f->g, 0x70) != 0)
        ; /* reads do not wait */
    virtio_device_fail(&f->toy->dev, "too late");
    while (!__atomic_load_n(&v.done, __ATOMIC_ACQUIRE))
        assert_true(loop_turn(f->g.loop, 1000) >= 0);
    assert_int_equal(pthread_join(t, NULL), 0);
    guest_run(&f->g);
    assert_int_equal(guest_read(&f->g, 0x70), 0);
    assert_int_equal(guest_take_interrupt(&f->g), 0);
    assert_int_equal(f->toy->resets, 1);
    guest_wipe(&f->g);
    running(f);
    assert_int_equal(f->toy->activations, 2);
    assert_int_equal(f->toy->resets, 1);
}

static void *vcpu_writes_noise(void *arg)
{
    struct vcpu *v = arg;

    for (int i = 0; i < 3000; i++) {
        static const uint64_t offsets[] = {0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x60,
                                           0x64, 0x70, 0x70, 0x70, 0x80, 0x90, 0xa0, 0xfc};
        static const uint32_t values[] = {0, 1, 3, 11, 15, 8, 128, 0x100000};
        unsigned k = (unsigned)rand_r(&v->seed);

        guest_write(v->g, offsets[k % 16], values[(k >> 8) % 8]);
        (void)guest_read(v->g, offsets[(k >> 4) % 16]);
    }
    __atomic_store_n(&v->done, true, __ATOMIC_RELEASE);
    loop_wake(v->g->loop);
    return NULL;
}

static void two_vcpus_may_fight_over_a_window(void **state)
{
    struct fixture *f = *state;
    struct vcpu v[2] = {{.g = &f->g, .seed = 1}, {.g = &f->g, .seed = 2}};
    pthread_t t[2];

    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&t[i], NULL, vcpu_writes_noise, &v[i]), 0);
    while (!__atomic_load_n(&v[0].done, __ATOMIC_ACQUIRE) ||
           !__atomic_load_n(&v[1].done, __ATOMIC_ACQUIRE))
        assert_true(loop_turn(f->g.loop, 1000) >= 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(t[i], NULL), 0);
}

static void *vcpu_waits_for_a_loop_that_does_not_run(void *arg)
{
    struct vcpu *v = arg;

    guest_write(v->g, 0x70, 1);
    __atomic_store_n(&v->done, true, __ATOMIC_RELEASE);
    guest_write(v->g, 0x70, 0);
    return NULL;
}

static void stop_releases_whoever_waits(void **state)
{
    struct fixture *f = *state;
    struct vcpu v = {.g = &f->g};
    pthread_t t;

    assert_int_equal(pthread_create(&t, NULL, vcpu_waits_for_a_loop_that_does_not_run, &v), 0);
    while (!__atomic_load_n(&v.done, __ATOMIC_ACQUIRE))
        ;
    virtio_mmio_stop(f->g.w);
    assert_int_equal(pthread_join(t, NULL), 0);
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(identity_is_virtio_mmio_2),
        cmocka_unit_test(an_empty_window_is_a_placeholder),
        T(status_takes_one_step_at_a_time),
        T(a_device_that_was_let_go_is_not_driven),
        T(failed_leaves_only_by_reset),
        T(features_must_have_been_offered),
        T(features_are_frozen_by_features_ok),
        T(queue_registers_of_no_queue_do_nothing),
        T(queue_size_must_fit),
        T(queue_is_ready_only_with_valid_rings),
        T(deleting_a_queue_after_the_reset_is_no_offence),
        T(queues_cannot_be_set_up_outside_of_their_phase),
        T(nothing_of_a_queue_changes_after_driver_ok),
        T(activation_kicks_every_ready_queue_once),
        T(failed_activation_needs_a_reset),
        T(corrupt_ring_stops_the_device_until_reset),
        T(reset_forgets_everything_but_the_config),
        T(kicks_of_unready_or_unknown_queues_do_nothing),
        T(interrupt_status_is_acknowledged_bit_by_bit),
        T(a_pulse_not_acknowledged_is_not_repeated),
        T(config_changes_bump_the_generation),
        T(accesses_of_every_width_are_bounded),
        T(detach_frees_the_device_and_leaves_a_placeholder),
        T(work_of_one_turn_is_bounded),
        T(a_reset_is_done_when_the_write_returns),
        T(a_failure_before_a_reset_is_over_with_it),
        T(two_vcpus_may_fight_over_a_window),
        T(stop_releases_whoever_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
