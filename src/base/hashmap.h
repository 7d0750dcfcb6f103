/* SPDX-License-Identifier: Apache-2.0 */
/* String → pointer map, open addressing, seeded hash. Keys are copied, values are the caller's. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

struct hashmap_slot {
    char *key; /* owned; NULL: free */
    void *value;
    uint64_t hash;
};
struct hashmap {
    struct hashmap_slot *slots; /* owned */
    size_t size;                /* slots, 0 or a power of two */
    size_t used;
    uint64_t seed;
};

void hashmap_init(struct hashmap *m);
/* Frees keys and slots; values stay the caller's. */
void hashmap_done(struct hashmap *m);
/* -EEXIST if the key is there. value must not be NULL. */
int hashmap_put(struct hashmap *m, const char *key, void *value);
void *hashmap_get(const struct hashmap *m, const char *key);
/* Returns the value that was there, or NULL. */
void *hashmap_remove(struct hashmap *m, const char *key);
static inline size_t hashmap_count(const struct hashmap *m)
{
    return m->used;
}
/* Iteration in slot order: size_t i; void *v; the body must not put or remove. */
#define hashmap_foreach(v, i, m)          \
    for ((i) = 0; (i) < (m)->size; (i)++) \
        if ((m)->slots[i].key && ((v) = (m)->slots[i].value))
