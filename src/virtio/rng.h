/* SPDX-License-Identifier: Apache-2.0 */
/* Entropy from getrandom(2). At most 64 KiB per request, bounded work per turn. */
#pragma once

struct virtio_device;

/* 0 or -ENOMEM. */
int virtio_rng_new(struct virtio_device **ret);
