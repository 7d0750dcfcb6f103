/* SPDX-License-Identifier: Apache-2.0 */
/* State files: any bytes in a record's place are a record, or damaged and set aside. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/file.h"
#include "store/store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ignore_record(const char *name, const json_t *doc, void *userdata)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char dir[] = "/tmp/nexus-fuzz-record.XXXXXX";
    _cleanup_(store_freep) struct store *store = NULL;
    _cleanup_(closep) int dirfd = -EBADF;
    json_t *doc = NULL;

    if (!mkdtemp(dir) || store_open(dir, NULL, &store, NULL) < 0)
        abort();
    dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file_write_atomic(dirfd, "x.json", data, size, 0600, /* durable= */ false) < 0)
        abort();
    if (store_get(store, "x", &doc, NULL) == 0)
        json_decref(doc);
    if (file_write_atomic(dirfd, "x.json", data, size, 0600, /* durable= */ false) < 0)
        abort();
    (void)store_scan(store, ignore_record, NULL, NULL, NULL);
    (void)dir_remove_tree(AT_FDCWD, dir);
    return 0;
}
