/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/token.h"

#include <string.h>

#include "base/limit.h"
#include "wire/message.h"

#define TOKEN_MAX 64
#define LIFE_NS (LIMIT_STREAM_TOKEN_S * 1000000000ULL)

struct entry {
    struct list age;
    uint64_t until_ns;
    Nexus__StreamOffer *offer; /* owned */
};

void token_table_init(struct token_table *t)
{
    hashmap_init(&t->by_token);
    list_init(&t->by_age);
}

/* The offer is the caller's. */
static Nexus__StreamOffer *forget(struct token_table *t, struct entry *e)
{
    Nexus__StreamOffer *offer = e->offer;

    (void)hashmap_remove(&t->by_token, offer->token);
    list_remove(&e->age);
    free(e);
    return offer;
}

void token_table_done(struct token_table *t)
{
    (void)token_expire(t, UINT64_MAX);
    hashmap_done(&t->by_token);
}

bool token_is_valid(const char *token)
{
    size_t n = strspn(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");

    return n >= 1 && n <= TOKEN_MAX && token[n] == '\0';
}

int token_add(struct token_table *t, Nexus__StreamOffer *offer, uint64_t now_ns)
{
    struct entry *e;
    int r;

    (void)token_expire(t, now_ns);
    if (!token_is_valid(offer->token))
        return -EINVAL;
    if (token_count(t) >= LIMIT_STREAM_TOKENS)
        return -EDQUOT;
    e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    r = hashmap_put(&t->by_token, offer->token, e);
    if (r < 0) {
        free(e);
        return r;
    }
    e->offer = offer;
    e->until_ns = now_ns + LIFE_NS;
    list_append(&t->by_age, &e->age);
    return 0;
}

Nexus__StreamOffer *token_take(struct token_table *t, const char *token, uint64_t now_ns)
{
    struct entry *e;

    (void)token_expire(t, now_ns);
    e = hashmap_get(&t->by_token, token);
    return e ? forget(t, e) : NULL;
}

size_t token_count(const struct token_table *t)
{
    return hashmap_count(&t->by_token);
}

uint64_t token_expire(struct token_table *t, uint64_t now_ns)
{
    while (!list_is_empty(&t->by_age)) {
        struct entry *e = list_first(&t->by_age, struct entry, age);

        if (e->until_ns > now_ns)
            return e->until_ns;
        message_free(&forget(t, e)->base);
    }
    return UINT64_MAX;
}
