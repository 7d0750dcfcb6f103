/* SPDX-License-Identifier: Apache-2.0 */
/* A directory of the host's (virtio-fs), whose queues are served by another process: upstream's virtiofsd,
 * over vhost-user. That process gets the guest's RAM and the queues' eventfds; this one sees no request
 * as long as it lives. When it ends, or breaks the protocol, the device stays and answers every request,
 * also those it left unanswered, with EIO: its guest gets errors, never a task that waits for ever.
 *
 * Life: virtio_fs_new → ready(0), once, when the back end has said what it is (its sandbox is made then)
 * → attach to a window → … A device whose ready told an error is there only to be freed.
 * Thread: the loop's. The socket and eventfds are never waited for. */
#pragma once

#include <stdbool.h>

struct gmem;
struct loop;
struct virtio_device;

#define VIRTIO_FS_TAG_MAX 36U

struct virtio_fs_config {
    int fd;                 /* a connected stream socket; the device's on success */
    const struct gmem *mem; /* borrowed for the device's life */
    const char *tag;        /* 1 to VIRTIO_FS_TAG_MAX bytes: what the guest mounts it by */
    /* 0; -ETIMEDOUT, -ECONNRESET, -EPROTO, -EOPNOTSUPP: the back end is none. May free the device only
     * after it returned. */
    void (*ready)(void *userdata, int r);
    void *userdata;
};

/* 0; -EINVAL: the tag; errno. */
int virtio_fs_new(struct loop *loop, const struct virtio_fs_config *cfg,
                  struct virtio_device **ret);
/* False: its back end has gone. */
bool virtio_fs_is_alive(const struct virtio_device *dev);
