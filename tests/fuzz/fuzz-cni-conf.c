/* SPDX-License-Identifier: Apache-2.0 */
/* A CNI configuration file; what is accepted must read the same after it was saved. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/cni.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(cni_network_freep) struct cni_network *net = NULL, *again = NULL;

    if (cni_network_parse((const char *)data, size, "input", &net, NULL) < 0)
        return 0;
    if (cni_network_parse(net->json, strlen(net->json), "saved", &again, NULL) < 0 ||
        strcmp(again->json, net->json) != 0)
        abort();
    return 0;
}
