/* SPDX-License-Identifier: Apache-2.0 */
/* gmem: a guest address becomes a pointer only as a whole range inside one slot; read-only slots give
 * no writable pointer; RAM is one sealed memfd without pages until they are touched; pages given back
 * read as zeros and are gone from the file. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "kvm/gmem.h"
#include "kvm/layout.h"
#include "lib/test.h"

#define MIB (1ULL << 20)
#define GIB (1ULL << 30)
#define RAM (3 * GIB + 64 * MIB) /* both slots; the pages are never touched */
#define HIGH LAYOUT_RAM_HIGH_BASE
#define PMEM (5 * GIB)

static struct gmem *mem;
static uint8_t *pmem_page;

static int set_up(void **state)
{
    pmem_page = mmap(NULL, 4 * MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return gmem_new(RAM, &mem) < 0 || gmem_add_readonly(mem, PMEM, pmem_page, 4 * MIB) < 0;
}

static int tear_down(void **state)
{
    gmem_free(mem);
    return munmap(pmem_page, 4 * MIB);
}

static const struct {
    const char *name;
    uint64_t gpa, len;
    enum gmem_access access;
    int r;
} rows[] = {
    {"first_byte", 0, 1, GMEM_WRITE, 0},
    {"whole_low_slot", 0, 3 * GIB, GMEM_WRITE, 0},
    {"one_past_low_slot", 0, 3 * GIB + 1, GMEM_READ, -EFAULT},
    {"last_low_byte", 3 * GIB - 1, 1, GMEM_READ, 0},
    {"first_byte_of_the_hole", 3 * GIB, 1, GMEM_READ, -EFAULT},
    {"range_starting_in_ram_ending_in_hole", 3 * GIB - 4, 8, GMEM_READ, -EFAULT},
    {"whole_high_slot", HIGH, 64 * MIB, GMEM_WRITE, 0},
    {"one_past_high_slot", HIGH, 64 * MIB + 1, GMEM_WRITE, -EFAULT},
    {"byte_before_high_slot", HIGH - 1, 1, GMEM_READ, -EFAULT},
    {"empty_range", 0x1000, 0, GMEM_READ, -EINVAL},
    {"wrapping_range", 0x1000, UINT64_MAX, GMEM_READ, -EFAULT},
    {"wrapping_from_the_top", UINT64_MAX, 2, GMEM_READ, -EFAULT},
    {"read_of_pmem", PMEM, 4 * MIB, GMEM_READ, 0},
    {"write_of_pmem", PMEM, 1, GMEM_WRITE, -EROFS},
    {"read_past_pmem", PMEM + 4 * MIB - 1, 2, GMEM_READ, -EFAULT},
};

static void span_is_inside_one_slot_or_refused(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct span span = {.len = 77};

        print_message("# %s\n", rows[i].name);
        assert_int_equal(gmem_span(mem, rows[i].gpa, rows[i].len, rows[i].access, &span),
                         rows[i].r);
        assert_true(span.len == (rows[i].r ? 77 : rows[i].len));
    }
}

static void slots_lie_side_by_side_without_overlap(void **state)
{
    struct span low, high;

    assert_int_equal(gmem_span(mem, 3 * GIB - 1, 1, GMEM_READ, &low), 0);
    assert_int_equal(gmem_span(mem, HIGH, 1, GMEM_READ, &high), 0);
    assert_ptr_equal((uint8_t *)low.ptr + 1, high.ptr);
    assert_true(gmem_ram_end(mem) == HIGH + 64 * MIB);
}

static void copies_refuse_what_span_refuses(void **state)
{
    uint32_t value = 0xA5A5A5A5, got = 0;

    assert_int_equal(gmem_write(mem, 0x2000, &value, sizeof(value)), 0);
    assert_int_equal(gmem_read(mem, 0x2000, &got, sizeof(got)), 0);
    assert_int_equal(got, value);
    assert_int_equal(gmem_write(mem, PMEM, &value, sizeof(value)), -EROFS);
    assert_int_equal(gmem_read(mem, 3 * GIB - 2, &got, sizeof(got)), -EFAULT);
    assert_int_equal(gmem_read(mem, 3 * GIB - 2, &got, 0), 0);
}

