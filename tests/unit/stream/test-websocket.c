/* SPDX-License-Identifier: Apache-2.0 */
/* stream: WebSocket frames, and the close code for each rule that a client may break. */
#include <string.h>

#include "base/buf.h"
#include "base/checked.h"
#include "lib/test.h"
#include "stream/websocket.h"

static const uint8_t mask[4] = {0x11, 0x22, 0x33, 0x44};

/* A masked frame of the shortest form. */
static void put(struct buf *b, uint8_t head, const void *bytes, size_t len)
{
    const uint8_t *from = bytes;
    uint8_t h[10] = {head, 0x80};
    size_t n = 2;

    if (len < 126) {
        h[1] |= (uint8_t)len;
    } else if (len <= UINT16_MAX) {
        h[1] |= 126;
        n = 4;
    } else {
        h[1] |= 127;
        n = 10;
    }
    for (size_t i = 0; n > 2 && i < 4 && i < n - 2; i++)
        h[n - 1 - i] = (uint8_t)(len >> (8 * i));
    assert_int_equal(buf_append(b, h, n), 0);
    assert_int_equal(buf_append(b, mask, 4), 0);
    for (size_t i = 0; i < len; i++) {
        uint8_t c = from[i] ^ mask[i % 4];

        assert_int_equal(buf_append(b, &c, 1), 0);
    }
}

/* The close code that waits to be sent behind n bytes; 0: none. */
static unsigned close_sent(const struct websocket *w)
{
    const uint8_t *b;
    size_t n = websocket_out(w, &b), at = 0;

    while (at + 2 <= n) {
        if (b[at] == 0x88)
            return (unsigned)b[at + 2] << 8 | b[at + 3];
        at += 2 + (size_t)b[at + 1];
    }
    return 0;
}

