/* SPDX-License-Identifier: Apache-2.0 */
/* stream: port-forward in the older WebSocket form, with ports named before and two channels for each. */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/checked.h"
#include "lib/test.h"
#include "stream/port-channels.h"

static const struct {
    const char *name, *query;
    int r;
    uint16_t ports[4];
} queries[] = {
    {"one", "port=80", 1, {80}},
    {"two_parameters", "port=80&port=443", 2, {80, 443}},
    {"a_list", "port=80,443,1", 3, {80, 443, 1}},
    {"an_escaped_comma", "port=80%2C443%2c65535", 3, {80, 443, 65535}},
    {"others_beside", "x=1&port=80&y&port=2", 2, {80, 2}},
    {"none", "", 0, {0}},
    {"another_name", "ports=80&report=80", 0, {0}},
    {"an_ampersand_more", "&&port=80&", 1, {80}},
    {"empty", "port=", -EINVAL, {0}},
    {"empty_in_a_list", "port=80,,81", -EINVAL, {0}},
    {"a_comma_at_the_end", "port=80,", -EINVAL, {0}},
    {"a_comma_before_another", "port=80,&port=81", -EINVAL, {0}},
    {"zero", "port=0", -EINVAL, {0}},
    {"too_large", "port=65536", -EINVAL, {0}},
    {"too_long", "port=000080", -EINVAL, {0}},
    {"a_sign", "port=+80", -EINVAL, {0}},
    {"a_word", "port=http", -EINVAL, {0}},
    {"half_an_escape", "port=80%2", -EINVAL, {0}},
    {"another_escape", "port=80%20", -EINVAL, {0}},
    {"twice", "port=80&port=80", -EINVAL, {0}},
};

static void ports_of_a_query(void **state)
{
    uint16_t ports[PORT_CHANNELS_MAX];
    char text[8 * (PORT_CHANNELS_MAX + 1)] = "port=1";

    for (size_t i = 0; i < ARRAY_SIZE(queries); i++) {
        print_message("# %s\n", queries[i].name);
        assert_int_equal(port_channels_parse(queries[i].query, ports), queries[i].r);
        for (int k = 0; k < queries[i].r; k++)
            assert_int_equal(ports[k], queries[i].ports[k]);
    }
    for (unsigned n = 2; n <= PORT_CHANNELS_MAX; n++)
        (void)snprintf(text + strlen(text), 8, ",%u", n);
    assert_int_equal(port_channels_parse(text, ports), PORT_CHANNELS_MAX);
    (void)snprintf(text + strlen(text), 8, ",999");
    assert_int_equal(port_channels_parse(text, ports), -E2BIG);
}

static struct port_channels *make(size_t n, bool base64)
{
    const uint16_t ports[] = {80, 0x1234, 65535};
    struct port_channels *c;

    assert_int_equal(port_channels_new(ports, n, base64, &c), 0);
    return c;
}

/* One message of the client, masked by nothing. */
static void say(struct port_channels *c, uint8_t opcode, const void *bytes, size_t n)
{
    uint8_t head[6] = {(uint8_t)(0x80 | opcode), (uint8_t)(0x80 | n)};

    assert_int_equal(port_channels_feed(c, head, sizeof(head)), 0);
    if (n)
        assert_int_equal(port_channels_feed(c, bytes, n), 0);
}

/* "C1:80 " connect, "D1:bytes ", "L " left; '!' for an error. */
static const char *take(struct port_channels *c)
{
    static char text[256];
    struct forward_event ev;
    size_t at = 0;
    int r = 0;

    text[0] = '\0';
    while ((r = port_channels_next(c, &ev)) > 0 && at < sizeof(text) - 32) {
        if (ev.type == FORWARD_CONNECT)
            (void)snprintf(text + at, sizeof(text) - at, "C%u:%u ", ev.pair, ev.port);
        else if (ev.type == FORWARD_DATA)
            (void)snprintf(text + at, sizeof(text) - at, "D%u:%.*s ", ev.pair, (int)ev.len,
                           (const char *)ev.data);
        else
            (void)snprintf(text + at, sizeof(text) - at, "L ");
        at = strlen(text);
        if (ev.type == FORWARD_LEFT)
            break;
    }
    if (r < 0)
        (void)snprintf(text + at, sizeof(text) - at, "!");
    return text;
}

static void expect_out(struct port_channels *c, const void *bytes, size_t n)
{
    const uint8_t *out;

    assert_int_equal(port_channels_out(c, &out), n);
    assert_memory_equal(out, bytes, n);
    port_channels_out_done(c, n);
}

static void each_channel_begins_with_its_port(void **state)
{
    struct port_channels *c = make(2, false);

    expect_out(c,
               "\x82\x03\x00\x50\x00\x82\x03\x01\x50\x00"
               "\x82\x03\x02\x34\x12\x82\x03\x03\x34\x12",
               20);
    assert_string_equal(take(c), "C1:80 C2:4660 ");
    assert_string_equal(take(c), "");
    port_channels_free(c);
}

