/* SPDX-License-Identifier: Apache-2.0 */
/* One ExecSync: a connection of its own to nexus-vmm, output collected up to a cap, the exact exit
 * code. Closing the connection kills the exec with all its processes, so time-out, a caller that
 * left and our own death all end it the same way. Thread: the loop's. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/error.h"
#include "gen/msg/nexus.pb-c.h"

struct vmm_exec;

struct vmm_exec_result {
    const uint8_t *out, *err; /* borrowed for the callback; out_len and err_len bytes */
    size_t out_len, err_len;
    uint64_t dropped; /* bytes beyond LIMIT_EXEC_OUTPUT_BYTES (both streams together) */
    int exit_code;    /* 127, 126: it could not be started, err has the reason as text */
};

/* Called once from the loop, never inside vmm_exec_start; the exec is gone when it returns.
 * r: 0 with result set; -ETIMEDOUT; -ECONNRESET: the VM ended; the guest's error. */
typedef void (*vmm_exec_fn)(void *userdata, int r, const struct vmm_exec_result *result,
                            const struct error *err);

/* spec: copied. timeout_ms 0: none. */
int vmm_exec_start(sd_event *event, int dirfd, const char *name, const Nexus__ExecSpec *spec,
                   uint64_t timeout_ms, vmm_exec_fn fn, void *userdata, struct vmm_exec **ret,
                   struct error **err);
/* Kills it; fn is not called. NULL is allowed. */
void vmm_exec_cancel(struct vmm_exec *x);
