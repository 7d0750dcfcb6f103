/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "grpc/pb-internal.h"

struct cursor {
    const uint8_t *at, *end;
    char *why; /* GRPC_PB_WHY_SIZE bytes */
};

static int broken(struct cursor *c, const ProtobufCMessageDescriptor *type, const char *what)
{
    (void)snprintf(c->why, GRPC_PB_WHY_SIZE, "the request is no valid message: %s in %s", what,
                   type->short_name);
    return -EBADMSG;
}

static bool varint(struct cursor *c, uint64_t *ret)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 70 && c->at < c->end; shift += 7) {
        uint8_t byte = *c->at++;
        if (shift == 63 && byte > 1)
            return false;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *ret = v;
            return true;
        }
    }
    return false;
}

static int check_message(struct cursor *c, const ProtobufCMessageDescriptor *type, unsigned depth);

/* A length-delimited field: [c->at, c->at + len) is inside the message. */
static int check_delimited(struct cursor *c, const ProtobufCMessageDescriptor *type,
                           const ProtobufCFieldDescriptor *field, size_t len, unsigned depth)
{
    struct cursor inner = {.at = c->at, .end = c->at + len, .why = c->why};
    const uint8_t *bytes = c->at;

    c->at += len;
    if (!field)
        return 0;
    if (field->type == PROTOBUF_C_TYPE_STRING) {
        if (utf8_is_valid(bytes, len) && (len == 0 || !memchr(bytes, 0, len)))
            return 0;
        (void)snprintf(c->why, GRPC_PB_WHY_SIZE, "%s.%s is not valid text (UTF-8 without NUL)",
                       type->short_name, field->name);
        return -EILSEQ;
    }
    if (field->type != PROTOBUF_C_TYPE_MESSAGE)
        return 0;
    if (depth >= GRPC_PB_DEPTH)
        return broken(c, type, "nesting too deep");
    return check_message(&inner, field->descriptor, depth + 1);
}

static int check_field(struct cursor *c, const ProtobufCMessageDescriptor *type, unsigned depth)
{
    uint64_t tag, value;

    if (!varint(c, &tag) || tag > UINT32_MAX || tag >> 3 == 0)
        return broken(c, type, "a bad tag");
    switch (tag & 7) {
    case 0:
        return varint(c, &value) ? 0 : broken(c, type, "a bad number");
    case 1:
        if (c->end - c->at < 8)
            return broken(c, type, "a cut number");
        c->at += 8;
        return 0;
    case 2:
        if (!varint(c, &value) || value > (uint64_t)(c->end - c->at))
            return broken(c, type, "a length beyond the end");
        return check_delimited(c, type,
                               protobuf_c_message_descriptor_get_field(type, (unsigned)(tag >> 3)),
                               (size_t)value, depth);
    case 5:
        if (c->end - c->at < 4)
            return broken(c, type, "a cut number");
        c->at += 4;
        return 0;
    default:
        return broken(c, type, "an unknown wire type");
    }
}

static int check_message(struct cursor *c, const ProtobufCMessageDescriptor *type, unsigned depth)
{
    int r = 0;

    while (r == 0 && c->at < c->end)
        r = check_field(c, type, depth);
    return r;
}

struct counting {
    ProtobufCAllocator base;
    struct arena *arena;
    bool full; /* the arena said no */
};

static void *pb_alloc(void *data, size_t size)
{
    struct counting *a = data;
    void *p = arena_alloc(a->arena, size);

    if (!p)
        a->full = true;
    return p;
}

static void pb_free(void *data, void *p)
{
    (void)data; /* the arena frees */
    (void)p;
}

int grpc_pb_unpack(const ProtobufCMessageDescriptor *type, struct arena *arena,
                   const uint8_t *bytes, size_t len, const ProtobufCMessage **ret,
                   char why[GRPC_PB_WHY_SIZE])
{
    static const uint8_t nothing[1];
    struct cursor c = {.why = why};
    struct counting alloc = {.base = {.alloc = pb_alloc, .free = pb_free}, .arena = arena};
    const ProtobufCMessage *m;
    int r;

    if (len == 0)
        bytes = nothing;
    c.at = bytes;
    c.end = bytes + len;
    r = check_message(&c, type, 0);
    if (r < 0)
        return r;
    alloc.base.allocator_data = &alloc;
    m = protobuf_c_message_unpack(type, &alloc.base, len, bytes);
    if (m) {
        *ret = m;
        return 0;
    }
    if (alloc.full) {
        (void)snprintf(why, GRPC_PB_WHY_SIZE, "the request needs too much memory when decoded");
        return -ENOBUFS;
    }
    return broken(&c, type, "a field of another type");
}
