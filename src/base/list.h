/* SPDX-License-Identifier: Apache-2.0 */
/* Intrusive doubly linked lists. A node is embedded in its owner; unlinking twice is harmless. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"

struct list {
    struct list *next, *prev; /* both NULL or to itself: not linked (node) or empty (head) */
};

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}

static inline bool list_is_empty(const struct list *head)
{
    return !head->next || head->next == head;
}

/* True if the node is in some list. */
static inline bool list_is_linked(const struct list *node)
{
    return node->next && node->next != node;
}

static inline void list_append(struct list *head, struct list *node)
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}

static inline void list_remove(struct list *node)
{
    if (node->next) {
        node->next->prev = node->prev;
        node->prev->next = node->next;
    }
    node->next = node->prev = node;
}

#define list_entry(node, type, member) container_of(node, type, member)
#define list_first(head, type, member) list_entry((head)->next, type, member)
/* it: pointer of the element's type; the loop body must not remove it. */
#define list_foreach(it, head, member)                                                        \
    for ((it) = list_entry((head)->next, __typeof__(*(it)), member); &(it)->member != (head); \
         (it) = list_entry((it)->member.next, __typeof__(*(it)), member))
/* The same; the body may remove (and free) it. tmp: a second pointer of that type. */
#define list_foreach_safe(it, tmp, head, member)                          \
    for ((it) = list_entry((head)->next, __typeof__(*(it)), member),      \
        (tmp) = list_entry((it)->member.next, __typeof__(*(it)), member); \
         &(it)->member != (head);                                         \
         (it) = (tmp), (tmp) = list_entry((tmp)->member.next, __typeof__(*(it)), member))
