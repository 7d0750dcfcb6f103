/* SPDX-License-Identifier: Apache-2.0 */
/* The certificate of streaming, its key, and who signs those of clients: three PEM files that change while nexusd
 * runs. What is in them is nexus-stream's to judge. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define STREAM_TLS_FILES 3 /* certificate, key, client CA; a path may be NULL */

struct stream_tls { /* owned */
    struct {
        char *text; /* NULL: no file */
        size_t len;
    } files[STREAM_TLS_FILES];
};
/* Tells one state of the files from another; compared as bytes. */
struct stream_tls_stamp {
    struct {
        uint64_t dev, ino, size;
        int64_t mtime_ns, ctime_ns; /* missing: all zero */
    } files[STREAM_TLS_FILES];
};

void stream_tls_stamp(const char *const paths[STREAM_TLS_FILES], struct stream_tls_stamp *ret);
/* 0, or errno with *err set. */
int stream_tls_read(const char *const paths[STREAM_TLS_FILES], struct stream_tls *ret,
                    struct error **err);
/* The key is wiped. */
void stream_tls_done(struct stream_tls *t);
