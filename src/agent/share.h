/* SPDX-License-Identifier: Apache-2.0 */
/* What containers have that is neither of an image nor of a mapped region: parts of the pod's share, a
 * directory of the host's over virtio-fs, and memory of a size, both for as long as the guest lives. */
#pragma once

#include "agent/agent-internal.h"
#include "gen/msg/nexus.pb-c.h"

/* True for a mount that is here, not in region.h. */
static inline bool is_shared(const Nexus__VolumeMount *m)
{
    return m->share || m->memory_bytes;
}
/* Mounts what m is a part of, if that is not done. -EAGAIN without err: the device is not there (yet). */
int share_get(struct agent *a, const Nexus__VolumeMount *m, struct error **err);
/* Where m's source is, in the agent's root; the caller's. */
char *share_path(const struct agent *a, const Nexus__VolumeMount *m);
