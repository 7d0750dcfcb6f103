/* SPDX-License-Identifier: Apache-2.0 */
/* The image config: an explicit list of the keys we use; everything else is dropped unread. The values
 * go into the guest's process and decide nothing on the host.
 * Source: OCI image specification 1.1, config.md. */
#pragma once

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/digest.h"

#define OCI_CONFIG_STRINGS 4096        /* elements of env, entrypoint, cmd */
#define OCI_PROCESS_BYTES (512U << 10) /* text of a process in all */

/* What a container starts with unless CRI says otherwise. Absent vectors are NULL, absent strings "". */
struct oci_process {
    char **entrypoint, **cmd, **env;        /* owned, NULL-terminated */
    char *user, *working_dir, *stop_signal; /* owned */
};
void oci_process_done(struct oci_process *p);
/* {"entrypoint": […], "cmd": […], "env": […], "user": …, "working_dir": …, "stop_signal": …} */
json_t *oci_process_to_json(const struct oci_process *p);
int oci_process_from_json(const json_t *doc, struct oci_process *ret, struct error **err);

struct oci_config {
    char *architecture, *os; /* owned; "" when absent */
    struct oci_process process;
    struct oci_digest *diff_ids; /* owned; base first */
    size_t n_diff_ids;
};
/* -EBADMSG: not an image config; -E2BIG: a limit; -EOPNOTSUPP: rootfs of another kind, a digest we
 * cannot verify. ret is untouched on error. */
int oci_config_parse(const void *bytes, size_t len, struct oci_config *ret, struct error **err);
void oci_config_done(struct oci_config *c);

/* USER of an image, as CRI reports it: a number or a name, the group dropped. "" is uid 0.
 *   ret_uid   the number, or -1 where it is a name
 *   ret_name  the name (the caller frees), or NULL where it is a number
 * -EINVAL: digits that are no uid (0 … 4294967294): never looked up as a name. */
int oci_user_parse(const char *user, int64_t *ret_uid, char **ret_name);
