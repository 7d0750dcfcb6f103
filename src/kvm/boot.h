/* SPDX-License-Identifier: Apache-2.0 */
/* Puts kernel, initramfs, command line and the PVH start information into guest memory.
 * Source: Xen's include/public/arch-x86/hvm/start_info.h and docs/misc/pvh.pandoc. */
#pragma once

#include <stdint.h>

#include "base/error.h"

struct gmem;

struct boot_config {
    int kernel_fd;       /* regular file: uncompressed x86-64 vmlinux with a PVH note; borrowed */
    int initramfs_fd;    /* regular file; negative: none; borrowed */
    const char *cmdline; /* at most LAYOUT_CMDLINE_MAX - 1 bytes */
};

struct boot_info {
    uint64_t entry;         /* guest-physical */
    uint64_t start_info;    /* guest-physical */
    uint64_t copied_bytes;  /* of the kernel */
    uint64_t skipped_bytes; /* of the kernel: pages of zeros, which fresh memory has already */
};

/* mem: fresh. High tier. -ENOEXEC: not a kernel this can start; -E2BIG: does not fit into RAM. */
int boot_load(struct gmem *mem, const struct boot_config *cfg, struct boot_info *ret,
              struct error **err);
