/* SPDX-License-Identifier: Apache-2.0 */
/* Loading. Kernel pages of zeros are not written: memory not touched costs nothing. */
#include "kvm/boot.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/le.h"
#include "base/str.h"
#include "kvm/elf-image.h"
#include "kvm/gmem.h"
#include "kvm/layout.h"

#define CHUNK_BYTES (256U << 10)
/* .brk and what early boot takes right behind the image, before it knows where the initramfs is */
#define KERNEL_TAIL_BYTES (16ULL << 20)
/* What a booting kernel writes to as good as all of, measured with Debian's 6.1 in 256 MiB: its image and
 * so much behind it (26 MiB), and at the top of RAM the initramfs, a struct page (64 bytes) for each
 * page, and a little more. */
#define TOUCHED_BEHIND_BYTES (24ULL << 20)
#define TOUCHED_TOP_BYTES (4ULL << 20)
#define PAGES_PER_STRUCT_PAGES 64U

struct start_info { /* version 1 */
    le32 magic, version, flags, nr_modules;
    le64 modlist, cmdline, rsdp, memmap;
    le32 memmap_entries, reserved;
};
struct module_entry {
    le64 gpa, bytes, cmdline, reserved;
};
struct memmap_entry {
    le64 gpa, bytes;
    le32 type, reserved;
};
_Static_assert(sizeof(struct start_info) == 56, "hvm_start_info is 56 bytes");
_Static_assert(sizeof(struct module_entry) == 32, "hvm_modlist_entry is 32 bytes");
_Static_assert(sizeof(struct memmap_entry) == 24, "hvm_memmap_table_entry is 24 bytes");

#define START_MAGIC 0x336ec578U
#define E820_RAM 1U
#define E820_RESERVED 2U

struct file {
    int fd;
    uint64_t bytes;
};

static int file_read(void *userdata, uint64_t offset, void *buf, size_t len)
{
    const struct file *f = userdata;
    ssize_t n = pread_full(f->fd, buf, len, offset);

    if (n < 0)
        return (int)n;
    return (size_t)n == len ? 0 : -EIO; /* shorter than fstat said */
}

static int file_check(int fd, const char *what, struct file *ret, struct error **err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return error_set(err, -errno, "%s", what);
    if (!S_ISREG(st.st_mode) || st.st_size <= 0)
        return error_set(err, -EINVAL, "%s: not a regular file with content", what);
    *ret = (struct file){fd, (uint64_t)st.st_size};
    return 0;
}

static bool page_is_zero(const uint8_t *page, size_t len)
{
    return page[0] == 0 && (len == 1 || memcmp(page, page + 1, len - 1) == 0);
}

/* Copies what is not zero, page by page of guest memory. */
static void copy_sparse(uint8_t *to, const uint8_t *from, size_t len, struct boot_info *info)
{
    while (len) {
        size_t n = GMEM_PAGE - (uintptr_t)to % GMEM_PAGE;

        n = min_of(n, len);
        if (page_is_zero(from, n)) {
            info->skipped_bytes += n;
        } else {
            memcpy(to, from, n);
            info->copied_bytes += n;
        }
        to += n;
        from += n;
        len -= n;
    }
}

/* Bytes from offset that a sparse file does not store; 0 where it has data or cannot tell. */
static uint64_t hole_at(int fd, uint64_t offset, uint64_t end)
{
    off_t data = lseek(fd, (off_t)offset, SEEK_DATA);

    if (data < 0)
        return errno == ENXIO ? end - offset : 0;
    return min_of((uint64_t)data, end) - offset;
}

static int load_segment(struct gmem *mem, struct file *f, const struct elf_segment *s,
                        uint8_t *chunk, struct boot_info *info)
{
    uint64_t at = 0;
    struct span span;
    int r;

    r = gmem_span(mem, s->gpa, s->mem_bytes, GMEM_WRITE, &span);
    if (r < 0)
        return r;
    while (at < s->file_bytes) {
        uint64_t hole = hole_at(f->fd, s->offset + at, s->offset + s->file_bytes);
        size_t n = (size_t)min_of((uint64_t)CHUNK_BYTES, s->file_bytes - at);

        if (hole) {
            info->skipped_bytes += hole;
            at += hole;
            continue;
        }
        r = file_read(f, s->offset + at, chunk, n);
        if (r < 0)
            return r;
        copy_sparse((uint8_t *)span.ptr + at, chunk, n, info);
        at += n;
    }
    return 0;
}

/* Huge pages for what will be touched anyhow: half the exits of a boot were faults of such pages. */
static void expect_boot(struct gmem *mem, const struct elf_image *img)
{
    uint64_t low = gmem_ram_low_bytes(mem), ram = gmem_ram_bytes(mem);
    uint64_t top = ram / PAGES_PER_STRUCT_PAGES + TOUCHED_TOP_BYTES;
    uint64_t end = ram > low ? gmem_ram_end(mem) : low, in_slot = ram > low ? ram - low : low;

    gmem_expect(mem, img->low, min_of(img->high + TOUCHED_BEHIND_BYTES, low) - img->low);
    gmem_expect(mem, end - min_of(top, in_slot), min_of(top, in_slot));
}

static int load_kernel(struct gmem *mem, int fd, struct elf_image *img, struct boot_info *info,
                       struct error **err)
{
    _cleanup_(freep) uint8_t *chunk = NULL;
    struct file f = {0};
    int r;

