/* SPDX-License-Identifier: Apache-2.0 */
/* The first milliseconds of the guest: from the kernel's initramfs to a root of our own with the
 * kernel's file systems mounted and the listed modules loaded. */
#pragma once

#include <stdbool.h>

#include "base/error.h"

/* Mounts proc, sys, dev, pts, cgroup2, run and tmp in a small tmpfs, loads the modules of
 * /modules.list, frees the initramfs and makes the tmpfs the root, so that containers can pivot.
 * A module that is missing or refused is told on the console and is no failure by itself. */
int early_init(struct error **err);

/* One line of /modules.list: "virtio_net.ko param=1", '#' begins a comment. Splits line in place.
 * True: *ret_file is a file of /modules or an absolute path, and *ret_params its (maybe empty) parameters. */
bool early_parse_module(char *line, const char **ret_file, const char **ret_params);
/* Parameters that are "?WORD" make it a module of machines whose kernel command line has WORD. Others are
 * always wanted. */
bool early_module_is_wanted(const char *params, const char *cmdline);
