/* SPDX-License-Identifier: Apache-2.0 */
/* Indexes and manifests. */
#include <stdint.h>
#include <string.h>

#include "base/str.h"
#include "oci/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct oci_document doc;
    struct error *err = NULL;

    if (oci_document_parse(data, size, NULL, &doc, &err) == 0) {
        (void)oci_index_choose(&doc, "amd64");
        for (size_t i = 0; i < doc.n_entries; i++)
            (void)oci_layer_check(&doc.entries[i], NULL);
        oci_document_done(&doc);
    }
    error_free(err);
    return 0;
}
