/* SPDX-License-Identifier: Apache-2.0 */
/* Scripts of members over a small alphabet, so that names collide, link and hide each other. The tree's
 * books must balance and what is planned must be what is written. */
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include "erofs/writer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const words[] = {
    "a",     "b",     "c", "d",      "..",  "/",       "a/b",          ".",
    ".wh.a", ".wh.b", "",  "/a/../", "b/c", "c/d/a/b", ".wh..wh..opq", "a/.wh..wh..opq"};

static int count(void *userdata, const void *bytes, size_t len)
{
    *(uint64_t *)userdata += len;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t modes[] = {S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO};
    static const uint64_t segments[EROFS_TREE_SEGMENTS];
    static const uint8_t uuid[16];
    struct erofs_tree *t;
    uint64_t meta, written = 0;
    size_t layers = 1;

    if (erofs_tree_new(4 << 20, 500, &t) < 0 || erofs_tree_begin_layer(t) < 0)
        abort();
    for (size_t i = 0; i + 3 < size; i += 4) {
        char path[64], link[64];
        struct erofs_entry e = {.path = path, .mode = modes[data[i] & 3] | 0755, .link = link};

        if (data[i] & 4 && layers < 9 && erofs_tree_begin_layer(t) == 0)
            layers++;
        e.hardlink = data[i] & 8;
        (void)snprintf(path, sizeof(path), "%s/%s", words[data[i + 1] & 15],
                       words[data[i + 2] & 15]);
        (void)snprintf(link, sizeof(link), "%s/%s", words[data[i + 3] & 15],
                       words[data[i + 3] >> 4]);
        if (erofs_tree_apply(t, &e) == -E2BIG)
            break; /* other refusals leave nothing behind in this alphabet: go on */
    }
    if (erofs_plan(t, segments, layers, &meta) < 0 || erofs_write(t, uuid, count, &written) < 0 ||
        meta != written)
        abort();
    erofs_tree_free(t);
    return 0;
}
