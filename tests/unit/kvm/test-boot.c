/* SPDX-License-Identifier: Apache-2.0 */
/* elf-image, boot: a hostile kernel file is refused before a byte of it is believed; a good one lands
 * where its headers say, zeros are not written, and the start information describes it all. */
#include <elf.h>
#include <string.h>
#include <sys/mman.h>

#include "base/file.h"
#include "base/le.h"
#include "kvm/boot.h"
#include "kvm/elf-image.h"
#include "kvm/gmem.h"
#include "kvm/layout.h"
#include "lib/test.h"

#define MIB (1ULL << 20)
#define KERNEL_GPA 0x1000000ULL
#define SEGMENT_AT 0x1000U
#define SEGMENT_BYTES 0x3000U
#define NOTE_AT 0x200U
#define NOTE_BYTES 24U
#define FILE_BYTES (SEGMENT_AT + SEGMENT_BYTES)

/* A kernel: one segment of three pages (text, zeros, data) and 1 MiB of bss, and the note. */
struct image {
    _Alignas(8) uint8_t bytes[FILE_BYTES];
};

static Elf64_Ehdr *header_of(struct image *k)
{
    return (Elf64_Ehdr *)(void *)k->bytes;
}

static Elf64_Phdr *program_of(struct image *k, unsigned i)
{
    return (Elf64_Phdr *)(void *)(k->bytes + sizeof(Elf64_Ehdr)) + i;
}

static void make_kernel(struct image *k)
{
    static const uint8_t note[NOTE_BYTES] = {4,   0,   0,   0, 8, 0,    0, 0, 18, 0, 0, 0,
                                             'X', 'e', 'n', 0, 0, 0x08, 0, 1, 0,  0, 0, 0};

    *k = (struct image){{0}};
    *header_of(k) = (Elf64_Ehdr){
        .e_ident = {0x7F, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_X86_64,
        .e_phoff = sizeof(Elf64_Ehdr),
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = 2,
    };
    *program_of(k, 0) = (Elf64_Phdr){
        .p_type = PT_LOAD,
        .p_offset = SEGMENT_AT,
        .p_paddr = KERNEL_GPA,
        .p_filesz = SEGMENT_BYTES,
        .p_memsz = MIB,
    };
    *program_of(k, 1) = (Elf64_Phdr){
        .p_type = PT_NOTE, .p_offset = NOTE_AT, .p_filesz = NOTE_BYTES, .p_memsz = NOTE_BYTES};
    memcpy(k->bytes + NOTE_AT, note, sizeof(note));
    memset(k->bytes + SEGMENT_AT, 0x90, 0x1000);
    memset(k->bytes + SEGMENT_AT + 0x2000, 0xDA, 0x1000);
}

struct source {
    const uint8_t *bytes;
    size_t len;
};

static int source_read(void *ud, uint64_t offset, void *buf, size_t len)
{
    const struct source *s = ud;

    assert_true(offset <= s->len && len <= s->len - offset); /* the parser checked it */
    memcpy(buf, s->bytes + offset, len);
    return 0;
}

static void patch_class(struct image *k)
{
    k->bytes[EI_CLASS] = ELFCLASS32;
}
static void patch_machine(struct image *k)
{
    header_of(k)->e_machine = EM_AARCH64;
}
static void patch_relocatable(struct image *k)
{
    header_of(k)->e_type = ET_REL;
}
static void patch_entry_size(struct image *k)
{
    header_of(k)->e_phentsize = 32;
}
static void patch_no_headers(struct image *k)
{
    header_of(k)->e_phnum = 0;
}
static void patch_many_headers(struct image *k)
{
    header_of(k)->e_phnum = UINT16_MAX;
}
static void patch_table_outside(struct image *k)
{
    header_of(k)->e_phoff = UINT64_MAX - 8;
}
static void patch_segment_outside(struct image *k)
{
    program_of(k, 0)->p_offset = SEGMENT_AT + 1;
}
static void patch_offset_wraps(struct image *k)
{
    program_of(k, 0)->p_offset = UINT64_MAX - 16;
}
static void patch_address_wraps(struct image *k)
{
    program_of(k, 0)->p_paddr = UINT64_MAX - 16;
}
static void patch_file_over_memory(struct image *k)
{
    program_of(k, 0)->p_memsz = SEGMENT_BYTES - 1;
}
static void patch_overlap(struct image *k)
{
    *program_of(k, 1) = *program_of(k, 0);
}
static void patch_no_note(struct image *k)
{
    program_of(k, 1)->p_type = PT_NULL;
}
static void patch_note_outside(struct image *k)
{
    program_of(k, 1)->p_offset = FILE_BYTES - NOTE_BYTES + 1;
}
static void patch_note_long(struct image *k)
{
    le32_store(k->bytes + NOTE_AT + 4, UINT32_MAX);
}
static void patch_note_name_long(struct image *k)
{
    le32_store(k->bytes + NOTE_AT, UINT32_MAX);
}
static void patch_note_other(struct image *k)
{
    k->bytes[NOTE_AT + 8] = 0x13;
}
static void patch_entry_outside(struct image *k)
{
    le32_store(k->bytes + NOTE_AT + 16, 0x2000000);
}
static void patch_entry_above_4g(struct image *k)
{
    k->bytes[NOTE_AT + 20] = 1;
}
static void patch_nothing(struct image *k)
{
    (void)k;
}

static const struct {
    const char *name;
    void (*patch)(struct image *k);
    int r;
} rows[] = {
    {"good_kernel", patch_nothing, 0},
    {"32_bit_class", patch_class, -ENOEXEC},
    {"other_machine", patch_machine, -ENOEXEC},
    {"relocatable_object", patch_relocatable, -ENOEXEC},
    {"program_header_size", patch_entry_size, -ENOEXEC},
    {"no_program_headers", patch_no_headers, -ENOEXEC},
    {"too_many_program_headers", patch_many_headers, -E2BIG},
    {"header_table_outside_file", patch_table_outside, -ENOEXEC},
    {"segment_outside_file", patch_segment_outside, -ENOEXEC},
    {"segment_offset_wraps", patch_offset_wraps, -ENOEXEC},
    {"segment_address_wraps", patch_address_wraps, -ENOEXEC},
    {"file_part_larger_than_memory_part", patch_file_over_memory, -ENOEXEC},
    {"overlapping_segments", patch_overlap, -ENOEXEC},
    {"no_note", patch_no_note, -ENOENT},
    {"note_outside_file", patch_note_outside, -ENOEXEC},
    {"note_descriptor_longer_than_section", patch_note_long, -ENOENT},
    {"note_name_longer_than_section", patch_note_name_long, -ENOENT},
    {"note_of_another_type", patch_note_other, -ENOENT},
    {"entry_outside_segments", patch_entry_outside, -ENOEXEC},
    {"entry_above_4_gib", patch_entry_above_4g, -ENOENT},
};

static void parser_takes_kernels_and_refuses_the_rest(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct elf_image img = {0};
        static struct image k;
        struct source s = {k.bytes, sizeof(k.bytes)};

        print_message("# %s\n", rows[i].name);
        make_kernel(&k);
        rows[i].patch(&k);
        assert_int_equal(elf_parse(source_read, &s, s.len, &img), rows[i].r);
        assert_int_equal(img.n, rows[i].r == 0);
    }
}

