/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/resident.h"

#include <link.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

static int forget_segments(struct dl_phdr_info *info, size_t size, void *userdata)
{
    uintptr_t page = *(const uintptr_t *)userdata;

    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + p->p_vaddr, end = start + p->p_filesz;

        if (p->p_type != PT_LOAD || (p->p_flags & PF_W))
            continue;
        start &= ~(page - 1);
        (void)madvise((void *)start, end - start, MADV_DONTNEED);
    }
    return 0;
}

void resident_forget_startup(void)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

    (void)dl_iterate_phdr(forget_segments, &page);
}
