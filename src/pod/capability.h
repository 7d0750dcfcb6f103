/* SPDX-License-Identifier: Apache-2.0 */
/* Linux capabilities by name, as bit numbers and sets. */
#pragma once

#include <stdint.h>

/* The bit of "CAP_CHOWN", "chown", …; -EINVAL. */
int capability_parse(const char *name);
uint64_t capability_all(void);
/* What container runtimes give by default. */
uint64_t capability_default(void);
