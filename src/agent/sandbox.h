/* SPDX-License-Identifier: Apache-2.0 */
/* The settings all containers of the pod share: host name, network, sysctls, /etc files, /dev/shm. */
#pragma once

#include "agent/agent-internal.h"

/* Applies c; may be called again with the same or other values. */
int sandbox_configure(struct agent *a, const Nexus__SandboxConfig *c, struct error **err);

/* "/proc/sys/net/core/somaxconn" of "net.core.somaxconn" (or with slashes) into out. -EINVAL: no
 * name of a sysctl. Sans-IO. */
int sandbox_sysctl_path(const char *name, char *out, size_t size);
/* Such a path belongs to a namespace: nothing else is set for a pod. */
bool sandbox_sysctl_is_namespaced(const char *path);
