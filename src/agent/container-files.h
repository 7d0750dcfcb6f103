/* SPDX-License-Identifier: Apache-2.0 */
/* A container's files as the agent keeps them: <run>/containers/<id>/{rootfs,files} and
 * <run>/scratch/<id>/{upper,work}. */
#pragma once

#include "agent/container.h"
#include "agent/rootfs.h"

/* Mounts the overlay and writes the inline files (their content is freed then). */
int container_files_make(struct container *k, struct error **err);
/* What rootfs_enter needs but devpts and console. */
int container_files_plan(const struct container *k, struct rootfs_plan *ret, struct error **err);
void container_files_plan_done(struct rootfs_plan *p);
/* Unmounts; the writable layer is removed by a child in the background. */
void container_files_remove(struct container *k);
