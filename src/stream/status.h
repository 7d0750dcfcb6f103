/* SPDX-License-Identifier: Apache-2.0 */
/* How a remote command ended, as the last message on its error channel. */
#pragma once

#include "base/buf.h"
#include "base/error.h"

/* Appends what protocol version says: 4 and newer: a metav1.Status in JSON; older: text, and nothing for success.
 * code: 0 to 255. 0 or -ENOMEM. */
int status_exit(struct buf *out, unsigned version, int code);
/* It could not run, or was lost. text: made printable JSON whatever it holds. */
int status_failure(struct buf *out, unsigned version, const char *text);
