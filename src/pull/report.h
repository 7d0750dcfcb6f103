/* SPDX-License-Identifier: Apache-2.0 */
/* What nexus-pull tells nexusd: one JSON object per line on stdout, each one write(2), from any thread.
 *
 *   {"event": "layer", "diff_id": "sha256:…", "state": "exists"|"start"|"done"}
 *   {"event": "progress", "bytes": N, "total": N}
 *   {"event": "done", "image": {"id", "digest", "layers": [{"diff_id", "data_bytes", "index_bytes"}],
 *                               "meta_bytes", "inodes", "process": {…}}}
 *   {"event": "error", "class": "not-found", "code": 2, "message": "…"}
 * The last line is "done" or "error". */
#pragma once

#include <jansson.h>

#include "base/error.h"

/* fd is borrowed. */
void report_init(int fd);
/* Consumes event. */
void report_line(json_t *event);
void report_error(const struct error *err, int r);
