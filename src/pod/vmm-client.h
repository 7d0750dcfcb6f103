/* SPDX-License-Identifier: Apache-2.0 */
/* nexusd's end of one nexus-vmm's control connection: requests with deadlines, answers in any order,
 * events. What comes back is hostile: bounded, checked, and it can end its own connection only.
 * The connection may break and be made anew at any time; nexus-vmm and its pod do not notice.
 * No callback runs inside a function of this header. Thread: the loop's. */
#pragma once

#include <stdbool.h>

#include <systemd/sd-event.h>

#include "base/error.h"
#include "gen/msg/nexus.pb-c.h"

struct vmm_client;
struct vmm_call;

struct vmm_client_ops {
    /* event: borrowed for the call. */
    void (*on_event)(void *userdata, const Nexus__ControlEvent *event);
    /* The connection is over (peer closed it, or broke the protocol): all calls were failed before.
     * The client is to be freed, here or later. */
    void (*on_closed)(void *userdata, int r, const char *why);
};

/* Connects to the socket name in the directory dirfd (no path length limit) and says hello; the
 * answer to that is given to on_hello as to any call (state set on success).
 * -ENOENT, -ECONNREFUSED: nobody there. -EAGAIN: its backlog is full. */
typedef void (*vmm_reply_fn)(void *userdata, int r, const Nexus__VmmState *state,
                             const struct error *err);
int vmm_client_connect(sd_event *event, int dirfd, const char *name, unsigned hello_deadline_ms,
                       const struct vmm_client_ops *ops, vmm_reply_fn on_hello, void *userdata,
                       struct vmm_client **ret, struct error **err);
/* Forgets all calls (their functions are not called), closes. Allowed in any callback. NULL too. */
void vmm_client_free(struct vmm_client *c);
DEFINE_CLEANUP(struct vmm_client *, vmm_client_free);

/* Closes the connection and fails all calls with -ECONNRESET; on_closed is not called. */
void vmm_client_abort(struct vmm_client *c, const char *why);

/* Sends m (id and n_fds are set here) with fds (borrowed, duplicated). fn is called once: 0 (state
 * set if the answer is one), the peer's error, -ETIMEDOUT after deadline_ms (0: never), -ECONNRESET.
 * Negative: nothing was sent: -E2BIG too many outstanding, -EMSGSIZE, -ENOTCONN. ret may be NULL. */
int vmm_client_call(struct vmm_client *c, Nexus__ControlMessage *m, const int *fds, size_t n_fds,
                    unsigned deadline_ms, vmm_reply_fn fn, void *userdata, struct vmm_call **ret,
                    struct error **err);
/* fn is not called any more; a late answer is dropped. NULL is allowed. */
void vmm_call_cancel(struct vmm_call *call);
