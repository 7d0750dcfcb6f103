/* SPDX-License-Identifier: Apache-2.0 */
/* Tells the guest where a region is and answers flushes. A flush that is never answered leaves a
 * task of the guest in uninterruptible sleep, so every request gets an answer. */
#include "virtio/pmem.h"

#include <errno.h>
#include <linux/virtio_ids.h>

#include "base/checked.h"
#include "base/le.h"
#include "virtio/device-impl.h"

#define ALIGN (2ULL << 20)
#define CONFIG_START 0U
#define CONFIG_SIZE 8U
#define CONFIG_BYTES 16U
#define REQUEST_FLUSH 0U
#define RESPONSE_OK 0U
#define RESPONSE_FAILED 1U

static int serve(struct virtio_device *dev, const struct vq_chain *c, const char **ret_fault)
{
    uint8_t type[4], answer[4];
    bool flush;

    /* nothing can be dirty in a read-only region: a flush is done as soon as it is asked for */
    flush =
        vq_chain_read(c, 0, type, sizeof(type)) == sizeof(type) && le32_load(type) == REQUEST_FLUSH;
    le32_store(answer, flush ? RESPONSE_OK : RESPONSE_FAILED);
    return (int)vq_chain_write(c, 0, answer, sizeof(answer));
}

static void pmem_kick(struct virtio_device *dev, unsigned q)
{
    virtio_queue_serve(dev, q, serve);
}

static void pmem_free(struct virtio_device *dev)
{
    free(dev);
}

static const struct virtio_ops pmem_ops = {
    .name = "pmem",
    .device_id = VIRTIO_ID_PMEM,
    .queues = 1,
    .queue_size = 64,
    .bytes_max = 4096,
    .kick = pmem_kick,
    .free = pmem_free,
};

int virtio_pmem_new(uint64_t start_gpa, uint64_t bytes, struct virtio_device **ret)
{
    struct virtio_device *dev;
    uint64_t end;

    if (start_gpa % ALIGN || bytes % ALIGN || bytes == 0 || !checked_add(start_gpa, bytes, &end))
        return -EINVAL;
    dev = malloc(sizeof(*dev));
    if (!dev)
        return -ENOMEM;
    virtio_device_init(dev, &pmem_ops, 0, CONFIG_BYTES);
    le64_store(dev->config + CONFIG_START, start_gpa);
    le64_store(dev->config + CONFIG_SIZE, bytes);
    *ret = dev;
    return 0;
}
