/* SPDX-License-Identifier: Apache-2.0 */
/* What the configuration says about streaming's certificate, against the files themselves. */
#pragma once

#include "daemon/config.h"

/* Has nexus-stream judge them, which has the library for it; waits for that. 0 also without TLS; errno with *err set. */
int stream_check(const struct config *c, struct error **err);
