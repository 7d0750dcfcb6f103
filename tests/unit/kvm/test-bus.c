/* SPDX-License-Identifier: Apache-2.0 */
/* bus: an access reaches the one object whose range holds all of it; nobody there reads as ones. */
#include <string.h>

#include "kvm/bus.h"
#include "kvm/layout.h"
#include "lib/test.h"

struct probe {
    uint64_t offset;
    uint32_t len;
    unsigned reads, writes;
};

static void on_read(void *ud, uint64_t offset, void *data, uint32_t len)
{
    struct probe *p = ud;

    p->offset = offset;
    p->len = len;
    p->reads++;
    memset(data, 0x11, len);
}

static void on_write(void *ud, uint64_t offset, const void *data, uint32_t len)
{
    struct probe *p = ud;

    p->offset = offset;
    p->len = len;
    p->writes++;
}

static const struct bus_ops ops = {.read = on_read, .write = on_write};
static const struct bus_ops write_only = {.write = on_write};

static void access_goes_to_its_range(void **state)
{
    _cleanup_(bus_freep) struct bus *bus = NULL;
    struct probe window = {0}, last = {0}, other = {0};
    uint32_t v = 0;

    assert_int_equal(bus_new(&bus), 0);
    assert_int_equal(bus_add_mmio(bus, LAYOUT_MMIO_WINDOW(3), 0x1000, &ops, &window), 0);
    assert_int_equal(
        bus_add_mmio(bus, LAYOUT_MMIO_WINDOW(LAYOUT_MMIO_WINDOWS - 1), 0x1000, &ops, &last), 0);
    assert_int_equal(bus_add_mmio(bus, 0xC0000000, 8, &ops, &other), 0);
    assert_true(bus_mmio_read(bus, LAYOUT_MMIO_WINDOW(3) + 0x60, &v, 4));
    assert_true(window.offset == 0x60 && window.len == 4 && v == 0x11111111);
    assert_true(bus_mmio_write(bus, LAYOUT_MMIO_WINDOW(LAYOUT_MMIO_WINDOWS) - 4, &v, 4));
    assert_true(last.offset == 0xFFC && last.writes == 1);
    assert_true(bus_mmio_write(bus, 0xC0000004, &v, 4));
    assert_true(other.offset == 4);
}

static void nobody_there_reads_ones(void **state)
{
    _cleanup_(bus_freep) struct bus *bus = NULL;
    struct probe p = {0};
    const uint64_t addresses[] = {
        LAYOUT_MMIO_WINDOW(2),         /* empty window */
        LAYOUT_MMIO_WINDOW(3) + 0xFFE, /* crosses the end of its window */
        LAYOUT_MMIO_WINDOW(LAYOUT_MMIO_WINDOWS),
        0,
        UINT64_MAX,
        UINT64_MAX - 2,
    };
    uint32_t v;

    assert_int_equal(bus_new(&bus), 0);
    assert_int_equal(bus_add_mmio(bus, LAYOUT_MMIO_WINDOW(3), 0x1000, &ops, &p), 0);
    for (size_t i = 0; i < ARRAY_SIZE(addresses); i++) {
        v = 0;
        assert_false(bus_mmio_read(bus, addresses[i], &v, 4));
        assert_int_equal(v, UINT32_MAX);
        assert_false(bus_mmio_write(bus, addresses[i], &v, 4));
    }
    v = 0;
    assert_false(bus_port_read(bus, 0xFFFF, &v, 4));
    assert_int_equal(v, UINT32_MAX);
    assert_int_equal(p.reads + p.writes, 0);
}

static void write_only_range_reads_ones_but_is_claimed(void **state)
{
    _cleanup_(bus_freep) struct bus *bus = NULL;
    struct probe p = {0};
    uint8_t v = 0;

    assert_int_equal(bus_new(&bus), 0);
    assert_int_equal(bus_add_port(bus, 0x600, 2, &write_only, &p), 0);
    assert_true(bus_port_read(bus, 0x601, &v, 1));
    assert_int_equal(v, 0xFF);
    assert_true(bus_port_write(bus, 0x600, &v, 1));
    assert_int_equal(p.writes, 1);
}

static void overlaps_and_nonsense_are_refused(void **state)
{
    _cleanup_(bus_freep) struct bus *bus = NULL;
    int r = 0;

    assert_int_equal(bus_new(&bus), 0);
    assert_int_equal(bus_add_mmio(bus, LAYOUT_MMIO_WINDOW(0), 0x1000, &ops, NULL), 0);
    assert_int_equal(bus_add_mmio(bus, LAYOUT_MMIO_WINDOW(0), 0x1000, &ops, NULL), -EEXIST);
    assert_int_equal(bus_add_mmio(bus, LAYOUT_MMIO_WINDOW(1), 0x2000, &ops, NULL), -EINVAL);
    assert_int_equal(bus_add_mmio(bus, LAYOUT_MMIO_WINDOW(1) + 4, 4, &ops, NULL), -EINVAL);
    assert_int_equal(bus_add_mmio(bus, UINT64_MAX, 2, &ops, NULL), -EINVAL);
    assert_int_equal(bus_add_port(bus, 0x3F8, 8, &ops, NULL), 0);
    assert_int_equal(bus_add_port(bus, 0x3FF, 1, &ops, NULL), -EEXIST);
    assert_int_equal(bus_add_port(bus, 0xFFFF, 2, &ops, NULL), -EINVAL);
    assert_int_equal(bus_add_port(bus, 0x70, 0, &ops, NULL), -EINVAL);
    for (uint16_t port = 0x1000; r == 0; port = (uint16_t)(port + 16))
        r = bus_add_port(bus, port, 1, &ops, NULL);
    assert_int_equal(r, -ENOSPC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(access_goes_to_its_range),
        cmocka_unit_test(nobody_there_reads_ones),
        cmocka_unit_test(write_only_range_reads_ones_but_is_claimed),
        cmocka_unit_test(overlaps_and_nonsense_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
