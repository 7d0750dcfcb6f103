/* SPDX-License-Identifier: Apache-2.0 */
/* stream: the channels of a remote command over SPDY and WebSocket; status and resize messages. */
#include <string.h>

#include "base/checked.h"
#include "lib/spdy-frames.h"
#include "lib/test.h"
#include "stream/channels.h"
#include "stream/resize.h"
#include "stream/status.h"

static struct channels *new_channels(enum upgrade_wire wire, unsigned version, bool base64,
                                     bool tty)
{
    struct channels_config config = {
        .upgrade = {wire, version, base64}, .in = true, .out = true, .err = !tty, .tty = tty};
    struct channels *c;

    assert_int_equal(channels_new(&config, &c), 0);
    return c;
}

/* The events of what is fed, as text: "R" ready, "0:bytes" data, "E" end of stdin, "L" left; then the result. */
static const char *events(struct channels *c, const void *bytes, size_t len)
{
    static char text[256];
    struct channels_event ev;
    size_t at = 0;
    int r;

    memset(text, 0, sizeof(text));
    assert_int_equal(channels_feed(c, bytes, len), 0);
    while ((r = channels_next(c, &ev)) > 0) {
        assert_true(at + ev.len + 8 < sizeof(text));
        text[at++] = ev.type == CHANNELS_READY  ? 'R'
                     : ev.type == CHANNELS_DATA ? (char)('0' + ev.channel)
                     : ev.type == CHANNELS_EOF  ? 'E'
                                                : 'L';
        if (ev.type != CHANNELS_DATA)
            continue;
        text[at++] = ':';
        memcpy(text + at, ev.data, ev.len);
        at += ev.len;
    }
    if (r < 0)
        text[at] = '!';
    return text;
}

static const char *spdy_events(struct channels *c, struct spdy_client *p)
{
    const char *text = events(c, p->out.data, p->out.used);

    buf_clear(&p->out);
    return text;
}

#define T(name) HEADERS("streamtype", name)

static void spdy_is_ready_with_all_streams(void **state)
{
    struct channels *c = new_channels(UPGRADE_SPDY, 4, false, true);
    struct spdy_client p;
    const uint8_t *out;

    client_init(&p, true);
    client_syn(&p, 1, 0, T("error"));
    client_syn(&p, 3, 0, T("stdin"));
    client_syn(&p, 5, 0, T("stdout"));
    assert_string_equal(spdy_events(c, &p), "");
    client_syn(&p, 7, 0, T("stdout")); /* twice: refused, harms nobody */
    client_syn(&p, 9, 0, T("stderr")); /* not with a tty */
    client_syn(&p, 11, 0, T("what"));
    client_syn(&p, 13, 0, HEADERS("other", "stdin"));
    assert_string_equal(spdy_events(c, &p), "");
    client_syn(&p, 15, 0, T("resize"));
    assert_string_equal(spdy_events(c, &p), "R");
    client_data(&p, 3, 0, "ab", 2);
    client_data(&p, 15, 0, "{}", 2);
    client_data(&p, 5, 0, "nobody reads this", 17);
    client_data(&p, 3, 1, "c", 1);
    assert_string_equal(spdy_events(c, &p), "0:ab4:{}0:cE");
    channels_out_done(c, channels_out(c, &out));
    assert_int_equal(channels_write(c, CHANNEL_STDOUT, "x", 1), 0);
    assert_int_equal(channels_out(c, &out), 9);
    assert_memory_equal(out, "\0\0\0\5\0\0\0\1x", 9);
    channels_end(c, CHANNEL_STDOUT);
    assert_int_equal(channels_write(c, CHANNEL_STDOUT, "y", 1), 0); /* thrown away */
    assert_int_equal(channels_out(c, &out), 17);
    channels_free(c);
    client_done(&p);
}

