/* SPDX-License-Identifier: Apache-2.0 */
/* Profile files: what parses compiles or is refused, and never into more than the kernel takes. */
#include <stdint.h>
#include <stdlib.h>

#include "seccomp/profile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct syscall_profile p = {0};
    void *bpf = NULL;
    size_t len = 0;

    if (syscall_profile_parse(data, size, &p, NULL) < 0)
        return 0;
    if (syscall_profile_compile(&p, &bpf, &len, NULL) == 0 &&
        (len == 0 || len % 8 || len > SECCOMP_BPF_BYTES_MAX))
        abort();
    free(bpf);
    syscall_profile_done(&p);
    return 0;
}
