/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines of the agent: to the guest's console, and to the host as GuestLog. */
#pragma once

#include "agent/agent-internal.h"

void guest_log_start(struct agent *a);
