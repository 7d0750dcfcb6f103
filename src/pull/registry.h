/* SPDX-License-Identifier: Apache-2.0 */
/* A registry behind its endpoints: tries, back-off, authentication, resumption. Shared by the threads of a
 * pull; each brings its own struct http.
 *
 * Tries: LIMIT_PULL_TRIES per object; 429 and 5xx and broken connections are tried again after a jittered,
 * doubling wait or what Retry-After says (at most LIMIT_PULL_RETRY_AFTER_S). A 404 or a dead endpoint
 * passes to the next endpoint. Source: OCI distribution specification 1.1. */
#pragma once

#include "pull/http.h"
#include "pull/request.h"
#include "pull/source.h"

struct registry;
/* Borrows req and stop_fd. */
struct registry *registry_new(const struct pull_request *req, int stop_fd);
void registry_free(struct registry *g);
DEFINE_CLEANUP(struct registry *, registry_free);

/* GET manifests/<name> (a tag, or "sha256:…") into out. ret_type: its Content-Type (caller's). */
int registry_manifest(struct registry *g, struct http *h, const char *name, struct buf *out,
                      char **ret_type, struct error **err);
/* The bytes of a blob of size bytes; breaks are resumed where they happened. Not verified. h belongs to
 * the source until it is freed. */
struct source *registry_blob(struct registry *g, struct http *h, const struct oci_digest *digest,
                             uint64_t size);
