/* SPDX-License-Identifier: Apache-2.0 */
/* Lists: the same items in one answer, or as a stream of answers. */
#pragma once

#include "cri/cri-internal.h"

/* Items in the call's arena, which may borrow from the model. */
struct item_list {
    void **items;
    size_t n, size; /* there; most that fit */
};
/* Makes room for size items. -ENOMEM. */
int item_list_init(struct item_list *l, struct arena *a, size_t size);
/* NULL is refused with -ENOMEM. */
int item_list_add(struct item_list *l, void *item);
/* Room for one item per container of the pod. */
int item_list_for_containers(struct item_list *l, struct arena *a, struct sandbox *s);
/* The statuses of a pod's containers, but not of one. */
int container_status_list(struct arena *a, struct sandbox *s, const struct container *but,
                          struct item_list *ret);

/* Every list answer has this layout: one repeated field. */
struct list_message {
    ProtobufCMessage base;
    size_t n;
    void **items;
};
/* Answers with all of it. */
void list_reply(struct grpc_call *call, const ProtobufCMessageDescriptor *response,
                const struct item_list *l);
/* Answers a server-streaming call: messages of at least one item, each item once, then the end. What a slow
 * reader keeps waiting is copied, so that the model may change meanwhile; nothing else waits for it. */
void list_stream(struct grpc_call *call, const ProtobufCMessageDescriptor *response,
                 const struct item_list *l);

/* Filters come as maps of one layout (convert.h): every entry must be there. */
bool labels_match(const key_value_list *labels, void *const *entries, size_t n);
