/* SPDX-License-Identifier: Apache-2.0 */
/* stream: pairs of port-forward streams, directly and in WebSocket messages. */
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "lib/spdy-frames.h"
#include "lib/test.h"
#include "stream/forward.h"

#define NOW 1000000000ULL

/* "C3:80 " connect pair 3 to 80, "D3:bytes ", "E3 " end, "G3 " gone, "L " left; then '!' for an error. */
static const char *take(struct forward *f)
{
    static char text[512];
    struct forward_event ev;
    size_t at = 0;
    int r;

    memset(text, 0, sizeof(text));
    while ((r = forward_next(f, NOW, &ev)) > 0) {
        char *to = text + at;
        size_t room = sizeof(text) - at;

        if (ev.type == FORWARD_CONNECT)
            (void)snprintf(to, room, "C%u:%u ", ev.pair, ev.port);
        else if (ev.type == FORWARD_DATA)
            (void)snprintf(to, room, "D%u:%.*s ", ev.pair, (int)ev.len, (const char *)ev.data);
        else
            (void)snprintf(to, room, "%c%u ", ev.type == FORWARD_EOF ? 'E' : 'G', ev.pair);
        if (ev.type == FORWARD_LEFT) {
            (void)snprintf(to, room, "L ");
            return text;
        }
        at = strlen(text);
    }
    if (r < 0)
        (void)snprintf(text + at, sizeof(text) - at, "!");
    return text;
}

static const char *events(struct forward *f, struct spdy_client *c)
{
    assert_int_equal(forward_feed(f, c->out.data, c->out.used), 0);
    buf_clear(&c->out);
    return take(f);
}

#define STREAM(type, port, request) HEADERS("streamtype", type, "port", port, "requestid", request)

static void open_pair(struct spdy_client *c, uint32_t id, const char *port, const char *request)
{
    client_syn(c, id, 1, STREAM("error", port, request));
    client_syn(c, id + 2, 0, STREAM("data", port, request));
}

static void set_up(struct forward **f, struct spdy_client *c)
{
    client_init(c, true);
    assert_int_equal(forward_new(&(struct upgrade){.wire = UPGRADE_SPDY}, NULL, 0, f), 0);
}

static void tear_down(struct forward *f, struct spdy_client *c)
{
    forward_free(f);
    client_done(c);
}

static void pairs_carry_their_own_bytes(void **state)
{
    struct forward *f;
    struct spdy_client c;

    set_up(&f, &c);
    open_pair(&c, 1, "80", "0");
    open_pair(&c, 5, "65535", "1");
    assert_string_equal(events(f, &c), "C3:80 C7:65535 ");
    client_data(&c, 3, 0, "a", 1);
    client_data(&c, 7, 1, "b", 1);
    client_data(&c, 3, 1, NULL, 0);
    assert_string_equal(events(f, &c), "D3:a D7:b E7 E3 ");
    client_words(&c, 3, 2, 1, 5); /* an error stream: nobody minds */
    client_words(&c, 3, 2, 7, 5);
    assert_string_equal(events(f, &c), "G7 ");
    assert_int_equal(forward_write(f, 7, "x", 1), 0); /* thrown away */
    tear_down(f, &c);
}

static void old_clients_have_no_request_id(void **state)
{
    struct forward *f;
    struct spdy_client c;

    set_up(&f, &c);
    client_syn(&c, 1, 1, HEADERS("streamtype", "error", "port", "80"));
    client_syn(&c, 3, 0, HEADERS("streamtype", "data", "port", "80"));
    assert_string_equal(events(f, &c), "C3:80 ");
    tear_down(f, &c);
}

static const struct {
    const char *name;
    const char *const *headers;
} refused[] = {
    {"no_port", (const char *const[]){"streamtype", "error", "requestid", "1", NULL}},
    {"port_zero", (const char *const[]){"streamtype", "error", "port", "0", NULL}},
    {"port_out_of_range", (const char *const[]){"streamtype", "error", "port", "65536", NULL}},
    {"port_that_is_none", (const char *const[]){"streamtype", "error", "port", "http", NULL}},
    {"port_with_sign", (const char *const[]){"streamtype", "error", "port", "+80", NULL}},
    {"port_too_long", (const char *const[]){"streamtype", "error", "port", "00000000080", NULL}},
    {"unknown_type", (const char *const[]){"streamtype", "stdin", "port", "80", NULL}},
    {"no_type", (const char *const[]){"port", "80", NULL}},
    {"empty_request",
     (const char *const[]){"streamtype", "error", "port", "80", "requestid", "", NULL}},
    {"long_request",
     (const char *const[]){"streamtype", "error", "port", "80", "requestid",
                           "0123456789012345678901234567890123456789012345678901234567890123456789",
                           NULL}},
};

static void bad_streams_are_refused_alone(void **state)
{
    struct forward *f;
    struct spdy_client c;
    uint32_t id = 1;

    set_up(&f, &c);
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++, id += 2) {
        const uint8_t *out;
        size_t n;

        print_message("# %s\n", refused[i].name);
        client_syn(&c, id, 0, refused[i].headers);
        assert_string_equal(events(f, &c), "");
        n = forward_out(f, &out);
        assert_int_equal(n, 16);
        assert_int_equal(be32_load(out), 0x80030003);
        assert_int_equal(be32_load(out + 8), id);
        forward_out_done(f, n);
    }
    client_syn(&c, id, 0, STREAM("error", "80", "a"));
    client_syn(&c, id + 2, 0, STREAM("error", "80", "a")); /* twice */
    client_syn(&c, id + 4, 0, STREAM("data", "81", "a"));  /* another port */
    client_syn(&c, id + 6, 0, STREAM("data", "80", "a"));
    assert_non_null(strstr(events(f, &c), ":80 "));
    tear_down(f, &c);
}

