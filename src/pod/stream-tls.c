/* SPDX-License-Identifier: Apache-2.0 */
#include "pod/stream-tls.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/limit.h"

static int64_t to_ns(struct timespec t)
{
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void stream_tls_stamp(const char *const paths[STREAM_TLS_FILES], struct stream_tls_stamp *ret)
{
    memset(ret, 0, sizeof(*ret));
    for (size_t i = 0; i < STREAM_TLS_FILES; i++) {
        struct stat st;

        if (!paths[i] || stat(paths[i], &st) < 0)
            continue;
        ret->files[i].dev = st.st_dev;
        ret->files[i].ino = st.st_ino;
        ret->files[i].size = (uint64_t)st.st_size;
        ret->files[i].mtime_ns = to_ns(st.st_mtim);
        ret->files[i].ctime_ns = to_ns(st.st_ctim);
    }
}

int stream_tls_read(const char *const paths[STREAM_TLS_FILES], struct stream_tls *ret,
                    struct error **err)
{
    _cleanup_(stream_tls_done) struct stream_tls t = {0};

    for (size_t i = 0; i < STREAM_TLS_FILES; i++) {
        int r = paths[i] ? file_read_all(AT_FDCWD, paths[i], LIMIT_STREAM_PEM_BYTES,
                                         &t.files[i].text, &t.files[i].len)
                         : 0;

        if (r < 0)
            return error_set(err, r, "cannot read %s: %s", paths[i], strerror(-r));
    }
    *ret = t;
    t = (struct stream_tls){0};
    return 0;
}

void stream_tls_done(struct stream_tls *t)
{
    for (size_t i = 0; i < STREAM_TLS_FILES; i++) {
        if (t->files[i].text)
            explicit_bzero(t->files[i].text, t->files[i].len);
        free(t->files[i].text);
    }
    *t = (struct stream_tls){0};
}
