/* SPDX-License-Identifier: Apache-2.0 */
/* The pod's writable space, <run>/scratch: the virtio-blk disk (ext4) or, without one, memory. */
#pragma once

#include "agent/agent-internal.h"

/* Mounts it at the first call. A disk that is there and cannot be mounted is an error, not memory. */
int scratch_mount(struct agent *a, struct error **err);
/* Writes out and unmounts; at the end of the guest. */
void scratch_unmount(struct agent *a);
