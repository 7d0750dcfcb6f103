/* SPDX-License-Identifier: Apache-2.0 */
/* CRI's log format, sans-IO: bytes in, records out. "TIME STREAM TAGS CONTENT\n", where the tag P says
 * that the line goes on in the next record, F that it ends. Whoever wrote the file is not trusted. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

/* A record longer than this is given out in pieces that are not well formed. */
#define LOG_RECORD_MAX (1U << 20)

struct log_record {
    bool good;              /* well formed; else content is the whole line and stream is 1 */
    int stream;             /* 1 stdout, 2 stderr */
    bool partial;           /* tag P */
    const char *time;       /* borrowed */
    size_t time_len;        /* bytes */
    const uint8_t *content; /* borrowed; without the newline */
    size_t content_len;     /* bytes */
};

struct log_splitter {
    struct buf in;
    size_t taken; /* bytes of the record handed out last */
};

void log_splitter_init(struct log_splitter *s);
void log_splitter_done(struct log_splitter *s);
/* 0 or -ENOMEM. Take all records out before feeding more than LOG_RECORD_MAX bytes. */
int log_splitter_feed(struct log_splitter *s, const void *bytes, size_t len);
/* 1: *ret is a record, valid until the next call; 0: the rest is no whole line yet. */
int log_splitter_next(struct log_splitter *s, struct log_record *ret);
/* Bytes of an unfinished last line. */
size_t log_splitter_rest(const struct log_splitter *s);

/* One line without its newline. */
void log_record_parse(const uint8_t *line, size_t len, struct log_record *ret);
