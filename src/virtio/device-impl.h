/* SPDX-License-Identifier: Apache-2.0 */
/* For the files that implement a device: the vtable, the common part, and what the transport does for
 * them. A device is its ops, its queues and its config bytes; it never sees a register. Everything
 * here runs on the loop's thread. Chains and their pieces must not be kept across turns of the loop. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/device.h"
#include "virtio/queue.h"

#define VIRTIO_CONFIG_BYTES_MAX 64U
#define VIRTIO_SERVE_CHAINS 64U    /* per queue and turn … */
#define VIRTIO_SERVE_NS 2000000ULL /* … or this long, then others have their turn */
#define VIRTIO_FEATURE(bit) (1ULL << (bit))

struct virtio_device;

struct virtio_ops {
    const char *name;
    uint32_t device_id;
    unsigned queues;     /* <= VIRTIO_QUEUES_MAX */
    uint16_t queue_size; /* most descriptors, a power of two <= VQ_SIZE_MAX */
    uint32_t bytes_max;  /* per chain */
    /* Another process serves the queues: this one does not hear kicks before virtio_queue_watch(). */
    bool foreign_kicks;
    /* The driver said DRIVER_OK; dev->features and dev->vq are set. 0 or errno: NEEDS_RESET. NULL:
     * nothing to do. Each queue is kicked once afterwards. */
    int (*activate)(struct virtio_device *dev);
    /* Forget the guest: no queue may be touched after it. Called after a reset, a failure and before
     * free, only if it was activated. May be NULL. */
    void (*reset)(struct virtio_device *dev);
    /* The guest put chains into started queue q, or there may be some. */
    void (*kick)(struct virtio_device *dev, unsigned q);
    /* Frees the whole object. */
    void (*free)(struct virtio_device *dev);
};

struct virtio_device {
    const struct virtio_ops *ops;
    struct virtio_mmio *window; /* borrowed; NULL: not attached */
    uint64_t offered;           /* feature bits; VERSION_1 and EVENT_IDX are added by init */
    uint64_t features;          /* negotiated; valid while running */
    bool running;               /* between activate and reset or failure */
    struct vq vq[VIRTIO_QUEUES_MAX];
    uint8_t config[VIRTIO_CONFIG_BYTES_MAX]; /* under the window's lock once attached */
    size_t config_bytes;
};

/* config_bytes: how much of dev->config the guest sees. */
void virtio_device_init(struct virtio_device *dev, const struct virtio_ops *ops, uint64_t offered,
                        size_t config_bytes);

static inline bool virtio_has(const struct virtio_device *dev, unsigned bit)
{
    return dev->features & VIRTIO_FEATURE(bit);
}

/* The guest broke the rules (reason: static text): NEEDS_RESET, a config interrupt, a rate-limited
 * line. The queues are dead from here on; ops->reset follows on the loop's next turn. */
void virtio_device_fail(struct virtio_device *dev, const char *reason);

/* Shows the guest what was pushed to queue q and interrupts it if it wants that. */
void virtio_queue_flush(struct virtio_device *dev, unsigned q);
/* Kicks queue q again on the loop's next turn: more work than one turn may do. */
void virtio_queue_again(struct virtio_device *dev, unsigned q);

/* For a device whose queues another process serves. The eventfd that the guest's kicks of queue q come to,
 * borrowed, as long as the device is attached. */
int virtio_queue_kick_fd(const struct virtio_device *dev, unsigned q);
/* From now on kicks of queue q come to ops->kick. 0 or errno. */
int virtio_queue_watch(struct virtio_device *dev, unsigned q);
/* Something was put into a used ring: the guest is interrupted. */
void virtio_queue_interrupt(struct virtio_device *dev);

/* Serves one chain. The bytes written into it (>= 0), or -EAGAIN: put it back and stop until
 * virtio_queue_again(); or -EPROTO with dev->vq[q].fault or *ret_fault set: the device fails. */
typedef int (*virtio_serve_fn)(struct virtio_device *dev, const struct vq_chain *c,
                               const char **ret_fault);
/* Takes chains until there are none, with kicks off meanwhile and one interrupt at the end; after
 * VIRTIO_SERVE_CHAINS or VIRTIO_SERVE_NS it asks to be called again. */
void virtio_queue_serve(struct virtio_device *dev, unsigned q, virtio_serve_fn fn);

/* Changes config bytes [at, at + n) and tells the guest: new generation, config interrupt. */
void virtio_config_set(struct virtio_device *dev, size_t at, const void *bytes, size_t n);
