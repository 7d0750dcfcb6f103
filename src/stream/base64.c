/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/base64.h"

#include <errno.h>

#include <openssl/evp.h>

size_t base64_encode(const uint8_t *bytes, size_t len, uint8_t *ret)
{
    return (size_t)EVP_EncodeBlock(ret, bytes, (int)len);
}

int base64_decode(const uint8_t *text, size_t len, struct buf *out)
{
    uint8_t *to;
    int n;

    buf_clear(out);
    if (len == 0)
        return 0;
    to = buf_reserve(out, len);
    if (!to)
        return -ENOMEM;
    n = len % 4 ? -1 : EVP_DecodeBlock(to, text, (int)len);
    if (n < 0)
        return -EPROTO;
    n -= text[len - 1] == '=' ? text[len - 2] == '=' ? 2 : 1 : 0;
    out->used = (size_t)n;
    return 0;
}
