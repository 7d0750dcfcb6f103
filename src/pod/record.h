/* SPDX-License-Identifier: Apache-2.0 */
/* Structs as JSON and back, by table: a struct of the model is described once, field by field, and
 * the description writes it, reads it (state files are read as hostile), frees it and compares it.
 * Strings in JSON must be UTF-8; one that is not (an environment value) is written as {"hex": "…"}. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum record_type {
    RECORD_STR,    /* char *, owned; NULL: absent */
    RECORD_STRV,   /* char **, owned, NULL-terminated; NULL: empty */
    RECORD_BOOL,   /* bool */
    RECORD_I32,    /* int32_t, and enums with a fixed meaning */
    RECORD_U32,    /* uint32_t */
    RECORD_I64,    /* int64_t */
    RECORD_U64,    /* uint64_t, at most INT64_MAX in JSON: larger values are cut to it */
    RECORD_STRUCT, /* an embedded struct, sub describes it */
    RECORD_LIST,   /* struct record_list of structs described by sub */
    RECORD_U32V,   /* struct record_u32v */
};

struct record_desc;
struct record_field {
    const char *name;
    enum record_type type;
    size_t offset;
    const struct record_desc *sub;
};
struct record_desc {
    const char *name; /* for messages */
    size_t size;      /* bytes of the struct */
    const struct record_field *fields;
    size_t field_count;
};

/* Any list in a described struct has this layout (RECORD_LIST_OF). */
struct record_list {
    void *items; /* owned */
    size_t count;
};
#define RECORD_LIST_OF(type) \
    struct {                 \
        type *items;         \
        size_t count;        \
    }
struct record_u32v {
    uint32_t *items; /* owned */
    size_t count;
};
#define RECORD_ITEMS_MAX 20000 /* of one list or vector read from a file */

#define RECORD_FIELD(type_, struct_, member_)                             \
    {                                                                     \
#member_, RECORD_##type_, offsetof(struct struct_, member_), NULL \
    }
#define RECORD_SUB(type_, struct_, member_, sub_)                          \
    {                                                                      \
#member_, RECORD_##type_, offsetof(struct struct_, member_), &sub_ \
    }
#define RECORD_DESC(struct_, fields_)                                  \
    {                                                                  \
#struct_, sizeof(struct struct_), fields_, ARRAY_SIZE(fields_) \
    }

/* A new reference. Zero values are left out, so that absent and zero read back alike. */
json_t *record_to_json(const struct record_desc *d, const void *object);
/* Fills *object (zeroed before by the caller). Unknown members are ignored, missing ones stay zero;
 * -EBADMSG: a member of the wrong type or range. Call record_clear on *object in any case. */
int record_from_json(const struct record_desc *d, const json_t *doc, void *object,
                     struct error **err);
/* Frees what it owns and zeroes it. */
void record_clear(const struct record_desc *d, void *object);
/* *to (zeroed before) becomes a deep copy. */
void record_copy(const struct record_desc *d, const void *from, void *to);
bool record_equal(const struct record_desc *d, const void *a, const void *b);

/* Room for one more zeroed item at the end of a list; item_size bytes each. */
void *record_list_add(void *list, size_t item_size);
