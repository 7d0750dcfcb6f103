/* SPDX-License-Identifier: Apache-2.0 */
/* The guest kernel's command line. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* console: the kernel talks, early on the serial line and then on hvc0. append: NULL or more arguments. The caller frees. */
char *cmdline_build(bool console, const char *append);
