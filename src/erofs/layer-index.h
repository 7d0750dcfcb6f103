/* SPDX-License-Identifier: Apache-2.0 */
/* The index of a converted layer: its members in order, with the block of each file's data, so that an
 * image's metadata can be merged from any combination of layers without reading a tar again.
 *
 *   header (192 bytes) | member | member | …        little-endian, checksummed
 *
 * The layer is {data file, index file}, both named by the diff_id; the index is written last. Sans-IO.
 * What is read is not trusted: lengths, strings and counts are checked. */
#pragma once

#include "erofs/entry.h"

#define LAYER_INDEX_VERSION 2
#define LAYER_INDEX_HEADER 192

struct layer_info {
    char diff_id[65];          /* hex */
    char data_sha256[65];      /* hex, of the data file as it was written */
    uint64_t entries;          /* members */
    uint64_t data_bytes;       /* of the data file, a multiple of 4 KiB */
    uint64_t index_bytes;      /* of the members, without the header */
    uint64_t unpacked_bytes;   /* of the tar */
    uint64_t compressed_bytes; /* of the blob */
    uint32_t checksum;         /* crc32c of the members */
};

/* Appends one member. 0, -EMSGSIZE: the buffer's limit, -ENOMEM, -EINVAL: too long a string. */
int layer_index_append(struct buf *out, const struct erofs_entry *e);
/* The header for what was appended. */
void layer_index_header(const struct layer_info *info, uint8_t out[LAYER_INDEX_HEADER]);

/* Reads the header alone; what it says of the members (index_bytes, checksum) is not compared with anything.
 * 0, -EBADMSG, -EPROTONOSUPPORT. */
int layer_index_read_header(const uint8_t bytes[LAYER_INDEX_HEADER], struct layer_info *ret);

struct layer_reader {
    const uint8_t *at, *end; /* borrowed */
    uint64_t left;           /* members */
};
/* 0; -EBADMSG: damaged; -EPROTONOSUPPORT: another version. Borrows bytes. Either ret may be NULL. */
int layer_index_open(const uint8_t *bytes, size_t len, struct layer_info *ret_info,
                     struct layer_reader *ret_reader);
/* 1: *ret is a member, its pointers valid as long as the bytes; 0: the end; -EBADMSG. */
int layer_index_next(struct layer_reader *r, struct erofs_entry *ret);
