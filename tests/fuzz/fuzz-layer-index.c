/* SPDX-License-Identifier: Apache-2.0 */
/* Layer indexes with any members: the header is made to fit, so that the members are reached; what they
 * say is applied to a tree and written out. */
#include <stdint.h>
#include <string.h>

#include "base/crc32c.h"
#include "erofs/layer-index.h"
#include "erofs/writer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int ignore(void *userdata, const void *bytes, size_t len)
{
    return 0;
}

static int apply_all(struct layer_reader *r, struct erofs_tree *t)
{
    struct erofs_entry e;
    int n = 0;

    while (n >= 0 && (n = layer_index_next(r, &e)) > 0)
        n = erofs_tree_apply(t, &e);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes = malloc(size + LAYER_INDEX_HEADER);
    struct layer_info info = {.data_bytes = 1 << 20};
    const uint64_t segment = 1 << 20;
    static const uint8_t uuid[16];
    struct erofs_tree *t = NULL;
    struct layer_reader r;
    uint64_t meta;

    (void)layer_index_open(data, size, NULL, NULL);
    if (!bytes || size == 0)
        goto out;
    info.entries = data[0];
    info.index_bytes = size - 1;
    info.checksum = ~crc32c_update(~0U, data + 1, size - 1);
    layer_index_header(&info, bytes);
    memcpy(bytes + LAYER_INDEX_HEADER, data + 1, size - 1);
    if (layer_index_open(bytes, LAYER_INDEX_HEADER + size - 1, NULL, &r) < 0)
        abort();
    if (erofs_tree_new(8 << 20, 1000, &t) < 0 || erofs_tree_begin_layer(t) < 0)
        abort();
    if (apply_all(&r, t) == 0 && erofs_plan(t, &segment, 1, &meta) == 0 &&
        erofs_write(t, uuid, ignore, NULL) < 0)
        abort();
out:
    erofs_tree_free(t);
    free(bytes);
    return 0;
}
