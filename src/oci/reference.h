/* SPDX-License-Identifier: Apache-2.0 */
/* Image references as people write them, in the one form containerd and the CRI tests expect:
 * "busybox" is docker.io/library/busybox:latest. A tag beside a digest is dropped: the digest says it.
 * Source: distribution/reference (grammar and normalisation rules), OCI distribution specification. */
#pragma once

#include "base/error.h"
#include "oci/digest.h"

struct oci_reference {
    char *host;               /* owned; "docker.io", "localhost:5000", "[::1]:5000" */
    char *repository;         /* owned; "library/busybox" */
    char *tag;                /* owned; NULL with a digest */
    struct oci_digest digest; /* unset with a tag */
};

/* Exactly one of tag and digest is set afterwards. ret needs no preparation and is untouched on
 * error. -EINVAL: not a reference, the text says why; -EOPNOTSUPP: a digest we cannot verify. */
int oci_reference_parse(const char *text, struct oci_reference *ret, struct error **err);
void oci_reference_done(struct oci_reference *ref);

/* "host/repository"; the caller frees. */
char *oci_reference_name(const struct oci_reference *ref);
/* "host/repository:tag", or "host/repository@sha256:…" where a digest is set; the caller frees. */
char *oci_reference_text(const struct oci_reference *ref);
/* "host/repository@sha256:hex" with another digest; the caller frees. */
char *oci_reference_with_digest(const struct oci_reference *ref, const struct oci_digest *digest);