static void spdy_v2_has_no_resize(void **state)
{
    struct channels *c = new_channels(UPGRADE_SPDY, 2, false, true);
    struct spdy_client p;

    client_init(&p, true);
    client_syn(&p, 1, 0, T("error"));
    client_syn(&p, 3, 1, T("stdin")); /* over from the beginning */
    client_syn(&p, 5, 0, T("stdout"));
    assert_string_equal(spdy_events(c, &p), "RE");
    channels_free(c);
    client_done(&p);
}

static void spdy_reset_of_stdin_is_its_end(void **state)
{
    struct channels *c = new_channels(UPGRADE_SPDY, 4, false, false);
    struct spdy_client p;

    client_init(&p, true);
    client_syn(&p, 1, 0, T("error"));
    client_syn(&p, 3, 0, T("stdin"));
    client_syn(&p, 5, 0, T("stdout"));
    client_syn(&p, 7, 0, T("stderr"));
    client_words(&p, 3, 2, 3, 5);
    client_words(&p, 3, 2, 5, 5);
    client_words(&p, 7, 2, 0, 0);
    assert_string_equal(spdy_events(c, &p), "RE");
    assert_int_equal(channels_write(c, CHANNEL_STDOUT, "x", 1), 0); /* nobody listens */
    channels_free(c);
    client_done(&p);
}

static void spdy_data_before_all_replies_is_refused(void **state)
{
    struct channels *c = new_channels(UPGRADE_SPDY, 4, false, false);
    struct spdy_client p;

    client_init(&p, true);
    client_syn(&p, 1, 0, T("error"));
    client_syn(&p, 3, 0, T("stdin"));
    client_data(&p, 3, 0, "x", 1);
    assert_string_equal(spdy_events(c, &p), "!");
    channels_free(c);
    client_done(&p);
}

/* ---- WebSocket */

static size_t ws(uint8_t *to, uint8_t opcode, const void *bytes, size_t len)
{
    assert_true(len < 126);
    to[0] = 0x80 | opcode;
    to[1] = (uint8_t)(0x80 | len);
    memset(to + 2, 0, 4); /* a mask of zeros */
    memcpy(to + 6, bytes, len);
    return 6 + len;
}

static const struct {
    const char *name;
    unsigned version;
    bool base64;
    uint8_t opcode;
    const char *in;
    size_t len;
    const char *events;
} messages[] = {
    {"stdin", 4, false, 2, "\0ab", 3, "0:ab"},
    {"stdin_as_text", 4, false, 1, "\0ab", 3, "0:ab"},
    {"resize", 4, false, 2, "\4{}", 3, "4:{}"},
    {"empty_message", 4, false, 2, "", 0, ""},
    {"empty_stdin", 4, false, 2, "\0", 1, ""},
    {"stdout_from_the_client", 4, false, 2, "\1x", 2, ""},
    {"unknown_channel", 4, false, 2, "\x63x", 2, ""},
    {"half_close", 5, false, 2, "\xff\0", 2, "E"},
    {"half_close_of_another", 5, false, 2, "\xff\1", 2, ""},
    {"half_close_of_nothing", 5, false, 2, "\xff", 1, "!"},
    {"v4_has_no_half_close", 4, false, 2, "\xff\0", 2, ""},
    {"base64", 4, true, 1, "0YWI=", 5, "0:ab"},
    {"base64_of_one", 4, true, 1, "0YQ==", 5, "0:a"},
    {"base64_of_three", 4, true, 1, "0YWJj", 5, "0:abc"},
    {"base64_of_nothing", 4, true, 1, "0", 1, ""},
    {"base64_cut", 4, true, 1, "0YWI", 4, "!"},
    {"base64_of_something_else", 4, true, 1, "0Y*I=", 5, "!"},
    {"close", 4, false, 8, "\3\xe8", 2, "L"},
    {"ping", 4, false, 9, "x", 1, ""},
};

