/* SPDX-License-Identifier: Apache-2.0 */
#include "pod/record.h"

#include <string.h>

#include "base/str.h"

static const void *at(const void *object, const struct record_field *f)
{
    return (const char *)object + f->offset;
}

static void *at_mut(void *object, const struct record_field *f)
{
    return (char *)object + f->offset;
}

/* ---- struct → JSON */

static json_t *string_to_json(const char *s)
{
    size_t len = strlen(s);

    if (utf8_is_valid((const uint8_t *)s, len))
        return json_stringn_nocheck(s, len);
    {
        _cleanup_(freep) char *hex = xcalloc(2 * len + 1, 1);

        hex_encode(s, len, hex);
        return json_pack("{s:s}", "hex", hex);
    }
}

static json_t *list_to_json(const struct record_desc *d, const struct record_list *l)
{
    json_t *array;

    if (!l->count)
        return NULL;
    array = json_array();
    for (size_t i = 0; i < l->count; i++)
        (void)json_array_append_new(array, record_to_json(d, (const char *)l->items + i * d->size));
    return array;
}

static json_t *strv_to_json(char *const *v)
{
    json_t *array;

    if (!v || !*v)
        return NULL;
    array = json_array();
    for (; *v; v++)
        (void)json_array_append_new(array, string_to_json(*v));
    return array;
}

static json_t *u32v_to_json(const struct record_u32v *v)
{
    json_t *array;

    if (!v->count)
        return NULL;
    array = json_array();
    for (size_t i = 0; i < v->count; i++)
        (void)json_array_append_new(array, json_integer(v->items[i]));
    return array;
}

static json_t *integer_or_null(int64_t v)
{
    return v ? json_integer(v) : NULL;
}

static json_t *field_to_json(const struct record_field *f, const void *object)
{
    const void *p = at(object, f);

    switch ((int)f->type) {
    case RECORD_STR:
        return *(char *const *)p ? string_to_json(*(char *const *)p) : NULL;
    case RECORD_STRV:
        return strv_to_json(*(char **const *)p);
    case RECORD_BOOL:
        return *(const bool *)p ? json_true() : NULL;
    case RECORD_I32:
        return integer_or_null(*(const int32_t *)p);
    case RECORD_U32:
        return integer_or_null(*(const uint32_t *)p);
    case RECORD_I64:
        return integer_or_null(*(const int64_t *)p);
    case RECORD_U64: {
        uint64_t v = *(const uint64_t *)p;
        return integer_or_null(v > INT64_MAX ? INT64_MAX : (int64_t)v);
    }
    case RECORD_STRUCT:
        return record_to_json(f->sub, p);
    case RECORD_LIST:
        return list_to_json(f->sub, p);
    case RECORD_U32V:
        return u32v_to_json(p);
    }
    return NULL;
}

json_t *record_to_json(const struct record_desc *d, const void *object)
{
    json_t *doc = json_object();

    for (size_t i = 0; i < d->field_count; i++) {
        json_t *v = field_to_json(&d->fields[i], object);
        if (v)
            (void)json_object_set_new_nocheck(doc, d->fields[i].name, v);
    }
    return doc;
}

/* ---- JSON → struct */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int string_from_json(const json_t *v, char **ret)
{
    const char *hex;
    size_t len;
    char *out;

    if (json_is_string(v)) {
        *ret = str_dup(json_string_value(v));
        return 0;
    }
    hex = json_string_value(json_object_get(v, "hex"));
    if (!hex || strlen(hex) % 2)
        return -EBADMSG;
    len = strlen(hex) / 2;
    out = xcalloc(len + 1, 1);
    for (size_t i = 0; i < len; i++) {
        int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);
        if (high < 0 || low < 0 || (high | low) == 0) {
            free(out);
            return -EBADMSG;
        }
        out[i] = (char)(high << 4 | low);
    }
    *ret = out;
    return 0;
}

static int integer_from_json(const json_t *v, int64_t min, int64_t max, int64_t *ret)
{
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
        return -EBADMSG;
    *ret = json_integer_value(v);
    return 0;
}

static int strv_from_json(const json_t *v, char ***ret)
{
    size_t n = json_array_size(v);
    char **out;

    if (!json_is_array(v) || n > RECORD_ITEMS_MAX)
        return -EBADMSG;
    *ret = out = xcalloc(n + 1, sizeof(char *));
    for (size_t i = 0; i < n; i++)
        if (string_from_json(json_array_get(v, i), &out[i]) < 0)
            return -EBADMSG;
    return 0;
}

static int u32v_from_json(const json_t *v, struct record_u32v *ret)
{
    size_t n = json_array_size(v);

    if (!json_is_array(v) || n > RECORD_ITEMS_MAX)
        return -EBADMSG;
    ret->items = xcalloc(n + 1, sizeof(uint32_t));
    ret->count = n;
    for (size_t i = 0; i < n; i++) {
        int64_t item = 0;
        if (integer_from_json(json_array_get(v, i), 0, UINT32_MAX, &item) < 0)
            return -EBADMSG;
        ret->items[i] = (uint32_t)item;
    }
    return 0;
}

