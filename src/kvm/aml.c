/* SPDX-License-Identifier: Apache-2.0 */
/* Byte codes of the few terms we need. */
#include "kvm/aml.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/le.h"

void aml_init(struct aml *a, uint8_t *out, size_t size)
{
    *a = (struct aml){.out = out, .size = size};
}

int aml_finish(const struct aml *a, size_t *ret_used)
{
    if (a->overflow)
        return -E2BIG;
    *ret_used = a->used;
    return 0;
}

static void put(struct aml *a, const void *bytes, size_t len)
{
    if (len > a->size - a->used) {
        a->overflow = true;
        return;
    }
    memcpy(a->out + a->used, bytes, len);
    a->used += len;
}

static void put8(struct aml *a, uint8_t v)
{
    put(a, &v, 1);
}

static void put16(struct aml *a, uint16_t v)
{
    le16 x = le16_of(v);

    put(a, &x, sizeof(x));
}

static void put32(struct aml *a, uint32_t v)
{
    le32 x = le32_of(v);

    put(a, &x, sizeof(x));
}

static void put_name(struct aml *a, const char *name)
{
    char seg[4] = {'_', '_', '_', '_'};

    memcpy(seg, name, strnlen(name, sizeof(seg)));
    put(a, seg, sizeof(seg));
}

static void put_int(struct aml *a, uint32_t v)
{
    if (v <= 1) { /* ZeroOp, OneOp */
        put8(a, (uint8_t)v);
    } else if (v <= UINT8_MAX) {
        put8(a, 0x0A);
        put8(a, (uint8_t)v);
    } else if (v <= UINT16_MAX) {
        put8(a, 0x0B);
        put16(a, (uint16_t)v);
    } else {
        put8(a, 0x0C);
        put32(a, v);
    }
}

static void put_string(struct aml *a, const char *s)
{
    put8(a, 0x0D);
    put(a, s, strlen(s) + 1);
}

/* A package length counts itself: content grows by 1, 2 or 3 bytes. */
static size_t encode_pkg_length(size_t content, uint8_t out[3])
{
    if (content + 1 <= 0x3F) {
        out[0] = (uint8_t)(content + 1);
        return 1;
    }
    if (content + 2 <= 0xFFF) {
        size_t len = content + 2;

        out[0] = (uint8_t)(0x40 | (len & 0xF));
        out[1] = (uint8_t)(len >> 4);
        return 2;
    }
    size_t len = content + 3;

    out[0] = (uint8_t)(0x80 | (len & 0xF));
    out[1] = (uint8_t)(len >> 4);
    out[2] = (uint8_t)(len >> 12);
    return 3;
}

/* Inserts len bytes at mark. */
static void insert(struct aml *a, size_t mark, const uint8_t *bytes, size_t len)
{
    if (a->overflow || len > a->size - a->used) {
        a->overflow = true;
        return;
    }
    memmove(a->out + mark + len, a->out + mark, a->used - mark);
    memcpy(a->out + mark, bytes, len);
    a->used += len;
}

void aml_end(struct aml *a, size_t mark)
{
    uint8_t length[3];
    size_t content = a->used - mark;

    if (content > 0xFFFFF - 3) {
        a->overflow = true;
        return;
    }
    insert(a, mark, length, encode_pkg_length(content, length));
}

size_t aml_begin_scope(struct aml *a, const char *name)
{
    size_t mark;

    put8(a, 0x10);
    mark = a->used;
    put_name(a, name);
    return mark;
}

size_t aml_begin_device(struct aml *a, const char *name)
{
    size_t mark;

    put8(a, 0x5B);
    put8(a, 0x82);
    mark = a->used;
    put_name(a, name);
    return mark;
}

size_t aml_begin_method(struct aml *a, const char *name, unsigned args, bool serialized)
{
    size_t mark;

    put8(a, 0x14);
    mark = a->used;
    put_name(a, name);
    put8(a, (uint8_t)((args & 7U) | (serialized ? 8U : 0U)));
    return mark;
}

size_t aml_begin_buffer_name(struct aml *a, const char *name)
{
    put8(a, 0x08);
    put_name(a, name);
    put8(a, 0x11);
    return a->used;
}

