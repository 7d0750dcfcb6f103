/* SPDX-License-Identifier: Apache-2.0 */
/* The first milliseconds of the guest: from the kernel's initramfs to a root of our own with the
 * kernel's file systems mounted and the listed modules loaded. */
#pragma once

#include "base/error.h"

/* Mounts proc, sys, dev, pts, cgroup2, run and tmp in a small tmpfs, loads the modules of
 * /modules.list, frees the initramfs and makes the tmpfs the root, so that containers can pivot.
 * A module that is missing or refused is told on the console and is no failure by itself. */
int early_init(struct error **err);
