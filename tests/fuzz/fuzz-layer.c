/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a layer's blob: inflate, tar, index; what converts is merged, laid out and written. */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "base/file.h"
#include "erofs/writer.h"
#include "pull/inflate.h"
#include "pull/layer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int ignore(void *userdata, const void *bytes, size_t len)
{
    return 0;
}

static void merge(const uint8_t *index, size_t len)
{
    static const uint8_t uuid[16];
    struct erofs_tree *t = NULL;
    struct layer_reader reader;
    struct layer_info info;
    struct erofs_entry e;
    uint64_t meta;
    int n = 1;

    if (layer_index_open(index, len, &info, &reader) < 0)
        abort(); /* we wrote it */
    if (erofs_tree_new(64 << 20, 10000, &t) < 0 || erofs_tree_begin_layer(t) < 0)
        abort();
    while (n > 0 && (n = layer_index_next(&reader, &e)) > 0)
        if (erofs_tree_apply(t, &e) < 0)
            n = -1;
    if (n == 0 &&
        (erofs_plan(t, &info.data_bytes, 1, &meta) < 0 || erofs_write(t, uuid, ignore, NULL) < 0))
        abort();
    erofs_tree_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct source *s = source_inflate(source_from_bytes(data, size), 8 << 20);
    int data_fd = memfd_create("data", MFD_CLOEXEC);
    int index_fd = memfd_create("index", MFD_CLOEXEC);
    struct layer_info info;
    char *index = NULL;
    size_t len;

    if (data_fd < 0 || index_fd < 0)
        abort();
    if (layer_convert(s, data_fd, index_fd, &info, NULL) == 0) {
        memset(info.diff_id, 'a', 64);
        info.diff_id[64] = '\0';
        if (layer_finish_index(index_fd, &info, NULL) < 0 || lseek(index_fd, 0, SEEK_SET) != 0 ||
            fd_read_all(index_fd, 64 << 20, &index, &len) < 0)
            abort();
        merge((const uint8_t *)index, len);
        free(index);
    }
    source_free(s);
    close_fd(data_fd);
    close_fd(index_fd);
    return 0;
}
