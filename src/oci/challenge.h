/* SPDX-License-Identifier: Apache-2.0 */
/* WWW-Authenticate: what a registry wants before it serves. Sans-IO.
 * Source: RFC 9110 §11.6.1; distribution specification, token authentication. */
#pragma once

#include "base/cleanup.h"

#define OCI_CHALLENGE_BYTES 8192 /* longest header looked at */

enum oci_auth_scheme { OCI_AUTH_BEARER, OCI_AUTH_BASIC };
struct oci_challenge {
    enum oci_auth_scheme scheme;
    char *realm, *service, *scope; /* owned; NULL when absent */
};

/* The strongest scheme we know in one header value (Bearer before Basic). ret is untouched on error.
 * -EOPNOTSUPP: only other schemes; -EINVAL: not a challenge; -E2BIG: longer than the limit. */
int oci_challenge_parse(const char *header, struct oci_challenge *ret);
void oci_challenge_done(struct oci_challenge *c);
