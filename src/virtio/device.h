/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio devices as the machine sees them: windows of registers (virtio-mmio version 2) with or
 * without a device behind them. Devices themselves include device-impl.h; their constructors are in
 * net.h, vsock.h, pmem.h, rng.h, console.h and blk.h.
 *
 * Life of a cold device, on the loop's thread, before vCPUs run:
 *   virtio_rng_new(&dev); virtio_mmio_new(loop, mem, irq_fd, &w); virtio_mmio_attach(w, dev);
 *   for each queue q: KVM_IOEVENTFD(window + VIRTIO_MMIO_NOTIFY, len 4, datamatch q,
 *                                   virtio_mmio_kick_fd(w, q)); KVM_IRQFD(gsi, irq_fd)
 * and of a hot slot: virtio_mmio_new() at start (an empty window shows DeviceID 0), attach and
 * ioeventfds before its presence bit is set; after the guest unbound it: take the ioeventfds out,
 * virtio_mmio_detach(), slot free again.
 *
 * Threads: virtio_mmio_access() from any vCPU thread; virtio_mmio_stop() from any thread; everything
 * else on the loop's thread, which is the thread that calls virtio_mmio_new(). Queues are touched on
 * that thread only. A register write that changes the device's life (DRIVER_OK, reset) is handed to
 * the loop and waited for; a machine that joins its vCPU threads from the loop's thread must call
 * virtio_mmio_stop() on every window first.
 * Source: virtio 1.2 sections 2.1 to 2.9 and 4.2. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

struct gmem;
struct loop;
struct virtio_device;
struct virtio_mmio;

#define VIRTIO_MMIO_WINDOW_BYTES 0x1000U
#define VIRTIO_MMIO_NOTIFY 0x50U /* QueueNotify: where ioeventfds go */
#define VIRTIO_QUEUES_MAX 3U     /* of any device here */

/* What happened in a window, since it was made. Read any time; values only grow. */
struct virtio_counters {
    uint64_t accesses;   /* register accesses that reached user space */
    uint64_t rejected;   /* of these: not allowed in that state, or malformed */
    uint64_t kicks;      /* queue notifications served */
    uint64_t interrupts; /* pulses sent */
    uint64_t failures;   /* times the device gave up on the guest: NEEDS_RESET */
};

/* An empty window. irq_fd: eventfd of the window's GSI (edge), borrowed, written for each interrupt;
 * several windows may share one. 0 or errno. */
int virtio_mmio_new(struct loop *loop, const struct gmem *mem, int irq_fd,
                    struct virtio_mmio **ret);
/* Detaches too. No vCPU may be able to reach the window any more. NULL is allowed. */
void virtio_mmio_free(struct virtio_mmio *w);
DEFINE_CLEANUP(struct virtio_mmio *, virtio_mmio_free);

/* Puts a device behind an empty window; from now on the window owns it. -EBUSY: not empty; errno of
 * eventfd or epoll; on failure dev stays the caller's. */
int virtio_mmio_attach(struct virtio_mmio *w, struct virtio_device *dev);
/* Resets and frees the device; the window reads as empty afterwards. Harmless on an empty one. */
void virtio_mmio_detach(struct virtio_mmio *w);
bool virtio_mmio_is_empty(struct virtio_mmio *w);
/* A driver of the guest has begun with its device. */
bool virtio_mmio_is_driven(struct virtio_mmio *w);
/* A driver was running (DRIVER_OK) at some time since the window was made, with whatever device. */
bool virtio_mmio_was_driven(struct virtio_mmio *w);
/* True if the guest's driver is bound and running (DRIVER_OK). */
bool virtio_mmio_is_active(struct virtio_mmio *w);

/* Queues of the attached device; 0 if empty. */
unsigned virtio_mmio_queue_count(const struct virtio_mmio *w);
/* eventfd that kicks queue q; borrowed, valid until detach. -EINVAL: no such queue. */
int virtio_mmio_kick_fd(const struct virtio_mmio *w, unsigned q);

/* One guest access of len bytes (1, 2, 4, 8) at offset of the window: data is filled (read) or taken
 * (write). Anything the specification does not allow reads all ones or is ignored. Never fails. */
void virtio_mmio_access(struct virtio_mmio *w, uint64_t offset, void *data, unsigned len,
                        bool is_write);

/* Resets the device as the driver would and leaves it in its window: guest memory is not touched any
 * more. */
void virtio_mmio_quiesce(struct virtio_mmio *w);

/* No access waits for the loop any more, now and later. For the way down. */
void virtio_mmio_stop(struct virtio_mmio *w);

void virtio_mmio_counters(const struct virtio_mmio *w, struct virtio_counters *ret);
/* "net", "vsock", … ; "empty". Static storage. */
const char *virtio_mmio_name(struct virtio_mmio *w);

/* For a device that was never attached. NULL is allowed. */
void virtio_device_free(struct virtio_device *dev);
DEFINE_CLEANUP(struct virtio_device *, virtio_device_free);
