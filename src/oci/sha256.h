/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 in pieces, over OpenSSL's EVP. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "oci/digest.h"

struct sha256;
/* NULL without memory. */
struct sha256 *sha256_new(void);
void sha256_add(struct sha256 *s, const void *bytes, size_t len);
/* The digest of everything added; the state can only be freed afterwards. */
void sha256_finish(struct sha256 *s, struct oci_digest *ret);
void sha256_free(struct sha256 *s);
DEFINE_CLEANUP(struct sha256 *, sha256_free);

/* Of the first len bytes of an open file, read from its beginning. 0; -ENODATA: it is shorter; errno. */
int sha256_of_file(int fd, uint64_t len, struct oci_digest *ret);
/* Of a whole buffer. */
void sha256_of(const void *bytes, size_t len, struct oci_digest *ret);
