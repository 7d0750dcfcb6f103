/* SPDX-License-Identifier: Apache-2.0 */
/* nexusd put together: loop, stores, node, services, signals. */
#pragma once

#include "base/error.h"
#include "daemon/config.h"

/* Runs until SIGTERM or SIGINT; pods go on running then. Exit code of the process, or errno with *err
 * set when it could not start. */
int daemon_run(const struct config *config, struct error **err);
