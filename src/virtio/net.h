/* SPDX-License-Identifier: Apache-2.0 */
/* Network over a TAP device, one queue pair, mergeable receive buffers, checksum and segmentation
 * offload as far as the TAP accepts them. Frames go from the TAP into the guest's buffers and back
 * without a copy here. */
#pragma once

#include <stdint.h>

struct loop;
struct virtio_device;

struct virtio_net_config {
    int tap_fd;     /* IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, made non-blocking here; borrowed */
    uint8_t mac[6]; /* the guest's */
    uint16_t mtu;   /* 0: not told to the guest; else 68 … 65535 */
};

/* An fd that is no TAP but keeps frames apart (a datagram socket, in tests) is served without
 * offloads, each frame behind a virtio header of 12 bytes.
 * 0; -EINVAL: mtu, or a TAP of the wrong kind; errno of the TAP's ioctls; -ENOMEM. */
int virtio_net_new(struct loop *loop, const struct virtio_net_config *cfg,
                   struct virtio_device **ret);
