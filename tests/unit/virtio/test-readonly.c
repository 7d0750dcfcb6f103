/* SPDX-License-Identifier: Apache-2.0 */
/* A read-only region given to every queue of every device as a buffer to be written: the device refuses,
 * asks for a reset, and works again after it. The region is mapped as nexus-vmm maps it (PROT_READ, from a
 * read-only descriptor), so a write that is tried ends the test by SIGSEGV. */
#include <fcntl.h>
#include <linux/virtio_vsock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/le.h"
#include "lib/guest.h"
#include "lib/test.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net.h"
#include "virtio/pmem.h"
#include "virtio/rng.h"
#include "virtio/vsock.h"

#define REGION (4ULL << 30)
#define REGION_BYTES (2ULL << 20)
#define RAM 0ULL /* in a table: a buffer of RAM */
#define SIZE 16
#define PIECES 3
#define WRITE true
#define READ false
#define DESC_WRITE 2U
#define DESC_INDIRECT 4U

enum device { RNG, NET, VSOCK, BLK, CONSOLE, PMEM };

struct fixture {
    struct guest g;
    int file, disk, wire[2];
    const uint8_t *region;
};

static void fill(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 7 + i / 4096);
}

static bool region_is_whole(const struct fixture *f)
{
    static uint8_t want[REGION_BYTES], file[REGION_BYTES];

    fill(want, sizeof(want));
    return pread(f->file, file, sizeof(file), 0) == sizeof(file) &&
           memcmp(want, file, sizeof(want)) == 0 && memcmp(want, f->region, sizeof(want)) == 0;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    static uint8_t bytes[REGION_BYTES];
    char path[64];
    int fd = memfd_create("region", MFD_CLOEXEC);

    guest_init(&f->g);
    fill(bytes, sizeof(bytes));
    assert_int_equal(pwrite(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    f->file = open(path, O_RDONLY | O_CLOEXEC);
    (void)close(fd);
    f->region = mmap(NULL, REGION_BYTES, PROT_READ, MAP_SHARED, f->file, 0);
    assert_ptr_not_equal(f->region, MAP_FAILED);
    assert_true(gmem_add_readonly(f->g.mem, REGION, f->region, REGION_BYTES) >= 0);
    f->disk = memfd_create("disk", MFD_CLOEXEC);
    assert_int_equal(ftruncate(f->disk, 1 << 20), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, f->wire), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    guest_done(&f->g);
    (void)munmap((void *)(uintptr_t)f->region, REGION_BYTES);
    (void)close(f->file);
    (void)close(f->disk);
    (void)close(f->wire[0]);
    (void)close(f->wire[1]);
    free(f);
    return 0;
}

static void swallow(const uint8_t *bytes, size_t n, void *userdata)
{
}

static struct virtio_device *make(struct fixture *f, enum device which)
{
    struct virtio_net_config net = {.tap_fd = f->wire[1], .mac = {2, 0, 0, 0, 0, 1}, .mtu = 1500};
    struct virtio_blk_config blk = {.fd = f->disk, .bytes = 1 << 20};
    struct virtio_device *dev = NULL;
    struct vsock *v;
    int r = 0;

    switch (which) {
    case RNG:
        r = virtio_rng_new(&dev);
        break;
    case NET:
        r = virtio_net_new(f->g.loop, &net, &dev);
        break;
    case VSOCK:
        r = vsock_new(f->g.loop, 3, &v);
        dev = vsock_device(v);
        break;
    case BLK:
        r = virtio_blk_new(f->g.loop, &blk, &dev);
        break;
    case CONSOLE:
        r = virtio_console_new(swallow, NULL, &dev);
        break;
    case PMEM:
        r = virtio_pmem_new(REGION, REGION_BYTES, &dev);
        break;
    }
    assert_int_equal(r, 0);
    return dev;
}

static bool start(struct fixture *f)
{
    if (!guest_negotiate(&f->g, GUEST_FEATURES_ALL))
        return false;
    for (unsigned q = 0; q < virtio_mmio_queue_count(f->g.w); q++)
        if (!guest_setup_queue(&f->g, q, SIZE))
            return false;
    return guest_driver_ok(&f->g);
}

/* Makes the device want to write: a frame on the wire, a packet that is answered by a reset. */
static void provoke(struct fixture *f, enum device which)
{
    static const uint8_t frame[12 + 60];
    struct guest_buf b = {guest_alloc(&f->g, 64), 44, READ};
    uint8_t *h = guest_ptr(&f->g, b.gpa, 44);

    if (which == NET)
        assert_int_equal(send(f->wire[0], frame, sizeof(frame), 0), sizeof(frame));
    if (which == VSOCK) {
        le64_store(h, 3);
        le64_store(h + 8, VSOCK_HOST_CID);
        le32_store(h + 16, 5000);
        le32_store(h + 20, 1999); /* nobody listens there */
        le16_store(h + 28, VIRTIO_VSOCK_TYPE_STREAM);
        le16_store(h + 30, VIRTIO_VSOCK_OP_REQUEST);
        (void)guest_add(&f->g, 1, &b, 1);
        guest_kick(&f->g, 1);
    }
}

struct piece {
    uint64_t gpa;
    uint32_t len;
    bool write;
};

/* In RAM a request of 16 zero bytes is "read sector 0" to blk and "flush" to pmem. */
static const struct attack {
    const char *name;
    enum device device;
    unsigned queue;
    bool indirect, unused; /* unused: the device never looks at that queue */
    struct piece piece[PIECES];
} attacks[] = {
    {"rng", RNG, 0, false, false, {{REGION, 64, WRITE}}},
    {"rng_last_byte", RNG, 0, false, false, {{REGION + REGION_BYTES - 1, 1, WRITE}}},
    {"rng_beyond_the_end", RNG, 0, false, false, {{REGION + REGION_BYTES - 64, 128, WRITE}}},
    {"rng_into_the_beginning", RNG, 0, false, false, {{REGION - 64, 128, WRITE}}},
    {"rng_second_piece", RNG, 0, false, false, {{RAM, 64, WRITE}, {REGION, 64, WRITE}}},
    {"net_receive", NET, 0, false, false, {{REGION, 4096, WRITE}}},
    {"net_receive_second_piece", NET, 0, false, false, {{RAM, 12, WRITE}, {REGION, 4096, WRITE}}},
    {"net_send", NET, 1, false, false, {{RAM, 100, READ}, {REGION, 64, WRITE}}},
    {"vsock_receive", VSOCK, 0, false, false, {{REGION, 4096, WRITE}}},
    {"vsock_receive_payload", VSOCK, 0, false, false, {{RAM, 44, WRITE}, {REGION, 4096, WRITE}}},
    {"vsock_send", VSOCK, 1, false, false, {{RAM, 44, READ}, {REGION, 64, WRITE}}},
    {"vsock_event", VSOCK, 2, false, true, {{REGION, 8, WRITE}}},
    {"blk_data", BLK, 0, false, false, {{RAM, 16, READ}, {REGION, 512, WRITE}, {RAM, 1, WRITE}}},
    {"blk_status", BLK, 0, false, false, {{RAM, 16, READ}, {RAM, 512, WRITE}, {REGION, 1, WRITE}}},
    {"blk_indirect", BLK, 0, true, false, {{RAM, 16, READ}, {REGION, 512, WRITE}, {RAM, 1, WRITE}}},
    {"console_input", CONSOLE, 0, false, true, {{REGION, 64, WRITE}}},
    {"console_output", CONSOLE, 1, false, false, {{RAM, 16, READ}, {REGION, 64, WRITE}}},
    {"pmem_answer", PMEM, 0, false, false, {{RAM, 16, READ}, {REGION, 4, WRITE}}},
    {"pmem_answer_alone", PMEM, 0, false, false, {{REGION, 4, WRITE}}},
};

static void offer_indirect(struct fixture *f, const struct attack *a, const struct guest_buf *b,
                           unsigned n)
{
    uint64_t table = guest_alloc(&f->g, 16ULL * n);

    for (unsigned i = 0; i < n; i++) {
        uint8_t *d = guest_ptr(&f->g, table + 16ULL * i, 16);

        le64_store(d, b[i].gpa);
        le32_store(d + 8, b[i].len);
        le16_store(d + 12, (uint16_t)((b[i].write ? DESC_WRITE : 0) | (i + 1 < n)));
        le16_store(d + 14, (uint16_t)(i + 1));
    }
    guest_desc(&f->g, a->queue, 0, table, 16 * n, DESC_INDIRECT, 0);
    guest_offer(&f->g, a->queue, 0);
}

static void offer(struct fixture *f, const struct attack *a)
{
    struct guest_buf b[PIECES];
    unsigned n = 0;

    for (; n < PIECES && a->piece[n].len; n++)
        b[n] = (struct guest_buf){
            .gpa = a->piece[n].gpa ? a->piece[n].gpa : guest_alloc(&f->g, a->piece[n].len),
            .len = a->piece[n].len,
            .write = a->piece[n].write,
        };
    if (a->indirect)
        offer_indirect(f, a, b, n);
    else
        (void)guest_add(&f->g, a->queue, b, n);
    guest_kick(&f->g, a->queue);
}

static void a_region_is_no_buffer_to_write_to(void **state)
{
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(attacks); i++) {
        const struct attack *a = &attacks[i];
        uint32_t head, len;

        print_message("# %s\n", a->name);
        guest_wipe(&f->g);
        guest_attach(&f->g, make(f, a->device));
        for (unsigned round = 0; round < 3;
             round++) { /* after a reset it works again, and refuses again */
            assert_true(start(f));
            offer(f, a);
            provoke(f, a->device);
            guest_run(&f->g);
            assert_int_equal(guest_needs_reset(&f->g), !a->unused);
            assert_false(guest_used(&f->g, a->queue, &head, &len));
            assert_true(region_is_whole(f));
        }
        virtio_mmio_detach(f->g.w);
    }
}

/* What a device only reads may come from there: O_DIRECT and sendfile of a DAX page do that. */
static void a_region_is_a_buffer_to_read_from(void **state)
{
    struct fixture *f = *state;
    static const enum device who[] = {NET, CONSOLE};
    struct guest_buf b = {REGION, 64, READ};
    uint8_t frame[128];
    uint32_t head, len;

    for (size_t i = 0; i < ARRAY_SIZE(who); i++) {
        guest_wipe(&f->g);
        guest_attach(&f->g, make(f, who[i]));
        assert_true(start(f));
        (void)guest_add(&f->g, 1, &b, 1);
        guest_kick(&f->g, 1);
        guest_run(&f->g);
        assert_false(guest_needs_reset(&f->g));
        assert_true(guest_used(&f->g, 1, &head, &len));
        virtio_mmio_detach(f->g.w);
    }
    assert_int_equal(recv(f->wire[0], frame, sizeof(frame), 0), 64);
    assert_memory_equal(frame, f->region, 64);
    assert_true(region_is_whole(f));
}

static void rings_are_not_made_of_a_region(void **state)
{
    struct fixture *f = *state;

    for (unsigned area = 0; area < 3; area++) {
        uint64_t ring[3] = {0x200000, 0x201000, 0x202000};

        ring[area] = REGION;
        guest_attach(&f->g, make(f, RNG));
        assert_true(guest_negotiate(&f->g, GUEST_FEATURES_ALL));
        guest_write(&f->g, 0x030, 0);
        guest_write(&f->g, 0x038, SIZE);
        for (unsigned i = 0; i < 3; i++) {
            guest_write(&f->g, 0x080 + 0x10 * i, (uint32_t)ring[i]);
            guest_write(&f->g, 0x084 + 0x10 * i, (uint32_t)(ring[i] >> 32));
        }
        guest_write(&f->g, 0x044, 1);
        assert_int_equal(guest_read(&f->g, 0x044), 0);
        virtio_mmio_detach(f->g.w);
    }
    assert_true(region_is_whole(f));
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_region_is_no_buffer_to_write_to),
        T(a_region_is_a_buffer_to_read_from),
        T(rings_are_not_made_of_a_region),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
