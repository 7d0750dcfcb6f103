/* SPDX-License-Identifier: Apache-2.0 */
/* stream: a token is good once, for a minute, and there are never too many. */
#include <stdio.h>

#include "base/limit.h"
#include "base/str.h"
#include "lib/test.h"
#include "stream/token.h"
#include "wire/message.h"

#define S 1000000000ULL

/* An offer as it comes: unpacked, so that message_free is right for it. */
static Nexus__StreamOffer *offer(const char *token)
{
    Nexus__StreamOffer o = NEXUS__STREAM_OFFER__INIT;
    uint8_t bytes[256];
    size_t n;

    o.token = (char *)(uintptr_t)token;
    n = nexus__stream_offer__pack(&o, bytes);
    return (Nexus__StreamOffer *)message_unpack(&nexus__stream_offer__descriptor, bytes, n);
}

static void put(struct token_table *t, const char *token, uint64_t now_ns, int r)
{
    Nexus__StreamOffer *o = offer(token);

    assert_int_equal(token_add(t, o, now_ns), r);
    if (r < 0)
        message_free(&o->base);
}

static bool take(struct token_table *t, const char *token, uint64_t now_ns)
{
    Nexus__StreamOffer *o = token_take(t, token, now_ns);

    if (o) {
        assert_string_equal(o->token, token);
        message_free(&o->base);
    }
    return o != NULL;
}

static void a_token_is_good_once(void **state)
{
    struct token_table t;

    token_table_init(&t);
    put(&t, "abc", S, 0);
    put(&t, "abc", S, -EEXIST);
    assert_false(take(&t, "abd", S));
    assert_false(take(&t, "", S));
    assert_true(take(&t, "abc", S));
    assert_false(take(&t, "abc", S));
    token_table_done(&t);
}

static void a_token_lives_a_minute(void **state)
{
    struct token_table t;

    token_table_init(&t);
    assert_int_equal(token_expire(&t, 0), UINT64_MAX);
    put(&t, "a", S, 0);
    put(&t, "b", 2 * S, 0);
    assert_int_equal(token_expire(&t, 3 * S), (1 + LIMIT_STREAM_TOKEN_S) * S);
    assert_false(take(&t, "a", (1 + LIMIT_STREAM_TOKEN_S) * S));
    assert_true(take(&t, "b", (2 + LIMIT_STREAM_TOKEN_S) * S - 1));
    token_table_done(&t);
}

static void tokens_are_of_the_url_alphabet(void **state)
{
    struct token_table t;
    static const char *const bad[] = {
        "",         "a/b",
        "a b",      "a.b",
        "a%41",     "a?",
        "\xc3\xa4", "01234567890123456789012345678901234567890123456789012345678901234"};

    token_table_init(&t);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        put(&t, bad[i], S, -EINVAL);
    put(&t, "AZaz09-_", S, 0);
    token_table_done(&t);
}

static void the_table_has_a_limit(void **state)
{
    struct token_table t;
    char token[16];

    token_table_init(&t);
    for (int i = 0; i < LIMIT_STREAM_TOKENS; i++) {
        (void)snprintf(token, sizeof(token), "t%d", i);
        put(&t, token, S, 0);
    }
    put(&t, "more", S, -EDQUOT);
    assert_true(take(&t, "t500", S));
    put(&t, "more", S, 0);
    put(&t, "later", S * (LIMIT_STREAM_TOKEN_S + 1), 0); /* all others have expired */
    assert_int_equal(token_count(&t), 1);
    token_table_done(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_is_good_once),
        cmocka_unit_test(a_token_lives_a_minute),
        cmocka_unit_test(tokens_are_of_the_url_alphabet),
        cmocka_unit_test(the_table_has_a_limit),
    };
    return cmocka_run_group_tests_name("token", tests, NULL, NULL) != 0;
}
