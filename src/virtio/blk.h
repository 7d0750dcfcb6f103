/* SPDX-License-Identifier: Apache-2.0 */
/* A block device on a file descriptor of the host: raw bytes, never probed for a format. I/O runs on a
 * thread of the device, one request after the other in the guest's order, so that a slow disk holds up
 * neither the network nor vsock. Without `durable` no flush is offered, and the guest sends none: what
 * it writes lives as long as the host does, which is all that scratch space needs. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct virtio_device;

struct virtio_blk_config {
    int fd;         /* regular file or block device; borrowed */
    uint64_t bytes; /* size shown to the guest, a multiple of 512, > 0 */
    bool read_only; /* writes are refused by the device itself, whatever the driver believes */
    bool durable;   /* offer FLUSH: fdatasync, which holds the loop up for as long as it takes */
    bool discard;   /* DISCARD and WRITE_ZEROES punch holes (regular files) */
    const char *serial; /* at most 20 bytes are told to the guest; NULL: none */
};

/* Starts the thread, with all signals blocked; it ends when the device is freed. A reset or a detach
 * waits for the requests it is at, at most 4 MiB of I/O.
 * 0; -EINVAL: bytes; -ENOMEM; errno of eventfd, epoll and thread creation. */
int virtio_blk_new(struct loop *loop, const struct virtio_blk_config *cfg,
                   struct virtio_device **ret);