static void truncation_at_every_length_is_refused(void **state)
{
    static struct image k;

    make_kernel(&k);
    for (size_t len = 0; len < sizeof(k.bytes); len++) {
        struct source s = {k.bytes, len};
        struct elf_image img;

        assert_true(elf_parse(source_read, &s, len, &img) < 0);
    }
}

static int file_of(const void *bytes, size_t len)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write_full(fd, bytes, len), 0);
    return fd;
}

static void kernel_and_initramfs_land_in_memory(void **state)
{
    _cleanup_(gmem_freep) struct gmem *mem = NULL;
    struct boot_config cfg = {.cmdline = "quiet"};
    struct boot_info info = {0};
    uint8_t start[56], module[32], map[24], page[2], text[6];
    static struct image k;

    make_kernel(&k);
    cfg.kernel_fd = file_of(k.bytes, sizeof(k.bytes));
    cfg.initramfs_fd = file_of("0707cpio", 8);
    assert_int_equal(gmem_new(64 * MIB, &mem), 0);
    assert_int_equal(boot_load(mem, &cfg, &info, NULL), 0);
    assert_true(info.entry == 0x1000800);
    assert_true(info.copied_bytes == 0x2000 && info.skipped_bytes == 0x1000);
    assert_int_equal(gmem_read(mem, KERNEL_GPA + 0xFFF, page, 2), 0);
    assert_true(page[0] == 0x90 && page[1] == 0);
    assert_int_equal(gmem_read(mem, KERNEL_GPA + 0x2FFF, page, 2), 0);
    assert_true(page[0] == 0xDA && page[1] == 0);
    assert_int_equal(gmem_read(mem, info.start_info, start, sizeof(start)), 0);
    assert_int_equal(le32_load(start), 0x336ec578);
    assert_int_equal(le32_load(start + 4), 1);
    assert_int_equal(le32_load(start + 12), 1);
    assert_int_equal(gmem_read(mem, le64_load(start + 24), text, sizeof(text)), 0);
    assert_memory_equal(text, "quiet", 6);
    assert_true(le64_load(start + 32) == LAYOUT_ACPI);
    assert_int_equal(gmem_read(mem, le64_load(start + 16), module, sizeof(module)), 0);
    assert_true(le64_load(module) == 64 * MIB - GMEM_PAGE && le64_load(module + 8) == 8);
    assert_int_equal(gmem_read(mem, le64_load(module), text, 4), 0);
    assert_memory_equal(text, "0707", 4);
    assert_int_equal(le32_load(start + 48), 3);
    assert_int_equal(gmem_read(mem, le64_load(start + 40) + 48, map, sizeof(map)), 0);
    assert_true(le64_load(map) == MIB && le64_load(map + 8) == 63 * MIB);
    (void)close(cfg.kernel_fd);
    (void)close(cfg.initramfs_fd);
}

