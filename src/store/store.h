/* SPDX-License-Identifier: Apache-2.0 */
/* Durable records: one readable JSON file per object in one directory, written whole or not at all.
 * Single thread. A damaged file is moved to <dir>/damaged/ and reported, never fatal. */
#pragma once

#include <jansson.h>

#include "base/error.h"

struct store;

/* Opens (creating it, 0700) the directory. */
int store_open(const char *dir, struct store **ret, struct error **err);
void store_free(struct store *s);
DEFINE_CLEANUP(struct store *, store_free);

/* Writes <name>.json: temporary name, fsync, rename, fsync of the directory. name: [A-Za-z0-9._:-], no
 * leading dot. doc is borrowed. The envelope {"schema": 1, "checksum": …, "record": doc} is ours. */
int store_put(struct store *s, const char *name, const json_t *doc, struct error **err);
/* The record, owned by the caller (json_decref). -ENOENT; -EBADMSG: damaged, set aside. */
int store_get(struct store *s, const char *name, json_t **ret, struct error **err);
/* Durable; a missing record is no error. */
int store_delete(struct store *s, const char *name, struct error **err);

/* Calls fn for each good record (doc borrowed). Damaged ones are set aside and given to bad with the
 * reason. A record with a newer schema than ours: -EPROTONOSUPPORT, nothing is touched. */
typedef void (*store_record_fn)(const char *name, const json_t *doc, void *userdata);
typedef void (*store_damaged_fn)(const char *name, const char *reason, void *userdata);
int store_scan(struct store *s, store_record_fn fn, store_damaged_fn bad, void *userdata,
               struct error **err);
