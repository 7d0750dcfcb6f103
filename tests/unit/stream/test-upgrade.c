/* SPDX-License-Identifier: Apache-2.0 */
/* stream: the heads of requests, and what an upgrade is answered with. */
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "lib/test.h"
#include "stream/upgrade.h"

#define HOST "Host: localhost\r\n"
#define UP "Connection: Upgrade\r\n"
#define SPDY "POST /exec/t HTTP/1.1\r\n" HOST UP "Upgrade: SPDY/3.1\r\n"
#define WS                                                                                   \
    "GET /exec/t HTTP/1.1\r\n" HOST UP "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" \
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#define END "\r\n"
#define V "X-Stream-Protocol-Version: "
#define P "Sec-WebSocket-Protocol: "

static const struct {
    const char *name, *in;
    ssize_t r; /* 1: a whole head */
} heads[] = {
    {"a_get", "GET / HTTP/1.1\r\n" HOST END, 1},
    {"no_end", "GET / HTTP/1.1\r\n" HOST, 0},
    {"no_body_said", "POST / HTTP/1.1\r\n" HOST "Content-Length: 0\r\n" END, 1},
    {"a_body", "POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n" END, -EBADMSG},
    {"two_lengths", "POST / HTTP/1.1\r\n" HOST "Content-Length: 0\r\nContent-Length: 0\r\n" END,
     -EBADMSG},
    {"chunks", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n" END, -EBADMSG},
    {"expects", "POST / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\n" END, -EBADMSG},
    {"no_host", "GET / HTTP/1.1\r\n" END, -EBADMSG},
    {"two_hosts", "GET / HTTP/1.1\r\n" HOST HOST END, -EBADMSG},
    {"http_1_0", "GET / HTTP/1.0\r\n" HOST END, -EBADMSG},
    {"http_2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", -EBADMSG},
    {"no_version", "GET /\r\n" HOST END, -EBADMSG},
    {"two_blanks", "GET  / HTTP/1.1\r\n" HOST END, -EBADMSG},
    {"absolute_target", "GET http://a/ HTTP/1.1\r\n" HOST END, -EBADMSG},
    {"eight_bit_target", "GET /\xc3\xa4 HTTP/1.1\r\n" HOST END, -EBADMSG},
    {"a_method_that_is_none", "G(T / HTTP/1.1\r\n" HOST END, -EBADMSG},
    {"a_folded_line", "GET / HTTP/1.1\r\n" HOST " more\r\n" END, -EBADMSG},
    {"blank_before_colon", "GET / HTTP/1.1\r\n" HOST "A : b\r\n" END, -EBADMSG},
    {"no_colon", "GET / HTTP/1.1\r\n" HOST "A\r\n" END, -EBADMSG},
    {"no_name", "GET / HTTP/1.1\r\n" HOST ": b\r\n" END, -EBADMSG},
    {"a_bare_line_feed", "GET / HTTP/1.1\r\n" HOST "A: b\nC: d\r\n" END, -EBADMSG},
    {"a_bare_carriage_return", "GET / HTTP/1.1\r\n" HOST "A: b\rC: d\r\n" END, -EBADMSG},
    {"a_control_character", "GET / HTTP/1.1\r\n" HOST "A: \x01\r\n" END, -EBADMSG},
    {"nothing_but_the_end", "\r\n\r\n", -EBADMSG},
};

static void heads_are_read_or_refused(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(heads); i++) {
        char *copy = str_dup(heads[i].in);
        struct http_head h;
        ssize_t r;

        print_message("# %s\n", heads[i].name);
        r = http_head_parse(copy, strlen(copy), &h);
        assert_int_equal(r, heads[i].r == 1 ? (ssize_t)strlen(heads[i].in) : heads[i].r);
        free(copy);
    }
}

static void fields_keep_case_and_lose_blanks(void **state)
{
    char in[] =
        "POST /a/b?c=d?e HTTP/1.1\r\nHost: x\r\nA:\t  one two \t\r\nB:\r\na: t,,H r\r\n\r\nrest";
    struct http_head h;
    const struct http_field *f;

    assert_int_equal(http_head_parse(in, sizeof(in) - 1, &h), sizeof(in) - 1 - 4);
    assert_string_equal(h.method, "POST");
    assert_string_equal(h.path, "/a/b");
    assert_string_equal(h.query, "c=d?e");
    f = http_head_next(&h, "a", NULL);
    assert_string_equal(f->value, "one two");
    f = http_head_next(&h, "A", f);
    assert_string_equal(f->value, "t,,H r");
    assert_null(http_head_next(&h, "A", f));
    assert_string_equal(http_head_next(&h, "b", NULL)->value, "");
    assert_true(http_head_has(&h, "a", "h"));
    assert_false(http_head_has(&h, "a", "o"));
}