static void what_does_not_fit_is_refused(void **state)
{
    _cleanup_(gmem_freep) struct gmem *mem = NULL;
    struct boot_config cfg = {.cmdline = "quiet", .initramfs_fd = -EBADF};
    char cmdline[LAYOUT_CMDLINE_MAX + 1];
    struct boot_info info;
    static struct image k;
    int devnull = file_of("", 0);

    make_kernel(&k);
    assert_int_equal(gmem_new(64 * MIB, &mem), 0);
    cfg.kernel_fd = devnull; /* empty */
    assert_int_equal(boot_load(mem, &cfg, &info, NULL), -EINVAL);
    program_of(&k, 0)->p_memsz = 64 * MIB;
    cfg.kernel_fd = file_of(k.bytes, sizeof(k.bytes));
    assert_int_equal(boot_load(mem, &cfg, &info, NULL), -E2BIG);
    (void)close(cfg.kernel_fd);

    make_kernel(&k);
    program_of(&k, 0)->p_paddr = 0x10000; /* over the start information */
    le32_store(k.bytes + NOTE_AT + 16, 0x10800);
    cfg.kernel_fd = file_of(k.bytes, sizeof(k.bytes));
    assert_int_equal(boot_load(mem, &cfg, &info, NULL), -ENOEXEC);
    (void)close(cfg.kernel_fd);

    make_kernel(&k);
    cfg.kernel_fd = file_of(k.bytes, sizeof(k.bytes));
    cfg.initramfs_fd = file_of("x", 1);
    assert_int_equal(ftruncate(cfg.initramfs_fd, (off_t)(40 * MIB)), 0);
    assert_int_equal(boot_load(mem, &cfg, &info, NULL), -E2BIG);
    assert_int_equal(ftruncate(cfg.initramfs_fd, (off_t)(30 * MIB)), 0);
    assert_int_equal(boot_load(mem, &cfg, &info, NULL), 0);

    memset(cmdline, 'a', sizeof(cmdline));
    cmdline[LAYOUT_CMDLINE_MAX] = 0;
    cfg.cmdline = cmdline;
    assert_int_equal(boot_load(mem, &cfg, &info, NULL), -E2BIG);
    cmdline[LAYOUT_CMDLINE_MAX - 1] = 0;
    assert_int_equal(boot_load(mem, &cfg, &info, NULL), 0);
    (void)close(cfg.initramfs_fd);
    (void)close(cfg.kernel_fd);
    (void)close(devnull);
}

static void holes_of_a_sparse_file_are_not_read(void **state)
{
    _cleanup_(gmem_freep) struct gmem *mem = NULL;
    struct boot_config cfg = {.cmdline = "", .initramfs_fd = -EBADF};
    struct boot_info info = {0};
    static struct image k;
    uint8_t byte = 0;

    make_kernel(&k);
    program_of(&k, 0)->p_filesz = program_of(&k, 0)->p_memsz = 8 * MIB;
    cfg.kernel_fd = file_of(k.bytes, sizeof(k.bytes));
    assert_int_equal(ftruncate(cfg.kernel_fd, (off_t)(SEGMENT_AT + 8 * MIB)), 0);
    assert_int_equal(pwrite(cfg.kernel_fd, "\x77", 1, (off_t)(SEGMENT_AT + 8 * MIB - 1)), 1);
    assert_int_equal(gmem_new(64 * MIB, &mem), 0);
    assert_int_equal(boot_load(mem, &cfg, &info, NULL), 0);
    assert_true(info.copied_bytes == 0x3000 && info.copied_bytes + info.skipped_bytes == 8 * MIB);
    assert_int_equal(gmem_read(mem, KERNEL_GPA + 8 * MIB - 1, &byte, 1), 0);
    assert_int_equal(byte, 0x77);
    (void)close(cfg.kernel_fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parser_takes_kernels_and_refuses_the_rest),
        cmocka_unit_test(truncation_at_every_length_is_refused),
        cmocka_unit_test(kernel_and_initramfs_land_in_memory),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(holes_of_a_sparse_file_are_not_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
