/* SPDX-License-Identifier: Apache-2.0 */
/* The control connection to nexus-vmm: hello, requests and their replies, events. Made again when it
 * is lost; containers do not notice. */
#pragma once

#include "agent/agent-internal.h"

/* Begins to connect (waiting for the device if need be). 0 or errno. */
int control_start(struct agent *a);
void control_free(struct control *c);

/* Answers request id: success, or the error. */
void control_reply(struct agent *a, uint64_t id, int r, const struct error *err);
/* Tells of an OOM kill. False: not now (no connection, or it is full); control_flush_events asks
 * the containers again. */
bool control_send_oom(struct agent *a, const char *container_id);
/* A line of log for the host; dropped when nobody listens or too much is waiting. */
void control_send_log(struct agent *a, uint32_t level, const char *text);
