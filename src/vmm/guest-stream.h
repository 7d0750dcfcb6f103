/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's end of one stream connection (exec or container start): opens it, sends StreamOpen,
 * checks what comes back frame by frame. Order of the callbacks: on_started or on_error first;
 * on_output, on_termination…; then exactly one of on_exit, on_error, on_lost, on_violation, after which nothing comes
 * and the connection is closed (the owner still frees the object).
 * Hostile input: a frame is at most 8 KiB, numbers are range-checked, texts are made printable. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "gen/msg/nexus.pb-c.h"
#include "vmm/transport.h"

struct loop;
struct guest_stream;

/* A callback may free the stream. Messages are borrowed. */
struct guest_stream_ops {
    void (*on_started)(void *ud, const Nexus__StreamStarted *m);
    /* type: TLV_STDOUT or TLV_STDERR; n 0: that stream is over. False: no room; the frame is offered
     * again after guest_stream_resume, and the guest is not read until then. */
    bool (*on_output)(void *ud, uint8_t type, const uint8_t *p, uint32_t n);
    /* What the container's termination log ends with now; NULL: the process has none. */
    void (*on_termination)(void *ud, const uint8_t *p, uint32_t n);
    void (*on_exit)(void *ud, const Nexus__ExitInfo *exit);
    /* The process was not started, or the agent gave up on it. reply is an error, cleaned. */
    void (*on_error)(void *ud, const Nexus__StreamError *error);
    /* The connection ended without EXIT or ERROR, or did not start in time (-ETIMEDOUT). */
    void (*on_lost)(void *ud, int r);
    void (*on_violation)(void *ud, const char *what);
    /* guest_stream_write has room again. NULL if nothing is written. */
    void (*on_room)(void *ud);
};

/* Connects and sends open. start_ms: time until on_started or on_error. 0: a callback follows;
 * -EAGAIN, -EMSGSIZE, -ENOMEM. */
int guest_stream_new(struct loop *loop, const struct transport *transport,
                     const Nexus__StreamOpen *open, uint32_t start_ms,
                     const struct guest_stream_ops *ops, void *ud, struct guest_stream **ret);
/* Closes the connection at once (which ends an exec). NULL is allowed. */
void guest_stream_free(struct guest_stream *s);
DEFINE_CLEANUP(struct guest_stream *, guest_stream_free);

/* A frame for the process (STDIN, SIGNAL, RESIZE). 0; -EAGAIN: the queue is full, on_room follows. */
int guest_stream_write(struct guest_stream *s, uint8_t type, const void *value, size_t len);
/* on_output has room again. May call on_output and what follows it. */
void guest_stream_resume(struct guest_stream *s);
