/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/resize.h"

#include <jansson.h>
#include <string.h>

static bool parse(const char *object, size_t len, uint16_t *columns, uint16_t *rows)
{
    json_int_t w = 0, h = 0;
    json_t *doc = json_loadb(object, len, JSON_REJECT_DUPLICATES, NULL);
    bool good = doc && json_unpack(doc, "{s:I,s:I}", "Width", &w, "Height", &h) == 0 && w > 0 &&
                w <= UINT16_MAX && h > 0 && h <= UINT16_MAX;

    json_decref(doc);
    *columns = (uint16_t)w;
    *rows = (uint16_t)h;
    return good;
}

size_t resize_feed(struct resize_reader *r, const uint8_t *bytes, size_t len, bool *ret,
                   uint16_t *columns, uint16_t *rows)
{
    *ret = false;
    for (size_t i = 0; i < len && !r->lost; i++) {
        char c = (char)bytes[i];

        if (r->used == 0 && strchr(" \t\r\n", c) && c)
            continue;
        if (r->used == RESIZE_OBJECT_BYTES || (r->used == 0 && c != '{')) {
            r->lost = true;
            break;
        }
        r->object[r->used++] = c;
        if (c != '}')
            continue;
        *ret = parse(r->object, r->used, columns, rows);
        r->used = 0;
        return i + 1;
    }
    return len;
}
