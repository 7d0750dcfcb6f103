/* SPDX-License-Identifier: Apache-2.0 */
/* A guest's driver for tests and fuzzers: real guest memory, real rings, the real registers of one
 * window. Everything happens on the calling thread, which is the loop's; guest_run() lets the device
 * work until nothing is left to do. Honest by default; the raw fields are there to lie with. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event/loop.h"
#include "kvm/gmem.h"
#include "virtio/device.h"

#define GUEST_RAM_BYTES GMEM_RAM_MIN
#define GUEST_FEATURES_ALL UINT64_MAX /* whatever is offered */

struct guest_queue {
    uint16_t size;
    uint64_t desc, avail, used; /* gpa */
    uint16_t desc_next;         /* next descriptor to use, round robin */
    uint16_t avail_idx;
    uint16_t used_seen;
};

struct guest {
    struct loop *loop;
    struct gmem *mem;
    struct virtio_mmio *w;
    int irq_fd;
    uint64_t brk; /* next free gpa of the bump allocator */
    uint64_t features;
    struct guest_queue q[VIRTIO_QUEUES_MAX];
};

struct guest_buf {
    uint64_t gpa;
    uint32_t len;
    bool write; /* the device may write it */
};

/* Memory, loop and an empty window; aborts without memory. */
void guest_init(struct guest *g);
void guest_done(struct guest *g);
/* Attaches dev (consumed) and takes the driver to DRIVER_OK with queues of `size` descriptors.
 * features: wanted ones of those offered. False: refused somewhere. */
bool guest_start(struct guest *g, struct virtio_device *dev, uint64_t features, uint16_t size);
/* The steps of guest_start, for tests that stop in between. */
void guest_attach(struct guest *g, struct virtio_device *dev);
bool guest_negotiate(struct guest *g, uint64_t features);
bool guest_setup_queue(struct guest *g, unsigned q, uint16_t size);
bool guest_driver_ok(struct guest *g);
void guest_reset(struct guest *g);
/* Forgets all allocations and zeroes what was used: a fresh guest in the same memory. */
void guest_wipe(struct guest *g);

uint32_t guest_read(struct guest *g, uint64_t offset);
void guest_write(struct guest *g, uint64_t offset, uint32_t v);
uint8_t guest_config8(struct guest *g, uint64_t offset);
uint64_t guest_config64(struct guest *g, uint64_t offset);

/* Zeroed RAM of the guest. */
uint64_t guest_alloc(struct guest *g, uint64_t bytes);
void *guest_ptr(struct guest *g, uint64_t gpa, uint64_t len);

/* Writes descriptor i. */
void guest_desc(struct guest *g, unsigned q, uint16_t i, uint64_t gpa, uint32_t len, uint16_t flags,
                uint16_t next);
/* Makes head available, without a kick. */
void guest_offer(struct guest *g, unsigned q, uint16_t head);
/* A chain of n buffers, made available without a kick; its head. */
uint16_t guest_add(struct guest *g, unsigned q, const struct guest_buf *bufs, unsigned n);
void guest_kick(struct guest *g, unsigned q);
/* The driver's condition for a kick after its avail.idx moved from `from`. */
bool guest_wants_kick(struct guest *g, unsigned q, uint16_t from);
/* The next used element, or false. */
bool guest_used(struct guest *g, unsigned q, uint32_t *ret_head, uint32_t *ret_len);
void guest_set_used_event(struct guest *g, unsigned q, uint16_t v);

/* Turns of the loop until one has nothing to do (at most max). The turns that did something. */
unsigned guest_run(struct guest *g);
/* Pulses since the last call. */
unsigned guest_interrupts(struct guest *g);
/* Interrupt status, acknowledged like a driver does. */
uint32_t guest_take_interrupt(struct guest *g);
bool guest_needs_reset(struct guest *g);
