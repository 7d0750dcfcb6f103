/* SPDX-License-Identifier: Apache-2.0 */
/* The block device on a memfd: honest requests move the right bytes, wrong ones move none. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/le.h"
#include "lib/guest.h"
#include "lib/test.h"
#include "virtio/blk.h"

#define SECTORS 4096ULL /* 2 MiB */
#define DISK (SECTORS * 512)
#define S_OK 0
#define S_IOERR 1
#define S_UNSUPP 2
#define UNTOUCHED 0xee
#define T_IN 0
#define T_OUT 1
#define T_FLUSH 4
#define T_SCSI 2
#define T_GET_ID 8
#define T_DISCARD 11
#define T_ZEROES 13

struct fixture {
    struct guest g;
    int fd;
    uint64_t hdr, data, status;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    uint8_t sector[512];

    guest_init(&f->g);
    f->fd = memfd_create("disk", MFD_CLOEXEC);
    for (uint64_t i = 0; i < SECTORS; i++) {
        memset(sector, (int)(i % 251), sizeof(sector));
        assert_int_equal(pwrite(f->fd, sector, 512, (off_t)(i * 512)), 512);
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    guest_done(&f->g);
    (void)close(f->fd);
    free(f);
    return 0;
}

static void start(struct fixture *f, struct virtio_blk_config cfg)
{
    struct virtio_device *dev;

    cfg.fd = f->fd;
    cfg.bytes = cfg.bytes ? cfg.bytes : DISK;
    virtio_mmio_detach(f->g.w);
    guest_wipe(&f->g);
    assert_int_equal(virtio_blk_new(f->g.loop, &cfg, &dev), 0);
    assert_true(guest_start(&f->g, dev, GUEST_FEATURES_ALL, 64));
    f->hdr = guest_alloc(&f->g, 64);
    f->data = guest_alloc(&f->g, 8 << 20);
    f->status = guest_alloc(&f->g, 64);
}

/* The next answer: requests run on a thread of the device. */
static void answer(struct fixture *f, uint32_t *ret_head, uint32_t *ret_len)
{
    while (!guest_used(&f->g, 0, ret_head, ret_len))
        assert_true(loop_turn(f->g.loop, 10000) > 0);
}

static void header(struct fixture *f, uint32_t type, uint64_t sector)
{
    uint8_t *h = guest_ptr(&f->g, f->hdr, 16);

    le32_store(h, type);
    le32_store(h + 4, 0);
    le64_store(h + 8, sector);
    *(uint8_t *)guest_ptr(&f->g, f->status, 1) = UNTOUCHED;
}

/* One request with len bytes of data; its status. */
static uint8_t request_len(struct fixture *f, uint32_t type, uint64_t sector, uint32_t len, bool in,
                           uint32_t *ret_used)
{
    struct guest_buf b[3] = {{f->hdr, 16, false}, {f->data, len, in}, {f->status, 1, true}};
    uint32_t head;

    header(f, type, sector);
    (void)guest_add(&f->g, 0, b, 3);
    guest_kick(&f->g, 0);
    answer(f, &head, ret_used);
    return *(uint8_t *)guest_ptr(&f->g, f->status, 1);
}

static uint8_t request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t len, bool in)
{
    uint32_t used;
    uint8_t status = request_len(f, type, sector, len, in, &used);

    assert_int_equal(used, in && status == S_OK ? len + 1 : 1);
    return status;
}

static uint8_t disk_byte(struct fixture *f, uint64_t sector)
{
    uint8_t b = 0xff;

    assert_int_equal(pread(f->fd, &b, 1, (off_t)(sector * 512)), 1);
    return b;
}

static void config_tells_the_size_and_limits(void **state)
{
    struct fixture *f = *state;

    start(f, (struct virtio_blk_config){.discard = true});
    assert_int_equal(guest_read(&f->g, 0x008), 2);
    assert_int_equal(guest_config64(&f->g, 0), SECTORS);
    assert_int_equal((uint32_t)guest_config64(&f->g, 8), 64 << 10);
    assert_true(f->g.features & (1 << 13));
    assert_false(f->g.features & (1 << 9)); /* not durable: no flush */
    assert_false(f->g.features & (1 << 5));
    start(f, (struct virtio_blk_config){.read_only = true, .durable = true, .discard = true});
    assert_false(f->g.features & (1 << 13));
    assert_true(f->g.features & (1 << 9));
    assert_true(f->g.features & (1 << 5));
}

