/* SPDX-License-Identifier: Apache-2.0 */
/* RunPodSandbox and CreateContainer requests, decoded as the server does, into specs: refused with a
 * reason, or accepted, told back, and the same after a trip through a record. */
#include <stdlib.h>

#include "cri/convert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct record_desc *d, int r, struct error *err, const void *spec)
{
    void *copy = calloc(1, d->size);

    if (!copy || (r < 0) != (err != NULL))
        abort();
    if (r >= 0) {
        record_copy(d, spec, copy);
        if (!record_equal(d, spec, copy))
            abort();
        record_clear(d, copy);
    }
    free(copy);
    error_free(err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sandbox s = {.state = SANDBOX_READY};
    struct container c = {.sandbox = &s, .state = CONTAINER_RUNNING};
    struct arena *a = arena_new(1 << 20);
    struct error *err = NULL;
    int r;

    if (size && data[0] & 1) {
        Runtime__V1__ContainerConfig *m =
            runtime__v1__container_config__unpack(NULL, size - 1, data + 1);
        if (m) {
            s.spec.privileged = data[0] & 2;
            r = container_spec_from_cri(m, &s.spec, &c.spec, &err);
            check(&container_spec_desc, r, err, &c.spec);
            if (r >= 0)
                (void)container_status_to_cri(a, &c);
            runtime__v1__container_config__free_unpacked(m, NULL);
        }
    } else if (size) {
        Runtime__V1__RunPodSandboxRequest *m =
            runtime__v1__run_pod_sandbox_request__unpack(NULL, size - 1, data + 1);
        if (m) {
            r = sandbox_spec_from_cri(m, &s.spec, &err);
            check(&sandbox_spec_desc, r, err, &s.spec);
            if (r >= 0)
                (void)sandbox_status_to_cri(a, &s);
            runtime__v1__run_pod_sandbox_request__free_unpacked(m, NULL);
        }
    }
    container_spec_clear(&c.spec);
    sandbox_spec_clear(&s.spec);
    arena_free(a);
    return 0;
}