static void websocket_messages_are_channels(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(messages); i++) {
        struct channels *c =
            new_channels(UPGRADE_WEBSOCKET, messages[i].version, messages[i].base64, true);
        uint8_t frame[200];

        print_message("# %s\n", messages[i].name);
        assert_string_equal(events(c, "", 0), "R");
        assert_string_equal(
            events(c, frame, ws(frame, messages[i].opcode, messages[i].in, messages[i].len)),
            messages[i].events);
        channels_free(c);
    }
}

static void websocket_begins_with_an_empty_message(void **state)
{
    struct channels *c = new_channels(UPGRADE_WEBSOCKET, 5, false, false);
    const uint8_t *out;

    (void)events(c, "", 0);
    assert_int_equal(channels_write(c, CHANNEL_STDERR, "x", 1), 0);
    channels_end(c, CHANNEL_STDERR);
    assert_int_equal(channels_write(c, CHANNEL_ERROR, "{}", 2), 0);
    channels_finish(c);
    assert_int_equal(channels_out(c, &out), 3 + 4 + 5 + 4);
    assert_memory_equal(out, "\x82\1\1\x82\2\2x\x82\3\3{}\x88\2\3\xe8", 16);
    channels_free(c);
    c = new_channels(UPGRADE_WEBSOCKET, 4, true, false);
    (void)events(c, "", 0);
    assert_int_equal(channels_write(c, CHANNEL_STDOUT, "ab", 2), 0);
    assert_int_equal(channels_out(c, &out), 3 + 7);
    assert_memory_equal(out, "\x81\1\x31\x81\5\x31YWI=", 10);
    channels_free(c);
}

static void a_client_that_does_not_read_stops_the_writer(void **state)
{
    static const uint8_t bytes[CHANNELS_WRITE_BYTES];
    static const struct upgrade all[] = {
        {UPGRADE_SPDY, 4, false}, {UPGRADE_WEBSOCKET, 5, false}, {UPGRADE_WEBSOCKET, 4, true}};

    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        struct channels *c = new_channels(all[i].wire, all[i].version, all[i].base64, false);
        struct spdy_client p;
        const uint8_t *out;
        int n = 0, r;

        client_init(&p, true);
        client_syn(&p, 1, 0, T("error"));
        client_syn(&p, 3, 0, T("stdin"));
        client_syn(&p, 5, 0, T("stdout"));
        client_syn(&p, 7, 0, T("stderr"));
        if (all[i].wire == UPGRADE_WEBSOCKET)
            buf_clear(&p.out);
        assert_string_equal(spdy_events(c, &p), "R");
        while ((r = channels_write(c, CHANNEL_STDOUT, bytes, sizeof(bytes))) == 0 && n < 100)
            n++;
        assert_int_equal(r, -EAGAIN);
        assert_false(channels_want_input(c));
        channels_out_done(c, channels_out(c, &out));
        assert_int_equal(channels_write(c, CHANNEL_STDOUT, bytes, sizeof(bytes)), 0);
        assert_true(channels_want_input(c));
        channels_free(c);
        client_done(&p);
    }
}

/* ---- messages */

static const struct {
    const char *name;
    unsigned version;
    int code; /* -1: failure */
    const char *want;
} statuses[] = {
    {"success", 4, 0, "{\"metadata\":{},\"status\":\"Success\"}"},
    {"code", 5, 7,
     "{\"metadata\":{},\"status\":\"Failure\",\"message\":\"command terminated with non-zero exit "
     "code: 7\","
     "\"reason\":\"NonZeroExitCode\",\"details\":{\"causes\":[{\"reason\":\"ExitCode\",\"message\":"
     "\"7\"}]}}"},
    {"failure", 4, -1,
     "{\"metadata\":{},\"status\":\"Failure\",\"message\":\"a \\\"b\\\" "
     "?\",\"reason\":\"InternalError\",\"code\":500}"},
    {"old_success", 3, 0, ""},
    {"old_code", 3, 7, "command terminated with non-zero exit code: 7"},
    {"old_failure", 1, -1, "a \"b\" ?"},
};

