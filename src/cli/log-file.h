/* SPDX-License-Identifier: Apache-2.0 */
/* A container's log file, read to its end and followed: what is appended, rotation included. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "cli/log-line.h"

struct log_file;
typedef int (*log_record_fn)(const struct log_record *record, void *ud); /* 0 or errno: stop */

/* tail: the number of last lines to begin with; UINT64_MAX: all. follow: watch for more. */
int log_file_open(const char *path, uint64_t tail, bool follow, struct log_file **ret,
                  struct error **err);
/* Gives out all records there are now; a file that was renamed is read to its end before the new one
 * at its path. 0 or what fn or reading returned. */
int log_file_read(struct log_file *f, log_record_fn fn, void *ud);
/* Readable when there may be more (with follow); then log_file_read. */
int log_file_fd(const struct log_file *f);
void log_file_close(struct log_file *f);
DEFINE_CLEANUP(struct log_file *, log_file_close);

/* Writes the record as the container did: content to stdout or stderr, a newline unless it goes on.
 * times: put its time before each line. ud: struct log_printer. */
struct log_printer {
    bool times;
    bool inside[3]; /* by stream: the last record was partial */
};
int log_record_print(const struct log_record *record, void *printer);
