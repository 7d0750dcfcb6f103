/* SPDX-License-Identifier: Apache-2.0 */
/* The bus: which object answers a port or MMIO access of the guest. Filled before the first vCPU
 * runs and constant from then on, so dispatch takes no lock; what is hot-added changes behind its
 * window, not in this table.
 *
 * A handler runs on the thread of the vCPU that made the access; several may run at once. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

struct bus_ops {
    /* offset: bytes from the start of the range; len: 1, 2, 4 or 8, and offset + len stays inside.
     * data is preset with ones, in guest (little-endian) order. */
    void (*read)(void *userdata, uint64_t offset, void *data, uint32_t len);
    void (*write)(void *userdata, uint64_t offset, const void *data, uint32_t len);
};

struct bus;

int bus_new(struct bus **ret); /* 0 or -ENOMEM */
void bus_free(struct bus *bus);
DEFINE_CLEANUP(struct bus *, bus_free);

/* ops static, userdata borrowed. 0; -EEXIST: overlaps another range; -EINVAL: empty or wrapping;
 * -ENOSPC. */
int bus_add_mmio(struct bus *bus, uint64_t gpa, uint64_t len, const struct bus_ops *ops,
                 void *userdata);
int bus_add_port(struct bus *bus, uint16_t port, uint16_t len, const struct bus_ops *ops,
                 void *userdata);

/* data: len bytes; 1 <= len <= 8. Reads nobody claims give ones, writes are dropped; both return
 * false then. */
bool bus_mmio_read(const struct bus *bus, uint64_t gpa, void *data, uint32_t len);
bool bus_mmio_write(const struct bus *bus, uint64_t gpa, const void *data, uint32_t len);
bool bus_port_read(const struct bus *bus, uint16_t port, void *data, uint32_t len);
bool bus_port_write(const struct bus *bus, uint16_t port, const void *data, uint32_t len);
