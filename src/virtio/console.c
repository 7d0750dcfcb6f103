/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's hvc0, output only: queue 0 (input) is never used, queue 1 goes to the sink. */
#include "virtio/console.h"

#include <errno.h>
#include <linux/virtio_ids.h>

#include "base/checked.h"
#include "virtio/device-impl.h"

#define QUEUE_OUT 1U
#define CHAIN_BYTES_MAX (128U << 10)
#define TURN_BYTES (64U << 10)
#define CONFIG_BYTES 12U /* cols, rows, ports, emergency write: without features, all zero */

struct console {
    struct virtio_device dev;
    virtio_console_sink_fn sink;
    void *userdata;
    uint32_t turn_bytes; /* given to the sink in this turn */
};

static int serve(struct virtio_device *dev, const struct vq_chain *c, const char **ret_fault)
{
    struct console *con = container_of(dev, struct console, dev);
    uint8_t b[4096];
    size_t at = 0, n;

    if (con->turn_bytes >= TURN_BYTES)
        return -EAGAIN;
    while ((n = vq_chain_read(c, at, b, sizeof(b))) > 0) {
        con->sink(b, n, con->userdata);
        at += n;
    }
    con->turn_bytes += (uint32_t)at;
    return 0;
}

static void console_kick(struct virtio_device *dev, unsigned q)
{
    struct console *con = container_of(dev, struct console, dev);

    if (q != QUEUE_OUT)
        return;
    con->turn_bytes = 0;
    virtio_queue_serve(dev, q, serve);
    if (con->turn_bytes >= TURN_BYTES)
        virtio_queue_again(dev, q);
}

static void console_free(struct virtio_device *dev)
{
    free(container_of(dev, struct console, dev));
}

static const struct virtio_ops console_ops = {
    .name = "console",
    .device_id = VIRTIO_ID_CONSOLE,
    .queues = 2,
    .queue_size = 64,
    .bytes_max = CHAIN_BYTES_MAX,
    .kick = console_kick,
    .free = console_free,
};

int virtio_console_new(virtio_console_sink_fn sink, void *userdata, struct virtio_device **ret)
{
    struct console *con = calloc(1, sizeof(*con));

    if (!con)
        return -ENOMEM;
    con->sink = sink;
    con->userdata = userdata;
    virtio_device_init(&con->dev, &console_ops, 0, CONFIG_BYTES);
    *ret = &con->dev;
    return 0;
}
