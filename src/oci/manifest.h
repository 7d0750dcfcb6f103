/* SPDX-License-Identifier: Apache-2.0 */
/* Indexes and manifests, OCI and Docker forms. Data only; the caller has verified the digest.
 * Refused: schema 1, a media type that contradicts the content, a document with both manifests and
 * layers, digests other than SHA-256, too many of anything.
 * Source: OCI image specification 1.1, image-index.md, manifest.md; Docker image manifest v2.2. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/digest.h"

#define OCI_TYPE_INDEX "application/vnd.oci.image.index.v1+json"
#define OCI_TYPE_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define OCI_TYPE_DOCKER_LIST "application/vnd.docker.distribution.manifest.list.v2+json"
#define OCI_TYPE_DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define OCI_INDEX_ENTRIES 1024
#define OCI_BLOB_BYTES_MAX (64ULL << 30)

struct oci_descriptor {
    char *media_type; /* owned; "" when absent */
    struct oci_digest digest;
    uint64_t size; /* bytes */
    /* of an index's entries; NULL when absent */
    char *os, *architecture, *variant; /* owned */
};

enum oci_document_kind { OCI_INDEX, OCI_MANIFEST };
struct oci_document {
    enum oci_document_kind kind;
    struct oci_descriptor
        *entries; /* owned: manifests of an index, layers (base first) of a manifest */
    size_t n_entries;
    struct oci_descriptor config; /* of a manifest */
};

/* header_type: the Content-Type it came with, or NULL. ret is untouched on error.
 * -EBADMSG: not such a document; -E2BIG: a limit; -EOPNOTSUPP: understood and refused. */
int oci_document_parse(const void *bytes, size_t len, const char *header_type,
                       struct oci_document *ret, struct error **err);
void oci_document_done(struct oci_document *doc);

/* The entry of an index for linux and this architecture ("amd64"), the variant nearest to none.
 * Borrowed; NULL: the index has none. */
const struct oci_descriptor *oci_index_choose(const struct oci_document *index,
                                              const char *architecture);

/* 0 if it is a tar layer we read (plain, gzip, zstd). -EOPNOTSUPP: its content lies elsewhere by design
 * (nondistributable, foreign), or it is something else. */
int oci_layer_check(const struct oci_descriptor *layer, struct error **err);
