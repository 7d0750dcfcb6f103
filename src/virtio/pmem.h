/* SPDX-License-Identifier: Apache-2.0 */
/* A persistent-memory region that only says where it is: the memory slot is the machine's. For
 * read-only regions: a flush is answered "done" at once, without touching the region. */
#pragma once

#include <stdint.h>

struct virtio_device;

/* start_gpa, bytes: multiples of 2 MiB, bytes > 0, no wrap; else -EINVAL. -ENOMEM. */
int virtio_pmem_new(uint64_t start_gpa, uint64_t bytes, struct virtio_device **ret);
