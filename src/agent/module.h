/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel modules by lists: a line is "virtio_net.ko param=1", '#' begins a comment, what depends on another one comes
 * after it. The initramfs has the list of what every guest needs; others are in a region that comes with the first
 * container that needs them. A module that is missing or refused is told on the console and is no failure by
 * itself: what needs it fails. */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "gen/msg/nexus.pb-c.h"

struct agent;

/* Splits line in place. True: *ret_file is a file of the list's directory or an absolute path, and *ret_params its
 * (maybe empty) parameters. */
bool module_parse(char *line, const char **ret_file, const char **ret_params);
/* Parameters that are "?WORD" make it a module of machines whose kernel command line has WORD. Others are
 * always wanted. */
bool module_is_wanted(const char *params, const char *cmdline);

/* All of a list, in its order. dir: of the modules and, unless it is absolute, of the list. */
void modules_load(int dir, const char *list, const char *cmdline);

/* The lists that a container wants, each once in the guest's life. 0; -EAGAIN without err: the region's device is
 * not there yet; -EINVAL. */
int modules_get(struct agent *a, const Nexus__ContainerSpec *spec, struct error **err);
/* Offers their regions' devices to the driver, see region_want(). */
void modules_want(struct agent *a, const Nexus__ContainerSpec *spec);
