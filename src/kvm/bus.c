/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch of guest accesses. virtio windows are found by an array index; the few other ranges by
 * a walk. */
#include "kvm/bus.h"

#include <string.h>

#include "base/checked.h"
#include "base/str.h"
#include "kvm/layout.h"

struct range {
    uint64_t start, len; /* len 0: not in use */
    const struct bus_ops *ops;
    void *userdata;
};

#define OTHER_RANGES 8U

struct bus {
    struct range windows[LAYOUT_MMIO_WINDOWS]; /* by (gpa - LAYOUT_MMIO) / 4 KiB */
    struct range mmio[OTHER_RANGES];
    struct range ports[OTHER_RANGES];
};

int bus_new(struct bus **ret)
{
    *ret = xcalloc(1, sizeof(**ret));
    return 0;
}

void bus_free(struct bus *bus)
{
    free(bus);
}

static int range_add(struct range *table, size_t n, const struct range *add)
{
    struct range *at = NULL;

    for (size_t i = 0; i < n; i++) {
        struct range *r = &table[i];

        if (!r->len) {
            at = at ? at : r;
            continue;
        }
        if (add->start < r->start + r->len && r->start < add->start + add->len)
            return -EEXIST;
    }
    if (!at)
        return -ENOSPC;
    *at = *add;
    return 0;
}

static bool window_of(uint64_t gpa, size_t *ret)
{
    if (gpa < LAYOUT_MMIO || gpa >= LAYOUT_MMIO_WINDOW(LAYOUT_MMIO_WINDOWS))
        return false;
    *ret = (size_t)((gpa - LAYOUT_MMIO) / LAYOUT_MMIO_BYTES);
    return true;
}

int bus_add_mmio(struct bus *bus, uint64_t gpa, uint64_t len, const struct bus_ops *ops,
                 void *userdata)
{
    struct range add = {gpa, len, ops, userdata};
    uint64_t end;
    size_t w;

    if (!len || !checked_add(gpa, len, &end))
        return -EINVAL;
    if (!window_of(gpa, &w))
        return range_add(bus->mmio, ARRAY_SIZE(bus->mmio), &add);
    if (gpa % LAYOUT_MMIO_BYTES || len > LAYOUT_MMIO_BYTES)
        return -EINVAL;
    return range_add(&bus->windows[w], 1, &add) < 0 ? -EEXIST : 0;
}

int bus_add_port(struct bus *bus, uint16_t port, uint16_t len, const struct bus_ops *ops,
                 void *userdata)
{
    struct range add = {port, len, ops, userdata};

    if (!len || (uint32_t)port + len > 0x10000U)
        return -EINVAL;
    return range_add(bus->ports, ARRAY_SIZE(bus->ports), &add);
}

static const struct range *range_find(const struct range *table, size_t n, uint64_t start,
                                      uint32_t len)
{
    for (size_t i = 0; i < n; i++) {
        const struct range *r = &table[i];

        if (start >= r->start && range_within(start - r->start, len, r->len))
            return r;
    }
    return NULL;
}

static const struct range *mmio_find(const struct bus *bus, uint64_t gpa, uint32_t len)
{
    size_t w;

    if (window_of(gpa, &w))
        return range_find(&bus->windows[w], 1, gpa, len);
    return range_find(bus->mmio, ARRAY_SIZE(bus->mmio), gpa, len);
}

static bool range_read(const struct range *r, uint64_t start, void *data, uint32_t len)
{
    memset(data, 0xFF, len);
    if (!r)
        return false;
    if (r->ops->read)
        r->ops->read(r->userdata, start - r->start, data, len);
    return true;
}

static bool range_write(const struct range *r, uint64_t start, const void *data, uint32_t len)
{
    if (!r)
        return false;
    if (r->ops->write)
        r->ops->write(r->userdata, start - r->start, data, len);
    return true;
}

bool bus_mmio_read(const struct bus *bus, uint64_t gpa, void *data, uint32_t len)
{
    return range_read(mmio_find(bus, gpa, len), gpa, data, len);
}

bool bus_mmio_write(const struct bus *bus, uint64_t gpa, const void *data, uint32_t len)
{
    return range_write(mmio_find(bus, gpa, len), gpa, data, len);
}

bool bus_port_read(const struct bus *bus, uint16_t port, void *data, uint32_t len)
{
    return range_read(range_find(bus->ports, ARRAY_SIZE(bus->ports), port, len), port, data, len);
}

bool bus_port_write(const struct bus *bus, uint16_t port, const void *data, uint32_t len)
{
    return range_write(range_find(bus->ports, ARRAY_SIZE(bus->ports), port, len), port, data, len);
}
