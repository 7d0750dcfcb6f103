/* SPDX-License-Identifier: Apache-2.0 */
/* One pull from reference to durable files: manifest, config, the layers that are missing (several at a
 * time), the merged metadata. */
#pragma once

#include "pull/converter.h"
#include "pull/request.h"

/* converters: req->concurrency of them, started. dir_fd: the image directory (oci/image-dir.h). Reports progress and, on success, the result. On failure
 * nothing but finished layers stays. 0 or an errno with err set. */
int image_fetch(const struct pull_request *req, struct converter *converters, int dir_fd,
                struct error **err);
