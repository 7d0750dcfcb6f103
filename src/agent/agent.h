/* SPDX-License-Identifier: Apache-2.0 */
/* nexus-agent as a whole. In a guest it is PID 1; with settings.guest false it runs in namespaces a
 * test made, over unix sockets. */
#pragma once

#include "agent/agent-internal.h"

/* Sets everything up and begins to talk to the host. */
int agent_new(const struct settings *set, struct agent **ret, struct error **err);
/* Until shutdown. The program's exit code. */
int agent_run(struct agent *a);
void agent_free(struct agent *a);
