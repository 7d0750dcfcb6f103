/* SPDX-License-Identifier: Apache-2.0 */
/* Little-endian values as wrappers, so that a raw use does not compile; and unaligned access in both
 * byte orders. The hosts we run on are little-endian; the code does not depend on it. */
#pragma once

#include <stdint.h>
#include <string.h>

typedef struct {
    uint16_t raw;
} le16;
typedef struct {
    uint32_t raw;
} le32;
typedef struct {
    uint64_t raw;
} le64;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define le_swap16(v) (v)
#define le_swap32(v) (v)
#define le_swap64(v) (v)
#else
#define le_swap16(v) __builtin_bswap16(v)
#define le_swap32(v) __builtin_bswap32(v)
#define le_swap64(v) __builtin_bswap64(v)
#endif

static inline uint16_t le16_get(le16 v)
{
    return le_swap16(v.raw);
}
static inline uint32_t le32_get(le32 v)
{
    return le_swap32(v.raw);
}
static inline uint64_t le64_get(le64 v)
{
    return le_swap64(v.raw);
}
static inline le16 le16_of(uint16_t v)
{
    return (le16){le_swap16(v)};
}
static inline le32 le32_of(uint32_t v)
{
    return (le32){le_swap32(v)};
}
static inline le64 le64_of(uint64_t v)
{
    return (le64){le_swap64(v)};
}

static inline uint32_t be32_load(const void *p)
{
    const uint8_t *b = p;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}
static inline uint16_t be16_load(const void *p)
{
    const uint8_t *b = p;
    return (uint16_t)(b[0] << 8 | b[1]);
}
static inline void be32_store(void *p, uint32_t v)
{
    uint8_t b[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
    memcpy(p, b, sizeof(b));
}
static inline void be16_store(void *p, uint16_t v)
{
    uint8_t b[2] = {(uint8_t)(v >> 8), (uint8_t)v};
    memcpy(p, b, sizeof(b));
}
static inline uint16_t le16_load(const void *p)
{
    le16 v;
    memcpy(&v, p, sizeof(v));
    return le16_get(v);
}
static inline uint32_t le32_load(const void *p)
{
    le32 v;
    memcpy(&v, p, sizeof(v));
    return le32_get(v);
}
static inline uint64_t le64_load(const void *p)
{
    le64 v;
    memcpy(&v, p, sizeof(v));
    return le64_get(v);
}
static inline void le16_store(void *p, uint16_t v)
{
    le16 x = le16_of(v);
    memcpy(p, &x, sizeof(x));
}
static inline void le32_store(void *p, uint32_t v)
{
    le32 x = le32_of(v);
    memcpy(p, &x, sizeof(x));
}
static inline void le64_store(void *p, uint64_t v)
{
    le64 x = le64_of(v);
    memcpy(p, &x, sizeof(x));
}
