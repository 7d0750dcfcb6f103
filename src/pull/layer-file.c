/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/layer-file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/str.h"
#include "oci/image-dir.h"
#include "oci/sha256.h"
#include "pull/layer.h"

int new_file_open(struct new_file *f, int dir, const char *tag, const char *what,
                  struct error **err)
{
    char random[17];

    random_hex(random, 16);
    *f = (struct new_file){.dir = dir, .fd = -EBADF};
    (void)snprintf(f->tmp, sizeof(f->tmp), IMAGE_DIR_TMP_PREFIX "%s-%s-%s", tag, what, random);
    f->fd = openat(dir, f->tmp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (f->fd < 0)
        return error_set(err, -errno, "cannot make a file in the image directory: %s",
                         strerror(errno));
    return 0;
}

int new_file_publish(struct new_file *f, const char *name, struct error **err)
{
    int r = FP("pull.publish");

    if (r == 0 &&
        (fchmod(f->fd, 0400) < 0 || fsync(f->fd) < 0 || renameat(f->dir, f->tmp, f->dir, name) < 0))
        r = -errno;
    if (r < 0)
        return error_set(err, r, "cannot keep a converted file: %s", strerror(-r));
    f->tmp[0] = '\0';
    return 0;
}

void new_file_done(struct new_file *f)
{
    if (f->fd >= 0 && f->tmp[0])
        (void)unlinkat(f->dir, f->tmp, 0);
    f->fd = close_fd(f->fd);
}

static bool index_check(int fd, const struct oci_digest *diff_id, struct layer_info *ret)
{
    struct stat st;
    void *map;
    bool ok;

    if (fstat(fd, &st) < 0 || st.st_size < LAYER_INDEX_HEADER)
        return false;
    map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        return false;
    ok = layer_index_open(map, (size_t)st.st_size, ret, NULL) == 0 &&
         strcmp(ret->diff_id, diff_id->hex) == 0;
    (void)munmap(map, (size_t)st.st_size);
    return ok;
}

static bool data_check(int fd, const struct layer_info *info, bool doubtful)
{
    struct oci_digest got;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
        (uint64_t)st.st_size != info->data_bytes)
        return false;
    return !doubtful || (sha256_of_file(fd, info->data_bytes, &got) == 0 &&
                         strcmp(got.hex, info->data_sha256) == 0);
}

bool layer_file_check(int layers_fd, const struct oci_digest *diff_id, bool doubtful,
                      struct layer_info *ret)
{
    _cleanup_(closep) int index = -EBADF, data = -EBADF;
    char name[IMAGE_DIR_NAME];

    (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_INDEX_SUFFIX, diff_id->hex);
    index = file_open_beneath(layers_fd, name, O_RDONLY | O_NOFOLLOW, 0);
    if (index < 0 || !index_check(index, diff_id, ret))
        return false;
    (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_DATA_SUFFIX, diff_id->hex);
    data = file_open_beneath(layers_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    return data_check(data, ret, doubtful);
}

/* The plain bytes must be the diff_id. */
static int convert(struct converter *converter, struct source *blob,
                   const struct oci_digest *diff_id, int data_fd, int index_fd,
                   struct layer_info *ret, struct error **err)
{
    struct oci_digest got;
    int r = converter_run(converter, blob, data_fd, index_fd, ret, &got, err);

    if (r < 0)
        return r;
    if (!oci_digest_equal(&got, diff_id))
        return error_set(err, -EBADMSG,
                         "the layer's content is sha256:%s, the config says sha256:%s", got.hex,
                         diff_id->hex);
    return 0;
}

/* Of what lies in the file, not of what was meant to be written. */
static int take_digest(int data_fd, struct layer_info *info, struct error **err)
{
    struct oci_digest digest;
    int r = sha256_of_file(data_fd, info->data_bytes, &digest);

    if (r < 0)
        return error_set(err, r, "cannot read a converted file: %s", strerror(-r));
    memcpy(info->data_sha256, digest.hex, sizeof(info->data_sha256));
    return 0;
}

static int publish(struct new_file *data, struct new_file *index, const struct oci_digest *diff_id,
                   struct error **err)
{
    char name[IMAGE_DIR_NAME];
    int r;

    (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_DATA_SUFFIX, diff_id->hex);
    r = new_file_publish(data, name, err);
    if (r < 0)
        return r;
    (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_INDEX_SUFFIX, diff_id->hex);
    r = new_file_publish(index, name, err);
    if (r == 0 && fsync(index->dir) < 0)
        r = error_set(err, -errno, "cannot sync the image directory: %s", strerror(errno));
    return r;
}

int layer_file_make(int layers_fd, const char *tag, const struct oci_digest *diff_id,
                    struct converter *converter, struct source *blob, uint64_t compressed_bytes,
                    struct layer_info *ret, struct error **err)
{
    struct new_file data = {.fd = -EBADF}, index = {.fd = -EBADF};
    int r;

    r = new_file_open(&data, layers_fd, tag, "data", err);
    if (r == 0)
        r = new_file_open(&index, layers_fd, tag, "index", err);
    if (r == 0)
        r = convert(converter, blob, diff_id, data.fd, index.fd, ret, err);
    source_free(blob);
    if (r == 0)
        r = take_digest(data.fd, ret, err);
    if (r == 0) {
        memcpy(ret->diff_id, diff_id->hex, sizeof(ret->diff_id));
        ret->compressed_bytes = compressed_bytes;
        r = layer_finish_index(index.fd, ret, err);
    }
    if (r == 0)
        r = publish(&data, &index, diff_id, err);
    new_file_done(&data);
    new_file_done(&index);
    return r;
}
