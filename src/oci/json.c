/* SPDX-License-Identifier: Apache-2.0 */
#include "oci/json.h"

#include <string.h>

#include "base/json-scan.h"
#include "base/limit.h"
#include "base/str.h"

int oci_json_parse(const void *bytes, size_t len, size_t max_bytes, const char *what, json_t **ret,
                   struct error **err)
{
    json_error_t je;
    json_t *doc;
    int r;

    if (len > max_bytes)
        return error_set(err, -E2BIG, "%s is larger than %zu bytes", what, max_bytes);
    r = json_scan(bytes, len, LIMIT_JSON_DEPTH, JSON_SCAN_TOKENS);
    if (r == -E2BIG)
        return error_set(err, r, "%s is nested too deep or has too many values", what);
    if (r < 0)
        return error_set(err, -EBADMSG, "%s is no valid JSON", what);
    doc = json_loadb(bytes, len, JSON_REJECT_DUPLICATES, &je);
    if (!doc)
        return error_set(err, -EBADMSG, "%s is no valid JSON (line %d, column %d)", what, je.line,
                         je.column);
    if (!json_is_object(doc)) {
        json_decref(doc);
        return error_set(err, -EBADMSG, "%s is no JSON object", what);
    }
    *ret = doc;
    return 0;
}

int oci_json_str(const json_t *obj, const char *key, const char **ret, struct error **err)
{
    const json_t *v = json_object_get(obj, key);

    *ret = NULL;
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_string(v))
        return error_set(err, -EBADMSG, "\"%s\" is no string", key);
    *ret = json_string_value(v);
    return 0;
}

int oci_json_u64(const json_t *obj, const char *key, uint64_t min, uint64_t max, uint64_t *ret,
                 struct error **err)
{
    const json_t *v = json_object_get(obj, key);
    json_int_t n;

    if (!v || json_is_null(v))
        return -ENOENT;
    n = json_integer_value(v);
    if (!json_is_integer(v) || n < 0 || (uint64_t)n < min || (uint64_t)n > max)
        return error_set(err, -EBADMSG, "\"%s\" is no number from %llu to %llu", key,
                         (unsigned long long)min, (unsigned long long)max);
    *ret = (uint64_t)n;
    return 0;
}

int oci_json_strv(const json_t *obj, const char *key, size_t max, char ***ret, struct error **err)
{
    const json_t *v = json_object_get(obj, key);
    char **list;
    size_t n;

    *ret = NULL;
    if (!v || json_is_null(v))
        return 0;
    n = json_array_size(v);
    if (!json_is_array(v))
        return error_set(err, -EBADMSG, "\"%s\" is no list", key);
    if (n > max)
        return error_set(err, -E2BIG, "\"%s\" has more than %zu elements", key, max);
    if (n == 0)
        return 0;
    for (size_t i = 0; i < n; i++)
        if (!json_is_string(json_array_get(v, i)))
            return error_set(err, -EBADMSG, "\"%s\" has an element that is no string", key);
    list = xcalloc(n + 1, sizeof(*list));
    for (size_t i = 0; i < n; i++)
        list[i] = str_dup(json_string_value(json_array_get(v, i)));
    *ret = list;
    return 0;
}
