/* SPDX-License-Identifier: Apache-2.0 */
/* ELF64 program headers and notes. Every offset and length is checked against the file before it is
 * used; nothing is read twice. */
#include "kvm/elf-image.h"

#include <elf.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/le.h"

#define PROGRAM_HEADERS_MAX 64U
#define NOTE_PVH 18U /* XEN_ELFNOTE_PHYS32_ENTRY */

static int check_header(const Elf64_Ehdr *h)
{
    if (memcmp(h->e_ident, ELFMAG, SELFMAG) != 0 || h->e_ident[EI_CLASS] != ELFCLASS64 ||
        h->e_ident[EI_DATA] != ELFDATA2LSB)
        return -ENOEXEC;
    if ((h->e_type != ET_EXEC && h->e_type != ET_DYN) || h->e_machine != EM_X86_64)
        return -ENOEXEC;
    if (h->e_phentsize != sizeof(Elf64_Phdr) || !h->e_phnum)
        return -ENOEXEC;
    return h->e_phnum > PROGRAM_HEADERS_MAX ? -E2BIG : 0;
}

static int add_segment(struct elf_image *img, const Elf64_Phdr *p, uint64_t file_bytes)
{
    uint64_t end;

    if (!p->p_memsz)
        return 0;
    if (p->p_filesz > p->p_memsz || !range_within(p->p_offset, p->p_filesz, file_bytes) ||
        !checked_add(p->p_paddr, p->p_memsz, &end))
        return -ENOEXEC;
    if (img->n == ELF_SEGMENTS_MAX)
        return -E2BIG;
    for (unsigned i = 0; i < img->n; i++) {
        const struct elf_segment *s = &img->segments[i];

        if (p->p_paddr < s->gpa + s->mem_bytes && s->gpa < end)
            return -ENOEXEC; /* overlap */
    }
    img->segments[img->n++] = (struct elf_segment){
        .offset = p->p_offset,
        .file_bytes = p->p_filesz,
        .gpa = p->p_paddr,
        .mem_bytes = p->p_memsz,
    };
    img->low = min_of(img->low, p->p_paddr);
    img->high = max_of(img->high, end);
    return 0;
}

/* A note is three words, a name and a descriptor, both padded to 4 bytes. True: entry found. */
static bool scan_notes(const uint8_t *at, size_t left, uint32_t *ret_entry)
{
    const size_t head = 12;

    while (left >= head) {
        uint64_t name_bytes = le32_load(at), desc_bytes = le32_load(at + 4);
        uint32_t type = le32_load(at + 8);
        uint64_t desc_at = head + ((name_bytes + 3) & ~3ULL);
        uint64_t total = desc_at + ((desc_bytes + 3) & ~3ULL); /* u32 parts: no wrap */

        if (desc_at + desc_bytes > left)
            return false;
        if (type == NOTE_PVH && name_bytes == 4 && memcmp(at + head, "Xen", 4) == 0 &&
            (desc_bytes == 4 || desc_bytes == 8)) {
            uint64_t entry = desc_bytes == 8 ? le64_load(at + desc_at) : le32_load(at + desc_at);

            *ret_entry = (uint32_t)entry;
            return entry <= UINT32_MAX;
        }
        if (total > left)
            return false;
        at += total;
        left -= (size_t)total;
    }
    return false;
}

static int find_entry(elf_read_fn read, void *ud, const Elf64_Phdr *p, uint64_t file_bytes,
                      uint32_t *ret_entry)
{
    _cleanup_(freep) uint8_t *notes = NULL;
    int r;

    if (!range_within(p->p_offset, p->p_filesz, file_bytes))
        return -ENOEXEC;
    if (p->p_filesz > ELF_NOTE_BYTES_MAX)
        return -E2BIG;
    if (!p->p_filesz)
        return -ENOENT;
    notes = malloc((size_t)p->p_filesz);
    if (!notes)
        return -ENOMEM;
    r = read(ud, p->p_offset, notes, (size_t)p->p_filesz);
    if (r < 0)
        return r;
    return scan_notes(notes, (size_t)p->p_filesz, ret_entry) ? 0 : -ENOENT;
}

static bool entry_is_inside(const struct elf_image *img)
{
    for (unsigned i = 0; i < img->n; i++) {
        const struct elf_segment *s = &img->segments[i];

        if (img->entry >= s->gpa && img->entry - s->gpa < s->file_bytes)
            return true;
    }
    return false;
}

int elf_parse(elf_read_fn read, void *userdata, uint64_t file_bytes, struct elf_image *ret)
{
    Elf64_Phdr headers[PROGRAM_HEADERS_MAX];
    struct elf_image img = {.low = UINT64_MAX};
    size_t table;
    Elf64_Ehdr h;
    int found = -ENOENT, r;

    if (file_bytes < sizeof(h))
        return -ENOEXEC;
    r = read(userdata, 0, &h, sizeof(h));
    if (r < 0)
        return r;
    r = check_header(&h);
    if (r < 0)
        return r;
    table = h.e_phnum * sizeof(headers[0]);
    if (!range_within(h.e_phoff, table, file_bytes))
        return -ENOEXEC;
    r = read(userdata, h.e_phoff, headers, table);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < h.e_phnum; i++) {
        const Elf64_Phdr *p = &headers[i];

        if (p->p_type == PT_LOAD)
            r = add_segment(&img, p, file_bytes);
        else if (p->p_type == PT_NOTE && found < 0)
            r = found = find_entry(read, userdata, p, file_bytes, &img.entry);
        if (r < 0 && r != -ENOENT)
            return r;
    }
    if (found < 0)
        return -ENOENT;
    if (!entry_is_inside(&img))
        return -ENOEXEC;
    *ret = img;
    return 0;
}
