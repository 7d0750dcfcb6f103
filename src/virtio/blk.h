/* SPDX-License-Identifier: Apache-2.0 */
/* A block device on a file descriptor of the host: raw bytes, never probed for a format. I/O is
 * synchronous and its amount per turn of the loop bounded: meant for scratch space in the host's page
 * cache. Without `durable` no flush is offered, and the guest sends none: what it writes lives as long
 * as the host does, which is all that scratch space needs. */
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

/* 0; -EINVAL: bytes; -ENOMEM. */
int virtio_blk_new(struct loop *loop, const struct virtio_blk_config *cfg,
                   struct virtio_device **ret);