static void discarded_pages_read_as_zeros(void **state)
{
    uint64_t value = 1;

    assert_int_equal(gmem_write(mem, 0x10000, &value, sizeof(value)), 0);
    assert_int_equal(gmem_discard(mem, 0x10000, GMEM_PAGE), 0);
    assert_int_equal(gmem_read(mem, 0x10000, &value, sizeof(value)), 0);
    assert_true(value == 0);
    assert_int_equal(gmem_discard(mem, 0x10001, GMEM_PAGE), -EINVAL);
    assert_int_equal(gmem_discard(mem, 0x10000, 1), -EINVAL);
    assert_int_equal(gmem_discard(mem, PMEM, GMEM_PAGE), -EROFS);
}

static uint64_t stored_bytes(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void ram_is_a_memfd_of_a_fixed_size(void **state)
{
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    struct gmem_slot low, high;
    struct stat st;

    assert_true(gmem_slot_get(mem, 0, &low) && gmem_slot_get(mem, 1, &high));
    assert_int_equal(low.fd, high.fd);
    assert_int_equal(fcntl(low.fd, F_GET_SEALS) & ~0x20 /* F_SEAL_EXEC */, seals);
    assert_int_equal(fcntl(low.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal(fstat(low.fd, &st), 0);
    assert_true((uint64_t)st.st_size == RAM);
    assert_int_equal(ftruncate(low.fd, 4096), -1);
    assert_int_equal(ftruncate(low.fd, RAM + 4096), -1);
    assert_true(gmem_slot_get(mem, 2, &low));
    assert_true(low.readonly && low.fd < 0);
}

/* What a device's process sees that maps a slot by its fd and offset. */
static void another_mapping_of_a_slot_shows_the_same_bytes(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        uint32_t value = 0xC0FFEE00 + i, got = 0;
        struct gmem_slot slot;
        void *view;

        assert_true(gmem_slot_get(mem, i, &slot));
        view = mmap(NULL, (size_t)slot.len, PROT_READ, MAP_SHARED, slot.fd, (off_t)slot.fd_offset);
        assert_ptr_not_equal(view, MAP_FAILED);
        assert_int_equal(gmem_write(mem, slot.gpa + slot.len - 4, &value, 4), 0);
        memcpy(&got, (uint8_t *)view + slot.len - 4, 4);
        assert_int_equal(got, value);
        assert_int_equal(munmap(view, (size_t)slot.len), 0);
        assert_int_equal(gmem_discard(mem, slot.gpa + slot.len - GMEM_PAGE, GMEM_PAGE), 0);
    }
}

static void pages_exist_from_the_first_write_until_they_are_discarded(void **state)
{
    struct gmem *m = NULL;
    struct gmem_slot slot;
    uint8_t one = 1;

    assert_int_equal(gmem_new(GMEM_RAM_MIN, &m), 0);
    assert_true(gmem_slot_get(m, 0, &slot));
    assert_int_equal(stored_bytes(slot.fd), 0);
    assert_int_equal(gmem_write(m, 5 * MIB, &one, 1), 0);
    assert_in_range(stored_bytes(slot.fd), GMEM_PAGE, 2 * MIB); /* a small page or a huge one */
    assert_int_equal(gmem_discard(m, 4 * MIB, 2 * MIB), 0);
    assert_int_equal(stored_bytes(slot.fd), 0);
    gmem_free(m);
}

/* With huge pages or without: what was there stays, and nothing else than its 2 MiB pieces appears. */
static void expected_range_keeps_its_bytes_and_its_bounds(void **state)
{
    struct gmem *m = NULL;
    struct gmem_slot slot;
    uint64_t value = 0x1122334455667788, got = 0;

    assert_int_equal(gmem_new(GMEM_RAM_MIN, &m), 0);
    assert_true(gmem_slot_get(m, 0, &slot));
    assert_int_equal(gmem_write(m, 5 * MIB + 8, &value, 8), 0);
    gmem_expect(m, 5 * MIB, 2 * MIB); /* touches two pieces: 4 to 8 MiB */
    assert_in_range(stored_bytes(slot.fd), GMEM_PAGE, 4 * MIB);
    assert_int_equal(gmem_read(m, 5 * MIB + 8, &got, 8), 0);
    assert_true(got == value);
    gmem_expect(m, GMEM_RAM_MIN - 1, 1);
    gmem_expect(m, GMEM_RAM_MIN, 4096); /* outside: ignored, as is what follows */
    gmem_expect(m, 0, 0);
    gmem_expect(m, 0, UINT64_MAX);
    assert_in_range(stored_bytes(slot.fd), GMEM_PAGE, 6 * MIB);
    gmem_free(m);
}

static void readonly_slots_are_placed_and_reused(void **state)
{
    uint64_t gpa = 0;
    int first, again;

    /* the first free place is behind the region that set_up put on the GiB */
    assert_int_equal(gmem_find_readonly(mem, 2 * MIB, 1ULL << 40, &gpa), 0);
    assert_true(gpa == PMEM + 4 * MIB);
    assert_int_equal(gmem_find_readonly(mem, 2 * MIB, PMEM + 5 * MIB, &gpa), -ENOSPC);
    assert_int_equal(gmem_find_readonly(mem, UINT64_MAX - 1, UINT64_MAX, &gpa), -ENOSPC);
    first = gmem_add_readonly(mem, PMEM + 4 * MIB, pmem_page, 2 * MIB);
    assert_true(first > 0);
    assert_int_equal(gmem_add_readonly(mem, PMEM + 4 * MIB, pmem_page, 2 * MIB), -EEXIST);
    assert_int_equal(gmem_add_readonly(mem, PMEM + 5 * MIB, pmem_page, 2 * MIB), -EINVAL);
    assert_int_equal(gmem_add_readonly(mem, 0, pmem_page, 2 * MIB), -EEXIST);
    assert_int_equal(gmem_add_readonly(mem, UINT64_MAX - 2 * MIB + 1, pmem_page, 2 * MIB), -EINVAL);
    assert_int_equal(gmem_remove_readonly(mem, 0), -ENOENT);
    assert_int_equal(gmem_remove_readonly(mem, PMEM + 4 * MIB), first);
    assert_false(gmem_is_readonly(mem, PMEM + 4 * MIB));
    again = gmem_add_readonly(mem, PMEM + 4 * MIB, pmem_page, 2 * MIB);
    assert_int_equal(again, first);
    assert_int_equal(gmem_remove_readonly(mem, PMEM + 4 * MIB), first);
}

static void number_of_readonly_slots_is_limited(void **state)
{
    uint64_t gpa = 0;
    unsigned n = 0;
    int r;

    for (;;) {
        assert_int_equal(gmem_find_readonly(mem, 2 * MIB, 1ULL << 40, &gpa), 0);
        r = gmem_add_readonly(mem, gpa, pmem_page, 2 * MIB);
        if (r < 0)
            break;
        n++;
    }
    assert_int_equal(r, -ENOSPC);
    assert_int_equal(n, LIMIT_REGIONS + LIMIT_PARKED - 1); /* one is there since set_up */
}

static void sizes_outside_the_limits_are_refused(void **state)
{
    struct gmem *m = NULL;

    assert_int_equal(gmem_new(0, &m), -EINVAL);
    assert_int_equal(gmem_new(GMEM_RAM_MIN - 2 * MIB, &m), -EINVAL);
    assert_int_equal(gmem_new(GMEM_RAM_MIN + 4096, &m), -EINVAL);
    assert_int_equal(gmem_new(GMEM_RAM_MAX + 2 * MIB, &m), -EINVAL);
    assert_null(m);
    assert_int_equal(gmem_new(GMEM_RAM_MIN, &m), 0);
    assert_true(gmem_ram_end(m) == HIGH);
    gmem_free(m);
    gmem_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(span_is_inside_one_slot_or_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(slots_lie_side_by_side_without_overlap, set_up, tear_down),
        cmocka_unit_test_setup_teardown(copies_refuse_what_span_refuses, set_up, tear_down),
        cmocka_unit_test_setup_teardown(discarded_pages_read_as_zeros, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ram_is_a_memfd_of_a_fixed_size, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_mapping_of_a_slot_shows_the_same_bytes, set_up,
                                        tear_down),
        cmocka_unit_test(pages_exist_from_the_first_write_until_they_are_discarded),
        cmocka_unit_test(expected_range_keeps_its_bytes_and_its_bounds),
        cmocka_unit_test_setup_teardown(readonly_slots_are_placed_and_reused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(number_of_readonly_slots_is_limited, set_up, tear_down),
        cmocka_unit_test(sizes_outside_the_limits_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