static void sizes_are_checked(void **state)
{
    struct fixture *f = *state;
    struct virtio_blk_config cfg = {.fd = f->fd};
    struct virtio_device *dev;

    assert_int_equal(virtio_blk_new(f->g.loop, &cfg, &dev), -EINVAL);
    cfg.bytes = 513;
    assert_int_equal(virtio_blk_new(f->g.loop, &cfg, &dev), -EINVAL);
    cfg.bytes = UINT64_MAX - 511;
    assert_int_equal(virtio_blk_new(f->g.loop, &cfg, &dev), -EINVAL);
}

static const struct {
    const char *name;
    uint32_t type;
    uint64_t sector;
    uint32_t len;
    bool in;
    uint8_t status;
} rows[] = {
    {"read_first", T_IN, 0, 512, true, S_OK},
    {"read_last", T_IN, SECTORS - 1, 512, true, S_OK},
    {"read_past_the_end", T_IN, SECTORS, 512, true, S_IOERR},
    {"read_over_the_end", T_IN, SECTORS - 1, 1024, true, S_IOERR},
    {"read_sector_overflow", T_IN, 1ULL << 55, 512, true, S_IOERR},
    {"read_sector_all_ones", T_IN, UINT64_MAX, 512, true, S_IOERR},
    {"read_sector_that_wraps_to_zero", T_IN, 1ULL << 56, 512, true, S_IOERR},
    {"read_unaligned_length", T_IN, 0, 100, true, S_IOERR},
    {"read_nothing", T_IN, 0, 0, true, S_OK},
    {"read_large", T_IN, 8, 1 << 20, true, S_OK},
    {"write_first", T_OUT, 0, 512, false, S_OK},
    {"write_past_the_end", T_OUT, SECTORS, 512, false, S_IOERR},
    {"write_over_the_end", T_OUT, SECTORS - 1, 1024, false, S_IOERR},
    {"write_sector_overflow", T_OUT, 1ULL << 55, 512, false, S_IOERR},
    {"write_unaligned_length", T_OUT, 0, 511, false, S_IOERR},
    {"flush", T_FLUSH, 0, 0, true, S_OK},
    {"scsi", T_SCSI, 0, 512, true, S_UNSUPP},
    {"unknown_type", 0x7fffffff, 0, 512, false, S_UNSUPP},
};

static void requests_are_run_or_refused(void **state)
{
    struct fixture *f = *state;

    start(f, (struct virtio_blk_config){.durable = true});
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        uint8_t *data = guest_ptr(&f->g, f->data, 2 << 20);
        struct stat st;

        print_message("# %s\n", rows[i].name);
        memset(data, rows[i].in ? 0x55 : 0x77, 2 << 20);
        assert_int_equal(request(f, rows[i].type, rows[i].sector, rows[i].len, rows[i].in),
                         rows[i].status);
        if (rows[i].type == T_IN && rows[i].len)
            assert_int_equal(data[0],
                             rows[i].status == S_OK ? (uint8_t)(rows[i].sector % 251) : 0x55);
        if (rows[i].type == T_OUT && rows[i].status == S_OK)
            assert_int_equal(disk_byte(f, rows[i].sector), 0x77);
        assert_int_equal(data[rows[i].len], rows[i].in ? 0x55 : 0x77);
        assert_int_equal(fstat(f->fd, &st), 0);
        assert_int_equal(st.st_size, DISK); /* never grows */
    }
    assert_false(guest_needs_reset(&f->g));
}

