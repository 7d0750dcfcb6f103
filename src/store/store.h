/* SPDX-License-Identifier: Apache-2.0 */
/* Durable records: one readable JSON file per object in one directory, written whole or not at all.
 * Single thread. A damaged file is moved to <dir>/damaged/ and reported, never fatal. */
#pragma once

#include <jansson.h>

#include "base/error.h"

struct store;

/* Opens (creating it, 0700) the directory. Temporaries of a killed writer are removed, and a reserve
 * file of 4 MiB is kept in it (see store_put_owed). */
int store_open(const char *dir, struct store **ret, struct error **err);
void store_free(struct store *s);
DEFINE_CLEANUP(struct store *, store_free);

/* Writes <name>.json: temporary name, fsync, rename, fsync of the directory. name: [A-Za-z0-9._:-], no
 * leading dot, at most 200 bytes. doc (an object, at most LIMIT_RECORD_BYTES of text) is borrowed. The
 * envelope {"schema": 1, "checksum": …, "record": doc} is ours. On an error the old record stands.
 * -EINVAL: name or doc; -E2BIG; -ENOSPC and other errno of the file system. */
int store_put(struct store *s, const char *name, const json_t *doc, struct error **err);
/* The same for what must be written even on a full disk (a debt, a step towards removal): when
 * there is no space the reserve is given up and the write tried again. The reserve comes back with a
 * later put that finds space. */
int store_put_owed(struct store *s, const char *name, const json_t *doc, struct error **err);
/* The record, owned by the caller (json_decref). -ENOENT; -EBADMSG: damaged, set aside;
 * -EPROTONOSUPPORT: written by a newer version of us, untouched. */
int store_get(struct store *s, const char *name, json_t **ret, struct error **err);
/* Durable; a missing record is no error. */
int store_delete(struct store *s, const char *name, struct error **err);

/* Calls fn for each good record (doc borrowed), in name order. Damaged ones are set aside and given
 * to bad (may be NULL) with the reason. A record with a newer schema than ours: -EPROTONOSUPPORT,
 * nothing is touched and fn is not called. fn and bad may put and delete records. */
typedef void (*store_record_fn)(const char *name, const json_t *doc, void *userdata);
typedef void (*store_damaged_fn)(const char *name, const char *reason, void *userdata);
int store_scan(struct store *s, store_record_fn fn, store_damaged_fn bad, void *userdata,
               struct error **err);