void aml_end_buffer(struct aml *a, size_t mark)
{
    uint8_t head[3] = {0};
    size_t content, n;

    put8(a, 0x79); /* end tag, checksum 0: none */
    put8(a, 0);
    content = a->used - mark;
    if (content <= UINT8_MAX) {
        head[0] = 0x0A;
        head[1] = (uint8_t)content;
        n = 2;
    } else {
        head[0] = 0x0B;
        head[1] = (uint8_t)content;
        head[2] = (uint8_t)(content >> 8);
        n = 3;
    }
    insert(a, mark, head, n); /* BufferSize stands before the bytes */
    aml_end(a, mark);
}

void aml_name_string(struct aml *a, const char *name, const char *value)
{
    put8(a, 0x08);
    put_name(a, name);
    put_string(a, value);
}

void aml_name_int(struct aml *a, const char *name, uint32_t value)
{
    put8(a, 0x08);
    put_name(a, name);
    put_int(a, value);
}

void aml_name_bytes(struct aml *a, const char *name, const uint8_t *values, uint8_t n)
{
    size_t mark;

    put8(a, 0x08);
    put_name(a, name);
    put8(a, 0x12);
    mark = a->used;
    put8(a, n);
    for (uint8_t i = 0; i < n; i++)
        put_int(a, values[i]);
    aml_end(a, mark);
}

void aml_region(struct aml *a, const char *name, uint32_t gpa, uint8_t len)
{
    put8(a, 0x5B);
    put8(a, 0x80);
    put_name(a, name);
    put8(a, 0); /* SystemMemory */
    put_int(a, gpa);
    put_int(a, len);
}

static void put_field(struct aml *a, const char *region, const char *const *fields, size_t n,
                      uint8_t access, uint8_t bits)
{
    size_t mark;

    put8(a, 0x5B);
    put8(a, 0x81);
    mark = a->used;
    put_name(a, region);
    put8(a, access); /* and NoLock, Preserve */
    for (size_t i = 0; i < n; i++) {
        put_name(a, fields[i]);
        put8(a, bits); /* as a one-byte package length */
    }
    aml_end(a, mark);
}

void aml_field_dwords(struct aml *a, const char *region, const char *const *fields, size_t n)
{
    put_field(a, region, fields, n, 3, 32);
}

void aml_field_bytes(struct aml *a, const char *region, const char *const *fields, size_t n)
{
    put_field(a, region, fields, n, 1, 8);
}

size_t aml_begin_if_not_equal(struct aml *a, const char *x, const char *y)
{
    size_t mark;

    put8(a, 0xA0); /* If */
    mark = a->used;
    put8(a, 0x92); /* LNot */
    put8(a, 0x93); /* LEqual */
    put_name(a, x);
    put_name(a, y);
    return mark;
}

void aml_store(struct aml *a, const char *from, const char *to)
{
    put8(a, 0x70);
    put_name(a, from);
    put_name(a, to);
}

void aml_return_if_bits(struct aml *a, const char *name, uint32_t mask, uint8_t value)
{
    size_t mark;

    put8(a, 0xA0); /* If */
    mark = a->used;
    put8(a, 0x7B); /* And, no target */
    put_name(a, name);
    put_int(a, mask);
    put8(a, 0);
    put8(a, 0xA4); /* Return */
    put_int(a, value);
    aml_end(a, mark);
    put8(a, 0xA4);
    put_int(a, 0);
}

void aml_notify(struct aml *a, const char *name)
{
    put8(a, 0x86);
    put_name(a, name);
    put_int(a, 0);
}

void aml_memory32(struct aml *a, uint32_t base, uint32_t len)
{
    put8(a, 0x86);
    put16(a, 9);
    put8(a, 1); /* read/write */
    put32(a, base);
    put32(a, len);
}

void aml_io(struct aml *a, uint16_t base, uint8_t len)
{
    put8(a, 0x47);
    put8(a, 1); /* decodes 16 bits */
    put16(a, base);
    put16(a, base);
    put8(a, 1); /* alignment */
    put8(a, len);
}

void aml_irq_nibble(struct aml *a, uint8_t irq)
{
    put8(a, 0x22);
    put16(a, (uint16_t)(1U << irq));
}

void aml_interrupt(struct aml *a, uint32_t gsi, bool shared)
{
    put8(a, 0x89);
    put16(a, 6);
    put8(a, (uint8_t)(1U | 2U | (shared ? 8U : 0U))); /* consumer, edge, active high */
    put8(a, 1);
    put32(a, gsi);
}