static void data_in_many_pieces_keeps_its_order(void **state)
{
    struct fixture *f = *state;
    struct guest_buf b[20];
    uint8_t *data;
    uint32_t head, len;

    start(f, (struct virtio_blk_config){0});
    data = guest_ptr(&f->g, f->data, 1 << 20);
    b[0] = (struct guest_buf){f->hdr, 16, false};
    for (unsigned i = 1; i <= 16; i++) { /* backwards in memory, odd sizes, 2048 bytes in all */
        uint32_t n = i == 16 ? 2048 - 15 * 130 : 130;
        b[i] = (struct guest_buf){f->data + (20 - i) * 4096, n, true};
    }
    b[17] = (struct guest_buf){f->status, 1, true};
    header(f, T_IN, 3);
    (void)guest_add(&f->g, 0, b, 18);
    guest_kick(&f->g, 0);
    answer(f, &head, &len);
    assert_int_equal(len, 2049);
    assert_int_equal(data[19 * 4096], 3);                 /* sector 3, byte 0 */
    assert_int_equal(data[16 * 4096 + 512 - 390 - 1], 3); /* its last */
    assert_int_equal(data[16 * 4096 + 512 - 390], 4);
    assert_int_equal(data[4 * 4096 + 97], 6);
}

static void header_and_status_may_share_descriptors_with_data(void **state)
{
    struct fixture *f = *state;
    struct guest_buf b[2];
    uint32_t head, len;
    uint8_t *p;

    start(f, (struct virtio_blk_config){0});
    p = guest_ptr(&f->g, f->data, 4096);
    le32_store(p, T_OUT);
    le64_store(p + 8, 9);
    memset(p + 16, 0x99, 512);
    b[0] = (struct guest_buf){f->data, 16 + 512, false};
    b[1] = (struct guest_buf){f->status, 1, true};
    (void)guest_add(&f->g, 0, b, 2);
    guest_kick(&f->g, 0);
    answer(f, &head, &len);
    assert_int_equal(*(uint8_t *)guest_ptr(&f->g, f->status, 1), S_OK);
    assert_int_equal(disk_byte(f, 9), 0x99);
    b[0] = (struct guest_buf){f->data, 15, false}; /* a byte short of a header */
    (void)guest_add(&f->g, 0, b, 2);
    guest_kick(&f->g, 0);
    answer(f, &head, &len);
    assert_int_equal(*(uint8_t *)guest_ptr(&f->g, f->status, 1), S_IOERR);
}

static void request_without_a_status_byte_stops_the_device(void **state)
{
    struct fixture *f = *state;
    struct guest_buf b;

    start(f, (struct virtio_blk_config){0});
    header(f, T_OUT, 0);
    b = (struct guest_buf){f->hdr, 16, false};
    (void)guest_add(&f->g, 0, &b, 1);
    guest_kick(&f->g, 0);
    guest_run(&f->g);
    assert_true(guest_needs_reset(&f->g));
}

static void read_only_is_the_devices_own_word(void **state)
{
    struct fixture *f = *state;

    start(f, (struct virtio_blk_config){.read_only = true, .discard = true});
    memset(guest_ptr(&f->g, f->data, 512), 0x77, 512);
    assert_int_equal(request(f, T_OUT, 5, 512, false), S_IOERR);
    le64_store(guest_ptr(&f->g, f->data, 16), 5);
    le32_store(guest_ptr(&f->g, f->data + 8, 8), 1);
    assert_int_equal(request(f, T_DISCARD, 0, 16, false), S_UNSUPP);
    assert_int_equal(disk_byte(f, 5), 5);
    assert_int_equal(request(f, T_IN, 5, 512, true), S_OK);
}

static void serial_fits_whatever_buffer_there_is(void **state)
{
    struct fixture *f = *state;
    static const uint32_t lens[] = {0, 1, 7, 20, 21, 512};

    start(f, (struct virtio_blk_config){.serial = "scratch-disk-of-a-pod-and-more"});
    for (size_t i = 0; i < ARRAY_SIZE(lens); i++) {
        uint32_t used, want = lens[i] < 20 ? lens[i] : 20;
        uint8_t *data = guest_ptr(&f->g, f->data, 512);

        memset(data, UNTOUCHED, 512);
        assert_int_equal(request_len(f, T_GET_ID, 0, lens[i], true, &used), S_OK);
        assert_int_equal(used, want + 1);
        assert_memory_equal(data, "scratch-disk-of-a-pod-and-more", want);
        assert_int_equal(data[want], UNTOUCHED);
    }
}

