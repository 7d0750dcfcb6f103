/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/list.h"

#include <string.h>

#include "base/str.h"
#include "cri/convert.h"

#define CHUNK_ITEMS 128
#define CHUNK_BYTES (1U << 20) /* one item may be more: labels and annotations */

int item_list_init(struct item_list *l, struct arena *a, size_t size)
{
    *l = (struct item_list){.items = arena_alloc(a, (size + 1) * sizeof(void *)), .size = size};
    return l->items ? 0 : -ENOMEM;
}

int item_list_add(struct item_list *l, void *item)
{
    if (!item || l->n == l->size)
        return -ENOMEM;
    l->items[l->n++] = item;
    return 0;
}

bool labels_match(const key_value_list *labels, void *const *entries, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct map_entry *e = entries[i];
        const char *value = key_value_get(labels, e->key);

        if (!value || strcmp(value, e->value) != 0)
            return false;
    }
    return true;
}

static struct list_message message(const ProtobufCMessageDescriptor *response, void **items,
                                   size_t n)
{
    struct list_message m;

    protobuf_c_message_init(response, &m);
    m.items = items;
    m.n = n;
    return m;
}

void list_reply(struct grpc_call *call, const ProtobufCMessageDescriptor *response,
                const struct item_list *l)
{
    struct list_message m = message(response, l->items, l->n);

    grpc_call_reply(call, &m.base);
}

/* ---- as a stream */

struct list_streaming {
    const ProtobufCMessageDescriptor *response;
    struct item_list list;
    size_t at; /* items that were sent */
    bool kept; /* the others are copies */
};

static void *on_alloc(void *arena, size_t size)
{
    return arena_alloc(arena, size);
}

static void on_free(void *arena, void *p)
{
}

/* The item again, of memory of the arena only. NULL: none is left. */
static void *copy_item(struct arena *a, const ProtobufCMessage *item)
{
    ProtobufCAllocator allocator = {.alloc = on_alloc, .free = on_free, .allocator_data = a};
    size_t size = protobuf_c_message_get_packed_size(item);
    uint8_t *bytes = arena_alloc(a, size);

    if (!bytes)
        return NULL;
    (void)protobuf_c_message_pack(item, bytes);
    return protobuf_c_message_unpack(item->descriptor, &allocator, size, bytes);
}

static int keep_rest(struct grpc_call *call, struct list_streaming *s)
{
    struct arena *a = grpc_call_arena(call);

    for (size_t i = s->at; !s->kept && i < s->list.n; i++) {
        s->list.items[i] = copy_item(a, s->list.items[i]);
        if (!s->list.items[i])
            return -ENOMEM;
    }
    s->kept = true;
    return 0;
}

static size_t chunk(const struct list_streaming *s)
{
    size_t n = 0, bytes = 0;

    while (s->at + n < s->list.n && n < CHUNK_ITEMS && bytes < CHUNK_BYTES)
        bytes += protobuf_c_message_get_packed_size(s->list.items[s->at + n++]);
    return n;
}

static void send_rest(struct grpc_call *call, void *ud)
{
    struct list_streaming *s = ud;

    while (s->at < s->list.n) {
        size_t n = chunk(s);
        struct list_message m = message(s->response, &s->list.items[s->at], n);
        int r = grpc_call_send(call, &m.base);

        if (r == -EAGAIN && keep_rest(call, s) == 0) {
            grpc_call_on_writable(call, send_rest, s);
            return;
        }
        if (r < 0 && r != -ECANCELED) {
            rpc_no_memory(call);
            return;
        }
        if (r < 0)
            break;
        s->at += n;
    }
    grpc_call_finish(call);
}

/* The call ends by itself then. */
static void on_gone(struct grpc_call *call, void *ud)
{
}

void list_stream(struct grpc_call *call, const ProtobufCMessageDescriptor *response,
                 const struct item_list *l)
{
    struct list_streaming *s = arena_alloc(grpc_call_arena(call), sizeof(*s));

    if (!s) {
        rpc_no_memory(call);
        return;
    }
    s->response = response;
    s->list = *l;
    grpc_call_on_cancel(call, on_gone, NULL);
    send_rest(call, s);
}
