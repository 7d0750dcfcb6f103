/* SPDX-License-Identifier: Apache-2.0 */
#include "base/json-scan.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

/* The index after the string that begins at i (on its quote), or len + 1 if it does not end. */
static size_t skip_string(const uint8_t *p, size_t i, size_t len)
{
    for (i++; i < len; i++) {
        if (p[i] == '\\')
            i++;
        else if (p[i] == '"')
            return i + 1;
    }
    return len + 1;
}

static bool is_plain(uint8_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '+' || c == '.';
}

int json_scan(const void *bytes, size_t len, unsigned max_depth, size_t max_tokens)
{
    const uint8_t *p = bytes;
    size_t tokens = 0, i = 0;
    unsigned depth = 0;

    while (i < len) {
        uint8_t c = p[i];

        if (c == '}' || c == ']') {
            if (depth-- == 0)
                return -EINVAL;
            i++;
            continue;
        }
        if (c != '"' && c != '{' && c != '[' && !is_plain(c)) {
            i++;
            continue;
        }
        if (++tokens > max_tokens)
            return -E2BIG;
        if (c == '"') {
            i = skip_string(p, i, len);
            if (i > len)
                return -EINVAL;
        } else if (c == '{' || c == '[') {
            if (++depth > max_depth)
                return -E2BIG;
            i++;
        } else {
            while (i < len && is_plain(p[i]))
                i++;
        }
    }
    return depth == 0 ? 0 : -EINVAL;
}
