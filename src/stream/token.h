/* SPDX-License-Identifier: Apache-2.0 */
/* Offers by token: each can be taken once and lives LIMIT_STREAM_TOKEN_S. Sans-IO: time is an argument, never
 * smaller than the last one. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hashmap.h"
#include "base/list.h"
#include "gen/msg/nexus.pb-c.h"

struct token_table { /* members are private */
    struct hashmap by_token;
    struct list by_age;
};

void token_table_init(struct token_table *t);
void token_table_done(struct token_table *t);
/* 1 to 64 characters of base64url. */
bool token_is_valid(const char *token);
/* offer (with its token) is owned from success on. 0; -EINVAL: no token; -EEXIST; -EDQUOT: too many. */
int token_add(struct token_table *t, Nexus__StreamOffer *offer, uint64_t now_ns);
/* Takes the offer off the table, the caller's to free with message_free. NULL: unknown, taken, expired. */
Nexus__StreamOffer *token_take(struct token_table *t, const char *token, uint64_t now_ns);
size_t token_count(const struct token_table *t);
/* Forgets what has expired; returns when the next one does, UINT64_MAX: none. */
uint64_t token_expire(struct token_table *t, uint64_t now_ns);
