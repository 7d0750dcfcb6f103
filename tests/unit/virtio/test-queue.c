/* SPDX-License-Identifier: Apache-2.0 */
/* The ring walker against honest and lying drivers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"
#include "lib/guest.h"
#include "lib/test.h"
#include "virtio/queue.h"

#define SIZE 8
#define BYTES_MAX 65536U
#define NEXT 1
#define WRITE 2
#define INDIRECT 4

struct fixture {
    struct guest g;
    struct vq q;
    struct vq_chain c;
    uint64_t buf; /* 128 KiB */
    void *pmem;
    uint64_t pmem_gpa;
};

static struct vq_geometry geometry(const struct fixture *f)
{
    const struct guest_queue *gq = &f->g.q[0];

    return (struct vq_geometry){
        .size = gq->size, .desc = gq->desc, .avail = gq->avail, .used = gq->used};
}

static void start(struct fixture *f, bool event_idx, bool indirect)
{
    struct vq_geometry g = geometry(f);

    assert_int_equal(vq_start(&f->q, f->g.mem, &g, BYTES_MAX, event_idx, indirect), 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct guest_queue *gq;

    guest_init(&f->g);
    gq = &f->g.q[0];
    gq->size = SIZE;
    gq->desc = guest_alloc(&f->g, 16 * SIZE);
    gq->avail = guest_alloc(&f->g, 6 + 2 * SIZE);
    gq->used = guest_alloc(&f->g, 6 + 8 * SIZE);
    f->buf = guest_alloc(&f->g, 128 << 10);
    f->pmem = aligned_alloc(2 << 20, 2 << 20);
    f->pmem_gpa = 4ULL << 30;
    assert_true(gmem_add_readonly(f->g.mem, f->pmem_gpa, f->pmem, 2 << 20) >= 0);
    f->g.features = 0;
    start(f, false, true);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    guest_done(&f->g);
    free(f->pmem);
    free(f);
    return 0;
}

/* ---- geometry ---- */

enum where { DESC, AVAIL, USED };
static const struct {
    const char *name;
    enum where where;
    uint64_t gpa; /* UINT64_MAX - n: n before the end of RAM */
    bool ok;
} areas[] = {
    {"desc_unaligned", DESC, 0x200008, false},
    {"desc_16_aligned", DESC, 0x200010, true},
    {"avail_unaligned", AVAIL, 0x200001, false},
    {"used_unaligned", USED, 0x200002, false},
    {"used_4_aligned", USED, 0x200004, true},
    {"desc_ends_at_end_of_ram", DESC, GUEST_RAM_BYTES - 16 * SIZE, true},
    {"desc_one_past_end_of_ram", DESC, GUEST_RAM_BYTES - 16 * SIZE + 16, false},
    {"used_at_end_of_ram", USED, GUEST_RAM_BYTES - 4, false},
    {"avail_in_a_hole", AVAIL, 0xd0000000, false},
    {"desc_in_readonly_region", DESC, 4ULL << 30, false},
    {"avail_in_readonly_region", AVAIL, 4ULL << 30, false},
    {"used_in_readonly_region", USED, 4ULL << 30, false},
    {"desc_wraps", DESC, UINT64_MAX - 15, false},
    {"used_wraps", USED, UINT64_MAX - 3, false},
    {"desc_at_zero", DESC, 0, true},
};

static void geometry_is_checked_whole(void **state)
{
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(areas); i++) {
        struct vq_geometry g = geometry(f);
        struct vq q;

        print_message("# %s\n", areas[i].name);
        *(areas[i].where == DESC    ? &g.desc
          : areas[i].where == AVAIL ? &g.avail
                                    : &g.used) = areas[i].gpa;
        assert_int_equal(vq_geometry_ok(f->g.mem, &g, 256), areas[i].ok);
        assert_int_equal(vq_start(&q, f->g.mem, &g, BYTES_MAX, true, false),
                         areas[i].ok ? 0 : -EINVAL);
    }
}

static void size_is_a_power_of_two_within_the_maximum(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint16_t size;
        bool ok;
    } rows[] = {{0, false},  {1, true},    {2, true},    {3, false},
                {256, true}, {257, false}, {512, false}, {65535, false}};

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct vq_geometry g = {
            .size = rows[i].size, .desc = 0x200000, .avail = 0x300000, .used = 0x400000};
        assert_int_equal(vq_geometry_ok(f->g.mem, &g, 256), rows[i].ok);
    }
}

/* ---- chains ---- */

