/* SPDX-License-Identifier: Apache-2.0 */
/* Pull requests, and the trust in any realm. */
#include <stdint.h>
#include <string.h>

#include "base/str.h"
#include "pull/request.h"
#include "pull/token.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = str_ndup((const char *)data, size);
    struct pull_request req;

    if (pull_request_parse(data, size, &req, NULL) == 0)
        pull_request_done(&req);
    (void)token_realm_is_trusted("https://r.example.org", text);
    free(text);
    return 0;
}