/* A good head but for one field too many; its length. */
static size_t put_fields(char *to)
{
    struct buf b;
    size_t n;

    buf_init(&b, HTTP_HEAD_BYTES);
    assert_int_equal(buf_printf(&b, "GET / HTTP/1.1\r\nHost: a\r\n"), 0);
    for (int i = 0; i < HTTP_FIELDS_MAX; i++)
        assert_int_equal(buf_printf(&b, "A%d: b\r\n", i), 0);
    assert_int_equal(buf_append(&b, "\r\n", 2), 0);
    n = b.used;
    memcpy(to, b.data, n);
    buf_done(&b);
    return n;
}

static void heads_have_a_limit(void **state)
{
    char *in = malloc(HTTP_HEAD_BYTES * 2);
    struct http_head h;
    size_t n;

    assert_non_null(in);
    memset(in, 'a', HTTP_HEAD_BYTES * 2);
    memcpy(in, "GET / HTTP/1.1\r\nHost: ", 22);
    assert_int_equal(http_head_parse(in, HTTP_HEAD_BYTES - 1, &h), 0);
    assert_int_equal(http_head_parse(in, HTTP_HEAD_BYTES, &h), -EMSGSIZE);
    memcpy(in + HTTP_HEAD_BYTES, "\r\n\r\n", 4); /* behind the limit */
    assert_int_equal(http_head_parse(in, HTTP_HEAD_BYTES * 2, &h), -EMSGSIZE);
    n = put_fields(in);
    assert_int_equal(http_head_parse(in, n, &h), -EMSGSIZE);
    free(in);
}

