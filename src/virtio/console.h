/* SPDX-License-Identifier: Apache-2.0 */
/* Output of the guest's hvc0. There is no input. The sink gets at most 64 KiB per turn and must not
 * block; what to keep of it is the sink's business. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct virtio_device;

/* bytes: from the guest, any values; borrowed for the call. */
typedef void (*virtio_console_sink_fn)(const uint8_t *bytes, size_t n, void *userdata);
/* 0 or -ENOMEM. */
int virtio_console_new(virtio_console_sink_fn sink, void *userdata, struct virtio_device **ret);
