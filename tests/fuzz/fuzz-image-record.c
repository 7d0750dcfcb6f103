/* SPDX-License-Identifier: Apache-2.0 */
/* Image records and the results of nexus-pull: what is accepted comes back the same from its own JSON. */
#include <stdint.h>
#include <string.h>

#include "image/image-internal.h"
#include "oci/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct image_entry *e = NULL, *again = NULL;
    json_t *doc, *own;

    if (oci_json_parse(data, size, 1 << 20, "x", &doc, NULL) < 0)
        return 0;
    if (image_entry_from_json(doc, &e, NULL) == 0) {
        own = image_entry_to_json(e);
        if (!own || image_entry_from_json(own, &again, NULL) < 0 ||
            strcmp(e->pub.id, again->pub.id) != 0 || e->n_layers != again->n_layers)
            abort();
        json_decref(own);
        image_entry_free(again);
        image_entry_free(e);
    }
    json_decref(doc);
    return 0;
}
