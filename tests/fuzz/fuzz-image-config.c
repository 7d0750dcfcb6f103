/* SPDX-License-Identifier: Apache-2.0 */
/* Image configs, and our own form of what is used of them. */
#include <stdint.h>
#include <string.h>

#include "base/str.h"
#include "oci/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct oci_config c;

    if (oci_config_parse(data, size, &c, NULL) == 0) {
        json_t *doc = oci_process_to_json(&c.process);
        struct oci_process p;
        int64_t uid;
        char *name;

        if (oci_process_from_json(doc, &p, NULL) < 0)
            abort();
        (void)oci_user_parse(p.user, &uid, &name);
        free(name);
        oci_process_done(&p);
        json_decref(doc);
        oci_config_done(&c);
    }
    return 0;
}
