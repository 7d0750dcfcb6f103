/* SPDX-License-Identifier: Apache-2.0 */
/* A record's JSON (the store has checked its envelope) as sandbox or container spec, volume or
 * mount of a volume: what is accepted is
 * written and read again to the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pod/pod-volume.h"
#include "pod/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct record_desc *const descs[] = {&sandbox_spec_desc, &container_spec_desc,
                                                      &volume_record_desc, &container_volume_desc};
    const struct record_desc *d = descs[size ? data[0] & 3 : 0];
    struct error *err = NULL;
    void *one = calloc(1, d->size), *two = calloc(1, d->size);
    json_t *doc =
        size ? json_loadb((const char *)data + 1, size - 1, JSON_REJECT_DUPLICATES, NULL) : NULL;

    if (!one || !two)
        abort();
    if (record_from_json(d, doc, one, &err) == 0) {
        record_copy(d, one, two);
        if (err || !record_equal(d, one, two))
            abort();
    } else if (!err) {
        abort();
    }
    error_free(err);
    record_clear(d, one);
    record_clear(d, two);
    free(one);
    free(two);
    json_decref(doc);
    return 0;
}
