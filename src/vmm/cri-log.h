/* SPDX-License-Identifier: Apache-2.0 */
/* Writer of one container's CRI log: records `<RFC3339, nanoseconds> <stdout|stderr> <P|F> <text>\n`.
 * Lines are split at LIMIT_LOG_CHUNK_BYTES into P records with an F at the end; a last line without
 * newline becomes F at the end of its stream. Bytes pass unchanged.
 *
 * Invariants: the file holds whole records only, also after a short write (the torn end is cut off).
 * A failing disk never stops the caller: output is dropped and counted, the write is tried again every
 * second, and a marker record tells how much is missing. The file is changed (reopen) only between the
 * records of different lines. Source: Kubernetes CRI log format, kubelet's parser is strict. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

struct cri_log;

enum cri_stream { CRI_STDOUT, CRI_STDERR };
#define CRI_STREAM_COUNT 2

/* fd: a regular file open for writing (O_APPEND is set on it), owned from success on; -1: there is no
 * file, output is discarded. 0; -EINVAL: not a regular file; -ENOMEM. */
int cri_log_new(int fd, struct cri_log **ret);
/* Does not write what is pending: cri_log_end first. */
void cri_log_free(struct cri_log *log);
DEFINE_CLEANUP(struct cri_log *, cri_log_free);

/* Output of the container. Complete lines are in the file when it returns (or counted as dropped). */
void cri_log_write(struct cri_log *log, enum cri_stream stream, const void *bytes, size_t len);
/* The stream is over: what waits for its newline is written, and a marker that is owed. Harmless twice. */
void cri_log_end(struct cri_log *log, enum cri_stream stream);

/* Goes on in another file: at once, or when the line now being split is complete (at the latest after
 * 1 MiB of it: then the line is broken there). fd as in cri_log_new, owned on success only. */
int cri_log_reopen(struct cri_log *log, int fd);

/* Bytes of output lost since cri_log_new. */
uint64_t cri_log_dropped(const struct cri_log *log);