static const struct {
    const char *name;
    uint8_t in[16];
    size_t len;
    int r;         /* of websocket_next */
    unsigned code; /* of the close that is sent */
} rows[] = {
    {"unmasked", {0x82, 1, 'x'}, 3, -EPROTO, 1002},
    {"reserved_bit", {0xc2, 0x80, 0, 0, 0, 0}, 6, -EPROTO, 1002},
    {"reserved_opcode", {0x83, 0x80, 0, 0, 0, 0}, 6, -EPROTO, 1002},
    {"reserved_control_opcode", {0x8b, 0x80, 0, 0, 0, 0}, 6, -EPROTO, 1002},
    {"continuation_of_nothing", {0x80, 0x80, 0, 0, 0, 0}, 6, -EPROTO, 1002},
    {"fragmented_ping", {0x09, 0x80, 0, 0, 0, 0}, 6, -EPROTO, 1002},
    {"long_ping", {0x89, 0xfe, 0, 126, 0, 0, 0, 0}, 8, -EPROTO, 1002},
    {"long_form_of_a_short_length", {0x82, 0xfe, 0, 5, 0, 0, 0, 0}, 8, -EPROTO, 1002},
    {"longest_form_of_a_short_length",
     {0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff},
     10,
     -EPROTO,
     1002},
    {"length_with_top_bit", {0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0}, 10, -EPROTO, 1002},
    {"length_of_exabytes",
     {0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
     10,
     -EPROTO,
     1009},
    {"length_one_too_many", {0x82, 0xff, 0, 0, 0, 0, 0, 4, 0, 1}, 10, -EPROTO, 1009},
    {"largest_length_may_come", {0x82, 0xff, 0, 0, 0, 0, 0, 4, 0, 0}, 10, 0, 0},
    {"close_without_a_code", {0x88, 0x80, 0, 0, 0, 0}, 6, 1, 1000},
    {"close_of_one_byte", {0x88, 0x81, 0, 0, 0, 0, 3}, 7, -EPROTO, 1002},
    {"close_1000", {0x88, 0x82, 0, 0, 0, 0, 3, 0xe8}, 8, 1, 1000},
    {"close_4999", {0x88, 0x82, 0, 0, 0, 0, 0x13, 0x87}, 8, 1, 4999},
    {"close_999", {0x88, 0x82, 0, 0, 0, 0, 3, 0xe7}, 8, -EPROTO, 1002},
    {"close_1005", {0x88, 0x82, 0, 0, 0, 0, 3, 0xed}, 8, -EPROTO, 1002},
    {"close_1006", {0x88, 0x82, 0, 0, 0, 0, 3, 0xee}, 8, -EPROTO, 1002},
    {"close_1015", {0x88, 0x82, 0, 0, 0, 0, 3, 0xf7}, 8, -EPROTO, 1002},
    {"close_2999", {0x88, 0x82, 0, 0, 0, 0, 0x0b, 0xb7}, 8, -EPROTO, 1002},
    {"close_5000", {0x88, 0x82, 0, 0, 0, 0, 0x13, 0x88}, 8, -EPROTO, 1002},
    {"close_with_bad_utf8", {0x88, 0x83, 0, 0, 0, 0, 3, 0xe8, 0xff}, 9, -EPROTO, 1007},
    {"text_of_bad_utf8", {0x81, 0x81, 0, 0, 0, 0, 0xff}, 7, -EPROTO, 1007},
    {"half_a_header", {0x82}, 1, 0, 0},
    {"half_a_payload", {0x82, 0x82, 0, 0, 0, 0, 1}, 7, 0, 0},
    {"empty_message", {0x82, 0x80, 0, 0, 0, 0}, 6, 1, 0},
};

static void each_rule_has_its_close_code(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct websocket *w;
        struct websocket_message m;

        print_message("# %s\n", rows[i].name);
        assert_int_equal(websocket_new(&w), 0);
        assert_int_equal(websocket_feed(w, rows[i].in, rows[i].len), 0);
        assert_int_equal(websocket_next(w, &m), rows[i].r);
        assert_int_equal(close_sent(w), rows[i].code);
        if (rows[i].r < 0) { /* nothing is read or written after it */
            assert_false(websocket_wants_input(w));
            assert_int_equal(websocket_write(w, false, "x", 1), -EPIPE);
        }
        websocket_free(w);
    }
}

static void a_message_inside_a_message_is_refused(void **state)
{
    struct websocket *w;
    struct websocket_message m;
    struct buf b;

    buf_init(&b, 1000);
    put(&b, 0x02, "a", 1);
    put(&b, 0x82, "b", 1);
    assert_int_equal(websocket_new(&w), 0);
    assert_int_equal(websocket_feed(w, b.data, b.used), 0);
    assert_int_equal(websocket_next(w, &m), -EPROTO);
    assert_int_equal(close_sent(w), 1002);
    websocket_free(w);
    buf_done(&b);
}

/* In any pieces; a ping between fragments is answered. */
static void fragments_become_one_message(void **state)
{
    for (size_t piece = 1; piece < 60; piece++) {
        struct websocket *w;
        struct websocket_message m;
        const uint8_t *out;
        struct buf b;
        size_t n = 0;
        int r;

        buf_init(&b, 1000);
        put(&b, 0x02, "one ", 4);
        put(&b, 0x89, "ping", 4);
        put(&b, 0x00, "two ", 4);
        put(&b, 0x8a, "", 0);
        put(&b, 0x80, "three", 5);
        put(&b, 0x81, "gr\xc3\xbc\xc3\x9f", 6);
        assert_int_equal(websocket_new(&w), 0);
        for (size_t at = 0; at < b.used; at += piece) {
            assert_int_equal(websocket_feed(w, b.data + at, min_of(piece, b.used - at)), 0);
            while ((r = websocket_next(w, &m)) > 0) {
                const char *want = n++ ? "gr\xc3\xbc\xc3\x9f" : "one two three";

                assert_int_equal(m.len, strlen(want));
                assert_memory_equal(m.data, want, m.len);
                assert_int_equal(m.text, n == 2);
            }
            assert_int_equal(r, 0);
        }
        assert_int_equal(n, 2);
        assert_int_equal(websocket_out(w, &out), 6);
        assert_memory_equal(out, "\x8a\x04ping", 6);
        websocket_free(w);
        buf_done(&b);
    }
}