static void a_pair_that_stays_half_is_dropped(void **state)
{
    struct forward *f;
    struct spdy_client c;
    const uint8_t *out;
    size_t n;

    set_up(&f, &c);
    assert_int_equal(forward_tick(f, NOW), UINT64_MAX);
    open_pair(&c, 1, "80", "0");
    client_syn(&c, 5, 0, STREAM("error", "80", "1"));
    assert_string_equal(events(f, &c), "C3:80 ");
    assert_int_equal(forward_tick(f, NOW), NOW + FORWARD_PAIR_NS);
    forward_out_done(f, forward_out(f, &out));
    assert_int_equal(forward_tick(f, NOW + FORWARD_PAIR_NS), UINT64_MAX);
    n = forward_out(f, &out);
    assert_int_equal(n, 16);
    assert_int_equal(be32_load(out + 8), 5);
    client_syn(&c, 7, 0, STREAM("data", "80", "1")); /* too late: a new half */
    assert_string_equal(events(f, &c), "");
    tear_down(f, &c);
}

static void data_before_the_error_stream_resets_the_pair(void **state)
{
    struct forward *f;
    struct spdy_client c;

    set_up(&f, &c);
    client_syn(&c, 1, 0, STREAM("data", "80", "0"));
    client_data(&c, 1, 0, "x", 1);
    client_syn(&c, 3, 0, STREAM("error", "80", "0"));
    assert_string_equal(events(f, &c), "");
    tear_down(f, &c);
}

static void failures_are_told_on_the_error_stream(void **state)
{
    struct forward *f;
    struct spdy_client c;
    const uint8_t *out;
    size_t n;

    set_up(&f, &c);
    open_pair(&c, 1, "80", "0");
    open_pair(&c, 5, "81", "1");
    assert_string_equal(events(f, &c), "C3:80 C7:81 ");
    forward_out_done(f, forward_out(f, &out));
    forward_fail(f, 3, "refused");
    n = forward_out(f, &out);
    assert_int_equal(n, 8 + 7 + 8 + 16);
    assert_memory_equal(out, "\0\0\0\1\0\0\0\7refused\0\0\0\1\1\0\0\0\x80\3\0\3", 27);
    forward_out_done(f, n);
    client_data(&c, 3, 0, "more", 4);
    client_data(&c, 7, 0, "y", 1);
    assert_string_equal(events(f, &c), "D7:y ");
    forward_close(f, 7); /* both streams half-closed, no reset */
    n = forward_out(f, &out);
    assert_int_equal(n, 16);
    assert_memory_equal(out, "\0\0\0\7\1\0\0\0\0\0\0\5\1\0\0\0", 16);
    client_data(&c, 7, 1, "late", 4);
    assert_string_equal(events(f, &c), "");
    tear_down(f, &c);
}

static void pairs_have_a_limit(void **state)
{
    struct forward *f;
    struct spdy_client c;
    unsigned n = 0;

    set_up(&f, &c);
    for (uint32_t i = 0; i < FORWARD_PAIRS_MAX + 50; i++) {
        char request[16];

        (void)snprintf(request, sizeof(request), "%u", i);
        open_pair(&c, 4 * i + 1, "80", request);
        n += events(f, &c)[0] == 'C';
    }
    assert_int_equal(n, FORWARD_PAIRS_MAX);
    tear_down(f, &c);
}

/* The same bytes, in messages of any size. */
static void websocket_carries_spdy(void **state)
{
    for (size_t piece = 1; piece < 120; piece += 9) {
        struct forward *f;
        struct spdy_client c;
        struct buf in;
        const uint8_t *out;

        client_init(&c, true);
        assert_int_equal(forward_new(&(struct upgrade){.wire = UPGRADE_WEBSOCKET}, NULL, 0, &f), 0);
        open_pair(&c, 1, "80", "0");
        client_data(&c, 3, 1, "h", 1);
        buf_init(&in, 65536);
        for (size_t at = 0; at < c.out.used; at += piece) {
            size_t n = min_of(piece, c.out.used - at);
            uint8_t head[6] = {0x82, (uint8_t)(0x80 | n)};

            assert_int_equal(buf_append(&in, head, 6), 0);
            assert_int_equal(buf_append(&in, c.out.data + at, n), 0);
        }
        assert_int_equal(forward_feed(f, in.data, in.used), 0);
        assert_string_equal(take(f), "C3:80 D3:h E3 ");
        assert_int_equal(forward_write(f, 3, "abc", 3), 0);
        assert_true(forward_out(f, &out) > 11);
        assert_int_equal(out[0], 0x82);
        assert_memory_equal(out + 2, "\x80\3\0\2", 4);
        assert_int_equal(forward_feed(f, "\x88\x80\0\0\0\0", 6), 0);
        assert_string_equal(take(f), "L ");
        buf_done(&in);
        tear_down(f, &c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_carry_their_own_bytes),
        cmocka_unit_test(old_clients_have_no_request_id),
        cmocka_unit_test(bad_streams_are_refused_alone),
        cmocka_unit_test(a_pair_that_stays_half_is_dropped),
        cmocka_unit_test(data_before_the_error_stream_resets_the_pair),
        cmocka_unit_test(failures_are_told_on_the_error_stream),
        cmocka_unit_test(pairs_have_a_limit),
        cmocka_unit_test(websocket_carries_spdy),
    };
    return cmocka_run_group_tests_name("forward", tests, NULL, NULL) != 0;
}
