/* SPDX-License-Identifier: Apache-2.0 */
/* The end of the guest: SIGTERM to the containers, a grace time, SIGKILL, sync, power off. */
#pragma once

#include "agent/agent-internal.h"

/* A second call can only shorten the grace. */
void shutdown_begin(struct agent *a, uint32_t grace_ms);
void shutdown_free(struct shutdown *s); /* NULL is allowed */
/* A container ended: perhaps it was the last one. */
void shutdown_check(struct agent *a);