struct d {
    uint64_t gpa; /* relative to f->buf if below 1 MiB */
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

static void write_descs(struct fixture *f, const struct d *d, size_t n)
{
    for (size_t i = 0; i < n; i++)
        guest_desc(&f->g, 0, (uint16_t)i, d[i].gpa < 0x100000 ? f->buf + d[i].gpa : d[i].gpa,
                   d[i].len, d[i].flags, d[i].next);
}

static const struct {
    const char *name;
    struct d d[SIZE];
    uint16_t head;
    int r;
    uint32_t out, in;
} chains[] = {
    {"one_readable", {{0, 100, 0, 0}}, 0, 1, 100, 0},
    {"one_writable", {{0, 100, WRITE, 0}}, 0, 1, 0, 100},
    {"readable_then_writable", {{0, 16, NEXT, 5}, [5] = {64, 32, WRITE, 0}}, 0, 1, 16, 32},
    {"writable_then_readable_is_refused", {{0, 16, WRITE | NEXT, 1}, {64, 32, 0, 0}}, 0, -EPROTO},
    {"head_is_any_descriptor", {[7] = {0, 9, 0, 0}}, 7, 1, 9, 0},
    {"head_out_of_range", {{0, 1, 0, 0}}, SIZE, -EPROTO},
    {"head_far_out_of_range", {{0, 1, 0, 0}}, 65535, -EPROTO},
    {"next_out_of_range", {{0, 1, NEXT, SIZE}}, 0, -EPROTO},
    {"next_is_ignored_without_the_flag", {{0, 1, 0, 60000}}, 0, 1, 1, 0},
    {"self_loop", {{0, 1, NEXT, 0}}, 0, -EPROTO},
    {"two_cycle", {{0, 1, NEXT, 1}, {0, 1, NEXT, 0}}, 0, -EPROTO},
    {"loop_of_empty_descriptors", {{0, 0, NEXT, 1}, {0, 0, NEXT, 0}}, 0, -EPROTO},
    {"longest_chain",
     {{0, 1, NEXT, 1},
      {0, 1, NEXT, 2},
      {0, 1, NEXT, 3},
      {0, 1, NEXT, 4},
      {0, 1, NEXT, 5},
      {0, 1, NEXT, 6},
      {0, 1, NEXT, 7},
      {0, 1, 0, 0}},
     0,
     1,
     8,
     0},
    {"empty_descriptor_is_void", {{0, 0, 0, 0}}, 0, 1, 0, 0},
    {"bytes_at_the_limit", {{0, BYTES_MAX, 0, 0}}, 0, 1, BYTES_MAX, 0},
    {"bytes_over_the_limit", {{0, BYTES_MAX + 1, 0, 0}}, 0, -EPROTO},
    {"bytes_over_the_limit_in_sum", {{0, BYTES_MAX, NEXT, 1}, {0, 1, WRITE, 0}}, 0, -EPROTO},
    {"sum_wraps_32_bits",
     {{0, 0x8000, NEXT, 1}, {0, 0xffff8001, NEXT, 2}, {0, 0xffff, 0, 0}},
     0,
     -EPROTO},
    {"four_gigabytes", {{0, UINT32_MAX, WRITE, 0}}, 0, -EPROTO},
    {"address_in_a_hole", {{0xd0000000, 16, 0, 0}}, 0, -EPROTO},
    {"address_wraps", {{UINT64_MAX - 7, 16, 0, 0}}, 0, -EPROTO},
    {"end_of_ram", {{GUEST_RAM_BYTES - 16, 16, WRITE, 0}}, 0, 1, 0, 16},
    {"over_end_of_ram", {{GUEST_RAM_BYTES - 15, 16, WRITE, 0}}, 0, -EPROTO},
    {"readonly_region_can_be_read", {{4ULL << 30, 4096, 0, 0}}, 0, 1, 4096, 0},
    {"readonly_region_cannot_be_written", {{4ULL << 30, 4096, WRITE, 0}}, 0, -EPROTO},
    {"unknown_flags_are_ignored", {{0, 4, 0xfff8, 0}}, 0, 1, 4, 0},
};

static void chains_are_taken_or_refused(void **state)
{
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(chains); i++) {
        print_message("# %s\n", chains[i].name);
        f->g.q[0].avail_idx = 0;
        start(f, i % 2, false);
        write_descs(f, chains[i].d, SIZE);
        guest_offer(&f->g, 0, chains[i].head);
        assert_int_equal(vq_pop(&f->q, &f->c), chains[i].r);
        if (chains[i].r == 1) {
            assert_int_equal(f->c.out_bytes, chains[i].out);
            assert_int_equal(f->c.in_bytes, chains[i].in);
            assert_int_equal(f->c.head, chains[i].head);
            assert_int_equal(vq_pop(&f->q, &f->c), 0);
        } else {
            assert_non_null(f->q.fault);
            assert_int_equal(vq_pop(&f->q, &f->c), -EPROTO); /* and stays that way */
        }
    }
}