static const struct {
    const char *name;
    uint32_t type;
    uint64_t sector;
    uint32_t sectors, flags, len, status;
} discards[] = {
    {"discard", T_DISCARD, 8, 8, 0, 16, S_OK},
    {"discard_nothing", T_DISCARD, 8, 0, 0, 16, S_OK},
    {"discard_with_unmap", T_DISCARD, 8, 8, 1, 16, S_UNSUPP},
    {"discard_unknown_flags", T_DISCARD, 8, 8, 0x80000000, 16, S_UNSUPP},
    {"zeroes", T_ZEROES, 8, 8, 0, 16, S_OK},
    {"zeroes_with_unmap", T_ZEROES, 8, 8, 1, 16, S_OK},
    {"zeroes_unaligned", T_ZEROES, 3, 1, 0, 16, S_OK},
    {"zeroes_past_the_end", T_ZEROES, SECTORS, 1, 0, 16, S_IOERR},
    {"zeroes_over_the_end", T_ZEROES, SECTORS - 1, 2, 0, 16, S_IOERR},
    {"zeroes_overflow", T_ZEROES, UINT64_MAX, 1, 0, 16, S_IOERR},
    {"zeroes_too_many_sectors", T_ZEROES, 0, UINT32_MAX, 0, 16, S_IOERR},
    {"no_segment", T_ZEROES, 0, 1, 0, 0, S_IOERR},
    {"half_a_segment", T_ZEROES, 0, 1, 0, 8, S_IOERR},
    {"segment_and_a_half", T_ZEROES, 8, 1, 0, 24, S_IOERR},
    {"too_many_segments", T_ZEROES, 8, 0, 0, 16 * 33, S_IOERR},
    {"2_to_the_16_segments", T_ZEROES, 8, 0, 0, 16 << 16, S_IOERR},
};

static void discard_and_zeroes_are_run_or_refused(void **state)
{
    struct fixture *f = *state;
    struct stat st;

    for (size_t i = 0; i < ARRAY_SIZE(discards); i++) {
        uint8_t *seg, before;
        bool zero = discards[i].status == S_OK && discards[i].sectors;

        print_message("# %s\n", discards[i].name);
        assert_int_equal(pwrite(f->fd, "\x33", 1, 8 * 512), 1);
        start(f, (struct virtio_blk_config){.discard = true});
        seg = guest_ptr(&f->g, f->data, 2 << 20);
        memset(seg, 0, 2 << 20);
        le64_store(seg, discards[i].sector);
        le32_store(seg + 8, discards[i].sectors);
        le32_store(seg + 12, discards[i].flags);
        before = discards[i].sector < SECTORS ? disk_byte(f, discards[i].sector) : 0;
        assert_int_equal(request(f, discards[i].type, 0, discards[i].len, false),
                         discards[i].status);
        if (discards[i].sector < SECTORS)
            assert_int_equal(disk_byte(f, discards[i].sector), zero ? 0 : before);
        assert_int_equal(fstat(f->fd, &st), 0);
        assert_int_equal(st.st_size, DISK);
    }
}

static void a_file_that_became_shorter_is_an_error_not_a_crash(void **state)
{
    struct fixture *f = *state;

    start(f, (struct virtio_blk_config){0});
    assert_int_equal(ftruncate(f->fd, 512), 0);
    assert_int_equal(request(f, T_IN, 0, 1024, true), S_IOERR);
    assert_int_equal(request(f, T_IN, 0, 512, true), S_OK);
}

static void many_requests_at_once_are_answered_in_order(void **state)
{
    struct fixture *f = *state;
    uint32_t head, len;
    uint16_t heads[16];

    start(f, (struct virtio_blk_config){0});
    header(f, T_IN, 0);
    for (unsigned i = 0; i < 16; i++) { /* 16 MiB: several batches */
        struct guest_buf b[3] = {
            {f->hdr, 16, false}, {f->data, 1 << 20, true}, {f->status, 1, true}};
        heads[i] = guest_add(&f->g, 0, b, 3);
    }
    guest_kick(&f->g, 0);
    for (unsigned i = 0; i < 16; i++) {
        answer(f, &head, &len);
        assert_int_equal(head, heads[i]);
        assert_int_equal(len, (1 << 20) + 1);
    }
}

