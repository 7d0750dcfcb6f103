/* SPDX-License-Identifier: Apache-2.0 */
/* For tests and fuzzing of control.c. */
#pragma once

#include "vmm/control.h"

#define CONTROL_PENDING_MAX 16 /* connections without a hello yet */
#define CONTROL_FDS_MAX 512    /* descriptors waiting for their frame */

/* Adopts a connected, non-blocking unix stream socket as if it had been accepted. */
int control_adopt(struct control *c, int fd);
