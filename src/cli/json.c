/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/json.h"

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "cli/cli.h"

static json_t *json_text(const char *s)
{
    _cleanup_(freep) char *clean = NULL;
    json_t *j = json_string(s ? s : "");

    if (j)
        return j;
    clean = cli_clean(s); /* not UTF-8 */
    return json_string(clean);
}

static json_t *json_base64(const ProtobufCBinaryData *b)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    _cleanup_(freep) char *out = xcalloc(1, (b->len + 2) / 3 * 4 + 1);
    char *p = out;

    for (size_t i = 0; i < b->len; i += 3) {
        uint32_t v = (uint32_t)b->data[i] << 16;
        size_t left = b->len - i;

        if (left > 1)
            v |= (uint32_t)b->data[i + 1] << 8;
        if (left > 2)
            v |= b->data[i + 2];
        *p++ = digits[v >> 18];
        *p++ = digits[v >> 12 & 63];
        *p++ = left > 1 ? digits[v >> 6 & 63] : '=';
        *p++ = left > 2 ? digits[v & 63] : '=';
    }
    return json_string(out);
}

static json_t *json_enum(const ProtobufCEnumDescriptor *type, int v)
{
    const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(type, v);

    return value ? json_string(value->name) : json_integer(v);
}

static json_t *json_signed(int64_t v)
{
    char text[32];

    (void)snprintf(text, sizeof(text), "%lld", (long long)v);
    return json_string(text);
}

static json_t *json_unsigned(uint64_t v)
{
    char text[32];

    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
    return json_string(text);
}

/* One value at p. */
static json_t *json_value(const ProtobufCFieldDescriptor *f, const void *p)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_STRING:
        return json_text(*(const char *const *)p);
    case PROTOBUF_C_TYPE_BYTES:
        return json_base64(p);
    case PROTOBUF_C_TYPE_MESSAGE:
        return json_from_message(*(const ProtobufCMessage *const *)p);
    case PROTOBUF_C_TYPE_BOOL:
        return json_boolean(*(const protobuf_c_boolean *)p);
    case PROTOBUF_C_TYPE_ENUM:
        return json_enum(f->descriptor, *(const int *)p);
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return json_integer(*(const int32_t *)p);
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return json_integer(*(const uint32_t *)p);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return json_signed(*(const int64_t *)p);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return json_unsigned(*(const uint64_t *)p);
    case PROTOBUF_C_TYPE_FLOAT:
        return json_real((double)*(const float *)p);
    case PROTOBUF_C_TYPE_DOUBLE:
        return json_real(*(const double *)p);
    default:
        return json_null();
    }
}

static size_t size_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_ENUM:
    default:
        return 4;
    }
}

/* protoc makes "FooEntry" with key and value of a map field foo. */
static bool is_map(const ProtobufCFieldDescriptor *f)
{
    const ProtobufCMessageDescriptor *d = f->descriptor;

    return f->type == PROTOBUF_C_TYPE_MESSAGE && d->n_fields == 2 &&
           str_ends(d->short_name, "Entry") && strcmp(d->fields[0].name, "key") == 0 &&
           strcmp(d->fields[1].name, "value") == 0;
}

static json_t *json_map(const ProtobufCFieldDescriptor *f, ProtobufCMessage *const *entries,
                        size_t n)
{
    const ProtobufCMessageDescriptor *d = f->descriptor;
    json_t *out = json_object();

    for (size_t i = 0; i < n; i++) {
        const char *at = (const char *)entries[i];
        const char *key = *(const char *const *)(const void *)(at + d->fields[0].offset);
        _cleanup_(freep) char *clean = cli_clean(key ? key : "");

        (void)json_object_set_new(out, clean, json_value(&d->fields[1], at + d->fields[1].offset));
    }
    return out;
}

static json_t *json_repeated(const ProtobufCFieldDescriptor *f, const char *items, size_t n)
{
    json_t *out = json_array();

    for (size_t i = 0; i < n; i++)
        (void)json_array_append_new(out, json_value(f, items + i * size_of(f->type)));
    return out;
}

/* run_as_user → runAsUser. out has as many bytes as name. */
static void camel_case(const char *name, char *out)
{
    bool up = false;

    for (; *name; name++) {
        if (*name == '_') {
            up = true;
            continue;
        }
        *out++ = (char)(up && *name >= 'a' && *name <= 'z' ? *name - 'a' + 'A' : *name);
        up = false;
    }
    *out = '\0';
}

json_t *json_from_message(const ProtobufCMessage *m)
{
    json_t *out = json_object();

    for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
        const char *at = (const char *)m + f->offset;
        char name[64] = "";

        if (strlen(f->name) < sizeof(name))
            camel_case(f->name, name);
        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t n = *(const size_t *)(const void *)((const char *)m + f->quantifier_offset);
            const void *items = *(const void *const *)(const void *)at;

            (void)json_object_set_new(
                out, name, is_map(f) ? json_map(f, items, n) : json_repeated(f, items, n));
        } else if (f->type != PROTOBUF_C_TYPE_MESSAGE || *(const void *const *)(const void *)at) {
            (void)json_object_set_new(out, name, json_value(f, at));
        }
    }
    return out;
}

int json_print(json_t *json)
{
    int r = json ? json_dumpf(json, stdout, JSON_INDENT(2)) : -1;

    json_decref(json);
    if (r < 0 || fputc('\n', stdout) == EOF)
        return cli_say(CLI_FAILED, "cannot write the output");
    return CLI_OK;
}
