/* SPDX-License-Identifier: Apache-2.0 */
#include "oci/sha256.h"

#include <openssl/evp.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/str.h"

#define READ_BYTES (256U << 10)

struct sha256 {
    EVP_MD_CTX *ctx; /* owned */
};

struct sha256 *sha256_new(void)
{
    _cleanup_(sha256_freep) struct sha256 *s = xcalloc(1, sizeof(*s));

    s->ctx = EVP_MD_CTX_new();
    if (!s->ctx || EVP_DigestInit_ex(s->ctx, EVP_sha256(), NULL) != 1)
        return NULL;
    return TAKE(s);
}

void sha256_add(struct sha256 *s, const void *bytes, size_t len)
{
    if (EVP_DigestUpdate(s->ctx, bytes, len) != 1)
        abort(); /* no such failure with a software digest */
}

void sha256_finish(struct sha256 *s, struct oci_digest *ret)
{
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned len = 0;

    if (EVP_DigestFinal_ex(s->ctx, md, &len) != 1 || len != OCI_DIGEST_HEX / 2)
        abort();
    hex_encode(md, len, ret->hex);
}

void sha256_free(struct sha256 *s)
{
    if (!s)
        return;
    EVP_MD_CTX_free(s->ctx);
    free(s);
}

int sha256_of_file(int fd, uint64_t len, struct oci_digest *ret)
{
    _cleanup_(sha256_freep) struct sha256 *s = sha256_new();
    _cleanup_(freep) uint8_t *buf = malloc(READ_BYTES);

    if (!s || !buf)
        return -ENOMEM;
    for (uint64_t at = 0; at < len;) {
        ssize_t n = pread_full(fd, buf, (size_t)min_of(len - at, (uint64_t)READ_BYTES), at);

        if (n <= 0)
            return n < 0 ? (int)n : -ENODATA;
        sha256_add(s, buf, (size_t)n);
        at += (uint64_t)n;
    }
    sha256_finish(s, ret);
    return 0;
}

void sha256_of(const void *bytes, size_t len, struct oci_digest *ret)
{
    _cleanup_(sha256_freep) struct sha256 *s = sha256_new();

    if (!s)
        abort();
    sha256_add(s, bytes, len);
    sha256_finish(s, ret);
}