static const struct {
    const char *name;
    bool negotiated;
    uint16_t flags;
    uint32_t len;
    struct d table[SIZE + 1];
    int r;
    uint32_t out, in;
} indirects[] = {
    {"not_negotiated", false, INDIRECT, 16, {{0, 8, 0, 0}}, -EPROTO},
    {"one_entry", true, INDIRECT, 16, {{0, 8, 0, 0}}, 1, 8, 0},
    {"two_entries", true, INDIRECT, 32, {{0, 8, NEXT, 1}, {64, 4, WRITE, 0}}, 1, 8, 4},
    {"with_next", true, INDIRECT | NEXT, 16, {{0, 8, 0, 0}}, -EPROTO},
    {"empty", true, INDIRECT, 0, {{0, 8, 0, 0}}, -EPROTO},
    {"not_a_multiple", true, INDIRECT, 24, {{0, 8, 0, 0}}, -EPROTO},
    {"nested", true, INDIRECT, 16, {{0, 16, INDIRECT, 0}}, -EPROTO},
    {"next_outside_of_the_table", true, INDIRECT, 16, {{0, 8, NEXT, 1}}, -EPROTO},
    {"loop", true, INDIRECT, 32, {{0, 8, NEXT, 1}, {0, 8, NEXT, 0}}, -EPROTO},
    {"as_long_as_the_queue", true, INDIRECT, 16 * SIZE, {{0, 8, 0, 0}}, 1, 8, 0},
    {"longer_than_the_queue", true, INDIRECT, 16 * (SIZE + 1), {{0, 8, 0, 0}}, -EPROTO},
    {"write_flag_on_the_table_means_nothing", true, INDIRECT | WRITE, 16, {{0, 8, 0, 0}}, 1, 8, 0},
};

static void indirect_tables_are_taken_or_refused(void **state)
{
    struct fixture *f = *state;
    uint64_t table = guest_alloc(&f->g, 16 * (SIZE + 1) + 1) + 1; /* need not be aligned */

    for (size_t i = 0; i < ARRAY_SIZE(indirects); i++) {
        uint8_t *t = guest_ptr(&f->g, table, 16 * (SIZE + 1));

        print_message("# %s\n", indirects[i].name);
        for (size_t k = 0; k <= SIZE; k++) {
            const struct d *d = &indirects[i].table[k];

            le64_store(t + 16 * k, f->buf + d->gpa);
            le32_store(t + 16 * k + 8, d->len);
            le16_store(t + 16 * k + 12, d->flags);
            le16_store(t + 16 * k + 14, d->next);
        }
        f->g.q[0].avail_idx = 0;
        start(f, true, indirects[i].negotiated);
        guest_desc(&f->g, 0, 0, table, indirects[i].len, indirects[i].flags, 1);
        guest_offer(&f->g, 0, 0);
        assert_int_equal(vq_pop(&f->q, &f->c), indirects[i].r);
        if (indirects[i].r == 1) {
            assert_int_equal(f->c.out_bytes, indirects[i].out);
            assert_int_equal(f->c.in_bytes, indirects[i].in);
        }
    }
}

static void indirect_table_in_a_hole_is_refused(void **state)
{
    struct fixture *f = *state;

    guest_desc(&f->g, 0, 0, 0xd0000000, 16, INDIRECT, 0);
    guest_offer(&f->g, 0, 0);
    assert_int_equal(vq_pop(&f->q, &f->c), -EPROTO);
}

static void direct_descriptors_may_precede_a_table(void **state)
{
    struct fixture *f = *state;
    uint64_t table = guest_alloc(&f->g, 16);
    uint8_t *t = guest_ptr(&f->g, table, 16);

    le64_store(t, f->buf);
    le32_store(t + 8, 7);
    guest_desc(&f->g, 0, 0, f->buf, 5, NEXT, 1);
    guest_desc(&f->g, 0, 1, table, 16, INDIRECT, 0);
    guest_offer(&f->g, 0, 0);
    assert_int_equal(vq_pop(&f->q, &f->c), 1);
    assert_int_equal(f->c.out_bytes, 12);
}

