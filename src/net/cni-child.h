/* SPDX-License-Identifier: Apache-2.0 */
/* One plugin process on the event loop: spawned, read with bounds, ended, reaped. Knows nothing of
 * CNI beyond its limits. Private to net.
 *
 * Life: start → (terminate) → done. The child's process group is killed when its leader has ended,
 * before the leader is reaped (so the number cannot have been reused). A leader that survives
 * SIGKILL for CNI_STUCK_MS (it hangs in the kernel) is given up: done comes, and the loop reaps it
 * whenever it ends. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/error.h"

#define CNI_STUCK_MS 5000

struct cni_child;

struct cni_outcome {
    int r;           /* 0: it ended by itself; else why we ended it: the reason given to terminate,
                           -EMSGSIZE: too much on stdout */
    int exit_code;   /* -1: did not exit */
    int signal;      /* 0: was not killed */
    const char *out; /* borrowed; stdout, at most LIMIT_CNI_STDOUT_BYTES */
    size_t out_len;
    const char *tail; /* borrowed; the end of stderr */
    size_t tail_len;
};

/* From the loop, once; the child is freed when it returns. */
typedef void (*cni_child_done_fn)(const struct cni_outcome *o, void *userdata);

/* Starts path with env and exactly fds 0-2: input (text, copied into a memfd), two pipes. cwd is /,
 * no signal is blocked or ignored, session of its own. Errors: of exec and of making fds. */
int cni_child_start(sd_event *event, const char *path, char *const *env, const char *input,
                    cni_child_done_fn done, void *userdata, struct cni_child **ret,
                    struct error **err);
/* SIGTERM to the group, CNI_TERM_GRACE_MS later SIGKILL. reason: negative errno for the outcome; the
 * first one counts. */
void cni_child_terminate(struct cni_child *c, int reason);
/* SIGKILL, no callback; the loop reaps it. NULL is fine. */
void cni_child_free(struct cni_child *c);
