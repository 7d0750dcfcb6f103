/* SPDX-License-Identifier: Apache-2.0 */
/* What all devices share: set-up and the serving loop. The transport (mmio.c) knows registers, the
 * ring walker (queue.c) knows rings, this file knows neither. */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "base/clock.h"
#include "virtio/device-impl.h"

void virtio_device_init(struct virtio_device *dev, const struct virtio_ops *ops, uint64_t offered,
                        size_t config_bytes)
{
    *dev = (struct virtio_device){
        .ops = ops,
        .offered =
            offered | VIRTIO_FEATURE(VIRTIO_F_VERSION_1) | VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX),
        .config_bytes = config_bytes,
    };
}

void virtio_device_free(struct virtio_device *dev)
{
    if (dev)
        dev->ops->free(dev);
}

/* One batch. 1: the turn is used up; 0: the queue is empty; -EAGAIN: the device has to wait;
 * -EPROTO: failed. */
static int serve_batch(struct virtio_device *dev, struct vq *q, virtio_serve_fn fn)
{
    uint64_t until = clock_mono_ns() + VIRTIO_SERVE_NS;
    struct vq_chain c;

    for (unsigned n = 0; n < VIRTIO_SERVE_CHAINS; n++) {
        const char *fault = NULL;
        int r = vq_pop(q, &c);

        if (r == 0)
            return 0;
        if (r > 0)
            r = fn(dev, &c, &fault);
        if (!dev->running)
            return -EPROTO; /* the device failed or was reset in a callback of its own */
        if (r == -EAGAIN) {
            vq_rewind(q, 1);
            return -EAGAIN;
        }
        if (r < 0) {
            virtio_device_fail(dev, q->fault ? q->fault : fault);
            return -EPROTO;
        }
        vq_push(q, c.head, (uint32_t)r);
        if (n % 4 == 3 && clock_mono_ns() >= until)
            return 1;
    }
    return 1;
}

void virtio_queue_serve(struct virtio_device *dev, unsigned qi, virtio_serve_fn fn)
{
    struct vq *q = &dev->vq[qi];
    int r;

    if (!dev->running || !vq_is_started(q))
        return;
    vq_kicks_off(q);
    r = serve_batch(dev, q, fn);
    if (!dev->running)
        return;
    virtio_queue_flush(dev, qi);
    /* what came between the last look and the request for a kick has its turn next time round */
    if (r == 1 || (r == 0 && vq_kicks_on(q)))
        virtio_queue_again(dev, qi);
}
