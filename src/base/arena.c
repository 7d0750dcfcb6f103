/* SPDX-License-Identifier: Apache-2.0 */
#include "base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/str.h"

#define BLOCK_BYTES 4000

struct block {
    struct block *next;
    size_t used, size;
    _Alignas(16) unsigned char data[];
};

struct arena {
    struct block *head;
    size_t used, max;
};

struct arena *arena_new(size_t max)
{
    struct arena *a = xcalloc(1, sizeof(*a));

    a->max = max;
    return a;
}

void *arena_alloc(struct arena *a, size_t size)
{
    size_t need, total;
    struct block *b = a->head;

    if (!checked_add(size, (size_t)15, &need))
        return NULL;
    need &= ~(size_t)15;
    if (!checked_add(a->used, need, &total) || total > a->max)
        return NULL;
    if (!b || b->size - b->used < need) {
        size_t payload = need > BLOCK_BYTES ? need : BLOCK_BYTES;
        b = calloc(1, sizeof(*b) + payload);
        if (!b)
            return NULL;
        b->size = payload;
        /* a large block does not end the use of the current one */
        if (a->head && need > BLOCK_BYTES) {
            b->next = a->head->next;
            a->head->next = b;
        } else {
            b->next = a->head;
            a->head = b;
        }
    }
    void *p = b->data + b->used;
    b->used += need;
    a->used = total;
    return p;
}

void *arena_memdup(struct arena *a, const void *bytes, size_t len)
{
    void *p = arena_alloc(a, len);

    if (p && len)
        memcpy(p, bytes, len);
    return p;
}

char *arena_strdup(struct arena *a, const char *s)
{
    return arena_memdup(a, s, strlen(s) + 1);
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap;
    char *p;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        return NULL;
    p = arena_alloc(a, (size_t)n + 1);
    if (!p)
        return NULL;
    va_start(ap, fmt);
    (void)vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}

size_t arena_used(const struct arena *a)
{
    return a->used;
}

void arena_free(struct arena *a)
{
    while (a && a->head) {
        struct block *b = a->head;
        a->head = b->next;
        free(b);
    }
    free(a);
}
