/* SPDX-License-Identifier: Apache-2.0 */
/* The head of a request to nexus-stream, and the answer to it. */
#include <stdlib.h>
#include <string.h>

#include "stream/upgrade.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int purpose = UPGRADE_REMOTE; purpose <= UPGRADE_FORWARD; purpose++) {
        char *copy = malloc(size ? size : 1); /* the exact size: nothing behind it may be read */
        struct http_head h;
        struct upgrade u;
        struct buf out;

        if (!copy)
            abort();
        if (size)
            memcpy(copy, data, size);
        buf_init(&out, 8192);
        if (http_head_parse(copy, size, &h) > 0 &&
            upgrade_negotiate(&h, (enum upgrade_purpose)purpose, &u, &out) == 0 &&
            (u.version > 5 || memcmp(out.data, "HTTP/1.1 101 ", 13) != 0))
            abort();
        buf_done(&out);
        free(copy);
    }
    return 0;
}
