/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel image as PVH wants it: 64-bit ELF segments and the entry point of its note. Sans-IO:
 * the caller supplies a read function. The file is not trusted.
 * Sources: System V ABI gABI chapters 4 and 5, Xen's include/public/elfnote.h. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define ELF_SEGMENTS_MAX 16U
#define ELF_NOTE_BYTES_MAX (64U << 10)

struct elf_segment {
    uint64_t offset;     /* in the file, bytes */
    uint64_t file_bytes; /* <= mem_bytes; inside the file */
    uint64_t gpa;        /* guest-physical */
    uint64_t mem_bytes;  /* > 0; gpa + mem_bytes does not wrap */
};

struct elf_image {
    uint32_t entry; /* PVH entry point, inside a segment */
    unsigned n;     /* segments */
    struct elf_segment segments[ELF_SEGMENTS_MAX];
    uint64_t low, high; /* all segments lie in [low, high) */
};

/* Reads exactly len bytes at offset, or returns a negative errno. */
typedef int (*elf_read_fn)(void *userdata, uint64_t offset, void *buf, size_t len);

/* file_bytes: size of the file. 0; -ENOEXEC: no x86-64 ELF executable, or damaged; -ENOENT: no PVH
 * note; -E2BIG: more segments or a longer note section than allowed; errors of read. */
int elf_parse(elf_read_fn read, void *userdata, uint64_t file_bytes, struct elf_image *ret);
