/* SPDX-License-Identifier: Apache-2.0 */
/* What a CNI plugin prints: as a result (which must read the same after it was saved) and as an error. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/cni-internal.h"
#include "net/cni.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct cni_expect expect = {"1.0.0", "eth0", "/run/netns/x"};
    _cleanup_(cni_result_freep) struct cni_result *res = NULL, *again = NULL;
    _cleanup_(freep) char *text = NULL;
    unsigned code;

    (void)cni_error_parse((const char *)data, size, &text, &code);
    if (cni_result_parse((const char *)data, size, &expect, &res, NULL) < 0)
        return 0;
    if (cni_result_parse(res->json, strlen(res->json), &expect, &again, NULL) < 0 ||
        strcmp(again->json, res->json) != 0)
        abort();
    return 0;
}