static void available_index_may_not_jump(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint16_t jump;
        int r;
    } rows[] = {{0, 0},           {1, 1}, {SIZE, 1}, {SIZE + 1, -EPROTO}, {0x8000, -EPROTO},
                {0xffff, -EPROTO}};

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        for (int by_kick = 0; by_kick < 2; by_kick++) {
            start(f, true, false);
            guest_desc(&f->g, 0, 0, f->buf, 1, 0, 0);
            le16_store(guest_ptr(&f->g, f->g.q[0].avail + 2, 2), rows[i].jump);
            if (by_kick) /* the other place that looks at the index */
                (void)vq_kicks_on(&f->q);
            assert_int_equal(vq_pop(&f->q, &f->c), rows[i].r);
        }
    }
}

/* A driver that offers one head for ever without waiting for it gets no more than size chains. */
static void chains_in_flight_are_bounded(void **state)
{
    struct fixture *f = *state;

    guest_desc(&f->g, 0, 0, f->buf, 1, 0, 0);
    for (int i = 0; i < SIZE; i++) {
        guest_offer(&f->g, 0, 0);
        assert_int_equal(vq_pop(&f->q, &f->c), 1);
    }
    guest_offer(&f->g, 0, 0);
    assert_int_equal(vq_pop(&f->q, &f->c), -EPROTO);
}

static void used_elements_wrap_with_the_indices(void **state)
{
    struct fixture *f = *state;
    uint32_t head, len;

    start(f, true, false);
    for (unsigned i = 0; i < 70000; i++) { /* over the 16 bits of both indices */
        struct guest_buf b = {f->buf, 1 + i % 7, true};
        uint16_t at = guest_add(&f->g, 0, &b, 1);

        assert_int_equal(vq_pop(&f->q, &f->c), 1);
        vq_push(&f->q, f->c.head, f->c.in_bytes);
        assert_false(guest_used(&f->g, 0, &head, &len)); /* not before the flush */
        (void)vq_flush(&f->q);
        assert_true(guest_used(&f->g, 0, &head, &len));
        assert_int_equal(head, at);
        assert_int_equal(len, 1 + i % 7);
    }
}

static void take_and_push(struct fixture *f, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct guest_buf b = {f->buf, 1, true};

        (void)guest_add(&f->g, 0, &b, 1);
        assert_int_equal(vq_pop(&f->q, &f->c), 1);
        vq_push(&f->q, f->c.head, 0);
    }
}

static void interrupts_follow_the_used_event(void **state)
{
    struct fixture *f = *state;

    start(f, true, false);
    guest_set_used_event(&f->g, 0, 0);
    take_and_push(f, 1);
    assert_true(vq_flush(&f->q));
    assert_false(vq_flush(&f->q)); /* nothing new */
    take_and_push(f, 2);           /* event still 0: the driver has not asked again */
    assert_false(vq_flush(&f->q));
    guest_set_used_event(&f->g, 0, 4); /* "when the fifth is there" */
    take_and_push(f, 1);
    assert_false(vq_flush(&f->q));
    take_and_push(f, 3); /* passes it in the middle of a batch */
    assert_true(vq_flush(&f->q));
    guest_set_used_event(&f->g, 0, 0xffff);
    take_and_push(f, 1);
    assert_false(vq_flush(&f->q));
}

static void interrupts_follow_the_flag_without_event_idx(void **state)
{
    struct fixture *f = *state;

    take_and_push(f, 1);
    assert_true(vq_flush(&f->q));
    le16_store(guest_ptr(&f->g, f->g.q[0].avail, 2), 1);
    take_and_push(f, 1);
    assert_false(vq_flush(&f->q));
}

static void kicks_are_asked_for_and_declined(void **state)
{
    struct fixture *f = *state;

    for (int event_idx = 0; event_idx < 2; event_idx++) {
        struct guest_buf b = {f->buf, 1, true};
        uint16_t from;

        f->g.features = event_idx ? 1ULL << 29 : 0;
        f->g.q[0].avail_idx = 0;
        memset(guest_ptr(&f->g, f->g.q[0].avail, 6 + 2 * SIZE), 0, 6 + 2 * SIZE);
        start(f, event_idx, false);
        assert_false(vq_kicks_on(&f->q));
        from = f->g.q[0].avail_idx;
        (void)guest_add(&f->g, 0, &b, 1);
        assert_true(guest_wants_kick(&f->g, 0, from));
        vq_kicks_off(&f->q);
        from = f->g.q[0].avail_idx;
        (void)guest_add(&f->g, 0, &b, 1);
        assert_false(guest_wants_kick(&f->g, 0, from));
        assert_true(vq_kicks_on(&f->q)); /* two are waiting: no sleep now */
        assert_int_equal(vq_pop(&f->q, &f->c), 1);
        assert_int_equal(vq_pop(&f->q, &f->c), 1);
        assert_false(vq_kicks_on(&f->q));
    }
}

