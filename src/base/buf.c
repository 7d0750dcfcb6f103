/* SPDX-License-Identifier: Apache-2.0 */
#include "base/buf.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"

void buf_init(struct buf *b, size_t max)
{
    *b = (struct buf){.max = max};
}

void buf_done(struct buf *b)
{
    free(b->data);
    b->data = NULL;
    b->used = b->size = 0;
}

void buf_clear(struct buf *b)
{
    b->used = 0;
}

static int grow(struct buf *b, size_t len)
{
    size_t need, size;
    uint8_t *data;

    if (!checked_add(b->used, len, &need) || need > b->max)
        return -EMSGSIZE;
    if (need <= b->size)
        return 0;
    size = b->size ? b->size : 64;
    while (size < need)
        size = size > b->max / 2 ? b->max : size * 2;
    data = realloc(b->data, size);
    if (!data)
        return -ENOMEM;
    b->data = data;
    b->size = size;
    return 0;
}

uint8_t *buf_reserve(struct buf *b, size_t len)
{
    if (grow(b, len) < 0)
        return NULL;
    return b->data + b->used;
}

int buf_append(struct buf *b, const void *bytes, size_t len)
{
    int r = grow(b, len);

    if (r < 0)
        return r;
    if (len)
        memcpy(b->data + b->used, bytes, len);
    b->used += len;
    return 0;
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    int n, r;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        return -EINVAL;
    r = grow(b, (size_t)n + 1); /* room for vsnprintf's NUL, which is not counted */
    if (r < 0)
        return r;
    va_start(ap, fmt);
    (void)vsnprintf((char *)b->data + b->used, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->used += (size_t)n;
    return 0;
}

void buf_consume(struct buf *b, size_t len)
{
    if (len >= b->used) {
        b->used = 0;
        return;
    }
    memmove(b->data, b->data + len, b->used - len);
    b->used -= len;
}

char *buf_take_str(struct buf *b)
{
    char *s = realloc(b->data, b->used + 1);

    if (!s)
        return NULL;
    s[b->used] = '\0';
    b->data = NULL;
    b->used = b->size = 0;
    return s;
}
