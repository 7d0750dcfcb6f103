/* SPDX-License-Identifier: Apache-2.0 */
#include "base/hashmap.h"

#include <string.h>

#include "base/str.h"

void hashmap_init(struct hashmap *m)
{
    *m = (struct hashmap){0};
    random_bytes(&m->seed, sizeof(m->seed));
}

void hashmap_done(struct hashmap *m)
{
    for (size_t i = 0; i < m->size; i++)
        free(m->slots[i].key);
    free(m->slots);
    m->slots = NULL;
    m->size = m->used = 0;
}

/* Seeded FNV-1a with a final mix: keys are ids of ours and names from kubelet, which is trusted. */
static uint64_t hash_of(const struct hashmap *m, const char *key)
{
    uint64_t h = 14695981039346656037ULL ^ m->seed;

    for (; *key; key++)
        h = (h ^ (uint8_t)*key) * 1099511628211ULL;
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15ULL;
    return h ^ h >> 29;
}

static size_t find(const struct hashmap *m, const char *key, uint64_t hash)
{
    size_t i = hash & (m->size - 1);

    while (m->slots[i].key && (m->slots[i].hash != hash || strcmp(m->slots[i].key, key) != 0))
        i = (i + 1) & (m->size - 1);
    return i;
}

static void grow(struct hashmap *m)
{
    struct hashmap old = *m;

    m->size = old.size ? old.size * 2 : 16;
    m->slots = xcalloc(m->size, sizeof(*m->slots));
    for (size_t i = 0; i < old.size; i++)
        if (old.slots[i].key)
            m->slots[find(m, old.slots[i].key, old.slots[i].hash)] = old.slots[i];
    free(old.slots);
}

int hashmap_put(struct hashmap *m, const char *key, void *value)
{
    uint64_t hash;
    size_t i;

    if ((m->used + 1) * 4 > m->size * 3)
        grow(m);
    hash = hash_of(m, key);
    i = find(m, key, hash);
    if (m->slots[i].key)
        return -EEXIST;
    m->slots[i] = (struct hashmap_slot){.key = str_dup(key), .value = value, .hash = hash};
    m->used++;
    return 0;
}

void *hashmap_get(const struct hashmap *m, const char *key)
{
    size_t i;

    if (!m->size || !key)
        return NULL;
    i = find(m, key, hash_of(m, key));
    return m->slots[i].key ? m->slots[i].value : NULL;
}

void *hashmap_remove(struct hashmap *m, const char *key)
{
    size_t i, hole, mask = m->size - 1;
    void *value;

    if (!m->size)
        return NULL;
    i = find(m, key, hash_of(m, key));
    if (!m->slots[i].key)
        return NULL;
    value = m->slots[i].value;
    free(m->slots[i].key);
    m->slots[i] = (struct hashmap_slot){0};
    m->used--;
    /* close the gap: move up later entries whose home lies at or before the hole */
    for (hole = i, i = (i + 1) & mask; m->slots[i].key; i = (i + 1) & mask) {
        size_t home = m->slots[i].hash & mask;
        if (((i - home) & mask) < ((i - hole) & mask))
            continue;
        m->slots[hole] = m->slots[i];
        m->slots[i] = (struct hashmap_slot){0};
        hole = i;
    }
    return value;
}
