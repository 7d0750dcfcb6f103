/* SPDX-License-Identifier: Apache-2.0 */
/* Content digests. SHA-256 is the only algorithm we verify, so it is the only one that parses.
 * Source: OCI image specification, descriptor.md "Digests". */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define OCI_DIGEST_HEX 64
#define OCI_DIGEST_PREFIX "sha256:"

struct oci_digest {
    char hex[OCI_DIGEST_HEX + 1]; /* lower case, terminated; "" is none */
};

/* "sha256:" and 64 lower-case hex digits, nothing else. 0; -EOPNOTSUPP: another algorithm;
 * -EINVAL: no digest. */
int oci_digest_parse(const char *text, struct oci_digest *ret);
/* 64 lower-case hex digits without a prefix? */
bool oci_hex_is_valid(const char *hex);
static inline bool oci_digest_is_set(const struct oci_digest *d)
{
    return d->hex[0] != '\0';
}
bool oci_digest_equal(const struct oci_digest *a, const struct oci_digest *b);
