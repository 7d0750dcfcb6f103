/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/merge.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/limit.h"
#include "base/str.h"
#include "erofs/layer-index.h"
#include "erofs/writer.h"
#include "oci/image-dir.h"
#include "oci/sha256.h"

static const char *refusal(int r)
{
    switch (r) {
    case -ENAMETOOLONG:
        return "a name is too long";
    case -ELOOP:
        return "its directory is a circle of symlinks";
    case -ENOTDIR:
        return "its directory is a file";
    case -ENOENT:
        return "a hard link to nothing";
    case -EPERM:
        return "a hard link to a directory";
    case -E2BIG:
        return "the image has too many files";
    case -ENOMEM:
        return "out of memory";
    default:
        return "not a valid member";
    }
}

static int apply_all(struct erofs_tree *t, struct layer_reader *reader, struct error **err)
{
    struct erofs_entry e;
    int n;

    while ((n = layer_index_next(reader, &e)) > 0) {
        int r = erofs_tree_apply(t, &e);

        if (r < 0) {
            size_t len = strnlen(e.path, 200);
            _cleanup_(freep) char *shown = str_ndup(e.path, len);

            return error_set_class(
                err, r == -E2BIG || r == -ENOMEM ? ERROR_EXHAUSTED : ERROR_INVALID, r,
                "member '%s': %s", str_is_clean(shown, len) ? shown : "(unprintable)", refusal(r));
        }
    }
    return n < 0 ? error_set(err, n, "its index is damaged") : 0;
}

static int apply_mapped(struct erofs_tree *t, const uint8_t *bytes, size_t len,
                        uint64_t *ret_data_bytes, struct error **err)
{
    struct layer_reader reader;
    struct layer_info info;
    int r = layer_index_open(bytes, len, &info, &reader);

    if (r == 0)
        r = erofs_tree_begin_layer(t);
    if (r < 0)
        return error_set(err, r, "its index is damaged");
    *ret_data_bytes = info.data_bytes;
    return apply_all(t, &reader, err);
}

static int apply_layer(struct erofs_tree *t, int layers_fd, const struct oci_digest *diff_id,
                       uint64_t *ret_data_bytes, struct error **err)
{
    _cleanup_(closep) int fd = -EBADF;
    char name[IMAGE_DIR_NAME];
    struct stat st;
    void *map;
    int r;

    (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_INDEX_SUFFIX, diff_id->hex);
    fd = file_open_beneath(layers_fd, name, O_RDONLY | O_NOFOLLOW, 0);
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_set(err, fd < 0 ? fd : -errno, "its index cannot be opened");
    if (st.st_size < LAYER_INDEX_HEADER)
        return error_set(err, -EBADMSG, "its index is damaged");
    map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        return error_set(err, -errno, "its index cannot be mapped: %s", strerror(errno));
    r = apply_mapped(t, map, (size_t)st.st_size, ret_data_bytes, err);
    (void)munmap(map, (size_t)st.st_size);
    return r;
}

struct file_sink {
    int fd;
    struct sha256 *sum; /* borrowed */
};

static int on_bytes(void *userdata, const void *bytes, size_t len)
{
    struct file_sink *s = userdata;

    sha256_add(s->sum, bytes, len);
    return write_full(s->fd, bytes, len);
}

/* The first 128 bits of the id, marked as a name-based UUID. */
static void uuid_from(const struct oci_digest *id, uint8_t uuid[16])
{
    for (size_t i = 0; i < 16; i++) {
        char pair[3] = {id->hex[2 * i], id->hex[2 * i + 1], '\0'};

        uuid[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x80);
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
}

static int write_merged(struct erofs_tree *t, const uint64_t *data_bytes, size_t n,
                        const struct oci_digest *id, int out_fd, struct merged *ret,
                        struct error **err)
{
    _cleanup_(sha256_freep) struct sha256 *sum = sha256_new();
    struct file_sink sink = {out_fd, sum};
    uint8_t uuid[16];
    size_t segments = 1;
    int r;

    if (!sum)
        return error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        segments += data_bytes[i] > 0;
    if (segments > IMAGE_REGION_SEGMENTS)
        return error_set(err, -E2BIG, "the image has more than %d layers with files",
                         IMAGE_REGION_SEGMENTS - 1);
    r = erofs_plan(t, data_bytes, n, &ret->meta_bytes);
    if (r < 0)
        return error_set(err, r, "the image cannot be laid out: %s",
                         r == -EFBIG ? "it is too large" : strerror(-r));
    uuid_from(id, uuid);
    r = erofs_write(t, uuid, on_bytes, &sink);
    if (r < 0)
        return error_set(err, r, "cannot write the image's metadata: %s", strerror(-r));
    sha256_finish(sum, &ret->digest);
    ret->inodes = erofs_tree_inodes(t);
    return 0;
}

int merge_layers(int layers_fd, const struct oci_digest *diff_ids, size_t n,
                 const struct oci_digest *id, int out_fd, struct merged *ret, struct error **err)
{
    _cleanup_(erofs_tree_freep) struct erofs_tree *t = NULL;
    uint64_t data_bytes[LIMIT_IMAGE_LAYERS];
    int r;

    if (n > LIMIT_IMAGE_LAYERS)
        return error_set(err, -E2BIG, "more than %d layers", LIMIT_IMAGE_LAYERS);
    r = erofs_tree_new(LIMIT_IMAGE_TREE_BYTES, LIMIT_LAYER_ENTRIES, &t);
    if (r < 0)
        return error_set(err, r, "out of memory");
    for (size_t i = 0; i < n; i++) {
        r = apply_layer(t, layers_fd, &diff_ids[i], &data_bytes[i], err);
        if (r < 0)
            return error_prefix(err, r, "layer %zu (sha256:%.12s…)", i, diff_ids[i].hex);
    }
    return write_merged(t, data_bytes, n, id, out_fd, ret, err);
}