static void channels_carry_their_own_bytes(void **state)
{
    struct port_channels *c = make(2, false);
    const uint8_t *out;

    assert_string_equal(take(c), "C1:80 C2:4660 ");
    port_channels_out_done(c, port_channels_out(c, &out));
    say(c, 2, "\0one", 4);
    say(c, 1, "\2two", 4); /* a text message is one, too */
    say(c, 2, "\1error channels are ours", 24);
    say(c, 2, "\4no such port", 13);
    say(c, 2, "\377no such port", 13);
    say(c, 2, "\0", 1);
    say(c, 2, NULL, 0);
    assert_string_equal(take(c), "D1:one D2:two ");
    assert_int_equal(port_channels_write(c, 2, "abc", 3), 0);
    expect_out(c,
               "\x82\x04\x02"
               "abc",
               6);
    port_channels_free(c);
}

static void a_port_that_fails_ends_alone(void **state)
{
    struct port_channels *c = make(3, false);
    const uint8_t *out;

    assert_string_equal(take(c), "C1:80 C2:4660 C3:65535 ");
    port_channels_out_done(c, port_channels_out(c, &out));
    port_channels_fail(c, 2, "refused");
    expect_out(c, "\x82\x08\x03refused", 10);
    say(c, 2, "\2late", 5);
    say(c, 2, "\4x", 2);
    assert_string_equal(take(c), "D3:x ");
    assert_int_equal(port_channels_write(c, 2, "late", 4), 0);
    port_channels_close(c, 1);
    port_channels_fail(c, 1, "twice");
    assert_string_equal(take(c), "");
    expect_out(c, NULL, 0);
    port_channels_fail(c, 3, NULL); /* nothing to tell; the last one ends the connection */
    assert_string_equal(take(c), "L ");
    expect_out(c, "\x88\x02\x03\xe8", 4);
    assert_false(port_channels_want_input(c));
    port_channels_free(c);
}

static void a_client_that_closes_is_answered(void **state)
{
    struct port_channels *c = make(1, false);
    const uint8_t *out;

    assert_string_equal(take(c), "C1:80 ");
    port_channels_out_done(c, port_channels_out(c, &out));
    say(c, 8, "\x03\xe9", 2);
    assert_string_equal(take(c), "L ");
    expect_out(c, "\x88\x02\x03\xe9", 4);
    port_channels_free(c);
}

static void base64_both_ways(void **state)
{
    struct port_channels *c = make(2, true);

    assert_string_equal(take(c), "C1:80 C2:4660 ");
    expect_out(c, "\x81\x05\x30UAA=\x81\x05\x31UAA=\x81\x05\x32NBI=\x81\x05\x33NBI=", 28);
    say(c, 1, "2aGVsbG8=", 9);
    say(c, 1, "/aGVsbG8=", 9); /* below '0' */
    assert_string_equal(take(c), "D2:hello ");
    assert_int_equal(port_channels_write(c, 1, "hello", 5), 0);
    expect_out(c,
               "\x81\x09\x30"
               "aGVsbG8=",
               11);
    say(c, 1, "0aGVsbG8", 8);
    assert_string_equal(take(c), "!");
    expect_out(c, "\x88\x02\x03\xea", 4);
    port_channels_free(c);
}

static void a_client_that_does_not_read_is_not_written_to(void **state)
{
    static const uint8_t bytes[FORWARD_WRITE_BYTES];
    struct port_channels *c = make(1, false);
    const uint8_t *out;
    unsigned n = 0;

    assert_string_equal(take(c), "C1:80 ");
    while (port_channels_write(c, 1, bytes, sizeof(bytes)) == 0)
        assert_true(++n < 100);
    assert_int_equal(port_channels_write(c, 1, bytes, 1), -EAGAIN);
    assert_false(port_channels_want_input(c));
    say(c, 2, "\0x", 2);
    assert_string_equal(take(c), "");
    assert_true(port_channels_are_paused(c));
    port_channels_out_done(c, port_channels_out(c, &out));
    assert_string_equal(take(c), "D1:x ");
    port_channels_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ports_of_a_query),
        cmocka_unit_test(each_channel_begins_with_its_port),
        cmocka_unit_test(channels_carry_their_own_bytes),
        cmocka_unit_test(a_port_that_fails_ends_alone),
        cmocka_unit_test(a_client_that_closes_is_answered),
        cmocka_unit_test(base64_both_ways),
        cmocka_unit_test(a_client_that_does_not_read_is_not_written_to),
    };
    return cmocka_run_group_tests_name("port-channels", tests, NULL, NULL) != 0;
}
