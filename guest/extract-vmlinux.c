/* SPDX-License-Identifier: Apache-2.0 */
/* extract-vmlinux BZIMAGE VMLINUX: the uncompressed ELF kernel out of a bzImage, once per node.
 *
 * The payload is found by the setup header (payload_offset, payload_length; boot protocol >= 2.08) and
 * its decompressor by the magic number, never by kernel version. Both fields are bounded by the file,
 * the output by OUTPUT_MAX. Source: Linux Documentation/arch/x86/boot.rst. */
#include <fcntl.h>
#include <lz4.h>
#include <lzma.h>
#include <stdio.h>
#include <string.h>
#include <zstd.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/file.h"
#include "base/le.h"

#define INPUT_MAX (256U << 20)
#define OUTPUT_MAX (512U << 20)
#define LZ4_LEGACY_BLOCK (8U << 20)

struct span {
    const uint8_t *p;
    size_t len;
};

static int find_payload(const uint8_t *image, size_t len, struct span *ret, struct error **err)
{
    uint64_t start, setup_sects;
    uint32_t offset, size;

    if (len < 0x250 || memcmp(image + 0x202, "HdrS", 4) != 0)
        return error_set(err, -EINVAL, "not a bzImage (no boot header)");
    if (le16_load(image + 0x206) < 0x208)
        return error_set(err, -EINVAL, "boot protocol %#x is older than 2.08",
                         le16_load(image + 0x206));
    setup_sects = image[0x1f1] ? image[0x1f1] : 4;
    offset = le32_load(image + 0x248);
    size = le32_load(image + 0x24c);
    start = (setup_sects + 1) * 512 + offset;
    /* the last 4 bytes of the payload are the unpacked size, appended for every format */
    if (!range_within(start, size, len) || size < 16)
        return error_set(err, -EINVAL, "payload at %llu, %u bytes, lies outside the file",
                         (unsigned long long)start, size);
    *ret = (struct span){image + start, size};
    return 0;
}

static int unpack_lz4(struct span in, uint8_t *out, size_t *ret_len)
{
    size_t at = 4, done = 0;

    while (at + 4 <= in.len) {
        uint32_t block = le32_load(in.p + at);
        int n;

        at += 4;
        if (block == 0 || !range_within(at, block, in.len) || block > INT32_MAX)
            break; /* the size trailer, or the end */
        if (OUTPUT_MAX - done < LZ4_LEGACY_BLOCK)
            return -EFBIG;
        n = LZ4_decompress_safe((const char *)in.p + at, (char *)out + done, (int)block,
                                (int)LZ4_LEGACY_BLOCK);
        if (n < 0)
            return -EBADMSG;
        done += (size_t)n;
        at += block;
    }
    *ret_len = done;
    return done ? 0 : -EBADMSG;
}

static int unpack_xz(struct span in, uint8_t *out, size_t *ret_len)
{
    uint64_t memory = 256U << 20;
    size_t in_pos = 0, out_pos = 0;
    lzma_ret r = lzma_stream_buffer_decode(&memory, 0, NULL, in.p, &in_pos, in.len, out, &out_pos,
                                           OUTPUT_MAX);

    *ret_len = out_pos;
    return r == LZMA_OK ? 0 : -EBADMSG;
}

static int unpack_zstd(struct span in, uint8_t *out, size_t *ret_len)
{
    /* the trailing size field is no frame: decode the first frame alone */
    size_t frame = ZSTD_findFrameCompressedSize(in.p, in.len);
    size_t n;

    if (ZSTD_isError(frame))
        return -EBADMSG;
    n = ZSTD_decompress(out, OUTPUT_MAX, in.p, frame);
    if (ZSTD_isError(n))
        return -EBADMSG;
    *ret_len = n;
    return 0;
}

static const struct {
    const char *name;
    uint8_t magic[6];
    size_t magic_len;
    int (*unpack)(struct span in, uint8_t *out, size_t *ret_len);
} formats[] = {
    {"lz4", {0x02, 0x21, 0x4c, 0x18}, 4, unpack_lz4},
    {"xz", {0xfd, '7', 'z', 'X', 'Z', 0}, 6, unpack_xz},
    {"zstd", {0x28, 0xb5, 0x2f, 0xfd}, 4, unpack_zstd},
};

static int extract(const char *from, const char *to, struct error **err)
{
    _cleanup_(freep) char *image = NULL;
    _cleanup_(freep) uint8_t *out = NULL;
    struct span payload = {0};
    size_t len = 0, out_len = 0;
    int r = file_read_all(AT_FDCWD, from, INPUT_MAX, &image, &len);

    if (r < 0)
        return error_set(err, r, "%s: %s", from, strerror(-r));
    r = find_payload((const uint8_t *)image, len, &payload, err);
    if (r < 0)
        return error_prefix(err, r, "%s", from);
    out = malloc(OUTPUT_MAX);
    if (!out)
        return error_set(err, -ENOMEM, "no memory to unpack into");
    r = -EOPNOTSUPP;
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
        if (memcmp(payload.p, formats[i].magic, formats[i].magic_len) != 0)
            continue;
        r = formats[i].unpack(payload, out, &out_len);
        if (r < 0)
            return error_set(err, r, "%s: damaged %s payload", from, formats[i].name);
    }
    if (r < 0)
        return error_set(err, r, "%s: payload is neither lz4, xz nor zstd", from);
    if (out_len < 64 || memcmp(out, "\177ELF", 4) != 0)
        return error_set(err, -EBADMSG, "%s: the payload is no ELF file", from);

    _cleanup_(freep) char *dir = strdup(to);
    char *slash = dir ? strrchr(dir, '/') : NULL;
    if (slash)
        *slash = '\0';
    _cleanup_(closep) int dirfd = dir_open_or_make(slash ? dir : ".", 0755);
    if (dirfd < 0)
        return error_set(err, dirfd, "%s: %s", to, strerror(-dirfd));
    r = file_write_atomic(dirfd, slash ? slash + 1 : to, out, out_len, 0644, false);
    if (r < 0)
        return error_set(err, r, "%s: %s", to, strerror(-r));
    return 0;
}

int main(int argc, char **argv)
{
    _cleanup_(error_freep) struct error *err = NULL;

    if (argc != 3 || argv[1][0] == '-') {
        (void)fprintf(stderr, "usage: extract-vmlinux BZIMAGE VMLINUX\n");
        return 2;
    }
    if (extract(argv[1], argv[2], &err) < 0) {
        (void)fprintf(stderr, "extract-vmlinux: %s\n", error_text(err, 0));
        return 1;
    }
    return 0;
}
