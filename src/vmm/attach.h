/* SPDX-License-Identifier: Apache-2.0 */
/* One attach: a client's unix connection that gets a copy of a container's output from now on, and may write to
 * its stdin. The container goes on whatever the client does: one that leaves is forgotten, one that does not read
 * is waited for up to LIMIT_ATTACH_PATIENCE_S and then ended with an ERROR frame. EXIT is the last frame when the
 * container ends; what is queued is delivered before the connection closes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "gen/msg/nexus.pb-c.h"
#include "wire/tlv.h"

struct attach;
struct container;
struct loop;

struct attach_ops {
    /* It is over; called from the loop, for the owner to free it. */
    void (*on_gone)(void *ud, struct attach *a);
};

/* Takes over fd (a non-blocking unix stream socket) and reader (with what was read already; *reader is left
 * empty), whatever the result; a failure is told to the client as an ERROR frame. c: RUNNING. 0 or errno. */
int attach_new(struct loop *loop, int fd, struct tlv_reader *reader, struct container *c,
               bool open_stdin, const struct attach_ops *ops, void *ud, struct attach **ret);
void attach_free(struct attach *a);

/* What the container does with its attaches; none is freed from within. */
struct attach *attach_of_node(struct list *node);
/* A frame of output. False: it waits; the same frame is to be offered again when the container is resumed. One
 * that has taken it already takes it no second time until attach_next. */
bool attach_output(struct attach *a, uint8_t type, const uint8_t *p, uint32_t n);
/* The frame is with everybody. */
void attach_next(struct attach *a);
/* The container's stdin has room. */
void attach_room(struct attach *a);
/* The container has ended, or (NULL) is no more: off its list. */
void attach_end(struct attach *a, const Nexus__ExitInfo *exit);
