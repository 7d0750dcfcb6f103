/* SPDX-License-Identifier: Apache-2.0 */
/* Image references: what parses, parses again from its own text to the same. */
#include <stdint.h>
#include <string.h>

#include "base/str.h"
#include "oci/reference.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = str_ndup((const char *)data, size);
    struct oci_reference a, b;

    if (oci_reference_parse(text, &a, NULL) == 0) {
        char *norm = oci_reference_text(&a), *again;

        if (oci_reference_parse(norm, &b, NULL) < 0)
            abort();
        again = oci_reference_text(&b);
        if (strcmp(norm, again) != 0)
            abort();
        free(norm);
        free(again);
        oci_reference_done(&a);
        oci_reference_done(&b);
    }
    free(text);
    return 0;
}
