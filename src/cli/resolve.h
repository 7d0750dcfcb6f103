/* SPDX-License-Identifier: Apache-2.0 */
/* What a person types (an id, the start of one, or a name) to what the server knows. */
#pragma once

#include "cli/cli.h"

enum object_kind { OBJECT_CONTAINER = 1, OBJECT_POD = 2 };

/* text: a full id, the beginning of one, or the exact name of a container or pod; it must mean one thing
 * among the kinds asked for (a mask). A full id wins over a name, a name over a prefix. 0: *ret_kind,
 * and *ret_id, the caller's. -ENOENT; -EINVAL: it means several, which *err lists. */
int resolve(struct cli *cli, const char *text, unsigned kinds, enum object_kind *ret_kind,
            char **ret_id, struct error **err);
/* The same for containers alone. */
int resolve_container(struct cli *cli, const char *text, char **ret_id, struct error **err);
