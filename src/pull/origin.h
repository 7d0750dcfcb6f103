/* SPDX-License-Identifier: Apache-2.0 */
/* Where manifests and blobs come from: a registry, or an OCI image layout on disk. */
#pragma once

#include "pull/registry.h"

struct origin {
    const struct pull_request *req; /* borrowed */
    struct registry *registry;      /* owned; NULL: the layout */
    int stop_fd;                    /* borrowed */
};

int origin_init(struct origin *o, const struct pull_request *req, int stop_fd);
void origin_done(struct origin *o);
/* A connection for one thread; NULL for a layout. */
struct http *origin_connect(const struct origin *o);

/* The manifest or index that name (a tag or "sha256:…") means, as bytes; its digest is not checked. */
int origin_manifest(struct origin *o, struct http *h, const char *name, struct buf *out,
                    char **ret_type, struct error **err);
/* A verified blob: reading to the end succeeds only with the right bytes. */
int origin_blob(struct origin *o, struct http *h, const struct oci_digest *digest, uint64_t size,
                _Atomic uint64_t *done, struct source **ret, struct error **err);
