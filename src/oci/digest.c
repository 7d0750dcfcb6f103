/* SPDX-License-Identifier: Apache-2.0 */
#include "oci/digest.h"

#include <errno.h>
#include <string.h>

#include "base/str.h"

bool oci_hex_is_valid(const char *hex)
{
    return strspn(hex, "0123456789abcdef") == OCI_DIGEST_HEX && hex[OCI_DIGEST_HEX] == '\0';
}

int oci_digest_parse(const char *text, struct oci_digest *ret)
{
    const char *colon = text ? strchr(text, ':') : NULL;

    if (!colon || colon == text)
        return -EINVAL;
    if (!str_starts(text, OCI_DIGEST_PREFIX))
        return strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789+._-") == (size_t)(colon - text)
                   ? -EOPNOTSUPP
                   : -EINVAL;
    if (!oci_hex_is_valid(colon + 1))
        return -EINVAL;
    memcpy(ret->hex, colon + 1, sizeof(ret->hex));
    return 0;
}

bool oci_digest_equal(const struct oci_digest *a, const struct oci_digest *b)
{
    return memcmp(a->hex, b->hex, sizeof(a->hex)) == 0;
}
