/* SPDX-License-Identifier: Apache-2.0 */
/* A container's termination log: the file in which it leaves its last words. What the file ends with is told
 * to the host whenever it has changed, so that the host has it although the guest may die at any moment, and
 * once more at the container's end. A container that writes without pause is looked at every PAUSE_MS. */
#pragma once

#include "agent/agent-internal.h"

#define TERMINATION_PAUSE_MS 50

struct termination;

/* path: the file, which holds by now what the host has of it. 0 or errno. */
int termination_new(struct agent *a, const char *path, struct termination **ret);
void termination_free(struct termination *t); /* NULL is allowed */

/* From now on fn is called from the loop when the file may have changed. True: it has, and the host was told or
 * could not be told now: fn is called again after PAUSE_MS and not before. NULL: nobody listens any more. */
void termination_follow(struct termination *t, bool (*fn)(void *userdata), void *userdata);
/* The last LIMIT_TERMINATION_BYTES of the file. True if they are others than at the last call: *ret has
 * *ret_len of them then, borrowed until the next call. */
bool termination_read(struct termination *t, const uint8_t **ret, size_t *ret_len);
