/* SPDX-License-Identifier: Apache-2.0 */
/* Strict JSON from outside: size, depth and number of values capped before the parser runs, duplicate
 * keys and NUL refused; and typed getters that tell "absent" from "wrong". */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "base/error.h"

/* what names the document in errors. *ret is the caller's (json_decref). -E2BIG: a cap; -EBADMSG: no
 * JSON object. */
int oci_json_parse(const void *bytes, size_t len, size_t max_bytes, const char *what, json_t **ret,
                   struct error **err);

/* Borrowed text of obj[key]; *ret NULL when absent or null. -EBADMSG: another type. */
int oci_json_str(const json_t *obj, const char *key, const char **ret, struct error **err);
/* obj[key] as a number in [min, max]; -ENOENT (no error object): absent. -EBADMSG. */
int oci_json_u64(const json_t *obj, const char *key, uint64_t min, uint64_t max, uint64_t *ret,
                 struct error **err);
/* obj[key] as a vector of strings of at most max elements; *ret NULL when
 * absent, null or empty; the caller's (strv_free). */
int oci_json_strv(const json_t *obj, const char *key, size_t max, char ***ret, struct error **err);