static const struct {
    const char *name, *in;
    enum upgrade_purpose purpose;
    int status;
    struct upgrade u;
    const char *contains; /* the answer does */
} rows[] = {
    {"spdy_v4",
     SPDY V "v4.channel.k8s.io\r\n" END,
     UPGRADE_REMOTE,
     101,
     {UPGRADE_SPDY, 4, false},
     "\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n"},
    {"first_of_the_clients_list",
     SPDY V "v5.channel.k8s.io\r\n" V "v2.channel.k8s.io, v4.channel.k8s.io\r\n" END,
     UPGRADE_REMOTE,
     101,
     {UPGRADE_SPDY, 2, false},
     "v2.channel.k8s.io\r\n"},
    {"spdy_v1",
     SPDY V "channel.k8s.io\r\n" END,
     UPGRADE_REMOTE,
     101,
     {UPGRADE_SPDY, 1, false},
     "Upgrade: SPDY/3.1\r\n"},
    {"any_case",
     "POST / HTTP/1.1\r\n" HOST "connection: keep-alive, UPGRADE\r\nupgrade: spdy/3.1\r\n"
     "x-stream-protocol-version: V4.Channel.k8s.io\r\n" END,
     UPGRADE_REMOTE,
     101,
     {UPGRADE_SPDY, 4, false},
     "101"},
    {"spdy_get",
     "GET / HTTP/1.1\r\n" HOST UP "Upgrade: SPDY/3.1\r\n" V "v4.channel.k8s.io\r\n" END,
     UPGRADE_REMOTE,
     101,
     {UPGRADE_SPDY, 4, false},
     "101"},
    {"no_version", SPDY END, UPGRADE_REMOTE, 400, {0}, "X-Stream-Protocol-Version"},
    {"unknown_version",
     SPDY V "v5.channel.k8s.io\r\n" END,
     UPGRADE_REMOTE,
     403,
     {0},
     "\r\nX-Accepted-Stream-Protocol-Versions: v4.channel.k8s.io\r\n"},
    {"forward",
     SPDY V "portforward.k8s.io\r\n" END,
     UPGRADE_FORWARD,
     101,
     {UPGRADE_SPDY, 0, false},
     "portforward.k8s.io\r\n"},
    {"forward_with_a_remote_version",
     SPDY V "v4.channel.k8s.io\r\n" END,
     UPGRADE_FORWARD,
     403,
     {0},
     "portforward.k8s.io"},
    {"put",
     "PUT / HTTP/1.1\r\n" HOST UP "Upgrade: SPDY/3.1\r\n" END,
     UPGRADE_REMOTE,
     405,
     {0},
     "Allow: GET, POST\r\n"},
    {"no_upgrade",
     "GET / HTTP/1.1\r\n" HOST END,
     UPGRADE_REMOTE,
     400,
     {0},
     "Connection: close\r\n"},
    {"h2c",
     "GET / HTTP/1.1\r\n" HOST UP "Upgrade: h2c\r\n" END,
     UPGRADE_REMOTE,
     426,
     {0},
     "Upgrade: SPDY/3.1, websocket\r\n"},
    {"websocket_v5",
     WS P "v5.channel.k8s.io\r\n" END,
     UPGRADE_REMOTE,
     101,
     {UPGRADE_WEBSOCKET, 5, false},
     "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: "
     "v5.channel.k8s.io\r\n\r\n"},
    {"websocket_base64",
     WS P "foo, v4.base64.channel.k8s.io\r\n" END,
     UPGRADE_REMOTE,
     101,
     {UPGRADE_WEBSOCKET, 4, true},
     "101"},
    {"websocket_without_protocol",
     WS END,
     UPGRADE_REMOTE,
     101,
     {UPGRADE_WEBSOCKET, 1, false},
     "+xOo=\r\n\r\n"},
    {"websocket_unknown", WS P "foo\r\n" END, UPGRADE_REMOTE, 403, {0}, "v5.channel.k8s.io"},
    {"websocket_tunnel",
     WS P "SPDY/3.1+portforward.k8s.io\r\n" END,
     UPGRADE_FORWARD,
     101,
     {UPGRADE_WEBSOCKET, 0, false},
     "Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n"},
    {"websocket_forward_unknown",
     WS P "v5.channel.k8s.io\r\n" END,
     UPGRADE_FORWARD,
     403,
     {0},
     "SPDY/3.1+portforward.k8s.io"},
    {"websocket_forward_without_protocol",
     WS END,
     UPGRADE_FORWARD,
     101,
     {UPGRADE_PORTS, 0, false},
     "+xOo=\r\n\r\n"},
    {"websocket_ports",
     WS P "v4.channel.k8s.io\r\n" END,
     UPGRADE_FORWARD,
     101,
     {UPGRADE_PORTS, 0, false},
     "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n"},
    {"websocket_ports_base64",
     WS P "v4.base64.channel.k8s.io\r\n" END,
     UPGRADE_FORWARD,
     101,
     {UPGRADE_PORTS, 0, true},
     "Sec-WebSocket-Protocol: v4.base64.channel.k8s.io\r\n"},
    {"websocket_tunnel_or_ports",
     WS P "portforward.k8s.io, v4.channel.k8s.io\r\n" END,
     UPGRADE_FORWARD,
     101,
     {UPGRADE_PORTS, 0, false},
     "Sec-WebSocket-Protocol: portforward.k8s.io\r\n"},
    {"websocket_post",
     "POST / HTTP/1.1\r\n" HOST UP "Upgrade: websocket\r\n" END,
     UPGRADE_REMOTE,
     400,
     {0},
     "GET"},
    {"websocket_version",
     "GET / HTTP/1.1\r\n" HOST UP "Upgrade: websocket\r\nSec-WebSocket-Version: 8\r\n" END,
     UPGRADE_REMOTE,
     426,
     {0},
     "Sec-WebSocket-Version: 13\r\n"},
    {"websocket_without_key",
     "GET / HTTP/1.1\r\n" HOST UP "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" END,
     UPGRADE_REMOTE,
     400,
     {0},
     "Sec-WebSocket-Key"},
    {"websocket_two_keys",
     WS "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" END,
     UPGRADE_REMOTE,
     400,
     {0},
     "Sec-WebSocket-Key"},
};

static void upgrades_are_answered(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(freep) char *copy = str_dup(rows[i].in), *text = NULL;
        struct upgrade u = {0};
        struct http_head h;
        struct buf out;

        print_message("# %s\n", rows[i].name);
        buf_init(&out, 8192);
        assert_true(http_head_parse(copy, strlen(copy), &h) > 0);
        assert_int_equal(upgrade_negotiate(&h, rows[i].purpose, &u, &out),
                         rows[i].status == 101 ? 0 : -EINVAL);
        text = buf_take_str(&out);
        assert_int_equal(strtol(text + strlen("HTTP/1.1 "), NULL, 10), rows[i].status);
        assert_non_null(strstr(text, rows[i].contains));
        if (rows[i].status == 101) {
            assert_int_equal(u.wire, rows[i].u.wire);
            assert_int_equal(u.version, rows[i].u.version);
            assert_int_equal(u.base64, rows[i].u.base64);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_are_read_or_refused),
        cmocka_unit_test(fields_keep_case_and_lose_blanks),
        cmocka_unit_test(heads_have_a_limit),
        cmocka_unit_test(upgrades_are_answered),
    };
    return cmocka_run_group_tests_name("upgrade", tests, NULL, NULL) != 0;
}
