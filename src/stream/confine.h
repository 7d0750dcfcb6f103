/* SPDX-License-Identifier: Apache-2.0 */
/* What nexus-stream gives up before it serves its first client: capabilities, new privileges, every file by name
 * (Landlock), and all system calls but those of a server that accepts, and connects to unix sockets. It stays
 * root's: nexus-vmm's sockets are. */
#pragma once

#include "base/error.h"

/* 0, or errno with *err set. A kernel without Landlock is none. */
int confine(struct error **err);
