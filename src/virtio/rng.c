/* SPDX-License-Identifier: Apache-2.0 */
/* Entropy for the guest. Start at serve(). */
#include "virtio/rng.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <sys/random.h>

#include "base/checked.h"
#include "virtio/device-impl.h"

#define REQUEST_BYTES_MAX (64U << 10) /* filled per request; a longer buffer is filled in part */
#define CHAIN_BYTES_MAX (4U << 20)

static int serve(struct virtio_device *dev, const struct vq_chain *c, const char **ret_fault)
{
    uint32_t done = 0;

    for (unsigned i = 0; i < c->n_in && done < REQUEST_BYTES_MAX; i++) {
        const struct iovec *v = &c->iov[c->n_out + i];
        size_t want = min_of(v->iov_len, (size_t)(REQUEST_BYTES_MAX - done));
        ssize_t n = getrandom(v->iov_base, want, 0);

        if (n <= 0)
            break; /* EINTR on a long request: what there is will do */
        done += (uint32_t)n;
        if ((size_t)n < want)
            break;
    }
    return (int)done;
}

static void rng_kick(struct virtio_device *dev, unsigned q)
{
    virtio_queue_serve(dev, q, serve);
}

static void rng_free(struct virtio_device *dev)
{
    free(dev);
}

static const struct virtio_ops rng_ops = {
    .name = "rng",
    .device_id = VIRTIO_ID_RNG,
    .queues = 1,
    .queue_size = 64,
    .bytes_max = CHAIN_BYTES_MAX,
    .kick = rng_kick,
    .free = rng_free,
};

int virtio_rng_new(struct virtio_device **ret)
{
    struct virtio_device *dev = malloc(sizeof(*dev));

    if (!dev)
        return -ENOMEM;
    virtio_device_init(dev, &rng_ops, 0, 0);
    *ret = dev;
    return 0;
}
