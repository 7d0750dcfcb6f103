/* SPDX-License-Identifier: Apache-2.0 */
/* The last steps of a child before it becomes a container's program: identity, limits, rights, stdio,
 * working directory, execve. Runs after the child stands in the container's namespaces and root. */
#pragma once

#include "agent/plan.h"

struct child_io {
    int in, out, err; /* for a terminal all three are its slave */
    bool terminal;
};

/* told: where the identity is left for the agent, in memory that it shares; NULL: nobody asks. Looks only at what the container's own root has. Never returns: the program runs, or the failure
 * went to status_fd. */
_Noreturn void child_become(struct process_plan *plan, const struct child_io *io,
                            struct user_identity *told, int status_fd);

/* Once, in the agent: what every child would have to ask the kernel anew. */
void child_learn(void);
/* First thing in a child of the agent: own session, not to be traced, dies with the agent, its own
 * score for the OOM killer. 0 or errno. */
int child_begin(int oom_score_adj, struct error **err);
