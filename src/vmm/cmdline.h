/* SPDX-License-Identifier: Apache-2.0 */
/* The guest kernel's command line. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* serial: the kernel talks on ttyS0. append: NULL or more arguments. The caller frees. */
char *cmdline_build(bool serial, const char *append);