static int list_from_json(const struct record_desc *d, const json_t *v, struct record_list *ret,
                          struct error **err)
{
    size_t n = json_array_size(v);

    if (!json_is_array(v) || n > RECORD_ITEMS_MAX)
        return error_set(err, -EBADMSG, "no list, or one of more than %d items", RECORD_ITEMS_MAX);
    ret->items = xcalloc(n + 1, d->size);
    ret->count = n;
    for (size_t i = 0; i < n; i++) {
        int r = record_from_json(d, json_array_get(v, i), (char *)ret->items + i * d->size, err);
        if (r < 0)
            return error_prefix(err, r, "item %zu", i);
    }
    return 0;
}

static int field_from_json(const struct record_field *f, const json_t *v, void *object,
                           struct error **err)
{
    void *p = at_mut(object, f);
    int64_t n = 0;
    int r = 0;

    switch ((int)f->type) {
    case RECORD_STR:
        r = string_from_json(v, p);
        break;
    case RECORD_STRV:
        r = strv_from_json(v, p);
        break;
    case RECORD_BOOL:
        r = json_is_boolean(v) ? 0 : -EBADMSG;
        *(bool *)p = json_is_true(v);
        break;
    case RECORD_I32:
        r = integer_from_json(v, INT32_MIN, INT32_MAX, &n);
        *(int32_t *)p = (int32_t)n;
        break;
    case RECORD_U32:
        r = integer_from_json(v, 0, UINT32_MAX, &n);
        *(uint32_t *)p = (uint32_t)n;
        break;
    case RECORD_I64:
        r = integer_from_json(v, INT64_MIN, INT64_MAX, p);
        break;
    case RECORD_U64:
        r = integer_from_json(v, 0, INT64_MAX, &n);
        *(uint64_t *)p = (uint64_t)n;
        break;
    case RECORD_STRUCT:
        return record_from_json(f->sub, v, p, err);
    case RECORD_LIST:
        return list_from_json(f->sub, v, p, err);
    case RECORD_U32V:
        r = u32v_from_json(v, p);
        break;
    }
    return r < 0 ? error_set(err, r, "wrong type or out of range") : 0;
}

int record_from_json(const struct record_desc *d, const json_t *doc, void *object,
                     struct error **err)
{
    if (!json_is_object(doc))
        return error_set(err, -EBADMSG, "%s: no object", d->name);
    for (size_t i = 0; i < d->field_count; i++) {
        const json_t *v = json_object_get(doc, d->fields[i].name);
        int r = v ? field_from_json(&d->fields[i], v, object, err) : 0;
        if (r < 0)
            return error_prefix(err, r, "%s.%s", d->name, d->fields[i].name);
    }
    return 0;
}

/* ---- clear, copy, compare */

static void list_clear(const struct record_desc *d, struct record_list *l)
{
    for (size_t i = 0; i < l->count; i++)
        record_clear(d, (char *)l->items + i * d->size);
    free(l->items);
}

void record_clear(const struct record_desc *d, void *object)
{
    for (size_t i = 0; i < d->field_count; i++) {
        const struct record_field *f = &d->fields[i];
        void *p = at_mut(object, f);

        switch ((int)f->type) {
        case RECORD_STR:
            free(*(char **)p);
            *(char **)p = NULL;
            break;
        case RECORD_STRV:
            strv_free(*(char ***)p);
            *(char ***)p = NULL;
            break;
        case RECORD_STRUCT:
            record_clear(f->sub, p);
            break;
        case RECORD_LIST:
            list_clear(f->sub, p);
            memset(p, 0, sizeof(struct record_list));
            break;
        case RECORD_U32V:
            free(((struct record_u32v *)p)->items);
            memset(p, 0, sizeof(struct record_u32v));
            break;
        case RECORD_BOOL:
            *(bool *)p = false;
            break;
        case RECORD_I32:
        case RECORD_U32:
            *(uint32_t *)p = 0;
            break;
        case RECORD_I64:
        case RECORD_U64:
            *(uint64_t *)p = 0;
            break;
        }
    }
}

void record_copy(const struct record_desc *d, const void *from, void *to)
{
    json_t *doc = record_to_json(d, from);

    (void)record_from_json(d, doc, to, NULL);
    json_decref(doc);
}

bool record_equal(const struct record_desc *d, const void *a, const void *b)
{
    json_t *x = record_to_json(d, a), *y = record_to_json(d, b);
    bool equal = json_equal(x, y);

    json_decref(x);
    json_decref(y);
    return equal;
}

void *record_list_add(void *list, size_t item_size)
{
    struct record_list *l = list;

    l->items = xrealloc(l->items, l->count + 1, item_size);
    memset((char *)l->items + l->count * item_size, 0, item_size);
    return (char *)l->items + l->count++ * item_size;
}