static void a_chain_can_be_put_back(void **state)
{
    struct fixture *f = *state;
    struct guest_buf b = {f->buf, 1, false};
    uint16_t first = guest_add(&f->g, 0, &b, 1), second = guest_add(&f->g, 0, &b, 1);

    assert_int_equal(vq_pop(&f->q, &f->c), 1);
    assert_int_equal(vq_pop(&f->q, &f->c), 1);
    vq_rewind(&f->q, 2);
    assert_int_equal(vq_pop(&f->q, &f->c), 1);
    assert_int_equal(f->c.head, first);
    assert_int_equal(vq_pop(&f->q, &f->c), 1);
    assert_int_equal(f->c.head, second);
    assert_int_equal(vq_pop(&f->q, &f->c), 0);
}

static void too_many_pieces_for_the_caller_leave_the_chain(void **state)
{
    struct fixture *f = *state;
    struct guest_buf b[3] = {{f->buf, 1, true}, {f->buf, 1, true}, {f->buf, 1, true}};
    struct iovec iov[3];
    struct vq_head h;

    (void)guest_add(&f->g, 0, b, 3);
    assert_int_equal(vq_pop_iov(&f->q, &h, iov, 2), -ENOBUFS);
    assert_int_equal(vq_pop_iov(&f->q, &h, iov, 3), 1);
    assert_int_equal(h.n_in, 3);
}

/* ---- copies ---- */

static void copies_cross_pieces_and_stop_at_the_end(void **state)
{
    struct fixture *f = *state;
    struct guest_buf b[4] = {{f->buf, 3, false},
                             {f->buf + 100, 2, false},
                             {f->buf + 200, 1, true},
                             {f->buf + 300, 4, true}};
    uint8_t out[8] = {0};
    struct iovec iov[4];
    size_t bytes;

    memcpy(guest_ptr(&f->g, f->buf, 3), "abc", 3);
    memcpy(guest_ptr(&f->g, f->buf + 100, 2), "de", 2);
    (void)guest_add(&f->g, 0, b, 4);
    assert_int_equal(vq_pop(&f->q, &f->c), 1);
    assert_int_equal(vq_chain_read(&f->c, 0, out, 8), 5); /* never the writable part */
    assert_memory_equal(out, "abcde", 5);
    assert_int_equal(vq_chain_read(&f->c, 2, out, 2), 2);
    assert_memory_equal(out, "cd", 2);
    assert_int_equal(vq_chain_read(&f->c, 5, out, 2), 0);
    assert_int_equal(vq_chain_read(&f->c, 99, out, 2), 0);
    assert_int_equal(vq_chain_write(&f->c, 0, "12345678", 8), 5);
    assert_memory_equal(guest_ptr(&f->g, f->buf + 200, 1), "1", 1);
    assert_memory_equal(guest_ptr(&f->g, f->buf + 300, 5), "2345\0", 5);
    assert_int_equal(vq_chain_write(&f->c, 4, "zz", 2), 1);
    assert_int_equal(vq_iov_slice(f->c.iov, f->c.n_out, 1, 3, iov, 4, &bytes), 2);
    assert_int_equal(bytes, 3);
    assert_int_equal(iov[0].iov_len, 2);
    assert_int_equal(iov[1].iov_len, 1);
    assert_int_equal(vq_iov_slice(f->c.iov, f->c.n_out, 1, 3, iov, 1, &bytes), 1);
    assert_int_equal(bytes, 2);
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(geometry_is_checked_whole),
        T(size_is_a_power_of_two_within_the_maximum),
        T(chains_are_taken_or_refused),
        T(indirect_tables_are_taken_or_refused),
        T(indirect_table_in_a_hole_is_refused),
        T(direct_descriptors_may_precede_a_table),
        T(available_index_may_not_jump),
        T(chains_in_flight_are_bounded),
        T(used_elements_wrap_with_the_indices),
        T(interrupts_follow_the_used_event),
        T(interrupts_follow_the_flag_without_event_idx),
        T(kicks_are_asked_for_and_declined),
        T(a_chain_can_be_put_back),
        T(too_many_pieces_for_the_caller_leave_the_chain),
        T(copies_cross_pieces_and_stop_at_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