static void status_tells_the_exit(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(statuses); i++) {
        struct buf out;

        print_message("# %s\n", statuses[i].name);
        buf_init(&out, 8192);
        if (statuses[i].code < 0)
            assert_int_equal(status_failure(&out, statuses[i].version, "a \"b\" \xff"), 0);
        else
            assert_int_equal(status_exit(&out, statuses[i].version, statuses[i].code), 0);
        assert_int_equal(out.used, strlen(statuses[i].want));
        if (out.used)
            assert_memory_equal(out.data, statuses[i].want, out.used);
        buf_done(&out);
    }
}

static const struct {
    const char *name, *in, *want; /* "columns x rows" each */
} sizes[] = {
    {"one", "{\"Width\":80,\"Height\":24}", "80x24 "},
    {"two", "{\"Width\":80,\"Height\":24}\n{\"Height\":1,\"Width\":65535}", "80x24 65535x1 "},
    {"zeros_are_ignored",
     "{\"Width\":0,\"Height\":24}{\"Width\":80,\"Height\":0}{\"Width\":1,\"Height\":2}", "1x2 "},
    {"too_large", "{\"Width\":65536,\"Height\":24}", ""},
    {"negative", "{\"Width\":-1,\"Height\":24}", ""},
    {"no_height", "{\"Width\":80}", ""},
    {"text", "{\"Width\":\"80\",\"Height\":24}", ""},
    {"no_object", "80x24{\"Width\":80,\"Height\":24}", ""},
    {"more_fields", "{\"Width\":80,\"Height\":24,\"X\":1}", "80x24 "},
    {"broken", "{\"Width\":80,\"Height\"}{\"Width\":80,\"Height\":24}", "80x24 "},
};

static void sizes_arrive_in_any_pieces(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        for (size_t piece = 1; piece < 60; piece++) {
            struct resize_reader r = {0};
            const uint8_t *p = (const uint8_t *)sizes[i].in;
            size_t len = strlen(sizes[i].in);
            char got[64] = "";

            while (len) {
                uint16_t columns, rows;
                bool is_size;
                size_t n = resize_feed(&r, p, min_of(piece, len), &is_size, &columns, &rows);

                if (is_size)
                    (void)snprintf(got + strlen(got), sizeof(got) - strlen(got), "%ux%u ", columns,
                                   rows);
                p += n;
                len -= n;
            }
            if (piece == 1)
                print_message("# %s\n", sizes[i].name);
            assert_string_equal(got, sizes[i].want);
        }
    }
}

static void an_endless_size_is_given_up(void **state)
{
    struct resize_reader r = {0};
    uint8_t bytes[1000];
    uint16_t columns, rows;
    bool is_size;

    memset(bytes, '{', sizeof(bytes));
    assert_int_equal(resize_feed(&r, bytes, sizeof(bytes), &is_size, &columns, &rows), 1000);
    assert_false(is_size);
    assert_int_equal(resize_feed(&r, (const uint8_t *)"{\"Width\":1,\"Height\":2}", 22, &is_size,
                                 &columns, &rows),
                     22);
    assert_false(is_size);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spdy_is_ready_with_all_streams),
        cmocka_unit_test(spdy_v2_has_no_resize),
        cmocka_unit_test(spdy_reset_of_stdin_is_its_end),
        cmocka_unit_test(spdy_data_before_all_replies_is_refused),
        cmocka_unit_test(websocket_messages_are_channels),
        cmocka_unit_test(websocket_begins_with_an_empty_message),
        cmocka_unit_test(a_client_that_does_not_read_stops_the_writer),
        cmocka_unit_test(status_tells_the_exit),
        cmocka_unit_test(sizes_arrive_in_any_pieces),
        cmocka_unit_test(an_endless_size_is_given_up),
    };
    return cmocka_run_group_tests_name("channels", tests, NULL, NULL) != 0;
}
