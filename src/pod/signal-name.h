/* SPDX-License-Identifier: Apache-2.0 */
/* Signals by name. */
#pragma once

/* "SIGTERM", "TERM", "15", "RTMIN+3" (any case); the number, or -EINVAL. */
int signal_parse(const char *name);