static void fragments_share_one_limit(void **state)
{
    static uint8_t bytes[60000];
    struct websocket *w;
    struct websocket_message m;
    int r = 0;
    struct buf b;

    buf_init(&b, 70000);
    assert_int_equal(websocket_new(&w), 0);
    put(&b, 0x02, bytes, sizeof(bytes));
    for (int n = 0; n < 6 && r == 0; n++) {
        assert_int_equal(websocket_feed(w, b.data, b.used), 0);
        r = websocket_next(w, &m);
        buf_clear(&b);
        put(&b, 0x00, bytes, sizeof(bytes));
    }
    assert_int_equal(r, -EPROTO);
    assert_int_equal(close_sent(w), 1009);
    websocket_free(w);
    buf_done(&b);
}

static void lengths_are_written_in_their_forms(void **state)
{
    static const struct {
        size_t len;
        uint8_t head[10];
        size_t n;
    } forms[] = {
        {0, {0x82, 0}, 2},
        {125, {0x82, 125}, 2},
        {126, {0x82, 126, 0, 126}, 4},
        {65535, {0x82, 126, 0xff, 0xff}, 4},
        {65536, {0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0}, 10},
    };
    static uint8_t bytes[65536];

    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        struct websocket *w;
        const uint8_t *out;

        assert_int_equal(websocket_new(&w), 0);
        assert_int_equal(websocket_write(w, false, bytes, forms[i].len), 0);
        assert_int_equal(websocket_out(w, &out), forms[i].n + forms[i].len);
        assert_memory_equal(out, forms[i].head, forms[i].n);
        websocket_free(w);
    }
}

static void a_slow_reader_stops_the_writer(void **state)
{
    static uint8_t bytes[WEBSOCKET_SEND_BYTES];
    struct websocket *w;
    const uint8_t *out;
    size_t n = 0;

    assert_int_equal(websocket_new(&w), 0);
    while (websocket_write(w, false, bytes, sizeof(bytes)) == 0)
        n++;
    assert_int_equal(n, WEBSOCKET_OUT_PAUSE / WEBSOCKET_SEND_BYTES);
    assert_false(websocket_wants_input(w));
    websocket_out_done(w, websocket_out(w, &out));
    assert_true(websocket_wants_input(w));
    assert_int_equal(websocket_write(w, false, bytes, 1), 0);
    websocket_free(w);
}

static void accept_key_is_the_rfcs(void **state)
{
    char out[WEBSOCKET_ACCEPT_SIZE];

    assert_int_equal(websocket_accept_key("dGhlIHNhbXBsZSBub25jZQ==", out), 0);
    assert_string_equal(out, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_int_equal(websocket_accept_key("", out), -EINVAL);
    assert_int_equal(websocket_accept_key("dGhlIHNhbXBsZSBub25jZQ", out), -EINVAL);
    assert_int_equal(websocket_accept_key("dGhlIHNhbXBsZSBub25j*Q==", out), -EINVAL);
    assert_int_equal(websocket_accept_key("dGhlIHNhbXBsZSBub25jZ===", out), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_rule_has_its_close_code),
        cmocka_unit_test(a_message_inside_a_message_is_refused),
        cmocka_unit_test(fragments_become_one_message),
        cmocka_unit_test(fragments_share_one_limit),
        cmocka_unit_test(lengths_are_written_in_their_forms),
        cmocka_unit_test(a_slow_reader_stops_the_writer),
        cmocka_unit_test(accept_key_is_the_rfcs),
    };
    return cmocka_run_group_tests_name("websocket", tests, NULL, NULL) != 0;
}
