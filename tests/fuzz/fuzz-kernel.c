/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel image parser: any file. What it accepts must hold what its header promises. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/elf-image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct source {
    const uint8_t *bytes;
    size_t len;
};

static int source_read(void *ud, uint64_t offset, void *buf, size_t len)
{
    const struct source *s = ud;

    if (offset > s->len || len > s->len - offset)
        abort(); /* the parser must have checked */
    memcpy(buf, s->bytes + offset, len);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct source s = {data, size};
    struct elf_image img;

    if (elf_parse(source_read, &s, size, &img) < 0)
        return 0;
    if (!img.n || img.n > ELF_SEGMENTS_MAX)
        abort();
    for (unsigned i = 0; i < img.n; i++) {
        const struct elf_segment *seg = &img.segments[i];

        if (seg->gpa < img.low || seg->gpa + seg->mem_bytes > img.high ||
            seg->gpa + seg->mem_bytes < seg->gpa || seg->file_bytes > seg->mem_bytes ||
            seg->offset > size || seg->file_bytes > size - seg->offset)
            abort();
    }
    return 0;
}
