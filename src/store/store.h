/* SPDX-License-Identifier: Apache-2.0 */
/* Durable records: one readable JSON file per object in one directory, written whole or not at all.
 * A damaged file is moved to <dir>/damaged/ and reported, never fatal.
 *
 * Writing never blocks the loop: put and delete take the text as it is now, queue it, and tell from the
 * loop when it is durable. One thread per queue does the writing, one record after the other. For one
 * name the order of calls is the order on disk; a put that still waits is replaced by a later one of its
 * name, and both are told when the newer text is durable. Across names and stores nothing is promised:
 * who needs an order waits for the first one's end.
 * Functions: the loop's thread. Reading (get, scan) is for the start: it sees what is on disk. */
#pragma once

#include <jansson.h>

#include <systemd/sd-event.h>

#include "base/error.h"

#define STORE_QUEUE_MAX 4096              /* records that wait */
#define STORE_QUEUE_BYTES_MAX (16U << 20) /* their text */

/* The thread that writes, and what waits for it. */
struct store_queue;
int store_queue_new(sd_event *event, struct store_queue **ret, struct error **err);
/* Waits until everything is written and told, for the end of the program. -ETIMEDOUT: the disk hangs. */
int store_queue_drain(struct store_queue *q, unsigned timeout_ms);
/* What is not written is told as -ECANCELED. NULL is allowed. */
void store_queue_free(struct store_queue *q);
DEFINE_CLEANUP(struct store_queue *, store_queue_free);

struct store;

/* Opens (creating it, 0700) the directory. Temporaries of a killed writer are removed, and a reserve
 * file of 4 MiB is kept in it (STORE_OWED). queue: borrowed, outlives the store; NULL: nothing can be put. */
int store_open(const char *dir, struct store_queue *queue, struct store **ret, struct error **err);
/* A directory that somebody else keeps: nothing in it is changed, and damaged files are only told. */
int store_open_readonly(const char *dir, struct store **ret, struct error **err);
/* What waits in the queue is still written. */
void store_free(struct store *s);
DEFINE_CLEANUP(struct store *, store_free);

/* Somebody who waits for a write. */
struct store_op;
/* Once, from the loop: r is 0 when it is durable, else negative with err (borrowed) saying why; the old
 * record stands then. The op is gone when this is called. */
typedef void (*store_done_fn)(void *userdata, int r, const struct error *err);
/* done is not called any more; the write goes on. NULL is allowed. */
void store_forget(struct store_op *op);

/* For what must be written even on a full disk (a debt, a step towards removal): when there is no space
 * the reserve is given up and the write tried again. It comes back with a later put that finds space. */
#define STORE_OWED 1U

/* Writes <name>.json: temporary name, fsync, rename, fsync of the directory. name: [A-Za-z0-9._:-], no
 * leading dot, at most 200 bytes. doc (an object, at most LIMIT_RECORD_BYTES of text) is borrowed for
 * the call. The envelope {"schema": 1, "checksum": …, "record": doc} is ours. done may be NULL, ret too.
 * Negative, and done is not called: -EINVAL: name or doc; -E2BIG; -EAGAIN: the queue is full. done:
 * -ENOSPC and other errno of the file system. */
int store_put(struct store *s, const char *name, const json_t *doc, unsigned flags,
              store_done_fn done, void *userdata, struct store_op **ret, struct error **err);
/* A missing record is no error. */
int store_delete(struct store *s, const char *name, store_done_fn done, void *userdata,
                 struct store_op **ret, struct error **err);

/* The record, owned by the caller (json_decref). -ENOENT; -EBADMSG: damaged, set aside;
 * -EPROTONOSUPPORT: written by a newer version of us, untouched. */
int store_get(struct store *s, const char *name, json_t **ret, struct error **err);

/* Calls fn for each good record (doc borrowed), in name order. Damaged ones are set aside and given
 * to bad (may be NULL) with the reason. A record with a newer schema than ours: -EPROTONOSUPPORT,
 * nothing is touched and fn is not called. fn and bad may put and delete records. */
typedef void (*store_record_fn)(const char *name, const json_t *doc, void *userdata);
typedef void (*store_damaged_fn)(const char *name, const char *reason, void *userdata);
int store_scan(struct store *s, store_record_fn fn, store_damaged_fn bad, void *userdata,
               struct error **err);