    r = file_check(fd, "kernel", &f, err);
    if (r < 0)
        return r;
    r = elf_parse(file_read, &f, f.bytes, img);
    if (r == -ENOENT)
        return error_set(err, -ENOEXEC,
                         "kernel: no PVH entry note (is it an extracted vmlinux with "
                         "CONFIG_PVH?)");
    if (r < 0)
        return error_set(err, r, "kernel: not a usable x86-64 ELF image");
    if (img->low < LAYOUT_HIGH_RAM)
        return error_set(err, -ENOEXEC, "kernel: a segment lies below 1 MiB");
    if (img->high > gmem_ram_low_bytes(mem))
        return error_set(err, -E2BIG, "kernel: needs %llu MiB of memory",
                         (unsigned long long)(img->high >> 20) + 1);
    expect_boot(mem, img);
    chunk = malloc(CHUNK_BYTES);
    if (!chunk)
        return error_set(err, -ENOMEM, "kernel");
    for (unsigned i = 0; i < img->n; i++) {
        r = load_segment(mem, &f, &img->segments[i], chunk, info);
        if (r < 0)
            return error_set(err, r, "kernel: loading segment %u", i);
    }
    info->entry = img->entry;
    return 0;
}

static int load_initramfs(struct gmem *mem, int fd, const struct elf_image *img,
                          struct module_entry *ret, struct error **err)
{
    uint64_t top = gmem_ram_low_bytes(mem), gpa;
    struct file f = {0};
    struct span span;
    int r;

    r = file_check(fd, "initramfs", &f, err);
    if (r < 0)
        return r;
    if (f.bytes > top || (top - f.bytes) / GMEM_PAGE * GMEM_PAGE < img->high + KERNEL_TAIL_BYTES)
        return error_set(err, -E2BIG, "initramfs: %llu MiB do not fit beside the kernel",
                         (unsigned long long)(f.bytes >> 20));
    gpa = (top - f.bytes) / GMEM_PAGE * GMEM_PAGE;
    r = gmem_span(mem, gpa, f.bytes, GMEM_WRITE, &span);
    if (r >= 0)
        r = file_read(&f, 0, span.ptr, (size_t)f.bytes);
    if (r < 0)
        return error_set(err, r, "initramfs: reading");
    ret->gpa = le64_of(gpa);
    ret->bytes = le64_of(f.bytes);
    return 0;
}

static unsigned make_memmap(const struct gmem *mem, struct memmap_entry out[4])
{
    uint64_t low = gmem_ram_low_bytes(mem), high = gmem_ram_bytes(mem) - low;
    const struct {
        uint64_t gpa, bytes;
        uint32_t type;
    } rows[4] = {
        {0, LAYOUT_LOW_RAM_END, E820_RAM},
        {LAYOUT_LOW_RAM_END, LAYOUT_HIGH_RAM - LAYOUT_LOW_RAM_END, E820_RESERVED},
        {LAYOUT_HIGH_RAM, low - LAYOUT_HIGH_RAM, E820_RAM},
        {LAYOUT_RAM_HIGH_BASE, high, E820_RAM},
    };
    unsigned n = high ? 4 : 3;

    for (unsigned i = 0; i < n; i++)
        out[i] = (struct memmap_entry){
            .gpa = le64_of(rows[i].gpa),
            .bytes = le64_of(rows[i].bytes),
            .type = le32_of(rows[i].type),
        };
    return n;
}

/* null, flat 32-bit code, flat data, busy 32-bit TSS: what the segment registers were loaded with */
static const uint64_t gdt[4] = {0, 0x00CF9B000000FFFFULL, 0x00CF93000000FFFFULL,
                                0x00008B0000000067ULL};

static int write_start_info(struct gmem *mem, const struct boot_config *cfg,
                            const struct module_entry *module, uint64_t *ret_gpa)
{
    struct memmap_entry map[4];
    unsigned n = make_memmap(mem, map);
    const struct start_info info = {
        .magic = le32_of(START_MAGIC),
        .version = le32_of(1),
        .nr_modules = le32_of(cfg->initramfs_fd >= 0),
        .modlist = le64_of(cfg->initramfs_fd >= 0 ? LAYOUT_MODLIST : 0),
        .cmdline = le64_of(LAYOUT_CMDLINE),
        .rsdp = le64_of(LAYOUT_ACPI),
        .memmap = le64_of(LAYOUT_MEMMAP),
        .memmap_entries = le32_of(n),
    };
    int r;

    r = gmem_write(mem, LAYOUT_GDT, gdt, sizeof(gdt));
    if (r >= 0)
        r = gmem_write(mem, LAYOUT_MEMMAP, map, n * sizeof(map[0]));
    if (r >= 0)
        r = gmem_write(mem, LAYOUT_MODLIST, module, sizeof(*module));
    if (r >= 0)
        r = gmem_write(mem, LAYOUT_CMDLINE, cfg->cmdline, strlen(cfg->cmdline) + 1);
    if (r >= 0)
        r = gmem_write(mem, LAYOUT_START_INFO, &info, sizeof(info));
    *ret_gpa = LAYOUT_START_INFO;
    return r;
}

int boot_load(struct gmem *mem, const struct boot_config *cfg, struct boot_info *ret,
              struct error **err)
{
    struct module_entry module = {{0}, {0}, {0}, {0}};
    struct boot_info info = {0};
    struct elf_image img = {0};
    int r;

    if (strlen(cfg->cmdline) >= LAYOUT_CMDLINE_MAX)
        return error_set(err, -E2BIG, "kernel command line: over %d bytes", LAYOUT_CMDLINE_MAX - 1);
    r = load_kernel(mem, cfg->kernel_fd, &img, &info, err);
    if (r < 0)
        return r;
    if (cfg->initramfs_fd >= 0) {
        r = load_initramfs(mem, cfg->initramfs_fd, &img, &module, err);
        if (r < 0)
            return r;
    }
    r = write_start_info(mem, cfg, &module, &info.start_info);
    if (r < 0)
        return error_set(err, r, "start information");
    *ret = info;
    return 0;
}
