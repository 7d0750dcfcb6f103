/* SPDX-License-Identifier: Apache-2.0 */
/* Everything nexus-vmm will ever open, opened. After resources_open no path is needed any more. */
#pragma once

#include "base/error.h"
#include "vmm/options.h"

/* -EBADF: not given. Owned. */
struct resources {
    int kvm, kernel, initramfs, net, scratch, control, console, counters;
};

/* Inherited descriptors are checked to be open and get close-on-exec. High tier. */
int resources_open(const struct options *options, struct resources *ret, struct error **err);
void resources_close(struct resources *r);
