/* SPDX-License-Identifier: Apache-2.0 */
/* The calls that end things. Each is idempotent at the server. id: full. */
#pragma once

#include "cli/cli.h"

int container_stop(struct cli *cli, const char *id, uint64_t grace_seconds, struct error **err);
int container_remove(struct cli *cli, const char *id, struct error **err);
int pod_stop(struct cli *cli, const char *id, struct error **err);
int pod_remove(struct cli *cli, const char *id, struct error **err);
