/* SPDX-License-Identifier: Apache-2.0 */
/* The data file of a layer: bytes at rising positions, gathered into large writes; gaps of less than a
 * block are zeros, larger ones stay holes. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define DATA_WRITER_BYTES (1U << 20)

struct data_writer {
    int fd;         /* borrowed */
    uint8_t *chunk; /* owned */
    uint64_t start; /* position of chunk[0] in the file */
    size_t used;
};

/* 0 or -ENOMEM. */
int data_writer_init(struct data_writer *w, int fd);
void data_writer_done(struct data_writer *w);
/* pos is never before what was written. 0 or the errno of writing. */
int data_writer_put(struct data_writer *w, uint64_t pos, const void *bytes, size_t len);
/* Writes what is held back and makes the file exactly size bytes. */
int data_writer_end(struct data_writer *w, uint64_t size);
