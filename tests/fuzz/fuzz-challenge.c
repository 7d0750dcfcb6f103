/* SPDX-License-Identifier: Apache-2.0 */
/* WWW-Authenticate headers. */
#include <stdint.h>
#include <string.h>

#include "base/str.h"
#include "oci/challenge.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = str_ndup((const char *)data, size);
    struct oci_challenge c;

    if (oci_challenge_parse(text, &c) == 0)
        oci_challenge_done(&c);
    free(text);
    return 0;
}