static void reset_waits_for_what_is_in_flight(void **state)
{
    struct fixture *f = *state;
    uint8_t *data;

    start(f, (struct virtio_blk_config){0});
    for (int i = 0; i < 1000; i++) {
        header(f, T_IN, 1);
        for (unsigned k = 0; k < 4; k++) {
            struct guest_buf b[3] = {
                {f->hdr, 16, false}, {f->data, 256 << 10, true}, {f->status, 1, true}};
            (void)guest_add(&f->g, 0, b, 3);
        }
        guest_kick(&f->g, 0);
        (void)loop_turn(f->g.loop, 0);
        if (i % 2)
            (void)loop_turn(f->g.loop, 0);
        guest_reset(&f->g);
        data = guest_ptr(&f->g, f->data, 512);
        memset(data, 0x11, 512); /* the driver has its memory back */
        (void)loop_turn(f->g.loop, 0);
        assert_int_equal(data[0], 0x11);
        guest_wipe(&f->g);
        assert_true(guest_negotiate(&f->g, GUEST_FEATURES_ALL));
        assert_true(guest_setup_queue(&f->g, 0, 64));
        assert_true(guest_driver_ok(&f->g));
        f->hdr = guest_alloc(&f->g, 64);
        f->data = guest_alloc(&f->g, 8 << 20);
        f->status = guest_alloc(&f->g, 64);
    }
    assert_int_equal(request(f, T_IN, 5, 512, true), S_OK);
}

/* sendfile from a DAX page: the buffer is in a region that the host may remove. */
static void data_in_a_read_only_region_can_be_written_to_the_disk(void **state)
{
    struct fixture *f = *state;
    uint8_t *pmem = aligned_alloc(2 << 20, 2 << 20);
    struct guest_buf b[3] = {{0, 16, false}, {4ULL << 30, 512, false}, {0, 1, true}};
    uint32_t head, len;

    start(f, (struct virtio_blk_config){0});
    memset(pmem, 0x66, 2 << 20);
    assert_true(gmem_add_readonly(f->g.mem, 4ULL << 30, pmem, 2 << 20) >= 0);
    b[0].gpa = f->hdr;
    b[2].gpa = f->status;
    for (unsigned i = 0; i < 40; i++) { /* between others, in order */
        header(f, T_OUT, 20);
        b[1].gpa = i % 3 ? 4ULL << 30 : f->data;
        (void)guest_add(&f->g, 0, b, 3);
        if (i % 10 == 9)
            guest_kick(&f->g, 0);
        if (i % 10 == 9)
            for (unsigned k = 0; k < 10; k++)
                answer(f, &head, &len);
    }
    assert_int_equal(disk_byte(f, 20), 0); /* the last one came from RAM */
    b[1].gpa = 4ULL << 30;
    (void)guest_add(&f->g, 0, b, 3);
    guest_kick(&f->g, 0);
    answer(f, &head, &len);
    assert_int_equal(disk_byte(f, 20), 0x66);
    virtio_mmio_detach(f->g.w);
    (void)gmem_remove_readonly(f->g.mem, 4ULL << 30);
    free(pmem);
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(config_tells_the_size_and_limits),
        T(sizes_are_checked),
        T(requests_are_run_or_refused),
        T(data_in_many_pieces_keeps_its_order),
        T(header_and_status_may_share_descriptors_with_data),
        T(request_without_a_status_byte_stops_the_device),
        T(read_only_is_the_devices_own_word),
        T(serial_fits_whatever_buffer_there_is),
        T(discard_and_zeroes_are_run_or_refused),
        T(a_file_that_became_shorter_is_an_error_not_a_crash),
        T(many_requests_at_once_are_answered_in_order),
        T(reset_waits_for_what_is_in_flight),
        T(data_in_a_read_only_region_can_be_written_to_the_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
